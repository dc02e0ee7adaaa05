"""Data sets of pairs, as batches for training and evaluation."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np

from zoo.data.fields import as_shape
from zoo.data.image import Image, fit_array
from zoo.data.pair import COMPANIONS, LandmarksOutside, LazyPairs, Pair
from zoo.ops.arguments import MOST, checked, one_of, shown


class PairDataset(keras.utils.PyDataset):
    """Batches of pairs: dicts of float32 arrays as `Pair.arrays` makes them, joined.

    Each batch depends on (seed, epoch, index) only, so resumed training sees what unbroken
    training sees; `fit` of the zoo's models sets `epoch`.

    Args:
        pairs: pairs, a single one, or a sequence that makes them when asked (`LazyPairs`).
        batch_size: pairs of a batch. They must be of one size, unless `shape` is given, and have
            the same companions.
        shape: voxels along each axis to which every pair is cropped or padded about the middle,
            with the minimum of the image; masks and labels with 0.
        align: "world" leaves the images where their files put them; "centre" first moves both so
            that their middles coincide, for images of different subjects that share no frame.
        shuffle: draw the pairs in a new order in each epoch.
        steps: batches of an epoch; None is once through all pairs. More begin anew, in another
            order; fewer see a part of them.
        seed: of the order.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size` of Keras.

    Raises:
        ValueError: without pairs, for numbers that are not positive, or an unknown `align`.
    """

    @checked(batch_size=(1, 2**20), steps=(1, MOST), shape=(1, MOST))
    def __init__(
        self,
        pairs: Pair | Sequence[Pair],
        batch_size: int = 1,
        shape: Sequence[int] | None = None,
        align: str = "world",
        shuffle: bool = True,
        steps: int | None = None,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        pairs = [pairs] if isinstance(pairs, Pair) else pairs
        if not len(pairs):
            raise ValueError("pairs is empty.")
        if not isinstance(pairs, LazyPairs):
            for pair in pairs:
                if not isinstance(pair, Pair):
                    raise ValueError(f"pairs must hold zoo.Pair, not {shown(pair)}.")
        one_of("align", align, ("world", "centre"))
        self.shape = None if shape is None else as_shape(shape)
        self.align, self.shuffle, self.seed = align, shuffle, seed
        self.batch_size, self.steps = batch_size, steps
        # Pairs that are in memory anyway are put on their grids once, not in every epoch.
        lazy = isinstance(pairs, LazyPairs)
        self.pairs = pairs if lazy else [self._placed(pair) for pair in pairs]
        self._lazy = lazy
        self.epoch = 0

    def __len__(self):
        return self.steps or -(-len(self.pairs) // self.batch_size)

    def __getitem__(self, index):
        count = len(self.pairs)
        first = index * self.batch_size
        last = first + self.batch_size
        if self.steps is None:
            last = min(last, count)
        if self.shuffle:
            chosen = drawn_places(count, range(first, last), self.seed, self.epoch)
        else:
            chosen = [at % count for at in range(first, last)]
        batch = [self._arrays(self.pairs[k]) for k in chosen]
        keys = set(batch[0])
        for k, arrays in zip(chosen, batch, strict=True):
            if set(arrays) != keys:
                raise ValueError(
                    f"pairs of a batch must have the same companions: pair {chosen[0]} has "
                    f"{sorted(keys)}, pair {k} {sorted(arrays)}; use batch_size=1."
                )
        return ({key: self._joined(key, batch, chosen) for key in batch[0]},)

    def _joined(self, key: str, batch: list[dict], chosen: list[int]) -> np.ndarray:
        shapes = [arrays[key].shape[1:] for arrays in batch]
        for k, shape in zip(chosen, shapes, strict=True):
            if shape != shapes[0]:
                raise ValueError(
                    f"pairs of a batch must have one size: {key} of pair {chosen[0]} has the shape "
                    f"{shapes[0]}, of pair {k} {shape}; give shape=, or use batch_size=1."
                )
        joined = [arrays[key] for arrays in batch]
        if any(each.dtype == np.int32 for each in joined):
            joined = [each.astype(np.int32) for each in joined]
        return np.concatenate(joined)

    def _placed(self, pair: Pair) -> Pair:
        if not pair.is_images:
            if self.shape is not None or self.align != "world":
                raise ValueError("shape and align are for pairs of images; these are clouds.")
            return pair
        if self.align == "centre":
            pair = _centred(pair, self.shape)
        return pair.on_fixed_grid()

    def _arrays(self, pair: Pair) -> dict[str, np.ndarray]:
        arrays = (self._placed(pair) if self._lazy else pair).arrays()
        if self.shape is None:
            return arrays
        if len(self.shape) != pair.rank:
            raise ValueError(f"shape must have {pair.rank} axes as the images, not {self.shape}.")
        start = (np.asarray(arrays["fixed"].shape[1:-1]) - self.shape) // 2
        for key, values in arrays.items():
            if key.endswith("_landmarks"):
                arrays[key] = values - start.astype(np.float32)
            elif key != "weights":
                fill = values.min() if key in ("fixed", "moving") else 0
                arrays[key] = fit_array(values[0], self.shape, fill)[0][None]
        return arrays


def drawn_places(count: int, turns: Sequence[int], seed: int, epoch: int) -> list[int]:
    """Which of some items come at some places of an epoch that goes through them again and again.

    Each time all items come, in a new order.

    Args:
        count: of the items.
        turns: places in the epoch, from 0.
        seed: of the orders.
        epoch: number of the epoch.
    """
    rounds = {at // count for at in turns}
    orders = {k: np.random.default_rng((seed, epoch, k)).permutation(count) for k in rounds}
    return [int(orders[at // count][at % count]) for at in turns]


class RepeatedBatch(keras.utils.PyDataset):
    """The same batch, a given number of times: what a descent on one pair trains on.

    Args:
        batch: dict of arrays.
        count: how often an epoch yields it.
    """

    @checked(count=(1, MOST))
    def __init__(self, batch: dict, count: int = 1):
        super().__init__()
        self.batch, self.count = batch, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return (self.batch,)


@checked()
def all_pairs(
    images: Sequence[Image],
    labels: Sequence | None = None,
    masks: Sequence | None = None,
    **options,
) -> PairDataset:
    """Every image with every other one, in both roles.

    Args:
        images: two or more.
        labels: integers on the grid of each image, or None.
        masks: of what counts, booleans on the grid of each image, or None. Masks of ones leave out
            what `shape` pads.
        **options: of `PairDataset`.

    Raises:
        ValueError: for fewer than two images, or labels or masks that are not as many.

    Example:
        >>> from zoo.data.pairs import all_pairs
        >>> images = [zoo.Image.from_array(np.eye(8) * k) for k in (1, 2, 3)]
        >>> batches = all_pairs(images, batch_size=2)
        >>> len(batches), batches[0][0]["fixed"].shape
        (3, (2, 8, 8, 1))
    """
    _check_images("images", images)
    if len(images) < 2:
        raise ValueError(f"images must be at least two, not {len(images)}.")
    labels, masks = _matching("labels", labels, images), _matching("masks", masks, images)
    images = _in_frame(images, options)
    makers = [
        partial(
            Pair,
            images[fixed],
            images[moving],
            fixed_labels=labels[fixed],
            moving_labels=labels[moving],
            fixed_mask=masks[fixed],
            moving_mask=masks[moving],
        )
        for fixed in range(len(images))
        for moving in range(len(images))
        if fixed != moving
    ]
    return PairDataset(LazyPairs(makers), **options)


@checked()
def to_atlas(
    images: Sequence[Image],
    atlas: Image,
    labels: Sequence | None = None,
    atlas_labels: np.ndarray | None = None,
    masks: Sequence | None = None,
    atlas_mask: np.ndarray | None = None,
    **options,
) -> PairDataset:
    """Every image, as the moving one, with one fixed atlas.

    Args:
        images: one or more.
        atlas: the fixed image of all pairs.
        labels: integers on the grid of each image, or None.
        atlas_labels: integers on the grid of the atlas, or None.
        masks: of what counts, booleans on the grid of each image, or None.
        atlas_mask: likewise, on the grid of the atlas.
        **options: of `PairDataset`.

    Raises:
        ValueError: without images, or for labels or masks that are not as many.
    """
    _check_images("images", images)
    if not len(images):
        raise ValueError("images must hold at least one image.")
    labels, masks = _matching("labels", labels, images), _matching("masks", masks, images)
    _matching("atlas_mask", [atlas_mask], [atlas])
    images, (atlas,) = _in_frame(images, options), _in_frame([atlas], options)
    makers = [
        partial(
            Pair,
            atlas,
            image,
            fixed_labels=atlas_labels,
            moving_labels=own,
            fixed_mask=atlas_mask,
            moving_mask=mask,
        )
        for image, own, mask in zip(images, labels, masks, strict=True)
    ]
    return PairDataset(LazyPairs(makers), **options)


def from_csv(path: str | Path, **options) -> PairDataset:
    """The pairs that a table lists; each is read when its batch is asked for.

    Args:
        path: a .csv with a header: the columns `fixed` and `moving` and, optionally, `name`,
            `fixed_mask`, `moving_mask`, `fixed_labels`, `moving_labels`, `fixed_landmarks`,
            `moving_landmarks` and `weights`; paths are relative to the table, empty cells mean
            none.
        **options: of `PairDataset`.

    Raises:
        FileNotFoundError: if the table or a file that it names is missing.
        ValueError: for a table without rows, without one of the two columns, or with others.
    """
    return PairDataset(read_table(path), **options)


def read_table(path: str | Path) -> LazyPairs:
    """The pairs that a table lists, each read when asked for; see `from_csv`."""
    from zoo.io import existing

    path = existing(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            fields = list(reader.fieldnames or ())
            rows = list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"path: {path.name!r} is no readable table: {error}") from error
    columns = set(fields)
    if len(columns) < len(fields):
        raise ValueError(f"path: {path.name!r} has a column twice; its header is {fields}.")
    known = {"fixed", "moving", "name", *COMPANIONS}
    if not {"fixed", "moving"} <= columns <= known:
        raise ValueError(
            f"path: {path.name!r} must have the columns fixed and moving, and may have "
            f"{', '.join(sorted(known - {'fixed', 'moving'}))}; it has "
            f"{', '.join(sorted(map(str, columns))) or 'none'}."
        )
    if not rows:
        raise ValueError(f"path: {path.name!r} lists no pairs.")
    makers = []
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise ValueError(
                f"path: row {number} of {path.name!r} has more cells than the header has columns, "
                f"{len(fields)}."
            )
        given = {key: value.strip() for key, value in row.items() if value and value.strip()}
        name = given.pop("name", None)
        if not {"fixed", "moving"} <= set(given):
            raise ValueError(f"path: row {number} of {path.name!r} lacks fixed or moving.")
        parts = {
            key: existing(path.parent / value, f"row {number}, {key}")
            for key, value in given.items()
        }
        makers.append(partial(Pair.read, **parts, name=name))
    return LazyPairs(makers)


def _check_images(argument: str, images) -> None:
    for image in images:
        if not isinstance(image, Image):
            raise ValueError(f"{argument} must hold zoo.Image, not {shown(image)}.")


def _matching(argument: str, given: Sequence | None, images: Sequence[Image]) -> Sequence:
    if given is None:
        return [None] * len(images)
    if len(given) != len(images):
        raise ValueError(
            f"{argument} must be as many as the {len(images)} images, not {len(given)}."
        )
    for number, (values, image) in enumerate(zip(given, images, strict=True)):
        if values is not None and np.shape(values) != image.shape:
            raise ValueError(
                f"{argument}[{number}] must have the shape {image.shape} of its image, not "
                f"{np.shape(values)}."
            )
    return given


def _in_frame(images: Sequence[Image], options: dict) -> list[Image]:
    # Images that share no frame may not even overlap, which a pair refuses.
    centre = options.get("align") == "centre"
    return [image.centred() if centre else image for image in images]


def _centred(pair: Pair, shape: tuple[int, ...] | None) -> Pair:
    """Both images with their middle at the origin of the world, landmarks with them.

    Fitting them to one shape before makes the shift a whole number of voxels, so images of equal
    spacing are not interpolated.
    """
    parts: dict = {"weights": pair.weights, "name": pair.name}
    for side in ("fixed", "moving"):
        image = getattr(pair, side)
        fitted = image if shape is None else image.fitted(shape)
        parts[side] = fitted.centred()
        for key in (f"{side}_mask", f"{side}_labels"):
            values = getattr(pair, key)
            if values is not None:
                parts[key] = values if shape is None else fit_array(values, shape, 0)[0]
        points = getattr(pair, f"{side}_landmarks")
        if points is not None:
            parts[f"{side}_landmarks"] = parts[side].grid.to_world(fitted.grid.to_index(points))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LandmarksOutside)
        return Pair(**parts)
