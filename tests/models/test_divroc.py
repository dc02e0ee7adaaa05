"""DiVRoC: known motions of clouds are found again, carried to any point, and inverted.

Of the acceptance checks of the method 1 to 9 and 12 to 14 are in `test_splatting.py`, 10 and 11 in
`test_cloud_losses.py`, 15 in `test_spatial_layers.py`, 23 to 26 in `test_vessels.py`, 29 there and
in `test_cloud_readers.py`, 30 in `test_cloud_readers.py`, and here are 16 (shift and scaling), 22
(the flow of every point), 27 and 28. Differences: values are float32, so the transpose (1) holds
to 1e-6 and not to 1e-12; time (8) is a benchmark, memory a test; 23 has four lungs and wider
brackets than the sixteen of the calibration; 27 has 8,192 points and 3 mm, with 65,536 points see
the card of `divroc.vessels`; the landmark file of Lung250M-4B that 29 names is not public.
"""

import warnings

import keras
import numpy as np
import pytest

from zoo.data.pair import Pair
from zoo.data.scan import Scan
from zoo.data.vessels import vessel_case, vessel_pair
from zoo.models.affine import AffineRegistration
from zoo.models.divroc import DiVRoC
from zoo.registration.stages import Stage
from zoo.transform import Transform, scattered

QUICK = {"lattice": 16, "pool": 5, "steps": 30}
ONE = {"stages": [QUICK]}


def branches(count=1500, rank=3, seed=0):
    """Points along random bent lines in a box of side 200, like vessels."""
    rng = np.random.default_rng(seed)
    lines = 60 if rank == 3 else 12
    ends = rng.uniform(-100, 100, (2, lines, 1, rank))
    along = rng.uniform(0, 1, (lines, -(-count // lines), 1))
    bow = 15 * np.sin(np.pi * along) * rng.standard_normal((lines, 1, rank))
    points = (ends[0] * (1 - along) + ends[1] * along + bow).reshape(-1, rank)
    return rng.permutation(points)[:count]


def bend(points):
    """A smooth motion of up to 8 units, without folds."""
    return points + 8 * np.sin(points[:, ::-1] / 40 + np.arange(points.shape[1]))


def bent_pair(rank=3, **parts):
    points = branches(rank=rank)
    return Pair(Scan(bend(points)[::2]), Scan(points), **parts)


@pytest.fixture(scope="module")
def fitted():
    """A registration of vessels that breathe, with its pair and the errors after every epoch."""
    pair = vessel_pair(800, "H", 8192)

    class Errors(keras.callbacks.Callback):
        seen: list = []

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append(landmark_errors(self.model, pair).mean())

    model, errors = DiVRoC(), Errors()
    history = model.fit(pair, verbose=0, callbacks=[errors])
    return model, pair, history, errors.seen


def landmark_errors(model, pair):
    moved = model.transform(pair).move(pair.moving_landmarks)
    return np.linalg.norm(moved - pair.fixed_landmarks, axis=1)


def determinants(transform, points, step=0.05):
    rank = points.shape[1]
    sides = [
        transform.move(points + each) - transform.move(points - each)
        for each in step * np.eye(rank)
    ]
    return np.linalg.det(np.stack(sides, axis=-1) / (2 * step))


def test_breathing_vessels_are_registered(fitted):
    model, pair, _, _ = fitted
    initial = np.linalg.norm(pair.moving_landmarks - pair.fixed_landmarks, axis=1).mean()
    assert initial > 10
    assert landmark_errors(model, pair).mean() < 3.0
    inside = np.random.default_rng(0).permutation(pair.moving.points)[:4000]
    assert (determinants(model.transform(pair), inside) <= 0).mean() < 1e-3


def test_the_end_is_not_worse_than_what_was_passed(fitted):
    _, _, _, errors = fitted
    assert errors[-1] <= 1.05 * min(errors)


def test_the_history_goes_on_over_the_stages(fitted):
    model, _, history, errors = fitted
    assert history.epoch == list(range(len(errors)))
    assert {"loss", "data", "smoothness", "held_out"} <= set(history.history)
    assert all(len(values) == len(errors) for values in history.history.values())
    assert history.history["held_out"][-1] < history.history["held_out"][0]
    assert len(errors) == sum(-(-stage.steps // 10) for stage in model.schedule)


def test_move_is_what_the_model_computes(fitted):
    model, pair, _, _ = fitted
    moved = keras.ops.convert_to_numpy(model(pair.moving.points[None, :500])["moved"])[0]
    np.testing.assert_allclose(
        model.transform(pair).move(pair.moving.points[:500]), moved, atol=1e-3
    )
    assert model.predict(pair)["moved"].shape == pair.moving.points.shape


def test_pull_inverts_move(fitted, tmp_path):
    model, pair, _, _ = fitted
    transform, points = model.transform(pair), pair.moving.points[:2000]
    back = transform.pull(transform.move(points))
    np.testing.assert_allclose(back, points, atol=0.01)
    np.testing.assert_allclose(transform.inverse().pull(points), transform.move(points), atol=1e-9)
    transform.save(tmp_path / "it.h5")
    loaded = Transform.load(tmp_path / "it.h5")
    # The file holds the pull on the lattice, interpolated in between.
    assert np.linalg.norm(loaded.pull(transform.move(points)) - points, axis=1).mean() < 0.2


def test_a_file_keeps_what_was_fitted(fitted, tmp_path):
    model, pair, _, _ = fitted
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    points = pair.moving.points[:100]
    np.testing.assert_allclose(
        loaded.transform(pair).move(points), model.transform(pair).move(points), atol=1e-6
    )


@pytest.mark.parametrize("data", ["chamfer", "density"])
@pytest.mark.parametrize("motion", ["shift", "scaling"])
def test_simple_motions_are_found_to_a_tenth_of_a_voxel(data, motion):
    moving, rank = branches(1500, 2), 2
    # The box has a side of about 230 and 64 voxels; 8 of them are 29.
    voxel = 1.15 * 200 / 64
    fixed = moving + [8 * voxel, 0] if motion == "shift" else moving * (0.8, 1.0)
    sizes = [(16, 9, 1.0, 0.3, 2.0), (64, 3, 0.3, 1.0, 1.5)]
    stages = [
        Stage(data, 16, pool, 50, rate, reach=None, raster=size, blur=blur, gain=gain)
        for size, pool, rate, gain, blur in sizes
    ]
    model = DiVRoC(rank, stages=stages, start="none", held_out=0.0)
    pair = Pair(Scan(fixed), Scan(moving))
    model.fit(pair, verbose=0)
    error = np.linalg.norm(model.transform(pair).move(moving) - fixed, axis=1) / voxel
    assert np.sqrt((error**2).mean()) < 0.1


@pytest.mark.parametrize("data", ["chamfer", "density", "hybrid", "distance"])
def test_every_data_term_registers(data):
    pair = bent_pair(2)
    coarse = {"raster": [16, 32], "blur": 1.0, "gain": 0.5}
    kinds = ["density", "chamfer"] if data == "hybrid" else [data]
    model = DiVRoC(2, stages=[QUICK | coarse | {"data": kind} for kind in kinds], start="none")
    model.fit(pair, verbose=0)
    points = pair.moving.points
    before = np.linalg.norm(bend(points) - points, axis=1).mean()
    after = np.linalg.norm(bend(points) - model.transform(pair).move(points), axis=1).mean()
    assert after < 0.5 * before


def test_the_flow_of_every_point_is_found():
    case = vessel_case(801, "E")
    inhale, exhale = case.draw(8192, 0)
    model = DiVRoC()
    model.fit(Pair(Scan(exhale.points), Scan(inhale.points)), verbose=0)
    moved = model.predict(Pair(Scan(exhale.points), Scan(inhale.points)))["moved"]
    error, initial = (
        np.linalg.norm(points - inhale.partners, axis=1).mean() for points in (moved, inhale.points)
    )
    assert error < 0.1 * initial


def test_sparse_clouds_that_fit_exactly_are_met():
    # Neighbours are 12 apart, and points have to move by up to 14.
    moving = branches(600)
    fixed = np.random.default_rng(1).permutation(bend(moving))
    model = DiVRoC()
    history = model.fit(Pair(Scan(fixed), Scan(moving)), verbose=0)
    moved = model.transform(Pair(Scan(fixed), Scan(moving))).move(moving)
    assert np.linalg.norm(moved - bend(moving), axis=1).mean() < 0.5
    # A tenth of so few is watched, until it has met its partners.
    assert history.history["held_out"][-1] < history.history["held_out"][0]
    assert model.doubts == []


def test_clouds_of_a_few_points_are_fitted_as_a_whole():
    pair = Pair(Scan(branches(70)), Scan(branches(70)))
    assert "held_out" not in DiVRoC(**ONE).fit(pair, verbose=0).history


def halves():
    """Clouds without a common point, and where the moving ones belong."""
    points = branches(1200)
    return Pair(Scan(bend(points[:600])), Scan(points[600:])), bend(points[600:])


def test_clouds_without_a_common_point_do_not_end_worse_than_they_align():
    pair, goal = halves()
    model, linear = DiVRoC(), AffineRegistration()
    linear.fit(pair, verbose=0)
    with pytest.warns(UserWarning, match="neighbours, not partners"):
        model.fit(pair, verbose=0)
    errors = [
        np.linalg.norm(each.transform(pair).move(pair.moving.points) - goal, axis=1).mean()
        for each in (model, linear)
    ]
    assert errors[0] <= 1.05 * errors[1]


def test_what_has_nothing_in_common_gets_a_linear_map_and_a_warning():
    rng = np.random.default_rng(0)
    pair = Pair(*(Scan(rng.uniform(-1, 1, (800, 3))) for _ in range(2)))
    model = DiVRoC(stages=[QUICK, QUICK])
    with pytest.warns(UserWarning, match="do not support a deformation"):
        model.fit(pair, verbose=0)
    assert len(model.doubts) == 1
    assert not any(keras.ops.convert_to_numpy(each[...]).any() for each in model.controls)
    points = bent_pair()
    model.fit(points, verbose=0)
    assert not any("linear" in doubt for doubt in model.doubts), "of the last fit alone"


def test_clouds_that_lie_on_each_other_are_not_doubted():
    points = branches(600)
    model = DiVRoC(stages=[QUICK])
    model.fit(Pair(Scan(points), Scan(points[::-1])), verbose=0)
    assert model.doubts == []


def test_velocities_invert_themselves():
    pair = bent_pair(2)
    model = DiVRoC(2, stages=[QUICK], velocity=True)
    model.fit(pair, verbose=0)
    transform, points = model.transform(pair), pair.moving.points
    # Of the lattice spacing of 15, what interpolation leaves.
    np.testing.assert_allclose(transform.pull(transform.move(points)), points, atol=0.6)
    assert (determinants(transform, points) > 0).all()
    moved = keras.ops.convert_to_numpy(model(points[None])["moved"])[0]
    np.testing.assert_allclose(transform.move(points), moved, atol=1e-2)


@pytest.mark.parametrize("start", ["moments", "affine"])
def test_linear_starts(start):
    moving = branches()
    fixed = moving * (1.3, 0.8, 1.0) + (400, -50, 3)
    model = DiVRoC(stages=[QUICK | {"steps": 1, "rate": 1e-6}], start=start, held_out=0.0)
    pair = Pair(Scan(fixed), Scan(moving))
    model.fit(pair, verbose=0)
    np.testing.assert_allclose(model.transform(pair).move(moving), fixed, atol=0.05)


def test_a_given_flow_is_the_start(tmp_path):
    pair = bent_pair()
    points = pair.moving.points
    with pytest.warns(FutureWarning, match="scattered"):
        model = DiVRoC(stages=[QUICK | {"steps": 1, "rate": 1e-6}], start="flow", held_out=0.0)
    model.fit(pair, flow=bend(points) - points, verbose=0)
    others = branches(500, seed=3)
    error = np.linalg.norm(model.transform(pair).move(others) - bend(others), axis=1)
    assert error.mean() < 0.25 * np.linalg.norm(bend(others) - others, axis=1).mean()
    moved = model.predict(others[None], verbose=0)["moved"][0]
    np.testing.assert_allclose(model.transform(pair).move(others), moved, atol=1e-3)
    # It is a chain of the transform through the flow and a plain registration.
    start = scattered(points, bend(points) - points)
    plain = DiVRoC(stages=[QUICK | {"steps": 1, "rate": 1e-6}], start="none", held_out=0.0)
    plain.fit(pair.aligned(start), verbose=0)
    chain = start @ plain.transform(pair.aligned(start))
    np.testing.assert_allclose(chain.move(others), moved, atol=1e-3)
    model.save(tmp_path / "model.keras")
    with pytest.warns(FutureWarning, match="scattered"):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.transform(pair).move(others), moved, atol=1e-3)
    with pytest.raises(ValueError, match="flow must have the shape"):
        model.fit(pair, flow=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="flow must be given"):
        model.fit(pair)
    with pytest.raises(ValueError, match="flow must be given"):
        DiVRoC(**ONE).fit(pair, flow=np.zeros_like(points))


def test_far_from_the_origin_and_in_other_units_it_is_the_same():
    pair, shift = bent_pair(2), np.array([4e6, -7e6])
    far = Pair(Scan(pair.fixed.points / 100 + shift), Scan(pair.moving.points / 100 + shift))
    moved = []
    for each in (pair, far):
        model = DiVRoC(2, **ONE)
        model.fit(each, verbose=0)
        moved.append(model.transform(each).move(each.moving.points))
    # Rounding decides between points that are equally near, now and then.
    assert np.abs((moved[1] - shift) * 100 - moved[0]).mean() < 0.05


def test_masked_points_and_those_of_no_weight_do_not_count():
    pair, rng = bent_pair(2), np.random.default_rng(1)
    noise = rng.uniform(-300, 300, (200, 2))
    more = {
        side: np.concatenate([getattr(pair, side).points, noise]) for side in ("fixed", "moving")
    }
    counts = {side: np.arange(len(points)) < len(points) - 200 for side, points in more.items()}
    padded = Pair(
        Scan(more["fixed"]),
        Scan(more["moving"]),
        fixed_mask=counts["fixed"],
        weights=2.0 * counts["moving"],
    )
    moved = []
    for each in (pair, padded):
        model = DiVRoC(2, **ONE)
        model.fit(each, verbose=0)
        moved.append(model.transform(each).move(pair.moving.points))
    np.testing.assert_allclose(moved[1], moved[0], atol=1e-3)


def test_the_seed_decides():
    pair, moved = bent_pair(2), []
    for seed in (0, 0, 1):
        model = DiVRoC(2, stages=[QUICK | {"points": 500}], seed=seed)
        model.fit(pair, verbose=0)
        moved.append(model.transform(pair).move(pair.moving.points))
    np.testing.assert_allclose(moved[1], moved[0], atol=1e-4)
    assert np.abs(moved[2] - moved[0]).max() > 1e-3


def test_a_callback_stops_all_stages():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 3

    model = DiVRoC(2, stages=[QUICK, QUICK | {"pool": 3}, QUICK])
    history = model.fit(bent_pair(2), verbose=0, callbacks=Stop())
    assert history.epoch == [0, 1, 2, 3]
    assert not keras.ops.convert_to_numpy(model.controls[2][...]).any()


def test_a_stage_that_drifts_ends_at_its_best():
    # Noise that a fine lattice can follow, and steps that are far too long.
    rng = np.random.default_rng(0)
    clouds = [Scan(rng.uniform(-1, 1, (1000, 2))) for _ in range(2)]
    stage = {"lattice": 32, "pool": 1, "steps": 200, "rate": 3.0, "reach": None}
    model = DiVRoC(2, stages=[stage], held_out=0.3, patience=2)
    history = model.fit(Pair(*clouds), verbose=0)
    assert len(history.epoch) < 20


def test_smoothness_smooths():
    roughness = []
    for weight in (0.0, 1e4):
        model = DiVRoC(2, stages=[QUICK | {"smoothness": 1.0}])
        model.compile(loss_weights={"smoothness": weight})
        roughness.append(model.fit(bent_pair(2), verbose=0).history["smoothness"][-1])
    assert roughness[1] < 0.5 * roughness[0]


def test_duplicates_do_no_harm():
    points = np.repeat(branches(400, 2), 5, axis=0)
    pair = Pair(Scan(bend(points)), Scan(points))
    model = DiVRoC(2, **ONE)
    history = model.fit(pair, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    error = np.linalg.norm(model.transform(pair).move(points) - bend(points), axis=1)
    assert error.mean() < 0.2 * np.linalg.norm(bend(points) - points, axis=1).mean()


def test_unfitted_it_is_the_identity_and_says_so():
    pair, model = bent_pair(2), DiVRoC(2, **ONE)
    with pytest.warns(UserWarning, match="has not been fitted"):
        transform = model.transform(pair)
    np.testing.assert_allclose(transform.move(pair.moving.points), pair.moving.points)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.transform(pair)


def test_points_far_outside_are_reported():
    pair = bent_pair(2)
    lost = Scan(np.concatenate([pair.moving.points, [[9000.0, 0.0]]]))
    with pytest.warns(UserWarning, match="moving: 1 of 1501 points lie far outside"):
        DiVRoC(2, stages=[QUICK | {"steps": 1}], start="none").fit(
            Pair(pair.fixed, lost), verbose=0
        )


def test_predict_wants_batches_of_points():
    model, points = DiVRoC(2, **ONE), branches(20, 2)
    moved = model.predict(points[None].astype("float32"), verbose=0)["moved"]
    np.testing.assert_allclose(moved[0], points, atol=1e-5)
    with pytest.raises(ValueError, match=r"points \[b, n, 2\], not of the shape \(20, 2\)"):
        model.predict(points)


def test_what_cannot_be_registered_is_refused():
    model, points = DiVRoC(2, **ONE), branches(100, 2)
    line = np.linspace(0, 1, 50)[:, None] * [1.0, 2.0]
    for bad, error, match in (
        (points, TypeError, "x must be a zoo.Pair of clouds, not ndarray"),
        ({"fixed": points, "moving": points}, TypeError, "not dict"),
        (Pair(np.eye(20)[..., None], np.eye(20)[..., None]), ValueError, "not of images"),
        (Pair(Scan(branches(20)), Scan(branches(20))), ValueError, "has 3 dimensions.*dims=2"),
        (Pair(Scan(points[:4]), Scan(points)), ValueError, "fixed: 4 points count; at least 6"),
        (
            Pair(Scan(points), Scan(100 * line)),
            ValueError,
            "moving: the 50 points that count lie on a",
        ),
        (
            Pair(Scan(points), Scan(points), moving_mask=np.arange(100) < 3),
            ValueError,
            "moving: 3 points count",
        ),
    ):
        with pytest.raises(error, match=match):
            model.fit(bad)
    good = Pair(Scan(points), Scan(points))
    with pytest.raises(TypeError, match=r"does not take \['batch_size'\]"):
        model.fit(good, batch_size=2)
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        model.fit(good, epochs=0)
    with pytest.raises(TypeError, match="pair must be a zoo.Pair"):
        model.transform(points)
    with pytest.raises(ValueError, match=r"weights must have the shape \(100,\)"):
        Pair(Scan(points), Scan(points), weights=np.ones(3))
    with pytest.raises(ValueError, match="NaN"):
        Scan(np.where(points > 0, np.nan, points))


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"dims": 4}, "dims must be one of"),
        ({"data": "icp"}, "data must be one of"),
        ({"start": "zero"}, "start must be one of"),
        ({"power": 3}, "power must be one of"),
        ({"squash": "relu"}, "squash must be one of"),
        ({"points": 2}, "points must be at least 8"),
        ({"held_out": 0.9}, "held_out must lie between"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"stages": []}, "at least one stage"),
        ({"stages": [3]}, "stages must be a sequence of Stages"),
        ({"stages": [{"grid": 3}]}, r"stages\[0\] has unknown keys \['grid'\]"),
        ({"stages": [{"pool": 4}]}, "pool of a stage must be odd"),
        ({"stages": [{"lattice": 1}]}, r"stages\[0\]: lattice must be at least 2"),
        ({"stages": [{"data": "icp"}]}, "data of a stage must be one of"),
        ({"stages": [{"reach": 0}]}, "reach of a stage must be positive"),
        ({"stages": [{"partners": 0}]}, "partners of a stage must be positive"),
        ({"stages": [{"blur": -1}]}, "blur of a stage must not be negative"),
        ({"stages": [{"raster": [32, 1]}]}, r"stages\[0\]: raster must be at least 2"),
    ],
)
def test_bad_arguments_are_named(config, match):
    with pytest.raises(ValueError, match=match):
        DiVRoC(**config)
