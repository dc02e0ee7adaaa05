"""Affine: the linear alignment from which every deformable registration can start.

Images are aligned by Adam on a similarity (correlation, local correlation or mutual information)
over a pyramid, after the best of several starts; clouds by their moments and then by iterated
closest points (Besl and McKay, PAMI 1992; trimmed after Chetverikov et al., ICPR 2002) in both
directions, because one alone is content with a cloud that shrinks onto a part of the other.

The linear part is the exponential of a combination of generators, `L = exp(sum p_i G_i)`: rotations
alone make it rigid, the identity adds a scale, all matrices make it affine. It acts about the
centre of the fixed image in units of its half size, so that one step length suits every parameter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import keras
import numpy as np
import scipy.linalg
from keras import ops

from zoo.data.image import Image
from zoo.data.padding import without_padding
from zoo.data.pair import Pair
from zoo.data.pairs import RepeatedBatch
from zoo.data.scan import Scan
from zoo.geometry import Grid
from zoo.losses.tables import SIMILARITIES
from zoo.ops.arguments import MOST, checked, one_of
from zoo.ops.closest_points import KINDS, align_clouds
from zoo.ops.sampling import identity_coordinates, sample
from zoo.registration import Registration
from zoo.registration.fitting import Training, descend
from zoo.registration.frame import exact, position, set_position, stored
from zoo.transform import Affine

LOSSES = ("ncc", "lncc", "mi")
STARTS = ("auto", "identity", "centres", "moments")
TURNS = (-40, -20, 0, 20, 40)  # degrees about each axis that "auto" tries
TRIALS = 3  # of the best turns, how many start a descent


class AffineRegistration(Registration):
    """Rigid, similarity or affine registration of one pair of images or clouds.

    `fit(pair)` aligns, `transform(pair)` returns a `zoo.transform.Affine` in world units.

    Args:
        dims: 2 or 3.
        kind: "rigid", "similarity" or "affine".
        loss: for images: "ncc", "lncc" or "mi" (of different modalities).
        levels: of the image pyramid.
        voxels: at most so many on the finest level; each coarser one has 2^dims times fewer.
        start: "identity", "centres" (of the grids), "moments" (centres of intensity), or "auto":
            whichever of these, turned by up to 40 degrees about an axis, is the best on the
            coarsest level. For clouds "auto" and "moments" try the turns of the principal axes.
        trim: for clouds: share of the closest points that count, which tolerates outliers.

    Raises:
        ValueError: for arguments out of range.
    """

    needs_fit = True
    default_loss_weights = {"similarity": 1.0}

    @checked(levels=(1, 32), voxels=(100, MOST))
    def __init__(
        self,
        dims: int = 3,
        kind: str = "affine",
        loss: str = "ncc",
        levels: int = 3,
        voxels: int = 120_000,
        start: str = "auto",
        trim: float = 0.9,
        **kwargs,
    ):
        super().__init__(dims, **kwargs)
        one_of("kind", kind, KINDS)
        one_of("loss", loss, LOSSES)
        one_of("start", start, STARTS)
        if not 0 < trim <= 1:
            raise ValueError(f"trim must be in (0, 1], not {trim}.")
        self.kind, self.similarity = kind, loss
        self.levels, self.voxels, self.start, self.trim = levels, voxels, start, trim
        self.generators = _generators(dims, kind)
        count = len(self.generators)
        self.linear = stored(self, "linear", (count,), trainable=True)
        self.shift = stored(self, "shift", (dims,), trainable=True)
        # The frame of the fixed image, in world units, and the start, which takes its centre to
        # the target, a position.
        self.start_matrix = stored(self, "start_matrix", (dims, dims), "identity")
        self.target = stored(self, "target", (2, dims))
        self.centre = stored(self, "centre", (dims,))
        self.scale = stored(self, "scale", (), "ones")
        self.built = True

    def get_config(self):
        names = ("kind", "levels", "voxels", "start", "trim")
        own = {name: getattr(self, name) for name in names} | {"loss": self.similarity}
        return super().get_config() | own

    # The map and its training

    def call(self, inputs):
        """Warps moving images, or moves clouds, by the present parameters.

        Args:
            inputs: a dict of `fixed` and `moving` images `[b, *spatial, channels]`, of which the
                first only gives the grid; in world units of voxels, or with the `to_frame`,
                `to_index` and masks that `fit` adds. Or of `moving` points `[b, n, dims]`.

        Returns:
            A dict of `moved` `[b, *spatial, channels]`, `displacement` `[b, *spatial, dims]` in
            voxels, and `overlap` `[b, *spatial, 1]`, one where the moving image reaches. For
            points a dict of `moved` `[b, n, dims]`.
        """
        moving = ops.cast(inputs["moving"], "float32")
        if len(moving.shape) == 3:
            linear = _exponential(self.linear, self.generators)
            shift = ops.matmul(self.start_matrix, self.scale * self.shift)
            inverse = ops.transpose(ops.inv(ops.matmul(self.start_matrix, linear)))
            moved = ops.matmul(moving - self.target[0] - self.target[1] - shift, inverse)
            return {"moved": moved + self.centre}
        shape = ops.shape(inputs["fixed"])[1:-1]
        start = identity_coordinates(shape)
        to_frame, to_index = inputs.get("to_frame"), inputs.get("to_index")
        if to_index is None:
            to_frame, to_index = self._voxel_frame(shape)
        # Of fixed index, normalised coordinate and moving index, one after the other, one map.
        matrix = _exponential(self.linear, self.generators)
        offset = ops.matmul(matrix, to_frame[..., -1:]) + self.shift[:, None]
        offset = ops.matmul(to_index[..., :-1], offset) + to_index[..., -1:]
        matrix = ops.matmul(to_index[..., :-1], ops.matmul(matrix, to_frame[..., :-1]))
        flat = ops.matmul(ops.reshape(start, (1, -1, self.dims)), ops.swapaxes(matrix, 1, 2))
        indices = flat + ops.swapaxes(offset, 1, 2)
        indices = ops.reshape(indices, (-1, *shape, self.dims))
        last = ops.stack([ops.cast(n, "float32") for n in ops.shape(moving)[1:-1]]) - 1.0
        inside = ops.logical_and(indices >= -0.5, indices <= last + 0.5)
        overlap = ops.cast(ops.all(inside, axis=-1, keepdims=True), "float32")
        if "moving_mask" in inputs:
            # Only what counts is interpolated: else what does not leaks over its border.
            mask = ops.cast(inputs["moving_mask"], "float32")
            counts = sample(mask, indices)
            moved = sample(moving * mask, indices) / ops.maximum(counts, 1e-3)
            moved, overlap = ops.where(counts > 1e-3, moved, 0.0), overlap * counts
        else:
            moved = sample(moving, indices)
        return {
            "moved": moved,
            "displacement": indices - start,
            "overlap": overlap,
        }

    def _voxel_frame(self, shape):
        """To normalised coordinates of the voxels of raw arrays, and back to indices."""
        middle = (ops.stack([ops.cast(size, "float32") for size in shape]) - 1.0) / 2.0
        half = ops.maximum(ops.max(middle), 0.5)
        middle, identity = middle[:, None], ops.eye(self.dims)
        to_frame = ops.concatenate([identity / half, -middle / half], axis=1)
        return to_frame[None], ops.concatenate([identity * half, middle], axis=1)[None]

    def loss_terms(self, x, y, y_pred):
        """The similarity where the masks and the moving image overlap."""
        return {"similarity": ops.mean(self._dissimilarity(x, y_pred)[0])}

    def _dissimilarity(self, x, y_pred):
        """Losses `[b]`, and the shares of the fixed voxels that they compare."""
        weight = y_pred["overlap"]
        if "fixed_mask" in x:
            weight = weight * ops.cast(x["fixed_mask"], "float32")
        compare = SIMILARITIES[self.similarity](reduction=None)
        values = compare(x["fixed"], y_pred["moved"], sample_weight=weight)
        return values, ops.mean(ops.reshape(weight, (ops.shape(weight)[0], -1)), axis=1)

    def default_optimizer(self):
        return keras.optimizers.Adam(0.02)

    def check_training(self, x):
        """Refuses what neither is a pair nor has batches.

        Raises:
            TypeError: naming what came.
        """
        batches = isinstance(x, Iterable) and not hasattr(x, "shape")
        if not batches or isinstance(x, (Sequence, Scan, Image)):
            raise TypeError(
                "x must be a zoo.Pair, or a dict or a data set of 'fixed' and 'moving' arrays, not "
                f"{type(x).__name__}."
            )

    def fit_pair(self, pair: Pair, training: Training, epochs, steps_per_epoch=None):
        """Aligns a pair, from the start and whatever was fitted before.

        Clouds are aligned in closed form again and again: of the arguments of `fit` none has an
        effect, and the history is of the mean distances. Points outside of their mask do not
        count, the others of the moving cloud by the pair's `weights`.

        Args:
            pair: of images or clouds.
            training: has a stage for each level.
            epochs: on the coarsest level, half as many on each finer one; the learning rate, too,
                is halved with each level.
            steps_per_epoch: 15 by default.

        Raises:
            ValueError: for clouds of too few points or too flat for the `kind`, and clouds that
                only match where one collapses.
        """
        if not pair.is_images:
            return self._fit_clouds(pair, training.history)
        steps = steps_per_epoch or 15
        # Bins need a range without outliers; correlation would be biased by what is clipped.
        limits = (0, 99.5 if self.similarity == "mi" else 100)
        pair = without_padding(pair)
        images = {side: getattr(pair, side).normalised(limits) for side in ("fixed", "moving")}
        pair = replace(pair, **images)
        self._set_frame(pair.fixed.grid.centre, pair.fixed.grid.extent.max() / 2)
        self._reset()
        levels = [self._level(pair, level) for level in range(self.levels)]
        self._choose_start(pair, *levels[0], steps)
        with training:
            for level, (batch, grid) in enumerate(levels):
                batch["to_index"] = self._to_index(grid)[None]
                count = max(epochs // 2**level, 1)
                training.stage(self, RepeatedBatch(batch, steps), count, rate=0.5**level)

    def map_of(self, pair: Pair) -> Affine:
        """The alignment in world units; its `fixed_grid` is the pair's."""
        start, centre, shift = map(exact, (self.start_matrix, self.centre, self.shift))
        # x -> start(centre + scale (linear (x - centre) / scale + shift))
        linear = scipy.linalg.expm(np.tensordot(exact(self.linear), self.generators, 1))
        matrix = start @ linear
        offset = position(self.target) + start @ (exact(self.scale) * shift) - matrix @ centre
        return Affine(matrix, offset, pair.fixed.grid if pair.is_images else None)

    # One pair of images

    def _level(self, pair: Pair, level: int) -> tuple[dict, Grid]:
        """The pair on one level but for `to_index`, which depends on the start, and the grid."""
        voxels = self.voxels / 2 ** (self.dims * (self.levels - 1 - level))
        grids = {side: _at_most(getattr(pair, side).grid, voxels) for side in ("fixed", "moving")}
        frame = grids["fixed"].matrix[:-1]
        frame[:, -1] -= exact(self.centre)
        batch = {"to_frame": (frame / exact(self.scale)).astype(np.float32)[None]}
        for side, grid in grids.items():
            image, mask = getattr(pair, side), getattr(pair, f"{side}_mask")
            if mask is None:
                batch[side] = image.resample(grid, antialias=True).array[None]
                continue
            mask = Image(mask.astype(np.float32), image.grid)
            counting = Image(image.array * mask.array, image.grid)
            values, counts = (
                each.resample(grid, antialias=True).array[None] for each in (counting, mask)
            )
            batch[side], batch[f"{side}_mask"] = values / np.maximum(counts, 1e-3), counts
        return batch, grids["moving"]

    def _to_index(self, grid: Grid) -> np.ndarray:
        """`[dims, dims + 1]`: from normalised fixed coordinates through the start to an index."""
        corners = np.concatenate([np.zeros((1, self.dims)), np.eye(self.dims)])
        world = corners * exact(self.scale) @ exact(self.start_matrix).T
        index = grid.to_index(world + position(self.target))
        return np.concatenate([(index[1:] - index[0]).T, index[:1].T], axis=1).astype(np.float32)

    def _choose_start(self, pair: Pair, batch: dict, grid: Grid, steps: int):
        """Sets the start: the best of short descents from those with the lowest loss."""
        fixed, moving = pair.fixed, pair.moving
        centres = {
            "identity": (fixed.grid.centre, fixed.grid.centre),
            "centres": (fixed.grid.centre, moving.grid.centre),
            "moments": (_centre_of_intensity(fixed), _centre_of_intensity(moving)),
        }
        turns = [np.eye(self.dims)]
        if self.start == "auto":
            turns += [
                scipy.linalg.expm(np.deg2rad(angle) * axis)
                for axis, angle in itertools.product(_generators(self.dims, "rigid"), TURNS)
                if angle
            ]
        else:
            centres = {self.start: centres[self.start]}
        starts = [[(turn, to - turn @ at) for at, to in centres.values()] for turn in turns]
        if self.start != "auto":
            return self._set_start(*starts[0][0])
        arrays = {name: np.repeat(value, len(centres), axis=0) for name, value in batch.items()}
        values, shares = np.zeros((2, len(turns), len(centres)))
        for number, turned in enumerate(starts):
            maps = []
            for start in turned:
                self._set_start(*start)
                maps.append(self._to_index(grid))
            arrays["to_index"] = np.stack(maps)
            values[number], shares[number] = self._scores(arrays)
        # Little overlap must not win by having nothing to compare, here or after a descent.
        enough = 0.2 * shares.max()
        values = np.where(shares >= enough, values, np.inf)
        tried = []
        for turn in np.argsort(values.min(axis=1), kind="stable")[:TRIALS]:
            start = starts[turn][values[turn].argmin()]
            self._set_start(*start)
            self._reset()
            batch["to_index"] = self._to_index(grid)[None]
            descend(self, RepeatedBatch(batch, steps), 2)
            (value,), (share,) = self._scores(batch)
            tried.append((value if share >= enough else np.inf, start))
        self._reset()
        self._set_start(*min(tried, key=lambda result: result[0])[1])

    def _scores(self, arrays: dict):
        return map(ops.convert_to_numpy, self._dissimilarity(arrays, self(arrays)))

    def _set_frame(self, centre: np.ndarray, scale: float):
        self.centre.assign(centre)
        self.scale.assign(scale)

    def _set_start(self, matrix: np.ndarray, offset: np.ndarray):
        """The start `x -> matrix x + offset`; the frame must be set before."""
        self.start_matrix.assign(matrix)
        set_position(self.target, matrix @ exact(self.centre) + offset)

    def _reset(self):
        self.linear.assign(np.zeros(self.linear.shape))
        self.shift.assign(np.zeros(self.dims))

    # One pair of clouds

    def _fit_clouds(self, pair: Pair, history: keras.callbacks.History):
        fixed, _ = pair.counting("fixed")
        moving, weights = pair.counting("moving")
        turns = self.start in ("auto", "moments")
        (matrix, offset), errors = align_clouds(
            fixed, moving, weights, self.kind, self.trim, turns=turns
        )
        # Points are pushed from moving to fixed; the model keeps the pull.
        pull = np.linalg.inv(matrix)
        self._reset()
        self._set_frame(fixed.mean(axis=0), 1.0)
        self._set_start(pull, -pull @ offset)
        history.history = {"loss": errors, "similarity": errors}
        history.epoch = list(range(len(errors)))

    # What the zoo asks of a method

    def signature(self):
        inputs, outputs = super().signature()
        return inputs, outputs | {"overlap": inputs["fixed"] | {"unit": "1"}}

    @classmethod
    def example(cls):
        grid = Grid((20, 24))
        x = grid.coordinates()
        blob = np.exp(-(((x - [9, 12]) / [4, 6]) ** 2).sum(-1)) + 0.1 * np.sin(x[..., 0] / 2)
        fixed = Image(blob[..., None].astype(np.float32), grid)
        turn = Affine([[0.98, -0.15], [0.15, 0.98]], [2.0, -1.0], grid)
        moving = turn.warp(fixed)
        shapes = ((20, 24), (17, 9), (5, 33))
        inputs = [
            {name: np.ones((1, *shape, 1), np.float32) for name in ("fixed", "moving")}
            for shape in shapes
        ]
        inputs.insert(0, {"fixed": fixed.array[None], "moving": moving.array[None]})
        return {
            "config": {"dims": 2, "levels": 1, "voxels": 500},
            "data": Pair(fixed, moving),
            "fit": {"steps_per_epoch": 3},
            "inputs": inputs,
        }


def _generators(dims: int, kind: str) -> np.ndarray:
    """Matrices `[count, dims, dims]` whose combinations, exponentiated, are the linear parts."""
    turns = []
    for first, second in itertools.combinations(range(dims), 2):
        turn = np.zeros((dims, dims))
        turn[first, second], turn[second, first] = -1.0, 1.0
        turns.append(turn)
    if kind == "rigid":
        return np.stack(turns)
    if kind == "similarity":
        return np.stack([*turns, np.eye(dims)])
    return np.eye(dims * dims).reshape(-1, dims, dims)


def _exponential(weights, generators: np.ndarray):
    """`exp(sum weights_i generators_i)` by scaling and squaring."""
    size = generators.shape[-1]
    flat = ops.matmul(weights[None], generators.reshape(len(generators), -1).astype(np.float32))
    small = ops.reshape(flat, (size, size)) / 64.0
    identity = np.eye(size, dtype=np.float32)
    result = identity + ops.matmul(small, identity + ops.matmul(small, identity / 2 + small / 6))
    for _ in range(6):
        result = ops.matmul(result, result)
    return result


def _at_most(grid: Grid, voxels: float) -> Grid:
    """The grid, coarser if it has more voxels; coarse axes stay, fine ones give way first."""
    voxels = max(voxels, 4**grid.rank)
    spacing = grid.spacing.copy()
    while np.prod(np.maximum(grid.extent / spacing, 1)) > voxels:
        spacing = np.maximum(spacing, spacing.min() * 1.05)
    if np.array_equal(spacing, grid.spacing):
        return grid
    return grid.resampled(spacing=spacing)


def _centre_of_intensity(image: Image) -> np.ndarray:
    values = image.grey().array[..., 0].astype(np.float64)
    weights = values - values.min()
    return (image.grid.coordinates() * weights[..., None]).reshape(-1, image.rank).sum(0) / max(
        weights.sum(), 1e-12
    )
