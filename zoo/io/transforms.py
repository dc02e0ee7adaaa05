"""ITK transform files: affine maps, displacement fields and their compositions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zoo.geometry import Grid, from_itk, to_itk
from zoo.io import existing, require, written_whole

Part = tuple[str, tuple]


def write_transform(path: str | Path, parts: list[Part]) -> None:
    """Writes an ITK transform (.tfm, .h5); the file appears complete or not at all.

    Args:
        path: where.
        parts: outermost first, each `("affine", (matrix, offset))` in LPS mm or
            `("field", (displacement in voxels, grid))`.
    """
    sitk = _sitk()
    transforms = [_to_itk(sitk, kind, values) for kind, values in parts]
    whole = transforms[0]
    if len(transforms) > 1:
        whole = sitk.CompositeTransform(transforms)
    with written_whole(path) as temporary:
        sitk.WriteTransform(whole, str(temporary))


def read_transform(path: str | Path) -> list[Part]:
    """Reads an ITK transform as the parts that `write_transform` takes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is no transform, or a kind that is neither linear nor a field.
    """
    sitk = _sitk()
    path = existing(path)
    try:
        whole = sitk.ReadTransform(str(path))
    except (RuntimeError, UnicodeDecodeError) as error:  # ITK quotes the file in its messages
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"path: {path.name!r} is not a readable transform: {reason}") from error
    return _parts(sitk, whole, path)


def _sitk():
    return require("SimpleITK", "SimpleITK", "ITK transforms")


def _to_itk(sitk, kind: str, values):
    if kind == "affine":
        matrix, offset = values
        transform = sitk.AffineTransform(len(offset))
        transform.SetMatrix(np.asarray(matrix, float).reshape(-1).tolist())
        transform.SetTranslation(np.asarray(offset, float).tolist())
        return transform
    displacement, grid = values
    vectors = grid.vectors_to_world(displacement.astype(np.float64))
    image = sitk.GetImageFromArray(to_itk(vectors, grid.rank), isVector=True)
    image.SetSpacing(grid.spacing.tolist())
    image.SetOrigin(grid.origin.tolist())
    image.SetDirection(grid.direction.reshape(-1).tolist())
    return sitk.DisplacementFieldTransform(image)


def _parts(sitk, transform, path: Path) -> list[Part]:
    transform = transform.Downcast()
    if isinstance(transform, sitk.CompositeTransform):
        parts = [transform.GetNthTransform(i) for i in range(transform.GetNumberOfTransforms())]
        return [part for each in parts for part in _parts(sitk, each, path)]
    rank = transform.GetDimension()
    if rank not in (2, 3):
        raise ValueError(
            f"path: {path.name!r} holds a transform of {rank} axes; 2 and 3 are known."
        )
    if transform.IsLinear():
        offset = np.array(transform.TransformPoint([0.0] * rank))
        columns = [
            np.array(transform.TransformPoint(row)) - offset for row in np.eye(rank).tolist()
        ]
        return [("affine", (np.stack(columns, axis=1), offset))]
    if isinstance(transform, sitk.DisplacementFieldTransform):
        image = transform.GetDisplacementField()
        try:
            grid = Grid(
                image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()
            )
        except ValueError as error:
            raise ValueError(
                f"path: {path.name!r} holds a field without a grid: {error}"
            ) from error
        vectors = from_itk(sitk.GetArrayFromImage(image), rank)
        return [("field", (grid.vectors_to_index(vectors), grid))]
    raise ValueError(
        f"path: {path.name!r} holds a {transform.GetName()}; only linear transforms and "
        "displacement fields can be read."
    )
