"""NIfTI-1 and NIfTI-2: the place of an image, read and written without loss, and its values.

ITK refuses what is sheared when it reads, straightens it when it writes, prefers the qform to some
sforms, fills truncated files up, and zeroes NaN: all of that unseen. So these files have a reader
and a writer of their own.
"""

from __future__ import annotations

import gzip
import math
import struct
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.geometry import Grid

HEADER = 348
TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
COLOURS = {128: 3, 2304: 4}  # channels of one byte each
OTHERS = {1: "single bits", 32: "complex64", 1536: "float128", 1792: "complex128"}
# Displacements follow the axes of the file's world, right-anterior-superior; mere vectors are left
# as they are, in which ITK and ANTs store LPS displacements.
DISPLACEMENTS, VECTORS, FNIRT = 1006, 1007, (2006, 2007, 2008, 2009)
MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # of a metre, a millimetre, a micron
TO_LPS = np.diag([-1.0, -1.0, 1.0])
DISAGREEMENT = 0.1  # voxels at a corner, from which the two places that a header gives differ
DEFLATED = 1100  # times smaller than its content is no gzip file
BLOCK = 1 << 22


@dataclass(frozen=True)
class Header:
    """What the header says, in its own terms: right-anterior-superior, in its unit."""

    order: str
    sizes: tuple[int, ...]
    kind: int
    intent: int
    start: int
    scaling: tuple[float, float]
    pixdim: np.ndarray
    codes: tuple[int, int]  # of qform and sform
    quaternion: np.ndarray
    offset: np.ndarray
    sform: np.ndarray
    unit: float
    apart: bool  # the values are in a file of their own


def read_nifti(path: Path) -> tuple[np.ndarray, Grid, int]:
    """Reads an image of two or three axes.

    The sform says where it lies, or the qform where there is none. Where neither is set, the first
    voxel is the origin, and a warning says so; another says where the two disagree.

    Args:
        path: .nii, .nii.gz, or the .hdr of a pair; compressed or not, whatever the name says.

    Returns:
        The values `[*spatial]`, or `[*spatial, channels]` if several; the grid in LPS mm; channels.
        Values are as stored, or scaled as the header says (float32; float64 where the stored type
        is wider).

    Raises:
        ValueError: for what is no NIfTI file, is truncated, has other axes or types of values, or
            a place that is none.
    """
    with _opened(path) as file:
        header = _parsed(file.read(540))
        spatial, channels = _axes(header)
        grid = _grid(header, spatial, path.name)
        if header.apart:
            with _opened(_values_of(path)) as values:
                array = _values(values, header, _values_of(path))
        else:
            array = _values(file, header, path)
    if channels > 1 and header.kind in COLOURS:
        array = np.moveaxis(array.reshape(channels, *spatial, order="F"), 0, -1)
    elif channels > 1:
        array = array.reshape(*spatial, channels, order="F")
    else:
        array = array.reshape(spatial, order="F")
    array = np.ascontiguousarray(_scaled(array, header))
    if header.intent == DISPLACEMENTS and channels == len(spatial):
        array[..., :2] *= -1
    return array, grid, channels


def write_nifti(path: Path, array: np.ndarray, grid: Grid, vectors: bool = True) -> None:
    """Writes an uncompressed .nii, whose sform is exact for sheared grids too.

    The qform says the same wherever it can: not for sheared grids, which ITK refuses to read. Axes
    of more than 32,767 voxels make it a NIfTI-2 file. Channels are the fifth axis of the file and
    get the intent "vector"; or they are its fourth one, like times.

    Args:
        path: where.
        array: `[*spatial]` or `[*spatial, channels]`, of a type of `TYPES`.
        grid: of the image.
        vectors: False for channels on the fourth axis.
    """
    kind = next((code for code, name in TYPES.items() if np.dtype(name) == array.dtype), None)
    if kind is None:
        raise ValueError(f"array of {array.dtype} cannot be written as NIfTI.")
    several = array.ndim > grid.rank
    sizes = [*grid.shape, *array.shape[grid.rank :]]
    if several and vectors:
        sizes = [*[*grid.shape, 1, 1][:4], array.shape[-1]]
    matrix = np.eye(4)
    matrix[: grid.rank, : grid.rank] = grid.direction * grid.spacing
    matrix[: grid.rank, 3] = grid.origin
    matrix[:3] = TO_LPS @ matrix[:3]
    spacing = [*grid.spacing, 1.0][:3]
    rotation = matrix[:3, :3] / spacing
    turned = np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-5)
    factor, quaternion = _quaternion(rotation) if turned else (1.0, np.zeros(3))
    pixdim = [factor, *spacing, 1.0, 1.0, 0.0, 0.0]
    dim = [len(sizes), *sizes, *[1] * (7 - len(sizes))]
    intent = VECTORS if several and vectors else 0
    bits = 8 * array.dtype.itemsize
    place = (*quaternion, *matrix[:3, 3], *matrix[:3].ravel())
    if max(sizes) < 2**15:
        header = struct.pack(
            "<i35xB8h3f4h8f3fhBB4f2i80s24s2h18f16s4s4x", HEADER, 0, *dim, 0, 0, 0, intent, kind,
            bits, 0, *pixdim, 352, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, b"", b"", int(turned), 1,
            *place, b"", b"n+1",
        )  # fmt: skip
    else:
        header = struct.pack(
            "<i8s2h8q3d8dq6d2q80s24s2i18d3i16sB15x4x", 540, b"n+2\0\r\n\x1a\n", kind, bits, *dim,
            0, 0, 0, *pixdim, 544, 1, 0, 0, 0, 0, 0, 0, 0, b"", b"", int(turned), 1, *place, 0, 2,
            intent, b"", 0,
        )  # fmt: skip
    with open(path, "wb") as file:
        file.write(header)
        flat = array.astype(array.dtype.newbyteorder("<"), copy=False)
        # One slab of the last axis of the file at a time, so that no second copy is made.
        parts = [flat[..., k] for k in range(array.shape[-1])] if several else [flat]
        for part in parts:
            for k in range(part.shape[-1]):
                file.write(part[..., k].tobytes(order="F"))


def _opened(path: Path):
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else open(path, "rb")


def _values_of(path: Path) -> Path:
    """The file of the values that belongs to a .hdr.

    Raises:
        ValueError: if there is none.
    """
    names = (".img", ".img.gz", ".IMG")
    found = [file for name in names if (file := path.with_suffix(name)).is_file()]
    if not found:
        raise ValueError(f"its values should be beside it, in {path.with_suffix('.img').name!r}")
    return found[0]


def _parsed(raw: bytes) -> Header:
    order = "<" if raw[:4] in (b"\x5c\x01\0\0", b"\x1c\x02\0\0") else ">"
    version = struct.unpack_from(order + "i", raw)[0] if len(raw) >= 4 else 0

    def field(layout: str, at: int):
        return struct.unpack_from(order + layout, raw, at)

    if version == HEADER:
        magic, count, *sizes = raw[344:347], *field("8h", 40)
        (intent,), (kind,), (start,) = field("h", 68), field("h", 70), field("f", 108)
        scaling, pixdim, codes = field("2f", 112), field("8f", 76), field("2h", 252)
        place, (units,) = field("18f", 256), field("B", 123)
    elif version == 540:
        magic, count, *sizes = raw[4:7], *field("8q", 16)
        (intent,), (kind,), (start,) = field("i", 504), field("h", 12), field("q", 168)
        scaling, pixdim, codes = field("2d", 176), field("8d", 104), field("2i", 344)
        place, (units,) = field("18d", 352), field("i", 500)
    else:
        raise ValueError("it has no NIfTI header")
    if magic not in (b"n+1", b"ni1", b"n+2", b"ni2"):
        raise ValueError(
            "it is an ANALYZE header, which does not say how the image lies in the world; convert "
            "it to .nii.gz with the program that wrote it"
        )
    if not 1 <= count <= 7 or min(sizes[:count]) < 1:
        raise ValueError(f"its header gives {count} axes of the sizes {sizes}")
    apart = magic[1:2] == b"i"
    if not math.isfinite(start) or start < (0 if apart else version):
        raise ValueError(f"its header says that the values begin at byte {start}")
    return Header(
        order,
        tuple(sizes[:count]),
        kind,
        intent,
        int(start),
        scaling,
        np.array(pixdim),
        codes,
        np.array(place[:3]),
        np.array(place[3:6]),
        np.array(place[6:]).reshape(3, 4),
        MILLIMETRES.get(units & 7, 1.0),
        apart,
    )


def _axes(header: Header) -> tuple[tuple[int, ...], int]:
    """Voxels along each axis, and values for each voxel."""
    sizes, channels = list(header.sizes), COLOURS.get(header.kind, 1)
    if header.intent in FNIRT:
        raise ValueError(
            "it is a field of FSL's FNIRT, in coordinates of FSL; convert it, as by wb_command "
            "-convert-warpfield -from-fnirt SOURCE -to-itk"
        )
    if len(sizes) == 5 and header.intent in (DISPLACEMENTS, VECTORS):
        channels = sizes.pop()
        while len(sizes) > 2 and sizes[-1] == 1:
            sizes.pop()
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) not in (2, 3):
        raise ValueError(
            f"it has {len(sizes)} axes, {header.sizes}; an image has 2 or 3. Take one time point "
            "out of a series first, as by SimpleITK.ReadImage(path)[:, :, :, 0]; components of a "
            "vector image must be stored as vectors"
        )
    return tuple(sizes), channels


def _grid(header: Header, shape: tuple[int, ...], name: str) -> Grid:
    rank = len(shape)
    qcode, scode = header.codes
    qform = sform = None
    if scode > 0:
        sform = header.sform
        if not np.isfinite(sform).all():
            raise ValueError("its sform holds NaN or infinite values")
    spacing = header.pixdim[1:4].copy()
    # A picture has no third axis, whatever stands there.
    spacing[rank:] = 1.0
    sound = np.isfinite(spacing).all() and (spacing > 0).all()
    if sform is None and not sound:
        raise ValueError(
            f"its voxels have the sizes {header.pixdim[1 : 1 + rank].tolist()} (pixdim), which "
            "must be positive; correct the header, as with fslcpgeom, nibabel or SimpleITK"
        )
    if qcode > 0 and sound:
        qform = _qform(header, spacing)
    matrix = sform if sform is not None else qform
    if matrix is None:
        warnings.warn(
            f"{name!r} does not say where it lies in the world (the codes of sform and qform are "
            "0): its first voxel is taken for the origin, its axes for those of the world.",
            UserWarning,
            stacklevel=5,
        )
        matrix = np.concatenate([TO_LPS @ np.diag(spacing), np.zeros((3, 1))], axis=1)
    elif sform is not None:
        _compare(sform, qform, spacing if sound else header.pixdim[1:4], shape, name)
    matrix = header.unit * TO_LPS @ matrix
    steps, origin = matrix[:, :rank], matrix[:rank, 3]
    lengths = np.linalg.norm(steps, axis=0)
    if rank == 2 and (np.abs(steps[2]) > 0.01 * lengths).any():
        raise ValueError(
            "it is a slice that lies obliquely in space; store it as a volume of one slice"
        )
    if not lengths.all():
        raise ValueError(f"its axes have the lengths {lengths.tolist()}; they must be positive")
    return Grid(shape, lengths, origin, steps[:rank] / lengths)


def _qform(header: Header, spacing: np.ndarray) -> np.ndarray:
    b, c, d = header.quaternion
    rest = 1.0 - (b * b + c * c + d * d)
    if not rest > -1e-3 or not np.isfinite(header.offset).all():
        raise ValueError(f"its qform is no rotation: the quaternion is {(b, c, d)}")
    length = math.sqrt(max(rest, 0.0) + b * b + c * c + d * d)
    a, b, c, d = (value / length for value in (math.sqrt(max(rest, 0.0)), b, c, d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    rotation[:, 2] *= -1.0 if header.pixdim[0] < 0 else 1.0
    return np.concatenate([rotation * spacing, header.offset[:, None]], axis=1)


def _compare(sform, qform, spacing, shape: tuple[int, ...], name: str) -> None:
    """Warns where the header says two things; the sform is what counts."""
    last = np.array([*shape, 1, 1][:3]) - 1
    corners = np.array([[0, 0, 0, 1], [*last, 1]]).T
    size = np.linalg.norm(sform[:, : len(shape)], axis=0)
    if qform is not None:
        apart = np.linalg.norm((sform - qform) @ corners, axis=0).max()
        if apart > DISAGREEMENT * size.min():
            warnings.warn(
                f"the sform and the qform of {name!r} disagree by up to {apart:.3g} mm; the sform "
                "is taken.",
                UserWarning,
                stacklevel=6,
            )
    elif not np.allclose(spacing[: len(shape)], size, rtol=0.01):
        warnings.warn(
            f"the voxels of {name!r} have the sizes {size.round(4).tolist()} by its sform and "
            f"{spacing[: len(shape)].tolist()} by its pixdim; the sform is taken.",
            UserWarning,
            stacklevel=6,
        )


def _values(file, header: Header, path: Path) -> np.ndarray:
    """The stored values, flat, `channels` of a colour one after the other."""
    if header.kind not in TYPES and header.kind not in COLOURS:
        what = OTHERS.get(header.kind, f"values of the unknown type {header.kind}")
        raise ValueError(f"it holds {what}; they must be real numbers of at most 64 bits")
    dtype = np.dtype(header.order + TYPES.get(header.kind, "u1"))
    count = math.prod(header.sizes) * COLOURS.get(header.kind, 1)
    expected = header.start + count * dtype.itemsize
    size = path.stat().st_size
    packed = isinstance(file, gzip.GzipFile)
    # Before memory is taken for it.
    if size * (DEFLATED if packed else 1) < expected:
        raise ValueError(f"it is truncated: at most {size} of {expected} bytes")
    file.seek(header.start)
    values = np.empty(count, dtype)
    buffer, found = memoryview(values).cast("B"), 0
    # What ends within a block of gzip gives nothing, and an error says so.
    with suppress(EOFError):
        while found < len(buffer) and (more := file.readinto(buffer[found : found + BLOCK])):
            found += more
    if found < len(buffer):
        raise ValueError(f"it is truncated: {header.start + found} of {expected} bytes")
    return values.astype(dtype.newbyteorder("="), copy=False)


def _scaled(array: np.ndarray, header: Header) -> np.ndarray:
    slope, intercept = header.scaling
    # 0 and NaN mean that nothing is scaled.
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        return array
    if (slope, intercept) == (1.0, 0.0) or header.kind in COLOURS:
        return array
    wide = array.dtype.itemsize > 2 and array.dtype != np.float32
    return (array * np.float64(slope) + intercept).astype(np.float64 if wide else np.float32)


def _quaternion(rotation: np.ndarray) -> tuple[float, np.ndarray]:
    """The factor of the third axis, and the last three numbers of the quaternion."""
    from scipy.spatial.transform import Rotation

    factor = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    proper = rotation * [1.0, 1.0, factor]
    x, y, z, w = Rotation.from_matrix(proper).as_quat()
    return factor, np.array([x, y, z]) * (1.0 if w >= 0 else -1.0)
