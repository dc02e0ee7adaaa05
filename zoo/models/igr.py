"""IGR: a surface as the zero set of a network whose gradient has unit length.

Gropp, Yariv, Haim, Atzmon, Lipman: Implicit Geometric Regularization for Learning Shapes,
ICML 2020 (arXiv:2002.10099).

A network f is fitted to one scan X (with normals n where it has them) by

    mean over X of |f(x)|  +  1.0 mean over X of |grad f(x) - n|  +  0.1 mean over Y of
    (|grad f(y)| - 1)^2,

where Y holds a Gaussian sample about each point of X, as wide as the distance to its 50th
neighbour, and an eighth as many uniform samples of a box. Then f is close to the signed distance,
negative inside, and marching cubes extracts the surface.

Everything is trained in the frame in which the longest side of the scan is [-1, 1]; the model
stores that frame and speaks the units of the scan to the outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops
from scipy.spatial import cKDTree

from zoo.data.scan import Scan, as_scan
from zoo.data.shapes import sphere
from zoo.layers.coordinate_mlp import CoordinateMLP
from zoo.metrics import surface as surface_metrics
from zoo.model import Model
from zoo.ops.compiling import compiled, in_chunks
from zoo.ops.gradients import norm, value_and_gradient
from zoo.ops.isosurface import zero_level_curve, zero_level_set

NNABLA = {"depth": 7, "activation": "leaky_relu", "initialisation": "he", "scale_skips": False}
"""Constructor arguments of the network of the nnabla reproduction (1,576,958 parameters)."""

MESH_BOX = 1.2  # half side of the cube that is searched for the surface, in the model's frame


class IGR(Model):
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
        # Coordinates need float32 under any precision policy.
        super().__init__(autocast=False, **{**kwargs, "dtype": "float32"})
        if dims not in (2, 3):
            raise ValueError(f"dims must be 2 or 3, not {dims}.")
        if points_per_step is not None and points_per_step < 1:
            raise ValueError(f"points_per_step must be positive or None, not {points_per_step}.")
        if neighbours < 1 or box <= 0:
            raise ValueError(f"neighbours and box must be positive, not {neighbours} and {box}.")
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
        self.dims = dims
        self.points_per_step = points_per_step
        self.neighbours = neighbours
        self.box = box
        self.centre = self.add_weight(
            shape=(dims,), initializer="zeros", dtype="float32", trainable=False, name="centre"
        )
        self.scale = self.add_weight(
            shape=(), initializer="ones", dtype="float32", trainable=False, name="scale"
        )
        self.network.build((None, dims))
        self.built = True
        self._field = compiled(lambda points: (self._value(points),), self)
        self._field_gradient = compiled(self._value_and_gradient, self)

    def get_config(self):
        network = self.network.get_config()
        for name in ("name", "trainable", "dtype", "outputs"):
            del network[name]
        own = {
            name: getattr(self, name) for name in ("dims", "points_per_step", "neighbours", "box")
        }
        return super().get_config() | network | own

    def build(self, input_shape=None):
        """Nothing to do: the input width is known from `dims`."""

    def count_params(self):
        """Parameters of the network; the stored frame of the scan is none."""
        return self.network.count_params()

    # The field and its training

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
            points = ops.cast(inputs, "float32")
            return self.network((points - self.centre) / self.scale) * self.scale
        count = ops.shape(inputs["surface"])[0]
        if "normals" not in inputs:
            _, gradient = self._value_and_gradient(inputs["off_surface"])
            return {
                "surface_value": self._value(inputs["surface"]),
                "off_surface_gradient": gradient,
            }
        # One pass over both kinds of points: larger products are faster.
        points = ops.concatenate([inputs["surface"], inputs["off_surface"]], axis=0)
        value, gradient = self._value_and_gradient(points)
        return {
            "surface_value": value[:count],
            "surface_gradient": gradient[:count],
            "off_surface_gradient": gradient[count:],
        }

    def _value(self, points):
        return ops.squeeze(self.network(points), axis=-1)

    def _value_and_gradient(self, points):
        return value_and_gradient(self._value, points)

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

    def prepare(self, data, steps_per_epoch=100, points_per_step=None, seed=0, validation=False):
        """A scan (or mesh, array of points, dict of `points` and `normals`) as batches.

        The bounding box of the scan becomes the frame of the model.

        Args:
            data: the scan; a data set of batches is returned as it came.
            steps_per_epoch: batches that count as an epoch.
            points_per_step: overrides the constructor's.
            seed: of the samples.
            validation: the scan is not trained on: the frame of the model stays.

        Raises:
            ValueError: for a scan of other dimension than the model's, or one with too few points.
        """
        scan = as_scan(data)
        if scan is None:
            return data
        self._check_dims(scan)
        centre, scale = (self._centre, self._scale) if validation else scan.frame
        sampler = SurfaceSampler(
            scan,
            (centre, scale),
            steps=steps_per_epoch,
            points=points_per_step or self.points_per_step,
            neighbours=self.neighbours,
            box=self.box,
            seed=seed,
        )
        # Only after the sampler has accepted the scan: a refused fit leaves the model as it was.
        self.centre.assign(centre)
        self.scale.assign(scale)
        return sampler

    # Use of a fitted model

    def predict(self, x, batch_size: int = 16_384, **kwargs):
        """Signed distance `[n, 1]` at points `[n, dims]`, in the units of the scan.

        The points are brought into the model's frame in double precision, so clouds far from the
        origin keep their detail, which calling the model on float32 points loses. Memory is
        bounded by `batch_size` points at a time.

        Args:
            x: array of points, or a scan; anything else goes to `keras.Model.predict`.
            batch_size: points at a time.
            **kwargs: arguments of `keras.Model.predict` for other inputs.

        Raises:
            ValueError: for points of another dimension, or values that are not finite.
        """
        scan = x if isinstance(x, Scan) else None
        if scan is None and not isinstance(x, np.ndarray | list | tuple):
            return super().predict(x, batch_size=batch_size, **kwargs)
        points = np.asarray(x if scan is None else scan.points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != self.dims:
            raise ValueError(f"x must have the shape [n, {self.dims}], not {points.shape}.")
        if not np.isfinite(points).all():
            raise ValueError("x must be finite; it holds NaN or infinite coordinates.")
        return (self._distances(self._into_frame(points), batch_size) * self._scale)[:, None]

    def mesh(
        self,
        resolution: int = 256,
        sparse: bool = True,
        trim: Scan | None = None,
        trim_distance: float | None = None,
    ):
        """The zero level set as a mesh in the units and frame of the scan, faces outward.

        Args:
            resolution: cells along each side of the cube, which is 1.2 times the scan's.
            sparse: evaluate only where the surface can be; False visits the whole grid.
            trim: cut off what lies farther than `trim_distance` from the points of this scan, so
                that its holes stay open; the network closes them.
            trim_distance: in the units of the scan; default 2 % of its longest side.

        Returns:
            A `trimesh.Trimesh`, closed unless trimmed or cut by the cube.

        Raises:
            zoo.ops.isosurface.NoSurface: if the field has no zero.
            ValueError: for a planar model, which has `contours` instead.
        """
        import trimesh

        if self.dims != 3:
            raise ValueError("mesh needs dims=3; a planar model has contours().")
        vertices, faces = zero_level_set(
            self._distances, [-MESH_BOX] * 3, [MESH_BOX] * 3, resolution, sparse=sparse
        )
        vertices = vertices * self._scale + self._centre
        if trim is not None:
            limit = 0.04 * self._scale if trim_distance is None else trim_distance
            far = cKDTree(_scan(trim, "trim").points).query(vertices, workers=-1)[0] > limit
            faces = faces[~far[faces].any(axis=1)]
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        if trim is not None:
            mesh.remove_unreferenced_vertices()
        return mesh

    def contours(self, resolution: int = 256) -> list[np.ndarray]:
        """The zero level set of a planar model as polylines `[k, 2]` in the frame of the scan.

        Args:
            resolution: cells along each side of the square, which is 1.2 times the scan's.

        Raises:
            zoo.ops.isosurface.NoSurface: if the field has no zero.
            ValueError: for a model of surfaces, which has `mesh` instead.
        """
        if self.dims != 2:
            raise ValueError("contours needs dims=2; a model of surfaces has mesh().")
        curves = zero_level_curve(self._distances, [-MESH_BOX] * 2, [MESH_BOX] * 2, resolution)
        return [curve * self._scale + self._centre for curve in curves]

    def evaluate(
        self,
        x=None,
        *args,
        scan: Scan | None = None,
        resolution: int = 256,
        trim: Scan | None = None,
        samples: int = 1_000_000,
        seed: int = 412,
        **kwargs,
    ):
        """Measures the reconstruction against points of the true surface that were not fitted.

        Args:
            x: a scan or mesh (or array of points, or dict of `points` and `normals`); a data set
                of batches is evaluated by `keras.Model.evaluate` instead.
            scan: the fitted (noisy) scan, for the one-sided distances of the benchmark.
            resolution: of the mesh.
            trim: passed on to `mesh`.
            samples: points on the mesh for the benchmark's distances.
            seed: of the points on the mesh.

        Returns:
            `chamfer` and `hausdorff` in the frame where the longest side of the scan is 2;
            `benchmark_chamfer`, `benchmark_hausdorff` (and with `scan` their one-sided
            `benchmark_scan_...`) in its units, see `zoo.metrics.surface`; `normal_consistency`
            where x has normals; `surface_residual`, mean |f| at the points of x in the frame;
            `eikonal_residual`, mean ||grad f| - 1| in the scan's bounding cube.
        """
        truth = as_scan(x)
        if truth is None:
            return super().evaluate(x, *args, **kwargs)
        self._check_dims(truth)
        if self.dims == 3:
            surface, sample = self.mesh(resolution, trim=trim), _sample_mesh
        else:
            surface, sample = self.contours(resolution), _sample_curves
        sampled, normals = sample(surface, samples, seed)
        few, _ = sample(surface, len(truth), seed)
        results = surface_metrics.held_out_distances(
            few, truth.points, self._centre, self._scale
        ) | surface_metrics.benchmark_distances(
            sampled, truth.points, None if scan is None else _scan(scan, "scan").points
        )
        if truth.normals is not None:
            results["normal_consistency"] = surface_metrics.normal_consistency(
                sampled, normals, truth.points, truth.normals
            )
        on_surface = self._distances(self._into_frame(truth.points))
        cube = np.random.default_rng(seed).uniform(-1, 1, (20_000, self.dims))
        _, gradients = in_chunks(self._field_gradient, cube)
        results["surface_residual"] = float(np.abs(on_surface).mean())
        lengths = np.linalg.norm(gradients, axis=1)
        results["eikonal_residual"] = float(np.abs(lengths - 1).mean())
        return results

    @property
    def _centre(self) -> np.ndarray:
        return ops.convert_to_numpy(self.centre).astype(np.float64)

    @property
    def _scale(self) -> float:
        return float(ops.convert_to_numpy(self.scale))

    def _into_frame(self, points: np.ndarray) -> np.ndarray:
        return (points - self._centre) / self._scale

    def _distances(self, points: np.ndarray, chunk: int = 16_384) -> np.ndarray:
        """Values `[n]` at points `[n, dims]`, both in the model's frame."""
        return in_chunks(self._field, points, chunk)[0]

    def _check_dims(self, scan: Scan):
        if scan.dims != self.dims:
            raise ValueError(
                f"the scan {scan.name!r} has {scan.dims} coordinates; this model has "
                f"dims={self.dims}."
            )

    # What the zoo asks of a method

    def signature(self):
        points = {"shape": [None, self.dims], "dtype": "float32", "unit": "of the scan"}
        distance = {"shape": [None, 1], "dtype": "float32", "unit": "of the scan, negative inside"}
        return {"points": points}, {"distance": distance}

    @classmethod
    def example(cls):
        config = {"width": 32, "depth": 3, "skips": (2,), "neighbours": 10, "points_per_step": 200}
        points = sphere(256, radius=0.8, seed=1).points
        inputs = [points[:37], points[:1], points]
        fit = {"steps_per_epoch": 10}
        return {"config": config, "data": sphere(400), "fit": fit, "inputs": inputs}

    def golden_inputs(self):
        cube = np.random.default_rng(0).uniform(-1, 1, (256, self.dims))
        return (cube * self._scale + self._centre).astype(np.float32)


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

    def __init__(self, initial: float = 5e-3, interval: int = 2000, floor: float = 5e-6):
        self.initial, self.interval, self.floor = initial, interval, floor

    def __call__(self, step):
        halvings = ops.floor(ops.cast(step, "float32") / self.interval)
        return ops.maximum(self.initial * ops.power(0.5, halvings), self.floor)

    def get_config(self):
        return {"initial": self.initial, "interval": self.interval, "floor": self.floor}


def _scan(data, argument: str) -> Scan:
    scan = as_scan(data)
    if scan is None:
        raise ValueError(f"{argument} must be a zoo.Scan, a mesh or points, not {data!r:.60}.")
    return scan


def _sample_mesh(mesh, count: int, seed: int):
    import trimesh

    points, faces = trimesh.sample.sample_surface(mesh, count, seed=seed)
    return np.asarray(points), np.asarray(mesh.face_normals[faces])


def _sample_curves(curves: list[np.ndarray], count: int, seed: int):
    starts = np.concatenate([curve[:-1] for curve in curves])
    steps = np.concatenate([np.diff(curve, axis=0) for curve in curves])
    lengths = np.linalg.norm(steps, axis=1)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(steps), count, p=lengths / lengths.sum())
    points = starts[chosen] + rng.uniform(size=(count, 1)) * steps[chosen]
    outward = np.stack([steps[:, 1], -steps[:, 0]], axis=-1) / lengths[:, None]
    return points, outward[chosen]
