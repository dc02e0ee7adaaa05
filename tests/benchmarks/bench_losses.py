"""Local correlation, loss and gradient, beside the formulations in torch that users would pick.

    python tests/benchmarks/bench_losses.py [--size 96] [--window 9] [--repeats 5]

Every row runs in a process of its own, one after the other, on the same images and with all cores,
so that the peak memory is that of one formulation. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def images(size: int) -> list[np.ndarray]:
    """Two related volumes `[size, size, size]` in about [0, 1]."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=(size,) * 3), 2)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    noise = 0.02 * rng.normal(size=(2, *smooth.shape))
    return [x.astype("float32") for x in (smooth + noise[0], np.roll(smooth, 1, 0) + noise[1])]


def with_zoo(size: int, window: int) -> Callable[[], float]:
    """`zoo.losses.LNCC` compiled by the Keras backend, as `fit` does."""
    import keras

    from zoo.losses import LNCC

    loss = LNCC(window=window)
    fixed, moved = (x[None, ..., None] for x in images(size))
    if keras.backend.backend() == "jax":
        import jax

        step = jax.jit(jax.value_and_grad(lambda x: loss(fixed, x)))
        tensor = keras.ops.convert_to_tensor(moved)

        def run() -> float:
            value, gradient = step(tensor)
            gradient.block_until_ready()
            return 1 - float(value)

        return run

    import tensorflow as tf

    @tf.function
    def step(fixed, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(fixed, x)
        return value, tape.gradient(value, x)

    tensors = tf.constant(fixed), tf.constant(moved)

    def run() -> float:
        value, gradient = step(*tensors)
        gradient.numpy()
        return 1 - float(value)

    return run


def with_torch(size: int, window: int, separable: bool) -> Callable[[], float]:
    """The squared local correlation by convolutions with a kernel of ones.

    VoxelMorph convolves with the whole box, MONAI with one axis after the other.
    """
    import torch
    from torch.nn.functional import conv3d

    fixed, moved = (torch.from_numpy(x)[None, None] for x in images(size))
    moved.requires_grad_(True)
    volume = window**3
    if separable:
        shapes = [tuple(window if axis == k else 1 for k in range(3)) for axis in range(3)]
    else:
        shapes = [(window,) * 3]

    def box_sum(x):
        for shape in shapes:
            x = conv3d(x, torch.ones(1, 1, *shape), padding=tuple(n // 2 for n in shape))
        return x

    def run() -> float:
        moved.grad = None
        sums = [box_sum(x) for x in (fixed, moved, fixed * fixed, moved * moved, fixed * moved)]
        mean_fixed, mean_moved = sums[0] / volume, sums[1] / volume
        cross = sums[4] - mean_moved * sums[0] - mean_fixed * sums[1]
        cross = cross + mean_fixed * mean_moved * volume
        spread_fixed = sums[2] - 2 * mean_fixed * sums[0] + mean_fixed**2 * volume
        spread_moved = sums[3] - 2 * mean_moved * sums[1] + mean_moved**2 * volume
        value = (cross * cross / (spread_fixed * spread_moved + 1e-5)).mean()
        (-value).backward()
        return float(value.detach())

    return run


ROWS = {
    "zoo.losses.LNCC": with_zoo,
    "torch, VoxelMorph's formulation": lambda size, window: with_torch(size, window, False),
    "torch, separable (as in MONAI)": lambda size, window: with_torch(size, window, True),
}


def memory(field: str) -> float:
    """MiB from the kernel's account of this process: `VmRSS` now, `VmHWM` at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measure(row: str, size: int, window: int, repeats: int) -> dict[str, float]:
    """Best time of some runs after a first one, and memory on top of what was there before."""
    run = ROWS[row](size, window)
    before = memory("VmRSS")
    # Resets the peak, which importing may have set.
    Path("/proc/self/clear_refs").write_text("5")
    value = run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "peak": memory("VmHWM") - before, "value": value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=96, help="voxels along each axis")
    parser.add_argument("--window", type=int, default=9, help="edge of the window in voxels")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs, the best counts")
    parser.add_argument("--row", choices=ROWS, help="measure one row and print it as JSON")
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measure(options.row, options.size, options.window, options.repeats)))
        return
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    results = {}
    for row in ROWS:
        command = [sys.executable, __file__, "--row", row]
        for name in ("size", "window", "repeats"):
            command += [f"--{name}", str(getattr(options, name))]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        results[row] = json.loads(done.stdout.decode().splitlines()[-1])
    own = results["zoo.losses.LNCC"]["seconds"]
    print(
        f"LNCC with gradient, {options.size}^3 voxels, window {options.window}, "
        f"{os.cpu_count()} cores\n"
    )
    print("| formulation | seconds | zoo is faster by | peak memory, MiB | squared correlation |")
    print("|---|---:|---:|---:|---:|")
    for row, numbers in results.items():
        print(
            f"| {row} | {numbers['seconds']:.3f} | {numbers['seconds'] / own:.1f}x "
            f"| {numbers['peak']:.0f} | {numbers['value']:.4f} |"
        )


if __name__ == "__main__":
    main()
