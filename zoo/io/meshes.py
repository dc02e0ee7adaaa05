"""Meshes on disk: every vertex of the file, in the order of the file, with all its digits."""

from __future__ import annotations

import io
import math
import re
import warnings
from pathlib import Path

import numpy as np

from zoo.io import existing, written_whole

MESH_SUFFIXES = (".ply", ".obj", ".stl", ".off")
SINGLE = 1e-6  # share of the extent that single precision may move a vertex of an .stl


def read_mesh(path: str | Path):
    """Reads a mesh or cloud with the vertices of the file, all of them, in its order.

    Polygons become fans of triangles. Materials and texture coordinates, for which others split
    vertices, are left out; normals of the vertices are kept where the file gives each of them one.

    Args:
        path: .ply, .obj, .stl or .off.

    Returns:
        A `trimesh.Trimesh` or `trimesh.PointCloud`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for an unknown suffix, or a file that is not what its suffix says, faces of
            vertices that there are not among them.
    """
    path = existing(path)
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        known = ", ".join(MESH_SUFFIXES)
        raise ValueError(f"path: cannot read {path.name!r}; the suffix must be one of {known}.")
    try:
        return load_mesh(path, suffix)
    except Exception as error:
        # Parsers fail in many ways on a foreign file; the user needs one answer.
        reason = str(error) or type(error).__name__
        raise ValueError(f"path: {path.name!r} is not a readable {suffix} file: {reason}") from (
            error
        )


def write_mesh(mesh, path: str | Path) -> None:
    """Writes a `trimesh.Trimesh`; the file appears complete or not at all.

    Coordinates keep their digits, but for an .stl, which holds single precision: where that moves a
    vertex by more than a millionth of the extent, a warning says so.

    Args:
        mesh: the mesh; a `trimesh.PointCloud` can be a .ply.
        path: .ply (binary, coordinates in double precision), .obj, .stl or .off.

    Raises:
        ValueError: for another suffix, or a cloud without faces that is to be another file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        known = ", ".join(MESH_SUFFIXES)
        raise ValueError(f"path: cannot write {path.name!r}; the suffix must be one of {known}.")
    if suffix != ".ply" and not hasattr(mesh, "faces"):
        raise ValueError(
            f"path: {path.name!r} cannot hold a cloud without faces; use .ply or .xyz."
        )
    vertices = np.asarray(mesh.vertices, dtype=np.float64)
    largest = float(np.abs(vertices).max(initial=0.0))
    with written_whole(path) as partial:
        if suffix == ".ply":
            partial.write_bytes(_with_doubles(mesh.export(file_type="ply"), vertices))
        elif suffix == ".stl":
            lost = np.abs(vertices.astype(np.float32) - vertices).max(initial=0.0)
            if lost > SINGLE * np.ptp(vertices, axis=0).max(initial=0.0):
                warnings.warn(
                    f"{path.name!r} holds single precision, which moves vertices by up to "
                    f"{lost:.3g}; a .ply keeps them.",
                    UserWarning,
                    stacklevel=2,
                )
            mesh.export(partial)
        else:
            # 17 digits in all, whatever the unit is.
            magnitude = math.floor(math.log10(largest)) if largest > 0 else 0
            mesh.export(partial, digits=min(max(16 - magnitude, 8), 300))


def load_mesh(path: Path, suffix: str):
    """As `read_mesh`, with the errors of whatever parses the file."""
    import trimesh

    if suffix in (".obj", ".off"):
        text = path.read_bytes().decode("utf-8-sig", "replace")
        parts = _parse_obj(text) if suffix == ".obj" else _parse_off(text)
        if not len(parts["faces"]):
            return trimesh.PointCloud(parts["vertices"])
        _check_faces(parts["faces"], len(parts["vertices"]))
        return trimesh.Trimesh(**parts, process=False)
    data = io.BytesIO(path.read_bytes())
    options = {"fix_texture": False, "skip_materials": True} if suffix == ".ply" else {}
    loaded = trimesh.load(data, file_type=suffix[1:], process=False, **options)
    if isinstance(loaded, trimesh.Scene):
        loaded = loaded.to_geometry()
    if "tristrips" in loaded.metadata.get("_ply_raw", {}):
        raise ValueError("it holds strips of triangles; write it as triangles, as MeshLab does")
    if hasattr(loaded, "faces"):
        _check_faces(loaded.faces, len(loaded.vertices))
    return loaded


def _check_faces(faces, count: int) -> None:
    wrong = np.flatnonzero(((faces < 0) | (faces >= count)).any(axis=1))
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of its {len(faces)} faces name vertices that there are not: face "
            f"{wrong[0]} is of {np.asarray(faces)[wrong[0]].tolist()}, of {count} vertices"
        )


def _parse_obj(text: str) -> dict:
    """Vertices, triangles, and the normals and colours that every vertex has, if it has."""
    vertices, directions, faces, normal_of = [], [], [], {}
    for line in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        parts = line.partition("#")[0].split()
        if not parts:
            continue
        if parts[0] == "v":
            vertices.append(parts[1:])
        elif parts[0] == "vn":
            directions.append(parts[1:4])
        elif parts[0] == "f":
            corners = []
            for reference in parts[1:]:
                names = reference.split("/")
                corner = _from_one(names[0], len(vertices))
                corners.append(corner)
                if len(names) == 3 and names[2]:
                    normal = _from_one(names[2], len(directions))
                    # Of a vertex with several, as at a crease, there is none.
                    if normal_of.setdefault(corner, normal) != normal:
                        normal_of[corner] = -1
            if len(corners) < 3:
                raise ValueError(f"a face has {len(corners)} corners: {line.strip()!r:.60}")
            faces += [(corners[0], *corners[k : k + 2]) for k in range(1, len(corners) - 1)]
    table = np.array([row[:3] for row in vertices], dtype=np.float64).reshape(-1, 3)
    parts = {"vertices": table, "faces": np.array(faces, dtype=np.int64).reshape(-1, 3)}
    if vertices and all(len(row) == 6 for row in vertices):
        colours = np.array([row[3:] for row in vertices], dtype=np.float64)
        scale = 255 if colours.max() <= 1 else 1
        parts["vertex_colors"] = np.clip(np.rint(colours * scale), 0, 255).astype(np.uint8)
    known = np.array([normal_of.get(k, -1) for k in range(len(table))], dtype=np.int64)
    if len(known) and known.min() >= 0 and known.max() < len(directions):
        parts["vertex_normals"] = np.array(directions, dtype=np.float64)[known]
    return parts


def _from_one(reference: str, count: int) -> int:
    """An index that counts from 1, or back from the last one so far, as one that counts from 0."""
    index = int(reference)
    if index == 0 or index < -count:
        raise ValueError(f"a face names vertex {index}, of {count} so far, counted from 1")
    return index - 1 if index > 0 else count + index


def _parse_off(text: str) -> dict:
    """Vertices and triangles; colours and normals are left out."""
    lines = [each for line in text.splitlines() if (each := line.partition("#")[0].split())]
    if not lines:
        raise ValueError("it is empty")
    header = re.fullmatch(r"(ST)?C?N?OFF", lines[0][0].upper())
    if not header or "BINARY" in (word.upper() for word in lines[0][1:2]):
        raise ValueError("it does not begin with OFF in plain text")
    # The numbers may stand on the line of the word.
    lines[0] = lines[0][1:]
    lines = lines if lines[0] else lines[1:]
    vertex_count, face_count = (int(number) for number in lines[0][:2])
    if min(vertex_count, face_count) < 0 or len(lines) - 1 < vertex_count + face_count:
        raise ValueError(
            f"it announces {vertex_count} vertices and {face_count} faces, and has "
            f"{len(lines) - 1} lines for them"
        )
    rows = lines[1 : 1 + vertex_count]
    vertices = np.array([row[:3] for row in rows], dtype=np.float64).reshape(-1, 3)
    faces = []
    for row in lines[1 + vertex_count : 1 + vertex_count + face_count]:
        size = int(row[0])
        corners = [int(corner) for corner in row[1 : 1 + size]]
        if size < 1 or len(corners) < size:
            raise ValueError(f"a face of {size} corners is {' '.join(row)!r:.60}")
        # One or two corners are a point or a line.
        faces += [(corners[0], *corners[k : k + 2]) for k in range(1, size - 1)]
    return {"vertices": vertices, "faces": np.array(faces, dtype=np.int64).reshape(-1, 3)}


def _with_doubles(ply: bytes, vertices: np.ndarray) -> bytes:
    """A binary .ply of trimesh, whose coordinates are single precision, with the exact ones."""
    end = ply.index(b"end_header\n") + len(b"end_header\n")
    header = ply[:end].decode()
    sizes = {"float": "<f4", "double": "<f8", "uchar": "u1", "char": "i1", "short": "<i2"}
    sizes |= {"ushort": "<u2", "int": "<i4", "uint": "<u4"}
    own = re.search(r"element vertex \d+\n((?:property .*\n)+)", header)
    if own is None:
        return ply
    names = [line.split()[1:] for line in own[1].splitlines()]
    if any(kind not in sizes for kind, _ in names):
        return ply
    before = np.dtype([(name, sizes[kind]) for kind, name in names])
    after = np.dtype(
        [(name, "<f8" if name in ("x", "y", "z") else sizes[kind]) for kind, name in names]
    )
    stored = np.frombuffer(ply, before, len(vertices), end)
    table = np.empty(len(vertices), after)
    for name in after.names:
        table[name] = vertices[:, "xyz".index(name)] if name in ("x", "y", "z") else stored[name]
    properties = re.sub(r"property float ([xyz])\n", r"property double \1\n", own[1])
    head = header.replace(own[1], properties, 1).encode()
    return head + table.tobytes() + ply[end + stored.nbytes :]
