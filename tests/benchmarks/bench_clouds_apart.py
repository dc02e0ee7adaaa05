"""How divroc's defaults do where clouds share all of their points, half of them, or none.

    python tests/benchmarks/bench_clouds_apart.py DATA_FOLDER [--sets lungs vessels bodies] [--each]
        [--quick]

DATA_FOLDER holds the folders l2r_lungct_keypoints and makehuman_bodies; what is absent is left out.
Partners of each set, by seeded permutations of clouds in exact correspondence: "exact" (all points
of both clouds), "half" (each cloud keeps a random half, independently, so half of the points have a
partner), "none" (one cloud keeps the points that the other one has not). Clouds of vessels are
samples of their own ("none") or moved exactly ("exact"). Errors are means over all moving points,
by their true places, which no method gets to see: at the start, after the zoo's affine alignment,
after `divroc`, and after the best affine map of the true places. "worse" counts the cases that end
above 1.05 times the affine alignment.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from bench_divroc import folds

from zoo.data.benchmarks import lung_keypoints
from zoo.data.pair import Pair
from zoo.data.scan import Scan
from zoo.data.vessels import VALIDATION_SEEDS, vessel_case
from zoo.models.affine import AffineRegistration
from zoo.models.divroc import DiVRoC

SETS = ("lungs", "vessels", "bodies")
KINDS = ("exact", "half", "none")
SIZES = (1024, 2048, 4096, 8192)
POSES = ("step", "wave", "squat")
ALLOWED = 1.05  # of the error of the affine alignment

Case = tuple[str, np.ndarray, np.ndarray, np.ndarray]


def parted(fixed: np.ndarray, moving: np.ndarray, kind: str, seed: int = 0) -> tuple:
    """Clouds of corresponding points `[n, rank]`, and where the moving points belong."""
    rng, half = np.random.default_rng(seed), len(fixed) // 2
    first, second = rng.permutation(len(fixed)), rng.permutation(len(fixed))
    if kind == "none":
        first, second = first[:half], first[half:]
    elif kind == "half":
        first, second = first[:half], second[:half]
    return fixed[first], moving[second], fixed[second]


def lungs(data: Path, kind: str, quick: bool) -> Iterator[Case]:
    """Keypoints in voxels."""
    found = sorted((data / "l2r_lungct_keypoints" / "keypoints").glob("*.csv"))
    for path in found[: 3 if quick else None]:
        pair = lung_keypoints(path, (1, 1, 1), (1, 1, 1))
        yield "lungs", *parted(pair.fixed.points, pair.moving.points, kind)


def vessels(level: str, points: int, kind: str, quick: bool) -> Iterator[Case]:
    """Generated lungs in mm."""
    for seed in VALIDATION_SEEDS[: 1 if quick else 3]:
        inhale, exhale = vessel_case(seed, level).draw(points, (seed, 5))
        fixed = exhale.points
        if kind == "exact":
            fixed = np.random.default_rng(seed).permutation(inhale.partners)
        yield f"vessels {level}", fixed, inhale.points, inhale.partners


def bodies(data: Path, kind: str, quick: bool) -> Iterator[Case]:
    """Persons that move, in cm."""
    path = data / "makehuman_bodies" / "bodies.npz"
    if not path.is_file():
        return
    with np.load(path) as stored:
        names, vertices = list(stored["names"]), 100 * stored["vertices"].astype(np.float64)
    for pose in POSES[: 1 if quick else None]:
        posed, rest = (vertices[names.index(f"male_young/{name}")] for name in (pose, "rest"))
        yield "bodies", *parted(posed, rest, kind)


def best_affine(moving: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Where the best affine map of the true places takes the moving points."""
    ones = np.column_stack([moving, np.ones(len(moving))])
    return ones @ np.linalg.lstsq(ones, goal, rcond=None)[0]


def measured(case: Case) -> list[float]:
    """Points, errors (start, affine, divroc, best affine), folds, and whether it has warned."""
    _, fixed, moving, goal = case
    pair = Pair(Scan(fixed), Scan(moving))
    linear, model = AffineRegistration(), DiVRoC()
    linear.fit(pair, verbose=0)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        model.fit(pair, verbose=0)
    move = model.transform(pair).move
    best = best_affine(moving, goal)
    ends = (moving, linear.transform(pair).move(moving), move(moving), best)
    errors = [float(np.linalg.norm(end - goal, axis=1).mean()) for end in ends]
    warned = any(issubclass(each.category, UserWarning) for each in heard)
    return [len(moving), *errors, folds(move, moving), float(warned)]


def print_rows(kind: str, cases: Iterator[Case], each: bool) -> None:
    """Prints the mean of some cases, and each of them."""
    rows, name = [], ""
    for case in cases:
        name = case[0]
        rows.append(measured(case))
        if each:
            _print_row(f"{name} {len(rows)}", kind, rows[-1:])
    if rows:
        _print_row(f"{name}, mean of {len(rows)}" if each else name, kind, rows)


def _print_row(name: str, kind: str, rows: list[list[float]]) -> None:
    points, start, affine, found, best, folded, _ = np.mean(rows, axis=0)
    worse = sum(row[3] > ALLOWED * row[2] for row in rows)
    warned = f"{sum(row[-1] for row in rows):.0f} of {len(rows)}"
    print(
        f"| {name} | {kind} | {points:.0f} | {start:.2f} | {affine:.2f} | {found:.2f} | "
        f"{best:.2f} | {max(row[3] for row in rows):.2f} | {folded:.2f} | {warned} | {worse} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--each", action="store_true", help="print every case as well")
    parser.add_argument("--quick", action="store_true", help="few cases")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    names = "set | partners | points | start | affine | divroc | best affine | worst case"
    print(f"| {names} | folds % | warned | worse |")
    print("|---" * 11 + "|")
    if "lungs" in options.sets:
        for kind in KINDS:
            print_rows(kind, lungs(options.data, kind, options.quick), options.each)
    if "vessels" in options.sets:
        for level in ("E", "H"):
            for kind in ("exact", "none"):
                for points in SIZES[:: 3 if options.quick else 1]:
                    print_rows(kind, vessels(level, points, kind, options.quick), options.each)
    if "bodies" in options.sets:
        for kind in KINDS:
            print_rows(kind, bodies(options.data, kind, options.quick), options.each)


if __name__ == "__main__":
    main()
