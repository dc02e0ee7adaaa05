"""The affine alignment of real pairs, beside SimpleITK's and beside the best affine map there is.

    python tests/benchmarks/bench_affine.py DATA_FOLDER [--quick] [--repeats 3]

DATA_FOLDER holds the folders fair_pairs, birl_histology, ants_2d_brain_slices, ptvreg_mri,
l2r_lungct_keypoints, makehuman_bodies and stanford_bunny; what is absent is left out. SimpleITK
registers from its centred start by moments and from that by geometry, on all voxels of the same
three-level pyramid, and the better end by its own metric counts; the seconds are those of both.
Images without landmarks are scored by SimpleITK's metric on all voxels, for both programs alike.
For clouds there is nothing to match in SimpleITK: the bound is the least-squares affine map of the
known correspondence, which no method that has to find it can beat in the root mean square.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import SimpleITK as sitk

from zoo.data.benchmarks import histology_pair, lung_keypoints
from zoo.data.image import Image
from zoo.data.pair import Pair
from zoo.data.scan import Scan
from zoo.geometry import Grid, to_itk
from zoo.io.landmarks import read_landmarks
from zoo.models.affine import AffineRegistration
from zoo.transform import Affine, Transform

PARTS = ("liver", "outside")  # of the landmarks of the liver MRI


@dataclass
class Case:
    """A pair, the loss it needs and what is measured."""

    pair: Pair
    loss: str
    measure: str  # "mean" or "median" landmark error, "median rTRE", or "metric" (SimpleITK's)
    kind: str = "affine"


# The pairs


def there(*paths: Path) -> bool:
    """Whether all files of a pair are there; says which one is not, where its data set is."""
    missing = [path for path in paths if not path.is_file()]
    if missing and missing[0].parent.is_dir():
        print(f"left out, for there is no {missing[0]}", file=sys.stderr)
    return not missing


def picture_cases(data: Path) -> Iterator[Case]:
    fair = data / "fair_pairs"
    hands, table = [fair / f"hands-{side}.jpg" for side in "RT"], fair / "hands_landmarks.csv"
    if there(*hands, table):
        points = np.loadtxt(table, delimiter=",", skiprows=1)
        pictures = [_upright(path, (20.0, 25.0)) for path in hands]
        landmarks = {"fixed_landmarks": points[:, 2:], "moving_landmarks": points[:, :2]}
        yield Case(Pair(*pictures, name="hands, X-ray", **landmarks), "ncc", "mean")
    heads = [fair / f"MRIhead-{side}.jpg" for side in "RT"]
    if there(*heads):
        pictures = [Image.read(path).grey() for path in heads]
        yield Case(Pair(*pictures, name="head, T1/T2"), "mi", "metric")
    lesions = data / "birl_histology" / "lesions"
    names = [lesions / f"Izd2-29-041-w35_{stain}" for stain in ("HE", "proSPC")]
    files = [name.with_suffix(suffix) for suffix in (".jpg", ".csv") for name in names]
    if there(*files):
        pair = replace(histology_pair(*files), name="histology, HE/proSPC")
        for loss in ("mi", "ncc"):
            yield Case(pair, loss, "median rTRE")
    slices = data / "ants_2d_brain_slices"
    for other in (64, 62):
        files = [slices / f"r{number}slice.jpg" for number in (16, other)]
        if not there(*files):
            continue
        brains = [Image.read(path).grey() for path in files]
        for loss in ("ncc", "mi"):
            pair = Pair(*brains, name=f"brain slices r16/r{other}")
            yield Case(pair, loss, "metric")


def volume_cases(data: Path) -> Iterator[Case]:
    for subject in sorted((data / "ptvreg_mri" / "ETHLiver").glob("dataset*")):
        whole = subject / "exhMaster_unmasked.force_direction.mha"
        for path in sorted(subject.glob("cyc*.mha")):
            state = path.name.partition(".")[0]
            tables = [
                [subject / f"{name}LM{where}.vtk" for where in PARTS]
                for name in ("exhMaster", state)
            ]
            if not there(whole, *tables[0], *tables[1]):
                continue
            master, moving = Image.read(whole).grey(), Image.read(path).grey()
            # One header says 5 mm between slices where landmarks and the other states say 4.
            moving = Image(moving.array, Grid(moving.shape, master.grid.spacing))
            points = [np.concatenate([read_landmarks(part) for part in parts]) for parts in tables]
            name = f"liver MRI, {subject.name.removeprefix('dataset')} {state}"
            fixed = Image(master.array, Grid(master.shape, master.grid.spacing))
            landmarks = {"fixed_landmarks": points[0], "moving_landmarks": points[1]}
            pair = Pair(fixed, moving, name=name, **landmarks)
            # SimpleITK maximises the global correlation in both rows.
            yield Case(pair, "lncc", "mean")
            yield Case(pair, "ncc", "mean")


def cloud_cases(data: Path) -> Iterator[Case]:
    for path in sorted((data / "l2r_lungct_keypoints" / "keypoints").glob("*.csv")):
        pair = lung_keypoints(path, (1, 1, 1), (1, 1, 1))
        yield _permuted(pair.fixed.points, pair.moving.points, f"lung {path.stem}, voxels")
    bodies = data / "makehuman_bodies" / "bodies.npz"
    if bodies.is_file():
        with np.load(bodies) as stored:
            named = dict(zip(stored["names"].tolist(), stored["vertices"], strict=True))
        poses = [name for name in named if name.startswith("male_young/")]
        for pose in poses[1:]:
            name = f"body, {poses[0].partition('/')[2]}/{pose.partition('/')[2]}, m"
            yield _permuted(named[poses[0]], named[pose], name)
    bunny = data / "stanford_bunny" / "bun_zipper.ply"
    if bunny.is_file():
        points = Scan.read(bunny).without_unused().points * 1000
        turned = points[:, [1, 2, 0]] * [1, -1, -1] + [30, -80, 10]
        for kind in ("rigid", "affine"):
            yield _permuted(points, turned, f"bunny turned, {kind}, mm", kind)


def _permuted(fixed, moving, name: str, kind: str = "affine") -> Case:
    order = np.random.default_rng(0).permutation(len(moving))
    landmarks = {"fixed_landmarks": fixed, "moving_landmarks": moving}
    return Case(Pair(Scan(fixed), Scan(moving[order]), name=name, **landmarks), "icp", "mean", kind)


def _upright(path: Path, domain: tuple[float, float]) -> Image:
    """A picture over `[0, width] x [0, height]` with y upward."""
    values = Image.read(path).grey().array[:, ::-1, 0]
    spacing = np.asarray(domain) / values.shape
    return Image(values, Grid(values.shape, spacing, spacing / 2), path.stem)


# The two programs


def with_zoo(case: Case) -> tuple[Transform, float]:
    """Our alignment and its seconds, with the construction and all compilation."""
    start = time.perf_counter()
    loss = "ncc" if case.loss == "icp" else case.loss
    model = AffineRegistration(dims=case.pair.rank, kind=case.kind, loss=loss)
    model.fit(case.pair, verbose=0)
    transform = model.transform(case.pair)
    return transform, time.perf_counter() - start


def with_simpleitk(case: Case) -> tuple[Transform, float]:
    """SimpleITK's alignment and its seconds."""
    start = time.perf_counter()
    fixed, moving = (_to_sitk(image) for image in (case.pair.fixed, case.pair.moving))
    initial = sitk.CenteredTransformInitializerFilter
    results = []
    for centring in (initial.MOMENTS, initial.GEOMETRY):
        transform = sitk.CenteredTransformInitializer(
            fixed, moving, sitk.AffineTransform(case.pair.rank), centring
        )
        method = _with_metric(case.loss)
        method.SetShrinkFactorsPerLevel([4, 2, 1])
        method.SetSmoothingSigmasPerLevel([2, 1, 0])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=1.0, minStep=1e-4, numberOfIterations=300, gradientMagnitudeTolerance=1e-8
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        method.Execute(fixed, moving)
        results.append((method.GetMetricValue(), _as_affine(transform, case.pair.rank)))
    return min(results, key=lambda each: each[0])[1], time.perf_counter() - start


def simpleitk_metric(case: Case, transform: Transform) -> float:
    """Mattes mutual information, or correlation, on all voxels; more is better."""
    method = _with_metric(case.loss)
    itk = sitk.AffineTransform(case.pair.rank)
    itk.SetMatrix(transform.matrix.ravel().tolist())
    itk.SetTranslation(transform.offset.tolist())
    method.SetInitialTransform(itk)
    value = method.MetricEvaluate(_to_sitk(case.pair.fixed), _to_sitk(case.pair.moving))
    return np.sqrt(-value) if case.loss == "ncc" else -value


def _with_metric(loss: str) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricSamplingStrategy(method.NONE)
    if loss == "mi":
        method.SetMetricAsMattesMutualInformation(32)
    else:
        method.SetMetricAsCorrelation()
    return method


def _to_sitk(image: Image) -> sitk.Image:
    result = sitk.GetImageFromArray(np.ascontiguousarray(to_itk(image.array[..., 0])))
    result.SetSpacing(image.grid.spacing.tolist())
    result.SetOrigin(image.grid.origin.tolist())
    result.SetDirection(image.grid.direction.ravel().tolist())
    return result


def _as_affine(transform, rank: int) -> Affine:
    origin = np.asarray(transform.TransformPoint([0.0] * rank))
    columns = [transform.TransformPoint(axis) for axis in np.eye(rank).tolist()]
    return Affine((np.asarray(columns) - origin).T, origin)


def best_affine(case: Case) -> Transform:
    """The least-squares affine map of the known correspondence of two clouds."""
    fixed, moving = case.pair.fixed_landmarks, case.pair.moving_landmarks
    known = np.concatenate([fixed, np.ones((len(fixed), 1))], axis=1)
    solution = np.linalg.lstsq(known, moving, rcond=None)[0]
    return Affine(solution[:-1].T, solution[-1])


# The table


def score(case: Case, transform: Transform) -> float:
    """What `case.measure` names."""
    if case.measure == "metric":
        return simpleitk_metric(case, transform)
    pulled = transform.pull(case.pair.fixed_landmarks)
    errors = np.linalg.norm(pulled - case.pair.moving_landmarks, axis=1)
    if case.measure == "median rTRE":
        return float(np.median(errors) / np.linalg.norm(case.pair.moving.grid.extent))
    return float(errors.mean())


def row(case: Case, other: Callable[[Case], tuple[Transform, float]], repeats: int) -> str:
    """One line: initial, ours, the other; cold and warm seconds of ours, warm ones of the other."""
    ours = [with_zoo(case) for _ in range(1 + repeats)]
    others = [other(case) for _ in range(repeats)]
    scores = [
        score(case, transform)
        for transform in (Affine.identity(case.pair.rank), ours[-1][0], others[-1][0])
    ]
    warm, theirs = (np.median([seconds for _, seconds in each]) for each in (ours[1:], others))
    names = {"mi": "Mattes MI", "ncc": "correlation"}
    measure = names[case.loss] if case.measure == "metric" else case.measure
    values = " | ".join(f"{value:.4f}" for value in scores)
    seconds = f"{ours[0][1]:.1f} | {warm:.1f} | {theirs:.1f}"
    return f"| {case.pair.name} | {case.loss} | {measure} | {values} | {seconds} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER", help="see above")
    parser.add_argument(
        "--quick", action="store_true", help="pictures and every seventh cloud, once"
    )
    parser.add_argument("--repeats", type=int, default=3, help="timed runs, the median counts")
    parser.add_argument("--only", default="", help="pairs with this in their name")
    options = parser.parse_args()
    repeats = 1 if options.quick else options.repeats

    def best_map(case: Case) -> tuple[Transform, float]:
        return best_affine(case), 0.0

    images = list(picture_cases(options.data))
    clouds = list(cloud_cases(options.data))
    if options.quick:
        clouds = clouds[::7]
    else:
        images += volume_cases(options.data)
    print(f"Keras on {keras.backend.backend()}, SimpleITK {sitk.Version.VersionString()}\n")
    head = "| pair | loss | measure | initial | ours | {} | s ours, first | s ours | s {} |"
    for cases, other, name in (
        (images, with_simpleitk, "SimpleITK"),
        (clouds, best_map, "best affine"),
    ):
        print(head.format(name, name) + "\n|---|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
        for case in cases:
            if options.only in case.pair.name:
                print(row(case, other, repeats), flush=True)
        print()


if __name__ == "__main__":
    main()
