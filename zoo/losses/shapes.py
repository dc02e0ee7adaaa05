"""How unlike two sampled shapes are, with what is known of their points besides positions.

Shapes are tables `[b, n, components]`, one row a point, whose first `rank` components are its
position. What follows are features, or the normal. None needs as many points on both sides.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from zoo.losses.base import blank, check_same, weighted_mean
from zoo.losses.clouds import CloudLoss, visible
from zoo.ops.arguments import at_least, checked, not_negative, one_of, positive
from zoo.ops.gradients import norm
from zoo.ops.neighbours import gathered, hidden, nearest_both_ways
from zoo.ops.splatting import known

BLOCK = 2048  # rows of a kernel or of a plan that are formed at once
ORIENTATIONS = ("oriented", "unoriented")
KERNELS = ("linear", "squared", "constant")


class _ShapeLoss(CloudLoss):
    """Base of the losses of tables; see `zoo.losses.clouds` for `sample_weight`."""

    def __init__(self, rank: int, reduction: str | None, name: str | None):
        super().__init__(reduction, name)
        self.rank = one_of("rank", rank, (2, 3))

    #: Components behind the position; None for any number.
    def behind(self) -> int | None:
        return None

    def check(self, y_true, y_pred) -> None:
        behind = self.behind()
        for name, table in (("y_true", y_true), ("y_pred", y_pred)):
            shape = tuple(table.shape)
            least = self.rank + (behind or 0)
            if len(shape) != 3 or shape[2] < least or (behind is not None and shape[2] != least):
                kind = f"{least}" if behind is not None else f"{least} or more"
                raise ValueError(f"{name} must have the shape [b, n, {kind}], not {shape}.")
        if y_true.shape[2] != y_pred.shape[2]:
            raise ValueError(
                "y_true and y_pred must have as many components, not "
                f"{y_true.shape[2]} and {y_pred.shape[2]}."
            )

    def get_config(self) -> dict:
        return super().get_config() | {"rank": self.rank}


@keras.saving.register_keras_serializable(package="zoo.losses")
class Correspondence(CloudLoss):
    """Mean squared distance of points that are known to correspond, row by row.

    `y_true` and `y_pred` are clouds `[b, n, rank]`; in squared units of the clouds.

    Args:
        reduction, name: as in Keras.

    Raises:
        ValueError: when called with clouds of different shapes.
    """

    @checked()
    def __init__(
        self, reduction: str | None = "sum_over_batch_size", name: str | None = "correspondence"
    ):
        super().__init__(reduction, name)

    def check(self, y_true, y_pred) -> None:
        super().check(y_true, y_pred)
        check_same(y_true, y_pred)

    def compare(self, y_true, y_pred, weights):
        difference = visible(y_true, weights[0]) - visible(y_pred, weights[0])
        return weighted_mean(ops.sum(ops.square(difference), axis=-1), weights[0])


@keras.saving.register_keras_serializable(package="zoo.losses")
class FeatureChamfer(_ShapeLoss):
    """Squared distances to partners that are alike in position and in features.

    `mean_i |x_i - y_p(i)|^2 + mean_j |y_j - x_q(j)|^2`, where `p(i)` is the row of the target that
    is nearest to row i in all components, and `q(j)` that of the source. Distances and gradients
    are of the positions alone; features only say who is whose partner, so that a limb does not
    take the place of another one next to it. They are scaled by whoever calls: components times
    `sqrt(alpha)` count alpha times. Without features it is the Chamfer distance.

    `y_true` is the target `[b, m, rank + c]`, `y_pred` the moved source `[b, n, rank + c]`.

    Args:
        rank: components of the position.
        reduction, name: as in Keras.

    Raises:
        ValueError: for a bad argument, and when called with tables that do not fit.
    """

    @checked()
    def __init__(
        self,
        rank: int = 3,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "feature_chamfer",
    ):
        super().__init__(rank, reduction, name)

    def compare(self, y_true, y_pred, weights):
        target, source = _shown(y_true, weights[1]), _shown(y_pred, weights[0])
        searched = (
            hidden(self.searched(source), weights[0]),
            hidden(self.searched(target), weights[1]),
        )
        there, back = nearest_both_ways(*searched)
        forward = self.unlike(source, gathered(target, there[..., None])[:, :, 0])
        backward = self.unlike(target, gathered(source, back[..., None])[:, :, 0])
        return weighted_mean(forward, weights[0]) + weighted_mean(backward, weights[1])

    def searched(self, table):
        """The table in which partners are searched."""
        return table

    def unlike(self, table, partners):
        """What a pair of rows adds, `[b, n]`."""
        difference = (table - partners)[..., : self.rank]
        return ops.sum(ops.square(difference), axis=-1)


@keras.saving.register_keras_serializable(package="zoo.losses")
class NormalChamfer(FeatureChamfer):
    """Squared distances to the nearest points, and how unlike the normals there are.

    To each squared distance comes `weight (1 - n . m)`, or `weight (1 - (n . m)^2)` for normals
    whose sign means nothing; partners are the nearest in `(x, sqrt(weight / 2) n)`, or in position
    where signs mean nothing. Rows are `(position, unit normal)`, `[b, n, 2 rank]`.

    Args:
        rank: 2 or 3.
        weight: in squared units of the clouds.
        orientation: "oriented" or "unoriented".
        reduction, name: as in Keras.

    Raises:
        ValueError: for a bad argument, and when called with tables that do not fit.
    """

    @checked()
    def __init__(
        self,
        rank: int = 3,
        weight: float = 0.01,
        orientation: str = "oriented",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "normal_chamfer",
    ):
        super().__init__(rank, reduction, name)
        self.weight = float(not_negative("weight", weight))
        self.orientation = one_of("orientation", orientation, ORIENTATIONS)

    def behind(self):
        return self.rank

    def searched(self, table):
        if self.orientation == "unoriented":
            return table[..., : self.rank]
        scale = np.ones(2 * self.rank, np.float32)
        scale[self.rank :] = np.sqrt(self.weight / 2)
        return table * scale

    def unlike(self, table, partners):
        cosine = ops.sum(table[..., self.rank :] * partners[..., self.rank :], axis=-1)
        off = 1.0 - (cosine if self.orientation == "oriented" else ops.square(cosine))
        return super().unlike(table, partners) + self.weight * off

    def get_config(self) -> dict:
        own = {"weight": self.weight, "orientation": self.orientation}
        return super().get_config() | own


@keras.saving.register_keras_serializable(package="zoo.losses")
class Sinkhorn(CloudLoss):
    """Debiased entropic transport of one cloud to the other, for the cost `|x - y|^2 / 2`.

    `OT(a, b) - OT(a, a)/2 - OT(b, b)/2`: not negative, zero for equal clouds, and `|d|^2 / 2` for a
    cloud and itself shifted by d. Potentials are found by symmetric Sinkhorn steps while the blur
    falls from the extent of the clouds to `blur`; gradients are those at the potentials that were
    found (envelope theorem). With a finite `reach` mass need not travel farther than that: it may
    be made and destroyed instead. Plans are never stored; memory grows with 2,048 points times the
    other cloud.

    `y_true` and `y_pred` are clouds `[b, n, rank]`, in any number of points; weights of points, as
    in `Chamfer`, are masses, which are scaled to a sum of 1 each.

    Source: Feydy et al., "Interpolating between optimal transport and MMD using Sinkhorn
    divergences", AISTATS 2019; Sejourne et al., arXiv:1910.12958, for the finite reach.

    Args:
        blur: the root of the entropy's weight at the end, in units of the clouds.
        reach: in units of the clouds; None for balanced transport.
        steps: of Sinkhorn.
        extent: of the clouds, where the blur begins.
        reduction, name: as in Keras.

    Raises:
        ValueError: for a bad argument, and when called with clouds that do not fit.

    Example:
        >>> cloud = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 100, 3))
        >>> round(float(zoo.losses.Sinkhorn()(cloud, cloud + [0.2, 0.0, 0.0])), 4)  # |d|^2 / 2
        0.02
    """

    @checked()
    def __init__(
        self,
        blur: float = 0.02,
        reach: float | None = None,
        steps: int = 12,
        extent: float = 2.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "sinkhorn",
    ):
        super().__init__(reduction, name)
        positive("blur", blur)
        positive("reach", reach, optional=True)
        positive("extent", extent)
        at_least("steps", steps, 1)
        self.blur, self.steps, self.extent = float(blur), int(steps), float(extent)
        self.reach = None if reach is None else float(reach)

    def compare(self, y_true, y_pred, weights):
        clouds, masses = [], []
        for cloud, weight in zip((y_pred, y_true), weights, strict=True):
            cloud = visible(cloud, weight)
            weight = ops.ones_like(cloud[..., 0]) if weight is None else weight
            total = ops.sum(weight, axis=1, keepdims=True)
            clouds.append(cloud)
            masses.append(ops.log(weight / total + 1e-30))
        whole = self._transport(*clouds, *masses)
        own = [self._transport(c, c, m, m) for c, m in zip(clouds, masses, strict=True)]
        return whole - 0.5 * (own[0] + own[1])

    def _transport(self, first, second, first_mass, second_mass):
        f, g = self._potentials(*map(ops.stop_gradient, (first, second)), first_mass, second_mass)
        entropy = self.blur**2
        damped = self._damping(entropy)
        # One more step, which gradients go through, from the potentials that are settled.
        f, g = (
            damped
            * _soft_minimum(first, ops.stop_gradient(second), g + entropy * second_mass, entropy),
            damped
            * _soft_minimum(second, ops.stop_gradient(first), f + entropy * first_mass, entropy),
        )
        value = 0.0
        for potential, mass in ((f, first_mass), (g, second_mass)):
            value = value + ops.sum(ops.exp(mass) * self._paid(potential), axis=1)
        return value

    def _potentials(self, first, second, first_mass, second_mass):
        scales = np.geomspace(self.extent, self.blur, self.steps)
        entropies = np.concatenate([scales, [self.blur]]).astype(np.float32) ** 2
        f, g = ops.zeros_like(first[..., 0]), ops.zeros_like(second[..., 0])
        for entropy in map(float, entropies):
            damped = self._damping(entropy)
            f_new = damped * _soft_minimum(first, second, g + entropy * second_mass, entropy)
            g_new = damped * _soft_minimum(second, first, f + entropy * first_mass, entropy)
            f, g = 0.5 * (f + f_new), 0.5 * (g + g_new)
        return ops.stop_gradient(f), ops.stop_gradient(g)

    def _damping(self, entropy: float) -> float:
        return 1.0 if self.reach is None else 1.0 / (1.0 + entropy / self.reach**2)

    def _paid(self, potential):
        """What a potential adds to the dual cost of each unit of mass."""
        if self.reach is None:
            return potential
        bound, entropy = self.reach**2, self.blur**2
        return (bound + 0.5 * entropy) * (1.0 - ops.exp(-potential / bound))

    def get_config(self) -> dict:
        own = ("blur", "reach", "steps", "extent")
        return super().get_config() | {name: getattr(self, name) for name in own}


@keras.saving.register_keras_serializable(package="zoo.losses")
class Varifold(_ShapeLoss):
    """Squared distance of two shapes as varifolds or currents, which knows where surfaces face.

    `<S, S> + <T, T> - 2 <S, T>` with `<A, B> = sum_ab k(|c_a - c_b|) w(n_a . n_b) |a| |b|`, over
    pieces with the centre c, the normal n and the area |a|, and `k(r) = exp(-r^2 / sigma^2)`.
    Rows are `(centre, area times unit normal)`, `[b, n, 2 rank]`: of the faces of a mesh, or of
    points on it with their share of the area. The kernel of normals w is "linear" (currents),
    "squared" (varifolds, which do not know inside from outside) or "constant". In squared areas.

    Source: Charon and Trouve, SIAM J. Imaging Sciences 2013; Kaltenmark et al., CVPR 2017.

    Args:
        rank: 2 (pieces of a curve, with its length) or 3.
        sigma: width of the kernel of positions, in units of the shapes.
        kernel: of the normals.
        reduction, name: as in Keras.

    Raises:
        ValueError: for a bad argument, and when called with tables that do not fit.

    Example:
        >>> one = np.array([[[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]])  # a face of area 1 at the origin
        >>> turned = one * [1, 1, 1, -1, -1, -1]
        >>> float(zoo.losses.Varifold(kernel="squared")(one, turned))  # signs do not count
        0.0
        >>> float(zoo.losses.Varifold(kernel="linear")(one, turned))
        4.0
    """

    @checked()
    def __init__(
        self,
        rank: int = 3,
        sigma: float = 0.1,
        kernel: str = "squared",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "varifold",
    ):
        super().__init__(rank, reduction, name)
        self.sigma = float(positive("sigma", sigma))
        self.kernel = one_of("kernel", kernel, KERNELS)

    def behind(self):
        return self.rank

    def compare(self, y_true, y_pred, weights):
        pieces = []
        for table, weight in zip((y_pred, y_true), weights, strict=True):
            table = _shown(table, weight)
            area = norm(table[..., self.rank :])
            area = area if weight is None else area * weight
            direction = (
                table[..., self.rank :]
                / ops.maximum(norm(table[..., self.rank :]), 1e-20)[..., None]
            )
            pieces.append((table[..., : self.rank], direction, area))
        source, target = pieces
        # The target's own product is a constant of a registration, and yet part of the distance.
        return (
            self._product(source, source)
            + self._product(target, target)
            - 2.0 * (self._product(source, target))
        )

    def _product(self, first, second):
        def added(centres, directions, areas):
            squares = _squared_distances(centres, second[0])
            kernel = ops.exp(-squares / self.sigma**2)
            if self.kernel != "constant":
                cosine = ops.matmul(directions, ops.swapaxes(second[1], 1, 2))
                kernel = kernel * (cosine if self.kernel == "linear" else ops.square(cosine))
            return ops.sum(areas * ops.matmul(kernel, second[2][..., None])[..., 0], axis=1)

        count = first[0].shape[1]
        if count is None:
            return added(*first)
        total = 0.0
        for start in range(0, count, BLOCK):
            total = total + added(*(each[:, start : start + BLOCK] for each in first))
        return total

    def get_config(self) -> dict:
        return super().get_config() | {"sigma": self.sigma, "kernel": self.kernel}


def _shown(table, weights):
    """The table with zeros at rows of weight zero; what is left must be finite."""
    table = blank(table, None if weights is None else weights[..., None])
    if known(table) and not ops.convert_to_numpy(ops.all(ops.isfinite(table))):
        raise ValueError("shapes must be finite, but hold NaN or infinity.")
    return table


def _squared_distances(first, second):
    """Of all rows of `[b, n, rank]` from all of `[b, m, rank]`, `[b, n, m]`."""
    centre = ops.stop_gradient(ops.mean(second, axis=1, keepdims=True))
    first, second = first - centre, second - centre
    lengths = [ops.sum(ops.square(each), axis=-1) for each in (first, second)]
    products = ops.matmul(first, ops.swapaxes(second, 1, 2))
    return ops.maximum(lengths[0][..., None] + lengths[1][:, None] - 2.0 * products, 0.0)


def _soft_minimum(points, others, values, entropy: float):
    """`-e log sum_j exp((v_j - |x_i - y_j|^2 / 2) / e)`, `[b, n]`, a block of points at a time."""

    def of_block(block):
        costs = 0.5 * _squared_distances(block, others)
        return -entropy * ops.logsumexp((values[:, None] - costs) / entropy, axis=-1)

    count = points.shape[1]
    if count is None or count <= BLOCK:
        return of_block(points)
    blocks = [of_block(points[:, start : start + BLOCK]) for start in range(0, count, BLOCK)]
    return ops.concatenate(blocks, axis=1)
