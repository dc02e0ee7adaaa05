"""A scanned surface: points with optional normals, read from the usual mesh and cloud files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from zoo.io import existing, written_whole
from zoo.io.vtk import read_vtk_points
from zoo.ops.arguments import between, checked, shown
from zoo.ops.array_arguments import real_array

MESH_SUFFIXES = (".ply", ".obj", ".stl", ".off")
TABLE_SUFFIXES = (".xyz", ".npy", ".npz")
READABLE = (*MESH_SUFFIXES, *TABLE_SUFFIXES, ".vtk")


@dataclass(frozen=True, eq=False)
class Scan:
    """Points of a surface in space, or of a curve in the plane, with optional outward normals.

    Attributes:
        points: float64 array `[n, 3]` (or `[n, 2]`), in the units and frame of the file.
        normals: float64 array of unit vectors like `points`, or None.
        faces: int64 array `[m, 3]` of the file's triangles, or None; only metrics use them.
        name: for messages and pictures.

    Raises:
        ValueError: fewer than two points, a shape other than `[n, 2]` or `[n, 3]`, values that
            are not finite, all points equal, normals that do not match the points or have no
            direction.
    """

    points: np.ndarray
    normals: np.ndarray | None = None
    faces: np.ndarray | None = None
    name: str = field(default="scan")

    def __post_init__(self):
        if not isinstance(self.name, str):
            raise ValueError(f"name must be a word, not {shown(self.name)}.")
        points = _finite(self.points, "points")
        if points.ndim != 2 or points.shape[1] not in (2, 3):
            raise ValueError(f"points must have the shape [n, 3] or [n, 2], not {points.shape}.")
        if len(points) < 2:
            raise ValueError(f"points must hold at least two points, not {len(points)}.")
        if not np.ptp(points, axis=0).max() > 0:
            raise ValueError(f"points are all equal: {len(points)} copies of {points[0]}.")
        object.__setattr__(self, "points", points)
        if self.normals is not None:
            normals = _finite(self.normals, "normals")
            if normals.shape != points.shape:
                raise ValueError(
                    f"normals must have the shape of points, {points.shape}, not {normals.shape}."
                )
            lengths = np.linalg.norm(normals, axis=1, keepdims=True)
            if not lengths.all():
                index = int(np.argmin(lengths))
                raise ValueError(f"normals must not be zero; the one of point {index} is.")
            object.__setattr__(self, "normals", normals / lengths)
        if self.faces is not None:
            object.__setattr__(self, "faces", _faces(self.faces, len(points)))

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        kind = "points" if self.normals is None else "oriented points"
        return f"Scan({self.name!r}, {len(self)} {kind} in {self.dims} dimensions)"

    @property
    def dims(self) -> int:
        """2 for a planar curve, 3 for a surface."""
        return self.points.shape[1]

    @property
    def frame(self) -> tuple[np.ndarray, float]:
        """Centre `[dims]` and half the longest side of the bounding box, in the scan's units.

        Both are rounded to float32, in which models store them, so that the frame of training and
        the frame of use are one, however far from the origin the scan lies.
        """
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        centre = ((low + high) / 2).astype(np.float32).astype(np.float64)
        return centre, float(np.float32((high - low).max() / 2))

    @classmethod
    def read(cls, path: str | Path) -> Scan:
        """Reads a mesh or a cloud.

        Meshes (.ply, .obj, .stl, .off) keep the order of their vertices and get vertex normals
        from their faces; vertices that no face uses are left out. An .stl has no shared vertices,
        so equal ones are merged. Clouds come as .ply, or as rows `x y z [nx ny nz]` (also
        `x y [nx ny]`) in .xyz, .npy and .npz (arrays `points` and, if present, `normals`), or as
        the points of a legacy .vtk file, whatever else it holds.

        Args:
            path: the file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for an unknown suffix, a file that is not what its suffix says, or points
                that are no scan.
        """
        path = existing(path)
        suffix = path.suffix.lower()
        if suffix not in READABLE:
            known = ", ".join(READABLE)
            raise ValueError(f"path: cannot read {path.name!r}; the suffix must be one of {known}.")
        if suffix == ".vtk":
            return cls(read_vtk_points(path), name=path.stem)
        try:
            parts = _read_mesh(path) if suffix in MESH_SUFFIXES else _read_table(path, suffix)
            return cls(**parts, name=path.stem)
        except Exception as error:
            # Parsers fail in many ways on a foreign file; the user needs one answer.
            raise ValueError(f"path: {path.name!r} is not a readable {suffix} file: {error}") from (
                error
            )

    @classmethod
    def from_mesh(cls, mesh, name: str = "mesh") -> Scan:
        """Vertices, vertex normals and faces of a `trimesh.Trimesh` as a scan."""
        return cls(**_mesh_parts(mesh), name=name)

    def subset(self, indices: np.ndarray) -> Scan:
        """The points (and normals) at `indices`, as a cloud without faces."""
        normals = None if self.normals is None else self.normals[indices]
        return Scan(self.points[indices], normals, name=self.name)

    @checked()
    def split(self, test: float = 0.25, seed: int = 313) -> tuple[Scan, Scan]:
        """Splits the points at random into a training and a test cloud.

        Args:
            test: share of the points in the test cloud, between 0 and 1.
            seed: of the permutation.

        Returns:
            `(training, test)` clouds, both without faces.
        """
        between("test", test, 0.0, 1.0)
        order = np.random.default_rng(seed).permutation(len(self))
        count = int(test * len(self))
        if not 2 <= count <= len(self) - 2:
            raise ValueError(
                f"test={test} leaves fewer than two of the {len(self)} points on one side."
            )
        return self.subset(np.sort(order[count:])), self.subset(np.sort(order[:count]))


def read_mesh(path: str | Path):
    """Reads a mesh or cloud as trimesh has it, vertices in the order of the file, all of them.

    Args:
        path: .ply, .obj, .stl or .off.

    Returns:
        A `trimesh.Trimesh` or `trimesh.PointCloud`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is not what its suffix says.
    """
    path = existing(path)
    try:
        return _load_mesh(path)
    except Exception as error:
        raise ValueError(f"path: {path.name!r} is not a readable mesh: {error}") from error


def write_mesh(mesh, path: str | Path) -> None:
    """Writes a `trimesh.Trimesh`; the file appears complete or not at all.

    Args:
        mesh: the mesh.
        path: .ply (binary), .obj, .stl or .off.

    Raises:
        ValueError: for another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in MESH_SUFFIXES:
        known = ", ".join(MESH_SUFFIXES)
        raise ValueError(f"path: cannot write {path.name!r}; the suffix must be one of {known}.")
    with written_whole(path) as partial:
        mesh.export(partial)


def as_scan(data) -> Scan | None:
    """A scan from a scan, a `trimesh.Trimesh`, points `[n, d]`, or a dict of points and normals.

    Returns:
        The scan, or None when `data` is something else (such as a data set).
    """
    if isinstance(data, Scan):
        return data
    if isinstance(data, np.ndarray):
        return Scan(data)
    if isinstance(data, dict) and set(data) in ({"points"}, {"points", "normals"}):
        return Scan(**data)
    if hasattr(data, "vertices") and hasattr(data, "faces"):
        return Scan.from_mesh(data)
    return None


def _faces(faces, count: int) -> np.ndarray:
    faces = real_array("faces", faces)
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise ValueError(
            f"faces must be whole numbers [m, 3], not {faces.dtype} of the shape {faces.shape}."
        )
    if faces.size and not 0 <= faces.min() <= faces.max() < count:
        raise ValueError(
            f"faces must be indices from 0 to {count - 1}, not {faces.min()} to {faces.max()}."
        )
    return faces.astype(np.int64, copy=False)


def _finite(values, argument: str) -> np.ndarray:
    array = real_array(argument, values)
    if array.dtype.kind == "b":
        raise ValueError(f"{argument} must be numbers, not booleans.")
    return array.astype(np.float64, copy=False)


def _load_mesh(path: Path):
    import trimesh

    options = {"process": False}
    if path.suffix.lower() == ".obj":
        options["maintain_order"] = True
    loaded = trimesh.load(path, **options)
    if isinstance(loaded, trimesh.Scene):
        loaded = loaded.to_geometry()
    return loaded


def _read_mesh(path: Path) -> dict:
    import trimesh

    loaded = _load_mesh(path)
    if path.suffix.lower() == ".stl":
        loaded.merge_vertices(merge_norm=True, merge_tex=True)
    if isinstance(loaded, trimesh.Trimesh) and len(loaded.faces):
        return _mesh_parts(loaded)
    return {"points": np.array(loaded.vertices), "normals": _ply_normals(loaded)}


def _mesh_parts(mesh) -> dict:
    if len(mesh.faces) == 0:
        raise ValueError("the mesh has no faces.")
    used = np.unique(mesh.faces)
    position = np.full(len(mesh.vertices), -1)
    position[used] = np.arange(len(used))
    normals = np.array(mesh.vertex_normals)[used]
    parts = {"points": np.array(mesh.vertices)[used], "faces": position[mesh.faces]}
    # Faces of no area leave their vertices without a direction; such a mesh counts as a bare cloud.
    return parts | {"normals": normals if np.linalg.norm(normals, axis=1).all() else None}


def _ply_normals(cloud) -> np.ndarray | None:
    # trimesh drops the normals of a cloud but keeps the raw table of a .ply file: a structured
    # array of a binary file, a dict of columns of a text file.
    table = cloud.metadata.get("_ply_raw", {}).get("vertex", {}).get("data", {})
    columns = table if isinstance(table, dict) else table.dtype.names or ()
    names = ("nx", "ny", "nz")
    if not set(names) <= set(columns):
        return None
    return np.stack([np.ravel(table[name]) for name in names], axis=-1)


def _read_table(path: Path, suffix: str) -> dict:
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            if "points" not in archive:
                raise ValueError(f"no array 'points', only {sorted(archive)}")
            return {name: archive[name] for name in ("points", "normals") if name in archive}
    rows = np.load(path, allow_pickle=False) if suffix == ".npy" else np.loadtxt(path, ndmin=2)
    if rows.ndim != 2 or rows.shape[1] not in (2, 3, 4, 6):
        raise ValueError(f"expected rows of 2, 3, 4 or 6 numbers, found the shape {rows.shape}")
    dims = {2: 2, 3: 3, 4: 2, 6: 3}[rows.shape[1]]
    points, rest = rows[:, :dims], rows[:, dims:]
    if rest.size and not np.allclose(np.linalg.norm(rest, axis=1), 1.0, atol=0.01):
        raise ValueError(
            f"columns {dims + 1} to {rows.shape[1]} are no unit normals; intensities or colours? "
            "Keep the coordinates alone, or the coordinates and unit normals"
        )
    return {"points": points, "normals": rest if rest.size else None}
