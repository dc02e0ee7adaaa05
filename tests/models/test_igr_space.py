"""A family of spheres: what is learned, codes of others, shapes between, and what is refused."""

import keras
import numpy as np
import pytest

import zoo
from zoo.data.shapes import sphere
from zoo.data.surface_batches import ManySurfaces, SurfaceSampler
from zoo.models.igr_space import IGRSpace, common_frame

RADII = (0.5, 0.7, 0.9)
SMALL = {
    "members": 3,
    "codes": 4,
    "width": 32,
    "depth": 2,
    "skips": (),
    "points_per_step": 300,
    "shapes_per_step": 3,
    "neighbours": 10,
}
SPHERES = [sphere(300, radius=radius, seed=number) for number, radius in enumerate(RADII)]


@pytest.fixture(scope="module")
def family():
    keras.utils.set_random_seed(0)
    model = IGRSpace(**SMALL)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(SPHERES, epochs=3, steps_per_epoch=60, verbose=0)
    return model


def radius_of(mesh):
    return np.linalg.norm(mesh.vertices, axis=1).mean()


def test_every_member_has_its_code_in_a_common_frame(family):
    centre, scale = family.frame
    assert scale == common_frame(SPHERES)[1] == SPHERES[2].frame[1]
    for number, radius in enumerate(RADII):
        shape = family.decode(number)
        assert radius_of(shape.mesh(32)) == pytest.approx(radius, abs=0.04)
        beside = shape.predict(np.array([[radius - 0.1, 0, 0], [radius + 0.1, 0, 0]]))[:, 0]
        np.testing.assert_allclose(beside, [-0.1, 0.1], atol=0.05)
    assert float(family.residual) == max(family.residual_of(s, k) for k, s in enumerate(SPHERES))


def test_another_sphere_and_half_of_one_are_found_by_their_codes(family):
    before = family.get_weights()
    whole = sphere(300, radius=0.6, seed=9)
    half = whole.subset(whole.points[:, 2] > 0)
    code = family.encode(half, epochs=1)
    assert all(map(np.array_equal, before, family.get_weights()))  # encode changes nothing
    assert radius_of(family.decode(code).mesh(32)) == pytest.approx(0.6, abs=0.04)
    history = family.fit(whole, epochs=1, verbose=0).history
    assert {"surface", "normals", "eikonal", "codes"} <= set(history) and not family.doubts
    assert radius_of(family.mesh(32)) == pytest.approx(0.6, abs=0.04)
    after = family.get_weights()
    changed = [not np.array_equal(*pair) for pair in zip(before, after, strict=True)]
    assert sum(changed) == 1  # the code, and neither network nor table
    assert len(family.trainable_weights) == len(family.network.weights) + 1


def test_what_is_no_member_is_said(family):
    away = zoo.Scan(SPHERES[1].points + [1.5, 0, 0], SPHERES[1].normals, name="away")
    with pytest.warns(UserWarning, match="'away': .* outside of the box .*no member of the family"):
        family.fit(away, epochs=1, steps_per_epoch=5, verbose=0)
    assert len(family.doubts) == 2


def test_a_line_of_codes_ends_at_both_shapes(family):
    before = keras.ops.convert_to_numpy(family.code)
    between = family.interpolate(0, 2, 3, resolution=32)
    ends = [family.decode(number).mesh(32) for number in (0, 2)]
    for found, end in zip((between[0], between[-1]), ends, strict=True):
        np.testing.assert_allclose(found.vertices, end.vertices, atol=1e-5)
    assert radius_of(ends[0]) < radius_of(between[1]) < radius_of(ends[1])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(family.code), before)


def test_a_preset_gives_back_codes_and_shape(family, tmp_path):
    again = zoo.load(family.save_preset(tmp_path / "spheres"))
    points = SPHERES[0].points
    np.testing.assert_allclose(again.predict(points), family.predict(points), atol=1e-6)
    decoded = [model.decode(1).predict(points) for model in (again, family)]
    np.testing.assert_allclose(*decoded, atol=1e-6)
    assert float(again.residual) == float(family.residual)


def test_a_first_step_moves_the_codes_of_its_own_scans_alone():
    keras.utils.set_random_seed(0)
    model = IGRSpace(**SMALL | {"shapes_per_step": 1})
    samplers = [SurfaceSampler(s, points=50, neighbours=10, guided=True) for s in SPHERES]
    batches = ManySurfaces(samplers, shapes=1, steps=1)
    (batch,) = batches[0]
    model.compile()
    model.fit(batches, epochs=1, verbose=0)
    moved = np.abs(keras.ops.convert_to_numpy(model.table)).max(axis=1) > 0
    assert moved.tolist() == [k == batch["member"][0] for k in range(3)]


def test_batches_see_every_scan_equally_often_and_repeat():
    samplers = [SurfaceSampler(s, points=50, neighbours=10, guided=True) for s in SPHERES]
    batches = ManySurfaces(samplers, shapes=2, steps=3, seed=5)
    drawn = [batches[k][0] for k in range(3)]
    members = np.concatenate([batch["member"] for batch in drawn])
    assert sorted(members[:3]) == sorted(members[3:]) == [0, 1, 2]
    assert drawn[0]["surface"].shape == (2, 50, 3) and drawn[0]["known"].shape == (2, 6)
    for name, array in batches[1][0].items():
        np.testing.assert_array_equal(array, drawn[1][name])
    batches.epoch = 1
    assert not np.array_equal(batches[1][0]["surface"], drawn[1]["surface"])
    with pytest.raises(ValueError, match="shapes must not exceed the 3 scans"):
        ManySurfaces(samplers, shapes=4)


def test_bad_input_is_named(family):
    fresh = IGRSpace(**SMALL)
    with pytest.raises(ValueError, match="no family of shapes was learned yet: fit a list of 3"):
        fresh.fit(SPHERES[0])
    with pytest.raises(ValueError, match="no family"):
        fresh.interpolate(0, 1)
    with pytest.raises(ValueError, match="x must hold the 3 scans that members says, not 2"):
        fresh.fit(SPHERES[:2])
    with pytest.raises(ValueError, match=r"x\[1\] must be a zoo.Scan, a mesh or points, not 'b'"):
        fresh.fit([SPHERES[0], "b", SPHERES[1]])
    flat = zoo.Scan(np.random.default_rng(0).normal(size=(40, 2)))
    with pytest.raises(ValueError, match="has 2 coordinates; this model has dims=3"):
        family.fit(flat)
    with pytest.raises(ValueError, match="validation_data must be a list of the 3 scans"):
        fresh.fit(SPHERES, validation_data=SPHERES[0], epochs=1, steps_per_epoch=1)
    with pytest.raises(ValueError, match="validation_data must be None for one scan"):
        family.fit(SPHERES[0], validation_data=SPHERES[0])
    with pytest.raises(ValueError, match="code must lie between 0 and 2, not 3"):
        family.decode(3)
    with pytest.raises(ValueError, match="second must be a code of 4 numbers"):
        family.interpolate(0, np.zeros(5))
    with pytest.raises(ValueError, match="scan must be a zoo.Scan, a mesh or points"):
        family.encode("scan.ply")
    with pytest.raises(ValueError, match="neighbours=10 needs a scan of more points"):
        family.fit(zoo.Scan(sphere(8).points))
    assert not keras.ops.convert_to_numpy(fresh.table).any()
