"""The shape of a generated lung, and its exactly known motion from inhalation to exhalation.

The frame is LPS mm: x from right to left, y from front to back, z from the base of the lungs (0)
to their apex (215).
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from zoo.data.fields import Seed, positions, sample_linear
from zoo.geometry import Grid

HEIGHT = 215.0
"""From the base to the apex of the lungs in inhalation, mm."""

HEART, HEART_AXES = np.array([15.0, -35.0, 55.0]), np.array([38.0, 45.0, 55.0])

SPACING = 4.0
LATTICE = Grid((71, 47, 59), SPACING, (-140.0, -92.0, -8.0))
"""Where the random part of the map is defined, and what dense fields are given on; spacing 4 mm."""

TEXTURES = ((45.0, 6.0), (18.0, 2.0))  # correlation length and root mean square, mm
AXIS_FACTORS = (0.6, 1.0, 1.2)
DOUBLINGS = 6
PIVOT = np.array([0.0, 0.0, 110.0])


def inside_lungs(points: np.ndarray) -> np.ndarray:
    """Which of the points `[*, 3]` in mm lie in the lungs in inhalation."""
    x, y, z = np.moveaxis(np.asarray(points, dtype=np.float64), -1, 0)
    inside = (z >= 0) & (z <= HEIGHT) & (np.abs(x) >= 10) & (z >= _dome(x, y))
    inside &= ((np.abs(x) - 68) / 62) ** 2 + (y / 84) ** 2 <= _width(z)
    return inside & ~((x > 0) & (_heart_distance(points) < 1))


def _width(z):
    return 1 - 0.85 * (np.clip(z, 0, HEIGHT) / HEIGHT) ** 2.2


def _dome(x, y):
    return 28 * np.exp(-(((np.abs(x) - 68) / 45) ** 2) - ((y + 10) / 60) ** 2)


def _heart_distance(points):
    return np.linalg.norm((points - HEART) / HEART_AXES, axis=-1)


def into_lungs(points: np.ndarray) -> np.ndarray:
    """Points that left the lungs, which are not convex, on their surface; others as they are."""
    distance = _heart_distance(points)[:, None]
    crossing = (points[:, :1] > 0) & (distance < 1)
    pushed = np.where(crossing, HEART + (points - HEART) / np.maximum(distance, 1e-6), points)
    side, (x, y, z) = np.sign(points[:, 0]), pushed.T
    z = np.clip(z, 0, HEIGHT)
    across = np.abs(x) - 68
    shrink = np.sqrt(_width(z) / np.maximum((across / 62) ** 2 + (y / 84) ** 2, 1e-9))
    across, y = (np.minimum(shrink, 1) * each for each in (across, y))
    x = side * np.maximum(across + 68, 10)
    return np.stack([x, y, np.maximum(z, _dome(x, y))], axis=-1)


class BreathingMap:
    """The position in exhalation of every point of the chest in inhalation.

    Three steps: a random diffeomorphism, which makes patients differ; the rise of the diaphragm and
    the narrowing of the chest; and a rigid motion. Numbers were fitted to the 300 expert landmarks
    of each of the ten cases of DIR-Lab COPDgene.

    Args:
        seed: of everything drawn.
    """

    def __init__(self, seed: Seed = 0):
        rng = np.random.default_rng(seed)
        self._shift = _diffeomorphism(_velocity(rng))
        self._rise = float(np.clip(rng.normal(42, 14), 12, 66))
        self._power = rng.uniform(1.1, 1.7)
        self._tilt = rng.uniform(0.10, 0.45)
        self._right, self._left = rng.normal(1, 0.15, 2)
        self._narrow_x = np.clip(rng.normal(0.965, 0.02), 0.90, 1.01)
        self._narrow_y = np.clip(rng.normal(0.93, 0.06), 0.80, 1.01)
        self._sink = rng.normal(9, 6)
        angles = rng.normal(0, (3, 1, 1))
        self._rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
        self._translation = rng.normal(0, (1, 5, 5))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Maps points `[*, 3]` in mm; float64 of the same shape.

        Further out than `LATTICE` the random part goes on as at its border.
        """
        points = np.asarray(points, dtype=np.float64)
        moved = points + sample_linear(self._shift, LATTICE.to_index(points))
        moved = moved + self._breath(moved)
        return (moved - PIVOT) @ self._rotation.T + PIVOT + self._translation

    def gradient(self, points: np.ndarray, step: float = 0.05) -> np.ndarray:
        """Derivatives `[n, 3, 3]` at points `[n, 3]`, `[..., i, j]` of component i along axis j.

        Args:
            points: positions in inhalation, mm.
            step: mm to both sides over which differences are taken.
        """
        points = np.asarray(points, dtype=np.float64)
        both = [(self(points + each) - self(points - each)) for each in step * np.eye(3)]
        return np.stack(both, axis=-1) / (2 * step)

    def displacement(self) -> np.ndarray:
        """The dense field on `LATTICE`, `[*shape, 3]` in mm, for Jacobian determinants."""
        points = LATTICE.to_world(positions(LATTICE.shape))
        return self(points) - points

    def _breath(self, points: np.ndarray) -> np.ndarray:
        x, y, z = np.moveaxis(points, -1, 0)
        depth = np.clip(1 - z / HEIGHT, -0.15, 1.15)
        low = np.clip(depth, 0, 1)
        side = self._right + (self._left - self._right) / (1 + np.exp(-np.clip(x / 6, -60, 60)))
        # The back of the diaphragm rises further than the front, the dome than its edge.
        dome = 0.75 + 0.25 * np.exp(-(((np.abs(x) - 68) / 80) ** 2))
        rise = self._rise * side * np.maximum(depth, 0) ** self._power
        front = 0.5 * self._sink * np.clip((70 - y) / 150, 0, 1) * (1 - 0.5 * np.abs(2 * depth - 1))
        return np.stack(
            [
                (self._narrow_x - 1) * x * (0.6 + 0.4 * depth),
                (self._narrow_y - 1) * (y - 70) * (0.5 + 0.5 * low) + front,
                rise * (1 + self._tilt * y / 80) * dome,
            ],
            axis=-1,
        )


def _velocity(rng: np.random.Generator) -> np.ndarray:
    velocity = np.zeros((*LATTICE.shape, 3))
    for length, amplitude in TEXTURES:
        deviation = length / SPACING
        margin = int(np.ceil(2.5 * deviation))
        texture = rng.standard_normal((*(size + 2 * margin for size in LATTICE.shape), 3))
        for axis, size in enumerate(LATTICE.shape):
            # As a product with a band matrix, which keeps only what the noise outside completes.
            offsets = np.arange(size + 2 * margin) - margin - np.arange(size)[:, None]
            kernel = np.exp(-0.5 * (offsets / deviation) ** 2) * (np.abs(offsets) <= margin)
            texture = np.moveaxis(np.tensordot(kernel, texture, (1, axis)), 0, axis)
        velocity += texture * (amplitude / texture.std(axis=(0, 1, 2)))
    return velocity * AXIS_FACTORS


def _diffeomorphism(velocity: np.ndarray) -> np.ndarray:
    """Displacement in mm of the flow along a velocity in mm, by scaling and squaring."""
    where = positions(velocity.shape[:-1])
    shift = velocity / (2**DOUBLINGS * SPACING)
    for _ in range(DOUBLINGS):
        shift = shift + sample_linear(shift, where + shift)
    return shift * SPACING
