"""What the headers of MetaImage and NRRD files say and ITK does not check, or does not pass on."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

LONGEST = 1 << 20  # bytes of a header
DEFLATED = 1100  # times smaller than its content is no compressed file
META_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
NRRD_BYTES = {"char": 1, "int8": 1, "short": 2, "int16": 2, "int": 4, "int32": 4, "float": 4}
# Signs of the axes of a NRRD's space in LPS, by the first letters of its name.
SIGNS = {"left": 1, "right": -1, "posterior": 1, "anterior": -1, "superior": 1, "inferior": -1}
SPACES = {"LPS": "left-posterior-superior", "RAS": "right-anterior-superior"}
SPACES["LAS"] = "left-anterior-superior"
FIELD_TYPE = "displacement field type"


def check_header(path: Path, suffix: str) -> None:
    """Refuses headers that name files elsewhere, or announce more than there is.

    Values may lie in files beside the header or in folders below. What is announced is compared
    before memory is taken for it.

    Args:
        path: .mha, .mhd, .nrrd or .nhdr.
        suffix: which of them.

    Raises:
        ValueError: saying what is wrong.
    """
    meta = suffix in (".mha", ".mhd")
    fields, start = _meta_fields(path) if meta else nrrd_fields(path)
    named = fields.get("elementdatafile" if meta else "data file", "LOCAL")
    if meta:
        packed = fields.get("compresseddata", "False").lower() == "true"
        sizes = fields.get("dimsize", "").split() + [fields.get("elementnumberofchannels", "1")]
        kind = fields.get("elementtype", "").removeprefix("MET_").removesuffix("_ARRAY")
        width = META_BYTES.get(kind if kind == "LONG_LONG" else kind.removeprefix("U"), 1)
    else:
        packed = fields.get("encoding", "raw") not in ("raw", "txt", "text", "ascii", "hex")
        sizes = fields.get("sizes", "").split()
        kind = fields.get("type", "").removeprefix("unsigned ").removeprefix("u").removesuffix("_t")
        width = NRRD_BYTES.get(kind, 8 if kind in ("double", "int64", "long long") else 1)
    there = path.stat().st_size - start
    # A number, or a pattern and numbers; or the names follow, one a line.
    several = named.upper().startswith("LIST") or len(re.findall(r"%0?\d*d", named)) > 0
    if named.upper() not in ("LOCAL", ""):
        names = [named]
        if named.upper().startswith("LIST"):
            with open(path, "rb") as file:
                file.seek(start)
                names = file.read(LONGEST).decode("latin-1").split("\n")
        elif several:
            names = [re.split(r"\s+-?\d", named)[0]]
        for name in (each.strip() for each in names if each.strip()):
            if not _is_beside(name):
                raise ValueError(
                    f"its values would be in {name!r}; a header may only name files beside it"
                )
        if several:
            return
        if not (path.parent / named).is_file():
            raise ValueError(f"its values should be beside it, in {named!r}, which is no file")
        there = (path.parent / named).stat().st_size
    try:
        expected = math.prod(int(size) for size in sizes) * width
    except ValueError:
        raise ValueError(f"its header gives the sizes {' '.join(sizes)!r}") from None
    if expected > there * (DEFLATED if packed else 1):
        raise ValueError(f"it is truncated: at most {max(there, 0)} of {expected} bytes")


def nrrd_fields(path: Path) -> tuple[dict[str, str], int]:
    """The fields and the key/value pairs of a NRRD header, names in lower case, and its length."""
    raw = _head(path)
    end = re.search(rb"\r?\n\r?\n", raw)
    start = end.end() if end else len(raw)
    fields = {}
    for line in raw[:start].decode("latin-1").splitlines():
        match = re.match(r"([^#:][^:]*):(=| )\s*(.*)$", line)
        if match:
            fields[match[1].strip().lower()] = match[3].strip()
    if "datafile" in fields:
        fields["data file"] = fields.pop("datafile")
    return fields, start


def nrrd_field(path: Path, rank: int) -> tuple[np.ndarray, bool]:
    """What the vectors of a NRRD mean.

    Args:
        path: .nrrd or .nhdr of a displacement field.
        rank: of the field.

    Returns:
        The matrix `[rank, rank]` that turns its vectors into LPS, by its space and measurement
        frame; and whether they lead from points of the moving space to the fixed space ("modeling"
        of 3D Slicer), not the other way round as resampling needs them.

    Raises:
        ValueError: for a space, a frame or a type that is not known.
    """
    fields, _ = nrrd_fields(path)
    space = fields.get("space", "")
    words = SPACES.get(space.upper(), space).lower().split("-")
    if space and (len(words) < rank or any(word not in SIGNS for word in words[:rank])):
        raise ValueError(f"its space is {space!r}; the ones of left/right, posterior/anterior and "
                         "superior/inferior are known")  # fmt: skip
    signs = [SIGNS[word] for word in words[:rank]] if space else [1] * rank
    matrix = np.eye(rank)
    frame = fields.get("measurement frame")
    if frame is not None:
        columns = re.findall(r"\(([^)]*)\)", frame)
        try:
            matrix = np.array([[float(cell) for cell in column.split(",")] for column in columns]).T
        except ValueError:
            matrix = np.empty(0)
        if matrix.shape != (rank, rank) or not np.isfinite(matrix).all():
            raise ValueError(f"its measurement frame is {frame!r}")
    kind = fields.get(FIELD_TYPE, "resampling").lower()
    if kind not in ("resampling", "modeling", "modelling"):
        raise ValueError(f"its {FIELD_TYPE} is {kind!r}; resampling and modeling are known")
    return np.diag(signs) @ matrix, kind != "resampling"


def _meta_fields(path: Path) -> tuple[dict[str, str], int]:
    fields, at = {}, 0
    for line in _head(path).split(b"\n"):
        at += len(line) + 1
        key, equals, value = line.decode("latin-1").partition("=")
        if not equals:
            continue
        fields[key.strip().lower()] = value.strip()
        if key.strip().lower() == "elementdatafile":
            break
    return fields, at


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(LONGEST)


def _is_beside(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return ".." not in parts and parts[0] != "" and ":" not in parts[0]
