"""ResNet-LDDMM: frame, inverse, path, data terms, awkward meshes, resume."""

import keras
import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

import zoo
from zoo.data.figures import figure_pair, two_legs
from zoo.data.pair import Pair
from zoo.data.scan import Scan
from zoo.models.resnet_lddmm import DATA, ResNetLDDMM
from zoo.registration.paths import path_energy, path_length, path_lengths

SMALL = {"width": 48, "points": 400}


def fitted(pair, rate=3e-3, **options) -> ResNetLDDMM:
    model = ResNetLDDMM(pair.rank, **{**SMALL, **options})
    model.compile(keras.optimizers.Adam(rate))
    model.fit(pair, verbose=0)
    return model


def bent_cylinder(count=2000, angle=30.0):
    """A cylinder of length 2, and where its points are after it was bent."""
    random = np.random.default_rng(0)
    turn, height = random.uniform(0, 2 * np.pi, count), random.uniform(-1, 1, count)
    source = np.stack([0.2 * np.cos(turn), height, 0.2 * np.sin(turn)], axis=1)
    curvature = np.deg2rad(angle) / 2
    radius = 1 / curvature - source[:, 0]
    phase = curvature * height
    bent = np.stack([1 / curvature - radius * np.cos(phase), radius * np.sin(phase)], axis=1)
    return source, np.column_stack([bent, source[:, 2]])


@pytest.fixture(scope="module")
def figures():
    """A figure from rest to a step, and the flow that was fitted to it."""
    pair = figure_pair(cells=40)
    return pair, fitted(pair, width=64, points=800, steps=250)


def errors(model, pair) -> np.ndarray:
    truth = pair.fixed.points[np.argsort(pair.fixed_labels)]
    return np.linalg.norm(model.transform(pair).move(pair.moving.points) - truth, axis=1)


def test_limbs_are_not_swapped(figures):
    pair, model = figures
    off = errors(model, pair)
    # A limb in the place of the other one would be off by its distance, 0.5 and more.
    assert off.mean() < 0.05 and np.quantile(off, 0.99) < 0.2, (off.mean(), off.max())
    assert not model.doubts


def test_nothing_folds_and_the_inverse_is_exact(figures):
    pair, model = figures
    transform = model.transform(pair)
    corners = pair.moving.points.min(0), pair.moving.points.max(0)
    box = np.random.default_rng(0).uniform(*corners, (1000, 3))
    for points in (pair.moving.points, box):
        assert np.linalg.det(model.jacobian(points)).min() > 0
        assert np.abs(transform.pull(transform.move(points)) - points).max() < 1e-5


def test_the_path_begins_at_the_source_and_ends_where_points_move(figures):
    pair, model = figures
    path = model.trajectory(pair.moving)
    assert path.shape == (11, len(pair.moving), 3)
    assert np.array_equal(path[0], pair.moving.points)
    np.testing.assert_allclose(path[-1], model.transform(pair).move(pair.moving.points))
    squares = path_lengths(path) ** 2
    # It still falls with more steps: the speed of a geodesic is constant.
    assert squares.std() / squares.mean() < 0.4
    assert path_length(path) <= np.sqrt(2 * path_energy(path)) * (1 + 1e-9)


def test_any_points_travel_and_the_transform_is_written_as_a_field(figures, tmp_path):
    pair, model = figures
    transform = model.transform(pair)
    transform.save(tmp_path / "transform.h5")
    loaded = zoo.Transform.load(tmp_path / "transform.h5")
    some = pair.fixed.points[::50]
    assert np.abs(loaded.pull(some) - transform.pull(some)).max() < 0.02


def test_shifting_or_scaling_the_input_does_so_with_the_output():
    pair = figure_pair(cells=24)

    def moved(scale, shift):
        both = [
            Scan(scale * each.points + shift, faces=each.faces)
            for each in (pair.fixed, pair.moving)
        ]
        model = fitted(Pair(*both), steps=20)
        return model.transform(Pair(*both)).move(both[1].points)

    plain = moved(1.0, 0.0)
    np.testing.assert_allclose(moved(1.0, -5.0), plain - 5.0, atol=2e-4)
    np.testing.assert_allclose(moved(1000.0, 3e5), 1000 * plain + 3e5, atol=0.2)


@pytest.mark.parametrize("data", DATA)
def test_every_data_term_brings_the_shapes_closer(data):
    pair = figure_pair(cells=24)
    if data == "correspondence":
        truth = pair.fixed.points[np.argsort(pair.fixed_labels)]
        pair = Pair(Scan(truth, faces=pair.moving.faces), pair.moving)
    steps, rate = (100, 5e-3) if data == "varifold" else (60, 1e-2)
    model = ResNetLDDMM(data=data, width=32, points=200, steps=steps, sigma=(0.05, 0.05))
    model.compile(keras.optimizers.Adam(rate))
    history = model.fit(pair, verbose=0).history
    # The kernel of varifolds narrows, and their distance grows with that.
    assert data == "varifold" or history["loss"][-1] < history["loss"][0]
    moved = model.predict(pair)["moved"]
    before, after = (
        cKDTree(each).query(pair.fixed.points)[0].mean() for each in (pair.moving.points, moved)
    )
    assert after < 0.8 * before


@pytest.mark.parametrize("data", ["sinkhorn", "normals"])
def test_two_legs_do_not_change_places(data):
    pair = two_legs(45.0, 500)
    model = fitted(pair, data=data, steps=120, points=300)
    moved = model.transform(pair).move(pair.moving.points)
    nearest = cKDTree(pair.fixed.points).query(moved)[1]
    assert (pair.fixed_labels[nearest] != pair.moving_labels).mean() <= 0.01


def test_a_small_turn_leaves_what_the_sampling_does():
    random = np.random.default_rng(0)
    first, second = (random.normal(size=(2000, 3)) for _ in range(2))
    shapes = [
        (1.0, 0.6, 0.3) * each / np.linalg.norm(each, axis=1, keepdims=True)
        for each in (first, second)
    ]
    turn = Rotation.from_euler("z", 5, degrees=True)
    pair = Pair(turn.apply(shapes[1]), shapes[0])
    model = fitted(pair, data="chamfer", steps=150)
    floor, left = (
        cKDTree(each).query(pair.fixed.points)[0].mean()
        for each in (turn.apply(shapes[0]), model.predict(pair)["moved"])
    )
    assert left <= 1.2 * floor


def test_a_bend_is_recovered_without_correspondences():
    source, target = bent_cylinder()
    fixed = Scan(target[np.random.default_rng(1).permutation(len(target))])
    pair = Pair(fixed, Scan(source))
    model = fitted(pair, data="sinkhorn", steps=150)
    moved = model.transform(pair).move(source)
    assert np.linalg.norm(moved - target, axis=1).mean() < 0.02 * 2


def test_landmarks_pull_and_weights_count():
    random = np.random.default_rng(0)
    line = random.uniform(-1, 1, (600, 2)) * (1.0, 0.05)
    pair = Pair(Scan(line + [0.0, 0.3]), Scan(line))
    # Landmarks say that the left end goes to the right by a tenth.
    ends = np.array([[-1.0, 0.0], [1.0, 0.0]])
    marked = Pair(pair.fixed, pair.moving, moving_landmarks=ends, fixed_landmarks=ends + [0.1, 0.3])
    moved = fitted(marked, steps=150).transform(marked).move(ends)
    plain = fitted(pair, steps=150).transform(pair).move(ends)
    error, without = (
        np.linalg.norm(each - marked.fixed_landmarks, axis=1).mean() for each in (moved, plain)
    )
    assert error < 0.5 * without


def test_regularisers_lower_what_they_penalise():
    pair = figure_pair("wave", cells=24)
    found = {}
    for name in ("gradient", "conformal"):
        for weight in (1e-12, 100.0):
            model = ResNetLDDMM(width=32, points=200, steps=60, data="chamfer")
            model.compile(loss_weights={name: weight})
            found[weight] = model.fit(pair, verbose=0).history[name][-1]
        assert found[100.0] < 0.5 * found[1e-12], name


def test_awkward_meshes_keep_number_and_order_of_their_vertices():
    mesh = trimesh.creation.icosphere(subdivisions=2)
    vertices = np.concatenate([mesh.vertices, [[0.0, 0, 3.0]], mesh.vertices[:5] + [0, 0, 0.5]])
    faces = np.concatenate([mesh.faces, [[0, 0, 1], [2, 3, 3], [0, 1, 2]]])
    moving = Scan(vertices, faces=faces)
    fixed = Scan(mesh.vertices * (1.2, 1.0, 0.8), faces=mesh.faces)
    pair = Pair(fixed, moving)
    moved = fitted(pair, steps=30).predict(pair)["moved"]
    assert moved.shape == vertices.shape and np.isfinite(moved).all()


def test_a_fit_that_helps_nothing_is_dropped_with_a_warning():
    pair = figure_pair("rest", "rest", cells=24)
    model = ResNetLDDMM(**SMALL, steps=10)
    with pytest.warns(UserWarning, match="no closer"):
        model.fit(pair, verbose=0)
    np.testing.assert_allclose(model.predict(pair)["moved"], pair.moving.points, atol=1e-6)


def test_a_fit_is_repeatable_and_forgets_the_one_before(figures):
    pair = figure_pair(cells=24)
    model = ResNetLDDMM(width=32, points=100, steps=20)
    first = model.fit(pair, verbose=0).history["loss"]
    assert model.fit(pair, verbose=0).history["loss"] == pytest.approx(first, rel=1e-4)


def test_an_interrupted_fit_goes_on(tmp_path):
    pair = figure_pair(cells=24)
    options = {"width": 32, "points": 100, "steps": 40}
    whole = ResNetLDDMM(**options).fit(pair, verbose=0).history["loss"]

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        ResNetLDDMM(**options).fit(pair, verbose=0, callbacks=[backup, Stop()])
    rest = ResNetLDDMM(**options).fit(
        pair, verbose=0, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")]
    )
    np.testing.assert_allclose(rest.history["loss"], whole[-len(rest.history["loss"]) :], rtol=1e-3)


@pytest.mark.data
def test_the_demonstration_pair(data):
    folder = data("shrec19_scans")
    pair = Pair.read(folder / "scan_016.obj", folder / "scan_015.obj")
    model = ResNetLDDMM(steps=300)
    model.fit(pair, verbose=0)
    half = np.ptp(np.concatenate([pair.fixed.points, pair.moving.points]), axis=0).max() / 2
    moved = model.predict(pair)["moved"]
    there = cKDTree(pair.fixed.points).query(moved)[0] / half
    back = cKDTree(moved).query(pair.fixed.points)[0] / half
    assert (there.mean() + back.mean()) / 2 <= 0.0125
    assert max(there.max(), back.max()) <= 0.1
    low, high = pair.moving.points.min(0), pair.moving.points.max(0)
    box = np.random.default_rng(0).uniform(low, high, (5000, 3))
    for points in (pair.moving.points, box):
        assert np.linalg.det(model.jacobian(points)).min() > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": "emd"}, "data must be one of"),
        ({"sigma": (0.1,)}, "sigma must be two positive"),
        ({"sigma": (0.1, 0.0)}, "sigma must be two positive"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"feature_weight": -1.0}, "feature_weight must not be negative"),
        ({"width": 2.5}, "width must be a whole number"),
    ],
)
def test_bad_arguments_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        ResNetLDDMM(**options)


def test_what_a_data_term_lacks_is_said():
    random = np.random.default_rng(0)
    clouds = Pair(random.normal(size=(50, 3)), random.normal(size=(60, 3)))
    with pytest.raises(ValueError, match="needs faces or normals"):
        ResNetLDDMM(data="varifold").fit(clouds, verbose=0)
    with pytest.raises(ValueError, match="as many fixed as moving"):
        ResNetLDDMM(data="correspondence").fit(clouds, verbose=0)
