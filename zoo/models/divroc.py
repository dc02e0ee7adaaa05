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
from dataclasses import asdict, dataclass, fields, replace

import keras
import numpy as np
from keras import ops
from scipy.spatial import cKDTree

from zoo.data.pair import Pair
from zoo.data.pairs import RepeatedBatch
from zoo.data.scan import Scan
from zoo.geometry import Grid
from zoo.layers.integration import ScalingAndSquaring
from zoo.losses import Diffusion
from zoo.ops.closest_points import align_clouds
from zoo.ops.compiling import compiled
from zoo.ops.sampling import sample
from zoo.ops.splatting import density, distance_volume, normalised_splat, to_voxels
from zoo.registration import Registration
from zoo.transform import Affine, Composed, Dense, Inverse, Transform, Velocity

TERMS = ("chamfer", "density", "distance")
STARTS = ("moments", "affine", "none", "flow")
SQUASHES = ("tanh", "scaled", "none")
SQUARINGS = 6
EPOCH = 10  # steps
FEW = 8192  # points that suffice for an affine start
INNER = 0.998  # share of the points, along each axis, that the box is drawn around
MARGIN = 1.15  # of the box beyond them
FAR = 1.5  # half sides of the box from its centre, beyond which points are reported
FLOW_LATTICE = 48
CLOSEST = 0.8  # share of the held-out points that count


@dataclass(frozen=True)
class Stage:
    """One displacement, and how it is found.

    Attributes:
        data: "chamfer", "density" or "distance".
        lattice: points of the lattice of the displacement along each axis.
        pool: lattice points over which parameters are averaged, twice, to give the displacement.
        steps: of Adam.
        rate: learning rate, as a multiple of the optimiser's.
        smoothness: weight of the mean squared derivative of the displacement in the loss.
        points: for "chamfer": so many of each cloud, newly drawn in every step, look for their
            nearest point among all of the other one; None for all. For others: at most so many of
            each cloud are used.
        reach: for "chamfer": distance at which a point counts half as much in the sum of squares,
            as a multiple of the median distance at the time; None counts all alike.
        neighbours: for "chamfer": so many nearest points draw a point, to their mean.
        raster: for "density" and "distance": voxels of the image along each axis; or several.
        blur: for "density": standard deviation of the Gaussian, in voxels.
        gain: for "density": factor inside of the squash.
    """

    data: str = "chamfer"
    lattice: int = 48
    pool: int = 9
    steps: int = 40
    rate: float = 1.0
    smoothness: float = 0.0
    points: int | None = 8192
    reach: float | None = 1.5
    neighbours: int = 1
    raster: int | Sequence[int] = 96
    blur: float = 1.2
    gain: float = 0.5

    def __post_init__(self):
        if self.data not in TERMS:
            raise ValueError(f"data of a stage must be one of {TERMS}, not {self.data!r}.")
        for name, least in (
            ("lattice", 2),
            ("pool", 1),
            ("steps", 1),
            ("neighbours", 1),
            ("points", 8),
        ):
            value = getattr(self, name)
            if not (value is None and name == "points") and not value >= least:
                raise ValueError(f"{name} of a stage must be at least {least}, not {value!r}.")
        if self.pool % 2 == 0:
            raise ValueError(f"pool of a stage must be odd, not {self.pool}.")
        if min(self.rasters) < 2:
            raise ValueError(f"raster of a stage must be at least 2, not {self.raster!r}.")
        for name, value in (("rate", self.rate), ("gain", self.gain), ("reach", self.reach)):
            if not (value is None and name == "reach") and not value > 0:
                raise ValueError(f"{name} of a stage must be positive, not {value!r}.")
        for name, value in (("blur", self.blur), ("smoothness", self.smoothness)):
            if not value >= 0:
                raise ValueError(f"{name} of a stage must not be negative, not {value!r}.")

    @property
    def rasters(self) -> tuple[int, ...]:
        """All sizes of the image."""
        return (self.raster,) if isinstance(self.raster, int) else tuple(self.raster)


DENSITY = (
    Stage("density", 32, 9, 30, 1.0, 0.0, None, raster=48, blur=1.2, gain=0.1),
    Stage("density", 32, 9, 30, 0.5, 0.0, None, raster=64, blur=0.8, gain=0.25),
    Stage("density", 48, 9, 40, 0.4, 0.0, None, raster=96, blur=0.8, gain=0.5),
    Stage("density", 48, 9, 30, 0.2, 0.0, None, raster=128, blur=0.6, gain=1.0),
)
CHAMFER = (
    Stage("chamfer", 32, 9, 30, 1.0, 10.0),
    Stage("chamfer", 32, 5, 30, 0.4, 10.0),
    Stage("chamfer", 48, 5, 40, 0.3, 30.0),
)
DISTANCE = tuple(replace(stage, data="distance") for stage in DENSITY)
SCHEDULES = {
    "chamfer": CHAMFER,
    "density": DENSITY,
    "hybrid": (*DENSITY[:2], *CHAMFER[1:]),
    "distance": DISTANCE,
}


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
        held_out: share of the points of either cloud that are not fitted but watched.
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
        self.own_stages = None if stages is None else _as_stages(stages)
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
        own["stages"] = None if stages is None else [_plain(stage) for stage in stages]
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
            placed = placed + _at(field, placed)
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
            _displacement(control[...], stage, self.velocity)
            for control, stage in zip(self.controls, self.schedule, strict=True)
        ]

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
        clouds = _Clouds(
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
            descent = _Descent(self, number, clouds)
            descent.compile(self._optimizer(stage, count * per_epoch), jit_compile=False)
            descent.fit(
                RepeatedBatch({"moving": descent.moving}, per_epoch),
                epochs=first + count,
                initial_epoch=first,
                callbacks=[_Search(self.patience), _PartOfTraining(self, listening)],
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
            placed = placed + ops.convert_to_numpy(_at(self.flow[...], placed[None]))[0]
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
            field = _in_voxels(_displacement(control[...], stage, False))
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


# One stage


class _Clouds:
    """Both clouds in units of half the box, in random order, and the share that is held out.

    Attributes:
        fixed: float32 `[n, dims]`.
        moving: float32 `[m, dims]`, as all stages before have moved it.
        weights: float32 `[m]`, 1 at most.
        spacing: typical distance of fixed points from their nearest neighbour.
    """

    def __init__(self, fixed, moving, weights, points: int | None, seed: int):
        rng = np.random.default_rng(seed)
        order = [rng.permutation(len(each))[:points] for each in (fixed, moving)]
        self.fixed, self.moving = fixed[order[0]], moving[order[1]]
        self.weights = weights[order[1]].astype(np.float32)
        tree = cKDTree(self.fixed, balanced_tree=False)
        some = self.fixed[:FEW]
        self.spacing = float(np.median(tree.query(some, k=2, workers=-1)[0][:, 1]))
        if not self.spacing > 0:  # Most points have a twin.
            self.spacing = 2.0 / len(self.fixed) ** (1 / self.fixed.shape[1])


class _Descent(keras.Model):
    """The displacement of one stage, whose parameters are those of the registration."""

    def __init__(self, owner: DiVRoC, number: int, clouds: _Clouds):
        super().__init__(name="descent", dtype="float32", autocast=False)
        self.control, self.stage = owner.controls[number], owner.schedule[number]
        self.velocity, self.shares = owner.velocity, owner.loss_weights
        self.spacing, self.rng = clouds.spacing, np.random.default_rng((owner.seed, number))
        # Trees see all points; only what is looked for in them is drawn.
        most = None if self.stage.data == "chamfer" else self.stage.points
        fixed, moving = clouds.fixed[:most], clouds.moving[:most]
        kept = [len(each) - int(owner.held_out * len(each)) for each in (fixed, moving)]
        self.fixed, self.held_fixed = np.split(fixed, kept[:1])
        self.fixed_tree = _tree(self.fixed)
        # Held-out points are moved with the others, but do not enter the loss.
        self.moving, self.kept = moving[None], kept[1]
        make = {"chamfer": _Nearest, "density": _Density, "distance": _Distance}[self.stage.data]
        self.term = make(self, owner, clouds.weights[: self.kept])
        self.trackers = [keras.metrics.Mean(name=name) for name in ("data", "smoothness")]
        self.penalty = Diffusion()
        self.built = True
        self._shift = compiled(lambda points: _at(self.field(), points[None])[0], self)

    def call(self, inputs):
        field = self.field()
        return {"moved": inputs["moving"] + _at(field, inputs["moving"]), "field": field}

    def field(self):
        """The displacement `[1, *lattice, dims]` in units of half the box."""
        return _displacement(self.control[...], self.stage, self.velocity)

    def moved(self, points: np.ndarray) -> np.ndarray:
        """Points `[n, dims]` moved by the present displacement, on the host."""
        shift = self._shift(ops.convert_to_tensor(points))
        return points + ops.convert_to_numpy(shift)

    def constant(self, value, name: str):
        """A weight that the loss reads but that is not trained."""
        value = np.asarray(value, dtype=np.float32)
        weight = self.add_weight(shape=value.shape, initializer="zeros", trainable=False, name=name)
        weight.assign(value)
        return weight

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The data term of the points that are not held out, and the weighted smoothness."""
        values = {
            "data": self.term.loss(y_pred["moved"][:, : self.kept]),
            "smoothness": self.stage.smoothness
            * self.penalty(y_pred["field"] * (self.stage.lattice / 2)),
        }
        total = 0.0
        for tracker in self.trackers:
            tracker.update_state(values[tracker.name])
            total = total + self.shares[tracker.name] * values[tracker.name]
        return total

    def apart(self) -> float | None:
        """Mean distance of the closest held-out points to the other cloud; None without any."""
        moved = self.moved(self.moving[0])
        held = moved[self.kept :]
        if not len(held) or not len(self.held_fixed):
            return None
        distances = [
            self.fixed_tree.query(held, workers=-1)[0],
            _tree(moved[: self.kept]).query(self.held_fixed, workers=-1)[0],
        ]
        count = [max(int(CLOSEST * len(each)), 1) for each in distances]
        nearest = [np.sort(each)[:n] for each, n in zip(distances, count, strict=True)]
        return float(sum(each.mean() for each in nearest)) / 2


class _Nearest:
    """Squared distances to the nearest points, in both directions, in units of the spacing.

    Who is nearest is searched before every step. With that given, the sum over both directions is,
    but for a constant, one square for each moving point: its distance to the weighted mean of all
    points that it is paired with. Robust weights `1 / (1 + d^2 / s^2)^2` are those of the
    Geman-McClure penalty (iteratively reweighted least squares).
    """

    def __init__(self, descent: _Descent, owner: DiVRoC, weights: np.ndarray):
        self.descent, self.weights = descent, weights.astype(np.float64)
        dims = descent.fixed.shape[1]
        self.goal = descent.constant(np.zeros((1, len(weights), dims)), "goal")
        self.share = descent.constant(np.zeros((1, len(weights), 1)), "share")
        self.rest = descent.constant(0.0, "rest")

    def search(self):
        """Looks for the nearest points, where the moving cloud is now."""
        descent = self.descent
        moved = descent.moved(descent.moving[0])[: descent.kept]
        tree, count = _tree(moved), len(moved)
        chosen, asking = (self._draw(n) for n in (count, len(descent.fixed)))
        queries, targets = moved[chosen], descent.fixed[asking]
        there, to_fixed = self._nearest(descent.fixed_tree, queries)
        back, to_moving = self._nearest(tree, targets)
        both = self._shares(there, np.broadcast_to(self.weights[chosen, None], there.shape))
        over = self._shares(back, self.weights[to_moving])
        # The sum of weights, and of weighted points, that each moving point is paired with.
        share, goal = np.zeros(count), np.zeros((count, moved.shape[1]))
        share[chosen] = both.sum(axis=1)
        share += np.bincount(to_moving.ravel(), over.ravel(), count)
        for axis in range(moved.shape[1]):
            goal[chosen, axis] = (both * descent.fixed[to_fixed, axis]).sum(axis=1)
            pulled = over * targets[:, None, axis]
            goal[:, axis] += np.bincount(to_moving.ravel(), pulled.ravel(), count)
        goal /= np.maximum(share, 1e-30)[:, None]
        squares = (both * there**2).sum() + (over * back**2).sum()
        rest = squares - (share * ((moved - goal) ** 2).sum(axis=1)).sum()
        unit = descent.spacing**2
        self.goal.assign(goal[None])
        self.share.assign(share[None, :, None] / unit)
        self.rest.assign(rest / unit)

    def _draw(self, count: int) -> np.ndarray | slice:
        points = self.descent.stage.points
        if points is None or points >= count:
            return slice(None)
        # A block of the points, which are in random order: as good as a draw, and in one piece.
        start = int(self.descent.rng.integers(count))
        return np.arange(start, start + points) % count

    def _nearest(self, tree, queries) -> tuple[np.ndarray, np.ndarray]:
        k = min(self.descent.stage.neighbours, tree.n)
        distances, index = tree.query(queries, k=k, workers=-1)
        return distances.reshape(-1, k), index.reshape(-1, k)

    def _shares(self, distances, weights) -> np.ndarray:
        shares = weights / weights.sum()
        if self.descent.stage.reach is None:
            return shares
        scale = max(self.descent.stage.reach * np.median(distances), 1e-12)
        return shares / (1 + (distances / scale) ** 2) ** 2

    def loss(self, moved):
        return ops.sum(self.share * ops.square(moved - self.goal)) + self.rest


class _Density:
    """Difference of density images."""

    def __init__(self, descent: _Descent, owner: DiVRoC, weights: np.ndarray):
        stage, dims = descent.stage, descent.fixed.shape[1]
        # As many points in both clouds, so that the images can become equal.
        self.weights = (weights * (len(descent.fixed) / weights.sum()))[None]
        self.power = owner.power
        squash = None if owner.squash == "none" else owner.squash
        self.options = {"sigma": stage.blur, "squash": squash, "gain": stage.gain}
        self.targets = [
            descent.constant(density(descent.fixed[None], [size] * dims, **self.options), "target")
            for size in stage.rasters
        ]

    def loss(self, moved):
        total = 0.0
        for target in self.targets:
            shape = target.shape[1:-1]
            image = density(moved, shape, ops.convert_to_tensor(self.weights), **self.options)
            off = ops.abs(image - target)
            mean = ops.mean(off if self.power == 1 else ops.square(off))
            # Relative to the image that is to be met, most of which is empty.
            total = total + mean / ops.mean(ops.abs(target) ** self.power)
        return total / len(self.targets)


class _Distance:
    """Mean distance of the moving points from the fixed cloud, read from a distance transform."""

    def __init__(self, descent: _Descent, owner: DiVRoC, weights: np.ndarray):
        self.weights = (weights / weights.sum())[None, :, None]
        self.spacing, dims = descent.spacing, descent.fixed.shape[1]
        self.volumes = [
            descent.constant(distance_volume(descent.fixed[None], [size] * dims), "volume")
            for size in descent.stage.rasters
        ]

    def loss(self, moved):
        total = 0.0
        for volume in self.volumes:
            distance = sample(volume[...], to_voxels(moved, volume.shape[1:-1]))
            total = total + ops.sum(self.weights * distance)
        return total / (len(self.volumes) * self.spacing)


class _Search(keras.callbacks.Callback):
    """Searches the nearest points before every step; ends a stage that drifts, at its best."""

    def __init__(self, patience: int | None):
        super().__init__()
        self.patience, self.best, self.waited = patience, None, 0

    def on_train_begin(self, logs=None):
        self.least = self.model.apart()
        self.best = ops.convert_to_numpy(self.model.control[...])

    def on_train_batch_begin(self, batch, logs=None):
        # To ask for the model brings its weights up to date, where the backend keeps them apart.
        model = self.model
        if isinstance(model.term, _Nearest):
            model.term.search()

    def on_epoch_end(self, epoch, logs=None):
        if self.least is None:
            return
        distance = self.model.apart()
        logs["held_out"] = distance
        if distance < self.least:
            self.least, self.waited = distance, 0
            self.best = ops.convert_to_numpy(self.model.control[...])
            return
        self.waited += 1
        if self.patience is not None and self.waited >= self.patience:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        if self.patience is not None and self.waited:
            self.model.control.assign(self.best)


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


# Fields


def _displacement(control, stage: Stage, velocity: bool):
    """The displacement `[1, *lattice, dims]` of parameters of that shape."""
    matrix = _pooling(stage.lattice, stage.pool)
    letters = "xyz"[: control.shape[-1]]
    for axis in letters:
        rest = letters.replace(axis, "n")
        control = ops.einsum(f"n{axis},b{letters}c->b{rest}c", matrix, control)
    if not velocity:
        return control
    unit = stage.lattice / 2
    return ScalingAndSquaring(SQUARINGS)(control * unit) / unit


def _pooling(size: int, width: int) -> np.ndarray:
    """Two means over `width` neighbours each, fewer at the border, as a matrix."""
    place = np.arange(size)
    near = (np.abs(place[:, None] - place) <= width // 2).astype(np.float64)
    once = near / near.sum(axis=1, keepdims=True)
    return (once @ once).astype(np.float32)


def _at(field, points):
    """The displacement `[1, n, dims]` of points in the box; beyond it that of the border."""
    return sample(field, to_voxels(points, field.shape[1:-1]))


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


# Clouds


def _as_stages(stages) -> tuple[Stage, ...]:
    known = {field.name for field in fields(Stage)}
    made = []
    for number, stage in enumerate(stages):
        if isinstance(stage, Mapping):
            unknown = sorted(set(stage) - known)
            if unknown:
                raise ValueError(f"stages[{number}] has unknown keys {unknown}, not {known}.")
            stage = Stage(**stage)
        if not isinstance(stage, Stage):
            raise ValueError(
                f"stages must hold Stages or dicts of their attributes, not {type(stage).__name__}."
            )
        made.append(stage)
    if not made:
        raise ValueError("stages must hold at least one stage.")
    return tuple(made)


def _plain(stage: Stage) -> dict:
    values = asdict(stage)
    return values | {
        "raster": values["raster"] if isinstance(stage.raster, int) else list(stage.rasters)
    }


def _tree(points: np.ndarray) -> cKDTree:
    # An unbalanced tree is built five times faster and searched as fast.
    return cKDTree(points, balanced_tree=False)


def _counting_flow(flow, pair: Pair) -> np.ndarray:
    flow = np.asarray(flow, dtype=np.float64)
    if flow.shape != pair.moving.points.shape:
        raise ValueError(
            f"flow must have the shape {pair.moving.points.shape} of the moving points, not "
            f"{flow.shape}."
        )
    if not np.isfinite(flow).all():
        raise ValueError("flow must be finite; it holds NaN or infinite values.")
    return flow[pair.counts("moving")]


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
