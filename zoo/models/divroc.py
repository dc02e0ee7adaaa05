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
from zoo.geometry import Grid
from zoo.layers.lattice import SQUARINGS, displacement_at
from zoo.ops.arguments import at_least, between, checked, one_of
from zoo.ops.closest_points import align_clouds
from zoo.registration import Registration
from zoo.registration.fitting import Training, half_cosine
from zoo.registration.frame import exact, position, set_position, stored
from zoo.registration.stages import (
    SCHEDULES,
    Clouds,
    Descent,
    Search,
    Stage,
    as_stages,
    displacement,
    plain_stage,
)
from zoo.transform import Affine, Composed, Dense, Inverse, Transform, Velocity, scattered

STARTS = ("moments", "affine", "none", "flow")
SQUASHES = ("tanh", "scaled", "none")
EPOCH = 10  # steps
START_POINTS = 8192  # that suffice for a linear start
INNER = 0.998  # share of the points, along each axis, that the box is drawn around
MARGIN = 1.15  # of the box beyond them
GIVEN = ("points", "flow", "weights")
FAR = 1.5  # half sides of the box from its centre, beyond which points are reported


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
            points), "none", or "flow": the map through displacements of the moving points that
            `fit` then wants, an old name for `zoo.transform.scattered` and a chain.
        velocity: the displacement of a stage is the flow of a stationary velocity for unit time,
            which is invertible by construction.
        power: for densities: 1 for the mean absolute difference, 2 for the mean square.
        squash: of the densities, "tanh", "scaled" or "none"; see `zoo.ops.splatting.density`.
        points: at most so many of each cloud are used, drawn at random; None for all.
        held_out: share of the points of either cloud that are not fitted but watched; up to a tenth
            where that would be fewer than 200. Below 80 points, or with 0, nothing is watched.
        patience: epochs that the held-out points may drift apart before a stage ends; it then
            returns to where they were closest. None never ends one early.
        seed: of the choice of points.

    Attributes:
        doubts: of the last fit, a sentence each, of which `fit` has also warned.

    Raises:
        ValueError: for arguments out of range.
    """

    needs_fit = True
    default_loss_weights = {"data": 1.0, "smoothness": 1.0}
    takes = ("clouds",)
    pair_epochs = None
    pair_options = ("flow",)

    @checked()
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
        super().__init__(dims, **kwargs)
        one_of("data", data, tuple(SCHEDULES))
        one_of("start", start, STARTS)
        one_of("power", power, (1, 2))
        one_of("squash", squash, SQUASHES)
        at_least("points", points, 8, optional=True)
        at_least("patience", patience, 1, optional=True)
        between("held_out", held_out, 0.0, 0.5)
        if start == "flow":
            warnings.warn(
                "start='flow' is a chain now: zoo.transform.scattered(points, flow), then "
                "pair.aligned(it) and a plain divroc.",
                FutureWarning,
                stacklevel=2,
            )
        self.data, self.start, self.velocity = data, start, velocity
        self.power, self.squash, self.points = power, squash, points
        self.held_out, self.patience, self.seed = held_out, patience, seed
        self.own_stages = None if stages is None else as_stages(stages)
        self.schedule = SCHEDULES[data] if stages is None else self.own_stages
        # The start is x -> matrix (x - source), in units of half the box and from its centre.
        self.matrix = stored(self, "matrix", (dims, dims), "identity")
        self.source = stored(self, "source", (2, dims))
        self.centre = stored(self, "centre", (2, dims))
        self.half = stored(self, "half", (), "ones")
        self.controls = [
            stored(self, f"control_{k}", (1, *[stage.lattice] * dims, dims), trainable=True)
            for k, stage in enumerate(self.schedule)
        ]
        self._given: tuple[np.ndarray, ...] | None = None  # points, their flow and weights
        self.built = True

    def get_config(self):
        names = ("data", "start", "velocity", "power", "squash", "points", "held_out")
        own = {name: getattr(self, name) for name in (*names, "patience", "seed")}
        stages = self.own_stages
        own["stages"] = None if stages is None else [plain_stage(stage) for stage in stages]
        return super().get_config() | own

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
        placed = ops.matmul(flat - self.source[0] - self.source[1], ops.transpose(self.matrix))
        for control, stage in zip(self.controls, self.schedule, strict=True):
            field = displacement(control[...], stage, self.velocity)
            placed = placed + displacement_at(field, placed)
        moved = self.half * placed + self.centre[1] + self.centre[0]
        return {"moved": ops.reshape(moved, ops.shape(points))}

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
        if shape is not None and self._given is not None:
            x = scattered(*self._given).move(np.reshape(x, (-1, self.dims))).reshape(shape)
        return super().predict(x, **kwargs)

    # Fitting

    def default_optimizer(self):
        return keras.optimizers.Adam(0.02)

    def check_training(self, x):
        """Refuses everything: only a single pair can be registered."""
        self.check_pair(x, "x")

    def fit_pair(self, pair: Pair, training: Training, epochs, flow=None):
        """Registers a pair of clouds, anew.

        Every stage starts the optimiser afresh; its learning rate, that of the compiled optimiser
        times the stage's, decays to a twentieth along a cosine. What the points that are held out
        do not support is dropped, with a warning, see `zoo.registration.trust`.

        Points outside of their mask do not count, those of the moving cloud count by the pair's
        `weights`. Logs have, beside the loss and its terms, `held_out`, the mean distance of the
        closest four fifths of the held-out points to the other cloud, in world units.

        Args:
            pair: of clouds.
            training: has the stages of the schedule.
            epochs: of every stage, of ten steps each; None makes the steps of the stage.
            flow: with `start="flow"`: of every moving point, `[n, dims]`, in world units.

        Raises:
            ValueError: for too few points, points on a line, or a flow that does not fit.
        """
        self._given, self.doubts = self._checked_flow(flow, pair), []
        if self._given is not None:
            pair = pair.aligned(scattered(*self._given))
        moving, weights = pair.counting("moving")
        parts = pair.counting("fixed")[0], moving, weights
        clouds = self._placed(*parts, self.start)
        judge, half = clouds.judge(), float(exact(self.half))
        with training:
            for number, stage in enumerate(self.schedule):
                count = epochs or math.ceil(stage.steps / EPOCH)
                steps = EPOCH if epochs else math.ceil(stage.steps / count)
                descent = Descent(
                    self.controls[number],
                    stage,
                    clouds,
                    self.loss_weights,
                    velocity=self.velocity,
                    power=self.power,
                    squash=None if self.squash == "none" else self.squash,
                    seed=(self.seed, number),
                    pairing=judge.pairing,
                )
                batches = RepeatedBatch({"step": np.zeros((1, 1), np.float32)}, steps)
                search, decay = Search(self.patience, half), half_cosine(0.05)
                if not training.stage(descent, batches, count, stage.rate, decay, [search]):
                    break
                moved = descent.moved(clouds.moving)
                if judge.keeps(descent.moved, clouds.moving, moved):
                    clouds.moving = moved
                else:
                    self.controls[number].assign(np.zeros(self.controls[number].shape))
        if not judge.supported:
            # The better one of two linear maps, if the points that are held out tell them apart.
            other = self._placed(*parts, "affine").judge()
            if self.start != "moments" or not other.last.supported(judge.first):
                self._placed(*parts, self.start)
        self.doubts = judge.doubts(half, linear=not judge.supported)
        for doubt in self.doubts:
            warnings.warn(f"{pair.name!r}: {doubt}.", UserWarning, stacklevel=3)

    def _checked_flow(self, flow, pair: Pair) -> tuple[np.ndarray, ...] | None:
        """The moving points that count, their flow and their weights."""
        if (flow is None) == (self.start == "flow"):
            raise ValueError(
                "flow must be given with start='flow', and only then; start is "
                f"{self.start!r} and flow {'missing' if flow is None else 'given'}."
            )
        if flow is None:
            return None
        flow, shape = np.asarray(flow, dtype=np.float64), pair.moving.points.shape
        if flow.shape != shape or not np.isfinite(flow).all():
            raise ValueError(
                f"flow must have the shape {shape} of the moving points and be finite, not have "
                f"{flow.shape} and {(~np.isfinite(flow)).sum()} values that are not."
            )
        points, weights = pair.counting("moving")
        return points, flow[pair.counting_mask("moving")], weights

    def _placed(self, fixed, moving, weights, start: str) -> Clouds:
        """Sets start and box, forgets what was fitted before, and gives the clouds in the box."""
        for name, points in (("fixed", fixed), ("moving", moving)):
            _check_spread(name, points)
        matrix, offset = np.eye(self.dims), np.zeros(self.dims)
        if start == "moments":
            matrix, offset = _moments(fixed, moving, weights)
        elif start == "affine":
            draw = np.random.default_rng(self.seed)
            few = [draw.permutation(len(each))[:START_POINTS] for each in (fixed, moving)]
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
                    stacklevel=4,
                )
        self.matrix.assign(matrix / half)
        set_position(self.source, np.linalg.solve(matrix, centre - offset))
        set_position(self.centre, centre)
        self.half.assign(half)
        for control in self.controls:
            control.assign(np.zeros(control.shape))
        places = [
            ((fixed - position(self.centre)) / half).astype(np.float32),
            ((moving - position(self.source)) @ exact(self.matrix).T).astype(np.float32),
        ]
        return Clouds(*places, weights, self.points, self.held_out, self.seed)

    # What was fitted

    def map_of(self, pair: Pair) -> Transform:
        """What was fitted, as a map of world coordinates.

        `move` is what the model computes, exact but for rounding; `pull` inverts it by iteration,
        to 1e-5 of the lattice spacing wherever the map does not fold (see `inverse_error`); with
        `velocity=True` it integrates the velocities backwards instead, as exactly as the lattice
        resolves them. Beyond the lattice the displacement goes on as at its border.
        """
        matrix, half = exact(self.matrix), float(exact(self.half))
        source, centre = position(self.source), position(self.centre)
        # Moved: x -> half matrix (x - source) + centre; the parts are pulled.
        inverse = np.linalg.inv(half * matrix)
        parts: list[Transform] = [Affine(inverse, source - inverse @ centre)]
        for control, stage in zip(self.controls, self.schedule, strict=True):
            if not ops.any(control[...] != 0):
                continue
            shape = tuple(control.shape[1:-1])
            spacing = 2 * half / np.array(shape)
            grid = Grid(shape, spacing, centre - half + spacing / 2)
            field = ops.convert_to_numpy(displacement(control[...], stage, False))[0]
            field = field * (np.array(shape, np.float32) / 2)
            if self.velocity:
                parts.append(Velocity(-field, grid, SQUARINGS))
                continue
            # It moves where a `Dense` pulls, and keeps the grid, to be stored on.
            parts.append(Inverse(Dense(field, grid)))
            parts[-1].fixed_grid = grid
        whole = parts[0] if len(parts) == 1 else Composed(parts)
        return whole if self._given is None else scattered(*self._given) @ whole

    def save_own_variables(self, store):
        """As in Keras, with the flow that a fit was given."""
        super().save_own_variables(store)
        if self._given is not None:
            for name, array in zip(GIVEN, self._given, strict=True):
                store[name] = array

    def load_own_variables(self, store):
        """As in Keras, with the flow that a fit was given."""
        kept = {name: np.asarray(store[name]) for name in store.keys()}  # noqa: SIM118
        given = tuple(kept.pop(name, None) for name in GIVEN)
        self._given = None if given[0] is None else given
        super().load_own_variables(kept)

    # What the zoo asks of a method

    @classmethod
    def example(cls):
        stages = [
            {"lattice": 8, "pool": 3, "steps": 10, "reach": None},
            {"data": "chamfer", "lattice": 12, "pool": 3, "steps": 10},
        ]
        example = super().example()
        return example | {"config": {"dims": 2, "stages": stages, "held_out": 0.0}}


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


def _box(*clouds: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre and half side of a cube around all but the outermost points of each cloud."""
    ends = (0.5 - INNER / 2, 0.5 + INNER / 2)
    limits = np.concatenate([np.quantile(each, ends, axis=0) for each in clouds])
    low, high = limits.min(axis=0), limits.max(axis=0)
    return (low + high) / 2, MARGIN * float((high - low).max()) / 2
