"""What `igr` takes of large scans and fine meshes: time and peak memory, a process for each row.

    python tests/benchmarks/bench_surface_scale.py [--points 100000 ...] [--resolutions 256 ...]

A scan is a torus without normals. *Ready* is the time until the first step can begin (normals,
neighbours and sides are found), *step* the median of 20 training steps of 4,096 points. Memory is
the peak of the process, less what it had with the scan alone; a mesh is that of `igr.koala`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
POINTS = (100_000, 1_000_000, 10_000_000)
RESOLUTIONS = (256, 512, 1024)


def peak() -> float:
    """Peak memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def train(points: int) -> dict:
    import numpy as np

    import zoo
    from zoo.data.shapes import torus

    scan = zoo.Scan(torus(points).points)
    model = zoo.create("igr")
    model.compile()
    before, start = peak(), time.perf_counter()
    batches = model.prepare(scan)
    ready = time.perf_counter() - start
    seconds = []
    for index in range(22):
        start = time.perf_counter()
        np.asarray(model.train_on_batch(batches[index][0]))
        seconds.append(time.perf_counter() - start)
    step = 1000 * statistics.median(seconds[2:])
    return {"ready": f"{ready:.1f} s", "step": f"{step:.0f} ms", "memory": peak() - before}


def mesh(resolution: int) -> dict:
    import zoo

    model = zoo.load("igr.koala")
    before, start = peak(), time.perf_counter()
    faces = len(model.mesh(resolution).faces)
    seconds = time.perf_counter() - start
    return {"faces": f"{faces:,}", "time": f"{seconds:.1f} s", "memory": peak() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, nargs="*", default=POINTS)
    parser.add_argument("--resolutions", type=int, nargs="*", default=RESOLUTIONS)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        kind, size = arguments.case
        print(json.dumps({"train": train, "mesh": mesh}[kind](int(size))))
        return
    for kind, sizes, header in (
        ("train", arguments.points, "| Points | Ready | Step | Memory |"),
        ("mesh", arguments.resolutions, "| Cells a side | Faces | Time | Memory |"),
    ):
        print(header + "\n| --- | --- | --- | --- |")
        for size in sizes:
            command = [sys.executable, __file__, "--case", kind, str(size)]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            *cells, memory = json.loads(found.stdout.splitlines()[-1]).values()
            print(f"| {size:,} | {' | '.join(cells)} | {memory:.2f} GiB |", flush=True)


if __name__ == "__main__":
    main()
