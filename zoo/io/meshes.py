"""Meshes on disk: every vertex of the file, in the order of the file, with all its digits."""

from __future__ import annotations

import io
import math
import re
import warnings
from pathlib import Path

import numpy as np

from zoo.io import existing, written_whole
from zoo.io.ply import Element, Lists, Ply, ply_bytes, read_ply

MESH_SUFFIXES = (".ply", ".obj", ".stl", ".off")
NORMALS = "the normals of the vertices, which turn with the surface"
UNCOLOURED = {(".stl", "vertex"), (".stl", "face"), (".off", "vertex"), (".off", "face")}
UNCOLOURED |= {(".obj", "face")}
"""Of which suffix there is no writer for the colours of what."""
COLOURS = ("red", "green", "blue")
CORNERS = ("vertex_indices", "vertex_index")
SINGLE = 1e-6  # share of the extent that single precision may move a vertex of an .stl


def read_mesh(path: str | Path):
    """Reads a mesh or cloud with the vertices of the file, all of them, in its order.

    Polygons become fans of triangles. Materials and texture coordinates, for which others split
    vertices, are left out, as are further properties of a .ply; colours of the vertices, or else of
    the faces of a .ply, and normals of the vertices are kept where the file gives each of them one.

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
    colours = getattr(getattr(mesh, "visual", None), "kind", None)
    if (suffix, colours) in UNCOLOURED:
        whose = {"vertex": "vertices", "face": "faces"}[colours]
        _say(f"{path.name!r} cannot hold the colours of its {whose}; a .ply keeps them.")
    vertices = np.asarray(mesh.vertices, dtype=np.float64)
    largest = float(np.abs(vertices).max(initial=0.0))
    with written_whole(path) as partial:
        if suffix == ".ply":
            partial.write_bytes(_with_doubles(mesh.export(file_type="ply"), vertices))
        elif suffix == ".stl":
            lost = np.abs(vertices.astype(np.float32) - vertices).max(initial=0.0)
            if lost > SINGLE * np.ptp(vertices, axis=0).max(initial=0.0):
                _say(
                    f"{path.name!r} holds single precision, which moves vertices by up to "
                    f"{lost:.3g}; a .ply keeps them."
                )
            mesh.export(partial)
        else:
            # 17 digits in all, whatever the unit is.
            magnitude = math.floor(math.log10(largest)) if largest > 0 else 0
            mesh.export(partial, digits=min(max(16 - magnitude, 8), 300))


def write_moved(source: str | Path, vertices: np.ndarray, path: str | Path) -> None:
    """Writes a mesh or cloud once more, with its vertices elsewhere.

    A file of the same suffix (but .stl) keeps all else that is in it: polygons, colours, texture
    coordinates, the names of materials, properties of other programs. Another suffix gets what
    `read_mesh` keeps and `write_mesh` can write. A warning says what is left out, normals of the
    vertices among them, which turn with the surface, and which files of materials and textures are
    not in the folder of the new file.

    Args:
        source: .ply, .obj, .stl or .off.
        vertices: `[n, 3]`, those of `read_mesh`, moved.
        path: likewise; the file appears complete or not at all.

    Raises:
        FileNotFoundError: if there is no such source.
        ValueError: as `read_mesh` and `write_mesh`; and for another number of vertices.
    """
    mesh = read_mesh(source)
    source, path = existing(source), Path(path).expanduser()
    suffix = source.suffix.lower()
    vertices = np.asarray(vertices, dtype=np.float64)
    if vertices.shape != np.shape(mesh.vertices):
        raise ValueError(
            f"vertices must have the shape {np.shape(mesh.vertices)} of those of {source.name!r}, "
            f"not {vertices.shape}."
        )
    same = suffix == path.suffix.lower()
    lost = []
    if suffix == ".ply":
        ply = read_ply(source.read_bytes())
        lost = _ply_lost(ply, same)
        contents = _moved_ply(ply, vertices) if same else b""
    elif suffix in (".obj", ".off"):
        text = _text_of(source, "surrogateescape")
        lost = _obj_lost(text, same) if suffix == ".obj" else _off_lost(text, same)
        moved = _moved_obj if suffix == ".obj" else _moved_off
        contents = moved(text, vertices).encode("utf-8", "surrogateescape") if same else b""
    if lost:
        _say(f"{source.name!r}: left out of {path.name!r} are {', '.join(lost)}.")
    if same and suffix != ".stl":
        beside = _named_by(source.read_bytes(), suffix)
        if beside and path.parent.resolve() != source.parent.resolve():
            _say(f"{path.name!r} names {', '.join(beside)}, to be copied from {source.parent}.")
        with written_whole(path) as partial:
            partial.write_bytes(contents)
        return
    mesh.vertices = vertices
    write_mesh(mesh, path)


def _named_by(contents: bytes, suffix: str) -> list[str]:
    """Files with materials and textures that a mesh expects beside it."""
    line = {".obj": rb"mtllib[ \t]+(.+)", ".ply": rb"comment[ \t]+TextureFile[ \t]+(.+)"}
    if suffix not in line:
        return []
    found = re.findall(rb"^[ \t]*" + line[suffix], contents, re.MULTILINE)
    return [name.decode("utf-8", "replace").strip() for name in dict.fromkeys(found)]


def _say(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=3)


def load_mesh(path: Path, suffix: str):
    """As `read_mesh`, with the errors of whatever parses the file."""
    import trimesh

    if suffix in (".obj", ".off"):
        text = _text_of(path, "replace")
        parts = _parse_obj(text) if suffix == ".obj" else _parse_off(text)
    elif suffix == ".ply":
        parts = _parse_ply(read_ply(path.read_bytes()))
    else:
        data = io.BytesIO(path.read_bytes())
        loaded = trimesh.load(data, file_type="stl", process=False)
        return loaded.to_geometry() if isinstance(loaded, trimesh.Scene) else loaded
    if not len(parts["faces"]):
        cloud = trimesh.PointCloud(parts["vertices"], colors=parts.get("vertex_colors"))
        # trimesh has no place for the normals of a cloud.
        cloud.metadata["normals"] = parts.get("vertex_normals")
        return cloud
    _check_faces(parts["faces"], len(parts["vertices"]))
    return trimesh.Trimesh(**parts, process=False)


def _text_of(path: Path, errors: str) -> str:
    return path.read_bytes().decode("utf-8", errors).removeprefix("\ufeff")


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
    for line in _obj_lines(text):
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
        parts["vertex_colors"] = _octets(colours, colours.max() <= 1)
    known = np.array([normal_of.get(k, -1) for k in range(len(table))], dtype=np.int64)
    if len(known) and known.min() >= 0 and known.max() < len(directions):
        parts["vertex_normals"] = np.array(directions, dtype=np.float64)[known]
    return parts


def _octets(colours: np.ndarray, shares: bool) -> np.ndarray:
    """Colours as octets, which may be given as shares of one."""
    return np.clip(np.rint(colours * (255 if shares else 1)), 0, 255).astype(np.uint8)


def _obj_lines(text: str) -> list[str]:
    return text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines()


def _obj_lost(text: str, same: bool) -> list[str]:
    """What of an .obj is not written again."""
    words = {line.split(None, 1)[0] for line in _obj_lines(text) if line.strip()}
    lost = [NORMALS] if "vn" in words else []
    if not same:
        lost += ["texture coordinates"] if "vt" in words else []
        lost += ["materials"] if words & {"usemtl", "mtllib"} else []
    return lost


def _moved_obj(text: str, vertices: np.ndarray) -> str:
    """The lines of an .obj with other vertices, without normals."""
    lines, rows = [], iter(vertices.tolist())
    for line in _obj_lines(text):
        parts = line.partition("#")[0].split()
        if not parts or parts[0] not in ("v", "vn", "f"):
            lines.append(line)
        elif parts[0] == "v":
            lines.append(" ".join(("v", *map(repr, next(rows)), *parts[4:])))
        elif parts[0] == "f":
            corners = ("/".join(each.split("/")[:2]).rstrip("/") for each in parts[1:])
            lines.append(" ".join(("f", *corners)))
    return "\n".join((*lines, ""))


def _from_one(reference: str, count: int) -> int:
    """An index that counts from 1, or back from the last one so far, as one that counts from 0."""
    index = int(reference)
    if index == 0 or index < -count:
        raise ValueError(f"a face names vertex {index}, of {count} so far, counted from 1")
    return index - 1 if index > 0 else count + index


def _parse_off(text: str) -> dict:
    """Vertices, triangles and the colours of vertices; the rest is left out."""
    header, lines = _off_lines(text)
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
    parts = {"vertices": vertices, "faces": np.array(faces, dtype=np.int64).reshape(-1, 3)}
    first = 6 if "N" in header else 3
    if "C" in header and rows and all(len(row) >= first + 3 for row in rows):
        words = [row[first : first + 3] for row in rows]
        # Whole numbers are octets; 1 is one of 255 there, and all of it in 1.0.
        shares = any("." in word for row in words for word in row)
        parts["vertex_colors"] = _octets(np.array(words, dtype=np.float64), shares)
    return parts


def _off_lines(text: str) -> tuple[str, list[list[str]]]:
    """The word of the header, and the words of the lines that follow it."""
    lines = [each for line in text.splitlines() if (each := line.partition("#")[0].split())]
    if not lines:
        raise ValueError("it is empty")
    header = lines[0][0].upper()
    if not re.fullmatch(r"(ST)?C?N?OFF", header) or "BINARY" in map(str.upper, lines[0][1:2]):
        raise ValueError("it does not begin with OFF in plain text")
    # The numbers may stand on the line of the word.
    lines[0] = lines[0][1:]
    return header, lines if lines[0] else lines[1:]


def _off_lost(text: str, same: bool) -> list[str]:
    """What of an .off is not written again."""
    header, lines = _off_lines(text)
    vertex_count, face_count = (int(number) for number in lines[0][:2])
    lost = [NORMALS] if "N" in header else []
    if not same:
        faces = lines[1 + vertex_count : 1 + vertex_count + face_count]
        lost += ["texture coordinates"] if "ST" in header else []
        lost += ["colours of the faces"] if any(len(r) > 1 + int(r[0]) for r in faces) else []
    return lost


def _moved_off(text: str, vertices: np.ndarray) -> str:
    """The lines of an .off with other vertices, without normals."""
    header, lines = _off_lines(text)
    first = 6 if "N" in header else 3
    moved = [
        [*map(repr, row), *line[first:]]
        for row, line in zip(vertices.tolist(), lines[1:], strict=False)
    ]
    lines[1 : 1 + len(moved)] = moved
    return "\n".join([header.replace("N", ""), *map(" ".join, lines), ""])


def _parse_ply(ply: Ply) -> dict:
    """Vertices and triangles, and the normals and colours that the file has."""
    vertex, face = ply.element("vertex"), ply.element("face")
    vertices = None if vertex is None else vertex.stacked(("x", "y", "z"))
    if vertices is None:
        raise ValueError("it has no vertices of x, y and z")
    if ply.element("tristrips") is not None:
        raise ValueError("it holds strips of triangles; write it as triangles, as MeshLab does")
    parts = {"vertices": vertices.astype(np.float64), "faces": np.zeros((0, 3), np.int64)}
    normals = vertex.stacked(("nx", "ny", "nz"))
    if normals is not None:
        parts["vertex_normals"] = normals.astype(np.float64)
    if _colours(vertex) is not None:
        parts["vertex_colors"] = _colours(vertex)
    if face is None or not face.count:
        return parts
    corners = next((face.columns[name] for name in CORNERS if name in face.columns), None)
    if not isinstance(corners, Lists):
        raise ValueError("its faces have no list of vertex_indices")
    # Of one or two corners there is no triangle.
    many = np.maximum(corners.lengths - 2, 0)
    of = np.repeat(np.arange(face.count), many)
    start = (np.cumsum(corners.lengths) - corners.lengths)[of]
    turn = np.arange(len(of)) - np.repeat(np.cumsum(many) - many, many)
    at = np.stack([start, start + turn + 1, start + turn + 2], axis=1)
    parts["faces"] = corners.values[at].astype(np.int64)
    if "vertex_colors" not in parts and _colours(face) is not None:
        parts["face_colors"] = _colours(face)[of]
    return parts


def _colours(element: Element) -> np.ndarray | None:
    for names in ((*COLOURS, "alpha"), COLOURS):
        colours = element.stacked(names)
        if colours is not None:
            return _octets(colours, element.kinds["red"][0][0] == "f")
    return None


def _ply_lost(ply: Ply, same: bool) -> list[str]:
    """What of a .ply is not written again."""
    vertex = ply.element("vertex")
    lost = [NORMALS] if vertex.stacked(("nx", "ny", "nz")) is not None else []
    if same:
        return lost
    colours = (*COLOURS, "alpha")
    known = {"vertex": ("x", "y", "z", "nx", "ny", "nz", *colours), "face": CORNERS}
    if _colours(vertex) is None:
        known["face"] += colours
    for element in ply.elements:
        names = [name for name in element.kinds if name not in known.get(element.name, ())]
        if names and element.count:
            lost.append(f"{', '.join(names)} of its {element.name} elements")
    return lost


def _moved_ply(ply: Ply, vertices: np.ndarray) -> bytes:
    """A binary .ply with other vertices in double precision, without normals."""
    vertex = ply.element("vertex")
    for column, name in enumerate("xyz"):
        vertex.kinds[name] = "f8", None
        vertex.columns[name] = vertices[:, column]
    for name in ("nx", "ny", "nz"):
        vertex.kinds.pop(name, None)
        vertex.columns.pop(name, None)
    return ply_bytes(ply)


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
