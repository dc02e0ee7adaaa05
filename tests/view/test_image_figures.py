"""Pictures of registrations say what is true, stand upright, and are written whole."""

import numpy as np
import pytest
from matplotlib.image import imread

from zoo.data.image import Image
from zoo.geometry import Grid
from zoo.view import images
from zoo.view.images import (
    FOLD,
    checkerboard,
    difference,
    grid_lines,
    intensity_window,
    registration_figure,
)
from zoo.view.planes import plane_of

PLANE = Grid((24, 16))
SPACE = Grid((10, 8, 6), (1, 1, 2.5))
NO_LANDMARKS = dict.fromkeys(("fixed", "moving", "pulled"))


def image(grid, channels=1, seed=0, name="image"):
    values = np.random.default_rng(seed).uniform(size=(*grid.shape, channels))
    return Image(values, grid, name)


def ramp(grid, axis):
    """Values that grow along one array axis."""
    values = np.indices(grid.shape)[axis]
    return Image(values, grid)


def drawn(fixed, moving, moved, displacement=None, determinant=None, axis=-1, landmarks=None):
    """The axes of a figure that is not written, by the first line of their titles."""
    plane = plane_of(fixed.grid, axis, None)
    landmarks = NO_LANDMARKS | (landmarks or {})
    figure = images._draw(fixed, moving, moved, displacement, determinant, plane, None, landmarks)
    return {axes.get_title().split("\n")[0]: axes for axes in figure.axes}


def pixels(path) -> np.ndarray:
    return imread(path)[..., :3]


def yellow(path) -> int:
    """How many pixels have the colour of folds."""
    return int((np.abs(pixels(path) - FOLD).max(axis=-1) < 0.02).sum())


# Parts


@pytest.mark.parametrize("channels", [(), (3,)])
def test_checkerboard_alternates(channels):
    board = checkerboard(np.zeros((8, 16, *channels)), np.ones((8, 16, *channels)), squares=8)
    assert board.shape == (8, 16, *channels)
    squares = board.reshape(4, 2, 8, 2, -1)
    assert (squares == squares[:, :1, :, :1]).all()
    expected = np.indices((4, 8)).sum(axis=0) % 2
    np.testing.assert_array_equal(squares[:, 0, :, 0, 0], expected)


def test_checkerboard_takes_a_number_for_each_axis():
    board = checkerboard(np.zeros((9, 5)), np.ones((9, 5)), squares=(3, 1))
    np.testing.assert_array_equal(board[:, 0], [0, 0, 0, 1, 1, 1, 0, 0, 0])
    assert (board == board[:, :1]).all()


@pytest.mark.parametrize(
    ("shapes", "squares", "message"),
    [
        (((4, 4), (4, 5)), 8, r"same shape.*\(4, 4\) and \(4, 5\)"),
        (((4,), (4,)), 8, "same shape"),
        (((4, 4), (4, 4)), 0, "squares must be"),
        (((4, 4), (4, 4)), (1, 2, 3), "squares must be"),
    ],
)
def test_checkerboard_refuses(shapes, squares, message):
    with pytest.raises(ValueError, match=message):
        checkerboard(*map(np.zeros, shapes), squares)


@pytest.mark.parametrize("grid", [PLANE, SPACE])
@pytest.mark.parametrize("channels", [1, 3])
def test_equal_images_do_not_differ(grid, channels):
    assert not difference(image(grid, channels), image(grid, channels)).any()


def test_difference_is_in_grey_values_and_at_the_same_places():
    fine = Grid((48, 32), 0.5, PLANE.origin)
    there = Image(np.broadcast_to(fine.coordinates()[..., :1], (48, 32, 1)), fine)
    result = difference(ramp(PLANE, 0), there)
    np.testing.assert_allclose(result, 0, atol=1e-4)
    colours = Image(np.broadcast_to([1.0, 0, 0], (24, 16, 3)), PLANE)
    np.testing.assert_allclose(difference(colours, ramp(PLANE, 0))[0], 0.299, atol=1e-6)


def test_difference_is_unknown_where_the_moving_image_does_not_reach():
    result = difference(image(PLANE), image(PLANE.window((4, 0), (24, 16))))
    assert np.isnan(result[:4]).all()
    assert np.isfinite(result[4:]).all()


def test_grid_lines_follow_the_displacement():
    straight = grid_lines(np.zeros((9, 5, 2)), (4, 2))
    assert [line.shape for line in straight] == [(5, 2)] * 3 + [(9, 2)] * 3
    assert [line[0, 0] for line in straight[:3]] == [0, 4, 8]
    assert [line[0, 1] for line in straight[3:]] == [0, 2, 4]
    shifted = grid_lines(np.broadcast_to([0.5, -2.0], (9, 5, 2)), (4, 2))
    for before, after in zip(straight, shifted, strict=True):
        np.testing.assert_allclose(after - before, np.broadcast_to([0.5, -2.0], before.shape))


def test_intensity_windows_are_never_empty():
    low, high = intensity_window(np.arange(1001), np.arange(1001))
    assert (low, high) == (5, 995)
    assert intensity_window(np.array([0] * 999 + [7])) == (0, 7)
    assert intensity_window(np.full(4, 3.0)) == (3, 4)


# How slices stand


@pytest.mark.parametrize(
    ("direction", "axis", "right", "down"),
    [
        # Left on the right; posterior below, or, in the other slices, inferior below.
        (np.eye(3), -1, (0, 1), (1, 1)),
        (np.eye(3), 1, (0, 1), (2, -1)),
        (np.eye(3), 0, (1, 1), (2, -1)),
        # Stored from right to left and from posterior to anterior.
        (np.diag([-1, -1, 1]), 2, (0, -1), (1, -1)),
        # Array axes that lie along posterior, superior and left.
        (np.eye(3)[:, [1, 2, 0]], 2, (0, 1), (1, -1)),
        (np.eye(3)[:, [1, 2, 0]], 1, (2, 1), (0, 1)),
    ],
)
def test_slices_stand_as_the_world_does(direction, axis, right, down):
    grid = Grid((5, 6, 7), (1, 2, 3), direction=direction)
    for (array_axis, sign), vertical in ((right, False), (down, True)):
        volume = ramp(grid, array_axis)
        axes = drawn(volume, volume, volume, axis=axis)["fixed"]
        shown = axes.images[0].get_array()[..., 0]
        reverse = axes.get_ylim()[0] < axes.get_ylim()[1], axes.get_xlim()[0] > axes.get_xlim()[1]
        shown = np.flip(shown, [k for k in (0, 1) if reverse[k]])
        steps = np.diff(shown, axis=0 if vertical else 1)
        assert (sign * steps >= 0).all()
        assert (sign * steps).max() > 0
    height, width = shown.shape
    assert (height, width) == (grid.shape[down[0]], grid.shape[right[0]])
    assert axes.get_aspect() == grid.spacing[down[0]] / grid.spacing[right[0]]


def test_pictures_have_their_first_voxel_in_the_upper_left_corner():
    values = np.zeros(PLANE.shape)
    values[:3, 0] = 1
    picture = Image(values, PLANE)
    axes = drawn(picture, picture, picture)["fixed"]
    shown = axes.images[0].get_array()
    assert shown.shape == (16, 24, 3)
    assert (shown[0, :3] == 1).all() and shown.sum() == 9
    assert axes.get_xlim()[0] < axes.get_xlim()[1]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_the_right_slice_is_cut():
    plane = plane_of(SPACE, 1, -2)
    assert (plane.normal, plane.index) == (1, 6)
    volume = image(SPACE)
    np.testing.assert_array_equal(plane.picture(volume.array)[..., 0].T, volume.array[:, 6, :, 0])
    cut = plane.cut(volume)
    np.testing.assert_array_equal(plane.picture(cut.array), plane.picture(volume.array))
    np.testing.assert_allclose(cut.grid.coordinates()[:, 0], SPACE.coordinates()[:, 6])


# Panels


def test_both_differences_share_a_symmetric_scale():
    fixed, moving = image(PLANE), image(PLANE, seed=1)
    axes = drawn(fixed, moving, fixed)
    scales = [axes[f"fixed \N{MINUS SIGN} {name}"].images[0] for name in ("moving", "moved")]
    assert scales[0].get_clim() == scales[1].get_clim()
    low, high = scales[0].get_clim()
    assert low == -high < 0
    assert scales[0].get_array().any()
    assert not scales[1].get_array().any()


def test_equal_volumes_do_not_differ_in_the_picture():
    oblique = Grid(
        SPACE.shape, SPACE.spacing, 7.3, np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    )
    volume = image(oblique)
    axes = drawn(volume, volume, volume)
    for name in ("moving", "moved"):
        assert not axes[f"fixed \N{MINUS SIGN} {name}"].images[0].get_array().any()


def test_grid_lines_are_in_the_plane_of_the_slice():
    field = np.zeros((*SPACE.shape, 3))
    field[...] = (100.0, 0.25, 0.5)  # 100 across the slice
    volume = image(SPACE)
    axes = drawn(volume, volume, volume, displacement=field, axis=0)["deformed grid"]
    points = np.concatenate(axes.collections[0].get_segments())
    np.testing.assert_allclose(points.min(axis=0), [0.25, 0.5])
    np.testing.assert_allclose(points.max(axis=0), [7.25, 5.5])


def test_about_24_lines_along_the_longer_side():
    grid = Grid((240, 60), (1, 2))
    picture = image(grid)
    axes = drawn(picture, picture, picture, np.zeros((240, 60, 2)))["deformed grid"]
    lines = axes.collections[0].get_segments()
    vertical = [line for line in lines if np.ptp(line[:, 0]) == 0]
    assert len(vertical) == 24
    assert len(lines) - len(vertical) == 12


def test_landmarks_are_linked_and_measured():
    fixed = PLANE.to_world([[2.0, 3.0], [10.0, 5.0]])
    moving, pulled = fixed + (3.0, 4.0), fixed + (3.0, 3.0)
    picture = image(PLANE)
    landmarks = {"fixed": fixed, "moving": moving, "pulled": pulled}
    axes = drawn(picture, picture, picture, landmarks=landmarks)
    assert axes["fixed"].get_title().endswith("5 mm")
    assert axes["checkerboard"].get_title().endswith("1 mm")
    before = axes["fixed"].collections[0].get_segments()
    np.testing.assert_allclose(before[0], [[2, 3], [5, 7]])
    after = axes["checkerboard"].collections[0].get_segments()
    np.testing.assert_allclose(after[1], [[10, 5], [10, 6]])


def test_landmarks_far_from_the_slice_are_left_out():
    fixed = SPACE.to_world([[1.0, 2, 3], [1.0, 2, 5], [1.0, 2, 0]])
    axes = drawn(*[image(SPACE)] * 3, landmarks={"fixed": fixed, "moving": fixed + 1})["fixed"]
    assert len(axes.collections[0].get_segments()) == 2


# Files


@pytest.mark.parametrize("grid", [PLANE, SPACE, Grid((40, 4)), Grid((6, 30, 4), (1, 1, 9))])
@pytest.mark.parametrize("channels", [1, 3, 2])
def test_figures_are_written_whole(tmp_path, grid, channels):
    fixed, moving = image(grid, channels), image(grid.resampled(spacing=1.7), channels, seed=1)
    path = tmp_path / "new" / "figure.png"
    points = grid.to_world(np.ones((3, grid.rank)))
    written = registration_figure(
        fixed,
        moving,
        moving.resample(grid),
        path,
        displacement=np.zeros((*grid.shape, grid.rank)),
        determinant=np.ones(grid.shape),
        title="a title",
        fixed_landmarks=points,
        pulled_landmarks=points,
    )
    assert written == path
    assert [found.name for found in path.parent.iterdir()] == ["figure.png"]
    assert pixels(path).std() > 0.05
    assert yellow(path) == 0


def test_panels_are_there_only_for_what_is_given(tmp_path):
    picture = image(PLANE)
    sizes = []
    for given in ({}, {"determinant": np.ones(PLANE.shape)}):
        registration_figure(picture, picture, picture, tmp_path / "figure.png", **given)
        sizes.append(pixels(tmp_path / "figure.png").shape)
        names = set(drawn(picture, picture, picture, **given))
        assert ("Jacobian determinant" in names) == bool(given)
        assert "deformed grid" not in names
    assert sizes[1][1] == pytest.approx(sizes[0][1] * 4 / 3, rel=0.02)


@pytest.mark.parametrize("shape", [(24, 16), (1500, 1000)])
def test_a_single_fold_is_marked_at_any_size(tmp_path, shape):
    grid = Grid(shape)
    picture = Image(np.zeros(shape), grid)
    determinant = np.ones(shape)
    determinant[5, 3] = 0.0
    path = tmp_path / "figure.png"
    registration_figure(picture, picture, picture, path, determinant=determinant)
    assert yellow(path) >= 8
    title = list(drawn(picture, picture, picture, determinant=determinant).values())
    title = next(axes.get_title() for axes in title if "Jacobian" in axes.get_title())
    assert title.endswith("0.26 % not positive" if shape[0] == 24 else "< 0.01 % not positive")


def test_determinants_of_one_sign_are_drawn(tmp_path):
    picture, path = image(PLANE), tmp_path / "figure.png"
    marked = []
    for value in (-1.0, 1e6):
        determinant = np.full(PLANE.shape, value)
        registration_figure(picture, picture, picture, path, determinant=determinant)
        marked.append(yellow(path))
    # About a whole panel, or nothing.
    assert marked[0] > 0.9 * (images.DPI * images.SIDE) ** 2
    assert marked[1] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moved": image(Grid((24, 17)))}, r"moved must have the shape \(24, 16\).*\(24, 17\)"),
        ({"moved": image(Grid((24, 16), 2))}, r"moved must lie on the grid.*1\.0.*2\.0"),
        ({"moving": image(SPACE)}, "moving must have 2 spatial axes.*not 3"),
        (
            {"displacement": np.zeros((24, 16, 3))},
            r"displacement must have the shape \(24, 16, 2\), not \(24, 16, 3\)",
        ),
        ({"determinant": np.ones((16, 24))}, r"determinant must have the shape \(24, 16\)"),
        ({"slice_index": 3}, "slice_index must be None.*not 3"),
        ({"moving_landmarks": np.zeros((2, 2))}, "fixed_landmarks must be given"),
        ({"fixed_landmarks": np.zeros((2, 3))}, r"fixed_landmarks must .*\[n, 2\], not \(2, 3\)"),
        (
            {"fixed_landmarks": np.zeros((2, 2)), "pulled_landmarks": np.zeros((3, 2))},
            r"pulled_landmarks must .*\[2, 2\], not \(3, 2\)",
        ),
    ],
)
def test_bad_input(tmp_path, changes, message):
    picture = image(PLANE)
    given = {"fixed": picture, "moving": picture, "moved": picture} | changes
    with pytest.raises(ValueError, match=message):
        registration_figure(**given, path=tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slice_index": 6}, "slice_index must be within -6 and 5.*not 6"),
        ({"slice_index": -9, "slice_axis": 1}, "slice_index must be within -8 and 7.*not -9"),
        ({"slice_axis": 3}, "slice_axis must lie between -3 and 2, not 3"),
    ],
)
def test_slices_that_are_not_there(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        registration_figure(*[image(SPACE)] * 3, tmp_path / "figure.png", **changes)
