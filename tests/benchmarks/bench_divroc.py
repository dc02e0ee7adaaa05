"""How well DiVRoC registers clouds: generated lungs, real lungs, street scenes; ablation and peers.

    python tests/benchmarks/bench_divroc.py DATA_FOLDER [--tables accuracy lungs ...] [--quick]
        [--json ROWS]

DATA_FOLDER holds the folders l2r_lungct_keypoints and kitti_scene_flow; what is absent is left out.
Errors are those of known correspondences, which no method gets to see: landmarks of the generated
and the real lungs, the flow of all points of the streets. The seconds are those of `fit` with the
compilation, after a first run that loads everything. Folds are the share of points of the moving
cloud where the Jacobian determinant is not positive. `--json` also writes the rows of generated
lungs to a file, from which the recipe of the preset `divroc.vessels` fills its card.

Peers are iterated closest points (the zoo's affine alignment) and coherent point drift (`pycpd`,
if installed: its time and memory grow with the square of the number of points, so it gets few).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from scipy.spatial.distance import cdist

from zoo.data.benchmarks import lung_keypoints
from zoo.data.cloud_benchmarks import kitti_scene_flow
from zoo.data.pair import Pair
from zoo.data.scan import Scan
from zoo.data.vessels import LEVELS, TEST_SEEDS, VALIDATION_SEEDS, vessel_pair
from zoo.io import written_whole
from zoo.models.affine import AffineRegistration
from zoo.models.divroc import DiVRoC
from zoo.registration.stages import SCHEDULES

TABLES = ("accuracy", "lungs", "streets", "ablation", "peers")
CPD_POINTS = 2000
STEP = 0.05  # of the differences that tell folds, as a share of the points' spacing


# What is measured


def errors(move: Callable, pair: Pair) -> np.ndarray:
    """Distances of moved landmarks from where they belong."""
    return np.linalg.norm(move(pair.moving_landmarks) - pair.fixed_landmarks, axis=1)


def folds(move: Callable, points: np.ndarray, count: int = 10_000) -> float:
    """Percentage of points where the map is not locally invertible."""
    some = np.random.default_rng(0).permutation(points)[:count]
    step = STEP * np.ptp(points, axis=0).max() / len(points) ** (1 / points.shape[1])
    sides = [move(some + e) - move(some - e) for e in step * np.eye(points.shape[1])]
    return 100 * float((np.linalg.det(np.stack(sides, axis=-1)) <= 0).mean())


def with_divroc(pair: Pair, **config) -> tuple[Callable, float]:
    model = DiVRoC(dims=pair.rank, **config)
    start = time.perf_counter()
    model.fit(pair, verbose=0)
    return model.transform(pair).move, time.perf_counter() - start


def with_icp(pair: Pair) -> tuple[Callable, float]:
    model = AffineRegistration(dims=pair.rank)
    start = time.perf_counter()
    model.fit(pair)
    return model.transform(pair).move, time.perf_counter() - start


def with_cpd(pair: Pair) -> tuple[Callable, float]:
    """Coherent point drift (Myronenko and Song, PAMI 2010) of random subsets."""
    from pycpd import DeformableRegistration

    rng = np.random.default_rng(0)
    fixed, moving = (
        rng.permutation(each.points)[:CPD_POINTS] for each in (pair.fixed, pair.moving)
    )
    centre, size = fixed.mean(axis=0), fixed.std()
    fixed, moving = (fixed - centre) / size, (moving - centre) / size
    start = time.perf_counter()
    drift = DeformableRegistration(X=fixed, Y=moving, alpha=3, beta=2, w=0.1)
    drift.register()
    seconds = time.perf_counter() - start

    def move(points):
        points = (points - centre) / size
        kernel = np.exp(-cdist(points, moving, "sqeuclidean") / (2 * drift.beta**2))
        return (points + kernel @ drift.W) * size + centre

    return move, seconds


def has_cpd() -> bool:
    try:
        import pycpd  # noqa: F401
    except ImportError:
        print("pycpd is not installed (pip install pycpd): no coherent point drift.")
        return False
    return True


# The tables


def accuracy(seeds) -> list[dict]:
    """Generated lungs, all levels, with distances and with densities."""
    _print_head("level | data")
    rows = []
    for level in LEVELS:
        cases = {name: [] for name in ("none", "chamfer", "density")}
        for seed in seeds:
            pair = vessel_pair(seed, level)
            cases["none"].append((errors(lambda points: points, pair), 0.0, 0.0))
            for data in ("chamfer", "density"):
                cases[data].append(_measured(pair, *with_divroc(pair, data=data)))
        rows += [_print_cases(f"{level} | {name}", found) for name, found in cases.items()]
    return rows


def ablation(seeds) -> list[dict]:
    """One thing changed at a time, level H, on seeds that the test does not see."""
    pairs = [vessel_pair(seed, "H") for seed in seeds]
    _print_head("change")
    rows = []
    for name, config in _changes():
        cases = [_measured(pair, *with_divroc(pair, **config)) for pair in pairs]
        rows.append(_print_cases(name, cases))
    return rows


def _changes() -> Iterator[tuple[str, dict]]:
    yield "default", {}
    for data in SCHEDULES:
        stages = SCHEDULES[data]
        if data != "chamfer":
            yield f"data {data}", {"data": data}
        if data == "chamfer":
            for name, changes in (
                ("no robust weights", {"reach": None}),
                ("reach 4", {"reach": 4.0}),
                ("3 neighbours", {"neighbours": 3}),
                ("2048 queries", {"points": 2048}),
                ("32768 queries", {"points": 32768}),
                ("pool 9", {"pool": 9}),
                ("lattice 24", {"lattice": 24}),
                ("lattice 64", {"lattice": 64}),
                ("no smoothness", {"smoothness": 0.0}),
            ):
                yield name, {"stages": [replace(stage, **changes) for stage in stages]}
        if data == "density":
            for name, changes in (
                ("raster halved", lambda stage: {"raster": stage.raster // 2}),
                ("blur halved", lambda stage: {"blur": stage.blur / 2}),
                ("blur doubled", lambda stage: {"blur": stage.blur * 2}),
                ("gain halved", lambda stage: {"gain": stage.gain / 2}),
                ("gain doubled", lambda stage: {"gain": stage.gain * 2}),
                ("lattice 24", lambda stage: {"lattice": 24}),
                ("lattice as raster, to 96", lambda stage: {"lattice": min(stage.raster, 96)}),
            ):
                changed = [replace(stage, **changes(stage)) for stage in stages]
                yield f"density, {name}", {"stages": changed}
            for squash in ("scaled", "none"):
                yield f"density, squash {squash}", {"data": data, "squash": squash}
            yield "density, mean absolute difference", {"data": data, "power": 1}
    for points in (4096, 16384):
        yield f"{points} points", {"points": points}
    yield "held out none", {"held_out": 0.0}
    yield "start affine", {"start": "affine"}
    yield "start none", {"start": "none"}
    yield "velocity", {"velocity": True}


def lungs(data: Path, quick: bool) -> None:
    """Keypoints of real lungs, in voxels; the moving points are permuted."""
    peers = {"icp": with_icp, "divroc": with_divroc}
    peers |= {"cpd": with_cpd} if has_cpd() else {}
    head = " | ".join(f"{name} | s" for name in peers)
    print(f"| case | points | none | best affine | {head} | folds % |")
    print("|---" * (5 + 2 * len(peers)) + "|")
    found = sorted((data / "l2r_lungct_keypoints" / "keypoints").glob("*.csv"))
    totals = []
    for path in found[: 3 if quick else None]:
        pair = _permuted(lung_keypoints(path, (1, 1, 1), (1, 1, 1)))
        values = [errors(lambda points: points, pair).mean(), _best_affine(pair)]
        for name, method in peers.items():
            move, seconds = method(pair)
            values += [errors(move, pair).mean(), seconds]
            if name == "divroc":
                folded = folds(move, pair.moving.points)
        totals.append([*values, folded])
        cells = " | ".join(f"{value:.2f}" for value in totals[-1])
        print(f"| {path.stem} | {len(pair.moving)} | {cells} |", flush=True)
    if totals:
        cells = " | ".join(f"{value:.2f}" for value in np.mean(totals, axis=0))
        print(f"| mean | | {cells} |")


def streets(data: Path) -> None:
    """KITTI, all points within 35 m, up to 100,000 of each cloud, in m."""
    folder = data / "kitti_scene_flow"
    if not folder.is_dir():
        return
    print("| scene | ground | points | none | icp | s | divroc | median | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for ground in (True, False):
        for pair in kitti_scene_flow(folder, points=100_000, ground=ground):
            still = errors(lambda points: points, pair).mean()
            linear, slow = with_icp(pair)
            move, seconds = with_divroc(pair)
            found = errors(move, pair)
            print(
                f"| {pair.name} | {'with' if ground else 'without'} | {len(pair.moving)} | "
                f"{still:.3f} | {errors(linear, pair).mean():.3f} | {slow:.1f} | "
                f"{found.mean():.3f} | {np.median(found):.3f} | {seconds:.1f} |",
                flush=True,
            )


def peers(seeds) -> list[dict]:
    """Generated lungs, level H."""
    methods = {"icp": with_icp, "divroc": with_divroc}
    methods |= {f"cpd, {CPD_POINTS} points": with_cpd} if has_cpd() else {}
    pairs = [vessel_pair(seed, "H") for seed in seeds]
    _print_head("method")
    rows = []
    for name, method in methods.items():
        rows.append(_print_cases(name, [_measured(pair, *method(pair)) for pair in pairs]))
    return rows


def _measured(pair: Pair, move: Callable, seconds: float) -> tuple:
    return errors(move, pair), folds(move, pair.moving.points), seconds


def _print_head(names: str) -> None:
    print(f"| {names} | error mm | 25/50/75 % | worst case | folds % | s |")
    print("|---" * (6 + names.count("|")) + "|")


def _print_cases(name: str, cases: list[tuple]) -> dict:
    """Prints the row of a table and returns it."""
    found, folded, seconds = zip(*cases, strict=True)
    quartiles = np.percentile(np.concatenate(found), (25, 50, 75))
    means = [each.mean() for each in found]
    row = {
        "name": name,
        "cases": len(cases),
        "tre_mm": float(np.mean(means)),
        "worst_tre_mm": float(max(means)),
        "folds_percent": float(np.mean(folded)),
        "seconds": float(np.mean(seconds)),
    }
    print(
        f"| {name} | {row['tre_mm']:.2f} | {'/'.join(f'{value:.2f}' for value in quartiles)} | "
        f"{row['worst_tre_mm']:.2f} | {row['folds_percent']:.3f} | {row['seconds']:.1f} |",
        flush=True,
    )
    return row


def _permuted(pair: Pair) -> Pair:
    order = np.random.default_rng(0).permutation(len(pair.moving))
    return replace(pair, moving=Scan(pair.moving.points[order]))


def _best_affine(pair: Pair) -> float:
    """The error of the least-squares map of the known correspondence: a bound of affine maps."""
    before = np.column_stack([pair.moving_landmarks, np.ones(len(pair.moving_landmarks))])
    solution = np.linalg.lstsq(before, pair.fixed_landmarks, rcond=None)[0]
    return float(np.linalg.norm(before @ solution - pair.fixed_landmarks, axis=1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--quick", action="store_true", help="few cases")
    parser.add_argument("--json", type=Path, help="file for the rows of generated lungs")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    test = TEST_SEEDS[:2] if options.quick else TEST_SEEDS
    trial = VALIDATION_SEEDS[:1] if options.quick else VALIDATION_SEEDS[:2]
    with_divroc(vessel_pair(0, "E", 2000))  # loads and compiles what all share
    rows = {}
    for table in options.tables:
        print(f"\n## {table}\n")
        if table == "lungs":
            lungs(options.data, options.quick)
        elif table == "streets":
            streets(options.data)
        elif table == "ablation":
            rows[table] = ablation(trial)
        else:
            rows[table] = {"accuracy": accuracy, "peers": peers}[table](test)
    if options.json:
        with written_whole(options.json) as partial:
            partial.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
