"""DIRV-Net: training steps in graph mode and op by op, and inference of a volume.

    python tests/benchmarks/bench_dirvnet.py [--quick]

Every row runs in a process of its own. "peak" is what the process needed beyond its imports and
inputs, compilation included; "first" is the first call, which compiles.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

# It also makes the package of this checkout importable.
from bench_sampling import resident

ROWS = ("train, graph", "train, eager", "infer 3D, untrained", "infer 3D, hippocampus3d")


def measure(row: str, quick: bool) -> dict:
    """Seconds of the first call and of later ones, and the peak of the memory."""
    import keras
    import numpy as np

    import zoo
    from zoo.data.chessboard import ChessboardPairs

    keras.utils.set_random_seed(0)
    if row.startswith("train"):
        batch = 10 if quick else 100
        images, displacement = ChessboardPairs(batch_size=batch, steps=1)[0]
        model = zoo.create("dirvnet", units=5)
        model.compile(run_eagerly=row.endswith("eager"), jit_compile=False)
        calls = 1 if row.endswith("eager") else 4

        def call():
            model.train_on_batch(images, displacement)
    else:
        size = 64 if quick else 128
        shape = (1, size, size, size, 1)
        noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        images = {"fixed": noise, "moving": noise[:, ::-1]}
        if row.endswith("untrained"):
            model = zoo.create("dirvnet", dims=3, filters=8, data_kernel=5, smoothness_kernel=3)
        else:
            model = zoo.load("dirvnet.hippocampus3d")
        calls = 2

        def call():
            model.predict(images, verbose=0)

    before = resident()
    times = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"first": times[0], "later": statistics.median(times[1:]), "peak": peak}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--measure", choices=ROWS, help="one row, as JSON")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.quick)))
        return
    print("| Task | First, s | Later, s | Peak, MiB |\n| --- | ---: | ---: | ---: |", flush=True)
    for row in ROWS:
        command = [sys.executable, __file__, "--measure", row] + ["--quick"] * options.quick
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"| {row} | {found['first']:.1f} | {found['later']:.2f} | {found['peak']:.0f} |")


if __name__ == "__main__":
    main()
