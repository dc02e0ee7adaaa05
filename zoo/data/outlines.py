"""Triangles and circles, filled or as outlines: the planar shapes on which folds are easily seen.

As in the sources of ICON (Greer et al., ICCV 2021, arXiv:2105.04459) and NePhi (Tian et al.,
ECCV 2024, arXiv:2309.07322): any shape deforms smoothly into any other, and an outline has no
inside that would tell where its points go.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from zoo.data.image import Image
from zoo.data.pair import Pair
from zoo.geometry import Grid
from zoo.ops.arguments import MOST, checked, one_of
from zoo.ops.array_arguments import few_enough

KINDS = ("solid", "hollow")
SHARPNESS = 40.0  # of an edge: levels are in sides of the picture
INSIDE = 0.2  # from which intensity on a pixel belongs to the shape
THIRD = 2 * np.pi / 3


@checked(count=(1, MOST), size=(2, 8192))
def triangles_and_circles(
    count: int, size: int = 64, kind: str = "solid", seed: int = 1
) -> np.ndarray:
    """Pictures of one shape each, at random places, of random sizes and turns.

    With seed 1, 6,000 shapes and 50 pixels they are those of the sources.

    Args:
        count: pictures.
        size: pixels along both sides.
        kind: "solid" shapes, or "hollow" ones, their outlines.
        seed: of everything drawn.

    Returns:
        float32 `[count, size, size, 1]`, from 0 to 1.

    Raises:
        ValueError: for numbers out of range or an unknown kind.
    """
    few_enough("count and size", (count, size, size))
    drawn = draw_shapes(count, seed)
    levels = _levels(drawn, size)
    return _intensities(levels, kind).astype(np.float32)[..., None]


@checked(count=(1, MOST))
def draw_shapes(count: int, seed: int = 1) -> dict[str, np.ndarray]:
    """What is random about shapes, in the order in which the sources draw it.

    Returns:
        A dict of float64 `[count]`: `x` and `y` of the centres along the axes of the array and
        `radius`, all in sides of the picture, `turn` in radians, and the booleans `triangle`.
    """
    # The generator of the sources, whose numbers tests compare.
    random = np.random.RandomState(seed)
    x, y = (0.4 + 0.3 * random.rand(count) for _ in range(2))
    radius = 0.2 + 0.2 * random.rand(count)
    turn = 2 * np.pi * random.rand(count)
    return {"x": x, "y": y, "radius": radius, "turn": turn, "triangle": random.rand(count) > 0.5}


def _levels(shapes: dict[str, np.ndarray], size: int) -> np.ndarray:
    """Signed levels `[count, size, size]`, negative inside; of circles the distance."""
    axis = np.linspace(0.0, 1.0, size)
    columns = {name: values[:, None, None] for name, values in shapes.items()}
    x, y = axis[:, None] - columns["x"], axis[None, :] - columns["y"]
    distance = np.hypot(x, y)
    # How far away the nearest side of a triangle is in the direction of the point.
    angle = np.mod(np.arctan2(x, y) + columns["turn"], THIRD) - THIRD / 2
    reach = np.where(columns["triangle"], np.cos(np.pi / 3) / np.cos(angle), 1.0)
    return distance - columns["radius"] * reach


def _intensities(levels: np.ndarray, kind: str) -> np.ndarray:
    edge = np.tanh(-SHARPNESS * levels)
    if one_of("kind", kind, KINDS) == "solid":
        return (edge + 1) / 2
    return 1 - edge**2


class ShapePairs(keras.utils.PyDataset):
    """Batches of pairs of triangles and circles, drawn from a set that is made once.

    A batch is `({"fixed", "moving"},)`, float32 `[batch, size, size, 1]` from 0 to 1. Which
    pictures it pairs depends on (seed, epoch, index) only; `epoch` is 0 until it is set.

    Args:
        size: pixels along both sides.
        kind: "solid" or "hollow".
        batch_size: pairs of a batch.
        steps: batches of an epoch.
        shapes: pictures in the set.
        seed: of the set and of the pairs.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size` of Keras.

    Raises:
        ValueError: for numbers out of range or an unknown kind.

    Example:
        >>> from zoo.data.outlines import ShapePairs
        >>> pairs = ShapePairs(size=32, batch_size=4, shapes=10)
        >>> (images,) = pairs[0]
        >>> images["fixed"].shape, float(images["fixed"].max())
        ((4, 32, 32, 1), 1.0)
    """

    @checked(size=(2, 8192), batch_size=(1, 2**20), steps=(1, MOST), shapes=(2, MOST))
    def __init__(
        self,
        size: int = 64,
        kind: str = "solid",
        batch_size: int = 16,
        steps: int = 100,
        shapes: int = 2000,
        seed: int = 1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.images = triangles_and_circles(shapes, size, kind, seed)
        self.batch_size, self.steps, self.seed = batch_size, steps, seed
        self.epoch = 0

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        random = np.random.default_rng((self.seed, self.epoch, index))
        chosen = random.integers(len(self.images), size=(2, self.batch_size))
        return (dict(zip(("fixed", "moving"), self.images[chosen], strict=True)),)


@checked(count=(1, MOST), size=(2, 8192))
def shape_pairs(count: int, size: int = 64, kind: str = "solid", seed: int = 2) -> list[Pair]:
    """Pairs of shapes to measure a registration on, the pixels of either shape as its label 1.

    Args:
        count: pairs, all of different shapes.
        size: pixels along both sides, which are 1 mm.
        kind: "solid" or "hollow".
        seed: another one than that of what a network was trained on.

    Raises:
        ValueError: for numbers out of range or an unknown kind.
    """
    pictures = triangles_and_circles(2 * count, size, kind, seed)
    return [
        _pair(pictures[number : number + 2], f"{kind} shapes {seed}, {number // 2}")
        for number in range(0, 2 * count, 2)
    ]


def _pair(pictures: Sequence[np.ndarray], name: str) -> Pair:
    grid = Grid(pictures[0].shape[:2])
    fixed, moving = (Image(picture, grid) for picture in pictures)
    labels = [(picture[..., 0] > INSIDE).astype(np.int32) for picture in pictures]
    return Pair(fixed, moving, fixed_labels=labels[0], moving_labels=labels[1], name=name)
