"""Displacements as the Learn2Reg challenge exchanges them: `disp_0001_0002.nii.gz`.

`[X, Y, Z, 3]` in voxels, with axes and components in the order of the array that the file of the
image holds, as nibabel and `zoo.Image` read it: voxel x of the fixed image is found at index
`x + u(x)` of the moving one, `moved = map_coordinates(moving, x + u(x))`. Fields of ITK, which
`zoo.Transform.save` writes, are in millimetres of the world instead.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from zoo.geometry import Grid
from zoo.io import existing, require, written_whole
from zoo.io.nifti import write_nifti
from zoo.ops.arguments import checked, shown

SLAB = 2**19  # voxels that are pulled at a time
CASE = re.compile(r"_(\d{4})_(\d{4})\.nii\.gz$")


@checked()
def save_learn2reg(transform, path: str | Path, fixed: Grid, moving: Grid | None = None) -> None:
    """Writes a transform for the challenge; the file appears complete or not at all.

    Args:
        transform: a `zoo.Transform` from the fixed to the moving space.
        path: .nii.gz or .nii, named as `learn2reg_name` says.
        fixed: grid of the fixed image, in space.
        moving: grid of the moving image, whose voxels count; default `fixed`.

    Raises:
        TypeError: for what is no transform.
        ValueError: for another suffix, grids in the plane, or a transform that is not finite there.
    """
    moving = fixed if moving is None else moving
    if not callable(getattr(transform, "pull", None)):
        raise TypeError(f"transform must be a zoo.Transform, not {shown(transform)}.")
    if (fixed.rank, moving.rank) != (3, 3):
        raise ValueError(
            f"fixed and moving must have 3 axes each, not {fixed.rank} and {moving.rank}."
        )
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"path: {path.name!r} must end in .nii.gz or .nii.")
    field = np.empty((*fixed.shape, 3), np.float32)
    step = max(1, SLAB // (fixed.shape[1] * fixed.shape[2]))
    for first in range(0, fixed.shape[0], step):
        part = field[first : first + step]
        index = np.moveaxis(np.indices(part.shape[:-1]), 0, -1).reshape(-1, 3) + [first, 0, 0]
        pulled = moving.to_index(transform.pull(fixed.to_world(index)))
        part[...] = (pulled - index).reshape(part.shape)
    if not np.isfinite(field).all():
        raise ValueError("transform must be finite on the fixed grid; it gives NaN or infinity.")
    write_learn2reg(path, field, fixed)


def write_learn2reg(path: str | Path, displacement: np.ndarray, grid: Grid) -> None:
    """Writes a displacement `[X, Y, Z, 3]` in voxels, on the grid of the fixed image."""
    with written_whole(path) as temporary:
        if temporary.suffix.lower() != ".gz":
            write_nifti(temporary, displacement, grid, vectors=False)
            return
        from zoo.io.images import pack

        plain = temporary.with_name("plain.nii")
        write_nifti(plain, displacement, grid, vectors=False)
        pack(plain, temporary)
        plain.unlink()


def read_learn2reg(path: str | Path) -> np.ndarray:
    """Reads a displacement of the challenge, also of its .npz files.

    Args:
        path: .nii.gz, .nii or .npz, the last one with a single array.

    Returns:
        float32 `[X, Y, Z, 3]` in voxels.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for what holds no such displacement.
    """
    path = existing(path)
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as file:
            if len(file.files) != 1:
                raise ValueError(f"path: {path.name!r} must hold one array, not {file.files}.")
            array = file[file.files[0]]
    else:
        sitk = require("SimpleITK", "SimpleITK", "reading displacements")
        try:
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T
        except RuntimeError as error:
            raise ValueError(f"path: {path.name!r} is no readable image.") from error
    if array.ndim != 4 or array.shape[-1] != 3 or not np.isfinite(array).all():
        raise ValueError(
            f"path: {path.name!r} must hold finite displacements [X, Y, Z, 3] in voxels, not an "
            f"array of the shape {array.shape}."
        )
    return np.ascontiguousarray(array, np.float32)


def learn2reg_name(fixed: str | Path, moving: str | Path) -> str:
    """The name under which the challenge looks for the displacement of a pair.

    Args:
        fixed: file of the fixed image, named as in the challenge, `LungCT_0001_0000.nii.gz`: the
            case, then the modality or phase.
        moving: of the moving image.

    Returns:
        `disp_0001_0002.nii.gz`, or with the modalities, `disp_0001_0001_0002_0000.nii.gz`, unless
        these are the same, or 0000 and 0001.

    Raises:
        ValueError: for files with other names.
    """
    parts = []
    for argument, path in (("fixed", fixed), ("moving", moving)):
        found = CASE.search(Path(path).name)
        if found is None:
            raise ValueError(
                f"{argument} must be named as in Learn2Reg, such as LungCT_0001_0000.nii.gz, not "
                f"{Path(path).name!r}."
            )
        parts.append(found.groups())
    (one, kind), (other, other_kind) = parts
    if kind == other_kind or (kind, other_kind) == ("0000", "0001"):
        return f"disp_{one}_{other}.nii.gz"
    return f"disp_{one}_{kind}_{other}_{other_kind}.nii.gz"
