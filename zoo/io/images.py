"""Images, label maps and displacement fields on disk.

Volumes and physical pictures go through SimpleITK, ordinary pictures through Pillow. Both are
imported on use only.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from zoo.geometry import Grid, from_itk, to_itk, transformed
from zoo.io import existing, require, written_whole
from zoo.io.headers import check_header, nrrd_field
from zoo.io.nifti import read_nifti, write_nifti

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, ".mha", ".mhd", *NRRD_SUFFIXES)
UNREADABLE = (RuntimeError, OSError, EOFError, MemoryError, struct.error, zlib.error, ValueError)
# Higher levels take half as long again, and save one percent of what are floats.
GZIP_LEVEL, GZIP_BLOCK = 1, 2**22
REMEDIES = {
    ".dcm": " Convert DICOM first, by SimpleITK.ImageSeriesReader or dcm2niix.",
    ".img": " Give the .hdr beside it, which describes it.",
    ".raw": " Give the .mhd or .nhdr beside it, which describes it.",
    ".gz": " Of compressed files only .nii.gz is read.",
}
COLOURS = ("P", "RGBA", "RGBX", "RGBa", "PA", "CMYK", "YCbCr", "LAB", "HSV")
BANDS = ("RGB", "RGBA", "LA")
ORIENTATION = 274  # the tag of EXIF and TIFF
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def image_suffix(path: str | Path) -> str | None:
    """The suffix of a file that this module reads, in lower case (".nii.gz" whole), or None."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a path, not {type(path).__name__}.")
    name = Path(path).name.lower()
    suffixes = sorted(VOLUME_SUFFIXES + PICTURE_SUFFIXES, key=len, reverse=True)
    return next((suffix for suffix in suffixes if name.endswith(suffix)), None)


def read_image(path: str | Path) -> tuple[np.ndarray, Grid]:
    """Reads an image with its place in the world.

    .nii, .nii.gz, .hdr (with its .img), .mha, .mhd, .nrrd and .nhdr keep spacing, origin and
    direction, shear included; several components for each voxel become channels. What counts where
    a NIfTI header contradicts itself is said in `zoo.io.nifti`. Pictures (.png, .jpg, .tif, .bmp)
    get a spacing of 1 and the centre of the upper left pixel as origin, x to the right, y down, in
    the orientation that EXIF gives: pixel coordinates are world coordinates. Values stay as stored;
    transparency is dropped and a palette is looked up.

    Args:
        path: the file.

    Returns:
        The array `[*spatial, channels]` of rank 2 or 3 as stored, and the grid.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for an unknown suffix, a file that is truncated or not what its suffix says,
            or one of four spatial axes.
        ImportError: if SimpleITK or Pillow is missing.
    """
    array, grid, channels = _read(existing(path))
    return (array if channels > 1 else array[..., None]), grid


def write_image(path: str | Path, array: np.ndarray, grid: Grid):
    """Writes an image; the file appears complete or not at all.

    Pictures hold 8 bits and neither spacing nor place: values within [0, 1] are scaled to 0..255,
    others are rounded.

    Args:
        path: with a suffix that `read_image` knows.
        array: `[*spatial, channels]`.
        grid: its place in the world; a picture drops it.

    Raises:
        ValueError: for an unknown suffix, or a picture of a volume, of other than 1 or 3 channels,
            or of values outside [0, 255].
        ImportError: if SimpleITK or Pillow is missing.
    """
    if _suffix(path) in PICTURE_SUFFIXES:
        low, high = float(array.min()), float(array.max())
        if low < 0 or high > 255:
            raise ValueError(
                f"path: {Path(path).name!r} holds 8 bits, but the values of the image span "
                f"[{low:g}, {high:g}]; use image.normalised() or a .nii.gz file."
            )
        _write_picture(path, np.rint(array * (255 if high <= 1 else 1)), grid.rank)
        return
    _write_volume(path, array[..., 0] if array.shape[-1] == 1 else array, grid)


def read_labels(path: str | Path) -> tuple[np.ndarray, Grid]:
    """Reads a label map or a mask.

    Args:
        path: as for `read_image`; one component for each voxel. Of a picture with a palette the
            indices are the labels.

    Returns:
        int32 `[*spatial]` and the grid.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as `read_image`; and for several components, or values that are not whole
            numbers.
    """
    path = existing(path)
    array, grid, channels = _read(path, labels=True)
    if channels > 1:
        raise ValueError(f"path: {path.name!r} has {channels} channels; labels have one.")
    labels = array if array.dtype.kind in "bui" else np.rint(array)
    low, high = int(-(2**31)), int(2**31 - 1)
    whole = np.isfinite(array).all() and (labels == array).all()
    if not whole or labels.min() < low or labels.max() > high:
        raise ValueError(
            f"path: {path.name!r} is no label map: it holds values that are not whole numbers."
        )
    return labels.astype(np.int32), grid


def write_labels(path: str | Path, labels: np.ndarray, grid: Grid):
    """Writes a label map, compressed and without loss; the file appears complete or not at all.

    Args:
        path: as for `write_image`, but not .jpg; pictures hold labels from 0 to 255.
        labels: integers or booleans `[*spatial]`.
        grid: where they are.

    Raises:
        ValueError: for labels that do not fit the grid or the file.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "bui":
        raise ValueError(f"labels must be integers, not {labels.dtype}.")
    if labels.shape != grid.shape:
        raise ValueError(
            f"labels must have the shape {grid.shape} of the grid, not {labels.shape}."
        )
    low, high = int(labels.min()), int(labels.max())
    suffix = _suffix(path)
    if suffix in PICTURE_SUFFIXES:
        if suffix in (".jpg", ".jpeg") or low < 0 or high > 255:
            raise ValueError(
                f"path: {Path(path).name!r} cannot hold the labels {low}..{high} without loss; "
                "use .png for 0..255, or .nii.gz."
            )
        _write_picture(path, labels[..., None], grid.rank)
        return
    kinds = (np.uint8, np.int16, np.int32)
    kind = next((k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max), None)
    if kind is None:
        raise ValueError(f"labels must fit into 32 bits; they span {low}..{high}.")
    _write_volume(path, labels.astype(kind), grid, compress=True)


def write_field(path: str | Path, displacement: np.ndarray, grid: Grid):
    """Writes a displacement field as ITK, ANTs and 3D Slicer expect it.

    The file holds vectors in LPS mm, one for each voxel of the fixed image, that lead to the point
    of the moving image: `SimpleITK.DisplacementFieldTransform(SimpleITK.Cast(SimpleITK.ReadImage(
    path), SimpleITK.sitkVectorFloat64))` resamples the moving image. In NIfTI the intent is
    "vector" (code 1007).

    Args:
        path: .nii, .nii.gz, .mha, .mhd or .nrrd.
        displacement: `[*spatial, rank]` in voxels of the grid.
        grid: of the fixed image.

    Raises:
        ValueError: for another suffix, another shape, or values that are not finite.
        ImportError: if SimpleITK is missing.
    """
    displacement = np.asarray(displacement)
    if displacement.shape != (*grid.shape, grid.rank):
        raise ValueError(
            f"displacement must have the shape {(*grid.shape, grid.rank)}, not "
            f"{displacement.shape}."
        )
    if not np.isfinite(displacement).all():
        raise ValueError("displacement must be finite; it holds NaN or infinite values.")
    if _suffix(path) not in VOLUME_SUFFIXES:
        known = ", ".join(VOLUME_SUFFIXES)
        raise ValueError(f"path: a field cannot be a {_suffix(path)} file; use one of {known}.")
    vectors = np.empty(displacement.shape, np.float32)
    for layer, there in zip(displacement, vectors, strict=True):
        there[...] = grid.vectors_to_world(layer)
    _write_volume(path, vectors, grid)


def read_field(path: str | Path) -> tuple[np.ndarray, Grid]:
    """Reads a displacement field in LPS mm, such as `write_field` and ITK programs write it.

    Args:
        path: .nii, .nii.gz, .mha, .mhd or .nrrd.

    Returns:
        Displacement in voxels, float32 `[*spatial, rank]`, and the grid of the fixed image.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as `read_image`; and if the number of components is not the rank.
    """
    path = existing(path)
    array, grid, channels = _read(path)
    if channels != grid.rank:
        raise ValueError(
            f"path: {path.name!r} is no displacement field: it has {channels} components for each "
            f"voxel of {grid.rank} axes, and should have {grid.rank}."
        )
    if not np.isfinite(array).all():
        raise ValueError(f"path: the field {path.name!r} holds NaN or infinite values.")
    if image_suffix(path) in NRRD_SUFFIXES:
        array = transformed(array, _nrrd_field(path, grid.rank)[0])
    return grid.vectors_to_index(array).astype(np.float32), grid


def moves_points(path: str | Path) -> bool:
    """Whether the vectors of a field lead from the moving to the fixed space.

    So do those of 3D Slicer's .nrrd files of the type "modeling"; all others, which resample, lead
    the other way round.

    Args:
        path: as for `read_field`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a type that is not known.
    """
    path = existing(path)
    return image_suffix(path) in NRRD_SUFFIXES and _nrrd_field(path, 3)[1]


def _nrrd_field(path: Path, rank: int) -> tuple[np.ndarray, bool]:
    try:
        return nrrd_field(path, rank)
    except ValueError as error:
        raise ValueError(f"path: {path.name!r} is no readable field: {error}.") from error


def _suffix(path: str | Path) -> str:
    suffix = image_suffix(path)
    if suffix is None:
        known = ", ".join(VOLUME_SUFFIXES + PICTURE_SUFFIXES)
        own = Path(path).suffix.lower()
        raise ValueError(
            f"path: {Path(path).name!r} has no suffix of an image; it must be one of {known}."
            + REMEDIES.get(own, "")
        )
    return suffix


def _read(path: Path, labels: bool = False) -> tuple[np.ndarray, Grid, int]:
    """The stored values `[*spatial]`, or `[*spatial, channels]` if several; grid; channels."""
    suffix = _suffix(path)
    if suffix in PICTURE_SUFFIXES:
        array = _read_picture(path, labels)
        channels = array.shape[2] if array.ndim == 3 else 1
        return array, Grid(array.shape[:2]), channels
    try:
        if suffix in NIFTI_SUFFIXES:
            return read_nifti(path)
        sitk = require("SimpleITK", "SimpleITK", f"reading {suffix}")
        check_header(path, suffix)
        stored = sitk.ReadImage(str(path))
    except UNREADABLE as error:
        # ITK names its own sources first; what happened comes last.
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"path: {path.name!r} is not a readable {suffix} file: {reason}") from (
            error
        )
    rank, channels = stored.GetDimension(), stored.GetNumberOfComponentsPerPixel()
    if rank not in (2, 3):
        raise ValueError(
            f"path: {path.name!r} has {rank} axes, {stored.GetSize()}; an image has 2 or 3. Take "
            "one time point out of a series first; components of a vector image must be stored "
            "as vectors."
        )
    array = sitk.GetArrayViewFromImage(stored)
    if array.dtype.kind not in "buif":
        raise ValueError(f"path: {path.name!r} holds {array.dtype} values; they must be real.")
    try:
        grid = Grid(
            stored.GetSize(), stored.GetSpacing(), stored.GetOrigin(), stored.GetDirection()
        )
    except ValueError as error:
        raise ValueError(f"path: {path.name!r}: {error}") from error
    # A copy: the view dies with the image.
    return np.array(from_itk(array, rank), order="C"), grid, channels


def _write_volume(path: str | Path, array: np.ndarray, grid: Grid, compress: bool = False):
    suffix = _suffix(path)
    if suffix == ".hdr":
        raise ValueError(f"path: {Path(path).name!r}: .hdr is only read; write .nii or .nii.gz.")
    if suffix in NIFTI_SUFFIXES:
        with written_whole(path) as temporary:
            plain = temporary if suffix == ".nii" else temporary.with_name("plain.nii")
            write_nifti(plain, array, grid)
            if plain != temporary:
                pack(plain, temporary)
                plain.unlink()
        return
    sitk = require("SimpleITK", "SimpleITK", "writing images")
    image = sitk.GetImageFromArray(to_itk(array, grid.rank), isVector=array.ndim > grid.rank)
    image.SetSpacing(grid.spacing.tolist())
    image.SetOrigin(grid.origin.tolist())
    image.SetDirection(grid.direction.reshape(-1).tolist())
    with written_whole(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=compress)


def pack(source: Path, target: Path):
    """Writes a gzip file of one member, whose blocks are compressed on all cores."""

    def deflated(block: bytes) -> bytes:
        # Ends on a whole byte, so that blocks can follow one another.
        deflate = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        return deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH)

    check, size = 0, 0
    workers = os.cpu_count() or 1
    pool = ThreadPoolExecutor(workers)
    with open(source, "rb") as plain, open(target, "wb") as packed, pool:
        packed.write(b"\x1f\x8b\x08" + bytes(6) + b"\xff")
        while blocks := [block for _ in range(workers) if (block := plain.read(GZIP_BLOCK))]:
            waiting = [pool.submit(deflated, block) for block in blocks]
            for block, result in zip(blocks, waiting, strict=True):
                check, size = zlib.crc32(block, check), size + len(block)
                packed.write(result.result())
        # An empty block that says that it is the last one.
        packed.write(b"\x03\x00" + struct.pack("<2I", check, size % 2**32))


def _read_picture(path: Path, labels: bool = False) -> np.ndarray:
    pillow = require("PIL.Image", "pillow", "reading pictures")
    from PIL import ImageOps

    try:
        with warnings.catch_warnings(), pillow.open(path) as picture:
            # Slides are large; the limit is meant for pictures from strangers.
            warnings.simplefilter("ignore", pillow.DecompressionBombWarning)
            pages = getattr(picture, "n_frames", 1)
            if pages > 1:
                raise ValueError(f"it holds {pages} pages; a picture has one")
            stored = _stored_as(picture)
            if stored.endswith((";16", ";16B", ";16L", ";16N")) and picture.mode in BANDS:
                if picture.mode == "LA":
                    raise ValueError("it holds 16 bits and transparency; save it without")
                turn = getattr(picture, "tag_v2", picture.getexif()).get(ORIENTATION, 1)
                return _read_wide(path, turn)
            # Cameras store rows as the sensor has them, and say which way up they belong.
            picture = ImageOps.exif_transpose(picture)
            if labels and picture.mode in ("P", "PA"):
                array = np.asarray(picture.getchannel(0))
            elif labels and stored in ("1", "L;2", "L;4"):
                # Spread over 0..255 for the eye; labels are the numbers themselves.
                array = np.asarray(picture.convert("L")) // (255 // (2 ** int(stored[-1]) - 1))
            else:
                if picture.mode in ("1", "LA", "La"):
                    picture = picture.convert("L")
                elif picture.mode in COLOURS:
                    picture = picture.convert("RGB")
                array = np.asarray(picture)
    except Exception as error:
        # Decoders fail in many ways on a foreign file; the user needs one answer.
        raise ValueError(f"path: {path.name!r} is not a readable picture: {error}") from error
    return np.ascontiguousarray(from_itk(array, 2))


def _stored_as(picture) -> str:
    """How pixels lie in the file, in Pillow's words, such as "RGB;16B"."""
    if not picture.tile:
        return picture.mode
    arguments = picture.tile[0][3]
    return str(arguments if isinstance(arguments, str) else (arguments or [picture.mode])[0])


def _read_wide(path: Path, turn: int) -> np.ndarray:
    """A picture of 16 bits in several channels, of which Pillow would read the upper 8."""
    sitk = require("SimpleITK", "SimpleITK", "reading pictures of 16 bits in several channels")
    image = sitk.ReadImage(str(path))
    rows = sitk.GetArrayFromImage(image)[..., :3]
    if image.GetDimension() != 2:
        raise ValueError(f"it has {image.GetDimension()} axes; a picture has 2")
    # The eight orientations of EXIF: the last four exchange rows and columns, then mirror.
    rows = np.swapaxes(rows, 0, 1) if turn in (5, 6, 7, 8) else rows
    rows = rows[:, ::-1] if turn in (2, 3, 6, 7) else rows
    rows = rows[::-1] if turn in (3, 4, 7, 8) else rows
    return np.ascontiguousarray(from_itk(rows, 2))


def _write_picture(path: str | Path, values: np.ndarray, rank: int):
    pillow = require("PIL.Image", "pillow", "writing pictures")
    channels = values.shape[-1]
    if rank != 2 or channels not in (1, 3):
        raise ValueError(
            f"path: {Path(path).name!r} is a picture, but the image has {rank} axes and {channels} "
            "channels; a picture has 2 axes and 1 or 3 channels."
        )
    values = to_itk(values.astype(np.uint8), 2)
    picture = pillow.fromarray(np.ascontiguousarray(values[..., 0] if channels == 1 else values))
    with written_whole(path) as temporary:
        picture.save(temporary)
