"""Reports of DIRV-Net: the numbers are right, and survive an interruption."""

import csv

import keras
import numpy as np
import pytest
from keras import ops
from matplotlib.image import imread

from zoo.data.chessboard import ChessboardPairs
from zoo.layers.pyramid import downsample_displacement, image_pyramid
from zoo.models.dirvnet import DIRVNet
from zoo.ops.summaries import Summaries, can_summarise
from zoo.reports import Report, VariationalReport

TINY = {"levels": 2, "units": 2, "filters": 3, "data_kernel": 3, "smoothness_kernel": 3}
PICTURES = ["displacements", "functions", "pairs", "unit_displacements", "unit_images", "weights"]


def rows(folder):
    with (folder / "losses.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def errors(folder, epoch):
    """`[levels, units]` of one epoch."""
    found = [float(row["error"]) for row in rows(folder) if int(row["epoch"]) == epoch]
    return np.reshape(found, (2, 2))


def trained(model, images):
    """The levels as training sees them, of which none is judged."""
    return model(images, training=True)["trace"]


def pulled(report, model, epochs, first=0):
    """Has a report written without training, which would only take time."""
    report.set_model(model)
    report.on_train_begin()
    for epoch in range(first, epochs):
        report.on_epoch_begin(epoch)
        report.on_epoch_end(epoch, {"loss": 0.5 + epoch})
    report.on_train_end()


@pytest.fixture(scope="module")
def plane():
    keras.utils.set_random_seed(0)
    return DIRVNet(**TINY)


@pytest.fixture(scope="module")
def pairs():
    return ChessboardPairs((16, 12), 3, 1, magnitude=2.0, still=0)


def test_report_of_training(tmp_path, pairs):
    keras.utils.set_random_seed(0)
    model = DIRVNet(**TINY)
    model.compile(run_eagerly=True, jit_compile=False)
    report = VariationalReport(pairs, tmp_path, every=1)
    images, known = pairs[0]
    before = [unit for level in trained(model, images) for unit in level["displacements"]]
    model.fit(pairs, epochs=1, callbacks=[report], verbose=0)
    assert [path.name for path in tmp_path.glob("epoch_*")] == ["epoch_0001"]
    assert sorted(path.stem for path in tmp_path.glob("epoch_0001/*.png")) == PICTURES
    for path in [*tmp_path.glob("epoch_0001/*.png"), tmp_path / "losses.png"]:
        assert imread(path)[..., :3].std() > 0.01
    assert (tmp_path / "tensorboard").is_dir() == can_summarise()
    assert [int(row["epoch"]) for row in rows(tmp_path)] == [0] * 4 + [1] * 4
    # The finer level counts once, voxels of the coarser one twice.
    truth = [ops.convert_to_numpy(downsample_displacement(known)), known]
    after = [unit for level in trained(model, images) for unit in level["displacements"]]
    for epoch, fields in ((0, before), (1, after)):
        expected = [
            (2 - k // 2) * np.linalg.norm(ops.convert_to_numpy(field) - truth[k // 2], axis=-1)
            for k, field in enumerate(fields)
        ]
        expected = np.reshape([lengths.mean() for lengths in expected], (2, 2))
        np.testing.assert_allclose(errors(tmp_path, epoch), expected, rtol=1e-4)
    assert np.abs(errors(tmp_path, 1) - errors(tmp_path, 0)).max() > 1e-5


def test_residual_inside_the_mask_where_nothing_is_known(tmp_path, plane, pairs):
    images, _ = pairs[0]
    mask = np.zeros_like(images["fixed"])
    mask[:, :9, 2:] = 1.0
    images = {**images, "fixed_mask": mask}
    report = VariationalReport((images,), tmp_path, every=1)
    pulled(report, plane, 1)
    weights = [ops.convert_to_numpy(one) for one in image_pyramid(mask, 2)[::-1]]
    for level, weight, found in zip(
        trained(plane, images), weights, errors(tmp_path, 1), strict=True
    ):
        for moved, error in zip(level["moved"], found, strict=True):
            residual = np.abs(ops.convert_to_numpy(level["fixed"] - moved))
            axes = (1, 2, 3)
            expected = ((residual * weight).sum(axes) / weight.sum(axes)).mean()
            assert error == pytest.approx(expected, rel=1e-4)
    assert report.measure == "mean absolute residual"


@pytest.mark.skipif(not can_summarise(), reason="event files need TensorFlow")
def test_event_file_holds_the_same(tmp_path, plane, pairs):
    import tensorflow as tf

    pulled(VariationalReport(pairs, tmp_path, every=2), plane, 2)
    (path,) = (tmp_path / "tensorboard").iterdir()
    found = {}
    for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
            tensor = tf.make_ndarray(value.tensor)
            found[event.step, value.tag] = (value.metadata.plugin_data.plugin_name, tensor)
    assert found[2, "training/loss"] == ("scalars", 1.5)
    for epoch in (0, 2):
        table = errors(tmp_path, epoch)
        assert found[epoch, "error/mean of levels"][1] == pytest.approx(table[:, -1].mean())
        for level in range(2):
            assert found[epoch, f"error/level {level}"][1] == pytest.approx(table[level, -1])
            for unit in range(2):
                value = found[epoch, f"units/level {level} unit {unit}"][1]
                assert value == pytest.approx(table[level, unit])
    for name in PICTURES:
        png = tmp_path / f"epoch_0002/{name}.png"
        plugin, (width, height, content) = found[2, name]
        assert (plugin, content) == ("images", png.read_bytes())
        assert imread(png).shape[:2] == (int(height), int(width))
    plugin, table = found[2, "level 1/data functions"]
    knots = [ops.convert_to_numpy(unit.data.activation.knots) for unit in plane.units[1]]
    assert plugin == "histograms" and table[:, 2].sum() == np.size(knots)
    assert (table[0, 0], table[-1, 1]) == pytest.approx((np.min(knots), np.max(knots)))


@pytest.mark.skipif(can_summarise(), reason="TensorFlow writes event files")
def test_event_files_need_tensorflow(tmp_path):
    with pytest.raises(RuntimeError, match="TensorFlow backend"):
        Summaries(tmp_path)


def test_resumed_training_goes_on_with_the_table(tmp_path, plane, pairs, monkeypatch):
    monkeypatch.setattr(VariationalReport, "_measured", lambda _: ({}, None, [[2.0, 1.0]] * 2))
    monkeypatch.setattr(VariationalReport, "_draw", lambda *_: None)
    options = {"folder": tmp_path, "every": 2, "tensorboard": False}
    pulled(VariationalReport(pairs, **options), plane, 6)
    assert [int(row["epoch"]) for row in rows(tmp_path)[::4]] == [0, 2, 4, 6]
    # Weights were kept after epoch 5, so what followed is reported again.
    pulled(VariationalReport(pairs, **options), plane, 8, first=5)
    assert [int(row["epoch"]) for row in rows(tmp_path)[::4]] == [0, 2, 4, 6, 8]
    pulled(VariationalReport(pairs, **options), plane, 1)
    assert [int(row["epoch"]) for row in rows(tmp_path)] == [0] * 4
    assert not (tmp_path / "tensorboard").exists()


def test_volumes_shared_weights_and_features(tmp_path):
    model = DIRVNet(3, **TINY | {"units": 1}, share_levels=True, features=2)
    data = ChessboardPairs((8, 10, 6), 2, 1, magnitude=1.0)
    pulled(VariationalReport(data, tmp_path, every=1, tensorboard=False), model, 1)
    assert sorted(path.stem for path in tmp_path.glob("epoch_0001/*.png")) == PICTURES


def test_the_batch_is_kept(tmp_path, pairs):
    images, known = pairs[0]
    given = {side: array.copy() for side, array in images.items()}, known.copy()
    reports = [VariationalReport(data, tmp_path) for data in (given, pairs)]
    given[0]["moving"][:], given[1][:] = 0, 0
    for report in reports:
        np.testing.assert_array_equal(report._x["moving"], images["moving"])
        np.testing.assert_array_equal(report._known, known)


IMAGES = {"fixed": np.ones((2, 8, 8, 1)), "moving": np.ones((2, 8, 8, 1))}


@pytest.mark.parametrize(
    "data, error, words",
    [
        (IMAGES, TypeError, "batch"),
        ((IMAGES, None, None), TypeError, "batch"),
        ((IMAGES["fixed"],), TypeError, "'moving'"),
        (({"fixed": IMAGES["fixed"]},), TypeError, "'moving', not"),
        (({**IMAGES, "moving": np.ones((2, 8, 9, 1))},), ValueError, "same shape"),
        ((IMAGES, np.ones((2, 8, 8, 3))), ValueError, r"y must have the shape \(2, 8, 8, 2\)"),
        (({**IMAGES, "fixed_mask": np.ones((2, 8, 8))},), ValueError, "fixed_mask"),
    ],
)
def test_wrong_batches_are_refused(data, error, words, tmp_path):
    with pytest.raises(error, match=words):
        VariationalReport(data, tmp_path)


def test_wrong_models_are_refused(tmp_path, plane):
    with pytest.raises(ValueError, match="every must be at least 1"):
        VariationalReport((IMAGES,), tmp_path, every=0)
    report = VariationalReport((IMAGES,), tmp_path)
    report.set_model(keras.Sequential())
    with pytest.raises(TypeError, match="needs a DIRVNet, not Sequential"):
        report.on_train_begin()
    report = VariationalReport(({side: np.ones((1, 8, 8, 2)) for side in IMAGES},), tmp_path)
    report.set_model(plane)
    with pytest.raises(ValueError, match="dims=2 and channels=1"):
        report.on_train_begin()


def test_a_report_of_a_few_lines(tmp_path):
    class Slope(Report):
        """The bias of a linear model."""

        columns = ("epoch", "output", "bias")

        def _measured(self):
            return ops.convert_to_numpy(self.model.layers[-1].bias)

        def _rows(self, measured):
            return list(enumerate(map(float, measured)))

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    pulled(Slope(tmp_path, every=2), model, 4)
    expected = [(epoch, output, 0.0) for epoch in (0, 2, 4) for output in (0, 1)]
    resumed = Slope(tmp_path, every=2)
    pulled(resumed, model, 6, first=4)
    assert resumed.records == [*expected, (6, 0, 0.0), (6, 1, 0.0)]
    assert list(rows(tmp_path)[0]) == ["epoch", "output", "bias"]
    with pytest.raises(NotImplementedError, match="Report does not define _measured"):
        pulled(Report(tmp_path), model, 1)
