"""IGR: a surface as the zero set of a network whose gradient has unit length.

Gropp, Yariv, Haim, Atzmon, Lipman: Implicit Geometric Regularization for Learning Shapes,
ICML 2020 (arXiv:2002.10099).

A network f is fitted to one scan X (with normals n where it has them) by

    mean over X of |f(x)|  +  1.0 mean over X of |grad f(x) - n|  +  0.1 mean over Y of
    (|grad f(y)| - 1)^2,

where Y holds a Gaussian sample about each point of X, as wide as the distance to its 50th
neighbour, and an eighth as many uniform samples of a box. Then f is close to the signed distance,
negative inside, and marching cubes extracts the surface.

The authors' network is a large perceptron (`AUTHORS`). By default a small one sees the
interpolations of a multi-resolution hash grid (Mueller et al., arXiv:2201.05989) beside the
coordinates, which takes a minute in place of hours; and the scan guides it where the terms above
leave the field free: normals that are missing are found, noisy points are moved onto the planes
through their neighbours, and a further term

    1.0 mean over U of |f(u) - d(u)|

holds the uniform samples U of Y, as far as they lie clear of the scan, to the distance of its
nearest point, with the sign of the winding number of its points (`zoo.data.winding`). For a fifth
of the training, fading out over another, the field is kept straight along its own slope (Yang et
al., StEik, NeurIPS 2023, arXiv:2305.18414) by

    0.01 mean over Y of |n . H n|

with the Hessian H and the direction n of the gradient, which makes it a better distance. A last
term, the mean over U of exp(-100 |f|), which keeps f from vanishing where there are no points
(Sitzmann et al., SIREN, NeurIPS 2020, arXiv:2006.09661), has no weight unless `compile` gives one
to `sheets`: guided by its scan the field has no use for it.

Everything is trained in the frame in which the longest side of the scan is [-1, 1]. What a signed
distance is good for (meshes, distances in the units of the scan, measures) is in `zoo.surface`.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from zoo.data.shapes import sphere
from zoo.data.surface_batches import SurfaceSampler
from zoo.layers.coordinate_mlp import CoordinateMLP
from zoo.layers.hash_grid import HashGrid
from zoo.losses.signed_distance import signed_distance_terms
from zoo.ops.arguments import MOST, checked, not_negative, one_of, positive
from zoo.ops.falling_rate import fit_falling
from zoo.ops.gradients import norm, value_and_gradient
from zoo.surface import Surface, scan_or_none

NETWORK = "width depth skips activation beta centred initialisation radius scale_skips"
"""What of `CoordinateMLP` the constructor takes."""
OWN = (
    "encoding levels coarsest finest entries features points_per_step neighbours box guided "
    "straight"
)
AUTHORS = {
    "encoding": None,
    "width": 512,
    "depth": 8,
    "skips": (4,),
    "centred": False,
    "guided": False,
    "straight": False,
    "box": 1.8,
}
"""Constructor arguments of the authors' network (1,839,614 parameters) and of their sampler."""
NNABLA = AUTHORS | {
    "depth": 7,
    "activation": "leaky_relu",
    "initialisation": "he",
    "scale_skips": False,
}
"""The same of the nnabla reproduction (1,576,958 parameters)."""
ENCODINGS = (None, "hash")
STEPS = 100  # of an epoch
EPOCHS = 6  # of a fit with a hash grid
FEW, MANY = 4096, 16_384  # surface points of a step with a hash grid and without
SHARPNESS = 100.0  # of the penalty of values close to zero
STRIDE = 0.01  # in the frame, of the differences that tell how the field bends
EVERY = 4  # of how many points one tells it: all take three times as long


class IGR(Surface):
    """Signed distance to one scanned surface (or planar curve).

    `fit(scan)` fits, `predict(points)` evaluates, `mesh()` extracts the surface, `evaluate(scan)`
    measures it. Points, distances and meshes are in the units and frame of the scan; distances
    are negative inside, provided that the normals of the scan point outward. Normals that are
    missing, or contradict one another, are found from the points; not so with `guided=False`, where
    the sign then comes from the initial sphere, and thin parts may differ between seeds.

    Args:
        dims: 3 for surfaces, 2 for planar curves.
        encoding: "hash" for a multi-resolution hash grid, None for coordinates alone.
        levels, coarsest, finest, entries, features: of the grid, see `zoo.layers.HashGrid`; levels
            finer than what a scan shows stay closed.
        width: hidden units of each layer.
        depth: number of hidden layers.
        skips: linear layers that receive the coordinates again.
        activation: "softplus", "relu" or "leaky_relu".
        beta: sharpness of the softplus.
        centred: shift the softplus to vanish at zero.
        initialisation: "geometric" (a sphere) or "he".
        radius: of the initial sphere, in the frame where the longest side is 2.
        scale_skips: divide by sqrt(2) after a concatenation.
        points_per_step: surface points of one training step; None is 4,096, without an encoding
            16,384, or, in a smaller scan, all of its points.
        neighbours: which neighbour's distance is the width of the local samples.
        box: half side of the cube of the uniform samples.
        guided: use what the scan tells beyond its points, see the docstring of the module.
        straight: keep the field from bending at first, see there.

    Raises:
        ValueError: for arguments out of range.
    """

    default_loss_weights = {
        "surface": 1.0,
        "normals": 1.0,
        "eikonal": 0.1,
        "far": 1.0,
        "bending": 0.01,
        "sheets": 0.0,
    }
    xla_on_cpu = True
    prepare_options = ("steps_per_epoch", "points_per_step", "seed")

    @checked(points_per_step=(1, MOST), neighbours=(1, MOST), box=positive)
    def __init__(
        self,
        dims: int = 3,
        encoding: str | None = "hash",
        levels: int = 8,
        coarsest: int = 8,
        finest: int = 192,
        entries: int = 65536,
        features: int = 2,
        width: int = 64,
        depth: int = 2,
        skips: Sequence[int] = (),
        activation: str = "softplus",
        beta: float = 100.0,
        centred: bool = True,
        initialisation: str = "geometric",
        radius: float = 1.0,
        scale_skips: bool = True,
        points_per_step: int | None = None,
        neighbours: int = 50,
        box: float = 1.2,
        guided: bool = True,
        straight: bool = True,
        **kwargs,
    ):
        super().__init__(dims=dims, **kwargs)
        self.encoding = one_of("encoding", encoding, ENCODINGS)
        self.points_per_step, self.neighbours, self.box = points_per_step, neighbours, box
        self.guided, self.straight = guided, straight
        self.levels, self.coarsest, self.finest = levels, coarsest, finest
        self.entries, self.features = entries, features
        self.grid, inputs = None, dims
        if encoding is not None:
            self.grid = HashGrid(dims, levels, coarsest, finest, entries, features, name="grid")
            self.grid.build()
            inputs += self.grid.outputs
        self.network = CoordinateMLP(
            width=width,
            depth=depth,
            skips=skips,
            activation=activation,
            beta=beta,
            centred=centred,
            initialisation=initialisation,
            radius=radius,
            scale_skips=scale_skips,
            name="network",
        )
        self.network.build((None, inputs))

    def get_config(self):
        network = {name: getattr(self.network, name) for name in NETWORK.split()}
        own = {name: getattr(self, name) for name in OWN.split()}
        return network | super().get_config() | own

    # The field and its training

    def field(self, points):
        """The network at points `[n, dims]` of the frame, `[n]`."""
        if self.encoding is not None:
            points = ops.concatenate([points, self.grid(points)], axis=-1)
        return ops.squeeze(self.network(points), axis=-1)

    def field_and_gradient(self, points):
        """The field `[n]` and its gradient `[n, dims]` at points `[n, dims]` of the frame."""
        if self.encoding is None:
            return super().field_and_gradient(points)
        # By the chain rule: backward through the small network, forward through the grid, where a
        # loss of the gradient would otherwise scatter twice.
        features, turns = self.grid.trace(points)
        seen = ops.concatenate([points, features], axis=-1)
        value, slopes = value_and_gradient(lambda x: self.network(x)[:, 0], seen)
        through = ops.sum(turns * slopes[:, None, self.dims :], axis=-1)
        return value, slopes[:, : self.dims] + through

    def call(self, inputs):
        """Signed distance at points, or what the loss needs of a training batch.

        Args:
            inputs: points `[n, dims]` in the units of the scan; or a training batch, a dict of
                `surface` `[n, dims]`, `off_surface` `[m, dims]` and optionally `normals`
                `[n, dims]`, in the frame where the longest side of the scan is 2; see
                `zoo.data.surface_batches.SurfaceSampler`.

        Returns:
            Distances `[n, 1]` in the units of the scan; or a dict of `surface_value` `[n]`,
            `surface_gradient` `[n, dims]` (with normals), `off_surface_value` `[m]` and
            `off_surface_gradient` `[m, dims]`; and, of a batch that has `straight`,
            `off_surface_bending` `[m / 4]`, the second derivative along the gradient.
        """
        if not isinstance(inputs, dict):
            return super().call(inputs)
        outputs = self._seen(inputs)
        if "straight" in inputs and self.loss_weights["bending"]:
            value, slope = (
                outputs[f"off_surface_{name}"][::EVERY] for name in ("value", "gradient")
            )
            length = norm(slope)
            along = ops.stop_gradient(slope / ops.maximum(length, 1e-6)[:, None])
            # Not `field`: a grid that is traced is an order of magnitude faster in XLA.
            ahead, _ = self.field_and_gradient(inputs["off_surface"][::EVERY] + STRIDE * along)
            outputs["off_surface_bending"] = 2 * (ahead - value - STRIDE * length) / STRIDE**2
        return outputs

    def _seen(self, inputs) -> dict:
        """Values and gradients at the points of a training batch."""
        count = ops.shape(inputs["surface"])[0]
        if "normals" not in inputs:
            value, gradient = self.field_and_gradient(inputs["off_surface"])
            return {
                "surface_value": self.field(inputs["surface"]),
                "off_surface_value": value,
                "off_surface_gradient": gradient,
            }
        # One pass over both kinds of points: larger products are faster.
        points = ops.concatenate([inputs["surface"], inputs["off_surface"]], axis=0)
        value, gradient = self.field_and_gradient(points)
        return {
            "surface_value": value[:count],
            "surface_gradient": gradient[:count],
            "off_surface_value": value[count:],
            "off_surface_gradient": gradient[count:],
        }

    def loss_terms(self, x, y, y_pred):
        """The terms of the module's docstring, as far as the batch has what they need."""
        terms = signed_distance_terms(x, y_pred)
        if self.loss_weights["sheets"]:
            uniform = y_pred["off_surface_value"][ops.shape(x["surface"])[0] :]
            terms["sheets"] = ops.mean(ops.exp(-SHARPNESS * ops.abs(uniform)))
        return terms

    @property
    def usual_epochs(self) -> int:
        """Epochs of a training for which none are given: a minute of it with a hash grid."""
        return EPOCHS if self.encoding is not None else super().usual_epochs

    def default_optimizer(self):
        if self.encoding is None:
            return keras.optimizers.Adam(HalvingDecay())
        # A vector of the grid gets a gradient now and then, and small ones.
        return keras.optimizers.Adam(1e-2, beta_2=0.99, epsilon=1e-15)

    def fit(self, x=None, y=None, **kwargs):
        """Fits a scan, see `zoo.Model.fit`.

        With a hash grid there are 6 epochs by default, and the learning rate falls to a hundredth
        of what it is along half a cosine over all epochs; one that is a schedule stays as it is.
        """
        if self.encoding is None or (scan := scan_or_none(x, "x")) is None:
            return super().fit(x, y, **kwargs)
        if not self.compiled:
            self.compile()
        return fit_falling(super().fit, self.optimizer, self.usual_epochs, scan, y, kwargs)

    def prepare(self, data, validation: bool = False, **options):
        """A scan as batches, see `Surface.prepare`; closes levels finer than the scan."""
        batches = super().prepare(data, validation, **options)
        if batches is not data and self.guided and self.encoding is not None and not validation:
            self.grid.limit(batches.detail)
        return batches

    @checked(steps_per_epoch=(1, MOST), points_per_step=(1, MOST))
    def batches(
        self,
        scan,
        frame,
        steps_per_epoch: int | None = STEPS,
        points_per_step: int | None = None,
        seed: int = 0,
    ):
        """Batches of `SurfaceSampler`.

        Args:
            scan: the points.
            frame: centre and scale.
            steps_per_epoch: batches that count as an epoch; None is 100.
            points_per_step: overrides the constructor's.
            seed: of the samples.

        Raises:
            ValueError: for a scan with too few points.
        """
        usual = min(MANY if self.encoding is None else FEW, len(scan))
        return SurfaceSampler(
            scan,
            frame,
            steps=steps_per_epoch or STEPS,
            points=points_per_step or self.points_per_step or usual,
            neighbours=self.neighbours,
            box=self.box,
            seed=seed,
            guided=self.guided,
            straight=self.straight,
        )

    @classmethod
    def example(cls):
        config = {
            "levels": 3,
            "finest": 16,
            "entries": 2**10,
            "width": 32,
            "neighbours": 10,
            "points_per_step": 200,
        }
        points = sphere(256, radius=0.8, seed=1).points
        inputs = [points[:37], points[:1], points]
        fit = {"steps_per_epoch": 10}
        return {"config": config, "data": sphere(400), "fit": fit, "inputs": inputs}


@keras.saving.register_keras_serializable(package="zoo")
class HalvingDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that is halved at fixed intervals, down to a floor.

    Args:
        initial: rate of the first steps.
        interval: steps between two halvings.
        floor: smallest rate.
    """

    @checked(initial=positive, interval=(1, MOST), floor=not_negative)
    def __init__(self, initial: float = 5e-3, interval: int = 2000, floor: float = 5e-6):
        self.initial, self.interval, self.floor = initial, interval, floor

    def __call__(self, step):
        halvings = ops.floor(ops.cast(step, "float32") / self.interval)
        return ops.maximum(self.initial * ops.power(0.5, halvings), self.floor)

    def get_config(self):
        return {"initial": self.initial, "interval": self.interval, "floor": self.floor}
