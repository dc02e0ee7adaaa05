"""Pictures of a variational network: they show what they say."""

import numpy as np
import pytest
from keras import ops
from matplotlib.image import imread

from zoo.models.dirvnet import DIRVNet
from zoo.view import variational as view

TINY = {"levels": 2, "units": 2, "filters": 3, "data_kernel": 3, "smoothness_kernel": 3}


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def titled(figure):
    return {axes.get_title().split("\n")[0]: axes for axes in figure.axes if axes.get_title()}


def shown(axes):
    return np.asarray(axes.images[0].get_array())


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
