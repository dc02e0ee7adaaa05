"""Networks for clouds: how fast, and what they are worth where clouds share no point.

    python tests/benchmarks/bench_cloud_networks.py DATA_FOLDER [--tables speed vessels lungs]

speed: a forward pass of the published PointPWC-Net with 8,192 points, farthest-point sampling
beside a loop of numpy, a training step beside the same network in PyTorch, if it is installed
(extra `bench`). vessels: generated lungs (seeds 800 to 802), independent samples of either phase,
by the number of points. lungs: keypoints of real ones (folder l2r_lungct_keypoints), of
which either side keeps a random half, or which share no point. Errors are means over all moving
points by their true places, which no method gets to see: at the start, by the best affine map, by
`divroc`, by each preset alone, and by each followed by `divroc`. Seconds are of all stages.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np
from bench_clouds_apart import SIZES, best_affine, lungs, vessels

import zoo
from zoo.data.pair import Pair
from zoo.data.scan import Scan
from zoo.models.pointpwc import PAPER, PointPWC
from zoo.ops.point_sets import farthest_points

TABLES = ("speed", "vessels", "lungs")
PRESETS = ("dgcnn.vessels", "pointpwc.vessels")


def timed(function, times: int = 3) -> float:
    """The median time of some calls, after one that is not counted."""
    function()
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def plain_sampling(points: np.ndarray, count: int) -> list[int]:
    """Farthest points by a loop of numpy over rows."""
    nearest, last, chosen = np.full(len(points), np.inf, np.float32), 0, []
    for _ in range(count):
        chosen.append(last)
        nearest = np.minimum(nearest, ((points - points[last]) ** 2).sum(axis=1))
        last = int(nearest.argmax())
    return chosen


def speed() -> None:
    random = np.random.default_rng(0)
    clouds = {
        side: random.normal(size=(1, 8192, 3)).astype(np.float32) for side in ("fixed", "moving")
    }
    print("| task | ours, s | other, s | ratio |\n|---|---|---|---|")
    cloud = clouds["fixed"]
    ours = timed(lambda: np.asarray(farthest_points(cloud, 2048)))
    other = timed(lambda: plain_sampling(cloud[0], 2048))
    print(f"| farthest points, 8,192 to 2,048 | {ours:.3f} | {other:.3f} | {other / ours:.1f} |")
    paper = PointPWC(**PAPER)
    print(f"| forward pass, 8,192 points | {timed(lambda: paper.at_once(clouds)):.2f} | | |")
    small = {side: cloud[:, :2048] for side, cloud in clouds.items()}
    paper.compile()
    flow = 0.1 * small["moving"]
    ours = timed(lambda: paper.train_on_batch(small, flow))
    # In a process of its own: PyTorch and TensorFlow may not share one.
    script = Path(__file__).with_name("torch_pointpwc.py")
    found = subprocess.run([sys.executable, script, "2048"], capture_output=True, text=True)
    if found.returncode:
        print(f"| training step, 2,048 points | {ours:.2f} | PyTorch does not run here | |")
        return
    other = float(found.stdout)
    print(f"| training step, 2,048 points | {ours:.2f} | {other:.2f} | {other / ours:.1f} |")


def errors(fixed, moving, goal) -> list[float]:
    """Start, best affine map, divroc, and each preset alone and refined; seconds of the latter."""
    pair = Pair(Scan(fixed), Scan(moving))
    ends = [moving, best_affine(moving, goal)]
    seconds, divroc = [], zoo.create("divroc")
    networks = [zoo.load(name) for name in PRESETS]
    chains = [zoo.create("chain", first=each, second="divroc") for each in networks]
    with warnings.catch_warnings():
        # Doubts are for those who do not know the truth.
        warnings.simplefilter("ignore", UserWarning)
        for model in (divroc, *networks, *chains):
            begin = time.perf_counter()
            if model.needs_fit:
                model.fit(pair, verbose=0)
            ends.append(model.transform(pair).move(moving))
            seconds.append(time.perf_counter() - begin)
    return [float(np.linalg.norm(end - goal, axis=1).mean()) for end in ends] + seconds


def print_errors(name: str, cases) -> None:
    found = np.array([errors(*case) for _, *case in cases])
    means = found[:, :7].mean(axis=0)
    beyond = [(found[:, k] > 0.5 * found[:, 1]).sum() for k in range(3, 7)]
    print(
        f"| {name} | {' | '.join(f'{value:.2f}' for value in means)} | "
        f"{' / '.join(f'{value:.0f}' for value in found[:, 7:].mean(axis=0))} | "
        f"{' / '.join(map(str, beyond))} of {len(found)} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    if "speed" in options.tables:
        speed()
    names = [each.split(".")[0] for each in PRESETS]
    columns = ["set", "start", "best affine", "divroc", *names, *(f"{n}+divroc" for n in names)]
    heading = f"| {' | '.join(columns)} | s of each | networks above half of best affine |"
    print(f"{heading}\n{'|---' * (len(columns) + 2)}|")
    if "vessels" in options.tables:
        for level in ("E", "H"):
            for points in SIZES:
                name = f"vessels {level}, {points} points"
                print_errors(name, vessels(level, points, "none", False))
    if "lungs" in options.tables:
        for kind in ("half", "none"):
            print_errors(f"lungs, {kind}", lungs(options.data, kind, False))


if __name__ == "__main__":
    main()
