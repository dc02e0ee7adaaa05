"""Descent on the displacement of one cloud: the stages of DiVRoC and what draws the points.

A stage finds a smooth displacement that lives on a lattice over the box [-1, 1] around both clouds.
Its parameters are optimised by Keras; the data term is one of three: distances to the nearest
points, which trees on the host look for before every step, the difference of density images, or a
distance transform.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import keras
import numpy as np
from keras import ops
from scipy.spatial import cKDTree

from zoo.layers.lattice import (
    differences,
    displacement_at,
    pooled,
    pooling,
    roughness,
    smoothed_lattice,
)
from zoo.losses.cloud_terms import (
    DensityImages,
    DistanceVolumes,
    NearestPoints,
    across_structures,
    search_tree,
)
from zoo.ops import kernels
from zoo.ops.arguments import at_least, checked, not_negative, one_of, positive
from zoo.ops.training import Transient
from zoo.registration.trust import Judge, Watch, typical_spacing

TERMS = ("chamfer", "density", "distance")
SPACING_POINTS = 8192  # that suffice for the spacing of a cloud
CLOSEST = 0.8  # share of the held-out points that count
WATCHED = 200  # points that are held out at least, of each cloud
SMALL_SHARE = 0.1  # but no larger share than this for that
FEWEST = 8  # points that tell anything; of clouds with fewer to hold out all are fitted


@checked(lattice=(2, 512), raster=(2, 1024), pool=(1, 1023), neighbours=(1, 1000))
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
        partners: for "chamfer", of clouds as sparse as they are apart: distance, in spacings of the
            fixed cloud, at which a point counts half as much once many of the held-out points have
            met one of the other cloud: so near are partners, not mere neighbours. None goes on as
            `reach` says.
        across: for "chamfer", of such clouds, until then: a point draws another one across the
            curve or surface that it lies on, and a tenth as much along it, where it is one of many.
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
    partners: float | None = None
    across: bool = False
    raster: int | Sequence[int] = 96
    blur: float = 1.2
    gain: float = 0.5

    def __post_init__(self):
        one_of("data of a stage", self.data, TERMS)
        for name, least in (("pool", 1), ("steps", 1), ("neighbours", 1)):
            at_least(f"{name} of a stage", getattr(self, name), least)
        at_least("points of a stage", self.points, 8, optional=True)
        if self.pool % 2 == 0:
            raise ValueError(f"pool of a stage must be odd, not {self.pool}.")
        if not self.rasters:
            raise ValueError("raster of a stage must hold at least one size.")
        for name in ("rate", "gain", "reach", "partners"):
            optional = name in ("reach", "partners")
            positive(f"{name} of a stage", getattr(self, name), optional=optional)
        for name in ("blur", "smoothness"):
            not_negative(f"{name} of a stage", getattr(self, name))

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
    Stage("chamfer", 32, 9, 30, 1.0, 10.0, across=True),
    Stage("chamfer", 32, 5, 30, 0.4, 10.0, partners=1.0, across=True),
    Stage("chamfer", 48, 5, 40, 0.3, 30.0, partners=0.5, across=True),
    Stage("chamfer", 64, 5, 30, 0.2, 100.0, partners=0.25, across=True),
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

    def __init__(self, fixed, moving, weights, points: int | None, held_out: float, seed: int):
        rng = np.random.default_rng(seed)
        order = [rng.permutation(len(each))[:points] for each in (fixed, moving)]
        self.fixed, self.moving = fixed[order[0]], moving[order[1]]
        self.weights = weights[order[1]].astype(np.float32)
        self.held_out = held_out
        self._trees: dict[int, cKDTree] = {}
        self._across: dict[int, np.ndarray] = {}
        few = self.fixed[:SPACING_POINTS]
        self.spacing = typical_spacing(few, self.tree(len(self.fixed)), 2.0)

    def kept(self, most: int | None, whole: bool = False) -> tuple[int, int]:
        """How many of the first `most` points of either cloud are fitted, and not watched.

        Of small clouds a larger share is watched than `held_out`, and none where they would be
        fewer than `FEWEST`, too few to tell anything, or where the `whole` clouds are asked for.
        """
        counts = [len(each[:most]) for each in (self.fixed, self.moving)]
        watched = [
            max(int(self.held_out * count), min(WATCHED, int(SMALL_SHARE * count)))
            for count in counts
        ]
        if whole or not self.held_out or min(watched) < FEWEST:
            return counts[0], counts[1]
        return counts[0] - watched[0], counts[1] - watched[1]

    def across(self, count: int) -> np.ndarray:
        """`across_structures` of the first fixed points, made once for all stages."""
        if count not in self._across:
            self._across[count] = across_structures(self.fixed[:count], self.tree(count))
        return self._across[count]

    def judge(self) -> Judge:
        """Of stages that begin with the moving cloud as it is now."""
        kept = self.kept(None)
        watched = kept[0] < len(self.fixed)
        watch = Watch(self.fixed, kept, self.spacing, self.tree(kept[0])) if watched else None
        return Judge(watch, self.moving)

    def tree(self, count: int) -> cKDTree:
        """The search tree of the first fixed points, made once for all stages."""
        if count not in self._trees:
            self._trees[count] = search_tree(self.fixed[:count])
        return self._trees[count]


class Descent(Transient):
    """The displacement of one stage; what it is trained on, it brings along.

    Args:
        control: the variable that holds its parameters, `[1, *lattice, dims]`.
        stage: `Stage`.
        clouds: `Clouds`.
        loss_weights: of `data` and `smoothness`.
        velocity: the parameters are a stationary velocity.
        power: for densities: 1 for the mean absolute difference, 2 for the mean square.
        squash: of the densities, None for none.
        seed: of the points that are drawn in every step.
        pairing: what the nearest points are, one of `zoo.registration.trust.PAIRINGS`.
    """

    def __init__(
        self,
        control,
        stage: Stage,
        clouds: Clouds,
        loss_weights: Mapping[str, float],
        velocity: bool = False,
        power: int = 2,
        squash: str | None = "tanh",
        seed: int | Sequence[int] = 0,
        pairing: str = "resolved",
    ):
        super().__init__(name="descent", dtype="float32", autocast=False)
        self.control, self.stage, self.shares = control, stage, loss_weights
        self.velocity = velocity
        # Trees see all points; only what is looked for in them is drawn.
        most = None if stage.data == "chamfer" else stage.points
        # Partners that have been found need not be watched any more, and all of them count.
        kept, self.kept = clouds.kept(most, whole=pairing == "exact")
        fixed, self.held_fixed = clouds.fixed[:kept], clouds.fixed[:most][kept:]
        # Held-out points are moved with the others, but do not enter the loss.
        self.moving = clouds.moving[:most]
        self.fitted_points = self.add_weight(
            shape=(1, self.kept, self.moving.shape[1]), trainable=False, name="points"
        )
        self.fitted_points.assign(self.moving[None, : self.kept])
        self.fixed_tree = clouds.tree(kept)
        known = fixed, clouds.weights[: self.kept], clouds.spacing
        if stage.data == "chamfer":
            options = {name: getattr(stage, name) for name in ("points", "reach", "neighbours")}
            if pairing in ("partners", "exact"):
                options["scale"] = stage.partners
            elif pairing == "neighbours" and stage.across:
                options["across"] = clouds.across(kept)
            self.term = NearestPoints(*known, **options, seed=seed, tree=self.fixed_tree)
        elif stage.data == "density":
            self.term = DensityImages(
                *known, stage.rasters, stage.blur, squash, stage.gain, power=power
            )
        else:
            self.term = DistanceVolumes(*known, stage.rasters)
        self.trackers = [keras.metrics.Mean(name=name) for name in ("data", "smoothness")]
        self._latest: tuple[int, tuple[np.ndarray, cKDTree]] | None = None
        self.built = True
        self._shift, self._shift_and_roughness = _shifts(velocity)
        # With an axis at the end, so that a shared graph serves all sizes.
        self._matrix, self._steps = (
            ops.convert_to_tensor(matrix[..., None])
            for matrix in (pooling(stage.lattice, stage.pool), differences(stage.lattice))
        )

    def call(self, inputs):
        points = self.term.select(self.fitted_points[...])
        shift, roughness = self._shift_and_roughness(
            self.control.value, self._matrix, self._steps, points
        )
        return {"moved": points + shift, "roughness": roughness}

    def moved(self, points: np.ndarray) -> np.ndarray:
        """Points `[n, dims]` moved by the present displacement, on the host."""
        shift = self._shift(self.control.value, self._matrix, ops.convert_to_tensor(points[None]))
        return points + ops.convert_to_numpy(shift)[0]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The data term of the points that are not held out, and the weighted smoothness."""
        values = {
            "data": self.term(y_pred["moved"]),
            "smoothness": self.stage.smoothness * self.term.noise * y_pred["roughness"],
        }
        total = 0.0
        for tracker in self.trackers:
            tracker.update_state(values[tracker.name])
            total = total + self.shares[tracker.name] * values[tracker.name]
        return total

    def search(self):
        """Lets the data term look where the moving cloud is now."""
        if isinstance(self.term, NearestPoints):  # The others need not know.
            moved, tree = self._now()
            self.term.search(moved[: self.kept], tree)

    def apart(self) -> float | None:
        """Mean distance of the closest held-out points to the other cloud; None without any."""
        if not len(self.held_fixed):
            return None
        moved, tree = self._now()
        distances = [
            self.fixed_tree.query(moved[self.kept :], workers=-1)[0],
            tree.query(self.held_fixed, workers=-1)[0],
        ]
        count = [max(int(CLOSEST * len(each)), 1) for each in distances]
        nearest = [np.sort(each)[:n] for each, n in zip(distances, count, strict=True)]
        return float(sum(each.mean() for each in nearest)) / 2

    def _now(self) -> tuple[np.ndarray, cKDTree]:
        """All points as they are moved now, and a tree of those that are fitted."""
        step = int(ops.convert_to_numpy(self.optimizer.iterations))
        if self._latest is None or self._latest[0] != step:
            moved = self.moved(self.moving)
            self._latest = step, (moved, search_tree(moved[: self.kept]))
        return self._latest[1]


class Search(keras.callbacks.Callback):
    """Searches the nearest points before every step; ends a stage that drifts, at its best.

    Args:
        patience: epochs that the held-out points may drift apart; None for any number.
        unit: of the lattice in world units, for `held_out` in the logs.
    """

    def __init__(self, patience: int | None, unit: float = 1.0):
        super().__init__()
        self.patience, self.unit, self.waited = patience, unit, 0
        self.best = self.least = None

    def on_train_begin(self, logs=None):
        self.least = self.model.apart()
        self.best = ops.convert_to_numpy(self.model.control[...])

    def on_train_batch_begin(self, batch, logs=None):
        # To ask for the model brings its weights up to date, where the backend keeps them apart.
        self.model.search()

    def on_epoch_end(self, epoch, logs=None):
        if self.least is None:
            return
        distance = self.model.apart()
        logs["held_out"] = distance * self.unit
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


@functools.cache
def _shifts(velocity: bool) -> tuple[Callable, Callable]:
    """Functions of parameters, pooling and points: where these move, and the roughness as well."""

    def shift(control, matrix, points):
        return displacement_at(pooled(control, matrix[..., 0], velocity), points)

    def shift_and_roughness(control, matrix, steps, points):
        field = pooled(control, matrix[..., 0], velocity)
        unit = ops.cast(ops.shape(control)[1], "float32") / 2
        # Nobody asks for these derivatives, which cost as much as the rest.
        rough = ops.square(unit) * roughness(field, steps[..., 0])
        return displacement_at(field, ops.stop_gradient(points)), rough

    return kernels.shared_graph(shift), kernels.shared_graph(shift_and_roughness)


def displacement(control, stage: Stage, velocity: bool):
    """The displacement `[1, *lattice, dims]` of the parameters of a stage."""
    return smoothed_lattice(control, stage.pool, velocity)


def as_stages(stages) -> tuple[Stage, ...]:
    known = {field.name for field in fields(Stage)}
    made = []
    for number, stage in enumerate(stages):
        if isinstance(stage, Mapping):
            unknown = sorted(set(stage) - known)
            if unknown:
                raise ValueError(f"stages[{number}] has unknown keys {unknown}, not {known}.")
            try:
                stage = Stage(**stage)
            except ValueError as error:
                raise ValueError(f"stages[{number}]: {error}") from error
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
