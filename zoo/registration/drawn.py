"""Images compared, and maps held to each other, at coordinates drawn anew in every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import keras
import numpy as np
from keras import ops
from scipy.ndimage import gaussian_filter

from zoo.data.image import Image
from zoo.data.padding import without_padding
from zoo.data.pair import Pair
from zoo.layers.coded_map import half_sides, values_at
from zoo.losses.similarity import NCC
from zoo.losses.tables import SIMILARITIES
from zoo.ops.arguments import one_of

PATCH = {2: 9, 3: 7}  # side of the patches that local similarities look at, in voxels
LOCAL = ("lncc", "mind")
OTHER = {"fixed": "moving", "moving": "fixed"}


class Draws:
    """Draws coordinates of the box [-1, 1]^dims, and compares images there.

    Similarities of the zoo take images: drawn points are one column of voxels, and for "lncc" and
    "mind", which look at neighbourhoods, patches are drawn, as many as make up the number of
    points. "lncc" is then one minus the squared correlation in the patch around its middle.

    Args:
        dims: 2 or 3.
        similarity: "ncc", "mse", "mi", "lncc" or "mind".
        points: for the similarity, in each direction.
        probes: for the consistency.
        random: a `keras.random.SeedGenerator`, which the model keeps.

    Raises:
        ValueError: for an unknown similarity.
    """

    def __init__(self, dims: int, similarity: str, points: int, probes: int, random):
        self.dims, self.points, self.probes = dims, points, probes
        self.similarity = one_of("similarity", similarity, SIMILARITIES)
        self.random = random
        self.side = PATCH[dims]
        # 0 for single points.
        self.patches = max(points // self.side**dims, 1) if similarity in LOCAL else 0

    def compared(self, images: dict, masks: dict, carry: Callable) -> list[tuple]:
        """What a similarity compares, in either direction.

        Args:
            images: `fixed` and `moving`, `[batch, *spatial, channels]`.
            masks: of those that have one, `[batch, *spatial, 1]`.
            carry: `(points, back) -> points`, the maps.

        Returns:
            For fixed and for moving points values `[batch, n, channels]` of the image that they
            lie in and of the other one where they end, and weights `[batch, n]`, None without
            masks.
        """
        made = []
        for side, other in OTHER.items():
            points = self.draw(images[side])
            ends = carry(points, side == "moving")
            weight = None
            for mask, places in ((masks.get(side), points), (masks.get(other), ends)):
                if mask is not None:
                    # No gradient: a loss must not fall because the overlap shrinks.
                    inside = ops.stop_gradient(values_at(mask, places)[..., 0])
                    weight = inside if weight is None else weight * inside
            seen = values_at(images[side], points), values_at(images[other], ends)
            made.append((*seen, weight))
        return made

    def turns(self, trace: Callable) -> list:
        """The Jacobians of both compositions at drawn points, `[batch, probes, dims, dims]`.

        Args:
            trace: `(points, tangents, back) -> points, tangents`, the maps.
        """
        identity = ops.broadcast_to(ops.eye(self.dims), (1, self.probes, self.dims, self.dims))
        made = []
        for back in (False, True):
            ends, turned = trace(self.uniform(self.probes), identity, back)
            made.append(trace(ends, turned, not back)[1])
        return made

    def uniform(self, count: int):
        """Points of the box, `[1, count, dims]`, which all pairs of a batch share."""
        return keras.random.uniform((1, count, self.dims), -1.0, 1.0, seed=self.random)

    def draw(self, image):
        """Points for the similarity, `[1, n, dims]`; of patches one after the other."""
        if not self.patches:
            return self.uniform(self.points)
        reach = self.side // 2
        offsets = np.indices((self.side,) * self.dims).reshape(self.dims, -1).T - reach
        voxel = 1.0 / ops.maximum(half_sides(image), 0.5)
        centres = self.uniform(self.patches) * ops.maximum(1.0 - reach * voxel, 0.0)
        points = centres[:, :, None] + offsets.astype(np.float32) * voxel
        return ops.reshape(points, (1, -1, self.dims))

    def unlike(self, compared: list[tuple]):
        """The similarity loss of what `compared` returned, the mean of both directions."""
        return sum(self._unlike(*each) for each in compared) / len(compared)

    def _unlike(self, seen, found, weight):
        if self.patches:
            shape = (-1, *(self.side,) * self.dims)
        else:
            shape = (ops.shape(found)[0], self.points, *(1,) * (self.dims - 1))
        seen, found = (ops.reshape(each, (*shape, each.shape[-1])) for each in (seen, found))
        weight = None if weight is None else ops.reshape(weight, shape)
        loss = NCC(squared=True) if self.similarity == "lncc" else SIMILARITIES[self.similarity]()
        return loss(seen, found, weight)

    def inconsistency(self, turns: list):
        """Mean square of the components of Jacobians that should be the identity."""
        errors = [ops.mean(ops.square(each - ops.eye(self.dims))) for each in turns]
        return sum(errors) / len(errors)


def scaled(image, mask=None):
    """An image on the scale of 0 to 1 by its range, within the mask if there is one."""
    axes = tuple(range(1, len(image.shape)))
    low = high = image
    if mask is not None:
        counts = ops.broadcast_to(mask > 0.5, ops.shape(image))
        low = ops.where(counts, image, float("inf"))
        high = ops.where(counts, image, -float("inf"))
    low, high = ops.min(low, axes, keepdims=True), ops.max(high, axes, keepdims=True)
    # An empty mask leaves no range, a constant image no width.
    low, high = (ops.where(ops.isfinite(end), end, 0.0) for end in (low, high))
    return ops.clip((image - low) / ops.where(high > low, high - low, 1.0), 0.0, 1.0)


def batch_of_pair(pair: Pair, deviation: float = 0.0) -> dict[str, np.ndarray]:
    """Images and masks on the fixed grid, smoothed; padding of CT does not count."""
    counted = without_padding(pair)
    if deviation:
        smooth = {}
        for side in ("fixed", "moving"):
            image = getattr(counted, side)
            values = gaussian_filter(image.array, (deviation,) * image.rank + (0,), mode="nearest")
            smooth[side] = Image(values, image.grid, image.name)
        counted = replace(counted, **smooth)
    known = ("fixed", "moving", "fixed_mask", "moving_mask")
    return {key: values for key, values in counted.arrays().items() if key in known}
