"""Affine: the linear alignment from which every deformable registration can start.

Images are aligned by Adam on a similarity (correlation, local correlation or mutual information)
over a pyramid, after the best of several starts; clouds by their moments and then by iterated
closest points (Besl and McKay, PAMI 1992; trimmed after Chetverikov et al., ICPR 2002).

The linear part is the exponential of a combination of generators, `L = exp(sum p_i G_i)`: rotations
alone make it rigid, the identity adds a scale, all matrices make it affine. It acts about the
centre of the fixed image in units of its half size, so that one step length suits every parameter.
"""

from __future__ import annotations

import itertools

import keras
import numpy as np
from keras import ops
from scipy.spatial import cKDTree

from zoo import losses
from zoo.data.image import Image
from zoo.data.pair import Pair
from zoo.geometry import Grid
from zoo.ops.sampling import identity_coordinates, sample
from zoo.registration import Registration
from zoo.transform import Affine

KINDS = ("rigid", "similarity", "affine")
LOSSES = {
    "ncc": losses.NCC,
    "lncc": losses.LNCC,
    "mi": losses.MutualInformation,
    "mse": losses.MeanSquaredError,
}
STARTS = ("auto", "identity", "centres", "moments")


class AffineRegistration(Registration):
    """Rigid, similarity or affine registration of one pair of images or clouds.

    `fit(pair)` aligns, `transform(pair)` returns a `zoo.transform.Affine` in world units.

    Args:
        dims: 2 or 3.
        kind: "rigid", "similarity" or "affine".
        loss: for images: "ncc", "lncc", "mi" (of different modalities) or "mse".
        levels: of the image pyramid.
        voxels: at most so many on the finest level; each coarser one has 2^dims times fewer.
        start: "identity", "centres" (of the grids), "moments" (centres of intensity), or "auto":
            whichever has the lowest loss on the coarsest level.
        trim: for clouds: share of the closest points that count, which tolerates outliers.

    Raises:
        ValueError: for arguments out of range.
    """

    default_loss_weights = {"similarity": 1.0}

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
        # Coordinates need float32 under any precision policy.
        super().__init__(autocast=False, **{**kwargs, "dtype": "float32"})
        for argument, value, known in (
            ("dims", dims, (2, 3)),
            ("kind", kind, KINDS),
            ("loss", loss, tuple(LOSSES)),
            ("start", start, STARTS),
        ):
            if value not in known:
                raise ValueError(f"{argument} must be one of {known}, not {value!r}.")
        if levels < 1 or voxels < 100 or not 0 < trim <= 1:
            raise ValueError(
                "levels must be at least 1, voxels at least 100 and trim in (0, 1], not "
                f"{levels}, {voxels} and {trim}."
            )
        self.dims, self.kind, self.similarity = dims, kind, loss
        self.levels, self.voxels, self.start, self.trim = levels, voxels, start, trim
        self.generators = _generators(dims, kind)
        count = len(self.generators)
        self.linear = self._weight((count,), "linear", trainable=True)
        self.shift = self._weight((dims,), "shift", trainable=True)
        # The start and the frame of the fixed image, in world units.
        self.start_matrix = self._weight((dims, dims), "start_matrix", initializer="identity")
        self.start_offset = self._weight((dims,), "start_offset")
        self.centre = self._weight((dims,), "centre")
        self.scale = self._weight((), "scale", initializer="ones")
        self.built = True

    def _weight(self, shape, name, initializer="zeros", trainable=False):
        return self.add_weight(
            shape=shape, initializer=initializer, dtype="float32", trainable=trainable, name=name
        )

    def get_config(self):
        names = ("dims", "kind", "levels", "voxels", "start", "trim")
        own = {name: getattr(self, name) for name in names} | {"loss": self.similarity}
        return super().get_config() | own

    def build(self, input_shape=None):
        """Nothing to do: there is one set of parameters, whatever the image."""

    # The map and its training

    def call(self, inputs):
        """Warps moving images, or moves clouds, by the present parameters.

        Args:
            inputs: a dict of `fixed` and `moving` images `[b, *spatial, channels]`, of which the
                first only gives the grid; in world units of voxels, or with the `coordinates` and
                `to_index` that `fit` adds. Or of `moving` points `[b, n, dims]`.

        Returns:
            A dict of `moved` `[b, *spatial, channels]`, `displacement` `[b, *spatial, dims]` in
            voxels, and `overlap` `[b, *spatial, 1]`, one where the moving image reaches. For
            points a dict of `moved` `[b, n, dims]`.
        """
        moving = ops.cast(inputs["moving"], "float32")
        if len(moving.shape) == 3:
            matrix, offset = self._world_map()
            return {"moved": ops.matmul(moving - offset, ops.transpose(ops.inv(matrix)))}
        matrix = _exponential(self.linear, self.generators)
        if "coordinates" in inputs:
            points, to_index = inputs["coordinates"], inputs["to_index"]
        else:
            points, to_index = self._voxel_frame(inputs["fixed"])
        moved_points = ops.matmul(points, ops.transpose(matrix)) + self.shift
        flat = ops.reshape(moved_points, (ops.shape(points)[0], -1, self.dims))
        indices = ops.matmul(flat, ops.transpose(to_index[:, :, :-1], (0, 2, 1)))
        indices = ops.reshape(indices, ops.shape(points)) + ops.reshape(
            to_index[:, :, -1], (-1, *[1] * self.dims, self.dims)
        )
        last = ops.stack([ops.cast(n, "float32") for n in ops.shape(moving)[1:-1]]) - 1.0
        inside = ops.logical_and(indices >= -0.5, indices <= last + 0.5)
        start = identity_coordinates(ops.shape(points)[1:-1])
        return {
            "moved": sample(moving, indices),
            "displacement": indices - start,
            "overlap": ops.cast(ops.all(inside, axis=-1, keepdims=True), "float32"),
        }

    def _voxel_frame(self, fixed):
        """Normalised coordinates of the voxels of raw arrays, and the map back to indices."""
        shape = ops.shape(fixed)[1:-1]
        middle = (ops.stack([ops.cast(size, "float32") for size in shape]) - 1.0) / 2.0
        half = ops.maximum(ops.max(middle), 0.5)
        points = (identity_coordinates(shape) - middle) / half
        points = ops.repeat(points[None], ops.shape(fixed)[0], axis=0)
        to_index = ops.concatenate([half * ops.eye(self.dims), middle[:, None]], axis=1)
        return points, to_index[None]

    def loss_terms(self, x, y, y_pred):
        """The similarity where fixed mask and moving image overlap."""
        weight = y_pred["overlap"]
        if "fixed_mask" in x:
            weight = weight * ops.cast(x["fixed_mask"], "float32")
        compare = LOSSES[self.similarity]()
        return {"similarity": compare(x["fixed"], y_pred["moved"], sample_weight=weight)}

    def default_optimizer(self):
        return keras.optimizers.Adam(0.02)

    def fit(self, x=None, y=None, *, epochs=10, steps_per_epoch=15, callbacks=None, **kwargs):
        """Aligns a pair; other data trains as in Keras.

        Args:
            x: a `zoo.Pair`.
            epochs: on each level of the pyramid; the learning rate decays over them.
            steps_per_epoch: steps of an epoch; a level has one batch, the pair.
            callbacks, **kwargs: of `keras.Model.fit`.

        Returns:
            The Keras `History`, the losses of the levels one after the other.

        Raises:
            ValueError: for a pair of another rank than `dims`.
        """
        if not isinstance(x, Pair):
            if x is not None and not self.compiled:
                self.compile()
            return super().fit(x, y, epochs=epochs, callbacks=callbacks, **kwargs)
        if x.rank != self.dims:
            raise ValueError(f"x: the pair has {x.rank} dimensions, this model dims={self.dims}.")
        if not self.compiled:
            self.compile()
        self.linear.assign(np.zeros(self.linear.shape))
        self.shift.assign(np.zeros(self.dims))
        if not x.is_images:
            return self._fit_clouds(x)
        pair = _prepared(x)
        self.centre.assign(pair.fixed.grid.centre)
        self.scale.assign(pair.fixed.grid.extent.max() / 2)
        batches = [self._batch(pair, level) for level in range(self.levels)]
        self._choose_start(pair, batches[0])
        history = {}
        rate = float(ops.convert_to_numpy(self.optimizer.learning_rate))
        try:
            for level, batch in enumerate(batches):
                batch["to_index"] = self._to_index(pair, batch["moving_grid"])[None]
                decay = _Decay(rate * 0.5**level, epochs * steps_per_epoch)
                arrays = {name: value for name, value in batch.items() if name != "moving_grid"}
                done = super().fit(
                    _Repeated(arrays, steps_per_epoch),
                    epochs=epochs,
                    callbacks=[*(callbacks or []), decay],
                    **kwargs,
                )
                for name, values in done.history.items():
                    history.setdefault(name, []).extend(values)
        finally:
            self.optimizer.learning_rate = rate
        done.history = history
        return done

    def transform(self, pair: Pair) -> Affine:
        """The alignment in world units; its `fixed_grid` is the pair's."""
        matrix, offset = (ops.convert_to_numpy(each) for each in self._world_map())
        return Affine(matrix, offset, pair.fixed.grid if pair.is_images else None)

    def _world_map(self):
        """Matrix and offset of `pull` in world units."""
        linear = _exponential(self.linear, self.generators)
        # x -> start(centre + scale (linear (x - centre) / scale + shift))
        inner = self.centre + self.scale * self.shift - ops.matmul(linear, self.centre)
        matrix = ops.matmul(self.start_matrix, linear)
        return matrix, ops.matmul(self.start_matrix, inner) + self.start_offset

    # One pair of images

    def _batch(self, pair: Pair, level: int) -> dict:
        """The pair on one level: fixed and moving image, and where the fixed voxels lie."""
        voxels = self.voxels / 2 ** (self.dims * (self.levels - 1 - level))
        fixed_grid = _at_most(pair.fixed.grid, voxels)
        moving_grid = _at_most(pair.moving.grid, voxels)
        world = fixed_grid.coordinates() - _array(self.centre)
        batch = {
            "fixed": pair.fixed.resample(fixed_grid, antialias=True).array[None],
            "moving": pair.moving.resample(moving_grid, antialias=True).array[None],
            "coordinates": (world / _array(self.scale)).astype(np.float32)[None],
            "moving_grid": moving_grid,
        }
        if pair.fixed_mask is not None:
            mask = Image(pair.fixed_mask[..., None].astype(np.float32), pair.fixed.grid)
            batch["fixed_mask"] = mask.resample(fixed_grid, antialias=True).array[None]
        return batch

    def _to_index(self, pair: Pair, grid: Grid) -> np.ndarray:
        """`[dims, dims + 1]`: from normalised fixed coordinates through the start to an index."""
        corners = np.concatenate([np.zeros((1, self.dims)), np.eye(self.dims)])
        world = corners * _array(self.scale) + _array(self.centre)
        world = world @ _array(self.start_matrix).T + _array(self.start_offset)
        index = grid.to_index(world)
        return np.concatenate([(index[1:] - index[0]).T, index[:1].T], axis=1).astype(np.float32)

    def _choose_start(self, pair: Pair, batch: dict):
        """Sets the translation with the lowest loss on the coarsest level."""
        fixed, moving = pair.fixed, pair.moving
        shifts = {
            "identity": np.zeros(self.dims),
            "centres": moving.grid.centre - fixed.grid.centre,
            "moments": _centre_of_intensity(moving) - _centre_of_intensity(fixed),
        }
        if self.start != "auto":
            shifts = {self.start: shifts[self.start]}
        values = {}
        arrays = {name: value for name, value in batch.items() if name != "moving_grid"}
        for name, shift in shifts.items():
            self.start_offset.assign(shift)
            arrays["to_index"] = self._to_index(pair, batch["moving_grid"])[None]
            outputs = self(arrays)
            # A start without overlap must not win by having nothing to compare.
            share = float(ops.convert_to_numpy(ops.mean(outputs["overlap"])))
            loss = float(
                ops.convert_to_numpy(self.loss_terms(arrays, None, outputs)["similarity"])
            )
            values[name] = loss if share > 0.25 else np.inf
        best = min(values, key=values.get)
        self.start_offset.assign(shifts[best])

    # One pair of clouds

    def _fit_clouds(self, pair: Pair) -> keras.callbacks.History:
        """Moments and every turn of the principal axes, then iterated closest points."""
        fixed, moving = pair.fixed.points, pair.moving.points
        tree = cKDTree(fixed)
        sample_size = min(len(moving), 2000)
        some = moving[np.random.default_rng(0).permutation(len(moving))[:sample_size]]
        starts = [(np.eye(self.dims), fixed.mean(axis=0) - moving.mean(axis=0))]
        if self.start in ("auto", "moments"):
            starts += _principal_starts(fixed, moving)
        kind = "rigid" if self.kind == "rigid" else "similarity"
        tried = [self._closest_points(tree, fixed, some, start, kind, 15) for start in starts]
        start, _ = min(tried, key=lambda result: result[1][-1])
        if self.kind == "affine":
            start, _ = self._closest_points(tree, fixed, moving, start, "similarity", 10)
        (matrix, offset), errors = self._closest_points(tree, fixed, moving, start, self.kind, 60)
        # Points are pushed from moving to fixed; the model keeps the pull.
        pull = np.linalg.inv(matrix)
        self.start_matrix.assign(pull)
        self.start_offset.assign(-pull @ offset)
        self.centre.assign(np.zeros(self.dims))
        self.scale.assign(1.0)
        history = keras.callbacks.History()
        history.set_model(self)
        history.history = {"loss": errors, "similarity": errors}
        return history

    def _closest_points(self, tree, fixed, moving, start, kind, iterations):
        matrix, offset = start
        errors = []
        for _ in range(iterations):
            moved = moving @ matrix.T + offset
            distances, nearest = tree.query(moved, workers=-1)
            kept = np.argsort(distances)[: max(int(self.trim * len(moving)), self.dims + 1)]
            errors.append(float(distances[kept].mean()))
            if len(errors) > 1 and errors[-2] - errors[-1] < 1e-7 * errors[0]:
                break
            matrix, offset = _fit_points(moving[kept], fixed[nearest[kept]], kind)
        return (matrix, offset), errors

    # What the zoo asks of a method

    def signature(self):
        image = {"shape": [None, *[None] * self.dims, 1], "dtype": "float32", "unit": "any"}
        field = {"shape": [None, *[None] * self.dims, self.dims], "dtype": "float32"}
        outputs = {
            "moved": image,
            "displacement": field | {"unit": "voxels"},
            "overlap": image | {"unit": "1"},
        }
        return {"fixed": image, "moving": image}, outputs

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

    def golden_inputs(self):
        fixed = np.random.default_rng(0).uniform(size=(1, *[8] * self.dims, 1))
        return {"fixed": fixed.astype(np.float32), "moving": fixed[:, ::-1].astype(np.float32)}


class _Repeated(keras.utils.PyDataset):
    """The same batch, a given number of times."""

    def __init__(self, batch: dict, count: int):
        super().__init__()
        self.batch, self.count = batch, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return (self.batch,)


class _Decay(keras.callbacks.Callback):
    """Lets the learning rate fall along a quarter of a cosine over the steps of a level."""

    def __init__(self, rate: float, steps: int):
        super().__init__()
        self.rate, self.steps, self.done = rate, steps, 0

    def on_train_batch_begin(self, batch, logs=None):
        progress = min(self.done / self.steps, 1.0)
        self.model.optimizer.learning_rate = self.rate * np.cos(0.49 * np.pi * progress)
        self.done += 1


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


def _array(variable) -> np.ndarray:
    return ops.convert_to_numpy(variable).astype(np.float64)


def _prepared(pair: Pair) -> Pair:
    return Pair(
        pair.fixed.normalised(),
        pair.moving.normalised(),
        fixed_mask=pair.fixed_mask,
        moving_mask=pair.moving_mask,
    )


def _at_most(grid: Grid, voxels: float) -> Grid:
    """The grid, coarser if it has more voxels; coarse axes stay, fine ones give way first."""
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


def _principal_starts(fixed: np.ndarray, moving: np.ndarray) -> list:
    """Rotations that align the principal axes, in every orientation that is no reflection."""
    centres = fixed.mean(axis=0), moving.mean(axis=0)
    axes = [
        np.linalg.svd(points - centre, full_matrices=False)[2].T
        for points, centre in zip((fixed, moving), centres, strict=True)
    ]
    starts = []
    for signs in itertools.product((1, -1), repeat=fixed.shape[1]):
        turn = axes[0] @ np.diag(signs) @ axes[1].T
        if np.linalg.det(turn) > 0:
            starts.append((turn, centres[0] - turn @ centres[1]))
    return starts


def _fit_points(source: np.ndarray, target: np.ndarray, kind: str):
    """Least-squares map of corresponding points (Umeyama, PAMI 1991, but for affine)."""
    centres = source.mean(axis=0), target.mean(axis=0)
    from_centre, to_centre = source - centres[0], target - centres[1]
    if kind == "affine":
        matrix = np.linalg.lstsq(from_centre, to_centre, rcond=None)[0].T
    else:
        u, values, vt = np.linalg.svd(to_centre.T @ from_centre)
        signs = np.ones(len(values))
        signs[-1] = np.sign(np.linalg.det(u @ vt))
        matrix = u @ np.diag(signs) @ vt
        if kind == "similarity":
            matrix = matrix * (values * signs).sum() / (from_centre**2).sum()
    return matrix, centres[1] - matrix @ centres[0]
