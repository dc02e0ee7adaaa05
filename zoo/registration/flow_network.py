"""What networks that give every point of a cloud a vector have in common: frame, losses, map.

Both clouds are brought into a common frame, in which the network sees them: about their means, the
moving one with the standard deviations of the fixed one along every axis, in units of the fixed
cloud's root mean square radius. So weights serve clouds in any unit, at any place.
"""

from __future__ import annotations

import warnings

import keras
import numpy as np
from keras import ops

from zoo.data.cloud_draws import CloudDraws
from zoo.data.pair import LazyPairs, Pair
from zoo.losses import Chamfer, Curvature, DensityDistance, Smoothness
from zoo.ops.arguments import MOST, between, checked, one_of
from zoo.ops.gradients import norm
from zoo.ops.neighbours import METHODS, gathered
from zoo.registration.base import Registration
from zoo.registration.fitting import Training
from zoo.registration.trust import watched
from zoo.transform import Affine, Transform, scattered

DATA = ("chamfer", "density", "both")
FRAMES = ("moments", "centre", "none")
EXTENT = 3.0  # root mean square radii that a density image reaches from the centre
RASTER, BLUR, GAIN = 32, 1.0, 0.25  # voxels, voxels and the factor inside of the squash
TURN, ZOOM, SHIFT = 5.0, 0.05, 0.002  # of the views that teacher and student have: degrees, shares
PAIR_STEPS, FINE_TUNING = 10, 1e-4  # steps of an epoch of `fit(pair)`, and their learning rate
HELD, HELD_SHARE, HELD_MOST = 200, 0.05, 0.1  # points kept from the network: at least, as shares
ROUGH, BENT, INTERPOLATED = 8, 9, 5  # neighbours of the terms of unsupervised training
FLAT = 1e-6  # share of the radius below which an axis has no extent


class FlowNetwork(Registration):
    """Base of networks that move one cloud onto another in a single pass.

    A subclass makes `self.network`, a layer whose `call(moving, fixed, moving_valid, fixed_valid)`
    gives a dict of `flows`, a list of `[b, m, dims]` from the finest level to the coarsest, and of
    `chosen`, the indices of the points of each level among those of the moving cloud. It calls
    `ready()` at the end of its constructor.

    What training minimises depends on what it is given:

    * batches with the true flow, `({"fixed", "moving"}, flow)`: the mean error of all levels;
    * pairs alone: how unlike the moved cloud is, how rough its flow, how it bends (Wu et al.,
      "PointPWC-Net", ECCV 2020, equations 6 to 9), at all levels;
    * pairs alone, with a `teacher`: the flow that a slow average of the network finds, where it
      brings a pair closer than the network itself does, and the same flow on a cloud that it has
      moved (after Bigalke et al., MICCAI 2023, arXiv:2306.14749).

    Args:
        dims: 2 or 3.
        points: at most so many of each cloud go through the network; the flow of others is that of
            a smooth map.
        draws: times that the fixed points are drawn anew, whose flows are averaged.
        frame: "moments", "centre" (about the means, in units of the radius, without the scaling of
            axes) or "none" (coordinates as they are).
        data: "chamfer", "density", or "both": what compares clouds in unsupervised training.
        teacher: how slowly the teacher follows, in [0, 1), such as 0.996; None for no teacher.
        search: of neighbours, "auto", "tree" or "blocks", see `zoo.ops.neighbours`.
        seed: of the choice of points and of the views of teacher and student.

    Raises:
        ValueError: for arguments out of range.
    """

    takes = ("clouds",)
    default_loss_weights = {
        "flow": 1.0,
        "teacher": 1.0,
        "data": 1.0,
        "smoothness": 1.0,
        "curvature": 0.3,
    }
    pair_epochs = 5
    pair_options = ("steps_per_epoch", "learning_rate")
    prepare_options = ("batch_size", "steps_per_epoch", "seed")

    @checked(points=(8, MOST), draws=(1, 1000))
    def __init__(
        self,
        dims: int = 3,
        points: int = 8192,
        draws: int = 4,
        frame: str = "moments",
        data: str = "chamfer",
        teacher: float | None = None,
        search: str = "auto",
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(dims, **kwargs)
        self.points, self.draws, self.seed = points, draws, seed
        self.frame, self.data = one_of("frame", frame, FRAMES), one_of("data", data, DATA)
        if teacher is not None:
            between("teacher", teacher, 0.0, 0.9999999)
        self.teacher, self.search = teacher, one_of("search", search, METHODS)
        self.random = keras.random.SeedGenerator(seed)
        losses = {}
        if data != "density":
            losses["chamfer"] = Chamfer(method=search)
        if data != "chamfer":
            shape = (RASTER,) * dims
            losses["density"] = DensityDistance(shape, BLUR, "tanh", GAIN, balanced=True)
        self._unlike = tuple(losses.items())

    def ready(self) -> None:
        """Makes the teacher, once the network is there."""
        self.taught = None
        if self.teacher is not None:
            self.taught = type(self.network).from_config(
                {**self.network.get_config(), "name": "teacher"}
            )
            self.taught.build()
            self.taught.trainable = False
            self.taught.set_weights(self.network.get_weights())
        self.built = True

    def get_config(self):
        own = ("points", "draws", "frame", "data", "teacher", "search", "seed")
        return super().get_config() | {name: getattr(self, name) for name in own}

    def default_optimizer(self):
        return keras.optimizers.Adam(1e-3, global_clipnorm=1.0)

    # The map

    def call(self, inputs, training=False):
        """Moves clouds.

        Args:
            inputs: dict of `fixed` `[b, n, dims]` and `moving` `[b, m, dims]` in world units, and
                perhaps of their masks `[b, n, 1]` and `[b, m, 1]`.
            training: give out what the losses need instead.

        Returns:
            A dict of `moved` `[b, m, dims]`.
        """
        clouds, masks, back = self._framed(inputs)
        if training:
            if self.taught is None:
                return {"levels": self._levels(self.network, clouds, masks), "clouds": clouds}
            return self._taught(clouds, masks)
        flow = self._levels(self.network, clouds, masks)["flows"][0]
        return {"moved": back(clouds[0] + flow)}

    def _framed(self, inputs) -> tuple:
        """Moving and fixed clouds in the frame, their masks, and the way back to the world."""
        clouds, masks = [], []
        for side in ("moving", "fixed"):
            clouds.append(ops.cast(inputs[side], "float32"))
            masks.append(_counting(inputs, side))
            if masks[-1] is not None:  # what does not count may be anything
                clouds[-1] = ops.where(masks[-1][..., None] > 0, clouds[-1], 0.0)
        if self.frame == "none":
            return clouds, masks, lambda points: points
        (start, spread), (centre, wanted) = map(_moments, clouds, masks)
        unit, scale = _radius(wanted), 1.0
        if self.frame == "moments":
            # An axis along which a cloud is flat says nothing about its scale.
            flat = ops.minimum(spread, wanted) <= FLAT * unit
            scale = ops.where(flat, 1.0, wanted / ops.where(flat, 1.0, spread))
        placed = [scale * (clouds[0] - start) / unit, (clouds[1] - centre) / unit]
        return placed, masks, lambda points: centre + unit * points

    @staticmethod
    def _levels(network, clouds, masks) -> dict:
        return network(*clouds, moving_valid=masks[0], fixed_valid=masks[1])

    # What training minimises

    def loss_terms(self, x, y, y_pred):
        """The terms of the class's docstring, in the frame; those that do not apply are zero."""
        if "clouds" not in y_pred:
            clouds, masks, _ = self._framed(x)
            y_pred = {"levels": self._levels(self.network, clouds, masks), "clouds": clouds}
        moving, fixed = y_pred["clouds"]
        levels, terms = y_pred["levels"], {name: ops.zeros(()) for name in self.loss_weights}
        weight = _counting(x, "moving")
        weight = None if weight is None else weight[..., None]
        if y is not None:
            # The true ends of the points, in the frame.
            ends = self._ends(x, ops.cast(y, "float32"))
            terms["flow"] = _level_errors(levels, ends - moving, weight)
        elif "lesson" in y_pred:
            terms["teacher"] = y_pred["lesson"]
        else:
            terms |= self._unsupervised(levels, moving, fixed, x)
        return terms

    def _ends(self, x, flow):
        """Where points end that follow their flow, in the frame."""
        if self.frame == "none":
            return ops.cast(x["moving"], "float32") + flow
        centre, wanted = _moments(ops.cast(x["fixed"], "float32"), _counting(x, "fixed"))
        return (ops.cast(x["moving"], "float32") + flow - centre) / _radius(wanted)

    def _unsupervised(self, levels, moving, fixed, x) -> dict:
        terms = dict.fromkeys(("data", "smoothness", "curvature"), 0.0)
        masks = tuple(_counting(x, side) for side in ("moving", "fixed"))
        targets = levels.get("targets") or [None] * len(levels["flows"])
        for number, (flow, chosen, target) in enumerate(
            zip(levels["flows"], levels["chosen"], targets, strict=True)
        ):
            source = moving if chosen is None else gathered(moving, chosen[..., None])[:, :, 0]
            goal = fixed if target is None else gathered(fixed, target[..., None])[:, :, 0]
            weights = masks if number == 0 else (None, None)
            for name, loss in self._unlike:
                if name == "density":
                    if number == 0:  # coarse levels have too few points for an image
                        moved = (source + flow) / EXTENT
                        terms["data"] += loss(goal / EXTENT, moved, weights)
                    continue
                terms["data"] += loss(goal, source + flow, weights)
            sizes = [size for size in (source.shape[1], goal.shape[1]) if size is not None]
            if (fewest := min(sizes, default=MOST)) < 3:
                continue  # no neighbours, no shape
            terms["smoothness"] += Smoothness(min(ROUGH, fewest - 1), method=self.search)(
                source, flow, weights[0]
            )
            bending = Curvature(
                min(BENT, fewest - 1), min(INTERPOLATED, fewest), method=self.search
            )
            terms["curvature"] += bending((goal, source), source + flow, weights)
        return terms

    def _taught(self, clouds, masks) -> dict:
        """One step of self-training; the teacher follows the network.

        Either sees the pair turned, scaled and shifted a little, and its flow is turned back.
        """
        for slow, fast in zip(self.taught.weights, self.network.weights, strict=True):
            slow.assign(self.teacher * slow + (1.0 - self.teacher) * fast)
        moving, fixed = clouds
        views = []
        for network in (self.network, self.taught):
            matrix, shift = self._view(ops.shape(moving)[0])
            seen = [ops.matmul(each, matrix) + shift for each in clouds]
            found, inverse = self._levels(network, seen, masks), ops.linalg.inv(matrix)
            flows = [ops.matmul(flow, inverse) for flow in found["flows"]]
            views.append({**found, "flows": flows})
        levels, wanted = views[0], ops.stop_gradient(views[1]["flows"][0])
        compare = Chamfer(method=self.search, reduction=None)
        own = compare(fixed, moving + ops.stop_gradient(levels["flows"][0]), (masks[0], masks[1]))
        better = compare(fixed, moving + wanted, (masks[0], masks[1])) < own
        keep = ops.cast(better, "float32")
        share = ops.sum(keep) / ops.cast(ops.shape(keep)[0], "float32")
        weight = keep[:, None, None] / ops.maximum(share, 1e-6)
        lesson = _level_errors(levels, wanted, weight * _column(masks[0], moving))
        # Half of the moving cloud, as the teacher moves it, is what the other half has to meet.
        half = moving.shape[1] // 2
        parts = (None, None) if masks[0] is None else (masks[0][:, :half], masks[0][:, half:])
        goal = moving[:, :half] + wanted[:, :half]
        again = self._levels(self.network, (moving[:, half:], goal), parts[::-1])
        lesson = lesson + _level_errors(
            again, wanted[:, half:], _column(parts[1], moving[:, half:])
        )
        return {"levels": levels, "clouds": clouds, "lesson": lesson}

    def _view(self, batch) -> tuple:
        """Random similarities, one for each pair, that act on rows: matrices and shifts."""
        draw = [
            keras.random.uniform((batch, count), -1.0, 1.0, seed=self.random)
            for count in (3 if self.dims == 3 else 1, 1, self.dims)
        ]
        angles, scale = draw[0] * np.float32(np.deg2rad(TURN)), 1.0 + ZOOM * draw[1]
        matrix = ops.eye(self.dims)[None]
        planes = ((0, 1), (0, 2), (1, 2)) if self.dims == 3 else ((0, 1),)
        for number, (first, second) in enumerate(planes):
            cosine, sine = ops.cos(angles[:, number]), ops.sin(angles[:, number])
            basis = np.zeros((3, self.dims, self.dims), np.float32)  # kept, turned, and across
            basis[0] = np.eye(self.dims)
            basis[0][first, first] = basis[0][second, second] = 0.0
            basis[1][first, first] = basis[1][second, second] = 1.0
            basis[2][first, second], basis[2][second, first] = 1.0, -1.0
            turn = basis[0] + cosine[:, None, None] * basis[1] + sine[:, None, None] * basis[2]
            matrix = ops.matmul(matrix, turn)
        return scale[:, :, None] * matrix, SHIFT * draw[2][:, None]

    # Pairs

    def prepare(self, data, validation: bool = False, **options):
        """Pairs as batches of drawn points, see `zoo.data.cloud_draws.CloudDraws`."""
        if not isinstance(data, Pair | LazyPairs):
            return data
        self.check_pair(data[0] if isinstance(data, LazyPairs) else data)
        steps = options.pop("steps_per_epoch", None)
        pairs = [data] if isinstance(data, Pair) else data
        options = {"seed": self.seed, **options}
        return CloudDraws(pairs, self.points, steps=None if validation else steps, **options)

    @checked(steps_per_epoch=(1, MOST))
    def fit_pair(
        self, pair: Pair, training: Training, epochs, steps_per_epoch=None, learning_rate=None
    ):
        """Tunes the network to a pair, by the terms of unsupervised training, or the teacher's.

        Args:
            pair: of clouds.
            training: has one stage.
            epochs: 5 by default.
            steps_per_epoch: 10 by default.
            learning_rate: 1e-4 by default.
        """
        usual = float(ops.convert_to_numpy(self.optimizer.learning_rate))
        rate = (FINE_TUNING if learning_rate is None else learning_rate) / usual
        batches = CloudDraws([pair], self.points, 1, steps_per_epoch or PAIR_STEPS, self.seed)
        with training:
            training.stage(self, batches, epochs, rate)

    def map_of(self, pair: Pair) -> Transform:
        """A smooth, invertible map through the flow that the network finds, averaged over draws.

        Where it brings the clouds no closer than they were, the map is the identity, and a warning
        says so; another one says where points that were kept from the network do not confirm it.
        """
        (moving, _), (fixed, _) = (pair.counting(side) for side in ("moving", "fixed"))
        for side, points in (("moving", moving), ("fixed", fixed)):
            if len(points) < 2 * (self.dims + 1):
                raise ValueError(
                    f"{side}: {len(points)} points count; at least {2 * (self.dims + 1)} are needed"
                )
        # Some points of either cloud have no say, and tell what is right.
        random, kept = np.random.default_rng(self.seed), []
        clouds = [points[random.permutation(len(points))] for points in (fixed, moving)]
        for points in clouds:
            held = min(max(HELD, int(HELD_SHARE * len(points))), int(HELD_MOST * len(points)))
            kept.append(len(points) - held)
        source, flow = self.flow_between(clouds[1][: kept[1]], clouds[0][: kept[0]])
        found, start = scattered(source, flow), Affine.identity(self.dims)
        before, after = self.discrepancies(pair, (start, found))
        self.doubts = []
        if not after < before:
            found = start
            self.doubts.append(
                f"the network brings the clouds no closer (mean distance {after:.4g}, "
                f"{before:.4g} before); the transform is the identity"
            )
        elif min(len(points) - count for points, count in zip(clouds, kept, strict=True)):
            watch = watched(clouds[0], kept)
            first, last = (watch.apart(move(clouds[1])) for move in (start.move, found.move))
            if not last.supported(first):
                self.doubts.append(
                    f"the clouds do not support the deformation: the {len(first.distances)} points "
                    "that the network did not see have come no closer than by chance, at a spacing "
                    f"of {watch.spacing:.3g}"
                )
            if max(map(len, clouds)) <= self.points:  # else there are more than enough points
                found = scattered(*self.flow_between(*clouds[::-1]))
        for doubt in self.doubts:
            warnings.warn(f"{pair.name!r}: {doubt}.", UserWarning, stacklevel=4)
        return found

    def flow_between(self, moving, fixed) -> tuple[np.ndarray, np.ndarray]:
        """The flow of some points of a cloud, averaged over draws of the points of the other one.

        Args:
            moving: `[m, dims]` in world units.
            fixed: `[n, dims]`.

        Returns:
            `(points, flow)`, float64 `[k, dims]`: at most `self.points` of the moving ones.
        """
        moving, fixed = (np.asarray(each, np.float64) for each in (moving, fixed))
        random = np.random.default_rng(self.seed)
        # In single precision digits are lost far from the origin.
        centre = np.zeros(self.dims) if self.frame == "none" else fixed.mean(axis=0)
        source = moving[random.permutation(len(moving))[: self.points]]
        arrays, flows = {"moving": (source - centre).astype(np.float32)[None]}, []
        for _ in range(self.draws if len(fixed) > self.points else 1):
            target = fixed[random.permutation(len(fixed))[: self.points]]
            arrays["fixed"] = (target - centre).astype(np.float32)[None]
            flows.append(self.at_once(arrays)["moved"][0] - arrays["moving"][0])
        return source, np.mean(flows, axis=0, dtype=np.float64)

    # What the zoo asks of a method

    def signature(self):
        cloud = {"shape": [None, None, self.dims], "dtype": "float32", "unit": "world"}
        return {"fixed": cloud, "moving": cloud}, {"moved": cloud}

    def export(self, *args, **kwargs):
        """As `zoo.Model.export`; what is exported makes no calls back to the host."""
        usual, self.network.search = self.network.search, "blocks"
        try:
            super().export(*args, **kwargs)
        finally:
            self.network.search = usual

    @classmethod
    def example(cls):
        """Outlines that are bent, with their flow; see `zoo.Model.example`."""
        random = np.random.default_rng(0)
        angles = random.uniform(0, 2 * np.pi, (4, 2, 160))
        radius = 1 + 0.3 * np.cos(3 * angles)
        both = radius[..., None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        bent = both * (1.1, 0.9) + 0.1 * np.sin(2 * both[..., ::-1])
        data = {
            "fixed": bent[:, 0, :130].astype(np.float32),
            "moving": both[:, 1].astype(np.float32),
        }
        flow = (bent - both)[:, 1].astype(np.float32)
        small = [
            {side: random.normal(size=(k, n, 2)).astype(np.float32) for side in data}
            for k, n in ((1, 40), (2, 70))
        ]
        inputs = [{side: data[side][:1] for side in data}, *small]
        config = {"dims": 2, "points": 160}
        return {
            "config": config,
            "data": data,
            "fit": {"y": flow, "batch_size": 2},
            "inputs": inputs,
        }

    def golden_inputs(self):
        random = np.random.default_rng(0)
        moving = random.normal(size=(1, 200, self.dims))
        fixed = moving[:, ::2] * 1.1 + 0.1 * np.sin(2 * moving[:, ::2, ::-1])
        return {"fixed": fixed.astype(np.float32), "moving": moving.astype(np.float32)}


def _counting(inputs, side: str):
    """1 where a point counts and else 0, `[b, n]`, or None where all do."""
    mask = inputs.get(f"{side}_mask")
    return None if mask is None else ops.cast(ops.cast(mask[..., 0], "float32") > 0, "float32")


def _moments(points, mask) -> tuple:
    """Means and standard deviations along each axis, `[b, 1, dims]`."""
    weights = ops.ones_like(points[..., :1]) if mask is None else mask[..., None]
    total = ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1.0)
    # Masked places may hold anything.
    points = ops.where(weights > 0, points, 0.0)
    mean = ops.sum(weights * points, axis=1, keepdims=True) / total
    squares = ops.sum(weights * ops.square(points - mean), axis=1, keepdims=True) / total
    return mean, ops.sqrt(squares)


def _radius(spread):
    """The root mean square radius of clouds `[b, 1, 1]`, by their deviations along the axes."""
    radius = ops.sqrt(ops.sum(ops.square(spread), axis=-1, keepdims=True))
    return ops.where(radius > 0, radius, 1.0)


def _level_errors(levels: dict, flow, weight=None):
    """The mean length of the error of the flow at every level, summed over levels.

    Args:
        levels: what a network gives.
        flow: true one of the moving points, `[b, m, dims]`.
        weight: of the points, `[b, m, 1]`, or None.
    """
    total = 0.0
    for found, chosen in zip(levels["flows"], levels["chosen"], strict=True):
        wanted, share = flow, weight
        if chosen is not None:
            wanted = gathered(flow, chosen[..., None])[:, :, 0]
            share = None if weight is None else gathered(weight, chosen[..., None])[:, :, 0]
        error = norm(found - wanted)
        if share is None:
            total = total + ops.mean(error)
        else:
            share = share[..., 0]
            total = total + ops.sum(share * error) / ops.cast(ops.size(error), "float32")
    return total


def _column(mask, points):
    return ops.ones_like(points[..., :1]) if mask is None else mask[..., None]
