"""A further signed distance is a few lines: meshes, measures and presets come with the base."""

import keras
import numpy as np
import pytest
from keras import ops

import registry
import zoo
from zoo import testing
from zoo.data import shapes
from zoo.ops.gradients import norm
from zoo.surface import Surface


class Ball(Surface):
    """The exact distance to a ball of the radius 0.8 in the model's frame."""

    def field(self, points):
        return norm(points) - 0.8


class Batches(keras.utils.PyDataset):
    """Some points of a scan in each batch, in the frame of the model."""

    def __init__(self, points, steps):
        super().__init__()
        self.points, self.steps, self.epoch = points.astype("float32"), steps, 0

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        rng = np.random.default_rng((self.epoch, index))
        return ({"surface": rng.choice(self.points, 64)},)


class Ellipsoid(Surface):
    """The ellipsoid about the origin that fits a scan best."""

    default_loss_weights = {"surface": 1.0}
    prepare_options = ("steps_per_epoch",)

    def __init__(self, dims: int = 3, **kwargs):
        super().__init__(dims, **kwargs)
        self.radii = self.add_weight(shape=(dims,), initializer="ones", name="radii")

    def field(self, points):
        return (norm(points / self.radii) - 1) * ops.min(self.radii)

    def call(self, inputs):
        return self.field(inputs["surface"]) if isinstance(inputs, dict) else super().call(inputs)

    def loss_terms(self, x, y, y_pred):
        return {"surface": ops.mean(ops.abs(y_pred))}

    def batches(self, scan, frame, steps_per_epoch=20):
        return Batches((scan.points - frame[0]) / frame[1], steps_per_epoch)

    @classmethod
    def example(cls):
        points = shapes.sphere(100).points
        scan = zoo.Scan(points * (1.0, 0.8, 0.7))
        return {"config": {}, "data": scan, "fit": {}, "inputs": [points, points[:1]]}


def test_an_exact_distance_is_meshed_and_measured():
    ball = Ball()
    ball.centre.assign([5.0, 0.0, -5.0])
    ball.scale.assign(10.0)
    mesh = ball.mesh(48)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.01)
    np.testing.assert_allclose(mesh.center_mass, (5, 0, -5), atol=0.01)
    np.testing.assert_allclose(ball.predict([[5.0, 0.0, -5.0], [15.0, 0.0, -5.0]]), [[-8], [2]])
    truth = shapes.sphere(4000, radius=8.0, centre=(5.0, 0.0, -5.0))
    results = ball.evaluate(truth, resolution=64, samples=20_000)
    assert results["surface_residual"] < 1e-6 and results["eikonal_residual"] < 1e-5
    assert results["benchmark_chamfer"] < 0.3 and results["normal_consistency"] > 0.99


def test_the_error_of_the_distance_itself_is_measured():
    import trimesh

    ball, mesh = Ball(), trimesh.creation.icosphere(4, radius=0.8)
    results = ball.evaluate(mesh, resolution=32, samples=1000)
    assert results["distance_error_near"] < 2e-3 and results["distance_error_box"] < 2e-3
    mesh.apply_scale(1.1)
    ball.scale.assign(1.0)
    results = ball.evaluate(mesh, resolution=32, samples=1000)
    assert results["distance_error_near"] == pytest.approx(0.08, rel=0.05)
    assert results["distance_error_box"] == pytest.approx(0.08, rel=0.05)
    mesh.update_faces(np.arange(len(mesh.faces)) > 0)  # it has a hole now
    assert "distance_error_box" not in ball.evaluate(mesh, resolution=32, samples=1000)


def test_an_exact_distance_in_the_plane():
    (curve,) = Ball(dims=2).contours(64)
    np.testing.assert_allclose(np.linalg.norm(curve, axis=1), 0.8, atol=1e-3)
    with pytest.raises(ValueError, match="mesh needs dims=3"):
        Ball(dims=2).mesh()


def test_what_is_missing_is_named():
    with pytest.raises(NotImplementedError, match="Surface does not define field"):
        Surface().predict([[0.0, 0.0, 0.0]])
    with pytest.raises(NotImplementedError, match="Ball does not define batches"):
        Ball().fit(shapes.sphere(50))
    with pytest.raises(ValueError, match="dims must be 2 or 3"):
        Ball(dims=4)


def test_a_method_of_a_few_lines_keeps_the_contract():
    with registry.isolated():
        facts = {"data": ("points",), "dims": (2, 3), "summary": "An ellipsoid."}
        zoo.add_method("ellipsoid", task="surface", **facts)(Ellipsoid)
        assert len(testing.check("ellipsoid")) == len(testing.CONTRACT)


def test_it_finds_the_radii(seeded):
    model = Ellipsoid()
    model.compile(keras.optimizers.Adam(0.01))
    scan = zoo.Scan(shapes.sphere(500).points * (8.0, 6.0, 4.0) + 100.0)
    model.fit(scan, epochs=5, verbose=0)
    found = ops.convert_to_numpy(model.radii) * model.scale
    np.testing.assert_allclose(found, (8, 6, 4), rtol=0.03)
    assert model.evaluate(scan, resolution=64, samples=10_000)["chamfer"] < 0.1
