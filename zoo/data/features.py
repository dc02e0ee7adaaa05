"""Intrinsic features of surfaces: what a point is like, however the body bends."""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict

import numpy as np
from scipy.sparse.linalg import eigsh
from scipy.spatial import cKDTree

from zoo.data.draws import Shape
from zoo.data.scan import Scan
from zoo.ops.arguments import checked

EIGENFUNCTIONS = 64
LARGEST = {"mesh": 30_000, "cloud": 6_000}  # points; larger shapes borrow those of a sample
DRAWN = 3  # times as many are drawn on a mesh, of which those are taken that lie evenly
NEIGHBOURS = 3  # of a point that borrows features
TOUCHING = 16  # neighbours that a point of a cloud is meshed with; more reach the thigh from a hand
SHIFT = -1e-4  # of the solver, below the eigenvalue 0 of a shape of area 1, relative to the next
REMEMBERED = 16  # shapes

HEARD = 10  # eigenvalues that are compared
UNLIKE = 0.25  # mean difference of their logarithms from which shapes are hardly alike

_remembered: OrderedDict[tuple, tuple[np.ndarray, np.ndarray]] = OrderedDict()


@checked(count=(1, 1024), eigenfunctions=(2, 1024))
def wave_kernel_signatures(
    scan: Scan,
    count: int = 16,
    eigenfunctions: int = EIGENFUNCTIONS,
    as_cloud: bool = False,
) -> np.ndarray:
    """The wave kernel signature of every point of a surface, with or without faces.

    A component says how much the eigenfunctions of the Laplacian, of frequencies about one value,
    are alive at the point. Where a surface bends without stretching they stay the same, and the
    tip of a finger has others than an elbow; left and right are not told apart. They do not depend
    on position, orientation or scale. Of meshes above 30,000 vertices and clouds above 6,000 points
    a sample of 6,000 is decomposed as a cloud, and the others have a mean of those next to them.
    The last 16 shapes are remembered.

    Source: Aubry, Schlickewei and Cremers, "The wave kernel signature", ICCVW 2011; Laplacians by
    Sharp and Crane, "A Laplacian for nonmanifold triangle meshes", SGP 2020 (`robust_laplacian`).

    Args:
        scan: of a surface; faces, if there are any, make the Laplacian more exact.
        count: components.
        eigenfunctions: that are looked at, fewer of small shapes.
        as_cloud: draw points on the faces and take these, as the features of a mesh and of a bare
            cloud do not compare well.

    Returns:
        float32 `[n, count]`; points that no face uses have those of the point next to them.

    Raises:
        ValueError: for a planar scan, or fewer than ten points.
    """
    return _known(scan, count, eigenfunctions, as_cloud)[0]


def spectral_likeness(first: Scan, second: Scan, count: int = 16, as_cloud: bool = False) -> float:
    """How alike the lowest frequencies of two surfaces are, from 1 (the same) down to 0.

    A body that bends keeps its frequencies, and another person's are similar. A fist seen as a bare
    cloud has others than an open hand, because nothing tells its fingers from the palm that they
    touch; then wave kernel signatures do not compare.

    Args:
        first: a surface.
        second: another one.
        count, as_cloud: as for the signatures, whose decomposition is used again.

    Returns:
        `exp(-(d / 0.25)^2)`, with d the mean absolute difference of the logarithms of the first
        ten eigenvalues above zero, each of a shape of area 1.

    Raises:
        ValueError: as `wave_kernel_signatures`.
    """
    heard = [_known(scan, count, EIGENFUNCTIONS, as_cloud)[1] for scan in (first, second)]
    number = min(HEARD, *map(len, heard))
    logarithms = [np.log(np.maximum(each[:number], 1e-12)) for each in heard]
    return float(np.exp(-((np.abs(logarithms[0] - logarithms[1]).mean() / UNLIKE) ** 2)))


def _known(scan: Scan, count: int, eigenfunctions: int, as_cloud: bool):
    """Signatures and eigenvalues, computed or remembered."""
    if scan.dims != 3:
        raise ValueError(f"scan must be a surface in space, not in {scan.dims} dimensions.")
    if len(scan) < 10:
        raise ValueError(f"scan must hold at least ten points, not {len(scan)}.")
    as_cloud = as_cloud and scan.faces is not None
    key = _fingerprint(scan), count, eigenfunctions, as_cloud
    if key not in _remembered:
        _remembered[key] = _signatures(scan, count, eigenfunctions, as_cloud)
        if len(_remembered) > REMEMBERED:
            _remembered.popitem(last=False)
    _remembered.move_to_end(key)
    return _remembered[key]


def standardised(*features: np.ndarray) -> list[np.ndarray]:
    """Features of several shapes with a common mean of zero, and a mean squared length of one.

    Args:
        *features: `[n, count]` of each shape.
    """
    mean = np.mean([each.mean(axis=0) for each in features], axis=0)
    variance = np.mean([((each - mean) ** 2).mean(axis=0) for each in features], axis=0)
    scale = np.sqrt(np.maximum(variance, 1e-12) * features[0].shape[1])
    return [((each - mean) / scale).astype(np.float32) for each in features]


def _fingerprint(scan: Scan) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(scan.points).tobytes())
    if scan.faces is not None:
        digest.update(np.ascontiguousarray(scan.faces).tobytes())
    return digest.hexdigest()


def _signatures(scan: Scan, count: int, eigenfunctions: int, as_cloud: bool):
    extent = float(np.ptp(scan.points, axis=0).max())
    points = (scan.points - scan.points.mean(axis=0)) / extent
    faces, used = _usable(scan, points)
    meshed = faces is not None and not as_cloud and used.sum() <= LARGEST["mesh"]
    if meshed:
        chosen, faces = points[used], (np.cumsum(used) - 1)[faces]
    elif faces is not None or len(points) > LARGEST["cloud"]:
        if faces is not None:
            drawn = Shape(points, faces).draw(DRAWN * LARGEST["cloud"], np.random.default_rng(0))
            points_drawn, faces = drawn["points"].astype(np.float64), None
        else:
            points_drawn = points
        chosen = _evenly(points_drawn, LARGEST["cloud"])
    else:
        chosen = points
    values, functions = _spectrum(chosen, faces, eigenfunctions)
    found = _of_spectrum(values, functions, count)
    if len(chosen) == len(points) and np.array_equal(chosen, points):
        return found.astype(np.float32), values
    distances, nearest = cKDTree(chosen).query(points, k=NEIGHBOURS, workers=-1)
    shares = 1.0 / (distances + 1e-9)
    shares /= shares.sum(axis=1, keepdims=True)
    return np.einsum("nk,nkc->nc", shares, found[nearest]).astype(np.float32), values


def _evenly(points: np.ndarray, most: int) -> np.ndarray:
    """Points no two of which are close, at most so many; Laplacians of random draws are poor."""
    points = points[np.random.default_rng(0).permutation(len(points))]
    tree = cKDTree(points)
    radius = float(np.median(tree.query(points[:2000], k=2)[0][:, 1]))
    while True:
        kept = np.ones(len(points), bool)
        pairs = tree.query_pairs(radius, output_type="ndarray")
        for first, second in pairs[np.argsort(pairs[:, 0], kind="stable")].tolist():
            if kept[first]:
                kept[second] = False
        if kept.sum() <= most:
            return points[kept]
        radius *= 1.05 * np.sqrt(kept.sum() / most)


def _usable(scan: Scan, points: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """The faces that have an area, and which points they use; without any the cloud is taken."""
    everything = np.ones(len(points), bool)
    if scan.faces is None or not len(scan.faces):
        return None, everything
    corners = points[scan.faces]
    areas = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    faces = scan.faces[areas > 1e-14]
    used = np.zeros(len(points), bool)
    used[faces.ravel()] = True
    if used.sum() < 10:
        return None, everything
    return faces, used


def _spectrum(points: np.ndarray, faces: np.ndarray | None, count: int):
    """Eigenvalues and eigenfunctions `[n, k]` of the Laplacian, the constant one left out."""
    import robust_laplacian

    if faces is None:
        near = min(TOUCHING, len(points) - 1)
        laplacian, mass = robust_laplacian.point_cloud_laplacian(points, n_neighbors=near)
    else:
        laplacian, mass = robust_laplacian.mesh_laplacian(points, faces)
    # With an area of one, signatures do not depend on the scale.
    area = mass.diagonal().sum()
    count = min(count + 1, len(points) - 2)
    start = np.random.default_rng(0).normal(size=len(points))
    values, functions = eigsh(laplacian, count, mass / area, sigma=SHIFT, v0=start)
    order = np.argsort(values)
    values, functions = values[order], functions[:, order]
    # Components of the surface have a constant function each.
    alive = values > 1e-6 * values[-1]
    if not alive.any():
        warnings.warn("the surface has no features: its Laplacian is zero.", UserWarning, 2)
        return values, functions
    return values[alive], functions[:, alive]


def _of_spectrum(values: np.ndarray, functions: np.ndarray, count: int) -> np.ndarray:
    logarithms = np.log(np.maximum(values, 1e-12))
    low, high = logarithms[0], logarithms[-1]
    # Seven times the step between energies, as in the paper's code for a hundred of them.
    width = 7.0 * (high - low) / 100 or 1.0
    energies = np.linspace(low + 2 * width, high - 2 * width, count)
    kernel = np.exp(-((energies[:, None] - logarithms) ** 2) / (2 * width**2))
    return (functions**2) @ (kernel / np.maximum(kernel.sum(axis=1, keepdims=True), 1e-30)).T
