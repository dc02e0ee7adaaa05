"""Splatting and Chamfer distance, value and gradients, beside torch, as markdown tables.

    python tests/benchmarks/bench_splatting.py [--quick]

Every measurement runs in a process of its own, ours and torch's in turn, so that peak memory is
that of one method. "peak" is what the process needed beyond its imports and inputs, compilation
included.

torch splats as DiVRoC was published: the gradient of the sum of `grid_sample(X) * f` with respect
to an image X of zeros, kept differentiable. Its Chamfer distance is brute force in blocks, whose
gradients come from the nearest points. Brute force costs the same for every block, so that only
some blocks of queries are run and the time of all is extrapolated; the table says how many. The
last table shows how our time grows with the number of points.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

# It also makes the package of this checkout importable.
from bench_sampling import resident

METHODS = ("ours", "torch")
BLOCK = 1000
BLOCKS_RUN = 4


def inputs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds `[1, count, 3]` in [-0.95, 0.95], float32, on curved sheets plus noise."""
    rng = np.random.default_rng(0)
    clouds = []
    for _ in range(2):
        cloud = rng.uniform(-0.9, 0.9, (1, count, 3))
        cloud[..., 2] = 0.6 * np.sin(3 * cloud[..., 0]) * cloud[..., 1]
        cloud += rng.normal(scale=0.02, size=cloud.shape)
        clouds.append(np.clip(cloud, -0.95, 0.95).astype("float32"))
    return clouds[0], clouds[1]


def ours(kernel: str, count: int, size: int):
    """A function that runs one measurement to its end and returns the share of the work done."""
    import tensorflow as tf

    from zoo.losses import Chamfer
    from zoo.ops.splatting import splat, to_voxels

    first, second = map(tf.constant, inputs(count))
    values, shape, loss = tf.ones((1, count, 1)), (size,) * 3, Chamfer()

    @tf.function(autograph=False)
    def splatted(points, values):
        with tf.GradientTape() as tape:
            tape.watch([points, values])
            volume = splat(values, to_voxels(points, shape), shape)
        return volume, *tape.gradient(volume, [points, values], volume)

    @tf.function(autograph=False)
    def compared(first, second):
        with tf.GradientTape() as tape:
            tape.watch([first, second])
            value = loss(first, second)
        return value, *tape.gradient(value, [first, second])

    def measured() -> float:
        results = splatted(first, values) if kernel == "splat" else compared(first, second)
        for result in results:
            float(tf.reshape(result, [-1])[0])
        return 1.0

    return measured


def torch(kernel: str, count: int, size: int):
    """The same in torch."""
    import torch

    first, second = (torch.from_numpy(cloud) for cloud in inputs(count))
    if kernel == "splat":
        grid = first[:, :, None, None].contiguous().requires_grad_()
        values = torch.ones(1, 1, count, 1, 1).requires_grad_()

        def measured() -> float:
            grid.grad = values.grad = None
            image = torch.zeros(1, 1, size, size, size, requires_grad=True)
            sampled = torch.nn.functional.grid_sample(image, grid, align_corners=False)
            (volume,) = torch.autograd.grad((sampled * values).sum(), image, create_graph=True)
            volume.backward(volume.detach())
            float(grid.grad.flatten()[0]), float(values.grad.flatten()[0])
            return 1.0

        return measured

    first, second = first[0].requires_grad_(), second[0].requires_grad_()

    def one_way(queries, points, starts):
        total = 0.0
        for start in starts:
            block = queries[start : start + BLOCK]
            with torch.no_grad():
                nearest = torch.cdist(block, points).argmin(1)
            total = total + (block - points[nearest]).square().sum()
        (total / len(queries)).backward()

    def measured() -> float:
        first.grad = second.grad = None
        starts = range(0, count, BLOCK)[:BLOCKS_RUN]
        one_way(first, second, starts)
        one_way(second, first, starts)
        return min(len(starts) * BLOCK / count, 1.0)

    return measured


def measure(method: str, kernel: str, count: int, size: int, repeats: int) -> dict:
    """Seconds of every repeat, the share of the work these are, and peak memory in MiB."""
    function = {"ours": ours, "torch": torch}[method](kernel, count, size)
    before = resident()
    for _ in range(2):
        share = function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append((time.perf_counter() - start) / share)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": seconds, "share": share, "peak": peak / 1024}


def in_process(method: str, kernel: str, count: int, size: int, repeats: int) -> dict:
    """`measure` in a process of its own."""
    case = [method, kernel, str(count), str(size), str(repeats)]
    command = [sys.executable, __file__, "--measure", *case]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"{' '.join(case)} failed:\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


def median(runs: list[dict]) -> float:
    return statistics.median(second for run in runs for second in run["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few points, few repeats")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        method, kernel, *numbers = arguments.measure
        print(json.dumps(measure(method, kernel, *map(int, numbers))))
        return
    repeats, rounds = (5, 1) if arguments.quick else (7, 2)
    cases = [("splat", 8_192, 64), ("splat", 100_000, 128), ("splat", 1_000_000, 128)]
    cases += [("chamfer", 8_192, 0), ("chamfer", 100_000, 0)]
    counts = [10_000, 30_000, 100_000, 300_000, 1_000_000]
    if arguments.quick:
        cases, counts = [cases[0], cases[3]], counts[:2]

    print(
        "| kernel, gradients | ours s | torch s | torch / ours | ours peak MiB | torch peak MiB |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for kernel, count, size in cases:
        runs = {method: [] for method in METHODS}
        for _ in range(rounds):
            for method in METHODS:
                runs[method].append(in_process(method, kernel, count, size, repeats))
        seconds = {method: median(runs[method]) for method in METHODS}
        peaks = {method: max(run["peak"] for run in runs[method]) for method in METHODS}
        share = runs["torch"][0]["share"]
        where = f"{count} points" + (f" into {size}^3" if size else "")
        note = "" if share == 1 else f" (from {share:.0%} of the blocks)"
        print(
            f"| {kernel}, {where} | {seconds['ours']:.4f} | {seconds['torch']:.4f}{note} "
            f"| {seconds['torch'] / seconds['ours']:.1f} "
            f"| {peaks['ours']:.0f} | {peaks['torch']:.0f} |",
            flush=True,
        )

    print("\n| points | splat into 128^3 s | Chamfer s |")
    print("| ---: | ---: | ---: |")
    for count in counts:
        row = [in_process("ours", kernel, count, 128, 5) for kernel in ("splat", "chamfer")]
        print(f"| {count} | {median(row[:1]):.4f} | {median(row[1:]):.4f} |", flush=True)


if __name__ == "__main__":
    main()
