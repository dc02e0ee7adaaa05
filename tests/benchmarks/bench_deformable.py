"""Deformable registration of real pairs, beside SimpleITK's demons and B-splines and ANTs SyN.

    python tests/benchmarks/bench_deformable.py DATA_FOLDER [--only NAME] [--json FILE]

DATA_FOLDER is that of bench_affine.py; of its pairs the liver MRI, the histology, the hands and
the brain slices r16 and r64 are registered, those that are there, and `--hippocampi` random pairs
of the last 40 hippocampi, which no preset was trained on, as one row of means. All methods start
from the same affine alignment by zoo, those of the liver from the identity, the networks of the
hippocampi from where the images are centred: demons, SyN and DIRV-Net on the moving image as it
resamples it, the B-spline with it as the initial transform of the moving image. All
results are measured alike, as the start composed with a field on the fixed grid: the mean error
of the landmarks in the liver and, behind the slash, of all; the median relative error
(histology); the mean error (hands); the correlation of intensities (brain slices); the mean Dice
of two labels (hippocampi, of which "ours" has default settings, "ours, fit" is the preset
`dirvnet.hippocampus3d` and there is no B-spline). Seconds are
from the start on, ours with construction and compilation; those of `fit` are its own, with
another run of the network from where it starts.

SimpleITK's settings:

* demons: diffeomorphic (Vercauteren et al., NeuroImage 2009) or fast symmetric forces, after a
  match of the histogram (1024 levels, 7 points, above the mean; also between the stains, where it
  is the best there is for demons); levels shrunk by 8, 4, 2 and 1, less along thick slices;
  at most 200, 200, 100 and 50 iterations, until the update is below 0.001 in the root mean square;
  after every step, of 2 voxels at most, the field is smoothed by a Gaussian of 2 voxels in the
  plane and of 1.5 in space, chosen by the landmarks of the hands and of one liver.
* B-spline: cubic, 5, 10 and 20 cells along the longest side on three levels shrunk by 4, 2 and 1
  and smoothed by 2, 1 and 0 voxels; on all voxels, of volumes on all, a quarter and a twentieth
  at random (with all of them a few steps take minutes); L-BFGS, at most 200 iterations on each
  level, until five gain less than 0.00001 of the metric: Mattes mutual information of 32 bins for
  the stains, correlation for the rest.
ANTs' SyN, where `antspyx` is installed, as `ants.registration(type_of_transform="SyNOnly")` with
the correlation of windows of radius 2 ("CC"), at most 40, 40 and 20 iterations, one seed.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import SimpleITK as sitk
from bench_affine import Case, _to_sitk, _with_metric, picture_cases, score, volume_cases, with_zoo

from zoo.geometry import Grid, from_itk
from zoo.io import written_whole
from zoo.io.landmarks import read_landmarks
from zoo.metrics.registration import fold_percentage
from zoo.models.dirvnet import DIRVNet
from zoo.recipes import hippocampus_datasets
from zoo.registration import measure
from zoo.transform import Affine, Dense, Transform

# Our columns, by the dimension of the images.
DESCENT = {
    "levels": 5,
    "units": 10,
    "share_units": 10,
    "share_levels": True,
    "filters": 3,
    "data_kernel": 1,
    "smoothness_kernel": 3,
    "similarity": "lncc",
}
MORE = {"units": 30, "share_units": 30}
MODEL = {2: DESCENT | {"smoothness": 0.5}, 3: DESCENT | MORE | {"smoothness": 0.2}}
LOSS_WEIGHTS = {"smoothness": 0.3}  # of fit(pair)
FIT = {"epochs": 80, "learning_rate": 0.1}

# SimpleITK's columns.
DEMONS = {
    "diffeomorphic": sitk.DiffeomorphicDemonsRegistrationFilter,
    "symmetric": sitk.FastSymmetricForcesDemonsRegistrationFilter,
}
DEMONS_LEVELS = ((8, 200), (4, 200), (2, 100), (1, 50))  # shrinking, iterations
DEMONS_SMOOTHING = {2: 2.0, 3: 1.5}  # voxels, by dimension
DEMONS_STEP = 2.0  # voxels
DEMONS_UPDATE = 1e-3  # root mean square at which a level ends
CELLS = 5  # of the B-spline's first level, along the longest side
BSPLINE_ITERATIONS = 200
BSPLINE_SAMPLES = (1.0, 0.25, 0.05)  # of the voxels of volumes, coarse to fine

PICTURES = {
    "hands, X-ray": "ncc",
    "histology, HE/proSPC": "mi",
    "brain slices r16/r64": "ncc",
}
COLUMNS = ("initial", "affine", "ours", "ours, fit", "demons", "B-spline", "SyN")
SYN = {"syn_metric": "CC", "syn_sampling": 2, "reg_iterations": (40, 40, 20), "random_seed": 1}


@dataclass
class LiverCase(Case):
    """The first `inside` landmarks lie in the liver."""

    inside: int = 0


def cases(data: Path) -> Iterator[Case]:
    """The pairs, each with the loss of its affine alignment."""
    for case in picture_cases(data):
        if PICTURES.get(case.pair.name) == case.loss:
            yield case
    for case in volume_cases(data):
        if case.loss == "lncc":
            subject = case.pair.name.removeprefix("liver MRI, ").partition(" ")[0]
            folder = data / "ptvreg_mri" / "ETHLiver" / f"dataset{subject}"
            inside = len(read_landmarks(folder / "exhMasterLMliver.vtk"))
            yield LiverCase(**vars(case), inside=inside)


# The methods; each returns what is left after the start, and its seconds


def with_dirvnet(case: Case, start: Affine) -> dict[str, tuple[Transform, float]]:
    """DIRV-Net as it is and after `fit(pair)`."""
    pair = case.pair.aligned(start)
    begin = time.perf_counter()
    # Stains differ in contrast everywhere, states of one organ do not.
    local = {"intensities": "local"} if case.loss == "mi" else {}
    model = DIRVNet(dims=pair.rank, **MODEL[pair.rank], **local)
    model.compile(loss_weights=LOSS_WEIGHTS)
    plain = model.transform(pair), time.perf_counter() - begin
    begin = time.perf_counter()
    model.fit(pair, verbose=0, **FIT)
    return {"ours": plain, "ours, fit": (model.transform(pair), time.perf_counter() - begin)}


def with_demons(case: Case, start: Affine, variant: str) -> tuple[Transform, float]:
    """Demons from coarse to fine."""
    pair = case.pair.aligned(start)
    begin = time.perf_counter()
    fixed, moving = (_to_sitk(image) for image in (pair.fixed, pair.moving))
    moving = sitk.HistogramMatching(moving, fixed, 1024, 7, True)
    field = None
    for shrinking, iterations in DEMONS_LEVELS:
        level = [_shrunk(image, shrinking) for image in (fixed, moving)]
        spacing = np.asarray(level[0].GetSpacing())
        method = DEMONS[variant]()
        method.SetNumberOfIterations(iterations)
        method.SetMaximumRMSError(DEMONS_UPDATE)
        method.SetSmoothDisplacementField(True)
        deviations = DEMONS_SMOOTHING[pair.rank] * spacing.min() / spacing
        method.SetStandardDeviations(deviations.tolist())
        method.SetMaximumUpdateStepLength(DEMONS_STEP)
        method.SetUseGradientType(method.Symmetric)
        if field is None:
            field = method.Execute(*level)
        else:
            field = method.Execute(*level, _on_grid_of(field, level[0]))
    return _as_dense(field, pair.fixed.grid), time.perf_counter() - begin


def with_bspline(case: Case, start: Affine) -> tuple[Transform, float]:
    """A cubic B-spline, refined with the images."""
    begin = time.perf_counter()
    fixed, moving = (_to_sitk(image) for image in (case.pair.fixed, case.pair.moving))
    extent = case.pair.fixed.grid.extent
    cells = np.maximum(np.rint(CELLS * extent / extent.max()), 1).astype(int)
    transform = sitk.BSplineTransformInitializer(fixed, cells.tolist(), order=3)
    method = _with_metric(case.loss)
    if case.pair.rank == 3:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentagePerLevel(BSPLINE_SAMPLES, 1)
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetOptimizerAsLBFGS2(
        solutionAccuracy=1e-6,
        numberOfIterations=BSPLINE_ITERATIONS,
        deltaConvergenceDistance=5,
        deltaConvergenceTolerance=1e-5,
    )
    affine = sitk.AffineTransform(case.pair.rank)
    affine.SetMatrix(start.matrix.ravel().tolist())
    affine.SetTranslation(start.offset.tolist())
    method.SetMovingInitialTransform(affine)
    method.SetInitialTransformAsBSpline(transform, inPlace=True, scaleFactors=[1, 2, 4])
    method.Execute(fixed, moving)
    field = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        fixed.GetSize(),
        fixed.GetOrigin(),
        fixed.GetSpacing(),
        fixed.GetDirection(),
    )
    return _as_dense(field, case.pair.fixed.grid), time.perf_counter() - begin


def with_syn(case: Case, start: Affine) -> tuple[Transform, float]:
    """Symmetric normalisation (Avants et al., Medical Image Analysis 2008) by antspyx."""
    import ants

    pair = case.pair.aligned(start)
    begin = time.perf_counter()
    fixed, moving = (
        ants.from_numpy(
            image.array[..., 0],
            origin=image.grid.origin.tolist(),
            spacing=image.grid.spacing.tolist(),
            direction=np.asarray(image.grid.direction),
        )
        for image in (pair.fixed, pair.moving)
    )
    found = ants.registration(
        fixed, moving, "SyNOnly", initial_transform="Identity", **SYN
    )["fwdtransforms"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = ants.apply_transforms(fixed, moving, found, compose=f"{folder}/whole")
        return Transform.load(path), time.perf_counter() - begin


def _shrunk(image: sitk.Image, shrinking: int) -> sitk.Image:
    """Smoothed and subsampled; thick slices are kept until the other axes are as coarse."""
    spacing = np.asarray(image.GetSpacing())
    factors = np.maximum(np.rint(shrinking * spacing.min() / spacing), 1).astype(int)
    deviations = np.where(factors > 1, 0.5 * factors * spacing, 0.0)
    if deviations.any():
        image = sitk.DiscreteGaussian(image, (deviations**2).tolist())
    return sitk.Shrink(image, factors.tolist())


def _on_grid_of(field: sitk.Image, image: sitk.Image) -> sitk.Image:
    resample = sitk.ResampleImageFilter()
    resample.SetReferenceImage(image)
    resample.SetInterpolator(sitk.sitkLinear)
    resample.UseNearestNeighborExtrapolatorOn()  # a finer grid reaches further
    return resample.Execute(field)


def _as_dense(field: sitk.Image, grid: Grid) -> Dense:
    vectors = from_itk(sitk.GetArrayFromImage(field), grid.rank)
    return Dense(grid.vectors_to_index(vectors), grid)


# The table


def scores(case: Case, transform: Transform) -> list[float]:
    """What `case.measure` names; for the liver MRI the mean in the liver and of all."""
    if case.measure == "metric":
        return [measure(transform, case.pair)["ncc"]]
    if not isinstance(case, LiverCase):
        return [score(case, transform)]
    errors = np.linalg.norm(
        transform.pull(case.pair.fixed_landmarks) - case.pair.moving_landmarks, axis=1
    )
    return [float(errors[: case.inside].mean()), float(errors.mean())]


def register(case: Case, demons: str) -> dict:
    """All methods on one pair: scores, seconds and folds by column."""
    affine, seconds = with_zoo(case)
    # The breathing states of a liver share the scanner's frame, and no method gains by the affine.
    same_frame = isinstance(case, LiverCase)
    start = Affine.identity(case.pair.rank, case.pair.fixed.grid) if same_frame else affine
    results = with_dirvnet(case, start)
    results["demons"] = with_demons(case, start, demons)
    results["B-spline"] = with_bspline(case, start)
    if importlib.util.find_spec("ants"):
        results["SyN"] = with_syn(case, start)
    grid = case.pair.fixed.grid
    measured = {
        "initial": scores(case, Affine.identity(case.pair.rank, grid)),
        "affine": scores(case, affine),
    }
    measured |= {name: scores(case, start @ rest) for name, (rest, _) in results.items()}
    names = {"metric": "correlation", "mean": "mean in the liver / of all, mm"}
    if not isinstance(case, LiverCase):
        names["mean"] = "mean"
    return {
        "pair": case.pair.name,
        "measure": names.get(case.measure, case.measure),
        "scores": measured,
        "seconds": {"affine": seconds} | {name: each for name, (_, each) in results.items()},
        "folds_percent": {
            name: fold_percentage(rest.jacobian_determinant(grid))
            for name, (rest, _) in results.items()
        },
    }


def hippocampi(data: Path, count: int, demons: str) -> dict:
    """A row of means over random pairs of the hippocampi that are only tested on."""
    import zoo

    _, pairs = hippocampus_datasets(data / "msd_hippocampus")
    ours = {"ours": zoo.create("dirvnet", dims=3), "ours, fit": zoo.load("dirvnet.hippocampus3d")}
    found = []
    for pair in pairs[:count]:
        case = Case(pair, "ncc", "mean Dice")
        affine, seconds = with_zoo(case)
        whole, taken = {"affine": affine}, {"affine": seconds}
        for name, model in ours.items():
            begin = time.perf_counter()
            whole[name], taken[name] = model.transform(pair), time.perf_counter() - begin
        rest, taken["demons"] = with_demons(case, affine, demons)
        whole["demons"] = affine @ rest
        if importlib.util.find_spec("ants"):
            rest, taken["SyN"] = with_syn(case, affine)
            whole["SyN"] = affine @ rest
        measured = {name: measure(transform, pair) for name, transform in whole.items()}
        dice = {name: each["dice"] for name, each in measured.items()}
        dice["initial"] = measured["affine"]["initial_dice"]
        folds = {name: each["folds_percent"] for name, each in measured.items()}
        found.append((dice, taken, folds))
        print(pair.name, {name: round(value, 3) for name, value in dice.items()}, flush=True)

    def means(which: int) -> dict[str, float]:
        return {
            name: float(np.mean([each[which][name] for each in found])) for name in found[0][which]
        }

    return {
        "pair": f"{len(found)} pairs of hippocampi",
        "measure": "mean Dice",
        "scores": {name: [value] for name, value in means(0).items()},
        "seconds": means(1),
        "folds_percent": means(2),
    }


def as_line(row: dict) -> str:
    """A row of the table: scores, then seconds and folds of the deformable methods."""
    digits = 4 if row["measure"] in ("correlation", "median rTRE", "mean Dice") else 2
    cells = [row["pair"], row["measure"]]
    for name in COLUMNS:
        values = row["scores"].get(name, ())
        cells.append(" / ".join(f"{value:.{digits}f}" for value in values))
    for key, format in (("seconds", ".0f"), ("folds_percent", ".2f")):
        values = row[key]
        cells.append(", ".join(f"{values[name]:{format}}" for name in COLUMNS if name in values))
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER", help="see above")
    parser.add_argument("--only", default="", metavar="NAME", help="pairs with this in their name")
    parser.add_argument("--hippocampi", type=int, default=40, metavar="N", help="pairs, 0 for none")
    parser.add_argument("--demons", choices=DEMONS, default="diffeomorphic", help="their variant")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, too")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    backend, version = keras.backend.backend(), sitk.Version.VersionString()
    print(f"Keras on {backend}, SimpleITK {version}, {options.demons} demons\n")
    print(f"| pair | measure | {' | '.join(COLUMNS)} | s from affine on | folds %, from ours on |")
    print(f"|---|---|{'---:|' * (len(COLUMNS) + 2)}", flush=True)
    report = {
        "backend": backend,
        "simpleitk": version,
        "demons": options.demons,
        "model": MODEL,
        "loss_weights": LOSS_WEIGHTS,
        "fit": FIT,
        "rows": [],
    }
    jobs = [
        functools.partial(register, case, options.demons)
        for case in cases(options.data)
        if options.only in case.pair.name
    ]
    whole = all((options.data / "msd_hippocampus" / part).is_dir() for part in ("images", "labels"))
    if whole and options.hippocampi and options.only in "hippocampi":
        jobs.append(functools.partial(hippocampi, options.data, options.hippocampi, options.demons))
    for job in jobs:
        report["rows"].append(job())
        print(as_line(report["rows"][-1]), flush=True)
        if options.json is not None:
            # After every row: a run that is stopped leaves what it has measured.
            with written_whole(options.json) as partial:
                partial.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
