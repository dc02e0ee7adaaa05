"""The points of legacy VTK files."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from pathlib import Path

import numpy as np

from zoo.io import existing

# VTK's number types, as a binary file has them.
TYPES = {
    b"double": ">f8",
    b"float": ">f4",
    b"long": ">i8",
    b"int": ">i4",
    b"short": ">i2",
    b"unsigned_long": ">u8",
    b"unsigned_int": ">u4",
    b"unsigned_short": ">u2",
    b"char": ">i1",
    b"unsigned_char": ">u1",
}


def read_vtk_points(path: str | Path) -> np.ndarray:
    """Reads the points of a legacy VTK file, text or binary.

    Args:
        path: .vtk.

    Returns:
        float64 `[n, 3]`, as they are.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, or ends too early.
    """
    path = existing(path)
    # Text editors may have put the mark of UTF-8 first.
    data = path.read_bytes().removeprefix(BOM_UTF8)
    lines = data[:1024].split(b"\n", 3)
    points = re.search(rb"^POINTS[ \t]+(\d+)[ \t]+(\w+)[ \t\r]*\n", data, re.M)
    kind = lines[2].strip().upper() if len(lines) == 4 else b""
    if (
        not data.startswith(b"# vtk DataFile")
        or kind not in (b"ASCII", b"BINARY")
        or not points
        or points[2] not in TYPES
    ):
        raise ValueError(f"path: {path.name!r} is no legacy VTK file with points.")
    count, start = 3 * int(points[1]), points.end()
    if kind == b"BINARY":
        dtype = np.dtype(TYPES[points[2]])
        values = np.frombuffer(data[start : start + count * dtype.itemsize], np.uint8)
        values = values[: len(values) // dtype.itemsize * dtype.itemsize].view(dtype)
    else:
        values = np.array(data[start:].split(None, count)[:count])
    if len(values) != count:
        raise ValueError(
            f"path: {path.name!r} ends after {len(values) // 3} of {count // 3} points."
        )
    try:
        return values.astype(np.float64).reshape(-1, 3)
    except ValueError as error:
        raise ValueError(
            f"path: {path.name!r} holds points that are no numbers: {error}"
        ) from error
