"""Readers of published benchmarks of cloud registration, and how their tables are made.

None of them downloads anything. Each returns a `zoo.Pair` of clouds, or a sequence of pairs that
are read when they are asked for. `zoo.data.benchmarks.lung_keypoints` reads Learn2Reg's.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scipy.interpolate import RBFInterpolator

from zoo.data.benchmarks import DIRLAB_COPDGENE
from zoo.data.keypoints import gaussian_mean
from zoo.data.pair import LazyPairs, Pair
from zoo.data.scan import Scan
from zoo.io import existing, require
from zoo.io.landmarks import read_correspondences, read_landmarks
from zoo.io.vtk import read_vtk_points
from zoo.ops.arguments import at_least, one_of

PVT_PHASES = {"INSP": "i", "EXP": "e"}
PVT_SLICE = 0.625  # mm
DIRLAB_SLICES = 4  # of a scan, in one of the downsampled volume on which landmarks were set

PVT_COPD = {
    1: (0.625, (482, (-148.0, -145.0, -310.625)), (473, (-148.0, -145.0, -305.0))),
    2: (0.644531, (406, (-176.9, -165.0, -254.625)), (378, (-177.0, -165.0, -237.125))),
    3: (0.652344, (502, (-149.4, -167.0, -343.125)), (464, (-149.4, -167.0, -319.375))),
    4: (0.589844, (501, (-124.1, -151.0, -308.25)), (461, (-124.1, -151.0, -283.25))),
    5: (0.646484, (522, (-145.9, -175.9, -353.875)), (522, (-145.9, -175.9, -353.875))),
    6: (0.632812, (474, (-158.4, -162.0, -299.625)), (461, (-158.4, -162.0, -291.5))),
    7: (0.625, (446, (-150.7, -160.0, -301.375)), (407, (-151.0, -160.0, -284.25))),
    8: (0.585938, (458, (-142.3, -147.4, -313.625)), (426, (-142.3, -147.4, -294.625))),
    9: (0.664062, (461, (-156.1, -170.0, -310.25)), (380, (-156.1, -170.0, -259.625))),
    10: (0.742188, (535, (-189.0, -176.0, -355.0)), (539, (-189.0, -176.0, -346.25))),
}
"""In-plane spacing in mm of the ten test cases; slices and origin of inhalation, of exhalation."""

FRAMES = ("scanner", "stack")
LUNG250M_CLOUDS = ("keypoints", "skeleton", "vessels")
LUNG250M_TEST = range(104, 114)
LUNG250M_VALIDATION = (2, 8, 54, 55, 56, 94, 97, *range(114, 124))

DEPTH = 35.0  # m
GROUND = -1.4  # m


def pvt1010(folder: str | Path, fixed: str = "EXP", moving: str = "INSP") -> LazyPairs:
    """The training pairs of PVT1010: pulmonary vessels of COPDGene in two phases, in mm.

    Data: the links in github.com/uncbiag/robot (Shen et al., NeurIPS 2021); the scans are those of
    COPDGene. Format: legacy VTK files `copd_000011_INSP.vtk` and `copd_000011_EXP.vtk`, scanner
    coordinates. Cases 1 to 10 are DIR-Lab's and left to `pvt1010_dirlab`; cases without both phases
    are left out. Of 65,000 to 180,000 points, all are kept.

    Args:
        folder: that of the files.
        fixed: phase of the fixed clouds, "EXP" or "INSP".
        moving: phase of the moving ones.

    Raises:
        FileNotFoundError: if there is no pair.
        ValueError: for an unknown phase.
    """
    _check_phases(fixed, moving)
    makers = []
    for path in sorted(Path(folder).glob(f"copd_*_{fixed}.vtk")):
        other = path.with_name(path.name.replace(f"_{fixed}", f"_{moving}"))
        if int(path.name.split("_")[1]) > len(PVT_COPD) and other.is_file():
            makers.append(partial(_vtk_pair, path, other))
    if not makers:
        raise FileNotFoundError(f"folder: no pairs copd_*_{fixed}.vtk in {str(folder)!r}.")
    return LazyPairs(makers)


def pvt1010_dirlab(
    folder: str | Path,
    landmarks: str | Path,
    case: int,
    fixed: str = "EXP",
    moving: str = "INSP",
    frame: str = "scanner",
    slice_bias: float = 2.0,
) -> Pair:
    """A test pair of PVT1010 with the 300 expert landmarks of DIR-Lab COPDgene, in mm.

    Data: clouds as in `pvt1010`; landmarks from www.dir-lab.com, after registration. Format:
    `copd_000001_INSP.vtk`, ...; `copd1_300_iBH_xyz_r1.txt`, ...: voxel indices counted from 1 in a
    volume of every fourth slice (2.5 mm) whose slices count from the top, which the clouds'
    scanner coordinates do not. Inhaled landmarks are moved, as published.

    Args:
        folder: that of the clouds.
        landmarks: folder of the landmarks, or one above.
        case: 1 to 10.
        fixed: phase of the fixed cloud, "EXP" or "INSP".
        moving: phase of the moving one.
        frame: "scanner" leaves the clouds where they are (a mean initial error of 23.4 mm over the
            ten cases). "stack" subtracts the origin of each scan and lets the stacks end at the
            same top slice, as ChasingClouds does.
        slice_bias: of a landmark within its four slices, in slices; 1.5 is the middle, RobOT found
            2 to fit better.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for an unknown case, phase or frame.
    """
    _check_phases(fixed, moving)
    one_of("case", case, PVT_COPD)
    one_of("frame", frame, FRAMES)
    plane, *scans = PVT_COPD[case]
    phases = dict(zip(PVT_PHASES, scans, strict=True))
    spacing = np.array([plane, plane, PVT_SLICE])
    all_slices = DIRLAB_SLICES * DIRLAB_COPDGENE[case][0][2]
    clouds, marks = [], []
    for phase in (fixed, moving):
        slices, origin = phases[phase]
        points = read_vtk_points(Path(folder) / f"copd_{case:06d}_{phase}.vtk")
        index = read_landmarks(
            _below(landmarks, f"copd{case}_300_{PVT_PHASES[phase]}BH_xyz_r1.txt")
        )
        voxel = index - 1
        voxel[:, 2] = slices - DIRLAB_SLICES * index[:, 2] + slice_bias
        offset = np.array(origin)
        if frame == "stack":
            points = points - origin
            offset = np.array([0, 0, (all_slices - slices) * PVT_SLICE])
            points[:, 2] += offset[2]
        clouds.append(Scan(points, name=f"PVT1010 case {case} {phase}"))
        marks.append(voxel * spacing + offset)
    return Pair(*clouds, fixed_landmarks=marks[0], moving_landmarks=marks[1])


def lung250m(
    folder: str | Path,
    case: int,
    cloud: str = "keypoints",
    landmarks: str | Path | None = None,
    fixed: int = 1,
    moving: int = 2,
) -> Pair:
    """A pair of Lung250M-4B: vessels of one patient in two states of breathing, in mm.

    Data: the link in github.com/multimodallearning/Lung250M-4B (Falta et al., NeurIPS 2023; the
    licence differs between its sources). Format: `cloudsTr/coordinates/case_001_1.pth` (or
    `cloudsTs`), for torch: a list of three arrays `[n, 3]`, and likewise `artery_vein`;
    `corrfieldTr/case_001.csv` with automatic correspondences of six numbers. Expert landmarks are
    in `lms_validation.pth`, by the number of the case, `[n, 6]`. Cases `LUNG250M_VALIDATION` and
    `LUNG250M_TEST` are those of the site.

    Args:
        folder: that holds `cloudsTr` and `cloudsTs`.
        case: 0 to 123.
        cloud: "keypoints" (8,192), "skeleton" or "vessels".
        landmarks: `lms_validation.pth`; None takes the automatic correspondences, where there are.
        fixed: scan of the fixed cloud, 1 or 2.
        moving: scan of the moving one.

    Raises:
        FileNotFoundError: if a file is missing.
        ImportError: without torch, which reads the files.
        ValueError: for an unknown cloud or scan, files of other content, or a case without
            landmarks in that file.
    """
    one_of("cloud", cloud, LUNG250M_CLOUDS)
    one_of("fixed", fixed, (1, 2))
    one_of("moving", moving, (1, 2))
    folder, index = Path(folder), LUNG250M_CLOUDS.index(cloud)
    scans, parts = [], {}
    for side, scan in (("fixed", fixed), ("moving", moving)):
        name = f"case_{case:03d}_{scan}"
        subsets = [folder / f"clouds{subset}" for subset in ("Tr", "Ts")]
        base = next(
            (each for each in subsets if (each / f"coordinates/{name}.pth").is_file()), None
        )
        if base is None:
            raise FileNotFoundError(f"folder: no {name}.pth in cloudsTr or cloudsTs.")
        scans.append(Scan(_torch_arrays(base / f"coordinates/{name}.pth", index), name=name))
        labels = base / f"artery_vein/{name}.pth"
        if labels.is_file():
            parts[f"{side}_labels"] = _torch_arrays(labels, index).reshape(-1)
    marks = None
    automatic = folder / "corrfieldTr" / f"case_{case:03d}.csv"
    if landmarks is not None:
        table = _torch_load(existing(landmarks, "landmarks"))
        if str(case) not in table:
            raise ValueError(f"landmarks: none of case {case}, only of {', '.join(table)}.")
        rows = np.asarray(table[str(case)], dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != 6:
            raise ValueError(f"landmarks must be rows of 6 numbers, not {rows.shape}.")
        marks = rows[:, :3], rows[:, 3:]
    elif automatic.is_file():
        marks = read_correspondences(automatic)
    if marks is not None:
        parts |= {"fixed_landmarks": marks[fixed - 1], "moving_landmarks": marks[moving - 1]}
    return Pair(*scans, **parts)


def lcsd500(
    folder: str | Path, fixed: str, moving: str, correspondences: str | None = None
) -> LazyPairs:
    """Pairs of the Longitudinal Cancer Screening Dataset, or of any folder of paired clouds.

    Data: the link in github.com/mattiaspaul/ChasingClouds (CC BY 4.0); pulmonary vessels of NLST,
    found by TotalSegmentator. The names of the files in its archive were not known here, so the
    caller gives them: every pattern is a path below the folder in which `{case}` stands for what
    tells the pairs apart, for example `clouds/{case}_first.vtk`.

    Args:
        folder: that of the files.
        fixed: pattern of the fixed clouds, of a kind that `zoo.Scan.read` reads.
        moving: likewise. Cases without both clouds are left out.
        correspondences: pattern of tables of six columns separated by commas, a fixed point and
            where it is in the moving cloud, such as corrField writes them. They become landmarks;
            a case without such a table has none.

    Raises:
        FileNotFoundError: if there is no pair, or no table for any.
        ValueError: for a pattern that does not hold `{case}` once, begins at the root, or is the
            same for both clouds; for a table of another form when its pair is asked for.
    """
    folder = Path(folder)
    given = {"fixed": fixed, "moving": moving, "correspondences": correspondences}
    for argument, pattern in given.items():
        if pattern is not None and pattern.count("{case}") != 1:
            raise ValueError(f"{argument} must hold {{case}} once, not {pattern!r}.")
        if pattern is not None and Path(pattern).is_absolute():
            raise ValueError(f"{argument} must be a path below folder, not {pattern!r}.")
    if fixed == moving:
        raise ValueError(f"fixed and moving must differ; both are {fixed!r}.")
    before, after = fixed.split("{case}")
    makers, tables = [], []
    for path in sorted(folder.glob(f"{glob.escape(before)}*{glob.escape(after)}")):
        case = path.relative_to(folder).as_posix()[len(before) :].removesuffix(after)
        other = folder / moving.replace("{case}", case)
        if other.is_file():
            table = correspondences and folder / correspondences.replace("{case}", case)
            tables.append(table if table and table.is_file() else None)
            makers.append(partial(_paired_files, case, path, other, tables[-1]))
    if not makers:
        raise FileNotFoundError(f"folder: no pairs {fixed}, {moving} in {str(folder)!r}.")
    if correspondences is not None and not any(tables):
        raise FileNotFoundError(f"correspondences: no case has a table {correspondences}.")
    return LazyPairs(makers)


def flyingthings3d(folder: str | Path, points: int | None = 8192, seed: int = 0) -> LazyPairs:
    """Scenes of FlyingThings3D without occlusion, in m.

    Data: the subset of lmb.informatik.uni-freiburg.de (Mayer et al., CVPR 2016; research only),
    made into clouds by the scripts of github.com/laoreja/HPLFlowNet (Gu et al., CVPR 2019). Format:
    `train/0000000/pc1.npy` and `pc2.npy`, float32 `[n, 3]`, row for row. The first and the last
    axis are turned round, as all who use these files do.

    Args:
        folder: `train` or `val`.
        points: of each cloud, drawn independently; None for all.
        seed: of the draw.

    Raises:
        FileNotFoundError: if there is no scene.
    """
    return _scenes(folder, points, seed, flip=True, ground=True)


def kitti_scene_flow(
    folder: str | Path, points: int | None = 8192, ground: bool = False, seed: int = 0
) -> LazyPairs:
    """Scenes of KITTI Scene Flow 2015 as clouds, in m.

    Data: cvlibs.net/datasets/kitti (Menze and Geiger, CVPR 2015; CC BY-NC-SA 3.0), made into clouds
    by the scripts of github.com/laoreja/HPLFlowNet. Format: `000000/pc1.npy` and `pc2.npy`, float32
    `[n, 3]`, row for row. What is 35 m away or more is left out.

    Args:
        folder: that of the scenes.
        points: of each cloud, drawn independently; None for all.
        ground: keep the points that are lower than -1.4 m in both clouds.
        seed: of the draw.

    Raises:
        FileNotFoundError: if there is no scene.
    """
    return _scenes(folder, points, seed, flip=False, ground=ground)


def spread_flow(
    points: np.ndarray,
    flow: np.ndarray,
    landmarks: np.ndarray,
    method: str = "spline",
    ridge: float = 0.1,
    unit: float = 150.0,
    width: float = 5.0,
) -> np.ndarray:
    """The flow at landmarks from that at points, as the benchmarks on lungs define it.

    ChasingClouds and Lung250M-4B fit a thin-plate spline `r^2 log r` (ridge 0.1 and 0.01) and read
    it from a coarse lattice; here it is evaluated at the landmarks themselves. For 8,192 points
    that takes 1 GB and tens of seconds. The group's mean-teacher paper (arXiv 2306.14749) averages
    with Gaussian weights of 5 mm.

    Args:
        points: `[n, 3]` in mm.
        flow: `[n, 3]` in mm.
        landmarks: `[k, 3]` in mm.
        method: "spline" or "gaussian".
        ridge: added to the diagonal of the kernel, with lengths in `unit`.
        unit: mm.
        width: standard deviation of the Gaussian, mm.

    Returns:
        float64 `[k, 3]`.

    Raises:
        ValueError: for an unknown method or shapes that do not fit.
    """
    points, flow, landmarks = (np.asarray(each, float) for each in (points, flow, landmarks))
    if points.shape != flow.shape or points.ndim != 2 or points.shape[1:] != landmarks.shape[1:]:
        raise ValueError(
            "points, flow and landmarks must have the shapes [n, 3], [n, 3] and [k, 3], not "
            f"{points.shape}, {flow.shape} and {landmarks.shape}."
        )
    if one_of("method", method, ("spline", "gaussian")) == "spline":
        kernel = {"kernel": "thin_plate_spline", "smoothing": ridge}
        return RBFInterpolator(points / unit, flow, **kernel)(landmarks / unit)
    return gaussian_mean(landmarks, points, flow, width)


def landmark_errors(
    fixed: np.ndarray,
    moved: np.ndarray,
    factors: Sequence[float] = (1.0, 1.0, 1.0),
    swapped_spacing: Sequence[float] | None = None,
) -> np.ndarray:
    """Distances between landmarks and their moved counterparts.

    Args:
        fixed: `[n, 3]` in mm, components x, y, z.
        moved: `[n, 3]`.
        factors: for the error along each axis. The mean-teacher paper (arXiv 2306.14749) uses the
            deviation of the moving cloud over that of the fixed one, to compare with methods that
            register exhalation to inhalation.
        swapped_spacing: to reproduce the tables of ChasingClouds only: voxel size x, y, z of the
            full scan. There the errors in voxels along z, y, x are multiplied with the sizes along
            x, y, z, so those along x and z are wrong by the ratio of the two.

    Returns:
        float64 `[n]` in mm.

    Raises:
        ValueError: for shapes that do not fit.
    """
    fixed, moved = np.asarray(fixed, dtype=np.float64), np.asarray(moved, dtype=np.float64)
    if fixed.shape != moved.shape or fixed.ndim != 2 or fixed.shape[1] != 3 or not len(fixed):
        raise ValueError(
            f"fixed and moved must have the same shape [n, 3], not {fixed.shape} and {moved.shape}."
        )
    scale = np.array(factors, dtype=np.float64)
    if swapped_spacing is not None:
        sizes = np.array(swapped_spacing, dtype=np.float64)
        scale = scale * sizes[::-1] / sizes
    return np.linalg.norm((fixed - moved) * scale, axis=1)


def summarise_landmark_errors(cases: Sequence[np.ndarray]) -> dict:
    """The row of a published table: statistics over the landmarks of all cases together.

    Args:
        cases: results of `landmark_errors`, one for each case.

    Returns:
        `mean`, `std` (of the population), `p25`, `p50`, `p75` in mm, and `case_means`, a list.

    Raises:
        ValueError: for no cases.
    """
    if not len(cases):
        raise ValueError("cases must hold the errors of at least one case.")
    errors = np.concatenate(cases)
    quartiles = np.percentile(errors, (25, 50, 75))
    return {
        "mean": float(errors.mean()),
        "std": float(errors.std()),
        **{f"p{share}": float(each) for share, each in zip((25, 50, 75), quartiles, strict=True)},
        "case_means": [float(np.mean(case)) for case in cases],
    }


def _check_phases(*phases: str):
    if set(phases) - set(PVT_PHASES):
        raise ValueError(f"phases must be of {tuple(PVT_PHASES)}, not {phases}.")


def _vtk_pair(fixed: Path, moving: Path) -> Pair:
    return Pair(*(Scan(read_vtk_points(path), name=path.stem) for path in (fixed, moving)))


def _paired_files(case: str, fixed: Path, moving: Path, table: Path | None) -> Pair:
    first, second = (None, None) if table is None else read_correspondences(table)
    return Pair(
        Scan.read(fixed),
        Scan.read(moving),
        fixed_landmarks=first,
        moving_landmarks=second,
        name=case,
    )


def _below(folder: str | Path, name: str) -> Path:
    found = sorted(Path(folder).rglob(name))
    if not found:
        raise FileNotFoundError(f"landmarks: no {name!r} below {str(folder)!r}.")
    return found[0]


def _torch_load(path: Path):
    torch = require("torch", "torch", "reading .pth files")
    # Nothing but arrays and containers: other pickles could run code.
    return torch.load(path, map_location="cpu", weights_only=True)


def _torch_arrays(path: Path, index: int) -> np.ndarray:
    clouds = _torch_load(path)
    if not isinstance(clouds, list | tuple) or len(clouds) != len(LUNG250M_CLOUDS):
        raise ValueError(f"path: {path.name!r} must hold a list of {len(LUNG250M_CLOUDS)} arrays.")
    return np.asarray(clouds[index])


def _scenes(folder: str | Path, points, seed: int, flip: bool, ground: bool) -> LazyPairs:
    at_least("points", points, 2, optional=True)
    scenes = sorted(path.parent for path in Path(folder).glob("*/pc1.npy"))
    if not scenes:
        raise FileNotFoundError(f"folder: no scenes */pc1.npy in {str(folder)!r}.")
    return LazyPairs([partial(_scene, scene, points, seed, flip, ground) for scene in scenes])


def _scene(scene: Path, points: int | None, seed: int, flip: bool, ground: bool) -> Pair:
    before, after = (
        np.load(existing(scene / f"pc{number}.npy"), allow_pickle=False).astype(np.float64)
        for number in (1, 2)
    )
    if before.shape != after.shape or before.ndim != 2 or before.shape[1] != 3:
        raise ValueError(f"scene {scene.name!r}: shapes {before.shape} and {after.shape}.")
    if flip:
        before, after = before * (-1, 1, -1), after * (-1, 1, -1)
    keep = (before[:, 2] < DEPTH) & (after[:, 2] < DEPTH)
    if not ground:
        keep &= ~((before[:, 1] < GROUND) & (after[:, 1] < GROUND))
    rows, rng = np.flatnonzero(keep), np.random.default_rng(seed)
    source, target = rng.permutation(rows)[:points], rng.permutation(rows)[:points]
    if len(source) < 2:
        raise ValueError(f"scene {scene.name!r} has only {len(source)} points within {DEPTH:g} m.")
    return Pair(
        Scan(after[target], name=f"{scene.name} second"),
        Scan(before[source], name=f"{scene.name} first"),
        fixed_landmarks=after[source],
        moving_landmarks=before[source],
        name=scene.name,
    )
