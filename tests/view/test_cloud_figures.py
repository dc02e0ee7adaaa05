"""Pictures of cloud registrations say what is true, whatever lies far away, in plane and space."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.image import imread

import zoo
from zoo.geometry import Grid
from zoo.registration import measure
from zoo.transform import Affine, Transform
from zoo.view import clouds, surfaces
from zoo.view.clouds import (
    FIXED,
    LINES,
    MOVING,
    cloud_registration_figure,
    registration_errors,
    robust_box,
)

SHIFT = {2: np.array([0.5, 0.2]), 3: np.array([0.5, 0.2, 0.1])}


def points(rank, count=200, seed=0):
    """Points of a box whose sides are 5, 4 and 3."""
    return np.random.default_rng(seed).uniform(0, [5, 4, 3][:rank], (count, rank))


def shifted(rank, count=200, **companions):
    """A pair of which the moving cloud has to go back by the shift, and who does that."""
    fixed, shift = points(rank, count), SHIFT[rank]
    return zoo.Pair(fixed, fixed + shift, **companions), Affine(np.eye(rank), shift)


def drawn(pair, transform=None):
    """The axes of a figure that is not written, by the first word of their titles."""
    figure, _ = clouds._draw(pair, transform, "matplotlib")
    return {axes.get_title().split(" ")[0]: axes for axes in figure.axes}


def legend(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


class Lost(Transform):
    """Carries the first point to nowhere."""

    def move(self, points):
        moved = points.copy()
        moved[0] = np.nan
        return moved

    pull = move


# Parts


@pytest.mark.parametrize("rank", [2, 3])
def test_boxes_leave_out_what_is_far_away(rank):
    cloud = points(rank)
    low, high = robust_box(cloud)
    np.testing.assert_array_equal([low, high], [cloud.min(axis=0), cloud.max(axis=0)])
    far = np.full((4, rank), [[1e6], [-1e6], [40.0], [-1e3]])
    np.testing.assert_array_equal(robust_box(np.concatenate([far, cloud])), [low, high])


def test_boxes_of_points_that_are_nearly_all_one():
    cloud = np.zeros((100, 2))
    cloud[7] = (3, -1)
    np.testing.assert_array_equal(robust_box(cloud), [[0, -1], [3, 0]])


def test_errors_of_clouds_are_those_in_both_directions():
    pair = zoo.Pair(np.array([[0.0, 0], [4, 0]]), np.array([[0.0, 3], [4, 3], [10, 0]]))
    transform = Affine(np.eye(2), [0, 3.0])
    errors = registration_errors(pair, transform)
    np.testing.assert_allclose(errors["before"][0], [3, 3, 3, 3, 6])
    np.testing.assert_allclose(errors["after"][0], [0, 0, 0, 0, np.sqrt(45)], atol=1e-12)
    results = measure(transform, pair)
    for name, key in (("before", "initial_chamfer"), ("after", "chamfer")):
        distances, shares = errors[name]
        np.testing.assert_allclose(shares, [1 / 4, 1 / 4, 1 / 6, 1 / 6, 1 / 6])
        assert (distances * shares).sum() == pytest.approx(results[key])


def test_errors_of_landmarks_are_those_of_the_measures():
    fixed = np.array([[0.0, 0, 0], [1, 1, 1], [2, 0, 1]])
    transform = Affine(2 * np.eye(3), np.zeros(3))
    landmarks = {"fixed_landmarks": fixed, "moving_landmarks": 2 * fixed + [0, 3, 4]}
    pair = zoo.Pair(points(3), points(3, seed=1), **landmarks)
    errors = registration_errors(pair, transform)
    np.testing.assert_allclose(errors["after"][0], 5)
    results = measure(transform, pair)
    for name, key in (("before", "initial_tre_mm"), ("after", "tre_mm")):
        distances, shares = errors[name]
        assert (distances * shares).sum() == pytest.approx(results[key])


@pytest.mark.parametrize(("depth", "up"), [(0, 2), (1, 2), (2, 1)])
def test_clouds_are_seen_along_their_shortest_side_and_not_mirrored(depth, up):
    sides = np.full(3, 4.0)
    sides[depth] = 1.0
    view = clouds.viewpoint(points(3) / [5, 4, 3] * sides)
    np.testing.assert_allclose(view @ view.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view) == pytest.approx(1)
    assert np.abs(view[2]).argmax() == depth
    assert view[1].argmax() == up


def test_the_range_of_errors_ignores_zeros_and_few_extremes():
    low, high = clouds._range([np.array([0.0, 0.01, *np.linspace(1, 2, 99), 1e6])])
    assert 1 / 3 <= low <= 1 and 2 <= high <= 6
    assert clouds._range([np.zeros(3), np.zeros(3)]) == (0.1, 1.0)
    low, high = clouds._range([np.array([1.0]), np.array([1e-17])])
    assert low == pytest.approx(high / 10**clouds.DECADES)


# Panels


@pytest.mark.parametrize("rank", [2, 3])
def test_panels_are_there_for_what_is_given(rank):
    pair, transform = shifted(rank)
    assert set(drawn(pair)) == {"before"}
    # The colour bar has no title.
    assert set(drawn(pair, transform)) == {"before", "after", "flow", "distances", ""}
    landmarks = {"fixed_landmarks": points(rank, 5), "moving_landmarks": points(rank, 5)}
    pair, transform = shifted(rank, **landmarks)
    assert "landmark" in drawn(pair, transform)


def test_both_clouds_are_where_they_are_in_their_colours():
    pair, transform = shifted(2)
    axes = drawn(pair, transform)
    for name, there in (("before", pair.moving.points), ("after", pair.fixed.points)):
        (shown,) = axes[name].collections
        places, colours = shown.get_offsets(), shown.get_facecolors()[:, :3]
        for colour, expected in ((FIXED, pair.fixed.points), (MOVING, there)):
            found = places[np.isclose(colours, colour).all(axis=1)]
            np.testing.assert_allclose(np.sort(found, axis=0), np.sort(expected, axis=0))


def test_lines_of_the_flow_lead_from_moving_points_to_moved_ones():
    turned = Affine([[0.0, -1], [1, 0]], [3.0, 1])
    moving = points(2)
    moved = turned.move(moving)
    axes = drawn(zoo.Pair(points(2, seed=1), moving), turned)["flow"]
    (lines,) = (each for each in axes.collections if isinstance(each, LineCollection))
    segments = np.array(lines.get_segments())
    order = np.lexsort(segments[:, 0].T)
    expected = np.stack([moving, moved], axis=1)[np.lexsort(moving.T)]
    np.testing.assert_allclose(segments[order], expected)
    lengths = np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1)
    np.testing.assert_allclose(lines.get_array(), lengths)
    low, high = lines.get_clim()
    assert low == 0 and lengths.mean() < high <= lengths.max()


def test_large_clouds_are_drawn_in_part(monkeypatch):
    monkeypatch.setattr(clouds, "SHOWN", 50)
    pair, transform = shifted(3, count=LINES[3] + 100)
    figure, _ = clouds._draw(pair, transform, "matplotlib")
    before, _, flow, *_ = figure.axes
    assert len(before.collections[0].get_offsets()) == 100
    assert len(flow.collections[0].get_segments()) == LINES[3]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["fixed, 50 of 900 points", "moving, 50 of 900 points"]


def test_points_are_smaller_where_there_are_more():
    sizes = [
        drawn(shifted(2, count)[0])["before"].collections[0].get_sizes()[0]
        for count in (50, 5000, 50_000)
    ]
    assert sizes[0] > 2 * sizes[1] > 3 * sizes[2] > 0


@pytest.mark.parametrize("rank", [2, 3])
def test_outliers_do_not_change_what_is_shown(rank):
    pair, transform = shifted(rank)
    far = np.full((1, rank), 1e5)
    both = [np.concatenate([cloud.points, far]) for cloud in (pair.fixed, pair.moving)]
    expected, axes = drawn(pair, transform), drawn(zoo.Pair(*both), transform)
    for name in ("before", "after", "flow"):
        assert axes[name].get_xlim() == expected[name].get_xlim()
        assert axes[name].get_ylim() == expected[name].get_ylim()
    assert axes["after"].get_title() == "after (2 outside)"
    assert axes["flow"].get_title().startswith("flow of 200 ")


def test_a_cloud_from_far_away_is_shown_before_and_does_not_shrink_the_panel_after():
    fixed = points(2)
    axes = drawn(zoo.Pair(fixed, fixed + [300, 0]), Affine(np.eye(2), [300.0, 0]))
    assert axes["before"].get_title() == "before"
    assert np.ptp(axes["before"].get_xlim()) > 300
    assert np.ptp(axes["after"].get_xlim()) < 7
    near, transform = shifted(2)
    axes = drawn(near, transform)
    assert axes["before"].get_xlim() == axes["after"].get_xlim() == axes["flow"].get_xlim()


def test_every_error_counts_in_the_histogram_and_its_mean():
    fixed = np.array([[k, 0.0] for k in range(50)])
    left = np.concatenate([[0.0, 1e5], np.linspace(0.1, 0.3, 48)])
    landmarks = {
        "fixed_landmarks": fixed,
        "moving_landmarks": fixed + np.stack([left, 0 * left], 1),
    }
    pair = zoo.Pair(points(2), points(2, seed=1), **landmarks)
    axes = drawn(pair, Affine(np.eye(2), [0, 3.0]))["landmark"]
    assert [left.mean(), np.hypot(left, 3).mean()] == pytest.approx([2000, 2003], abs=0.5)
    assert legend(axes) == ["before, mean 2,000", "after, mean 2,003"]
    for step in axes.patches:
        x, y = step.get_path().vertices.T
        x = np.log(x)
        area = np.abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
        edges = np.unique(x.round(9))
        assert area / np.diff(edges).min() == pytest.approx(100)


def test_a_perfect_registration_is_drawn():
    cloud = points(3)
    axes = drawn(zoo.Pair(cloud, cloud), Affine.identity(3))
    assert legend(axes["distances"]) == ["before, mean 0.00", "after, mean 0.00"]
    assert not axes["flow"].collections[0].get_array().any()


# Renderers and files


def test_polyscope_sees_what_matplotlib_draws(tmp_path):
    # Corners near the eye and far from it, where perspective would show.
    corners = np.stack(np.meshgrid([0.0, 10], [0.0, 8], [0.0, 6]), axis=-1).reshape(-1, 3)
    seen = corners @ clouds.viewpoint(corners).T
    frame = clouds._Frame.around(seen)
    scene = frame.scene(seen, np.full_like(seen, 0.2))
    try:
        (picture,) = surfaces.polyscope_pictures([scene], "polyscope")
    except RuntimeError as error:
        pytest.skip(f"no OpenGL here: {error}")
    rows, columns = np.nonzero(picture.min(axis=-1) < 0.6)
    reach = surfaces.REACH * frame.half
    right = frame.centre[0] + reach * (2 * columns / picture.shape[1] - 1)
    up = frame.centre[1] + reach * (1 - 2 * rows / picture.shape[0])
    ends = [[right.min(), up.min()], [right.max(), up.max()]]
    expected = [seen[:, :2].min(axis=0), seen[:, :2].max(axis=0)]
    np.testing.assert_allclose(ends, expected, atol=0.04 * frame.half)


@pytest.mark.parametrize("renderer", ["auto", "matplotlib"])
@pytest.mark.parametrize("rank", [2, 3])
def test_figures_are_written_whole(tmp_path, rank, renderer):
    pair, transform = shifted(rank)
    path = tmp_path / "new" / "figure.png"
    drawn_by = cloud_registration_figure(pair, path, transform, renderer)
    assert drawn_by == "matplotlib" or (rank == 3 and renderer == "auto")
    assert [found.name for found in path.parent.iterdir()] == ["figure.png"]
    picture = imread(path)
    height, width = picture.shape[:2]
    # All four quarters show something.
    for quarter in (picture[: height // 2], picture[height // 2 :]):
        assert min(part.std() for part in np.array_split(quarter, 2, axis=1)) > 0.05


def test_a_failing_polyscope_falls_back(tmp_path, monkeypatch):
    def failing(scenes):
        raise RuntimeError("no EGL")

    monkeypatch.setattr(surfaces, "_rendered", failing)
    pair, _ = shifted(3)
    assert cloud_registration_figure(pair, tmp_path / "figure.png") == "matplotlib"
    with pytest.raises(RuntimeError, match="no EGL"):
        cloud_registration_figure(pair, tmp_path / "other.png", renderer="polyscope")
    assert not (tmp_path / "other.png").exists()


def test_transforms_that_were_read_are_drawn(tmp_path):
    pair, transform = shifted(3)
    transform.save(tmp_path / "transform.h5")
    errors = [
        registration_errors(pair, each)["after"][0]
        for each in (transform, Transform.load(tmp_path / "transform.h5"))
    ]
    np.testing.assert_allclose(errors[1], errors[0], atol=1e-9)


IMAGE = zoo.Image(np.arange(12.0).reshape(4, 3), Grid((4, 3)))


@pytest.mark.parametrize(
    ("pair", "changes", "error", "message"),
    [
        (zoo.Pair(IMAGE, IMAGE), {}, ValueError, "pair must be one of clouds"),
        (shifted(2)[0], {"transform": "affine"}, TypeError, "transform must be .*, not str"),
        (shifted(2)[0], {"transform": Affine.identity(3)}, ValueError, "points of rank 2.*200, 2"),
        (shifted(3)[0], {"transform": Lost()}, ValueError, "transform must .* 1 of 200 go to NaN"),
        (shifted(3)[0], {"renderer": "blender"}, ValueError, "renderer must be .*'blender'"),
        (shifted(2)[0], {"renderer": "polyscope"}, ValueError, "renderer .* rank 2, not 'polysc"),
    ],
)
def test_bad_input(tmp_path, pair, changes, error, message):
    with pytest.raises(error, match=message):
        cloud_registration_figure(pair, tmp_path / "figure.png", **changes)
    assert not list(tmp_path.iterdir())


def test_landmarks_that_go_nowhere_are_refused():
    landmarks = {"fixed_landmarks": points(2, 3), "moving_landmarks": points(2, 3)}
    pair, _ = shifted(2, **landmarks)
    with pytest.raises(ValueError, match="1 of 3 go to NaN"):
        registration_errors(pair, Lost())
