"""DiVRoC: deformable registration of large clouds by optimisation alone.

The moving cloud is placed by a linear start and pushed forward by smooth displacements that live on
lattices over a box around both clouds, one for each stage, one after the other:

    x -> A x + b,   x -> x + u_1(x),   x -> x + u_2(x + u_1(x)),  ...

A stage finds its displacement by Adam. What draws the points is the difference of density images of
the two clouds (the differentiable rasterisation of the paper), their distances to the nearest point
of the other cloud in both directions, found by trees on the host, or a distance transform.

After Heinrich et al., "Chasing clouds: differentiable volumetric rasterisation of point clouds as a
highly efficient and accurate loss for large-scale deformable 3D registration", ICCV 2023; the
schedules, the lattice that is decoupled from the raster and the robust weights are the zoo's own.
The method may be covered by the patent EP4535285A3: commercial users must clear it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from zoo.data.pair import Pair
from zoo.data.pairs import RepeatedBatch
from zoo.data.scan import Scan
from zoo.geometry import Grid
from zoo.ops.closest_points import align_clouds
from zoo.ops.splatting import normalised_splat, to_voxels
from zoo.registration import Registration
from zoo.registration.stages import (
    FEW,
    SCHEDULES,
    SQUARINGS,
    Clouds,
    Descent,
    Search,
    Stage,
    as_stages,
    displaced,
    displacement,
    plain_stage,
)
from zoo.transform import Affine, Composed, Dense, Inverse, Transform, Velocity

STARTS = ("moments", "affine", "none", "flow")
SQUASHES = ("tanh", "scaled", "none")
EPOCH = 10  # steps
INNER = 0.998  # share of the points, along each axis, that the box is drawn around
MARGIN = 1.15  # of the box beyond them
FAR = 1.5  # half sides of the box from its centre, beyond which points are reported
FLOW_LATTICE = 48


class DiVRoC(Registration):
    """Deformable registration of one pair of clouds, of any size, by optimisation.

    `fit(pair)` registers, `transform(pair)` carries any points along: `move` pushes points of the
    moving space forward to the fixed one, as the model itself does, and `pull` inverts that.

    The method may be covered by the patent EP4535285A3: commercial users must clear it.

    Args:
        dims: 2 or 3.
        data: "chamfer" (distances to the nearest points of the other cloud, in both directions),
            "density" (difference of density images), "hybrid" (first these, then those), or
            "distance" (a distance transform of the fixed cloud; one-sided). Names the schedule.
        stages: `Stage`s, or dicts of their attributes, instead of the schedule.
        start: "moments" (means and standard deviations along each axis), "affine" (iterated closest
            points), "none", or "flow": the displacements of the moving points, such as a network
            predicts them, that `fit` then wants.
        velocity: the displacement of a stage is the flow of a stationary velocity for unit time,
            which is invertible by construction.
        power: for densities: 1 for the mean absolute difference, 2 for the mean square.
        squash: of the densities, "tanh", "scaled" or "none"; see `zoo.ops.splatting.density`.
        points: at most so many of each cloud are used, drawn at random; None for all.
        held_out: share of the points of either cloud that are not fitted but watched; small clouds,
            of which that would be fewer than 200 points, are fitted as a whole.
        patience: epochs that the held-out points may drift apart before a stage ends; it then
            returns to where they were closest. None never ends one early.
        seed: of the choice of points.

    Raises:
        ValueError: for arguments out of range.
    """

    default_loss_weights = {"data": 1.0, "smoothness": 1.0}

    def __init__(
        self,
        dims: int = 3,
        data: str = "chamfer",
        stages: Sequence[Stage | Mapping] | None = None,
        start: str = "moments",
        velocity: bool = False,
        power: int = 2,
        squash: str = "tanh",
        points: int | None = None,
        held_out: float = 0.05,
        patience: int | None = 3,
        seed: int = 0,
        **kwargs,
    ):
        # Coordinates need float32 under any precision policy.
        super().__init__(autocast=False, **{**kwargs, "dtype": "float32"})
        for argument, value, known in (
            ("dims", dims, (2, 3)),
            ("data", data, tuple(SCHEDULES)),
            ("start", start, STARTS),
            ("power", power, (1, 2)),
            ("squash", squash, SQUASHES),
        ):
            if value not in known:
                raise ValueError(f"{argument} must be one of {known}, not {value!r}.")
        if points is not None and points < 8:
            raise ValueError(f"points must be at least 8 or None, not {points}.")
        if not 0 <= held_out <= 0.5:
            raise ValueError(f"held_out must lie between 0 and 0.5, not {held_out}.")
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be at least 1 or None, not {patience}.")
        self.dims, self.data, self.start, self.velocity = dims, data, start, bool(velocity)
        self.power, self.squash, self.points = power, squash, points
        self.held_out, self.patience, self.seed = held_out, patience, seed
        self.own_stages = None if stages is None else as_stages(stages)
        self.schedule = SCHEDULES[data] if stages is None else self.own_stages
        # The start is x -> matrix (x - source), in units of half the box and from its centre.
        # Positions are kept as value and remainder, because float32 is coarse far from the origin.
        self.matrix = self._weight((dims, dims), "matrix", initializer="identity")
        self.source = self._weight((2, dims), "source")
        self.centre = self._weight((2, dims), "centre")
        self.half = self._weight((), "half", initializer="ones")
        if start == "flow":
            self.flow = self._weight((1, *[FLOW_LATTICE] * dims, dims), "flow")
        self.controls = [
            self._weight((1, *[stage.lattice] * dims, dims), f"control_{number}", trainable=True)
            for number, stage in enumerate(self.schedule)
        ]
        self._warned = False
        self.built = True

    def _weight(self, shape, name, initializer="zeros", trainable=False):
        return self.add_weight(
            shape=shape, initializer=initializer, dtype="float32", trainable=trainable, name=name
        )

    def get_config(self):
        names = ("dims", "data", "start", "velocity", "power", "squash", "points", "held_out")
        own = {name: getattr(self, name) for name in (*names, "patience", "seed")}
        stages = self.own_stages
        own["stages"] = None if stages is None else [plain_stage(stage) for stage in stages]
        return super().get_config() | own

    def build(self, input_shape=None):
        """Nothing to do: the lattices do not depend on the clouds."""

    # The map

    def call(self, inputs):
        """Moves clouds by what was fitted.

        Args:
            inputs: points `[b, n, dims]` in world units, or a dict that holds them as `moving`.

        Returns:
            A dict of `moved` `[b, n, dims]` in world units.
        """
        points = ops.cast(inputs["moving"] if isinstance(inputs, dict) else inputs, "float32")
        # One lattice serves the whole batch.
        flat = ops.reshape(points, (1, -1, self.dims))
        placed = self._placed(flat)
        for field in self._fields():
            placed = placed + displaced(field, placed)
        moved = self.half * placed + self.centre[1] + self.centre[0]
        return {"moved": ops.reshape(moved, ops.shape(points))}

    def _placed(self, points):
        """Points after the linear start, in units of half the box and from its centre."""
        relative = points - self.source[0] - self.source[1]
        return ops.matmul(relative, ops.transpose(self.matrix))

    def _fields(self) -> list:
        """The displacements one after the other, `[1, *lattice, dims]`."""
        given = [self.flow[...]] if self.start == "flow" else []
        return given + [
            displacement(control[...], stage, self.velocity)
            for control, stage in zip(self.controls, self.schedule, strict=True)
        ]

    def predict(self, x, **kwargs):
        """Moves the points of a `zoo.Pair`, or of arrays `[b, n, dims]`, see `call`.

        Raises:
            ValueError: for an array of another shape.
        """
        shape = getattr(x, "shape", None)
        if shape is not None and (len(shape) != 3 or shape[-1] != self.dims):
            raise ValueError(
                f"x must be a zoo.Pair or points [b, n, {self.dims}], not of the shape "
                f"{tuple(shape)}; transform(pair).move takes points [n, {self.dims}]."
            )
        return super().predict(x, **kwargs)

    # Fitting

    def default_optimizer(self):
        return keras.optimizers.Adam(0.02)

    def fit(self, x=None, y=None, *, flow=None, epochs=None, callbacks=None, **kwargs):
        """Registers a pair of clouds, anew.

        Every stage starts the optimiser afresh; its learning rate, that of the compiled optimiser
        times the stage's, decays to a twentieth along a cosine. A `LearningRateSchedule` stays as
        it is and begins anew with each stage.

        Points outside of their mask do not count, those of the moving cloud count by the pair's
        `weights`.

        Args:
            x: a `zoo.Pair` of clouds.
            flow: with `start="flow"`: displacement of every moving point, `[n, dims]`, in world
                units. It is made a smooth field, after its best linear part.
            epochs: of every stage, of ten steps each; None makes the steps of the stage.
            callbacks: of Keras. Epochs are counted on over the stages, and a callback that stops
                the training stops all of it.
            **kwargs: `verbose` of Keras.

        Returns:
            The Keras `History`, the stages one after the other: `loss`, its terms `data` and
            `smoothness`, and `held_out`, the mean distance of the closest four fifths of the
            held-out points to the other cloud, in world units.

        Raises:
            TypeError: for anything but a pair, or arguments that there are not.
            ValueError: for a pair of images or of another rank, too few points, points on a line,
                or a flow that does not fit.
        """
        self._check_pair(x, "x")
        if y is not None:
            raise TypeError("y must be None: a pair is registered without known displacements.")
        unknown = sorted(set(kwargs) - {"verbose"})
        if unknown:
            raise TypeError(f"fit of a pair does not take {unknown}; it takes verbose.")
        if epochs is not None and epochs < 1:
            raise ValueError(f"epochs must be at least 1 or None, not {epochs}.")
        if not self.compiled:
            self.compile()
        if not self.optimizer.built:  # Every stage has its own; this one is stored.
            self.optimizer.build(self.trainable_variables)
        fixed, _ = x.counting("fixed")
        moving, weights = x.counting("moving")
        self._begin(x, fixed, moving, weights, flow)
        clouds = Clouds(
            self._normalised(fixed), self._start_points(moving), weights, self.points, self.seed
        )
        given = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else callbacks or []
        history = keras.callbacks.History()
        listening = keras.callbacks.CallbackList([*given, history], model=self)
        self.stop_training = False
        listening.on_train_begin()
        first = 0
        for number, stage in enumerate(self.schedule):
            count = epochs or math.ceil(stage.steps / EPOCH)
            steps = count * EPOCH if epochs else stage.steps
            per_epoch = math.ceil(steps / count)
            descent = Descent(
                self.controls[number],
                stage,
                clouds,
                self.loss_weights,
                velocity=self.velocity,
                held_out=self.held_out,
                power=self.power,
                squash=None if self.squash == "none" else self.squash,
                seed=(self.seed, number),
            )
            descent.compile(self._optimizer(stage, count * per_epoch), jit_compile=False)
            descent.fit(
                RepeatedBatch({"moving": descent.moving}, per_epoch),
                epochs=first + count,
                initial_epoch=first,
                callbacks=[Search(self.patience), _PartOfTraining(self, listening)],
                shuffle=False,
                **kwargs,
            )
            first += count
            clouds.moving = descent.moved(clouds.moving)
            if self.stop_training:
                break
        listening.on_train_end()
        return history

    def _optimizer(self, stage: Stage, steps: int) -> keras.optimizers.Optimizer:
        fresh = type(self.optimizer).from_config(self.optimizer.get_config())
        try:
            rate = float(ops.convert_to_numpy(fresh.learning_rate)) * stage.rate
            fresh.learning_rate = rate
        except (TypeError, AttributeError):  # A schedule cannot be set, and is its own decay.
            return fresh
        config = fresh.get_config()
        config["learning_rate"] = keras.optimizers.schedules.CosineDecay(rate, steps, 0.05)
        return type(fresh).from_config(config)

    def _begin(self, pair, fixed, moving, weights, flow):
        """Sets the start and the box, and forgets what was fitted before."""
        for name, points in (("fixed", fixed), ("moving", moving)):
            _check_spread(name, points)
        if (flow is None) == (self.start == "flow"):
            raise ValueError(
                "flow must be given with start='flow', and only then; start is "
                f"{self.start!r} and flow {'missing' if flow is None else 'given'}."
            )
        residual = None
        if self.start == "flow":
            flow = _counting_flow(flow, pair)
            matrix, offset = _linear_part(moving, moving + flow, weights)
            residual = moving + flow - (moving @ matrix.T + offset)
        elif self.start == "none":
            matrix, offset = np.eye(self.dims), np.zeros(self.dims)
        elif self.start == "moments":
            matrix, offset = _moments(fixed, moving, weights)
        else:
            draw = np.random.default_rng(self.seed)
            few = [draw.permutation(len(each))[:FEW] for each in (fixed, moving)]
            (matrix, offset), _ = align_clouds(
                fixed[few[0]], moving[few[1]], weights[few[1]], turns=False
            )
        placed = moving @ matrix.T + offset
        centre, half = _box(fixed, placed)
        for name, points in (("fixed", fixed), ("moving", placed)):
            beyond = int((np.abs(points - centre).max(axis=1) > FAR * half).sum())
            if beyond:
                warnings.warn(
                    f"{name}: {beyond} of {len(points)} points lie far outside of the lattice, "
                    f"whose half side is {half:.4g} about {centre.round(3)}; they move as its "
                    "border does. Mask what does not belong to the cloud.",
                    UserWarning,
                    stacklevel=3,
                )
        self.matrix.assign(matrix / half)
        self.source.assign(_two(np.linalg.solve(matrix, centre - offset)))
        self.centre.assign(_two(centre))
        self.half.assign(half)
        for control in self.controls:
            control.assign(np.zeros(control.shape))
        if residual is not None:
            normalised = ((placed - centre) / half)[None].astype(np.float32)
            shape = [FLOW_LATTICE] * self.dims
            values = (residual / half)[None].astype(np.float32)
            self.flow.assign(
                normalised_splat(
                    values, to_voxels(normalised, shape), shape, weights[None].astype(np.float32)
                )
            )

    def _normalised(self, points: np.ndarray) -> np.ndarray:
        centre = _array(self.centre).sum(axis=0)
        return ((points - centre) / _array(self.half)).astype(np.float32)

    def _start_points(self, points: np.ndarray) -> np.ndarray:
        """Points `[n, dims]` after the start, and after the flow that was given."""
        relative = points - _array(self.source).sum(axis=0)
        placed = (relative @ _array(self.matrix).T).astype(np.float32)
        if self.start == "flow":
            placed = placed + ops.convert_to_numpy(displaced(self.flow[...], placed[None]))[0]
        return placed

    # What was fitted

    def transform(self, pair: Pair) -> Transform:
        """What was fitted, as a map of world coordinates.

        `move` is what the model computes, exact but for rounding; `pull` inverts it by iteration,
        to 1e-5 of the lattice spacing wherever the map does not fold (see `inverse_error`); with
        `velocity=True` it integrates the velocities backwards instead, as exactly as the lattice
        resolves them. Beyond the lattice the displacement goes on as at its border.

        A model that was neither fitted nor loaded is the identity, and warns of that once.

        Raises:
            TypeError: for anything but a pair.
            ValueError: for a pair of images, or of another rank than `dims`.
        """
        self._check_pair(pair, "pair")
        matrix, half = _array(self.matrix), _array(self.half)
        source, centre = (_array(each).sum(axis=0) for each in (self.source, self.centre))
        if not self._warned and half == 1 and not any(_array(each).any() for each in self.controls):
            self._warned = True
            warnings.warn(
                f"{self.name!r} has not been fitted: its transform is the identity. Call "
                "fit(pair) first.",
                UserWarning,
                stacklevel=2,
            )
        # Moved: x -> half matrix (x - source) + centre; the parts are pulled.
        inverse = np.linalg.inv(half * matrix)
        parts: list[Transform] = [Affine(inverse, source - inverse @ centre)]
        if self.start == "flow":
            parts.append(_forward(Dense, _in_voxels(self.flow), _lattice(self.flow, centre, half)))
        for control, stage in zip(self.controls, self.schedule, strict=True):
            if not ops.any(control[...] != 0):
                continue
            grid = _lattice(control, centre, half)
            field = _in_voxels(displacement(control[...], stage, False))
            if self.velocity:
                parts.append(Velocity(-field, grid, SQUARINGS))
            else:
                parts.append(_forward(Dense, field, grid))
        return parts[0] if len(parts) == 1 else Composed(parts)

    def _check_pair(self, pair, argument: str):
        if not isinstance(pair, Pair):
            raise TypeError(f"{argument} must be a zoo.Pair of clouds, not {type(pair).__name__}.")
        if pair.is_images:
            raise ValueError(f"{argument} must be a pair of clouds, not of images.")
        if pair.rank != self.dims:
            raise ValueError(
                f"{argument}: the pair has {pair.rank} dimensions, this model dims={self.dims}."
            )

    # What the zoo asks of a method

    def signature(self):
        cloud = {"shape": [None, None, self.dims], "dtype": "float32", "unit": "world"}
        return {"moving": cloud}, {"moved": cloud}

    @classmethod
    def example(cls):
        rng = np.random.default_rng(0)
        angle = rng.uniform(0, 2 * np.pi, 400)
        radius = 1 + 0.3 * np.cos(3 * angle)
        moving = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        fixed = moving[:300] * (1.1, 0.9) + 0.1 * np.sin(2 * moving[:300, ::-1])
        inputs = [
            rng.normal(size=(count, n, 2)).astype(np.float32) for count, n in ((1, 9), (2, 5))
        ]
        stages = [
            {"lattice": 8, "pool": 3, "steps": 10, "reach": None},
            {"data": "chamfer", "lattice": 12, "pool": 3, "steps": 10},
        ]
        return {
            "config": {"dims": 2, "stages": stages, "held_out": 0.0},
            "data": Pair(Scan(fixed), Scan(moving)),
            "fit": {},
            "inputs": [moving[None].astype(np.float32), *inputs],
        }

    def golden_inputs(self):
        return np.random.default_rng(0).normal(size=(1, 16, self.dims)).astype(np.float32)


class _PartOfTraining(keras.callbacks.Callback):
    """Tells callbacks of the registration of one stage, but not that training begins or ends."""

    def __init__(self, owner: DiVRoC, listening: keras.callbacks.CallbackList):
        super().__init__()
        self.owner, self.listening = owner, listening
        for name in ("epoch_begin", "train_batch_begin", "train_batch_end"):
            setattr(self, f"on_{name}", getattr(listening, f"on_{name}"))

    def set_params(self, params):
        super().set_params(params)
        self.listening.set_params(params)

    def on_epoch_end(self, epoch, logs=None):
        if logs and "held_out" in logs:
            logs["held_out"] *= float(ops.convert_to_numpy(self.owner.half[...]))
        self.listening.on_epoch_end(epoch, logs)
        if self.owner.stop_training:
            self.model.stop_training = True


def _lattice(variable, centre: np.ndarray, half: float) -> Grid:
    shape = tuple(variable.shape[1:-1])
    spacing = 2 * half / np.array(shape)
    return Grid(shape, spacing, centre - half + spacing / 2)


def _in_voxels(field) -> np.ndarray:
    return ops.convert_to_numpy(field)[0] * (np.array(field.shape[1:-1], np.float32) / 2)


def _forward(kind, field: np.ndarray, grid: Grid) -> Transform:
    """The transform that moves, where a `Dense` pulls; it keeps the grid, to be stored on."""
    inverse = Inverse(kind(field, grid))
    inverse.fixed_grid = grid
    return inverse


def _counting_flow(flow, pair: Pair) -> np.ndarray:
    flow = np.asarray(flow, dtype=np.float64)
    if flow.shape != pair.moving.points.shape:
        raise ValueError(
            f"flow must have the shape {pair.moving.points.shape} of the moving points, not "
            f"{flow.shape}."
        )
    if not np.isfinite(flow).all():
        raise ValueError("flow must be finite; it holds NaN or infinite values.")
    return flow[pair.counting_mask("moving")]


def _check_spread(side: str, points: np.ndarray):
    least = 2 * (points.shape[1] + 1)
    if len(points) < least:
        raise ValueError(f"{side}: {len(points)} points count; at least {least} are needed.")
    lengths = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    if not lengths[1] > 1e-6 * lengths[0]:
        raise ValueError(f"{side}: the {len(points)} points that count lie on a line.")


def _moments(fixed, moving, weights) -> tuple[np.ndarray, np.ndarray]:
    """The scaling along each axis and the shift that make means and deviations equal."""
    mean = np.average(moving, axis=0, weights=weights)
    deviation = np.sqrt(np.average((moving - mean) ** 2, axis=0, weights=weights))
    wanted = fixed.std(axis=0)
    # An axis along which a cloud is flat says nothing about its scale.
    flat = np.minimum(deviation, wanted) <= 1e-6 * max(deviation.max(), wanted.max())
    scale = np.where(flat, 1.0, wanted / np.where(flat, 1.0, deviation))
    return np.diag(scale), fixed.mean(axis=0) - scale * mean


def _linear_part(points, moved, weights) -> tuple[np.ndarray, np.ndarray]:
    """The affine map of least squares; the identity and a shift where it is undetermined."""
    centres = [np.average(each, axis=0, weights=weights) for each in (points, moved)]
    root = np.sqrt(weights)[:, None]
    before, after = (root * (each - c) for each, c in zip((points, moved), centres, strict=True))
    matrix, _, rank, _ = np.linalg.lstsq(before, after, rcond=None)
    matrix = matrix.T
    if rank < points.shape[1] or not np.linalg.cond(matrix) < 1e3:
        matrix = np.eye(points.shape[1])
    return matrix, centres[1] - matrix @ centres[0]


def _box(*clouds: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre and half side of a cube around all but the outermost points of each cloud."""
    ends = (0.5 - INNER / 2, 0.5 + INNER / 2)
    limits = np.concatenate([np.quantile(each, ends, axis=0) for each in clouds])
    low, high = limits.min(axis=0), limits.max(axis=0)
    return (low + high) / 2, MARGIN * float((high - low).max()) / 2


def _two(position: np.ndarray) -> np.ndarray:
    value = position.astype(np.float32)
    return np.stack([value, (position - value).astype(np.float32)])


def _array(variable) -> np.ndarray:
    return ops.convert_to_numpy(variable).astype(np.float64)
