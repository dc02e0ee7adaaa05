"""Whole commands, from typing to files, in processes of their own; and memory over many fits.

    python tests/benchmarks/bench_commands.py [--before CHECKOUT] [--repeats 3] [--size 256]

Registers two volumes of 256^3 voxels with `affine` and two clouds of 100,000 points with `divroc`;
beside the same commands of another checkout, in turns, where one is given. Then fits `divroc` 20
times in one process. Prints the shortest wall clock, the processor time of that run and the peak
of resident memory; ratios below 1 are faster than before.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
GROWTH = """
import zoo
from zoo.data.vessels import vessel_pair
pair = vessel_pair(900, "H", 8192)
for _ in range({fits}):
    model = zoo.create("divroc")
    model.fit(pair, verbose=0)
    del model
    print(int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**30)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, help="a checkout of another commit")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=256, help="voxels along each axis")
    parser.add_argument("--fits", type=int, default=20)
    options = parser.parse_args()
    trees = {"now": ROOT} | ({"before": options.before.resolve()} if options.before else {})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_volumes(folder, options.size)
        write_clouds(folder)
        for title, suffix, method in (
            ("volumes", ".nii.gz", "affine"),
            ("clouds", ".npy", "divroc"),
        ):
            command = ["-m", "zoo", "register", f"fixed{suffix}", f"moving{suffix}", "-m", method]
            rows = {tree: [] for tree in trees}
            for number in range(options.repeats):
                for tree, root in trees.items():
                    words = [*command, "--out", f"{tree}_{method}_{number}"]
                    rows[tree].append(timed(words, root, folder))
            best = {tree: min(each) for tree, each in rows.items()}
            for tree, (wall, processor, peak) in best.items():
                print(
                    f"{method}, {title}, {tree}: {wall:.1f} s, processor {processor:.1f} s, "
                    f"peak {peak:.2f} GiB"
                )
            if options.before:
                ratios = [best["now"][k] / best["before"][k] for k in (0, 1)]
                print(f"{method}, {title}: ratio {ratios[0]:.2f}, processor {ratios[1]:.2f}")
        for tree, root in trees.items():
            code = GROWTH.format(fits=options.fits)
            process = started(["-c", code], root, folder, stdout=subprocess.PIPE, text=True)
            sizes = [float(line) for line in process.communicate()[0].split()]
            print(
                f"{options.fits} fits of divroc, {tree}: {sizes[0]:.2f} GiB after the first, "
                f"{sizes[-1]:.2f} after the last"
            )


def write_volumes(folder: Path, size: int):
    """A smooth body with structure, and the same turned, stretched and shifted."""
    from scipy import ndimage

    from zoo.data.image import Image
    from zoo.geometry import Grid
    from zoo.transform import Affine

    rng, grid = np.random.default_rng(0), Grid((size,) * 3)
    coarse = ndimage.zoom(rng.uniform(size=(size // 16,) * 3), 16, order=3).astype(np.float32)
    away = np.linalg.norm(grid.coordinates() - size / 2, axis=-1) / (0.35 * size)
    body = coarse / (1 + np.exp(np.minimum(40 * (away - 1), 50))).astype(np.float32)
    turn = np.deg2rad(6)
    matrix = np.eye(3) + 0.03 * np.diag([1, -1, 0.5])
    matrix[:2, :2] @= [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    middle = np.full(3, size / 2)
    truth = Affine(matrix, middle - matrix @ middle + [4.0, -3.0, 2.0], grid)
    image = Image(body[..., None], grid)
    for name, each in (("fixed", truth.warp(image)), ("moving", image)):
        noise = rng.normal(0, 0.01, each.array.shape).astype(np.float32)
        Image(each.array + noise, grid).write(folder / f"{name}.nii.gz")


def write_clouds(folder: Path):
    from zoo.data.vessels import vessel_pair

    pair = vessel_pair(900, "H", 100_000)
    for side in ("fixed", "moving"):
        np.save(folder / f"{side}.npy", getattr(pair, side).points)


def timed(words: list[str], root: Path, folder: Path) -> tuple[float, float, float]:
    """Wall clock and processor seconds, and the peak of resident memory in GiB."""
    start = time.perf_counter()
    process = started(words, root, folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise RuntimeError(f"{' '.join(words)} ended with status {status}.")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def started(words: list[str], root: Path, folder: Path, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"}
    options |= {"cwd": folder, "env": environment, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, *words], **options)


if __name__ == "__main__":
    main()
