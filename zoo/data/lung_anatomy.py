"""The shape and the inside of a generated lung in inhalation: lobes, vessels, density.

Positions are in the unit box of `zoo.data.lung_motion`; densities are those of CT,
`(HU + 1000) / 1000`. Everything is a formula of the position, so that images of any resolution show
the same lung, and one that is deformed is not interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

LOBES = ("right upper", "right middle", "right lower", "left upper", "left lower")
"""Names of the labels 1 to 5."""

SIDES = (-1, 1)  # of x: right, left
HEART, HEART_AXES = np.array([0.16, -0.18, 0.30]), np.array([0.24, 0.28, 0.30])
DOME_AXES = np.array([0.46, 0.60, 0.42])
ROOT, ROOT_RADIUS = np.array([0.17, 0.02, 0.0]), 0.075  # of a left lung
DIRECTIONS = ((0.2, -0.2, -0.9), (1.0, -0.9, 0.2), (1.0, 0.5, 0.9), (1.0, 0.9, 0.1))
THINNEST, GENERATIONS = 0.012, 7
COSINES = 48  # of the texture
VESSEL, FISSURE = 0.80, 0.10  # densities: of vessels, and of fissures beyond that of the lung


@dataclass(frozen=True, eq=False)
class Vessels:
    """The branches of both lungs, as points along their middle lines.

    Attributes:
        points: float64 `[n, 3]`.
        radius: float64 `[n]`.
        forks: float64 `[m, 3]`, where branches divide.
    """

    points: np.ndarray
    radius: np.ndarray
    forks: np.ndarray


class LungAnatomy:
    """Both lungs of a patient.

    Args:
        random: from where chance comes.

    Attributes:
        vessels: see `Vessels`.
    """

    def __init__(self, random: np.random.Generator):
        self._lungs = {}
        for side in SIDES:
            centre = np.array([0.40 * side, 0.0, 0.05])
            centre += random.uniform(-1, 1, 3) * (0.02, 0.03, 0.03)
            radii = np.array([0.33, 0.50, 0.72] if side < 0 else [0.30, 0.48, 0.70])
            self._lungs[side] = centre, radii * random.uniform(0.95, 1.05, 3)
        self._fissures = {
            -1: 0.02 + random.uniform(-0.03, 0.03),
            1: random.uniform(-0.03, 0.03),
        }
        self._middle = -0.05 + random.uniform(-0.03, 0.03)
        self._waves = random.normal(0, 9, (COSINES, 3))
        self._phases = random.uniform(0, 2 * np.pi, COSINES)
        self._heights = random.normal(size=COSINES) / np.sqrt(COSINES / 2)
        self.vessels = self._grown(random)

    def level(self, points: np.ndarray) -> np.ndarray:
        """Roughly the distance `[...]` of points `[..., 3]` to the lungs; negative inside."""
        x = points[..., 0]
        side = np.where(x < 0, -1, 1)
        levels = []
        heart = np.linalg.norm((points - HEART) / HEART_AXES, axis=-1) - 1
        for sign in SIDES:
            centre, radii = self._lungs[sign]
            body = np.linalg.norm((points - centre) / radii, axis=-1) - 1
            dome = np.array([0.40 * sign, 0.05, 0.98 if sign < 0 else 1.02])
            below = np.linalg.norm((points - dome) / DOME_AXES, axis=-1) - 1
            parts = (0.35 * body, -0.4 * below, -0.25 * heart, 0.09 - np.abs(x))
            levels.append(np.maximum.reduce(parts))
        return np.where(side < 0, *levels)

    def lobes(self, points: np.ndarray) -> np.ndarray:
        """Labels `[...]` of points, int32: 0 outside, else that of `LOBES`."""
        x, _, z = np.moveaxis(points, -1, 0)
        lower = self._behind(points) > 0
        right = np.where(lower, 3, np.where(z < self._middle, 1, 2))
        labels = np.where(x < 0, right, np.where(lower, 5, 4))
        return np.where(self.level(points) < 0, labels, 0).astype(np.int32)

    def density(self, points: np.ndarray, voxel: float) -> np.ndarray:
        """Densities `[...]` of points `[..., 3]`, 0 outside.

        Args:
            points: where.
            voxel: side of a voxel, over which edges are softened.
        """
        x, y, z = np.moveaxis(points, -1, 0)
        density = 0.14 + 0.015 * (y + 1) + 0.015 * self._texture(points)
        distance = self._behind(points)
        fissure = np.exp(-((distance / (0.6 * voxel)) ** 2))
        between = (x < 0) & (distance < 0)
        horizontal = np.exp(-(((z - self._middle) / (0.6 * voxel)) ** 2)) * between
        density = density + FISSURE * np.maximum(fissure, horizontal)
        share = _soft(self._within_vessels(points, voxel) / (0.35 * voxel))
        density = (1 - share) * density + share * VESSEL
        return _soft(-self.level(points) / (0.35 * voxel)) * np.clip(density, 0.0, 1.0)

    def _behind(self, points: np.ndarray) -> np.ndarray:
        """How far behind the oblique fissure of its lung a point lies."""
        x, y, z = np.moveaxis(points, -1, 0)
        offset = np.where(x < 0, self._fissures[-1], self._fissures[1])
        return 0.75 * z + 0.66 * y - offset

    def _texture(self, points: np.ndarray) -> np.ndarray:
        texture = np.zeros(points.shape[:-1])
        for wave, phase, height in zip(self._waves, self._phases, self._heights, strict=True):
            texture += height * np.cos(points @ wave + phase)
        return texture

    def _within_vessels(self, points: np.ndarray, voxel: float) -> np.ndarray:
        """How deep points lie in the nearest vessel; far outside of all, the least that counts."""
        reach = 8 * 0.35 * voxel  # beyond it a vessel has no share
        flat = points.reshape(-1, 3)
        depth = np.full(len(flat), -reach)
        # Branches of one radius together: the nearest middle line is that of the nearest wall.
        for radius in np.unique(self.vessels.radius):
            tree = cKDTree(self.vessels.points[self.vessels.radius == radius])
            distance, _ = tree.query(flat, distance_upper_bound=radius + reach)
            depth = np.maximum(depth, radius - np.minimum(distance, radius + reach))
        return depth.reshape(points.shape[:-1])

    def _grown(self, random: np.random.Generator) -> Vessels:
        points, radii, forks = [], [], []
        for side in SIDES:
            for direction in DIRECTIONS:
                start = ROOT * (side, 1, 1)
                heading = _unit(np.array(direction) * (side, 1, 1))
                branches = [(start, heading, ROOT_RADIUS, 0)]
                while branches:
                    start, heading, radius, generation = branches.pop()
                    line, heading, ended = self._branch(start, heading, radius, generation, random)
                    if len(line):
                        points.append(line)
                        radii.append(np.full(len(line), radius))
                    if ended:
                        continue
                    children = self._children(line[-1], heading, radius, generation, random)
                    if children:
                        forks.append(line[-1])
                        branches += children
        return Vessels(np.concatenate(points), np.concatenate(radii), np.array(forks))

    def _branch(self, start, heading, radius, generation, random) -> tuple:
        """Points along one branch, its last direction, and whether it ends at the pleura."""
        length = 0.30 * 0.8**generation * random.uniform(0.8, 1.2)
        step, at, line = 0.25 * radius, start, []
        for _ in range(int(length / step)):
            heading = _unit(heading + random.normal(0, 0.06, 3))
            at = at + step * heading
            if self.level(at) > -0.02:
                return np.array(line).reshape(-1, 3), heading, True
            line.append(at)
        return np.array(line).reshape(-1, 3), heading, False

    @staticmethod
    def _children(end, heading, radius, generation, random) -> list[tuple]:
        across = _unit(np.cross(heading, random.normal(size=3)))
        children = []
        for sign, share in ((1, 0.82), (-1, 0.70)):
            angle = np.deg2rad(random.uniform(25, 50))
            turned = Rotation.from_rotvec(sign * angle * across).apply(heading)
            if share * radius > THINNEST and generation < GENERATIONS:
                children.append((end, turned, share * radius, generation + 1))
        return children


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _soft(x: np.ndarray) -> np.ndarray:
    """The logistic function, from 0 to 1."""
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))
