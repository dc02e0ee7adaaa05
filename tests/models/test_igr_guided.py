"""The fast configuration of IGR: a hash grid, guided by what the scan itself tells."""

import keras
import numpy as np
import pytest

import zoo
from zoo.data import shapes
from zoo.data.surface_batches import SurfaceSampler
from zoo.metrics.surface import held_out_distances
from zoo.models.igr import IGR
from zoo.ops.falling_rate import FallingRate

SMALL = {"levels": 4, "coarsest": 6, "finest": 48, "entries": 2**14, "width": 32}
TORUS = shapes.torus(6000)


def sampled(scan, **options):
    return SurfaceSampler(scan, points=500, neighbours=20, box=1.2, guided=True, **options)


def fitted(scan, epochs=3, **config):
    keras.utils.set_random_seed(0)
    model = IGR(**SMALL | {"points_per_step": 1000} | config)
    model.fit(scan, epochs=epochs, steps_per_epoch=60, verbose=0)
    return model


def signs_agree(model, count=5000):
    cube = np.random.default_rng(0).uniform(-1, 1, (count, 3))
    exact = shapes.torus_distance(cube)
    clear = np.abs(exact) > 0.02
    return ((model.predict(cube)[:, 0] > 0) == (exact > 0))[clear].mean()


def test_the_pool_knows_sides_and_distances():
    sampler = sampled(TORUS)
    centre, scale = TORUS.frame
    exact = shapes.torus_distance(sampler.pool * scale + centre) / scale
    known = sampler.pool_known > 0
    assert known.mean() > 0.8
    error = np.abs(sampler.pool_distance - exact)[known]
    assert error.mean() < 0.003 and error.max() < 0.06  # never another side
    batch = sampler[0][0]
    assert batch["distance"].shape == batch["known"].shape == (500 // 8,)
    np.testing.assert_array_equal(batch["trust"], 1.0)  # its own normals agree


def test_inward_normals_make_the_outside_the_solid():
    turned = sampled(zoo.Scan(TORUS.points, -TORUS.normals))
    np.testing.assert_allclose(turned.pool_distance, -sampled(TORUS).pool_distance, atol=1e-6)


@pytest.mark.parametrize("kind", ["bare", "random signs"])
def test_missing_and_contradicting_normals_are_found(kind):
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (len(TORUS), 1))
    scan = zoo.Scan(TORUS.points, None if kind == "bare" else signs * TORUS.normals)
    sampler = sampled(scan)
    assert sampler.found and not sampled(TORUS).found
    assert ((sampler.normals * TORUS.normals).sum(axis=1) > 0.9).mean() > 0.99


def test_many_points_are_looked_up_by_a_part_of_them(monkeypatch):
    monkeypatch.setattr("zoo.data.winding.MOST", 2000)
    sampler = sampled(zoo.Scan(TORUS.points))
    assert ((sampler.normals * TORUS.normals).sum(axis=1) > 0.9).mean() > 0.98


def test_points_are_drawn_by_their_weights():
    scan, rng = shapes.sphere(400, seed=1), np.random.default_rng(0)
    weights = np.where(scan.points[:, 0] > 0, 3.0, 1.0)
    weights[:100] = 0
    stray = np.concatenate([scan.points, [[50.0, 0, 0]]])  # would shrink the frame, if it counted
    sampler = SurfaceSampler(
        zoo.Scan(stray, weights=[*weights, 0.0]), points=200, neighbours=20, guided=True
    )
    counting = SurfaceSampler(scan.subset(np.arange(100, 400)))
    np.testing.assert_allclose(sampler.points, counting.points, atol=1e-6)
    drawn = np.concatenate([sampler.draw(rng)["surface"] for _ in range(200)])
    heavy = weights[100:] == 3
    share = 3 * heavy.sum() / weights.sum()
    assert abs((drawn[:, 0] > 0).mean() - share) < 0.01


def test_levels_finer_than_the_scan_stay_closed():
    opened = []
    for scan in (TORUS, shapes.torus(1500)):
        model = IGR(**SMALL | {"finest": 96})
        model.prepare(scan, points_per_step=100)
        opened.append(float(keras.ops.sum(model.grid.open[...])))
    assert opened[0] == 4 and opened[1] < 4


@pytest.mark.parametrize("normals", [TORUS.normals, None])
def test_noisy_points_are_moved_towards_the_surface(normals):
    rng = np.random.default_rng(0)
    noisy = TORUS.points + rng.normal(0, 0.03, TORUS.points.shape)
    sampler = sampled(zoo.Scan(noisy, normals))
    centre, scale = zoo.Scan(noisy).frame
    before, after = (
        np.abs(shapes.torus_distance(points)).mean()
        for points in (noisy, sampler.points * scale + centre)
    )
    assert after < 0.5 * before
    assert ((sampler.normals * TORUS.normals).sum(axis=1) > 0.8).mean() > 0.95
    np.testing.assert_array_equal(sampled(TORUS).points, SurfaceSampler(TORUS).points)


@pytest.mark.parametrize("normals", [TORUS.normals, None])
def test_a_torus_in_seconds(normals):
    model = fitted(zoo.Scan(TORUS.points, normals))
    truth = shapes.torus(6000, seed=1)
    results = model.evaluate(truth, resolution=64, samples=20_000)
    floor = held_out_distances(shapes.torus(6000, seed=2).points, truth.points, *TORUS.frame)
    assert results["chamfer"] < 1.1 * floor["chamfer"]
    assert results["eikonal_residual"] < 0.15
    assert signs_agree(model) > 0.999


def test_a_scan_in_other_units_far_away_loses_nothing():
    factor, shift = 25.0, np.array([500_000.0, 5_200_000.0, 300.0])
    near = fitted(TORUS, epochs=1).mesh(48)
    far = fitted(zoo.Scan(TORUS.points * factor + shift, TORUS.normals), epochs=1).mesh(48)
    assert far.area / factor**2 == pytest.approx(near.area, rel=0.02)
    np.testing.assert_allclose((far.centroid - shift) / factor, near.centroid, atol=0.01)


def test_a_planar_curve_without_normals():
    keras.utils.set_random_seed(0)
    model = IGR(dims=2, **SMALL)
    ring = shapes.circle(800, radius=3.0, centre=(10.0, 0.0))
    model.fit(zoo.Scan(ring.points), epochs=2, steps_per_epoch=60, verbose=0)
    (curve,) = model.contours(64)
    np.testing.assert_allclose(np.hypot(curve[:, 0] - 10, curve[:, 1]), 3.0, atol=0.1)
    assert model.predict([[10.0, 0.0]])[0, 0] < 0 < model.predict([[14.0, 0.0]])[0, 0]


def test_the_rate_falls_over_all_epochs_and_comes_back():
    rates = []

    class Listen(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rates.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))

    model = IGR(**SMALL)
    model.fit(TORUS, epochs=2, steps_per_epoch=5, callbacks=Listen(), verbose=0)
    assert len(rates) == 10 and rates[0] == pytest.approx(1e-2)
    assert np.all(np.diff(rates) < 0) and rates[-1] < 1e-3
    after = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    assert after == pytest.approx(1e-2)


def test_a_schedule_stays_as_it_is():
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, 100))
    assert FallingRate(optimizer).rate is None


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.concatenate([TORUS.points, [[1e6, 0, 0]]]), "point 6000 at .* times as far out"),
        (TORUS.points * (1, 1, 0), "all points lie on a plane"),
        (TORUS.points * (1, 0, 0), "all points lie on a line"),
    ],
)
def test_points_that_are_no_surface_are_named(points, message):
    with pytest.warns(UserWarning, match=message):
        IGR(**SMALL).prepare(zoo.Scan(points), points_per_step=100)


def test_duplicates_are_no_obstacle():
    model = fitted(zoo.Scan(np.repeat(TORUS.points[:3000], 2, axis=0)), epochs=1)
    assert signs_agree(model) > 0.97
    assert np.isfinite(model.predict(TORUS.points)).all()
