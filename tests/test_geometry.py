import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from zoo.geometry import Grid, flip_ras_lps, from_itk, to_itk


def oblique(shape, seed=0, reflected=False):
    """A grid with random spacing, origin and turned axes."""
    rng = np.random.default_rng(seed)
    rank = len(shape)
    direction = Rotation.random(random_state=seed).as_matrix()
    if rank == 2:
        angle = rng.uniform(0, 2 * np.pi)
        direction = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if reflected:
        direction[:, 0] *= -1
    return Grid(shape, rng.uniform(0.4, 3, rank), rng.uniform(-90, 90, rank), direction)


GRIDS = [oblique((7, 9)), oblique((5, 6, 7), 1), oblique((8, 5, 6), 2, reflected=True)]


@pytest.mark.parametrize("grid", GRIDS)
def test_world_and_back(grid):
    index = np.random.default_rng(0).uniform(-3, 9, (4, 5, grid.rank))
    world = grid.to_world(index)
    np.testing.assert_allclose(grid.to_index(world), index, atol=1e-12)
    homogeneous = np.concatenate([index, np.ones((4, 5, 1))], axis=-1) @ grid.matrix.T
    np.testing.assert_allclose(homogeneous[..., :-1], world)
    np.testing.assert_allclose(grid.vectors_to_world(index), world - grid.origin)
    np.testing.assert_allclose(grid.vectors_to_index(world - grid.origin), index, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_agrees_with_itk(grid):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.Image(list(grid.shape), sitk.sitkUInt8)
    image.SetSpacing(grid.spacing.tolist())
    image.SetOrigin(grid.origin.tolist())
    image.SetDirection(grid.direction.reshape(-1).tolist())
    index = np.array([1, 2, 3][: grid.rank])
    expected = image.TransformIndexToPhysicalPoint(index.tolist())
    np.testing.assert_allclose(grid.to_world(index), expected)
    # The array of SimpleITK has its axes in reverse.
    image[index.tolist()] = 7
    ours = from_itk(sitk.GetArrayFromImage(image))
    assert ours.shape == grid.shape and ours[tuple(index)] == 7
    assert to_itk(ours).shape == sitk.GetArrayFromImage(image).shape


def test_channels_keep_their_order():
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(from_itk(array, 3)[3, 2, 1], array[1, 2, 3])
    np.testing.assert_array_equal(to_itk(from_itk(array, 3), 3), array)


@pytest.mark.parametrize("grid", GRIDS)
def test_coordinates_are_those_of_all_voxels(grid):
    every = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    np.testing.assert_allclose(grid.coordinates(), grid.to_world(every), atol=1e-10)


@pytest.mark.parametrize("grid", GRIDS)
def test_coarser_grids_cover_the_same_region(grid):
    shape = tuple(size * 2 for size in grid.shape)
    fine = grid.resampled(shape=shape)
    np.testing.assert_allclose(fine.corners(), grid.corners())
    assert fine.downsampled(2).close_to(grid)
    spaced = grid.resampled(spacing=1.3)
    np.testing.assert_allclose(spaced.centre, grid.centre)
    assert spaced.contains(grid.corners() * (1 - 1e-9) + grid.centre * 1e-9).all()
    assert (spaced.extent - grid.extent < 1.3).all()


def test_downsampling_shifts_by_half_voxels():
    coarse = Grid((9, 8), spacing=(2, 1), origin=(10, 0)).downsampled((3, 2))
    assert coarse == Grid((3, 4), spacing=(6, 2), origin=(12, 0.5))
    # The mean of the fine positions of a block is the coarse position.
    grid = GRIDS[1]
    first_block = grid.coordinates()[:2, :2, :2].reshape(-1, 3)
    np.testing.assert_allclose(grid.downsampled(2).origin, first_block.mean(axis=0))


@pytest.mark.parametrize("grid", GRIDS)
def test_windows(grid):
    start = np.array([-1, 2, 1][: grid.rank])
    part = grid.window(start, (4,) * grid.rank)
    np.testing.assert_allclose(part.to_world(np.zeros(grid.rank)), grid.to_world(start))
    np.testing.assert_allclose(grid.centred().centre, 0, atol=1e-10)


def test_contains():
    grid = Grid((4, 5), spacing=2)
    inside = grid.contains([[-1, -1], [7, 9], [7.1, 0], [3, -1.1]])
    assert inside.tolist() == [True, True, False, False]


def test_overlap_of_turned_boxes():
    unit = Grid((10, 10, 10))
    assert unit.overlaps(unit)
    assert unit.overlaps(Grid((10, 10, 10), origin=(9, 0, 0)))
    assert not unit.overlaps(Grid((10, 10, 10), origin=(10, 0, 0)))  # they touch
    assert unit.overlaps(Grid((2, 2, 2), origin=(4, 4, 4)))  # one inside the other
    # Turned by 45 degrees beyond a corner: the bounding boxes overlap, the boxes do not.
    turn = Rotation.from_euler("z", 45, degrees=True).as_matrix()
    for gap, expected in ((4, False), (3, True)):
        middle = np.array([9.5 + gap, 9.5 + gap, 4.5])
        diamond = Grid((10, 10, 10), origin=middle - turn @ np.full(3, 4.5), direction=turn)
        assert (diamond.corners().min(axis=0)[:2] < 9.5).all()
        assert unit.overlaps(diamond) is expected and diamond.overlaps(unit) is expected
    assert not GRIDS[1].overlaps(Grid((5, 5, 5), origin=(500, 0, 0)))
    flat = Grid((10, 10)), Grid((10, 10), origin=(20, 0))
    assert not flat[0].overlaps(flat[1])


@pytest.mark.parametrize("seed", range(8))
def test_overlap_agrees_with_sampling(seed):
    one = Grid((6, 7, 8))
    two = oblique((5, 6, 7), seed)
    reach = np.random.default_rng(seed).uniform(0, 14, 3)
    two = Grid(two.shape, two.spacing / 2, reach, two.direction)
    fine = two.resampled(shape=tuple(size * 8 for size in two.shape))
    sampled = one.contains(fine.coordinates()).any()
    assert one.overlaps(two) or not sampled
    # Sampling misses only slivers: boxes shrunk by a voxel of the fine grid decide the rest.
    grown = Grid(one.shape, one.spacing * 1.1, one.origin - 0.5, one.direction)
    assert not one.overlaps(two) or grown.contains(fine.coordinates()).any()


def test_equality():
    grid = GRIDS[1]
    same = Grid(grid.shape, grid.spacing, grid.origin, grid.direction)
    assert grid == same and hash(grid) == hash(same) and grid != GRIDS[2]
    rounded = Grid(grid.shape, grid.spacing.astype("f4"), grid.origin.astype("f4"), grid.direction)
    assert grid != rounded and grid.close_to(rounded)
    moved = Grid(grid.shape, grid.spacing, grid.origin + 0.1, grid.direction)
    assert not grid.close_to(moved) and grid.close_to(moved, tolerance=1)


def test_ras_and_lps():
    points = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_array_equal(flip_ras_lps(flip_ras_lps(points)), points)
    np.testing.assert_array_equal(flip_ras_lps([1, 2, 3]), [-1, -2, 3])
    with pytest.raises(ValueError, match="points must have the shape"):
        flip_ras_lps([1, 2, 3, 4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (4,)}, "2 or 3 axes"),
        ({"shape": (4, 0)}, "at least 1"),
        ({"shape": (True, 3)}, "shape must hold numbers, not True or False"),
        ({"shape": [4, np.True_]}, "shape must hold numbers, not True or False"),
        ({"shape": (4, 4), "spacing": (True, 2.0)}, "spacing must hold numbers, not True"),
        ({"shape": (4, 4), "direction": [[True, 0.0], [0.0, 1.0]]}, "direction must hold numbers"),
        ({"shape": (4, 2.5)}, "whole numbers"),
        ({"shape": (4, 4), "spacing": (1, 0)}, "spacing must be positive"),
        ({"shape": (4, 4), "spacing": (1, 1, 1)}, "spacing must hold 2 numbers"),
        ({"shape": (4, 4), "origin": (np.nan, 1)}, "origin must be finite"),
        ({"shape": (4, 4), "direction": [[1, 1], [1, 1]]}, "singular"),
        ({"shape": (4, 4), "direction": [[1, 0], [0, 0]]}, "singular"),
        ({"shape": (4, 4), "direction": np.eye(2) * 3}, "columns of length 1"),
        ({"shape": (4, 4), "direction": np.eye(3)}, "direction must have the shape"),
    ],
)
def test_bad_grids(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(**arguments)


def test_bad_questions():
    grid = Grid((4, 4, 4))
    with pytest.raises(ValueError, match=r"indices must have the shape \[\.\.\., 3\]"):
        grid.to_world(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="points must have the shape"):
        grid.contains([1, 2])
    with pytest.raises(ValueError, match="either spacing or shape"):
        grid.resampled()
    with pytest.raises(ValueError, match="factor must hold whole numbers"):
        grid.downsampled(1.5)
    with pytest.raises(ValueError, match="2 axes"):
        grid.overlaps(Grid((4, 4)))


def test_geometry_and_containers_are_light():
    code = (
        "import sys, zoo.geometry, zoo.data.image, zoo.data.pair, zoo.io.images, zoo.io.landmarks\n"
        "heavy = {'tensorflow', 'keras', 'SimpleITK', 'trimesh', 'PIL', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grid(("a", 2)), "shape must (hold|be an array of) real numbers"),
        (lambda: Grid((True, False)), "shape must hold real numbers, not bool"),
        (lambda: Grid((2 + 1j, 3)), "shape must hold real numbers, not complex128"),
        (lambda: Grid((2.5, 3)), "shape must hold whole numbers"),
        (lambda: Grid((10**30, 3)), "shape must hold real numbers, not object"),
        (lambda: Grid((float("nan"), 3)), "shape must hold whole numbers"),
        (lambda: Grid((4, 5), "x"), "spacing must (hold|be an array of) real numbers"),
        (lambda: Grid((4, 5), 1e-320), "spacing must be positive"),
        (lambda: Grid((4, 5), 1e300), "spacing must be positive, below 1e"),
        (lambda: Grid((4, 5), 1, [None, 1]), "origin must (hold|be an array of) real numbers"),
        (lambda: Grid((4, 5), 1, 0, [[1, 0], [0]]), "direction must be an array of real numbers"),
        (
            lambda: Grid((4, 5), 1, 0, np.eye(2) * 1j),
            "direction must (hold|be an array of) real numbers",
        ),
        (lambda: Grid((4, 5)).resampled(shape=(2.5, 3)), "shape must hold 2 whole numbers"),
        (
            lambda: Grid((4, 5)).to_index([True, False]),
            "points must (hold|be an array of) real numbers",
        ),
        (lambda: flip_ras_lps([1j, 2, 3]), "points must (hold|be an array of) real numbers"),
    ],
)
def test_arguments_that_are_no_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["index_map", "overlaps", "close_to"])
def test_other_grids_are_grids(name):
    with pytest.raises(TypeError, match="other must be a zoo.Grid, not int"):
        getattr(Grid((4, 5)), name)(3)
