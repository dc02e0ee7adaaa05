"""A scanned surface: points with optional normals, read from the usual mesh and cloud files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from zoo.data.orientation import consistent_faces, repaired_normals
from zoo.io import existing
from zoo.io.meshes import MESH_SUFFIXES, load_mesh
from zoo.io.meshes import read_mesh as read_mesh
from zoo.io.meshes import write_mesh as write_mesh
from zoo.io.vtk import read_vtk_points
from zoo.ops.arguments import at_least, between, checked, shown
from zoo.ops.array_arguments import real_array
from zoo.ops.stored import check_archive

TABLE_SUFFIXES = (".xyz", ".npy", ".npz")
LARGEST = 1e30
MOST_BYTES = 2**32  # that an .npz may unpack to
ARRAYS = ("points", "normals", "weights")  # of an .npz, or of a dict that stands for a scan
READABLE = (*MESH_SUFFIXES, *TABLE_SUFFIXES, ".vtk")


@dataclass(frozen=True, eq=False)
class Scan:
    """Points of a surface in space, or of a curve in the plane, with optional outward normals.

    Attributes:
        points: float64 array `[n, 3]` (or `[n, 2]`), in the units and frame of the file.
        normals: float64 array of unit vectors like `points`, or None.
        faces: int64 array `[m, 3]` of the file's triangles, or None; only metrics use them.
        name: for messages and pictures.
        weights: float64 array `[n]`, not negative, of how much each point counts where a surface is
            fitted to them, such as the confidence of a scanner; points of weight zero are as if
            they were not there. None counts all alike.

    Raises:
        ValueError: fewer than two points, a shape other than `[n, 2]` or `[n, 3]`, values that
            are no real numbers, not finite or too large for single precision, all points equal,
            normals that do not match the points or have no direction, faces that are no indices of
            the points, weights that do not match the points, are negative, or leave fewer than two
            points.

    Example:
        >>> scan = zoo.Scan([[0.0, 0.0], [4.0, 0.0], [4.0, 2.0]])
        >>> scan.dims, scan.frame
        (2, (array([2., 1.]), 2.0))
    """

    points: np.ndarray
    normals: np.ndarray | None = None
    faces: np.ndarray | None = None
    name: str = field(default="scan")
    weights: np.ndarray | None = None

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
        if np.abs(points).max() > LARGEST or np.ptp(points, axis=0).max() < 1 / LARGEST:
            raise ValueError(
                f"points must lie within {LARGEST:g} of the origin, and further apart than "
                f"{1 / LARGEST:g}, for models compute in single precision; change their unit."
            )
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
            if points.shape[1] != 3:
                raise ValueError("faces need points of 3 coordinates; these have 2.")
            object.__setattr__(self, "faces", _checked_faces(self.faces, len(points)))
        if self.weights is not None:
            object.__setattr__(self, "weights", _checked_weights(self.weights, len(points)))

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
    def read(cls, path: str | Path | Sequence, poses: Sequence | None = None) -> Scan:
        """Reads a mesh or a cloud, or several range scans as one.

        Meshes (.ply, .obj, .stl, .off) keep all of their vertices, in the order of the file, and
        get vertex normals from their faces, unless the file has them. Faces that are wound against
        the others are turned, and vertices without a normal get that of the nearest one, both with
        a warning. An .stl has no shared vertices, so equal ones are merged. Clouds come as .ply, or
        as rows `x y z [nx ny nz]` (also `x y [nx ny]`) in .xyz, .npy and .npz (arrays `points` and,
        if present, `normals` and `weights`), or as the points of a legacy .vtk file, whatever else
        it holds.

        Args:
            path: the file, or a list of them; of several only points, normals and weights are kept.
            poses: of several files, a 4 x 4 matrix `[R, t; 0, 0, 1]` each (in the plane 3 x 3),
                which brings its points into the common frame; None leaves them as they are.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for an unknown suffix, a file that is not what its suffix says, or points
                that are no scan.
        """
        if isinstance(path, list | tuple):
            return cls.joined([cls.read(each) for each in path], poses)
        if poses is not None:
            raise ValueError("poses need a list of paths, one for each pose.")
        path = existing(path)
        suffix = path.suffix.lower()
        if suffix not in READABLE:
            known = ", ".join(READABLE)
            raise ValueError(f"path: cannot read {path.name!r}; the suffix must be one of {known}.")
        try:
            if suffix == ".vtk":
                return cls(read_vtk_points(path), name=path.stem)
            parts = _read_scan(path) if suffix in MESH_SUFFIXES else _read_table(path, suffix)
            return cls(**parts, name=path.stem)
        except Exception as error:
            # Parsers fail in many ways on a foreign file; the user needs one answer.
            raise ValueError(f"path: {path.name!r} is not a readable {suffix} file: {error}") from (
                error
            )

    @classmethod
    def joined(cls, scans: Sequence[Scan], poses: Sequence | None = None) -> Scan:
        """Several scans of one surface, such as registered range scans, as one cloud.

        Args:
            scans: of one dimension; normals are kept where all of them have some, weights where
                any has: points of the others count 1.
            poses: see `read`.

        Raises:
            ValueError: for no scans, scans of different dimensions, or poses that are not as many
                rigid motions.
        """
        scans = list(scans)
        if not scans or len({scan.dims for scan in scans}) != 1:
            found = [scan.dims for scan in scans]
            raise ValueError(f"scans must be one or more of one dimension, not {found}.")
        dims = scans[0].dims
        given = [np.eye(dims + 1)] * len(scans) if poses is None else list(poses)
        if len(given) != len(scans):
            raise ValueError(f"poses must be {len(scans)}, one for each scan, not {len(given)}.")
        given = [_pose(each, number, dims) for number, each in enumerate(given)]
        oriented = all(scan.normals is not None for scan in scans)
        points, normals = [], []
        for scan, pose in zip(scans, given, strict=True):
            turn, shift = pose[:dims, :dims], pose[:dims, dims]
            points.append(scan.points @ turn.T + shift)
            if oriented:
                normals.append(scan.normals @ turn.T)
        together = np.concatenate(normals) if oriented else None
        weights = None
        if any(scan.weights is not None for scan in scans):
            each = (np.ones(len(scan)) if scan.weights is None else scan.weights for scan in scans)
            weights = np.concatenate(list(each))
        return cls(np.concatenate(points), together, name=scans[0].name, weights=weights)

    @classmethod
    def from_mesh(cls, mesh, name: str = "mesh") -> Scan:
        """Vertices, vertex normals and faces of a `trimesh.Trimesh` as a scan; see `read`."""
        if not (hasattr(mesh, "vertices") and hasattr(mesh, "faces")):
            raise TypeError(f"mesh must be a trimesh.Trimesh, not {type(mesh).__name__}.")
        return cls(**_mesh_parts(mesh, name), name=name)

    def subset(self, indices: np.ndarray) -> Scan:
        """The points (with normals and weights) at `indices`, as a cloud without faces."""
        indices = np.asarray(indices)
        if indices.dtype.kind not in "uib" or indices.ndim != 1:
            raise ValueError(f"indices must be whole numbers or booleans [n], not {indices.dtype}.")
        if indices.dtype.kind != "b" and (indices >= len(self)).any():
            raise ValueError(f"indices must be below {len(self)}, not {indices.max()}.")
        return Scan(**self._at(indices), name=self.name)

    def without_unused(self) -> Scan:
        """The scan without what is no part of its surface: vertices that no face uses.

        Points of weight zero go, too, and then all faces, which only metrics use.
        """
        if self.weights is not None and not self.weights.all():
            return self.subset(np.flatnonzero(self.weights > 0))
        if self.faces is None:
            return self
        used = np.unique(self.faces)
        if len(used) == len(self):
            return self
        position = np.full(len(self), -1)
        position[used] = np.arange(len(used))
        return Scan(**self._at(used), faces=position[self.faces], name=self.name)

    def _at(self, indices: np.ndarray) -> dict[str, np.ndarray | None]:
        """What is known of the points at `indices`, by name."""
        known = {name: getattr(self, name) for name in ARRAYS}
        return {name: None if each is None else each[indices] for name, each in known.items()}

    @checked()
    def split(self, test: float = 0.25, seed: int = 313) -> tuple[Scan, Scan]:
        """Splits the points at random into a training and a test cloud.

        Vertices of a mesh that no face uses are on neither side.

        Args:
            test: share of the points in the test cloud, between 0 and 1.
            seed: of the permutation.

        Returns:
            `(training, test)` clouds, both without faces.
        """
        between("test", test, 0.0, 1.0)
        at_least("seed", seed, 0)
        whole = self.without_unused()
        order = np.random.default_rng(seed).permutation(len(whole))
        count = int(test * len(whole))
        if not 2 <= count <= len(whole) - 2:
            raise ValueError(
                f"test={test} leaves fewer than two of the {len(whole)} points on one side."
            )
        return whole.subset(np.sort(order[count:])), whole.subset(np.sort(order[:count]))


def as_scan(data) -> Scan | None:
    """A scan from a scan, a `trimesh.Trimesh`, points `[n, d]`, or a dict of a scan's arrays.

    Returns:
        The scan, or None when `data` is something else (such as a data set).
    """
    if isinstance(data, Scan):
        return data
    if isinstance(data, np.ndarray):
        return Scan(data)
    if isinstance(data, dict) and "points" in data and set(data) <= set(ARRAYS):
        return Scan(**data)
    if hasattr(data, "vertices") and hasattr(data, "faces"):
        return Scan.from_mesh(data)
    return None


def _finite(values, argument: str) -> np.ndarray:
    return real_array(argument, values, booleans=False).astype(np.float64, copy=False)


def _pose(matrix, number: int, dims: int) -> np.ndarray:
    """A rigid motion as a matrix of homogeneous coordinates."""
    pose = _finite(matrix, f"poses[{number}]")
    last = np.eye(dims + 1)[-1]
    square = pose.shape == (dims + 1, dims + 1) and np.allclose(pose[-1], last)
    turn = pose[:dims, :dims] if square else np.zeros((dims, dims))
    if not square or not np.allclose(turn @ turn.T, np.eye(dims), atol=1e-3):
        raise ValueError(
            f"poses[{number}] must be a rigid motion, a matrix {dims + 1} x {dims + 1} of a "
            f"rotation and a translation, not {shown(matrix)}."
        )
    return pose


def _checked_faces(faces, count: int) -> np.ndarray:
    array = real_array("faces", faces)
    if array.dtype.kind not in "ui" or array.ndim != 2 or array.shape[1] != 3 or not len(array):
        raise ValueError(
            f"faces must be whole numbers [m, 3] with at least one row, not {array.dtype} of the "
            f"shape {array.shape}."
        )
    wrong = np.flatnonzero(((array < 0) | (array >= count)).any(axis=1))
    if len(wrong):
        raise ValueError(
            f"faces must be indices of the {count} points, from 0 to {count - 1}; face {wrong[0]} "
            f"is {array[wrong[0]].tolist()}."
        )
    return array.astype(np.int64)


def _checked_weights(weights, count: int) -> np.ndarray:
    array = _finite(weights, "weights")
    if array.shape != (count,):
        raise ValueError(f"weights must be one for each of the {count} points, not {array.shape}.")
    if (array < 0).any() or (array > 0).sum() < 2:
        raise ValueError(
            "weights must not be negative, and more than zero for at least two points; they go "
            f"from {array.min():g} to {array.max():g}, with {(array > 0).sum()} above zero."
        )
    return array


def _read_scan(path: Path) -> dict:
    suffix = path.suffix.lower()
    loaded = load_mesh(path, suffix)
    if suffix == ".stl":
        loaded = _merged(loaded)
    if hasattr(loaded, "faces") and len(loaded.faces):
        return _mesh_parts(loaded, path.name)
    return {"points": np.array(loaded.vertices), "normals": loaded.metadata.get("normals")}


def _merged(mesh):
    """The mesh with equal vertices made one, in the order in which they first come."""
    import trimesh

    rows = np.asarray(mesh.vertices) + 0.0  # so that -0 equals 0
    _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    faces = np.argsort(order)[which.ravel()][np.asarray(mesh.faces)]
    return trimesh.Trimesh(rows[first[order]], faces, process=False)


def _mesh_parts(mesh, name: str) -> dict:
    if len(mesh.faces) == 0:
        raise ValueError("the mesh has no faces.")
    vertices = np.array(mesh.vertices, dtype=np.float64)
    faces = _checked_faces(mesh.faces, len(vertices))
    # Normals that came with the mesh are its own; others follow from how the faces are wound.
    given = mesh.vertex_normals if "vertex_normals" in getattr(mesh, "_cache", ()) else None
    own = _normals_of(vertices, faces)
    if np.shape(given) != vertices.shape or np.allclose(given, own, atol=1e-6):
        wound = consistent_faces(vertices, faces, name)
        given = own if wound is faces else _normals_of(vertices, wound)
        faces = wound
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    normals = repaired_normals(vertices, np.array(given, np.float64), used, name)
    return {"points": vertices, "faces": faces, "normals": normals}


def _normals_of(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Sums of the directions of the faces around each vertex, by their angles there."""
    import trimesh

    # What trimesh takes for no area is an absolute number, whatever the unit is.
    placed = vertices - vertices.mean(axis=0)
    placed /= max(np.abs(placed).max(), 1e-300)
    return np.array(trimesh.Trimesh(placed, faces, process=False).vertex_normals)


def _read_table(path: Path, suffix: str) -> dict:
    if suffix == ".npz":
        check_archive(path, MOST_BYTES)
        with np.load(path, allow_pickle=False) as archive:
            if "points" not in archive:
                raise ValueError(f"no array 'points', only {sorted(archive)}")
            return {name: archive[name] for name in ARRAYS if name in archive}
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
