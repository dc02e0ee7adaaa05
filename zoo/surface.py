"""A surface as the zero set of a signed distance: meshes, distances and measures of any such model.

Everything is computed in the frame in which the longest side of the scan is [-1, 1]; the model
stores that frame and speaks the units of the scan to the outside.
"""

from __future__ import annotations

import warnings

import numpy as np
from keras import ops
from scipy.spatial import cKDTree

from zoo.data.orientation import doubts_of_normals, doubts_of_points
from zoo.data.scan import Scan, as_scan
from zoo.data.winding import Winding
from zoo.metrics import surface as surface_metrics
from zoo.model import Model
from zoo.ops.arguments import MOST, checked, positive, shown
from zoo.ops.array_arguments import real_points
from zoo.ops.compiling import compiled, in_chunks, in_float32
from zoo.ops.gradients import value_and_gradient
from zoo.ops.isosurface import zero_level_curve, zero_level_set
from zoo.ops.training_arguments import check_inputs
from zoo.registration.frame import exact, stored

MESH_BOX = 1.2  # half side of the cube that is searched for the surface, in the model's frame


class Surface(Model):
    """Signed distance to one scanned surface (or planar curve), whatever computes it.

    `predict(points)` evaluates it, `mesh()` (or `contours()`) extracts the surface,
    `evaluate(scan)` measures it. Points, distances and meshes are in the units and frame of the
    scan; distances are negative inside.

    A method provides `field(points)`. To be fitted to scans it also provides
    `default_loss_weights`, `loss_terms` and `batches(scan, frame)`, and a `call` that takes such a
    batch and leaves points to this one. It builds its layers in its constructor, since `dims` is
    the width of their input.

    Args:
        dims: 3 for surfaces, 2 for planar curves.
        **kwargs: arguments of `keras.Model`.

    Raises:
        ValueError: for other `dims`.
    """

    usual_epochs = 20  # of a training from the shell

    @checked()
    def __init__(self, dims: int = 3, **kwargs):
        # Coordinates need float32 under any precision policy.
        super().__init__(autocast=False, **in_float32(kwargs))
        if dims not in (2, 3):
            raise ValueError(f"dims must be 2 or 3, not {dims}.")
        self.dims = dims
        self.centre = stored(self, "centre", (dims,))
        self.scale = stored(self, "scale", (), "ones")
        self.built = True
        self._field = compiled(lambda points: (self.field(points),), self)
        self._field_gradient = compiled(self.field_and_gradient, self)

    def get_config(self):
        return super().get_config() | {"dims": self.dims}

    def build(self, input_shape=None):
        """Nothing to do: the input width is known from `dims`."""

    def count_params(self):
        """Parameters of the field; the stored frame of the scan is none."""
        return super().count_params() - (self.dims + 1)

    # What a method provides

    def field(self, points):
        """Signed distance `[n]` at points `[n, dims]`, both in the model's frame."""
        raise NotImplementedError(f"{type(self).__name__} does not define field.")

    def batches(self, scan: Scan, frame: tuple[np.ndarray, float], **options):
        """The scan as a `keras.utils.PyDataset` of training batches.

        Args:
            scan: of the model's dimension.
            frame: centre `[dims]` and scale that bring its points into the model's frame.
            **options: those that `prepare_options` names.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define batches.")

    # The field and its training

    def field_and_gradient(self, points):
        """The field `[n]` and its gradient `[n, dims]` at points `[n, dims]` of the frame."""
        return value_and_gradient(self.field, points)

    def call(self, inputs):
        """Signed distance `[n, 1]` at points `[n, dims]`, in the units of the scan."""
        points = ops.cast(inputs, "float32")
        return ops.expand_dims(self.field((points - self.centre) / self.scale), -1) * self.scale

    def prepare(self, data, validation: bool = False, **options):
        """A scan (or mesh, array of points, dict of `points` and `normals`) as batches.

        The bounding box of the scan becomes the frame of the model. Vertices of a mesh that no face
        uses are left out. A warning says where normals point inward or contradict their neighbours.

        Args:
            data: the scan; a data set of batches is returned as it came.
            validation: the scan is not trained on: the frame of the model stays.
            **options: of `batches`.

        Raises:
            ValueError: for a scan of other dimension than the model's, or one that `batches`
                refuses.
        """
        scan = scan_or_none(data, "x")
        if scan is None:
            return data
        self._check_dims(scan)
        scan = scan.without_unused()
        if not validation:
            warn_of(scan, stacklevel=5)
        centre, scale = (self._centre, self._scale) if validation else scan.frame
        batches = self.batches(scan, (centre, scale), **options)
        # Only after the scan was accepted: a refused fit leaves the model as it was.
        self.centre.assign(centre)
        self.scale.assign(scale)
        return batches

    # Use of a fitted model

    @checked(batch_size=(1, MOST))
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
            check_inputs("x", x)
            return super().predict(x, batch_size=batch_size, **kwargs)
        points = real_points("x", x if scan is None else scan.points, (self.dims,), least=0)
        return (self._distances(self._into_frame(points), batch_size) * self._scale)[:, None]

    @checked(resolution=(2, 4096), trim_distance=positive)
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
                that its holes stay open; the field closes them.
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
        if trim_distance is not None and trim is None:
            raise ValueError("trim_distance needs trim, the scan to which it is measured.")
        if trim is not None:
            limit = 0.04 * self._scale if trim_distance is None else trim_distance
            far = cKDTree(scan_from(trim, "trim").points).query(vertices, workers=-1)[0] > limit
            faces = faces[~far[faces].any(axis=1)]
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        if trim is not None:
            mesh.remove_unreferenced_vertices()
        return mesh

    @checked(resolution=(2, 2**14))
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

    @checked(resolution=(2, 4096), samples=(1, 10**8))
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
            `eikonal_residual`, mean ||grad f| - 1| in the scan's bounding cube; where x is a closed
            mesh `distance_error_near` and `distance_error_box`, the mean error of the distance
            itself within about 0.05 of the true surface and in that cube, in the frame.
        """
        truth = scan_or_none(x, "x")
        if truth is None:
            check_inputs("x", x)
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
            sampled, truth.points, None if scan is None else scan_from(scan, "scan").points
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
        return results | self._distance_errors(truth, cube[:5000], seed)

    def _distance_errors(self, truth: Scan, cube: np.ndarray, seed: int) -> dict[str, float]:
        """How far the field is from the signed distance to a closed mesh, in the frame."""
        import trimesh

        if truth.faces is None:
            return {}
        mesh = trimesh.Trimesh(self._into_frame(truth.points), truth.faces, process=False)
        if not mesh.is_watertight:
            return {}
        points, normals = _sample_mesh(mesh, 500_000, seed)
        rng, tree, winding = np.random.default_rng(seed), cKDTree(points), Winding(points, normals)
        near = points[rng.choice(len(points), len(cube), replace=False)]
        results = {}
        for name, places in (("near", near + rng.normal(0, 0.05, near.shape)), ("box", cube)):
            distance, nearest = tree.query(places, workers=-1)
            # Beside the surface its normals tell the side; winding numbers of samples are blunt.
            height = ((places - points[nearest]) * normals[nearest]).sum(axis=1)
            inside = np.where(distance < 0.1, height < 0, winding(places) > 0.5)
            error = np.abs(self._distances(places) - np.where(inside, -distance, distance))
            results[f"distance_error_{name}"] = float(error.mean())
        return results

    @property
    def _centre(self) -> np.ndarray:
        return exact(self.centre)

    @property
    def _scale(self) -> float:
        return float(exact(self.scale))

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

    def golden_inputs(self):
        cube = np.random.default_rng(0).uniform(-1, 1, (256, self.dims))
        return (cube * self._scale + self._centre).astype(np.float32)


def warn_of(scan: Scan, stacklevel: int) -> None:
    """Warns where normals point inward or contradict their neighbours, or points are no surface."""
    doubts = [] if scan.normals is None else doubts_of_normals(scan.points, scan.normals)
    for doubt in [*doubts, *doubts_of_points(scan.points)]:
        warnings.warn(f"{scan.name!r}: {doubt}.", UserWarning, stacklevel=stacklevel)


def scan_or_none(data, argument: str) -> Scan | None:
    """What `zoo.data.scan.as_scan` makes of an argument, which a ValueError names."""
    try:
        return as_scan(data)
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from error


def scan_from(data, argument: str) -> Scan:
    """The scan that an argument is; a ValueError that names it says where it is none."""
    scan = scan_or_none(data, argument)
    if scan is None:
        raise ValueError(f"{argument} must be a zoo.Scan, a mesh or points, not {shown(data)}.")
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
