"""Analytic shapes: scans with exact normals, for the demonstration and for tests."""

from __future__ import annotations

import numpy as np

from zoo.data.scan import Scan
from zoo.ops.arguments import checked, positive
from zoo.ops.array_arguments import real_array, real_points

COUNT = 10**8  # at most so many points


@checked(count=(2, COUNT), radius=positive)
def circle(count: int = 2000, radius: float = 1.0, centre=(0.0, 0.0), seed: int = 0) -> Scan:
    """Points of a circle in the plane, with outward normals."""
    centre = _centre(centre, 2)
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, count)
    normals = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return Scan(normals * radius + centre, normals, name="circle")


@checked(count=(2, COUNT), radius=positive)
def sphere(count: int = 10_000, radius: float = 1.0, centre=(0.0, 0.0, 0.0), seed: int = 0) -> Scan:
    """Area-uniform points of a sphere, with outward normals."""
    centre = _centre(centre, 3)
    normals = np.random.default_rng(seed).standard_normal((count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Scan(normals * radius + centre, normals, name="sphere")


@checked(count=(2, COUNT), major=positive, minor=positive)
def torus(count: int = 20_000, major: float = 0.6, minor: float = 0.25, seed: int = 0) -> Scan:
    """Area-uniform points of a torus about the z axis, with outward normals."""
    knot = _tube(lambda t: (np.cos(t) * major, np.sin(t) * major, 0 * t), minor, count, seed)
    return Scan(*knot, name="torus")


@checked(major=positive, minor=positive)
def torus_distance(points: np.ndarray, major: float = 0.6, minor: float = 0.25) -> np.ndarray:
    """Exact signed distance `[n]` of points `[n, 3]` to that torus, negative inside."""
    points = real_points("points", points, (3,))
    ring = np.hypot(points[:, 0], points[:, 1]) - major
    return np.hypot(ring, points[:, 2]) - minor


@checked(count=(2, COUNT), p=(1, 1000), q=(1, 1000), tube=positive)
def torus_knot(count: int = 30_000, p: int = 2, q: int = 3, tube: float = 0.22, seed: int = 0):
    """Area-uniform points of a tube around the (p, q) torus knot, with outward normals.

    Args:
        count: number of points.
        p: turns about the axis of symmetry.
        q: turns about the circle inside the torus.
        tube: radius of the tube; the knot itself spans about 3 units.
        seed: of the random points.
    """

    def curve(t):
        ring = 1.0 + 0.45 * np.cos(q * t)
        return ring * np.cos(p * t), ring * np.sin(p * t), 0.45 * np.sin(q * t)

    return Scan(*_tube(curve, tube, count, seed), name="torus_knot")


def _centre(centre, dims: int) -> np.ndarray:
    centre = real_array("centre", centre)
    if centre.shape != (dims,):
        raise ValueError(f"centre must hold {dims} numbers, not the shape {centre.shape}.")
    return centre


def _tube(curve, radius: float, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and normals of the tube of `radius` around a closed curve of t in [0, 2 pi)."""
    rng = np.random.default_rng(seed)
    # Proposals uniform in (t, angle); the area element, speed x (1 - curvature x offset), is
    # evaluated by differences and used for rejection, which makes the points area-uniform.
    t, angle = rng.uniform(0, 2 * np.pi, (2, 6 * count))
    step = 1e-4
    before, here, after = (np.stack(curve(t + s), axis=-1) for s in (-step, 0.0, step))
    velocity = (after - before) / (2 * step)
    acceleration = (after - 2 * here + before) / step**2
    speed = np.linalg.norm(velocity, axis=1, keepdims=True)
    tangent = velocity / speed
    bend = acceleration - (acceleration * tangent).sum(axis=1, keepdims=True) * tangent
    binormal = np.cross(tangent, bend)
    binormal /= np.linalg.norm(binormal, axis=1, keepdims=True)
    principal = np.cross(binormal, tangent)
    normals = np.cos(angle)[:, None] * principal + np.sin(angle)[:, None] * binormal
    curvature = np.linalg.norm(bend, axis=1) / speed[:, 0] ** 2
    area = speed[:, 0] * (1 - radius * curvature * np.cos(angle))
    keep = np.flatnonzero(rng.uniform(0, area.max(), len(area)) < area)[:count]
    return (here + radius * normals)[keep], normals[keep]
