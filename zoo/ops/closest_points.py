"""Alignment of clouds by their moments and by iterated closest points, in both directions.

Besl and McKay, PAMI 1992; trimmed after Chetverikov et al., ICPR 2002. One-sided closest points
let a similarity or an affine map shrink the moving cloud onto a part of the fixed one; here the
fixed points look for their nearest moving points as well.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.spatial import cKDTree

KINDS = ("rigid", "similarity", "affine")
START_POINTS = 2000  # of each cloud that suffice to choose between starts
ALIKE = 1.05  # ratio of the sizes of two clouds up to which only their own sizes are tried
COLLAPSED = 1e-3  # share of its size to which a cloud must not shrink, nor grow by the inverse
FLAT = 1e-6  # share of the longest axis of a cloud below which another one is none


def align_clouds(
    fixed: np.ndarray,
    moving: np.ndarray,
    weights: np.ndarray,
    kind: str = "affine",
    trim: float = 0.9,
    turns: bool = True,
) -> tuple[tuple[np.ndarray, np.ndarray], list[float]]:
    """The linear map that carries one cloud onto another, without known correspondence.

    Args:
        fixed: points `[n, dims]`.
        moving: points `[m, dims]`.
        weights: `[m]`, how much each moving point counts.
        kind: "rigid", "similarity" or "affine".
        trim: share of the closest points that count, which tolerates outliers.
        turns: also start from every turn that aligns the principal axes.

    Returns:
        `((matrix, offset), errors)`: the map `x -> matrix x + offset` of moving points, and the
        mean distance after each iteration, in the unit of the points.

    Raises:
        ValueError: for points that leave the map undetermined, or a cloud that collapses.
    """
    for side, points in (("fixed", fixed), ("moving", moving)):
        _check_spread(points, side, kind)
    # In units of the fixed cloud, both about their centres: no digits are lost far away.
    frames = [_centre_and_size(points, trim) for points in (fixed, moving)]
    centres, sizes = zip(*frames, strict=True)
    fixed, moving = (fixed - centres[0]) / sizes[0], (moving - centres[1]) / sizes[0]
    draws = [np.random.default_rng(0).permutation(len(p))[:START_POINTS] for p in (fixed, moving)]
    few = fixed[draws[0]], moving[draws[1]], weights[draws[1]]
    ratio = sizes[0] / sizes[1]
    factors = [1.0]
    if kind != "rigid" and max(ratio, 1 / ratio) > ALIKE:
        # A part of the other is smaller, too, but of the same scale.
        factors.append(ratio)
    tried = []
    for factor in factors:
        scaled = few[0], few[1] * factor, few[2]
        starts = _principal_starts(*scaled[:2], trim)
        for begin in starts if turns else starts[:1]:
            (matrix, offset), errors = _closest_points(*scaled, begin, "rigid", trim, 15)
            tried.append((errors[-1], (matrix * factor, offset)))
    _, start = min(tried, key=lambda result: result[0])
    for step in KINDS[1 : KINDS.index(kind) + 1]:
        start, _ = _closest_points(*few, start, step, trim, 30)
    (matrix, offset), errors = _closest_points(fixed, moving, weights, start, kind, trim, 60)
    stretch = np.linalg.svd(matrix, compute_uv=False) / (1 if kind == "rigid" else ratio)
    if not (stretch.min() > COLLAPSED and stretch.max() < 1 / COLLAPSED):
        raise ValueError(
            "moving: the cloud collapses onto a part of the fixed one (it is stretched by "
            f"{stretch} relative to their sizes); the clouds are too unlike. "
            'kind="rigid" cannot collapse.'
        )
    offset = centres[0] + sizes[0] * offset - matrix @ centres[1]
    return (matrix, offset), [error * sizes[0] for error in errors]


def _closest_points(fixed, moving, weights, start, kind, trim, iterations):
    """The map of moving points and the mean distances, of both directions, on the way."""
    matrix, offset = start
    least = fixed.shape[1] + 1
    tree = cKDTree(fixed)
    errors = []
    for _ in range(iterations):
        moved = moving @ matrix.T + offset
        there, to_fixed = tree.query(moved, workers=-1)
        back, to_moving = cKDTree(moved).query(fixed, workers=-1)
        kept, found = _closest(there, trim, least), _closest(back, trim, least)
        counted = weights[kept], weights[to_moving[found]]
        means = [
            np.average(distances, weights=each)
            for distances, each in zip((there[kept], back[found]), counted, strict=True)
        ]
        errors.append(float(sum(means)) / 2)
        if len(errors) > 1 and errors[-2] - errors[-1] < 1e-5 * errors[0]:
            break
        source = np.concatenate([moving[kept], moving[to_moving[found]]])
        target = np.concatenate([fixed[to_fixed[kept]], fixed[found]])
        matrix, offset = _fit_points(source, target, kind, np.concatenate(counted))
    return (matrix, offset), errors


def _closest(distances: np.ndarray, trim: float, least: int) -> np.ndarray:
    count = max(int(trim * len(distances)), least)
    return np.argsort(distances, kind="stable")[:count]


def _check_spread(points: np.ndarray, side: str, kind: str):
    """Raises a ValueError for points that leave the map undetermined."""
    dims = points.shape[1]
    needed = dims if kind == "affine" else dims - 1
    spanned = 0
    if len(points) > 1:
        lengths = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
        spanned = int((lengths > max(FLAT * lengths[0], 1e-300)).sum())
    if spanned < needed:
        raise ValueError(
            f"{side}: the {len(points)} points that count span {spanned} of {dims} dimensions; "
            f"kind={kind!r} needs at least {needed + 1} points that span {needed}."
        )


def _core(points: np.ndarray, trim: float) -> np.ndarray:
    """The share of the points about the median: few far outliers must not have a say."""
    order = np.argsort(np.linalg.norm(points - np.median(points, axis=0), axis=1), kind="stable")
    return points[order[: max(int(trim * len(points)), points.shape[1] + 1)]]


def _centre_and_size(points: np.ndarray, trim: float) -> tuple[np.ndarray, float]:
    """The mean of the core, and the root mean square distance from it."""
    core = _core(points, trim)
    centre = core.mean(axis=0)
    size = float(np.sqrt(((core - centre) ** 2).sum(axis=1).mean()))
    # Most points of a cloud may be one and the same.
    return centre, size or float(np.sqrt(((points - centre) ** 2).sum(axis=1).mean()))


def _principal_starts(fixed: np.ndarray, moving: np.ndarray, trim: float) -> list:
    """No turn, and those that align the principal axes in every orientation but reflections."""
    cores = [_core(points, trim) for points in (fixed, moving)]
    centres = [core.mean(axis=0) for core in cores]
    axes = [
        np.linalg.svd((core - centre).T @ (core - centre))[2].T
        for core, centre in zip(cores, centres, strict=True)
    ]
    turns = [np.eye(fixed.shape[1])]
    for signs in itertools.product((1, -1), repeat=fixed.shape[1]):
        turn = axes[0] @ np.diag(signs) @ axes[1].T
        turns += [turn] if np.linalg.det(turn) > 0 else []
    return [(turn, centres[0] - turn @ centres[1]) for turn in turns]


def _fit_points(source: np.ndarray, target: np.ndarray, kind: str, weights: np.ndarray):
    """Least-squares map of corresponding points (Umeyama, PAMI 1991, but for affine)."""
    centres = [np.average(points, axis=0, weights=weights) for points in (source, target)]
    root = np.sqrt(weights)[:, None]
    from_centre, to_centre = (source - centres[0]) * root, (target - centres[1]) * root
    if kind == "affine":
        matrix = np.linalg.lstsq(from_centre, to_centre, rcond=None)[0].T
    else:
        u, values, vt = np.linalg.svd(to_centre.T @ from_centre)
        signs = np.ones(len(values))
        signs[-1] = np.sign(np.linalg.det(u @ vt))
        matrix = u @ np.diag(signs) @ vt
        if kind == "similarity":
            matrix = matrix * (values * signs).sum() / (from_centre**2).sum()
    return matrix, centres[1] - matrix @ centres[0]
