"""Warping and scaling-and-squaring beside torch, as a markdown table.

    python tests/benchmarks/bench_sampling.py [--quick]

Every measurement runs in a process of its own, ours and torch's in turn, so that peak memory is
that of one method. "peak" is what the process needed beyond its imports and inputs, compilation
included. torch's warp is `grid_sample` alone, on a normalised grid that was prepared beforehand;
ours starts from the displacement. Scaling and squaring in torch is VoxelMorph's formulation.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

STEPS = 7
CASES = ("warp", "warp, gradients", "exp", "exp, gradients")
METHODS = ("ours", "torch")


def smooth_field(shape: tuple[int, ...], largest: float) -> np.ndarray:
    """Random smooth displacement `[1, *shape, rank]`, float32, in voxels."""
    from scipy.ndimage import zoom

    generator = np.random.default_rng(0)
    field = np.empty((1, *shape, len(shape)), np.float32)
    for axis in range(len(shape)):
        coarse = generator.standard_normal([-(-size // 16) + 1 for size in shape], np.float32)
        factors = [size / count for size, count in zip(shape, coarse.shape, strict=True)]
        field[0, ..., axis] = zoom(coarse, factors, order=1)
    field *= largest / np.abs(field).max()
    return field


def inputs(case: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The sampled image (for `exp` the velocity itself) and the displacement."""
    field = smooth_field(shape, 8.0)
    if case.startswith("exp"):
        return field, field
    return np.random.default_rng(1).standard_normal((1, *shape, 1), np.float32), field


def ours(case: str, image: np.ndarray, field: np.ndarray):
    """A function that runs one measurement to its end."""
    import tensorflow as tf

    from zoo.layers.integration import ScalingAndSquaring
    from zoo.ops.sampling import warp

    image, field = tf.constant(image), tf.constant(field)
    integrate = ScalingAndSquaring(STEPS)
    integrate.build(field.shape)

    @tf.function(autograph=False)
    def run(image, field):
        if case == "warp":
            return warp(image, field)
        if case == "exp":
            return integrate(field)
        with tf.GradientTape() as tape:
            tape.watch([image, field])
            result = warp(image, field) if case.startswith("warp") else integrate(field)
        if case.startswith("warp"):
            return result, tape.gradient(result, [image, field], result)
        return result, tape.gradient(result, field, result)

    def measured():
        results = tf.nest.flatten(run(image, field))
        return [float(tf.reshape(result, [-1])[0]) for result in results]

    return measured


def torch(case: str, image: np.ndarray, field: np.ndarray):
    """The same in torch."""
    import torch

    def sample(image, grid):
        return torch.nn.functional.grid_sample(
            image, grid, mode="bilinear", padding_mode="border", align_corners=True
        )

    sizes = field.shape[1:-1]
    axes = [torch.arange(size, dtype=torch.float32) for size in sizes]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    velocity = torch.from_numpy(np.moveaxis(field, -1, 1).copy())

    def normalised(displacement):
        places = positions + displacement
        for axis, size in enumerate(sizes):
            places[:, axis] = 2 * (places[:, axis] / (size - 1) - 0.5)
        return places.permute(0, 2, 3, 4, 1)[..., [2, 1, 0]]

    def integrate(velocity):
        displacement = velocity / 2**STEPS
        for _ in range(STEPS):
            displacement = displacement + sample(displacement, normalised(displacement))
        return displacement

    picture = torch.from_numpy(np.moveaxis(image, -1, 1).copy())
    grid = normalised(velocity).contiguous()

    def measured():
        if "gradients" not in case:
            with torch.no_grad():
                result = sample(picture, grid) if case == "warp" else integrate(velocity)
            return [float(result.flatten()[0])]
        leaves = (picture, grid) if case.startswith("warp") else (velocity,)
        for leaf in leaves:
            leaf.grad = None
            leaf.requires_grad_()
        result = sample(*leaves) if case.startswith("warp") else integrate(*leaves)
        result.backward(result.detach())
        return [float(result.flatten()[0])]

    return measured


def resident() -> float:
    """KiB in use now; on Linux the peak counts from here on, elsewhere from the start."""
    peak_reset, used = Path("/proc/self/clear_refs"), Path("/proc/self/statm")
    if not used.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_reset.write_text("5")
    return int(used.read_text().split()[1]) * resource.getpagesize() / 1024


def measure(method: str, case: str, shape: tuple[int, ...], repeats: int) -> dict:
    """Seconds of every repeat and peak memory in MiB, of this process."""
    function = {"ours": ours, "torch": torch}[method](case, *inputs(case, shape))
    before = resident()
    for _ in range(2):
        function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": seconds, "peak": peak / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small volumes, few repeats")
    parser.add_argument("--measure", nargs=2, metavar=("METHOD", "CASE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    repeats, rounds = (3, 1) if arguments.quick else (7, 2)
    shapes = {
        "warp": (80, 96, 112) if arguments.quick else (160, 192, 224),
        "exp": (48, 48, 48) if arguments.quick else (96, 96, 96),
    }
    if arguments.measure:
        method, case = arguments.measure
        print(json.dumps(measure(method, case, shapes[case.split(",")[0]], repeats)))
        return

    print("| kernel | ours s | torch s | torch / ours | ours peak MiB | torch peak MiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for case in CASES:
        results = {method: [] for method in METHODS}
        for _ in range(rounds):
            for method in METHODS:
                command = [sys.executable, __file__, "--measure", method, case]
                command += ["--quick"] * arguments.quick
                process = subprocess.run(command, capture_output=True, text=True)
                if process.returncode:
                    raise SystemExit(f"{method} failed on {case!r}:\n{process.stderr}")
                results[method].append(json.loads(process.stdout.splitlines()[-1]))
        seconds = {
            method: statistics.median(second for run in runs for second in run["seconds"])
            for method, runs in results.items()
        }
        peaks = {method: max(run["peak"] for run in runs) for method, runs in results.items()}
        shape = "x".join(map(str, shapes[case.split(",")[0]]))
        print(
            f"| {case} {shape} | {seconds['ours']:.3f} | {seconds['torch']:.3f} "
            f"| {seconds['torch'] / seconds['ours']:.1f} "
            f"| {peaks['ours']:.0f} | {peaks['torch']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
