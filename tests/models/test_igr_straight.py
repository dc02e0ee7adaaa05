"""Terms of IGR that its authors did not have: bending, which fades out, and far sheets."""

import keras
import numpy as np
import pytest
from keras import ops
from test_igr import TINY

import zoo
from zoo.data import shapes
from zoo.data.surface_batches import SurfaceSampler
from zoo.models.igr import IGR

BOTH = {"bending": 0.01, "sheets": 0.1}


class Bowl(IGR):
    """Half the squared length: its gradient is the point, along which it bends by one."""

    def field(self, points):
        return ops.sum(ops.square(points), axis=-1) / 2


def batch():
    sampler = SurfaceSampler(shapes.sphere(200), points=64, neighbours=10, straight=True)
    return sampler[0][0]


def test_bending_is_the_second_derivative_along_the_gradient():
    given = batch()
    away = np.linalg.norm(given["off_surface"], axis=1) > 0.3  # from where it has no slope
    given["off_surface"] = given["off_surface"][away]
    model = Bowl(**TINY)
    model.compile(loss_weights=BOTH)
    outputs = model(given)
    np.testing.assert_allclose(outputs["off_surface_bending"], 1.0, atol=0.02)
    terms = model.loss_terms(given, None, outputs)
    assert float(terms["bending"]) == pytest.approx(1, abs=0.02)
    model.compile(loss_weights={"bending": 0.0})
    assert "off_surface_bending" not in model(given)
    model.compile()
    del given["straight"]  # as the batches of the authors
    outputs = model(given)
    assert "off_surface_bending" not in outputs
    assert not set(BOTH) & set(model.loss_terms(given, None, outputs))


def test_the_penalty_sees_uniform_samples_alone():
    model, given = IGR(**TINY), batch()
    model.compile(loss_weights={"sheets": 1.0})
    outputs = model(given)
    for distance in (0.0, 0.01):
        values = np.full(72, 9.0, np.float32)
        values[64:] = -distance
        terms = model.loss_terms(given, None, outputs | {"off_surface_value": values})
        assert float(terms["sheets"]) == pytest.approx(np.exp(-100 * distance), rel=1e-5)


def test_the_field_may_bend_after_two_fifths_of_the_training():
    sphere, options = shapes.sphere(200), {"points": 50, "neighbours": 10, "steps": 4}
    assert "straight" not in SurfaceSampler(sphere, **options)[0][0]
    sampler = SurfaceSampler(sphere, **options, straight=True)
    assert (sampler[0][0]["straight"] == np.ones(50)).all()
    sampler.epochs, found = 10, []
    for sampler.epoch in range(10):
        found += [float(sampler[index][0]["straight"][0]) for index in range(4)]
    progress = np.arange(40) / 40
    np.testing.assert_allclose(found, np.clip(2 - 5 * progress, 0, 1), atol=1e-6)


@pytest.mark.parametrize("encoding", [None, "hash"])
def test_both_train_and_are_logged(encoding, seeded):
    config = TINY | {"straight": True} if encoding is None else IGR.example()["config"]
    model = IGR(**config)
    model.compile(loss_weights=BOTH)
    scan = zoo.Scan(shapes.sphere(400).points)
    logs = model.fit(scan, epochs=5, steps_per_epoch=8, verbose=0).history
    assert logs["loss"][-1] < logs["loss"][0]
    assert logs["bending"][0] > 0 and logs["sheets"][0] > 0
    assert logs["bending"][-1] == 0 and logs["sheets"][-1] > 0  # the one fades, the other stays


def test_weights_of_both_are_saved(tmp_path):
    model = IGR(**TINY)
    model.compile(loss_weights=BOTH)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.loss_weights == IGR.default_loss_weights | BOTH
