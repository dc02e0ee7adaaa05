"""Breathing lungs as CT shows them: generated pairs of volumes with an exactly known motion.

A lung with lobes and vessels (`zoo.data.lung_anatomy`) is seen in inhalation, and in exhalation
through a known diffeomorphism (`zoo.data.lung_motion`), denser where it is smaller: mass is kept.
The frame is LPS mm, 350 along every axis, its middle at the origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.data.image import Image
from zoo.data.lung_anatomy import LungAnatomy
from zoo.data.lung_motion import LungMotion
from zoo.data.pair import Pair
from zoo.geometry import Grid
from zoo.ops.arguments import checked, not_negative

FIELD = 350.0  # mm along every axis
LANDMARKS = 100
NOISE = 0.01  # standard deviation, inside of the lungs
EVERY = 7  # point of the middle line of a vessel may be a landmark


@dataclass(frozen=True, eq=False)
class LungCase:
    """A generated patient: two volumes and the map between them.

    Attributes:
        seed: of everything drawn.
        amplitude: of the motion.
        anatomy: `LungAnatomy`, of inhalation.
        motion: `LungMotion`, from exhalation to inhalation, in the unit box.
        inhale: `Image` of densities, from 0 to 1.
        exhale: likewise.
        inhale_lobes: int32 `[n, n, n]`, 0 outside, 1 to 5 as `lung_anatomy.LOBES` names them.
        exhale_lobes: likewise.
        displacement: float32 `[n, n, n, 3]`, in voxels: voxel x of the exhaled volume is found at
            `x + displacement(x)` of the inhaled one.
        determinant: float32 `[n, n, n]`, of the Jacobian of that map; positive.
        inhale_landmarks: float64 `[100, 3]`, mm: forks and other points of vessels.
        exhale_landmarks: the same points in exhalation.
    """

    seed: int
    amplitude: float
    anatomy: LungAnatomy
    motion: LungMotion
    inhale: Image
    exhale: Image
    inhale_lobes: np.ndarray
    exhale_lobes: np.ndarray
    displacement: np.ndarray
    determinant: np.ndarray
    inhale_landmarks: np.ndarray
    exhale_landmarks: np.ndarray

    @property
    def initial_error(self) -> float:
        """Mean distance of the landmarks, mm."""
        return float(np.linalg.norm(self.exhale_landmarks - self.inhale_landmarks, axis=1).mean())

    def pair(self, masks: bool = True) -> Pair:
        """The case for a registration: inhalation (moving) is brought onto exhalation (fixed).

        Args:
            masks: whether the lungs are given as masks.
        """
        parts = {}
        for side, phase in (("fixed", "exhale"), ("moving", "inhale")):
            parts[side] = getattr(self, phase)
            parts[f"{side}_labels"] = getattr(self, f"{phase}_lobes")
            parts[f"{side}_landmarks"] = getattr(self, f"{phase}_landmarks")
            if masks:
                parts[f"{side}_mask"] = parts[f"{side}_labels"] > 0
        return Pair(**parts, name=f"lungs {self.seed}")

    def pull(self, points: np.ndarray) -> np.ndarray:
        """The true map of points `[n, 3]` of exhalation to inhalation, in mm."""
        return to_world(self.motion.inhaled(to_box(points)))

    def move(self, points: np.ndarray) -> np.ndarray:
        """The true map of points `[n, 3]` of inhalation to exhalation, in mm."""
        return to_world(self.motion.exhaled(to_box(points)))


@checked(amplitude=not_negative, size=(8, 512))
def lung_case(seed: int = 0, size: int = 48, amplitude: float = 0.75) -> LungCase:
    """Generates a patient; at 48 voxels it takes some seconds.

    Args:
        seed: of everything drawn.
        size: voxels along every axis.
        amplitude: 0.4 is easy, 0.75 like patients with COPD (landmarks move by 22 mm on average),
            1 hard.

    Raises:
        ValueError: for numbers out of range.
    """
    streams = [np.random.default_rng((seed, number)) for number in range(3)]
    anatomy, motion = LungAnatomy(streams[0]), LungMotion(streams[1], amplitude)
    spacing, voxel = FIELD / (size - 1), 2.0 / (size - 1)
    grid = Grid((size,) * 3, spacing, -FIELD / 2)
    exhaled = to_box(grid.coordinates())
    inhaled, determinant = motion.inhaled_with_volume(exhaled)
    densities = {
        "inhale": anatomy.density(exhaled, voxel),
        "exhale": anatomy.density(inhaled, voxel) * np.clip(determinant, 0.3, 3.0),
    }
    lobes = {"inhale": anatomy.lobes(exhaled), "exhale": anatomy.lobes(inhaled)}
    images = {}
    for phase, density in densities.items():
        noise = NOISE * streams[2].normal(size=density.shape) * (lobes[phase] > 0)
        values = np.clip(density + noise, 0.0, 1.0).astype(np.float32)
        images[phase] = Image(values[..., None], grid, name=f"lungs {seed} {phase}")
    displacement = grid.vectors_to_index(to_world(inhaled) - to_world(exhaled))
    landmarks = _landmarks(anatomy)
    return LungCase(
        seed,
        amplitude,
        anatomy,
        motion,
        **images,
        **{f"{phase}_lobes": labels for phase, labels in lobes.items()},
        displacement=displacement.astype(np.float32),
        determinant=determinant.astype(np.float32),
        inhale_landmarks=to_world(landmarks),
        exhale_landmarks=to_world(motion.exhaled(landmarks)),
    )


def lung_pair(seed: int = 0, size: int = 48, amplitude: float = 0.75) -> Pair:
    """A generated pair of volumes with masks, lobes and landmarks; see `lung_case`."""
    return lung_case(seed, size, amplitude).pair()


def to_box(points: np.ndarray) -> np.ndarray:
    """Positions in the unit box, in which z runs from the apex down, of world points in mm."""
    return np.asarray(points, dtype=np.float64) * (2 / FIELD) * (1, 1, -1)


def to_world(points: np.ndarray) -> np.ndarray:
    """World points in mm of positions in the unit box."""
    return np.asarray(points, dtype=np.float64) * (FIELD / 2) * (1, 1, -1)


def _landmarks(anatomy: LungAnatomy) -> np.ndarray:
    """Points of vessels inside of the lungs that lie far from each other, `[n, 3]`."""
    vessels = anatomy.vessels
    found = np.concatenate([vessels.forks, vessels.points[::EVERY]])
    found = found[anatomy.level(found) < 0]
    chosen = [0]
    distance = np.linalg.norm(found - found[0], axis=1)
    while len(chosen) < min(LANDMARKS, len(found)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(found - found[chosen[-1]], axis=1))
    return found[chosen]
