"""Pairs as other scanners, crops and poses would show them, for training."""

from __future__ import annotations

import itertools

import keras
import numpy as np
from scipy import ndimage

from zoo.data.fields import random_affine
from zoo.ops.arguments import checked, not_negative


class Augmented(keras.utils.PyDataset):
    """A data set of pairs whose images are changed at random, each image in its own way.

    Each image gets, in this order: a small affine map, which its labels and its mask follow; a
    crop, beyond which it has its lowest value and a mask is empty; noise; a gain and an offset.
    What is drawn depends on (seed, epoch, index) only, so resumed training sees what unbroken
    training sees.

    Args:
        pairs: yields batches `({"fixed", "moving", ...},)`, `[batch, *spatial, channels]`, such as
            `zoo.data.pairs.PairDataset`. Landmarks are refused: they would have to follow, too.
        turn: largest rotation about each axis, degrees.
        zoom: largest change of scale along an axis, as a share, below one.
        shift: largest translation along each axis, voxels.
        crop: largest share of an axis that is cut off at either end.
        noise: largest standard deviation of the noise, as a share of the image's own.
        gain: largest factor, and one over the least, of the intensities.
        offset: largest change of the intensities, in standard deviations of the image.
        seed: of what is drawn.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size` of Keras.

    Raises:
        ValueError: for a number below zero, a gain below one, or a crop of a half or more.
    """

    @checked()
    def __init__(
        self,
        pairs: keras.utils.PyDataset,
        turn: float = 5.0,
        zoom: float = 0.08,
        shift: float = 2.0,
        crop: float = 0.1,
        noise: float = 0.1,
        gain: float = 10.0,
        offset: float = 1.0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in (
            ("turn", turn), ("zoom", zoom), ("shift", shift), ("noise", noise), ("offset", offset)
        ):  # fmt: skip
            not_negative(name, value)
        if gain < 1 or not 0 <= crop < 0.5 or zoom >= 1:
            raise ValueError(
                "gain must be at least 1, crop in [0, 0.5) and zoom in [0, 1), not "
                f"{gain}, {crop} and {zoom}."
            )
        self.pairs, self.seed, self._epoch = pairs, seed, 0
        self.turn, self.zoom, self.shift = turn, zoom, shift
        self.crop, self.noise, self.gain, self.offset = crop, noise, gain, offset

    @property
    def epoch(self) -> int:
        """Number of the epoch, which `fit` of the zoo's models sets."""
        return self._epoch

    @epoch.setter
    def epoch(self, number: int):
        self._epoch = self.pairs.epoch = number

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        (batch,) = self.pairs[index]
        kinds = ("", "_labels", "_mask")
        if not set(batch) <= {side + kind for side in ("fixed", "moving") for kind in kinds}:
            raise ValueError(
                f"pairs must bring nothing but images, labels and masks, not {set(batch)}."
            )
        random = np.random.default_rng((self.seed, self.epoch, index))
        changed = {key: values.copy() for key, values in batch.items()}
        for side, k in itertools.product(("fixed", "moving"), range(len(batch["fixed"]))):
            parts = {kind: changed[side + kind][k] for kind in kinds if side + kind in changed}
            self._pose(parts, random)
            parts[""][...] = self._seen(parts[""], random)
        return (changed,)

    def _pose(self, parts: dict[str, np.ndarray], random) -> None:
        """An affine map and a crop of an image `[*spatial, channels]` and its companions."""
        image = parts[""]
        shape = image.shape[:-1]
        matrix, offset = random_affine(
            shape,
            (-self.shift, self.shift),
            (-self.turn, self.turn),
            0.0,
            (1 - self.zoom, 1 + self.zoom),
            0.0,
            random,
        )
        fill = image.min(axis=tuple(range(len(shape))))
        for kind, values in parts.items():
            for c in range(values.shape[-1]):
                values[..., c] = ndimage.affine_transform(
                    values[..., c],
                    matrix,
                    offset,
                    order=0 if kind else 1,
                    cval=0 if kind else fill[c],
                )
        for axis, size in enumerate(shape):
            for end in (0, 1):
                cut = int(random.uniform(0, self.crop) * size)
                place = slice(0, cut) if end == 0 else slice(size - cut, None)
                cropped = (slice(None),) * axis + (place,)
                image[cropped] = fill
                if "_mask" in parts:
                    parts["_mask"][cropped] = 0

    def _seen(self, image, random) -> np.ndarray:
        """The image with noise, another gain and another offset."""
        deviation = image.std()
        noise = random.uniform(0, self.noise) * deviation * random.standard_normal(image.shape)
        gain = np.exp(random.uniform(-1, 1) * np.log(self.gain))
        offset = random.uniform(-self.offset, self.offset) * deviation
        return (gain * (image + noise + offset)).astype(np.float32)
