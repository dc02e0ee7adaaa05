"""IGR: a surface as the zero set of a network whose gradient has unit length.

Gropp, Yariv, Haim, Atzmon, Lipman: Implicit Geometric Regularization for Learning Shapes,
ICML 2020 (arXiv:2002.10099).

A network f is fitted to one scan X (with normals n where it has them) by

    mean over X of |f(x)|  +  1.0 mean over X of |grad f(x) - n|  +  0.1 mean over Y of
    (|grad f(y)| - 1)^2,

where Y holds a Gaussian sample about each point of X, as wide as the distance to its 50th
neighbour, and an eighth as many uniform samples of a box. Then f is close to the signed distance,
negative inside, and marching cubes extracts the surface.

Everything is trained in the frame in which the longest side of the scan is [-1, 1]. What a signed
distance is good for (meshes, distances in the units of the scan, measures) is in `zoo.surface`.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops
from scipy.spatial import cKDTree

from zoo.data.scan import Scan
from zoo.data.shapes import sphere
from zoo.layers.coordinate_mlp import CoordinateMLP
from zoo.ops.arguments import MOST, checked, not_negative, positive, shown
from zoo.ops.array_arguments import real_array
from zoo.ops.gradients import norm
from zoo.surface import Surface

NETWORK = "width depth skips activation beta centred initialisation radius scale_skips"
"""What of `CoordinateMLP` the constructor takes."""
NNABLA = {"depth": 7, "activation": "leaky_relu", "initialisation": "he", "scale_skips": False}
"""Constructor arguments of the network of the nnabla reproduction (1,576,958 parameters)."""


class IGR(Surface):
    """Signed distance to one scanned surface (or planar curve).

    `fit(scan)` fits, `predict(points)` evaluates, `mesh()` extracts the surface, `evaluate(scan)`
    measures it. Points, distances and meshes are in the units and frame of the scan; distances
    are negative inside, provided that the normals of the scan point outward. Without normals the
    sign comes from the initial sphere, and thin parts may differ between seeds.

    The defaults are the network of the authors: 8 x 512, 1,839,614 parameters.

    Args:
        dims: 3 for surfaces, 2 for planar curves.
        width: hidden units of each layer.
        depth: number of hidden layers.
        skips: linear layers that receive the coordinates again.
        activation: "softplus", "relu" or "leaky_relu".
        beta: sharpness of the softplus.
        centred: shift the softplus to vanish at zero.
        initialisation: "geometric" (a sphere) or "he".
        radius: of the initial sphere, in the frame where the longest side is 2.
        scale_skips: divide by sqrt(2) after a concatenation.
        points_per_step: surface points of one training step; None is 16,384 or, in a smaller
            scan, all of its points.
        neighbours: which neighbour's distance is the width of the local samples.
        box: half side of the cube of the uniform samples.

    Raises:
        ValueError: for arguments out of range.
    """

    default_loss_weights = {"surface": 1.0, "normals": 1.0, "eikonal": 0.1}
    xla_on_cpu = True
    prepare_options = ("steps_per_epoch", "points_per_step", "seed")

    @checked(points_per_step=(1, MOST), neighbours=(1, MOST), box=positive)
    def __init__(
        self,
        dims: int = 3,
        width: int = 512,
        depth: int = 8,
        skips: Sequence[int] = (4,),
        activation: str = "softplus",
        beta: float = 100.0,
        centred: bool = False,
        initialisation: str = "geometric",
        radius: float = 1.0,
        scale_skips: bool = True,
        points_per_step: int | None = None,
        neighbours: int = 50,
        box: float = 1.8,
        **kwargs,
    ):
        super().__init__(dims=dims, **kwargs)
        self.points_per_step, self.neighbours, self.box = points_per_step, neighbours, box
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
        self.network.build((None, dims))

    def get_config(self):
        network = {name: getattr(self.network, name) for name in NETWORK.split()}
        own = {name: getattr(self, name) for name in ("points_per_step", "neighbours", "box")}
        return network | super().get_config() | own

    # The field and its training

    def field(self, points):
        """The network at points `[n, dims]` of the frame, `[n]`."""
        return ops.squeeze(self.network(points), axis=-1)

    def call(self, inputs):
        """Signed distance at points, or what the loss needs of a training batch.

        Args:
            inputs: points `[n, dims]` in the units of the scan; or a training batch, a dict of
                `surface` `[n, dims]`, `off_surface` `[m, dims]` and optionally `normals`
                `[n, dims]`, in the frame where the longest side of the scan is 2.

        Returns:
            Distances `[n, 1]` in the units of the scan; or a dict of `surface_value` `[n]`,
            `surface_gradient` `[n, dims]` (with normals) and `off_surface_gradient` `[m, dims]`.
        """
        if not isinstance(inputs, dict):
            return super().call(inputs)
        count = ops.shape(inputs["surface"])[0]
        if "normals" not in inputs:
            _, gradient = self.field_and_gradient(inputs["off_surface"])
            return {
                "surface_value": self.field(inputs["surface"]),
                "off_surface_gradient": gradient,
            }
        # One pass over both kinds of points: larger products are faster.
        points = ops.concatenate([inputs["surface"], inputs["off_surface"]], axis=0)
        value, gradient = self.field_and_gradient(points)
        return {
            "surface_value": value[:count],
            "surface_gradient": gradient[:count],
            "off_surface_gradient": gradient[count:],
        }

    def loss_terms(self, x, y, y_pred):
        """The three terms of the module's docstring; `normals` only where the batch has them."""
        terms = {
            "surface": ops.mean(ops.abs(y_pred["surface_value"])),
            "eikonal": ops.mean(ops.square(norm(y_pred["off_surface_gradient"]) - 1.0)),
        }
        if "normals" in x:
            terms["normals"] = ops.mean(norm(y_pred["surface_gradient"] - x["normals"]))
        return terms

    def default_optimizer(self):
        return keras.optimizers.Adam(HalvingDecay())

    @checked(steps_per_epoch=(1, MOST), points_per_step=(1, MOST))
    def batches(
        self,
        scan,
        frame,
        steps_per_epoch: int | None = 100,
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
        return SurfaceSampler(
            scan,
            frame,
            steps=steps_per_epoch or 100,
            points=points_per_step or self.points_per_step,
            neighbours=self.neighbours,
            box=self.box,
            seed=seed,
        )

    @classmethod
    def example(cls):
        config = {"width": 32, "depth": 3, "skips": (2,), "neighbours": 10, "points_per_step": 200}
        points = sphere(256, radius=0.8, seed=1).points
        inputs = [points[:37], points[:1], points]
        fit = {"steps_per_epoch": 10}
        return {"config": config, "data": sphere(400), "fit": fit, "inputs": inputs}


class SurfaceSampler(keras.utils.PyDataset):
    """Training batches of one scan, in the frame where its longest side is [-1, 1].

    A batch holds `surface` points drawn without replacement, their `normals` where the scan has
    them, and `off_surface` points: one Gaussian sample about each surface point and an eighth as
    many uniform samples of the box. Each batch depends on (seed, epoch, index) only.

    Args:
        scan: the points.
        frame: centre `[dims]` and scale of the frame; None is the scan's own.
        steps: batches of an epoch.
        points: surface points of a batch; None is 16,384 or all points of a smaller scan.
        neighbours: which neighbour's distance is the standard deviation of the local samples.
        box: half side of the cube of the uniform samples.
        seed: of everything drawn.

    Raises:
        ValueError: if the scan has fewer points than `points`, or not more than `neighbours`.
    """

    @checked(steps=(1, MOST), points=(1, MOST), neighbours=(1, MOST), box=positive)
    def __init__(
        self,
        scan: Scan,
        frame: tuple[np.ndarray, float] | None = None,
        steps: int = 100,
        points: int | None = None,
        neighbours: int = 50,
        box: float = 1.8,
        seed: int = 0,
    ):
        super().__init__()
        if points is not None and points > len(scan):
            raise ValueError(
                f"points_per_step must not exceed the {len(scan)} points of the scan "
                f"{scan.name!r}, not {points}; leave it out to use all of them."
            )
        if len(scan) <= neighbours:
            raise ValueError(
                f"neighbours={neighbours} needs a scan of more points than that; "
                f"{scan.name!r} has {len(scan)}."
            )
        centre, scale = scan.frame if frame is None else frame
        centre, scale = real_array("frame", centre), positive("scale of the frame", scale)
        if centre.shape != (scan.dims,):
            raise ValueError(
                f"frame must be a centre of {scan.dims} numbers and a scale, not {shown(frame)}."
            )
        self.points = ((scan.points - centre) / scale).astype(np.float32)
        self.normals = None if scan.normals is None else scan.normals.astype(np.float32)
        # On the coordinates alone: the authors' code searches positions and normals together.
        distances, _ = cKDTree(self.points).query(self.points, k=neighbours + 1, workers=-1)
        self.sigma = distances[:, -1].astype(np.float32)
        self.count = points or min(16_384, len(scan))
        self.steps, self.box, self.seed = steps, box, seed
        self.epoch = 0

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        rng = np.random.default_rng((self.seed, self.epoch, index))
        chosen = rng.choice(len(self.points), self.count, replace=False, shuffle=False)
        surface = self.points[chosen]
        noise = rng.standard_normal(surface.shape, dtype=np.float32)
        local = surface + self.sigma[chosen, None] * noise
        uniform = rng.uniform(-self.box, self.box, (max(self.count // 8, 1), surface.shape[1]))
        batch = {
            "surface": surface,
            "off_surface": np.concatenate([local, uniform.astype(np.float32)]),
        }
        if self.normals is not None:
            batch["normals"] = self.normals[chosen]
        return (batch,)


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
