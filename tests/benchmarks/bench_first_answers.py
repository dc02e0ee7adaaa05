"""How long the first answer takes: whole commands in new processes, new sizes, the first step.

    python tests/benchmarks/bench_first_answers.py [--before CHECKOUT] [--sizes 100]

Registers two pictures of 256 x 256 pixels and two volumes of 36 x 52 x 40 voxels with `zoo
register`, each twice in processes of their own, by `affine` and by `dirvnet`; predicts pairs of
many sizes by `dirvnet` in one process; and trains two steps of `dirvnet` in 3D. Beside another
checkout, in turns, where one is given. Prints seconds from typing to result, processor time, the
time of a known and of a new size, and how much the process grows over all sizes.
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

MANY_SIZES = """
import sys, time
import numpy as np
import zoo
model = zoo.create("dirvnet", dims=2)
rng = np.random.default_rng(0)
waited, grown = [], []
for number in range(int(sys.argv[1])):
    shape = tuple(int(size) for size in rng.integers(60, 200, 2))
    images = [rng.normal(size=(*shape, 1)).astype("float32").cumsum(0) for _ in range(2)]
    started = time.perf_counter()
    model.transform(zoo.Pair(*images))
    waited.append(time.perf_counter() - started)
    grown.append(int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20)
started = time.perf_counter()
model.transform(zoo.Pair(*images, name="again"))
known = time.perf_counter() - started
print(waited[0], max(waited[19:]), known, grown[1], grown[-1])
"""

FIRST_STEP = """
import time
import numpy as np
import keras
import zoo
rng = np.random.default_rng(0)
images = [rng.normal(size=(1, 48, 64, 48, 1)).astype("float32") for _ in range(2)]
model = zoo.create("dirvnet", dims=3)
model.compile()
step = [{"fixed": images[0], "moving": images[1]}]
started = time.perf_counter()
for _ in range(2):
    model.train_on_batch(*step)
    print(time.perf_counter() - started)
    started = time.perf_counter()
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, help="a checkout of another commit")
    parser.add_argument("--sizes", type=int, default=100)
    options = parser.parse_args()
    trees = {"now": ROOT} | ({"before": options.before.resolve()} if options.before else {})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pairs(folder)
        for kind, method in (
            ("picture", "affine"),
            ("picture", "dirvnet"),
            ("volume", "affine"),
            ("volume", "dirvnet"),
        ):
            files = [f"{kind}_{side}.nii.gz" for side in ("fixed", "moving")]
            for number in range(2):
                for tree, root in trees.items():
                    out = f"{tree}_{kind}_{method}_{number}"
                    words = ["-m", "zoo", "register", *files, "-m", method, "--out", out]
                    wall, processor, _ = timed(words, root, folder)
                    print(
                        f"{method}, {kind}s, run {number + 1}, {tree}: {wall:.1f} s, "
                        f"processor {processor:.1f} s"
                    )
        for tree, root in trees.items():
            *_, said = timed(["-c", MANY_SIZES, str(options.sizes)], root, folder)
            first, new, known, small, large = map(float, said.split())
            print(
                f"{options.sizes} sizes, {tree}: first {first:.1f} s, a new one at most {new:.2f} "
                f"s, the last one again {known:.2f} s; grows by {large - small:.0f} MiB"
            )
            *_, said = timed(["-c", FIRST_STEP], root, folder)
            steps = [float(line) for line in said.split()]
            print(f"training step in 3D, {tree}: first {steps[0]:.1f} s, second {steps[1]:.2f} s")


def write_pairs(folder: Path):
    """Smooth bodies with structure, and the same bent and brightened."""
    sys.path.insert(0, str(ROOT))
    from scipy import ndimage

    from zoo.data.image import Image
    from zoo.geometry import Grid

    rng = np.random.default_rng(0)
    for kind, shape in (("picture", (256, 256)), ("volume", (36, 52, 40))):
        noise = ndimage.gaussian_filter(rng.normal(size=shape), min(shape) / 16)
        index = np.moveaxis(np.indices(shape), 0, -1) / np.array(shape) - 0.5
        body = (np.linalg.norm(index, axis=-1) < 0.4) * (2.0 + noise / noise.std())
        body = ndimage.gaussian_filter(body, 1.0)
        places = np.indices(shape) + 3.0 * np.sin(np.indices(shape)[::-1] / 15.0)
        moved = 1.3 * ndimage.map_coordinates(body, places, order=1) + 0.2
        for side, array in (("fixed", body), ("moving", moved)):
            image = Image(array[..., None].astype(np.float32), Grid(shape))
            image.write(folder / f"{kind}_{side}.nii.gz")


def timed(words: list[str], root: Path, folder: Path) -> tuple[float, float, str]:
    """Wall clock and processor time of a process in seconds, and what it printed."""
    environment = os.environ | {"PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"}
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    wall, after = time.perf_counter() - started, os.times()
    processor = sum(after[2:4]) - sum(before[2:4])
    return wall, processor, done.stdout


if __name__ == "__main__":
    main()
