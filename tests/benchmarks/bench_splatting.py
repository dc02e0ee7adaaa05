"""Splatting and Chamfer distance, value and gradients, beside torch, as markdown tables.

    python tests/benchmarks/bench_splatting.py [--quick] [--figure PNG]

Every measurement runs in a process of its own, ours and torch's in turn, so that peak memory is
that of one method. "peak" is what the process needed beyond its imports and inputs, compilation
included. Our functions are graphs, as in a training step on a CPU; "splat, XLA" is one whose whole
step XLA compiles, as `fit(jit_compile=True)` does.

torch splats as DiVRoC was published: the gradient of the sum of `grid_sample(X) * f` with respect
to an image X of zeros, kept differentiable. Its Chamfer distance is brute force in blocks, whose
gradients come from the nearest points. Brute force costs the same for every block, so that only
some blocks of queries are run and the time of all is extrapolated; the table says how many.

The last table, the straight lines through it and the figure show how time and memory grow with the
number of points.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

# It also makes the package of this checkout importable.
from bench_sampling import resident
from matplotlib.figure import Figure

from zoo.io import written_whole

METHODS = ("ours", "torch")
SPLATS = ("splat", "splat, XLA")
BLOCK = 1000
BLOCKS_RUN = 4

# A measurement is repeated for at least so many seconds.
ENOUGH = 0.5

# What grows, with the label and the colour of its line.
GROWTH = {
    ("ours", "splat"): ("splat into 128³", "#0072b2"),
    ("ours", "chamfer"): ("Chamfer, exact", "#d55e00"),
    ("torch", "chamfer"): (
        f"Chamfer, brute force\nin torch, extrapolated\nfrom {BLOCKS_RUN} blocks of {BLOCK}",
        "#777777",
    ),
}
# Beyond, a single block takes gigabytes.
MOST_BRUTE_FORCE = 300_000


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

    @tf.function(autograph=False, jit_compile=kernel == "splat, XLA")
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
        results = splatted(first, values) if kernel in SPLATS else compared(first, second)
        # Read by numpy: TensorFlow's reshape and slice of three results take half a millisecond.
        for result in results:
            float(np.asarray(result).flat[0])
        return 1.0

    return measured


def torch(kernel: str, count: int, size: int):
    """The same in torch."""
    import torch

    first, second = (torch.from_numpy(cloud) for cloud in inputs(count))
    if kernel in SPLATS:
        grid = first[:, :, None, None].contiguous().requires_grad_()
        values = torch.ones(1, 1, count, 1, 1).requires_grad_()

        def measured() -> float:
            grid.grad = values.grad = None
            image = torch.zeros(1, 1, size, size, size, requires_grad=True)
            sampled = torch.nn.functional.grid_sample(image, grid, align_corners=False)
            (volume,) = torch.autograd.grad((sampled * values).sum(), image, create_graph=True)
            volume.backward(volume.detach())
            for result in (volume, grid.grad, values.grad):
                float(result.detach().flatten()[0])
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
    """Seconds of every repeat, the share of the work that was done, and peak memory in MiB."""
    function = {"ours": ours, "torch": torch}[method](kernel, count, size)
    before = resident()
    for _ in range(2):
        share = function()
    seconds = []
    while len(seconds) < repeats or sum(seconds) * share < ENOUGH:
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


def line(counts: list[int], values: list[float], unit: str) -> str:
    """The straight line of least squares, and how much of the variation it explains."""
    slope, start = np.polyfit(counts, values, 1)
    rest = np.subtract(values, start + slope * np.array(counts))
    explained = 1 - np.sum(rest**2) / np.sum((values - np.mean(values)) ** 2)
    return f"{start:.3g} {unit} + {1e6 * slope:.3g} {unit} per million, R^2 = {explained:.4f}"


def compare(cases: list[tuple[str, int, int]], repeats: int, rounds: int) -> None:
    """Prints the table of ours beside torch's."""
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
            f"| {kernel}, {where} | {seconds['ours']:.5f} | {seconds['torch']:.5f}{note} "
            f"| {seconds['torch'] / seconds['ours']:.1f} "
            f"| {peaks['ours']:.0f} | {peaks['torch']:.0f} |",
            flush=True,
        )


def grow(counts: list[int]) -> dict:
    """Prints how time and memory grow, and returns the runs of each of `GROWTH`, by count."""
    print("\n| points | splat into 128^3 s | MiB | Chamfer s | MiB | brute force s |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    runs = {case: {} for case in GROWTH}
    for count in counts:
        for method, kernel in GROWTH:
            if method == "ours":
                run = in_process(method, kernel, count, 128, 5)
            elif count <= MOST_BRUTE_FORCE:
                run = in_process(method, kernel, count, 128, 1)
            else:
                continue
            runs[method, kernel][count] = run
        splat, exact, brute = (every.get(count) for every in runs.values())
        print(
            f"| {count} | {median([splat]):.4f} | {splat['peak']:.0f} "
            f"| {median([exact]):.4f} | {exact['peak']:.0f} "
            f"| {f'{median([brute]):.1f}' if brute else ''} |",
            flush=True,
        )
    print()
    for kernel in ("splat", "chamfer"):
        ours = runs["ours", kernel].values()
        print(f"{kernel}, time: {line(counts, [median([run]) for run in ours], 's')}")
        print(f"{kernel}, peak: {line(counts, [run['peak'] for run in ours], 'MiB')}")
    return runs


def draw(runs: dict, path: Path) -> None:
    """Draws the times of `grow` as a PNG."""
    figure = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    labels = {"xytext": (7, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
    labels["bbox"] = {"color": "white", "pad": 1}
    for case, (label, colour) in GROWTH.items():
        counts = list(runs[case])
        seconds = [median([run]) for run in runs[case].values()]
        axes.plot(counts, seconds, "o-", color=colour, markersize=4)
        axes.annotate(label, (counts[-1], seconds[-1]), color=colour, **labels)
    ends = np.array([counts[0], max(runs["ours", "splat"])])
    proportional = 0.3 * median([runs["ours", "splat"][ends[1]]]) * ends / ends[1]
    axes.plot(ends, proportional, "--", color="black", linewidth=1)
    axes.annotate("proportional to N", (ends[1], proportional[1]), **labels)
    axes.set(xscale="log", yscale="log", xlabel="points N", ylabel="time of value and gradients, s")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    with written_whole(path) as partial:
        figure.savefig(partial, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few points, few repeats")
    parser.add_argument("--figure", type=Path, help="the PNG of the growth to write")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        method, kernel, *numbers = arguments.measure
        print(json.dumps(measure(method, kernel, *map(int, numbers))))
        return
    sizes = [(8_192, 64), (100_000, 128), (1_000_000, 128)]
    clouds = [8_192, 100_000]
    counts = [10_000, 30_000, 100_000, 300_000, 1_000_000]
    repeats, rounds = 7, 2
    if arguments.quick:
        sizes, clouds, counts, repeats, rounds = sizes[:1], clouds[:1], counts[:3], 5, 1
    cases = [(kernel, *size) for size in sizes for kernel in SPLATS]
    compare(cases + [("chamfer", count, 0) for count in clouds], repeats, rounds)
    runs = grow(counts)
    if arguments.figure:
        draw(runs, arguments.figure)


if __name__ == "__main__":
    main()
