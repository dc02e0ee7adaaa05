"""How unlike two point clouds are, and how uneven their motion is; none needs correspondences.

Clouds are `[b, n, rank]` with rank 2 or 3, components in the order of the axes. The reference
`y_true` and the prediction `y_pred` may have different numbers of points.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from zoo.losses.base import MaskedLoss, blank, check_same, real_float, weighted_mean
from zoo.ops.arguments import at_least, checked, not_negative, one_of, positive
from zoo.ops.derivatives import spatial_rank
from zoo.ops.gradients import norm
from zoo.ops.neighbours import METHODS, gathered, hidden, nearest_indices
from zoo.ops.sampling import sample
from zoo.ops.splatting import (
    check_points,
    check_shape,
    check_squash,
    density,
    to_normalised,
    to_voxels,
)

DISTANCE_PENALTIES = ("linear", "squared", "huber", "charbonnier", "geman_mcclure")
SIDES = ("both", "moved", "target")


class CloudLoss(MaskedLoss):
    """Base of the losses whose clouds have different numbers of points.

    `sample_weight` holds weights of the points of `y_pred`, `[b, n]`, or factors `[b]`; or a tuple
    of weights of `y_pred` and of `y_true`, either of which may be None. A point of weight zero has
    no effect, whatever stands there.
    """

    def __call__(self, y_true, y_pred, sample_weight=None):
        several = isinstance(y_true, tuple)
        y_true = [real_float("y_true", each) for each in (y_true if several else (y_true,))]
        y_true, y_pred = tuple(y_true) if several else y_true[0], real_float("y_pred", y_pred)
        self.check(y_true, y_pred)
        pair = isinstance(sample_weight, tuple)
        if pair and len(sample_weight) != 2:
            raise ValueError(
                "sample_weight must be weights of y_pred, or a tuple of those of y_pred and "
                f"y_true, not a tuple of {len(sample_weight)}."
            )
        weights, true_weights = sample_weight if pair else (sample_weight, None)
        pack = {"clouds": y_true}
        mask, factors = self._split(y_pred, weights)
        if mask is not None:
            pack["weights"] = mask
        if true_weights is not None:
            target = y_true[0] if isinstance(y_true, tuple) else y_true
            pack["true_weights"], other = self._split(target, true_weights)
            if other is not None:
                raise ValueError(
                    f"weights of y_true must have the shape {tuple(target.shape)[:2]}, not "
                    f"{tuple(other.shape)}."
                )
        return keras.losses.Loss.__call__(self, pack, y_pred, factors)

    def call(self, y_true, y_pred):
        weights = y_true.get("weights"), y_true.get("true_weights")
        return self.compare(y_true["clouds"], y_pred, weights)

    def check(self, y_true, y_pred) -> None:
        _check_clouds(y_true=y_true, y_pred=y_pred)


@keras.saving.register_keras_serializable(package="zoo.losses")
class DensityDistance(CloudLoss):
    """Mean difference of the density images of two clouds, linear in the number of points.

    Both clouds are splatted, blurred and squashed (`zoo.ops.splatting.density`) and compared voxel
    by voxel, at one or several sizes of the image: `sum_s w_s mean_x |D_s(pred) - D_s(true)|^p`
    with p 1 or 2 and the w normalised to sum 1. Points pull only as far as the blur of the coarsest
    image reaches. Unitless. Source: Heinrich et al., "Chasing clouds", ICCV 2023.

    Clouds are normalised to [-1, 1]. Weights of their points, as in `Chamfer`, multiply what they
    add to the image.

    Args:
        shapes: sizes of the image, or a sequence of such.
        sigma, squash, gain: see `zoo.ops.splatting.density`.
        power: 1 or 2.
        shape_weights: weights of the images; all the same when None.
        balanced: scale the weights of `y_pred` so that both clouds have the same mass.
        reduction, name: as in Keras.

    Raises:
        ValueError: for a bad argument, and when called with clouds or weights that do not fit.

    Example:
        >>> cloud = np.random.default_rng(0).uniform(-0.8, 0.8, (1, 100, 3))
        >>> loss = zoo.losses.DensityDistance((16, 16, 16))
        >>> float(loss(cloud, cloud[:, ::-1])) < 1e-6 < float(loss(cloud, cloud + 0.1))  # no order
        True
    """

    @checked()
    def __init__(
        self,
        shapes: Sequence[int] | Sequence[Sequence[int]] = (64, 64, 64),
        sigma: float = 0.7,
        squash: str | None = "tanh",
        gain: float | None = None,
        power: int = 1,
        shape_weights: Sequence[float] | None = None,
        balanced: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "density_distance",
    ):
        super().__init__(reduction, name)
        several = bool(shapes) and not np.isscalar(shapes[0])
        given = shapes if several else (shapes,)
        self.shapes = tuple(check_shape(shape, "shapes") for shape in given)
        if len({len(shape) for shape in self.shapes}) > 1:
            raise ValueError(f"shapes must all be of one rank, not {self.shapes}.")
        not_negative("sigma", sigma)
        check_squash(squash, gain)
        one_of("power", power, (1, 2))
        if shape_weights is not None and (
            len(shape_weights) != len(self.shapes) or not min(shape_weights) > 0
        ):
            raise ValueError(
                f"shape_weights must be {len(self.shapes)} positive numbers, not {shape_weights}."
            )
        self.sigma, self.squash, self.gain = float(sigma), squash, gain
        self.power, self.balanced = power, bool(balanced)
        self.shape_weights = None if shape_weights is None else tuple(map(float, shape_weights))

    def check(self, y_true, y_pred) -> None:
        _check_clouds(len(self.shapes[0]), y_true=y_true, y_pred=y_pred)

    def compare(self, y_true, y_pred, weights):
        true, pred = visible(y_true, weights[1]), visible(y_pred, weights[0])
        weights = list(weights)
        if self.balanced:
            ones = [ops.ones_like(cloud[..., 0]) for cloud in (pred, true)]
            weights = [one if w is None else w for w, one in zip(weights, ones, strict=True)]
            masses = [ops.sum(weight, axis=1, keepdims=True) for weight in weights]
            weights[0] = weights[0] * masses[1] / ops.where(masses[0] > 0, masses[0], 1.0)
        shares = np.array(self.shape_weights or [1.0] * len(self.shapes))
        total = 0.0
        for shape, share in zip(self.shapes, shares / shares.sum(), strict=True):
            options = {"sigma": self.sigma, "squash": self.squash, "gain": self.gain}
            target = density(true, shape, weights[1], **options)
            difference = ops.abs(density(pred, shape, weights[0], **options) - target)
            values = difference if self.power == 1 else ops.square(difference)
            total = total + float(share) * weighted_mean(values)
        return total

    def get_config(self) -> dict:
        arguments = ("shapes", "sigma", "squash", "gain", "power", "shape_weights", "balanced")
        return super().get_config() | {name: getattr(self, name) for name in arguments}


class _Penalty:
    """A function of squared distances: `penalty` and its `scale`, capped at the distance `trim`."""

    def __init__(self, penalty: str, scale: float, trim: float | None):
        one_of("penalty", penalty, DISTANCE_PENALTIES)
        positive("scale", scale)
        positive("trim", trim, optional=True)
        self.penalty, self.scale, self.trim = penalty, float(scale), trim

    def __call__(self, squared):
        values = self._penalise(squared)
        if self.trim is None:
            return values
        cap = self._penalise(ops.full_like(squared, self.trim**2))
        return ops.where(squared < self.trim**2, values, cap)

    def _penalise(self, squared):
        scale = self.scale
        if self.penalty == "squared":
            return squared
        if self.penalty == "charbonnier":
            # Without the difference of nearly equal numbers of `sqrt(d^2 + s^2) - s`.
            return squared / (ops.sqrt(squared + scale**2) + scale)
        if self.penalty == "geman_mcclure":
            return scale**2 * squared / (squared + scale**2)
        # The root must stay finite where it is not used: `where` differentiates both branches.
        distance = ops.sqrt(ops.where(squared > 0, squared, 1.0))
        distance = ops.where(squared > 0, distance, 0.0)
        if self.penalty == "linear":
            return distance
        return ops.where(distance <= scale, squared, scale * (2.0 * distance - scale))


@keras.saving.register_keras_serializable(package="zoo.losses")
class Chamfer(CloudLoss):
    """Mean distance of every point to the nearest one of the other cloud, in both directions.

    `mean_i r(min_j |p_i - q_j|) + mean_j r(min_i |q_j - p_i|)`, exact for clouds of any size. With
    distance d and scale s, r is "squared" `d^2`, "linear" `d`, "huber" `d^2` up to s and
    `2 s d - s^2` beyond, "charbonnier" `sqrt(d^2 + s^2) - s`, or "geman_mcclure"
    `s^2 d^2 / (d^2 + s^2)`. Which point is nearest carries no gradient; the distances to it do.

    Clouds are in any unit, and so is the result. `sample_weight` holds weights of the points of
    `y_pred`, `[b, n]`, or factors `[b]`; or a tuple of weights of `y_pred` and of `y_true`. The
    means are weighted; a point of weight zero has no effect, whatever stands there.

    On a CPU the neighbours come from a tree on the host, which TensorFlow's XLA cannot call:
    compile a model with `jit_compile=False`, or take "blocks".

    Args:
        penalty: r.
        scale: s, in the unit of the clouds.
        trim: distance beyond which r stays what it is there, without gradient; None for no limit.
        sides: "both"; "moved" for the first mean alone, from `y_pred` to `y_true`; or "target".
        method: search of the neighbours, see `zoo.ops.neighbours.nearest_neighbours`.
        reduction, name: as in Keras.

    Raises:
        ValueError: for a bad argument, and when called with clouds or weights that do not fit.

    Example:
        >>> one, other = np.array([[[0.0, 0.0, 0.0]]]), np.array([[[3.0, 4.0, 0.0]]])
        >>> float(zoo.losses.Chamfer("linear")(one, other)), float(zoo.losses.Chamfer()(one, other))
        (10.0, 50.0)
    """

    @checked()
    def __init__(
        self,
        penalty: str = "squared",
        scale: float = 1.0,
        trim: float | None = None,
        sides: str = "both",
        method: str = "auto",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "chamfer",
    ):
        super().__init__(reduction, name)
        self._penalty = _Penalty(penalty, scale, trim)
        self.sides, self.method = one_of("sides", sides, SIDES), one_of("method", method, METHODS)

    def compare(self, y_true, y_pred, weights):
        own, other = weights
        pred, true = visible(y_pred, own), visible(y_true, other)
        total = 0.0
        if self.sides != "target":
            total = total + self._one_way(pred, true, own, other)
        if self.sides != "moved":
            total = total + self._one_way(true, pred, other, own)
        return total

    def _one_way(self, queries, points, weights, point_weights):
        index = nearest_indices(queries, hidden(points, point_weights), 1, self.method)
        offsets = queries - gathered(points, index)[:, :, 0]
        mean = weighted_mean(self._penalty(ops.sum(ops.square(offsets), axis=-1)), weights)
        if point_weights is None:
            return mean
        return mean * ops.cast(ops.any(point_weights > 0, axis=1), "float32")

    def get_config(self) -> dict:
        penalty = {name: getattr(self._penalty, name) for name in ("penalty", "scale", "trim")}
        return super().get_config() | penalty | {"sides": self.sides, "method": self.method}


@keras.saving.register_keras_serializable(package="zoo.losses")
class DistanceTransform(MaskedLoss):
    """Mean distance of points to a cloud, read from a volume that was computed beforehand.

    `y_true` is `zoo.ops.splatting.distance_volume(target, shape)`, `[b, *shape, 1]`; `y_pred` are
    the points `[b, n, rank]`, normalised to [-1, 1]. The volume is interpolated linearly; beyond
    its outermost voxel centres the distance to these is added. Exact to about a voxel, one-sided:
    parts of the target that no point covers do not count. In the normalised unit, or its square.
    `sample_weight` holds weights of the points, `[b, n]`, or factors `[b]`.

    Source: Li et al., "Fast neural scene flow", ICCV 2023, arXiv:2304.09121.

    Args:
        penalty, scale, trim: see `Chamfer`.
        reduction, name: as in Keras.

    Raises:
        ValueError: for a bad argument, and when called with shapes that do not fit.
    """

    @checked()
    def __init__(
        self,
        penalty: str = "linear",
        scale: float = 1.0,
        trim: float | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "distance_transform",
    ):
        super().__init__(reduction, name)
        self._penalty = _Penalty(penalty, scale, trim)

    def check(self, y_true, y_pred) -> None:
        rank = spatial_rank(y_true, "y_true", "1")
        if y_true.shape[-1] != 1:
            raise ValueError(f"y_true must have one channel, not {tuple(y_true.shape)}.")
        _check_clouds(rank, y_pred=y_pred)

    def compare(self, y_true, y_pred, mask):
        shape = y_true.shape[1:-1]
        voxels = to_voxels(visible(y_pred, mask), shape)
        inside = ops.minimum(ops.maximum(voxels, 0.0), np.array(shape, "float32") - 1.0)
        beyond = to_normalised(voxels, shape) - to_normalised(inside, shape)
        distance = sample(y_true, voxels)[..., 0] + norm(beyond)
        return weighted_mean(self._penalty(ops.square(distance)), mask)

    def get_config(self) -> dict:
        penalty = {name: getattr(self._penalty, name) for name in ("penalty", "scale", "trim")}
        return super().get_config() | penalty


@keras.saving.register_keras_serializable(package="zoo.losses")
class Smoothness(MaskedLoss):
    """How much the flow of a point differs from that of its neighbours.

    `mean_i 1/k sum_j |f_j - f_i|` over the k nearest other points of the source, or of the squares;
    in the unit of the flow. `y_true` is the source cloud and `y_pred` its flow, both
    `[b, n, rank]`; `sample_weight` may mask points, `[b, n]`, which then are nobody's neighbours.
    On a CPU the neighbours come from a tree, see `Chamfer`.

    Source: Wu et al., "PointPWC-Net", ECCV 2020, arXiv:1911.12408, equation 7.

    Args:
        neighbours: k.
        squared: average the squared lengths instead.
        method: search of the neighbours, see `zoo.ops.neighbours.nearest_neighbours`.
        reduction, name: as in Keras.

    Raises:
        ValueError: for a bad argument, and when called with shapes that differ, or with fewer than
            k + 1 points.
    """

    @checked()
    def __init__(
        self,
        neighbours: int = 8,
        squared: bool = False,
        method: str = "auto",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "smoothness",
    ):
        super().__init__(reduction, name)
        _check_neighbours(method, neighbours=neighbours)
        self.neighbours, self.squared, self.method = int(neighbours), bool(squared), method

    def check(self, y_true, y_pred) -> None:
        _check_clouds(y_true=y_true, y_pred=y_pred)
        check_same(y_true, y_pred)
        _check_count(self.neighbours + 1, "neighbours + 1", y_true=y_true)

    def compare(self, y_true, y_pred, mask):
        source, flow = visible(y_true, mask), visible(y_pred, mask)
        # Each point is its own neighbour too, and adds nothing.
        index = nearest_indices(source, hidden(source, mask), self.neighbours + 1, self.method)
        differences = gathered(flow, index) - flow[:, :, None]
        lengths = ops.sum(ops.square(differences), axis=-1) if self.squared else norm(differences)
        return weighted_mean(ops.sum(lengths, axis=-1) / self.neighbours, mask)

    def get_config(self) -> dict:
        arguments = ("neighbours", "squared", "method")
        return super().get_config() | {name: getattr(self, name) for name in arguments}


@keras.saving.register_keras_serializable(package="zoo.losses")
class Curvature(CloudLoss):
    """Squared difference of the Laplacian coordinates of the moved source and of the target.

    The coordinate of a point is `1/k sum_j (x_j - x_i)` over its k nearest other points; those of
    the moved source are taken from the unmoved one. The target's are interpolated at the moved
    points from the nearest ones, with weights `1 / (d^2 + e)`. In squared units of the clouds.

    `y_true` is the tuple `(target, source)`, `y_pred` the moved source; `sample_weight` as in
    `Chamfer`. On a CPU the neighbours come from a tree, see there.

    Source: Wu et al., "PointPWC-Net", ECCV 2020, arXiv:1911.12408, equations 8 and 9.

    Args:
        neighbours: k.
        interpolated: number of target points to interpolate from.
        epsilon: e, in squared units of the clouds.
        method: search of the neighbours, see `zoo.ops.neighbours.nearest_neighbours`.
        reduction, name: as in Keras.

    Raises:
        ValueError: for a bad argument, and when called with clouds that do not fit or hold too few
            points.
    """

    @checked()
    def __init__(
        self,
        neighbours: int = 9,
        interpolated: int = 5,
        epsilon: float = 1e-8,
        method: str = "auto",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "curvature",
    ):
        super().__init__(reduction, name)
        _check_neighbours(method, neighbours=neighbours, interpolated=interpolated)
        positive("epsilon", epsilon)
        self.neighbours, self.interpolated = int(neighbours), int(interpolated)
        self.epsilon, self.method = float(epsilon), method

    def check(self, y_true, y_pred) -> None:
        if not isinstance(y_true, tuple) or len(y_true) != 2:
            raise ValueError("y_true must be the tuple (target, source).")
        target, source = y_true
        _check_clouds(target=target, source=source, y_pred=y_pred)
        check_same(source, y_pred, ("source", "y_pred"))
        _check_count(self.neighbours + 1, "neighbours + 1", source=source, target=target)
        _check_count(self.interpolated, "interpolated", target=target)

    def compare(self, y_true, y_pred, weights):
        own, other = weights
        target, source = visible(y_true[0], other), visible(y_true[1], own)
        moved = visible(y_pred, own)
        wanted = self._laplacian(target, target, other)
        index = nearest_indices(moved, hidden(target, other), self.interpolated, self.method)
        offsets = gathered(target, index) - moved[:, :, None]
        nearness = 1.0 / (ops.sum(ops.square(offsets), axis=-1, keepdims=True) + self.epsilon)
        wanted = ops.sum(nearness * gathered(wanted, index), axis=2) / ops.sum(nearness, axis=2)
        difference = self._laplacian(source, moved, own) - wanted
        return weighted_mean(ops.sum(ops.square(difference), axis=-1), own)

    def _laplacian(self, cloud, moved, weights):
        index = nearest_indices(cloud, hidden(cloud, weights), self.neighbours + 1, self.method)
        return ops.sum(gathered(moved, index) - moved[:, :, None], axis=2) / self.neighbours

    def get_config(self) -> dict:
        arguments = ("neighbours", "interpolated", "epsilon", "method")
        return super().get_config() | {name: getattr(self, name) for name in arguments}


def visible(points, weights):
    """The cloud with zeros at points of weight zero; what is left must be finite."""
    points = blank(points, None if weights is None else weights[..., None])
    check_points(points, "points")
    return points


def _check_clouds(rank: int | None = None, **clouds) -> None:
    for name, cloud in clouds.items():
        # What stands at points of weight zero is looked at later, or not at all.
        check_points(cloud, name, rank, finite=False)
    batches = {cloud.shape[0] for cloud in clouds.values()} - {None}
    if len(batches) > 1 or len({cloud.shape[-1] for cloud in clouds.values()}) > 1:
        shapes = ", ".join(str(tuple(cloud.shape)) for cloud in clouds.values())
        raise ValueError(f"{', '.join(clouds)} must have one batch size and rank, not {shapes}.")


def _check_neighbours(method: str, **counts) -> None:
    one_of("method", method, METHODS)
    for name, count in counts.items():
        at_least(name, count, 1)


def _check_count(least: int, what: str, **clouds) -> None:
    for name, cloud in clouds.items():
        if cloud.shape[1] is not None and cloud.shape[1] < least:
            raise ValueError(
                f"{name} must hold at least {what} = {least} points, not {cloud.shape[1]}."
            )
