"""Readers of published registration benchmarks. None of them downloads anything.

Each returns a `zoo.Pair`, or a sequence of pairs that are read when they are asked for.
"""

from __future__ import annotations

import csv
import json
import re
from functools import partial
from pathlib import Path

import numpy as np

from zoo.data.image import Image
from zoo.data.pair import LazyPairs, Pair
from zoo.data.scan import Scan
from zoo.geometry import Grid
from zoo.io import existing
from zoo.io.images import read_labels
from zoo.io.landmarks import read_common_landmarks, read_correspondences, read_landmarks
from zoo.ops.arguments import one_of

DIRLAB_4DCT = {
    1: ((256, 256, 94), (0.97, 0.97, 2.5)),
    2: ((256, 256, 112), (1.16, 1.16, 2.5)),
    3: ((256, 256, 104), (1.15, 1.15, 2.5)),
    4: ((256, 256, 99), (1.13, 1.13, 2.5)),
    5: ((256, 256, 106), (1.10, 1.10, 2.5)),
    6: ((512, 512, 128), (0.97, 0.97, 2.5)),
    7: ((512, 512, 136), (0.97, 0.97, 2.5)),
    8: ((512, 512, 128), (0.97, 0.97, 2.5)),
    9: ((512, 512, 128), (0.97, 0.97, 2.5)),
    10: ((512, 512, 120), (0.97, 0.97, 2.5)),
}
"""Voxels and spacing in mm of the cases of DIR-Lab 4DCT, x, y, z."""

DIRLAB_COPDGENE = {
    1: ((512, 512, 121), (0.625, 0.625, 2.5)),
    2: ((512, 512, 102), (0.645, 0.645, 2.5)),
    3: ((512, 512, 126), (0.652, 0.652, 2.5)),
    4: ((512, 512, 126), (0.590, 0.590, 2.5)),
    5: ((512, 512, 131), (0.647, 0.647, 2.5)),
    6: ((512, 512, 119), (0.633, 0.633, 2.5)),
    7: ((512, 512, 112), (0.625, 0.625, 2.5)),
    8: ((512, 512, 115), (0.586, 0.586, 2.5)),
    9: ((512, 512, 116), (0.664, 0.664, 2.5)),
    10: ((512, 512, 135), (0.742, 0.742, 2.5)),
}
"""Voxels and spacing in mm of the cases of DIR-Lab COPDgene, x, y, z."""


def histology_pair(
    fixed: str | Path,
    moving: str | Path,
    fixed_landmarks: str | Path | None = None,
    moving_landmarks: str | Path | None = None,
    grey: bool = True,
) -> Pair:
    """A pair of stained sections as ANHIR and BIRL store them.

    Data: the ANHIR challenge (anhir.grand-challenge.org, after registration); the samples of the
    BIRL framework (github.com/Borda/BIRL, BSD-3). Format: pictures, and for each a .csv `,X,Y` of
    landmarks in pixels, numbered in the first column. Landmarks correspond by number; those of one
    picture only are left out with a warning. A pixel counts as 1 mm, so errors are in pixels.

    Args:
        fixed: picture (ANHIR's "target").
        moving: picture ("source").
        fixed_landmarks: .csv, or None.
        moving_landmarks: .csv, or None; ANHIR hides those of its evaluation pairs.
        grey: make luminance of the colours, which differ between stains.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for files that cannot be read, or landmarks without common numbers.
    """
    images = [Image.read(path) for path in (fixed, moving)]
    if grey:
        images = [image.grey() for image in images]
    points = (None, None)
    if fixed_landmarks is not None and moving_landmarks is not None:
        points = read_common_landmarks(fixed_landmarks, moving_landmarks)
    return Pair(*images, fixed_landmarks=points[0], moving_landmarks=points[1])


def histology_pairs(
    table: str | Path,
    images: str | Path | None = None,
    landmarks: str | Path | None = None,
    status: str | None = None,
    grey: bool = True,
) -> LazyPairs:
    """The pairs that a table of ANHIR or BIRL lists, such as `dataset_medium.csv`.

    Data: see `histology_pair`. Format: a .csv with the columns "Target image", "Source image",
    "Target landmarks", "Source landmarks" and, in ANHIR, "status"; others are ignored. The target
    is the fixed image. Where one of the two landmark files is absent the pair has none.

    Args:
        table: the .csv.
        images: folder to which its paths of images are relative; None is the table's.
        landmarks: folder of its paths of landmarks; None is that of the images.
        status: keep only rows of this status, "training" or "evaluation".
        grey: make luminance of the colours.

    Raises:
        FileNotFoundError: if the table, or an image that it names, is missing.
        ValueError: if it lacks a column, or has no row of that status.
    """
    table = existing(table, "table")
    with open(table, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = {"Target image", "Source image", "Target landmarks", "Source landmarks"}
    columns |= {"status"} if status is not None else set()
    missing = columns - set(rows[0] if rows else ())
    if missing:
        raise ValueError(f"table: {table.name!r} has no rows with the columns {sorted(missing)}.")
    images = table.parent if images is None else Path(images)
    landmarks = images if landmarks is None else Path(landmarks)
    makers = []
    for row in rows:
        if status is not None and row["status"] != status:
            continue
        pictures = [existing(images / row[f"{side} image"]) for side in ("Target", "Source")]
        named = [row[f"{side} landmarks"] for side in ("Target", "Source")]
        points = [landmarks / name if name else None for name in named]
        if not all(path is not None and path.is_file() for path in points):
            points = [None, None]
        makers.append(partial(histology_pair, *pictures, *points, grey=grey))
    if not makers:
        raise ValueError(f"status: {table.name!r} has no rows of the status {status!r}.")
    return LazyPairs(makers)


def dirlab_4dct(folder: str | Path, case: int, fixed: str = "T00", moving: str = "T50") -> Pair:
    """A case of DIR-Lab 4DCT: two phases of breathing with 300 expert landmarks.

    Data: www.dir-lab.com, after registration (Castillo et al., Phys. Med. Biol. 2009). Format:
    folders `Case1Pack` ... `Case10Pack` (`Case8Deploy`) with images `case1_T00_s.img`,
    `case2_T00-ssm.img`, `case6_T00.img`: int16, little endian, x fastest, without a header; and
    landmarks `Case1_300_T00_xyz.txt`, `case6_dirLab300_T00_xyz.txt`: voxel indices counted from 1.
    Voxels and spacings are those of the site. Values stay as stored; the origin is the centre of
    the first voxel, and the axes are those of the file.

    Args:
        folder: that of the case, or one above.
        case: 1 to 10.
        fixed: phase of the fixed image; T00 is the end of inhalation, T50 that of exhalation.
        moving: phase of the moving image. Only T00 and T50 have the 300 landmarks; other phases
            come without.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for an unknown case, or an image that is not of the published size.
    """
    shape, spacing = _published(DIRLAB_4DCT, case)
    images = [
        read_raw(_find(folder, rf"case{case}_{phase}(_s|-ssm)?\.img"), shape, spacing)
        for phase in (fixed, moving)
    ]
    points = [None, None]
    if {fixed, moving} <= {"T00", "T50"}:
        points = [
            _voxel_landmarks(_find(folder, rf"case{case}_(dirLab)?300_{phase}_xyz\.txt"), image)
            for phase, image in zip((fixed, moving), images, strict=True)
        ]
    name = f"4DCT case {case}, {fixed} <- {moving}"
    return Pair(*images, fixed_landmarks=points[0], moving_landmarks=points[1], name=name)


def dirlab_copdgene(folder: str | Path, case: int, fixed: str = "i", moving: str = "e") -> Pair:
    """A case of DIR-Lab COPDgene: breath-hold CT in inhalation and exhalation, 300 landmarks.

    Data: www.dir-lab.com, after registration (Castillo et al., Phys. Med. Biol. 2013). Format:
    `copd1_iBHCT.img`, `copd1_eBHCT.img`, int16 as in `dirlab_4dct`, and `copd1_300_iBH_xyz_r1.txt`,
    `copd1_300_eBH_xyz_r1.txt`: voxel indices counted from 1.

    Args:
        folder: that of the case, or one above.
        case: 1 to 10.
        fixed: "i" for inhalation or "e" for exhalation.
        moving: likewise.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for an unknown case, or an image that is not of the published size.
    """
    shape, spacing = _published(DIRLAB_COPDGENE, case)
    images, points = [], []
    for state in (fixed, moving):
        image = read_raw(_find(folder, rf"copd{case}_{state}BHCT\.img"), shape, spacing)
        images.append(image)
        path = _find(folder, rf"copd{case}_300_{state}BH_xyz_r1\.txt")
        points.append(_voxel_landmarks(path, image))
    name = f"COPDgene case {case}, {fixed} <- {moving}"
    return Pair(*images, fixed_landmarks=points[0], moving_landmarks=points[1], name=name)


def learn2reg(dataset: str | Path, split: str = "training_paired_images") -> LazyPairs:
    """The pairs of a Learn2Reg task.

    Data: learn2reg.grand-challenge.org (each task has its own licence). Format: a
    `..._dataset.json` beside the folders `imagesTr`, `labelsTr`, `masksTr`, `keypointsTr` and
    `landmarksTr` (or `...Ts`); the .json lists pairs `{"fixed": "./imagesTr/A.nii.gz", "moving":
    ...}`, and what belongs to an image has its name in the other folders. Keypoints and landmarks
    are .csv rows `x,y,z` of voxel indices counted from 0; landmarks, which are manual, are
    preferred. A companion is used where both images have it.

    Args:
        dataset: the .json.
        split: key of the list of pairs: "training_paired_images", "registration_val",
            "registration_test".

    Raises:
        FileNotFoundError: if the .json, or an image that it lists, is missing.
        ValueError: for a file that is no such .json, or a split that it does not have.
    """
    dataset = existing(dataset, "dataset")
    try:
        content = json.loads(dataset.read_text(encoding="utf-8"))
        splits = {
            key: [(entry["fixed"], entry["moving"]) for entry in value]
            for key, value in content.items()
            if isinstance(value, list) and value and isinstance(value[0], dict)
            if {"fixed", "moving"} <= set(value[0])
        }
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"dataset: {dataset.name!r} is no Learn2Reg .json: {error}") from error
    if split not in splits:
        raise ValueError(
            f"split: {dataset.name!r} lists no pairs under {split!r}, only under {sorted(splits)}."
        )
    return LazyPairs(
        [
            partial(_learn2reg_pair, *(existing(dataset.parent / path) for path in paths))
            for paths in splits[split]
        ]
    )


def lung_keypoints(
    path: str | Path,
    fixed_spacing: tuple[float, float, float] = (1.75, 1.25, 1.75),
    moving_spacing: tuple[float, float, float] = (1.75, 1.00, 1.25),
) -> Pair:
    """Corresponding keypoints of a Learn2Reg LungCT pair as two clouds in mm.

    Data: `data/l2r_lung_keypoints.zip` of github.com/mattiaspaul/VoxelMorphPlusPlus (MIT). Format:
    .csv rows of six numbers, voxel indices of a point in exhalation (fixed) and in inhalation
    (moving). The correspondence, found automatically, is kept as landmarks.

    Args:
        path: the .csv.
        fixed_spacing: mm along x, y, z.
        moving_spacing: mm along x, y, z.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not hold rows of six numbers.
    """
    path = existing(path)
    fixed, moving = read_correspondences(path)
    fixed, moving = fixed * fixed_spacing, moving * moving_spacing
    return Pair(
        Scan(fixed, name=f"{path.stem} fixed"),
        Scan(moving, name=f"{path.stem} moving"),
        fixed_landmarks=fixed,
        moving_landmarks=moving,
        name=path.stem,
    )


def read_raw(path: str | Path, shape: tuple, spacing: tuple, dtype: str = "<i2") -> Image:
    """Reads a volume without a header, x fastest.

    Args:
        path: the file.
        shape: voxels along x, y, z.
        spacing: mm along x, y, z.
        dtype: of the values; "<i2" is int16, little endian.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not as long as that.
    """
    path = existing(path)
    expected, found = int(np.prod(shape)) * np.dtype(dtype).itemsize, path.stat().st_size
    if found != expected:
        raise ValueError(
            f"path: {path.name!r} must have {expected} bytes for {shape} voxels, not {found}."
        )
    values = np.fromfile(path, dtype).reshape(shape, order="F")
    return Image(np.ascontiguousarray(values), Grid(shape, spacing), path.stem)


def _published(cases: dict, case: int) -> tuple:
    return cases[one_of("case", case, cases)]


def _find(folder: str | Path, pattern: str) -> Path:
    # The packs of the cases differ in folders and in capitals.
    wanted = re.compile(pattern, re.IGNORECASE)
    found = [path for path in sorted(Path(folder).rglob("*")) if wanted.fullmatch(path.name)]
    if not found:
        raise FileNotFoundError(f"folder: no file that matches {pattern!r} below {str(folder)!r}.")
    return found[0]


def _voxel_landmarks(path: Path, image: Image, first: int = 1) -> np.ndarray:
    return image.grid.to_world(read_landmarks(path) - first)


def _learn2reg_pair(fixed: Path, moving: Path) -> Pair:
    images = [Image.read(path) for path in (fixed, moving)]
    parts = {}
    for kind in ("mask", "label"):
        paths = [_beside(path, f"{kind}s", ".nii.gz") for path in (fixed, moving)]
        if all(path.is_file() for path in paths):
            maps = [read_labels(path)[0] for path in paths]
            key = "mask" if kind == "mask" else "labels"
            values = [labels != 0 if kind == "mask" else labels for labels in maps]
            parts |= {f"fixed_{key}": values[0], f"moving_{key}": values[1]}
    for kind in ("landmarks", "keypoints"):
        paths = [_beside(path, kind, ".csv") for path in (fixed, moving)]
        if all(path.is_file() for path in paths):
            parts["fixed_landmarks"], parts["moving_landmarks"] = (
                _voxel_landmarks(path, image, first=0)
                for path, image in zip(paths, images, strict=True)
            )
            break
    return Pair(*images, **parts)


def _beside(image: Path, kind: str, suffix: str) -> Path:
    folder = image.parent.name.replace("images", kind)
    return image.parent.with_name(folder) / image.name.replace(".nii.gz", suffix)
