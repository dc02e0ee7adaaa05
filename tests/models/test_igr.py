"""IGR: the network of the authors, its start, sampler, losses, schedule and frames."""

import keras
import numpy as np
import pytest
from keras import ops

import zoo
from zoo.data import shapes
from zoo.data.surface_batches import SurfaceSampler
from zoo.layers.coordinate_mlp import CoordinateMLP
from zoo.models.igr import AUTHORS, IGR, NNABLA, HalvingDecay
from zoo.ops.gradients import value_and_gradient
from zoo.ops.isosurface import NoSurface

TINY = AUTHORS | {"width": 32, "depth": 3, "skips": (2,), "neighbours": 10}


def array(tensor):
    return ops.convert_to_numpy(tensor)


def directions(count, dims=3, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dims))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")


def network(inputs=3, **config):
    layer = CoordinateMLP(**config)
    layer.build((None, inputs))
    return layer


# The network


def test_parameter_counts_of_the_publications():
    assert zoo.create("igr", **AUTHORS).count_params() == 1_839_614
    assert network(259).count_params() == 1_839_358
    assert zoo.create("igr", **NNABLA).count_params() == 1_576_958


def test_relu_starts_as_a_unit_sphere():
    means = []
    for seed in range(10):
        keras.utils.set_random_seed(seed)
        start = network(activation="relu")
        assert array(start(np.zeros((1, 3), "float32"))).item() == pytest.approx(-1, abs=1e-4)
        means.append(array(start(directions(300))).mean())
    assert np.abs(means).max() < 0.20
    assert abs(np.mean(means)) < 0.06


@pytest.mark.parametrize("seed", range(3))
def test_softplus_starts_close_to_a_sphere(seed):
    keras.utils.set_random_seed(seed)
    start = network()
    assert -0.66 <= array(start(np.zeros((1, 3), "float32"))).item() <= -0.50
    rays = directions(300, seed=seed)
    on_sphere = array(start(rays))
    assert -0.15 <= on_sphere.mean() <= 0.25
    assert on_sphere.std() < 0.15
    assert (array(start(0.3 * rays)) < 0).all()
    assert (array(start(1.5 * rays)) > 0).all()
    for radius in (0.25, 0.5, 1.0, 1.5):
        _, gradient = value_and_gradient(start, radius * rays)
        gradient = array(gradient)
        cosine = (gradient * rays).sum(1) / np.linalg.norm(gradient, axis=1)
        assert cosine.min() > 0.85


def test_the_centred_softplus_starts_like_relu():
    keras.utils.set_random_seed(0)
    start = network(centred=True)
    assert array(start(np.zeros((1, 3), "float32"))).item() == pytest.approx(-1, abs=0.05)


def test_a_zero_latent_code_leaves_the_sphere():
    keras.utils.set_random_seed(0)
    start = network(259)
    rays = np.concatenate([np.zeros((300, 256), "float32"), directions(300)], axis=1)
    assert -0.15 <= array(start(rays)).mean() <= 0.25


def test_gradient_agrees_with_differences():
    keras.utils.set_random_seed(0)
    start = network(width=128, depth=4, skips=(2,))
    points = 0.7 * directions(50)
    _, gradient = value_and_gradient(start, points)
    step = 1e-3
    for axis in range(3):
        offset = step * np.eye(3, dtype="float32")[axis]
        difference = array(start(points + offset) - start(points - offset))[:, 0] / (2 * step)
        np.testing.assert_allclose(array(gradient)[:, axis], difference, atol=1e-2)


def test_gradient_agrees_with_the_chain_rule_by_hand():
    keras.utils.set_random_seed(0)
    start = network(width=64, depth=4, skips=(2,))
    points = directions(20).astype("float64")
    hidden, jacobian = points, np.broadcast_to(np.eye(3), (20, 3, 3))
    for index, linear in enumerate(start.linear):
        if index == 2:
            hidden = np.concatenate([hidden, points], axis=1) / np.sqrt(2)
            eye = np.broadcast_to(np.eye(3), (20, 3, 3))
            jacobian = np.concatenate([jacobian, eye], axis=1) / np.sqrt(2)
        kernel, bias = (array(weight).astype("float64") for weight in linear.weights)
        hidden = hidden @ kernel + bias
        jacobian = np.einsum("ko,nkd->nod", kernel, jacobian)
        if index < 4:
            jacobian = jacobian / (1 + np.exp(-100 * hidden))[:, :, None]
            hidden = np.logaddexp(0, 100 * hidden) / 100
    value, gradient = value_and_gradient(start, points.astype("float32"))
    np.testing.assert_allclose(array(value), hidden, atol=1e-5)
    np.testing.assert_allclose(array(gradient), jacobian[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("activation", "sine"),
        ("initialisation", "random"),
        ("width", 0),
        ("depth", 0),
        ("beta", -1.0),
        ("skips", (9,)),
    ],
)
def test_the_network_refuses(argument, value):
    with pytest.raises(ValueError, match=argument):
        CoordinateMLP(**{argument: value})


def test_the_model_refuses_other_dimensions(seeded):
    with pytest.raises(ValueError, match="dims must be 2 or 3, not 4"):
        IGR(dims=4)
    with pytest.raises(ValueError, match="has 2 coordinates; this model has dims=3"):
        IGR(**TINY).fit(shapes.circle(100))


# Losses


def closed_form(factor=1.0, normal_sign=1.0):
    """The terms for f = factor (|x| - 0.7) with the batch on its zero sphere."""
    normals = directions(500)
    off = 1.3 * directions(400, seed=1)
    outputs = {
        "surface_value": factor * (np.linalg.norm(0.7 * normals, axis=1) - 0.7),
        "surface_gradient": factor * normals,
        "off_surface_gradient": factor * off / np.linalg.norm(off, axis=1, keepdims=True),
    }
    batch = {"surface": 0.7 * normals, "normals": normal_sign * normals, "off_surface": off}
    terms = IGR(**TINY).loss_terms(batch, None, outputs)
    return {name: float(array(value)) for name, value in terms.items()}


def test_losses_of_a_sphere_vanish():
    assert max(closed_form().values()) < 1e-6


def test_losses_see_a_double_gradient_and_flipped_normals():
    assert closed_form(factor=2.0)["eikonal"] == pytest.approx(1, abs=1e-5)
    assert closed_form(normal_sign=-1.0)["normals"] == pytest.approx(2, abs=1e-5)


def test_training_from_a_zero_gradient_stays_finite(seeded):
    model = IGR(**TINY)
    model.network.linear[-1].kernel.assign(np.zeros((32, 1)))
    model.fit(shapes.sphere(300), steps_per_epoch=3, verbose=0)
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


def test_unknown_loss_weights_are_refused():
    with pytest.raises(ValueError, match=r"unknown terms \['smooth'\]"):
        IGR(**TINY).compile(loss_weights={"smooth": 1.0})


def test_the_total_is_the_weighted_sum(seeded):
    model = IGR(**TINY)
    model.compile(loss_weights={"eikonal": 0.5})
    logs = model.fit(shapes.sphere(300), steps_per_epoch=1, verbose=0).history
    expected = logs["surface"][0] + logs["normals"][0] + 0.5 * logs["eikonal"][0]
    assert logs["loss"][0] == pytest.approx(expected, rel=1e-5)


# Sampler and schedule


def test_the_sampler_follows_the_paper():
    scan = shapes.torus(1000)
    batch = SurfaceSampler(scan, points=400)[0][0]
    assert batch["surface"].shape == batch["normals"].shape == (400, 3)
    assert len(batch["off_surface"]) == 400 * 9 / 8
    assert len(np.unique(batch["surface"], axis=0)) == 400


def test_local_width_is_the_50th_neighbour_on_coordinates_alone():
    with_normals = shapes.torus(600)
    sampler = SurfaceSampler(with_normals)
    points = (with_normals.points - with_normals.frame[0]) / with_normals.frame[1]
    brute = np.sort(np.linalg.norm(points[:, None] - points, axis=-1), axis=1)[:, 50]
    np.testing.assert_allclose(sampler.sigma, brute, rtol=1e-4)
    bare = SurfaceSampler(zoo.Scan(with_normals.points))
    np.testing.assert_array_equal(sampler.sigma, bare.sigma)


def test_uniform_samples_fill_the_box():
    sampler = SurfaceSampler(shapes.sphere(800_00), points=80_000)
    uniform = sampler[0][0]["off_surface"][80_000:]
    assert uniform.min() < -1.79 and uniform.max() > 1.79
    assert np.abs(uniform).max() <= 1.8


def test_batches_depend_on_seed_epoch_and_index_only():
    sampler, again = (SurfaceSampler(shapes.torus(300), seed=4) for _ in range(2))
    np.testing.assert_array_equal(sampler[3][0]["off_surface"], again[3][0]["off_surface"])
    again.epoch = 1
    assert not np.array_equal(sampler[3][0]["off_surface"], again[3][0]["off_surface"])


def test_the_sampler_refuses_small_scans():
    with pytest.raises(ValueError, match="points_per_step must not exceed the 100 points"):
        SurfaceSampler(shapes.sphere(100), points=200)
    with pytest.raises(ValueError, match="neighbours=50 needs a scan of more points"):
        SurfaceSampler(shapes.sphere(50))


def test_the_schedule_of_the_authors():
    rate = HalvingDecay()
    expected = {0: 5e-3, 1999: 5e-3, 2000: 2.5e-3, 18_000: 9.765625e-6, 20_000: 5e-6, 90_000: 5e-6}
    for step, value in expected.items():
        assert float(array(rate(step))) == pytest.approx(value, rel=1e-5)


# Frames, sizes and units of a fitted model


def sphere_model(centre=(0.0, 0.0, 0.0), scale=1.0):
    """An untrained model is a rough sphere in the frame of any scan."""
    keras.utils.set_random_seed(0)
    model = IGR(**AUTHORS | {"width": 128, "depth": 3, "skips": (2,), "radius": 0.6})
    model.prepare(shapes.sphere(100, radius=scale, centre=centre))
    return model


def test_meshes_and_distances_follow_the_scan():
    centre, factor = np.array([1000.0, -20.0, 5.0]), 40.0
    near, far = sphere_model(), sphere_model(centre, factor)
    offset, scale = far._centre - factor * near._centre, far._scale / near._scale
    mesh, moved = near.mesh(40), far.mesh(40)
    np.testing.assert_allclose(moved.vertices, mesh.vertices * scale + offset, rtol=1e-5)
    points = directions(30)
    distances = far.predict(points * scale + offset)
    np.testing.assert_allclose(distances, near.predict(points) * scale, rtol=1e-3, atol=1e-3)
    called = array(far((points * scale + offset).astype("float32")))
    np.testing.assert_allclose(called, distances, atol=2e-2)


def test_far_scans_keep_their_place():
    """The frame of training and the frame of use are one, also where float32 is coarse."""
    scan = shapes.sphere(200, radius=20.0, centre=(500_000.3, 5_200_000.7, 300.0))
    model = IGR(**TINY)
    sampler = model.prepare(scan)
    np.testing.assert_allclose(model._into_frame(scan.points), sampler.points, atol=1e-6)


def test_a_refused_fit_leaves_the_model_as_it_was():
    model = sphere_model()
    before = [array(weight) for weight in model.weights]
    with pytest.raises(ValueError, match="points_per_step"):
        model.fit(shapes.sphere(200, radius=9.0), points_per_step=500)
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), old)


@pytest.mark.parametrize("x", [None, "mine.ply", [[0.0, 0.0, 0.0]]])
def test_fit_says_what_it_takes(x):
    with pytest.raises(ValueError, match="x must be a container such as zoo.Scan"):
        IGR(**TINY).fit(x)


def test_validation_scans_and_a_single_callback(seeded):
    epochs = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    model = IGR(**TINY)
    history = model.fit(
        shapes.sphere(200),
        validation_data=shapes.sphere(150, radius=3.0, seed=1),
        steps_per_epoch=2,
        epochs=2,
        callbacks=callback,
        verbose=0,
    ).history
    assert epochs == [0, 1] and len(history["val_loss"]) == 2
    assert model._scale == shapes.sphere(200).frame[1]


@pytest.mark.parametrize(
    ("argument", "value"), [("neighbours", 0), ("box", -1.0), ("points_per_step", 0)]
)
def test_the_model_refuses(argument, value):
    with pytest.raises(ValueError, match=argument):
        IGR(**{argument: value})


def test_meshes_face_outward():
    mesh = sphere_model().mesh(48)
    assert mesh.is_watertight and mesh.volume > 0


def test_a_field_without_zero_is_an_error():
    model = sphere_model()
    model.network.linear[-1].bias.assign([5.0])
    with pytest.raises(NoSurface, match="Train the model first"):
        model.mesh(32)


def test_trimming_leaves_the_holes_of_the_scan():
    model = sphere_model()
    whole = model.mesh(48)
    half = zoo.Scan(whole.vertices[whole.vertices[:, 0] > 0])
    trimmed = model.mesh(48, trim=half, trim_distance=0.05)
    assert -0.05 <= trimmed.vertices[:, 0].min() < 0
    kept = whole.triangles_center[:, 0] > 0
    assert trimmed.area == pytest.approx(whole.area_faces[kept].sum(), rel=0.1)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((4, 2)), r"shape \[n, 3\], not \(4, 2\)"),
        (np.array([[0, np.nan, 0]]), "finite"),
        (np.array([[0, np.inf, 0]]), "finite"),
    ],
)
def test_predict_refuses(points, message):
    with pytest.raises(ValueError, match=message):
        sphere_model().predict(points)


def test_predict_takes_scans_lists_and_no_points():
    model = sphere_model()
    scan = shapes.sphere(20)
    np.testing.assert_array_equal(model.predict(scan), model.predict(scan.points.tolist()))
    assert model.predict(np.zeros((0, 3))).shape == (0, 1)


def test_containers_of_fit_and_evaluate(seeded):
    import trimesh

    model = IGR(**TINY)
    scan = shapes.sphere(200)
    mesh = trimesh.creation.icosphere(3)
    for data in (scan, scan.points, {"points": scan.points, "normals": scan.normals}, mesh):
        model.fit(data, steps_per_epoch=1, verbose=0)
    dataset = SurfaceSampler(scan, steps=2, points=50, neighbours=10)
    model.fit(dataset, verbose=0)
    assert model.evaluate(dataset, verbose=0, return_dict=True)["loss"] > 0
    results = model.evaluate(mesh, resolution=32, samples=1000)
    assert set(results) == {
        "chamfer",
        "hausdorff",
        "benchmark_chamfer",
        "benchmark_hausdorff",
        "normal_consistency",
        "surface_residual",
        "eikonal_residual",
        "distance_error_near",
        "distance_error_box",
    }
    one_sided = model.evaluate(scan.points, scan=scan, resolution=32, samples=1000)
    assert "benchmark_scan_hausdorff" in one_sided and "normal_consistency" not in one_sided


def test_a_data_set_of_the_zoo_is_told_the_epoch(seeded):
    dataset = SurfaceSampler(shapes.sphere(200), steps=1, points=50, neighbours=10)
    IGR(**TINY).fit(dataset, epochs=3, verbose=0)
    assert dataset.epoch == 2


def test_tf_data_and_arrays_train(seeded):
    tf = pytest.importorskip("tensorflow")
    batch = SurfaceSampler(shapes.sphere(200), points=64, neighbours=10)[0][0]
    dataset = tf.data.Dataset.from_tensors((batch,)).repeat(3)
    history = IGR(**TINY).fit(dataset, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_a_planar_curve(seeded):
    model = IGR(dims=2, **TINY)
    model.compile(keras.optimizers.Adam(5e-3))
    scan = shapes.circle(500, radius=3.0, centre=(10.0, 0.0))
    model.fit(scan, epochs=2, steps_per_epoch=100, verbose=0)
    (curve,) = model.contours(64)
    np.testing.assert_allclose(np.hypot(curve[:, 0] - 10, curve[:, 1]), 3.0, atol=0.1)
    results = model.evaluate(shapes.circle(300, 3.0, (10.0, 0.0), seed=1), samples=5000)
    assert results["chamfer"] < 0.03 and results["normal_consistency"] > 0.98
    with pytest.raises(ValueError, match="contours"):
        model.mesh()


def test_resumed_training_equals_unbroken_training(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def train(*callbacks):
        keras.utils.set_random_seed(1)
        model = IGR(**TINY)
        # Momentum is a state to restore; Adam would blow up the last bits of the first gradients.
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9))
        model.fit(
            shapes.sphere(200), epochs=4, steps_per_epoch=3, verbose=0, callbacks=list(callbacks)
        )
        return model

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    unbroken = train()
    with pytest.raises(KeyboardInterrupt):
        train(backup, Interrupt())
    resumed = train(keras.callbacks.BackupAndRestore(tmp_path / "backup"))
    for one, other in zip(unbroken.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
