"""Breathing lungs as CT shows them: generated pairs of volumes with an exactly known motion.

A lung with lobes and vessels (`zoo.data.lung_anatomy`) is seen in inhalation, and in exhalation
through a known diffeomorphism (`zoo.data.lung_motion`), denser where it is smaller: mass is kept.
The frame is LPS mm, 350 along every axis, its middle at the origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from zoo.data.image import Image
from zoo.data.lung_anatomy import LungAnatomy
from zoo.data.lung_motion import LungMotion
from zoo.data.pair import Pair
from zoo.geometry import Grid
from zoo.ops.arguments import MOST, MOST_SEED, checked, not_negative

TRAIN_SEEDS = range(100, 148)
TEST_SEEDS = range(4)
"""Seeds of the cases that nothing is fitted to."""

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
    """A generated pair of volumes with masks, lobes and landmarks; see `lung_case`.

    Example:
        >>> from zoo.data.lungs import lung_pair
        >>> pair = lung_pair(0, size=16)
        >>> pair.fixed.shape, len(pair.fixed_landmarks), np.unique(pair.fixed_labels)
        ((16, 16, 16), 100, array([0, 1, 2, 3, 4, 5], dtype=int32))
    """
    return lung_case(seed, size, amplitude).pair()


class LungPairs(keras.utils.PyDataset):
    """Batches of generated pairs for the training of networks.

    A batch is `({"fixed", "moving"},)`, float32 `[batch, size, size, size, 1]`. Either phase may be
    the fixed one, and pairs are mirrored along x and along y at random, which makes the lungs of
    few patients many. What is drawn depends on (seed, epoch, index) only; `epoch` is 0 until it is
    set. A case is generated when it is first wanted, which takes seconds, and kept.

    Args:
        cases: seeds of the cases.
        size: voxels along every axis.
        amplitude: see `lung_case`.
        batch_size: pairs of a batch.
        steps: batches of an epoch.
        seed: of what is drawn.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size` of Keras.

    Raises:
        ValueError: for numbers out of range, or no cases.
    """

    @checked(
        cases=(0, MOST_SEED),
        size=(8, 512),
        amplitude=not_negative,
        batch_size=(1, 2**16),
        steps=(1, MOST),
    )
    def __init__(
        self,
        cases: Sequence[int] = TRAIN_SEEDS,
        size: int = 48,
        amplitude: float = 0.75,
        batch_size: int = 4,
        steps: int = 50,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not len(cases):
            raise ValueError("cases must hold at least one seed.")
        self.cases, self.size, self.amplitude = tuple(cases), size, amplitude
        self.batch_size, self.steps, self.seed = batch_size, steps, seed
        self.epoch = 0
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        random = np.random.default_rng((self.seed, self.epoch, index))
        pairs = []
        for _ in range(self.batch_size):
            pair = self._case(self.cases[random.integers(len(self.cases))])
            swapped, *mirrored = random.random(3) < 0.5
            turns = tuple(slice(None, None, -1 if mirror else None) for mirror in mirrored)
            pairs.append([phase[turns] for phase in (pair[::-1] if swapped else pair)])
        fixed, moving = map(np.stack, zip(*pairs, strict=True))
        return ({"fixed": fixed, "moving": moving},)

    def _case(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        if seed not in self._kept:
            case = lung_case(seed, self.size, self.amplitude)
            self._kept[seed] = case.exhale.array, case.inhale.array
        return self._kept[seed]


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
