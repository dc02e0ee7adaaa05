"""Descent on the displacement of one cloud: the stages of DiVRoC and what draws the points.

A stage finds a smooth displacement that lives on a lattice over the box [-1, 1] around both clouds.
Its parameters are optimised by Keras; the data term is one of three: distances to the nearest
points, which trees on the host look for before every step, the difference of density images, or a
distance transform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import keras
import numpy as np
from keras import ops
from scipy.spatial import cKDTree

from zoo.layers.integration import ScalingAndSquaring
from zoo.losses import Diffusion
from zoo.ops.compiling import compiled
from zoo.ops.sampling import sample
from zoo.ops.splatting import density, distance_volume, to_voxels

TERMS = ("chamfer", "density", "distance")
SQUARINGS = 6
FEW = 8192  # points that suffice for the spacing of a cloud, or a linear start
CLOSEST = 0.8  # share of the held-out points that count
WATCHED = 200  # points that are held out at least; of smaller clouds all are fitted
NEAR = 2.0  # spacings within which a point always counts fully
SHARP = 0.1  # spacings below which distances are not told apart


@dataclass(frozen=True)
class Stage:
    """One displacement, and how it is found.

    Attributes:
        data: "chamfer", "density" or "distance".
        lattice: points of the lattice of the displacement along each axis.
        pool: lattice points over which parameters are averaged, twice, to give the displacement.
        steps: of Adam.
        rate: learning rate, as a multiple of the optimiser's.
        smoothness: weight of the mean squared derivative of the displacement in the loss; for
            "chamfer" less where the clouds come closer than the spacing of their points.
        points: for "chamfer": so many of each cloud, newly drawn in every step, look for their
            nearest point among all of the other one; None for all. For others: at most so many of
            each cloud are used.
        reach: for "chamfer": distance at which a point counts half as much in the sum of squares,
            as a multiple of the median distance at the time; never less than two spacings of the
            fixed cloud. None counts all alike.
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
    Stage("chamfer", 64, 5, 30, 0.2, 100.0),
)
DISTANCE = tuple(replace(stage, data="distance") for stage in DENSITY)
SCHEDULES = {
    "chamfer": CHAMFER,
    "density": DENSITY,
    "hybrid": (*DENSITY[:2], *CHAMFER[1:]),
    "distance": DISTANCE,
}

# The clouds, and the descent of one stage


class Clouds:
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
        nearest, _ = _tree(self.fixed).query(self.fixed[:FEW], k=2, workers=-1)
        self.spacing = float(np.median(nearest[:, 1]))
        if not self.spacing > 0:  # Most points have a twin.
            self.spacing = 2.0 / len(self.fixed) ** (1 / self.fixed.shape[1])


class Descent(keras.Model):
    """The displacement of one stage.

    Args:
        control: the variable that holds its parameters, `[1, *lattice, dims]`.
        stage: `Stage`.
        clouds: `Clouds`.
        loss_weights: of `data` and `smoothness`.
        velocity: the parameters are a stationary velocity.
        held_out: share of the points of either cloud that are watched instead of fitted; none are
            where that would be fewer than `WATCHED`, too few to tell anything.
        power: for densities: 1 for the mean absolute difference, 2 for the mean square.
        squash: of the densities, None for none.
        seed: of the points that are drawn in every step.
    """

    def __init__(
        self,
        control,
        stage: Stage,
        clouds: Clouds,
        loss_weights: Mapping[str, float],
        velocity: bool = False,
        held_out: float = 0.0,
        power: int = 2,
        squash: str | None = "tanh",
        seed: int | Sequence[int] = 0,
    ):
        super().__init__(name="descent", dtype="float32", autocast=False)
        self.control, self.stage, self.shares = control, stage, loss_weights
        self.velocity, self.power, self.squash = velocity, power, squash
        self.spacing, self.rng = clouds.spacing, np.random.default_rng(seed)
        # Trees see all points; only what is looked for in them is drawn.
        most = None if stage.data == "chamfer" else stage.points
        fixed, moving = clouds.fixed[:most], clouds.moving[:most]
        watched = [int(held_out * len(each)) for each in (fixed, moving)]
        if min(watched) < WATCHED:
            watched = [0, 0]
        kept = [len(each) - count for each, count in zip((fixed, moving), watched, strict=True)]
        self.fixed, self.held_fixed = np.split(fixed, kept[:1])
        self.fixed_tree = _tree(self.fixed)
        # Held-out points are moved with the others, but do not enter the loss.
        self.moving, self.kept = moving[None], kept[1]
        self.noise = self.constant(1.0, "noise")
        make = {"chamfer": _Nearest, "density": _Density, "distance": _Distance}[stage.data]
        self.term = make(self, clouds.weights[: self.kept])
        self.trackers = [keras.metrics.Mean(name=name) for name in ("data", "smoothness")]
        self.penalty = Diffusion()
        self.built = True
        self._shift = compiled(lambda points: displaced(self.field(), points[None])[0], self)

    def call(self, inputs):
        field = self.field()
        return {"moved": inputs["moving"] + displaced(field, inputs["moving"]), "field": field}

    def field(self):
        """The displacement `[1, *lattice, dims]` in units of half the box."""
        return displacement(self.control[...], self.stage, self.velocity)

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
            * self.noise
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
    Geman-McClure penalty (iteratively reweighted least squares). Their s is never less than two
    spacings, or points that are still on their way would be given up once half of the cloud has
    arrived.

    The median distance tells the noise of the points. Where it is less than the spacing, the weight
    of the smoothness shrinks with its square: clouds that fit exactly may bend space freely.
    """

    def __init__(self, descent: Descent, weights: np.ndarray):
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
        apart = (np.median(there[:, 0]) + np.median(back[:, 0])) / (2 * descent.spacing)
        descent.noise.assign(np.clip(apart, SHARP, 1.0) ** 2)
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
        scale = max(self.descent.stage.reach * np.median(distances), NEAR * self.descent.spacing)
        return shares / (1 + (distances / scale) ** 2) ** 2

    def loss(self, moved):
        return ops.sum(self.share * ops.square(moved - self.goal)) + self.rest


class _Density:
    """Difference of density images."""

    def __init__(self, descent: Descent, weights: np.ndarray):
        stage, dims = descent.stage, descent.fixed.shape[1]
        # As many points in both clouds, so that the images can become equal.
        self.weights = (weights * (len(descent.fixed) / weights.sum()))[None]
        self.power = descent.power
        self.options = {"sigma": stage.blur, "squash": descent.squash, "gain": stage.gain}
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

    def __init__(self, descent: Descent, weights: np.ndarray):
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


class Search(keras.callbacks.Callback):
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


# Fields


def displacement(control, stage: Stage, velocity: bool):
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


def displaced(field, points):
    """The displacement `[1, n, dims]` of points in the box; beyond it that of the border."""
    return sample(field, to_voxels(points, field.shape[1:-1]))


# Clouds


def as_stages(stages) -> tuple[Stage, ...]:
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


def plain_stage(stage: Stage) -> dict:
    values = asdict(stage)
    return values | {
        "raster": values["raster"] if isinstance(stage.raster, int) else list(stage.rasters)
    }


def _tree(points: np.ndarray) -> cKDTree:
    # An unbalanced tree is built five times faster and searched as fast.
    return cKDTree(points, balanced_tree=False)
