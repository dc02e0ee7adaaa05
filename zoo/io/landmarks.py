"""Landmarks on disk: tables, 3D Slicer's markups, and the lists of DIR-Lab."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zoo.geometry import flip_ras_lps
from zoo.io import existing, written_whole
from zoo.io.vtk import read_vtk_points

READABLE = (".csv", ".fcsv", ".mrk.json", ".txt", ".vtk")
WRITABLE = (".csv", ".fcsv", ".mrk.json")
# What a foreign table or a foreign tree of JSON can make a parser say.
UNREADABLE = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, csv.Error)
UNREADABLE += (RecursionError,)
FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


def read_landmarks(path: str | Path) -> np.ndarray:
    """Reads landmarks in the order of the file.

    * .csv: `x,y[,z]` with or without a header; a further first column counts or names the points,
      as in `,X,Y` of ImageJ and BIRL. Without a header, three columns are `x,y,z`, unless the
      first one counts 0, 1, 2, ... or 1, 2, 3, ... in whole numbers: then it is left out.
      Coordinates are taken as they are; for pictures they are pixels.
    * .fcsv and .mrk.json of 3D Slicer: LPS or RAS, as the file says, become LPS. Points that were
      not placed are left out.
    * .txt: rows of two or three numbers, as they are. DIR-Lab's are voxel indices counted from 1:
      `zoo.data.benchmarks` turns them into mm.
    * .vtk: the points of a legacy file, as they are.

    Args:
        path: the file.

    Returns:
        float64 `[n, rank]`, in LPS mm.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for an unknown suffix, no points, values that are no finite numbers, rows of
            different length, or a coordinate system or unit that is not known.
    """
    return read_named_landmarks(path)[1]


def read_named_landmarks(path: str | Path) -> tuple[list[str] | None, np.ndarray]:
    """Reads landmarks with their names; see `read_landmarks`.

    Returns:
        The names, or None where the file gives none, and float64 `[n, rank]`.
    """
    path = existing(path)
    readers = {
        ".csv": _read_csv,
        ".fcsv": _read_fcsv,
        ".mrk.json": _read_markups,
        ".txt": _read_rows,
    }
    suffix = _suffix(path, READABLE)
    try:
        if suffix == ".vtk":
            names, rows = None, read_vtk_points(path)
        else:
            names, rows = readers[suffix](path.read_text(encoding="utf-8-sig"))
        points = np.array(rows, dtype=np.float64)
    except UNREADABLE as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"path: {path.name!r} holds no readable landmarks: {reason}") from error
    if points.ndim != 2 or not len(points) or points.shape[1] not in (2, 3):
        raise ValueError(
            f"path: {path.name!r} must hold points of 2 or 3 coordinates; it has the shape "
            f"{points.shape}."
        )
    bad = int((~np.isfinite(points)).any(axis=1).sum())
    if bad:
        raise ValueError(f"path: {path.name!r} has {bad} points with NaN or infinite coordinates.")
    return names, points


def read_common_landmarks(fixed: str | Path, moving: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the landmarks of a pair so that equal rows correspond.

    Where both files name (or number) their points and share some names, the names decide and
    points without a counterpart are left out with a warning. Otherwise the order decides.

    Args:
        fixed: landmarks of the fixed image, in the order of the result.
        moving: landmarks of the moving image.

    Returns:
        Two float64 arrays `[n, rank]`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for unreadable files, or different counts where names cannot decide.
    """
    names, points = read_named_landmarks(fixed)
    other_names, other_points = read_named_landmarks(moving)
    if names and other_names and len({*names}) == len(names):
        position = {name: index for index, name in enumerate(other_names)}
        common = [index for index, name in enumerate(names) if name in position]
        if common and len(position) == len(other_names):
            lost = len(names) + len(other_names) - 2 * len(common)
            if lost:
                warnings.warn(
                    f"{lost} landmarks of {Path(fixed).name!r} and {Path(moving).name!r} have no "
                    "counterpart and are left out.",
                    stacklevel=2,
                )
            return points[common], other_points[[position[names[index]] for index in common]]
    if len(points) != len(other_points):
        raise ValueError(
            f"landmarks: {Path(fixed).name!r} has {len(points)} points and {Path(moving).name!r} "
            f"{len(other_points)}; without common names they must have as many."
        )
    return points, other_points


def read_correspondences(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads a table of six columns separated by commas: fixed points and the same, moving.

    Args:
        path: the .csv, without a header.

    Returns:
        Two float64 arrays `[n, 3]`, as they are.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not hold rows of six numbers.
    """
    path = existing(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy, that a file is empty: said below
            rows = np.loadtxt(path, delimiter=",", ndmin=2)
        if not len(rows):
            raise ValueError("it is empty")
    except ValueError as error:
        raise ValueError(f"path: {path.name!r}: no table of numbers: {error}") from error
    if rows.shape[1] != 6:
        raise ValueError(f"path: {path.name!r}: expected rows of 6 numbers, not {rows.shape[1]}.")
    return rows[:, :3], rows[:, 3:]


def write_landmarks(path: str | Path, points, names: Sequence[str] | None = None):
    """Writes landmarks without loss; the file appears complete or not at all.

    Args:
        path: .csv (header `x,y[,z]`, after `name` if there are names), .fcsv or .mrk.json (both in
            LPS, for 3D Slicer).
        points: `[n, 2]` or `[n, 3]` in LPS mm; Slicer's files hold three coordinates.
        names: one for each point.

    Raises:
        ValueError: for an unknown suffix, points of another shape or not finite, or names that do
            not match.
    """
    suffix = _suffix(path, WRITABLE)
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] not in (2, 3) or not len(points):
        raise ValueError(f"points must have the shape [n, 3] or [n, 2], not {points.shape}.")
    if not np.isfinite(points).all():
        raise ValueError("points must be finite; they hold NaN or infinite values.")
    if names is not None and len(names) != len(points):
        raise ValueError(f"names must be as many as the {len(points)} points, not {len(names)}.")
    if suffix != ".csv" and points.shape[1] != 3:
        raise ValueError(f"points have 2 coordinates; {suffix} holds 3. Use .csv.")
    writer = {".csv": _write_csv, ".fcsv": _write_fcsv, ".mrk.json": _write_markups}[suffix]
    with (
        written_whole(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        writer(file, points.tolist(), names)


def _suffix(path: str | Path, known: Sequence[str]) -> str:
    name = Path(path).name.lower()
    suffix = next((suffix for suffix in known if name.endswith(suffix)), None)
    if suffix is None:
        raise ValueError(
            f"path: {Path(path).name!r} has no suffix of landmarks; it must be one of "
            f"{', '.join(known)}."
        )
    return suffix


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _read_csv(text: str):
    delimiter = max(",;\t", key=text.count)
    rows = [
        [cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter)
    ]
    rows = [row for row in rows if any(row) and not row[0].startswith("#")]
    if not rows:
        raise ValueError("the file is empty")
    # A header has a last column that is no number; the first one may be a name in any row.
    header = None if _number(rows[0][-1]) is not None else [cell.lower() for cell in rows.pop(0)]
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise ValueError(f"its rows have different lengths, {sorted(lengths)}")
    if header is None:
        width = lengths.pop()
        named = width == 4 or (width == 3 and _counts([row[0] for row in rows]))
        columns, name = list(range(named, width)), 0 if named else None
    elif {"x", "y"} <= set(header):
        columns = [header.index(axis) for axis in "xyz" if axis in header]
        name = 0 if 0 not in columns else None
    else:
        raise ValueError(f"its header {header} has no columns x and y")
    names = None if name is None else [row[name] for row in rows]
    return names, [[float(row[column]) for column in columns] for row in rows]


def _counts(cells: list[str]) -> bool:
    if not all(cell.isdecimal() for cell in cells):
        # Names such as "nose" also say that the column is no coordinate.
        return all(_number(cell) is None for cell in cells)
    numbers = [int(cell) for cell in cells]
    return (
        len(cells) > 1
        and numbers == list(range(numbers[0], numbers[0] + len(cells)))
        and (numbers[0] in (0, 1))
    )


def _in_lps(rows: list, system: str) -> list:
    # Slicer writes names; before 4.11 it wrote numbers.
    system = {"0": "RAS", "1": "LPS"}.get(system, system.upper())
    if system not in ("LPS", "RAS"):
        raise ValueError(f"the coordinate system is {system!r}; LPS and RAS are known")
    return flip_ras_lps(rows).tolist() if system == "RAS" and rows else rows


def _read_fcsv(text: str):
    system, columns = "RAS", FCSV_COLUMNS.split(",")  # what Slicer assumes without a header
    names, rows = [], []
    for line in text.splitlines():
        key, _, value = line.lstrip("# ").partition("=")
        if line.startswith("#"):
            if key.strip() == "CoordinateSystem":
                system = value.strip()
            elif key.strip() == "columns":
                columns = [column.strip() for column in value.split(",")]
        elif line.strip():
            row = next(csv.reader([line]))
            rows.append([float(row[columns.index(axis)]) for axis in "xyz"])
            label = columns.index("label") if "label" in columns else len(row)
            names.append(row[label] if label < len(row) else "")
    return names if all(names) else None, _in_lps(rows, system)


def _read_markups(text: str):
    names, rows = [], []
    for markup in json.loads(text)["markups"]:
        units = markup.get("coordinateUnits", "mm")
        if units not in ("mm", ["mm"] * 3):
            raise ValueError(f"the unit is {units!r}; it must be mm")
        points = [
            point
            for point in markup.get("controlPoints", [])
            if point.get("positionStatus", "defined") == "defined"
        ]
        names += [str(point.get("label", "")) for point in points]
        positions = [[float(value) for value in point["position"]] for point in points]
        rows += _in_lps(positions, str(markup.get("coordinateSystem", "LPS")))
    return names if all(names) else None, rows


def _read_rows(text: str):
    lines = (line.replace(",", " ").split() for line in text.splitlines())
    return None, [[float(cell) for cell in line] for line in lines if line]


def _write_csv(file, points, names):
    writer = csv.writer(file, lineterminator="\n")
    axes = ["x", "y", "z"][: len(points[0])]
    writer.writerow(axes if names is None else ["name", *axes])
    for index, point in enumerate(points):
        # repr gives the shortest text that reads back as the same number.
        cells = [repr(value) for value in point]
        writer.writerow(cells if names is None else [names[index], *cells])


def _write_fcsv(file, points, names):
    file.write("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n")
    file.write(f"# columns = {FCSV_COLUMNS}\n")
    writer = csv.writer(file, lineterminator="\n")
    for index, point in enumerate(points):
        label = f"F-{index + 1}" if names is None else names[index]
        flags = [0, 0, 0, 1, 1, 1, 0]  # no rotation; visible, selected, not locked
        writer.writerow([index + 1, *map(repr, point), *flags, label, "", ""])


def _write_markups(file, points, names):
    control = [
        {
            "id": str(index + 1),
            "label": f"F-{index + 1}" if names is None else str(names[index]),
            "position": point,
            "positionStatus": "defined",
        }
        for index, point in enumerate(points)
    ]
    schema = (
        "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/"
        "Resources/Schema/markups-schema-v1.0.3.json#"
    )
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "controlPoints": control,
    }
    json.dump({"@schema": schema, "markups": [markup]}, file, indent=2)
