"""Reports of DIRV-Net: the numbers are right, the pictures show what they say."""

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
from zoo.reports import VariationalReport
from zoo.view import variational as view

TINY = {"levels": 2, "units": 2, "filters": 3, "data_kernel": 3, "smoothness_kernel": 3}
PICTURES = ["displacements", "functions", "pairs", "unit_displacements", "unit_images", "weights"]


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def rows(folder):
    with (folder / "losses.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def errors(folder, epoch):
    """`[levels, units]` of one epoch."""
    found = [float(row["error"]) for row in rows(folder) if int(row["epoch"]) == epoch]
    return np.reshape(found, (2, 2))


def pulled(report, model, epochs, first=0):
    """Has a report written without training, which would only take time."""
    report.set_model(model)
    report.on_train_begin()
    for epoch in range(first, epochs):
        report.on_epoch_begin(epoch)
        report.on_epoch_end(epoch, {"loss": 0.5 + epoch})
    report.on_train_end()


def titled(figure):
    return {axes.get_title().split("\n")[0]: axes for axes in figure.axes if axes.get_title()}


def shown(axes):
    return np.asarray(axes.images[0].get_array())


@pytest.fixture(scope="module")
def plane():
    keras.utils.set_random_seed(0)
    return DIRVNet(**TINY)


@pytest.fixture(scope="module")
def pairs():
    return ChessboardPairs((16, 12), 3, 1, magnitude=2.0, still=0)


# The callback


def test_report_of_training(tmp_path, pairs):
    keras.utils.set_random_seed(0)
    model = DIRVNet(**TINY)
    model.compile(run_eagerly=True, jit_compile=False)
    report = VariationalReport(pairs, tmp_path, every=1)
    images, known = pairs[0]
    before = [unit for level in model.trace(images) for unit in level["displacements"]]
    model.fit(pairs, epochs=1, callbacks=[report], verbose=0)
    assert [path.name for path in tmp_path.glob("epoch_*")] == ["epoch_0001"]
    assert sorted(path.stem for path in tmp_path.glob("epoch_0001/*.png")) == PICTURES
    for path in [*tmp_path.glob("epoch_0001/*.png"), tmp_path / "losses.png"]:
        assert imread(path)[..., :3].std() > 0.01
    assert (tmp_path / "tensorboard").is_dir() == can_summarise()
    assert [int(row["epoch"]) for row in rows(tmp_path)] == [0] * 4 + [1] * 4
    # The finer level counts once, voxels of the coarser one twice.
    truth = [ops.convert_to_numpy(downsample_displacement(known)), known]
    after = [unit for level in model.trace(images) for unit in level["displacements"]]
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
    report = VariationalReport(({**images, "fixed_mask": mask},), tmp_path, every=1)
    pulled(report, plane, 1)
    weights = [ops.convert_to_numpy(one) for one in image_pyramid(mask, 2)[::-1]]
    for level, weight, found in zip(plane.trace(images), weights, errors(tmp_path, 1), strict=True):
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


# The figures


@pytest.mark.parametrize("spatial", [(7, 5), (7, 5, 4)])
def test_pairs(spatial, tmp_path):
    fixed, moving, moved = (random(9, *spatial, 2, seed=seed) for seed in range(3))
    field = np.zeros((9, *spatial, len(spatial)), "float32")
    field[..., 0] = 2.0
    path = tmp_path / "new" / "pairs.png"
    figure = view.pairs_figure(fixed, moving, moved, field, path)
    assert len(figure.axes) == 8 * 6 and imread(path).ndim == 3
    panels = titled(figure)
    middle = (slice(None), slice(None), *((2,) if len(spatial) == 3 else ()))
    np.testing.assert_allclose(shown(panels["fixed"]), fixed[0].mean(-1)[middle].T, rtol=1e-6)
    for name, image in (("moving", moving), ("moved", moved)):
        axes = panels[f"fixed {view.MINUS} {name}"]
        expected = (fixed[0] - image[0]).mean(-1)[middle].T
        np.testing.assert_allclose(shown(axes), expected, atol=1e-6)
        assert f"{np.abs(fixed[0] - image[0]).mean():.2f}" in axes.get_title()
        assert axes.images[0].norm.vmin == -axes.images[0].norm.vmax
    # x is the first axis and runs to the right.
    lines = panels["grid"].collections[0].get_segments()
    assert max(line[:, 0].max() for line in lines) == spatial[0] - 1 + 2
    assert max(line[:, 1].max() for line in lines) == spatial[1] - 1


@pytest.mark.parametrize("rank", [2, 3])
def test_displacements(rank):
    spatial = (7, 5, 4)[:rank]
    predicted, known = random(2, *spatial, rank), random(2, *spatial, rank, seed=1)
    figure = view.displacement_figure(predicted, known)
    assert len(figure.axes) == 2 * 8
    panels = titled(figure)
    middle = (slice(None), slice(None), 2)[:rank]
    y = panels[f"y {view.ERROR}"]
    np.testing.assert_array_equal(shown(y), (predicted - known)[0][(*middle, 1)].T)
    assert f"{np.abs(predicted - known)[0, ..., 1].mean():.2f}" in y.get_title()
    norms = [axes.images[0].norm for axes in figure.axes[:6]]
    assert {norm.vmax for norm in norms} == {-norm.vmin for norm in norms} == {norms[0].vmax}
    arrows = panels["known field"].collections[0]
    x, y = np.int32(arrows.get_offsets()[8])
    np.testing.assert_allclose(
        (arrows.U[8], arrows.V[8]), known[0][x, y, 2][:2] if rank == 3 else known[0][x, y]
    )
    alone = titled(view.displacement_figure(predicted))
    assert list(alone) == ["x predicted", "y predicted", "predicted field"]


def test_displacement_after_every_unit():
    steps = [[random(4, 3, 2), random(4, 3, 2, seed=1)], [random(8, 6, 2), random(8, 6, 2, seed=1)]]
    known = [random(4, 3, 2, seed=2), random(8, 6, 2, seed=2)]
    figure = view.unit_displacement_figure(steps, known)
    *panels, bar = figure.axes
    assert len(panels) == 4 * 4
    # Voxels of the coarser level are two of the finer one.
    np.testing.assert_array_equal(shown(panels[4]), 2 * steps[0][0][..., 1].T)
    np.testing.assert_array_equal(shown(panels[9]), steps[1][1][..., 0].T)
    error = 2 * np.linalg.norm(steps[0][1] - known[0], axis=-1).mean()
    assert panels[1].get_title() == f"unit 1\nerror {error:.2f}"
    np.testing.assert_allclose(shown(panels[3]), 2 * (steps[0][1] - known[0])[..., 0].T)
    figure = view.unit_displacement_figure(steps, show="magnitude")
    assert len(figure.axes) == 2 * 2 + 1
    lengths = np.linalg.norm(steps[1][0], axis=-1).T
    np.testing.assert_allclose(shown(figure.axes[2]), lengths, rtol=1e-6)


def test_image_after_every_unit():
    fixed = [random(4, 3, 1), random(8, 6, 1)]
    moved = [[random(4, 3, 1, seed=1)] * 2, [random(8, 6, 1, seed=1)] * 2]
    figure = view.unit_image_figure(fixed, moved)
    assert len(figure.axes) == 2 * 4 + 1
    np.testing.assert_array_equal(shown(figure.axes[5]), moved[1][0][..., 0].T)
    np.testing.assert_array_equal(shown(figure.axes[7]), (fixed[1] - moved[1][1])[..., 0].T)
    assert f"{np.abs(fixed[1] - moved[1][0]).mean():.2f}" in figure.axes[5].get_title()


def test_losses():
    records = [(e, k, t, 10.0 * e + k + 0.1 * t) for e in (0, 5) for k in (0, 1) for t in (0, 1, 2)]
    epochs, units = view.loss_figure(records, "voxels").axes
    assert epochs.get_ylabel() == "voxels"
    curves = [line.get_ydata() for line in epochs.lines]
    np.testing.assert_allclose(curves, [[0.2, 50.2], [1.2, 51.2], [0.7, 50.7]])
    np.testing.assert_allclose(units.lines[1].get_ydata(), [51.0, 51.1, 51.2])


def test_functions_are_what_they_are_called():
    unit = DIRVNet(**TINY | {"levels": 1, "units": 1}).units[0][0]
    for experts in (unit.data, unit.smoothness):
        experts.activation.knots.assign(random(*experts.activation.knots.shape))
    panels = view.function_figure({"level 0": [unit]}).axes
    assert ["activation" in axes.get_title() for axes in panels] == [True, False] * 2
    assert ["potential" in axes.get_title() for axes in panels] == [False, True] * 2
    for experts, (first, second) in zip(
        (unit.data, unit.smoothness), (panels[:2], panels[2:]), strict=True
    ):
        activation = experts.activation
        knots, places = ops.convert_to_numpy(activation.knots), activation.positions
        for k, (line, integral) in enumerate(zip(first.lines, second.lines, strict=True)):
            if k == knots.shape[1]:
                break
            x, values = line.get_data()
            inside = (x >= places[0]) & (x <= places[-1])
            expected = np.interp(x[inside], places, knots[:, k])
            np.testing.assert_allclose(values[inside], expected, atol=1e-4)
            # Linear from place to place, so trapezoids are exact.
            rise = np.diff(integral.get_ydata())
            np.testing.assert_allclose(rise, np.diff(x) * (values[1:] + values[:-1]) / 2, atol=1e-5)
            assert np.interp(0.0, *integral.get_data()) == pytest.approx(0.0, abs=0.01)
        assert k == knots.shape[1]


def test_histograms():
    weights = {"level 0": {"a": random(50), "b": random(7, 3)}, "level 1": {"a": random(5)}}
    weights["level 1"]["b"] = random(2)
    figure = view.histogram_figure(weights, weights)
    assert len(figure.axes) == 2 * 4
    counts = [sum(patch.get_height() for patch in axes.patches) for axes in figure.axes]
    assert counts == [50, 21, 50, 21, 5, 2, 5, 2]
    assert figure.axes[3].get_title() == "level 0: gradient of b"


def test_wrong_arrays_are_refused():
    image, field = np.ones((1, 6, 5, 1)), np.ones((1, 6, 5, 2))
    for call, words in (
        (lambda: view.pairs_figure(image[0], image, image, field), "fixed must be"),
        (lambda: view.pairs_figure(image, image[:, 1:], image, field), "moving must have"),
        (lambda: view.pairs_figure(image, image, image, image), "displacement must have"),
        (lambda: view.displacement_figure(image), r"displacement must be .* rank\]"),
        (lambda: view.displacement_figure(field, field[:, 1:]), "known must have"),
        (lambda: view.unit_displacement_figure([[field[0]]], show="all"), "show must be"),
        (lambda: view.unit_displacement_figure([[field[0]]], []), "known must have 1 levels"),
        (lambda: view.unit_displacement_figure([[field[0]], []]), "same number of units"),
        (lambda: view.unit_image_figure([image[0]], [[field[0]]]), "units of level 0"),
        (lambda: view.loss_figure([]), "records is empty"),
        (lambda: view.function_figure({}), "units is empty"),
        (lambda: view.function_figure({"level 0": [None]}, unit=1), "unit must be one of the 1"),
        (lambda: view.histogram_figure({}), "weights is empty"),
        (lambda: view.histogram_figure({"a": {"b": image}}, {"a": {}}), "gradients must have"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
