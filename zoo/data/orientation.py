"""Which way a mesh faces: winding that contradicts itself, normals that are missing or inward."""

from __future__ import annotations

import warnings

import numpy as np

CLEAR = 0.75  # share of the faces that decides how all of them are wound
INWARD = -0.1  # mean height of the centre over the tangent planes, as a share of the extent
PROBED = 5_000  # points whose normals are compared with their neighbours'
OPPOSED = 0.05  # share of neighbours with opposite normals from which they are contradictory
NAMED = 5  # vertices that a warning names
STRAY = 10  # times as far out as nearly all others
FLAT = 1e-5  # thickness of a plane, as a share of its extent


def consistent_faces(vertices: np.ndarray, faces: np.ndarray, name: str) -> np.ndarray:
    """The faces, those turned round that are wound against their neighbours.

    Most of the faces of a connected part decide; where there is no clear majority and the part is
    closed, its volume does. A warning says how many were turned, or that no turning helps.

    Args:
        vertices: `[n, 3]`.
        faces: `[m, 3]`.
        name: for the warning.

    Returns:
        The faces themselves, or a copy in which the order of the corners of some is reversed.
    """
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    owner = np.repeat(np.arange(len(faces)), 3)
    real = edges[:, 0] != edges[:, 1]
    edges, owner = edges[real], owner[real]
    keys = edges.min(axis=1) * (len(vertices) + 1) + edges.max(axis=1)
    order = np.argsort(keys, kind="stable")
    _, first, counts = np.unique(keys[order], return_index=True, return_counts=True)
    # Edges of one face are borders; edges of more than two say nothing.
    one, two = (order[first[counts == 2] + k] for k in (0, 1))
    alike = edges[one, 0] == edges[two, 0]
    if not alike.any():
        return faces
    one, two, border = owner[one], owner[two], owner[order[first[counts != 2]]]
    turned = _turned(len(faces), one, two, alike)
    if turned is None:
        warnings.warn(
            f"the faces of {name!r} are wound both ways, and no turning of some makes them agree: "
            f"{int(alike.sum())} edges are passed twice in the same direction.",
            UserWarning,
            stacklevel=4,
        )
        return faces
    signs, part = turned
    flip = np.zeros(len(faces), bool)
    for label in np.unique(part[one[alike]]):
        here = part == label
        share = (signs[here] < 0).mean()
        against = share > 0.5
        if 1 - CLEAR < share < CLEAR and not here[border].any():
            corners = vertices[faces[here]] - vertices[faces[here]].mean(axis=(0, 1))
            volumes = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
            against = (volumes * signs[here]).sum() < 0
        flip[here] = signs[here] > 0 if against else signs[here] < 0
    warnings.warn(
        f"{int(flip.sum())} of the {len(faces)} faces of {name!r} were wound against the others; "
        "they are turned.",
        UserWarning,
        stacklevel=4,
    )
    faces = faces.copy()
    faces[flip] = faces[flip][:, ::-1]
    return faces


def _turned(count: int, one, two, alike) -> tuple[np.ndarray, np.ndarray] | None:
    """Signs that make all pairs of neighbours agree, and connected parts; None without any."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    def graph(values):
        return coo_matrix((values, (one, two)), shape=(count, count)).tocsr()

    links = graph(np.ones(len(one)))
    _, part = connected_components(links, directed=False)
    relation = graph(np.where(alike, -1.0, 1.0))
    relation = relation + relation.T
    signs = np.ones(count, np.int8)
    for label in np.unique(part[one[alike]]):
        start = int(np.flatnonzero(part == label)[0])
        order, before = breadth_first_order(links, start, directed=False)
        steps = np.asarray(relation[order[1:], before[order[1:]]]).ravel()
        for face, parent, step in zip(order[1:], before[order[1:]], steps, strict=True):
            signs[face] = signs[parent] if step > 0 else -signs[parent]
    agree = signs[one] * signs[two] == np.where(alike, -1, 1)
    return (signs, part) if agree.all() else None


def repaired_normals(
    vertices: np.ndarray, normals: np.ndarray, used: np.ndarray, name: str
) -> np.ndarray | None:
    """Unit normals of all vertices: those without one get that of the nearest vertex with one.

    A warning counts and names them.

    Args:
        vertices: `[n, 3]`.
        normals: `[n, 3]`, of any length; zero or NaN where there is none.
        used: which vertices belong to a face, bool `[n]`.
        name: for the warning.

    Returns:
        `[n, 3]`, or None where no vertex has a normal.
    """
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    known = (np.isfinite(lengths) & (lengths > 1e-12))[:, 0]
    normals = np.divide(normals, lengths, out=np.zeros(normals.shape), where=known[:, None])
    missing = np.flatnonzero(~known)
    if not len(missing):
        return normals
    if not known.any():
        warnings.warn(
            f"no face of {name!r} has an area: there are no normals.", UserWarning, stacklevel=4
        )
        return None
    from scipy.spatial import cKDTree

    nearest = cKDTree(vertices[known]).query(vertices[missing])[1]
    normals[missing] = normals[known][nearest]
    stray = int((~used[missing]).sum())
    reasons = [f"{stray} belong to no face"] if stray else []
    if stray < len(missing):
        reasons.append(f"{len(missing) - stray} only to faces without area")
    more = ", ..." if len(missing) > NAMED else ""
    warnings.warn(
        f"{len(missing)} of the {len(vertices)} vertices of {name!r} have no normal of their own "
        f"({' and '.join(reasons)}) and get that of the nearest one: numbers "
        f"{', '.join(map(str, missing[:NAMED]))}{more}.",
        UserWarning,
        stacklevel=4,
    )
    return normals


def doubts_of_normals(points: np.ndarray, normals: np.ndarray, seed: int = 0) -> list[str]:
    """What speaks against normals that should point outward, in words; nothing where all is well.

    The mean of `(x - centre) . n` over a closed surface is three times its volume over its area,
    so it is positive for outward normals. Normals of neighbours that point apart contradict one
    another, unless a sheet is as thin as its points are apart.

    Args:
        points: `[n, d]`.
        normals: unit vectors `[n, d]`.
        seed: of the sample of points that are compared with their neighbours.
    """
    from scipy.spatial import cKDTree

    chosen = np.random.default_rng(seed).permutation(len(points))[:PROBED]
    near = cKDTree(points).query(points[chosen], k=min(7, len(points)))[1][:, 1:]
    apart = (np.einsum("ikd,id->ik", normals[near], normals[chosen]) < -0.5).mean()
    if apart > OPPOSED:
        return [
            f"{100 * apart:.0f} % of neighbouring points have opposite normals; orient them "
            "consistently, or leave them out"
        ]
    away = points - points.mean(axis=0)
    height = (away * normals).sum(axis=1).mean() / np.linalg.norm(away, axis=1).mean()
    if height < INWARD:
        return [
            "the normals point inward for the most part, so that distances will be positive "
            "inside; turn them round (-normals) unless what lies outside is the solid"
        ]
    return []


def doubts_of_points(points: np.ndarray) -> list[str]:
    """What speaks against points being samples of a closed surface (or curve), in words.

    Points far from all others, which leave the rest too small in the frame, and points that all
    lie in a plane (or on a line).

    Args:
        points: `[n, d]`.
    """
    away = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    usual = np.quantile(away, 0.95)
    far = np.flatnonzero(away > STRAY * usual)
    if len(far) and usual > 0:
        where = ", ".join(f"{value:g}" for value in points[far[0]])
        more = "" if len(far) == 1 else f" and {len(far) - 1} more"
        return [
            f"point {far[0]} at ({where}){more} lies {away[far[0]] / usual:.0f} times as far out "
            "as the others, which will be too small to be seen; leave out what is no part of the "
            "surface"
        ]
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    if spread[-1] < FLAT * spread[0]:
        shape = "a plane" if points.shape[1] == 3 and spread[1] > FLAT * spread[0] else "a line"
        return [f"all points lie on {shape}, which bounds nothing: there is no inside to be found"]
    return []
