import warnings

import numpy as np
import pytest
from test_geometry import GRIDS
from test_images import smooth

from zoo.data.image import Image
from zoo.data.pair import LandmarksOutside, Pair
from zoo.data.pairs import PairDataset
from zoo.data.scan import Scan
from zoo.geometry import Grid
from zoo.io.images import write_labels
from zoo.io.landmarks import write_landmarks
from zoo.registration import warped_labels
from zoo.transform import Affine


def image(shape=(8, 9), seed=0, origin=0.0, spacing=1.0, channels=1):
    values = np.random.default_rng(seed).uniform(0, 1, (*shape, channels))
    return Image(values, Grid(shape, spacing, origin), f"image{seed}")


def full_pair(shape=(8, 9), seed=0):
    rng = np.random.default_rng(seed)
    maps = {f"{side}_labels": rng.integers(0, 3, shape) for side in ("fixed", "moving")}
    maps |= {f"{side}_mask": rng.uniform(size=shape) > 0.3 for side in ("fixed", "moving")}
    points = {f"{side}_landmarks": rng.uniform(0, 7, (5, 2)) for side in ("fixed", "moving")}
    return Pair(image(shape, seed), image(shape, seed + 1), **maps, **points, weights=np.ones(5))


# Pairs of images


def test_arrays_of_a_full_pair():
    pair = full_pair()
    arrays = pair.arrays()
    assert all(array.dtype == np.float32 for array in arrays.values())
    assert {key: array.shape for key, array in arrays.items()} == {
        "fixed": (1, 8, 9, 1),
        "moving": (1, 8, 9, 1),
        "fixed_mask": (1, 8, 9, 1),
        "moving_mask": (1, 8, 9, 1),
        "fixed_labels": (1, 8, 9, 1),
        "moving_labels": (1, 8, 9, 1),
        "fixed_landmarks": (1, 5, 2),
        "moving_landmarks": (1, 5, 2),
        "weights": (1, 5),
    }
    np.testing.assert_array_equal(arrays["moving_labels"][0, ..., 0], pair.moving_labels)
    assert pair.name == "image0 <- image1" and pair.rank == 2 and pair.is_images
    assert set(Pair(image(), image(seed=1)).arrays()) == {"fixed", "moving"}


def test_labels_of_any_value_stay_what_they_are():
    known = np.array([0, 7, 16777217, 312782573, 614454277, -(2**31)])  # the Allen atlas has such
    labels = known[np.random.default_rng(0).integers(0, 6, (8, 9))]
    maps = {"fixed_labels": labels, "moving_labels": labels}
    pair = Pair(image(), image(seed=1), **maps)
    arrays = pair.arrays()
    np.testing.assert_array_equal(arrays["moving_labels"][0, ..., 0], labels)
    shift = Affine(np.eye(2), [2.0, 0.0], pair.fixed.grid)
    moved = np.zeros_like(labels)
    moved[:-2] = labels[2:]
    np.testing.assert_array_equal(pair.aligned(shift).moving_labels, moved)
    np.testing.assert_array_equal(warped_labels(shift, pair), moved)
    small = Pair(image(), image(seed=1), **{key: labels % 5 for key in maps})
    assert small.arrays()["fixed_labels"].dtype == np.float32
    (batch,) = PairDataset([pair, small], batch_size=2, shuffle=False)[0]
    np.testing.assert_array_equal(batch["fixed_labels"][..., 0], [labels, labels % 5])
    whole = Image.from_array(labels, 2.0)
    np.testing.assert_array_equal(whole.array[..., 0], labels)
    finer = whole.resample(Grid((16, 9), (1, 2)), "nearest")
    np.testing.assert_array_equal(finer.array[::2, :, 0], labels)
    assert Image.from_array(labels / 3).array.dtype == np.float32
    with pytest.raises(ValueError, match=r"of those above 2\^53"):
        Image.from_array(np.array([[0, 2**60 + 1]]))
    for empty in (np.zeros((0, 3)), np.zeros((4, 4, 0))):
        with pytest.raises(ValueError, match=r"^array must not be empty; its shape is \([04], "):
            Image.from_array(empty)
    with pytest.raises(ValueError, match="fixed_labels must fit into 32 bits"):
        Pair(image(), image(seed=1), fixed_labels=labels.astype(np.int64) * 4)


@pytest.mark.parametrize("grid", GRIDS[1:])
def test_landmarks_of_arrays_are_in_voxels_of_the_fixed_grid(grid):
    turned = GRIDS[1].direction
    other = Grid((40, 40, 40), 1.0, grid.centre - turned @ np.full(3, 19.5), turned)
    index = np.random.default_rng(0).uniform(0, 4, (6, 3))
    pair = Pair(
        Image(smooth(grid.shape), grid),
        Image(smooth(other.shape), other),
        fixed_landmarks=grid.to_world(index),
        moving_landmarks=grid.to_world(index + 0.5),
    )
    arrays = pair.arrays()
    np.testing.assert_allclose(arrays["fixed_landmarks"][0], index, atol=1e-4)
    np.testing.assert_allclose(arrays["moving_landmarks"][0], index + 0.5, atol=1e-4)


def test_on_fixed_grid_keeps_the_world():
    # One function of the world, stored on two grids.
    def stored(grid):
        return Image(np.sin(grid.coordinates() @ np.array([0.05, 0.08])), grid)

    fixed, fine = Grid((30, 28), 2.0), Grid((70, 66), (0.9, 0.8), (3.0, 1.0))
    labels = (fine.coordinates()[..., 0] > 25).astype(int) + 1
    pair = Pair(stored(fixed), stored(fine), moving_labels=labels, moving_mask=labels > 1)
    ours = pair.on_fixed_grid()
    assert ours.moving.grid == fixed and pair.moving.grid == fine
    inside = fine.contains(fixed.coordinates())
    assert 0.5 < inside.mean() < 1
    world = fixed.coordinates()
    core = inside & (np.abs(world - fine.centre) < 0.4 * fine.extent).all(axis=-1)
    np.testing.assert_allclose(ours.moving.array[core], pair.fixed.array[core], atol=0.01)
    assert (ours.moving.array[~inside] == pair.moving.array.min()).all()
    assert (ours.moving_labels[~inside] == 0).all() and not ours.moving_mask[~inside].any()
    apart = np.abs(world[..., 0] - 25) > 0.5
    expected = (world[..., 0] > 25) + 1
    np.testing.assert_array_equal(ours.moving_labels[inside & apart], expected[inside & apart])
    assert pair.arrays()["moving"].shape == (1, 30, 28, 1)
    assert ours.on_fixed_grid() is ours


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pair(image(), image((8, 9, 5))), "same rank, not 2 and 3"),
        (lambda: Pair(image(), image(channels=3)), "same channels, not 1 and 3"),
        (lambda: Pair(image(), image(origin=50)), r"do not overlap.*\[49.5, 57.5\]"),
        (lambda: Pair(image(), Image(np.ones((8, 9)), Grid((8, 9)))), "moving: 'image' is const"),
        (lambda: Pair(image((1, 1)), image()), "fixed: 'image0' has a single voxel"),
        (lambda: Pair(image(), image(), fixed_mask=-np.ones((8, 9))), "mask must not be negative"),
        (
            lambda: Pair(image(), image(), fixed_mask=np.full((8, 9), np.nan)),
            "mask must (hold whole|be finite)",
        ),
        (lambda: Pair(image(), image(), fixed_mask=np.ones((8, 9)) + 0j), "not complex128"),
        (
            lambda: Pair(image(), image(), fixed_labels=np.full((8, 9), "a")),
            "labels must hold (whole|real numbers)",
        ),
        (
            lambda: Pair(
                image(),
                image(),
                fixed_landmarks=np.ones((3, 2)) > 0,
                moving_landmarks=np.ones((3, 2)),
            ),
            "fixed_landmarks must hold real numbers, not bool",
        ),
        (
            lambda: Pair(Scan(np.eye(3)), Scan(np.eye(3)), weights=np.ones(3) + 0j),
            "weights must hold real numbers, not complex128",
        ),
        (lambda: Pair(image(), Scan(np.eye(3))), "one kind, not Image and Scan"),
        (lambda: Pair(image(), "moving.png"), r"moving must be.*not str.*Pair\.read"),
        (lambda: Pair(image(), image(), fixed_mask=np.ones((9, 8))), r"fixed_mask.*\(8, 9\)"),
        (lambda: Pair(image(), image(), fixed_mask=np.zeros((8, 9))), "fixed_mask is empty"),
        (
            lambda: Pair(image(), image(), moving_labels=np.full((8, 9), 0.5)),
            "moving_labels must hold whole numbers",
        ),
        (lambda: Pair(image(), image(), fixed_landmarks=np.ones((3, 2))), "given together"),
        (
            lambda: Pair(
                image(), image(), fixed_landmarks=np.ones((3, 2)), moving_landmarks=np.ones((4, 2))
            ),
            "as many, not 3 and 4",
        ),
        (
            lambda: Pair(
                image(), image(), fixed_landmarks=np.ones((3, 3)), moving_landmarks=np.ones((3, 3))
            ),
            r"shape \[n, 2\]",
        ),
        (lambda: Pair(image(), image(), weights=np.ones(3)), "weights belong to landmarks"),
        (lambda: Pair(np.full((8, 9), np.nan), image()), "72 values are NaN"),
    ],
)
def test_bad_pairs(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_landmarks_outside_only_warn():
    points = np.array([[1.0, 2.0], [30.0, 2.0]])
    with pytest.warns(LandmarksOutside, match="fixed_landmarks: 1 of 2 lie outside 'image0'"):
        pair = Pair(image(), image((40, 9)), fixed_landmarks=points, moving_landmarks=points)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair.arrays()  # it was said once


def test_arrays_become_images():
    pair = Pair(np.random.default_rng(0).normal(size=(8, 9)), np.eye(8, 9))
    assert pair.is_images and pair.name == "fixed <- moving"


# Pairs of clouds


def test_clouds():
    points = np.random.default_rng(0).normal(size=(20, 3))
    pair = Pair(
        points, Scan(points[:15]), fixed_labels=np.arange(20), weights=np.ones(15), name="two"
    )
    assert not pair.is_images and pair.rank == 3 and pair.name == "two"
    arrays = pair.arrays()
    assert arrays["fixed"].shape == (1, 20, 3) and arrays["weights"].shape == (1, 15)
    assert arrays["fixed_labels"].shape == (1, 20, 1)
    with pytest.raises(ValueError, match="same dimension, not 3 and 2"):
        Pair(points, points[:, :2])
    with pytest.raises(ValueError, match=r"weights must have the shape \(20,\)"):
        Pair(points, points, weights=np.ones(3))
    with pytest.raises(ValueError, match="not negative"):
        Pair(points, points, weights=-np.ones(20))
    with pytest.raises(ValueError, match="this is one of clouds"):
        pair.on_fixed_grid()
    with pytest.warns(UserWarning, match="factor of 1e\\+03; are they in the same unit"):
        Pair(points, points * 1000)


# Files


def test_points_that_count():
    points = np.random.default_rng(0).normal(size=(4, 3))
    weights = np.array([0.0, 1.0, 2.0, 4.0])
    pair = Pair(points, points, moving_mask=[1, 1, 0, 1], weights=weights)
    assert pair.counting_mask("fixed").tolist() == [True] * 4
    assert pair.counting_mask("moving").tolist() == [False, True, False, True]
    counting, shares = pair.counting("moving")
    np.testing.assert_array_equal(counting, points[[1, 3]])
    assert shares.tolist() == [0.25, 1.0]


def test_read_images(tmp_path):
    pytest.importorskip("SimpleITK")
    grid = GRIDS[1]
    labels = np.random.default_rng(0).integers(0, 3, grid.shape)
    points = grid.to_world(np.random.default_rng(0).uniform(0, 4, (5, 3)))
    for side, seed in (("fixed", 0), ("moving", 1)):
        Image(smooth(grid.shape, seed), grid).write(tmp_path / f"{side}.nii.gz")
        write_labels(tmp_path / f"{side}_labels.nii.gz", labels, grid)
        write_landmarks(tmp_path / f"{side}.fcsv", points)
    pair = Pair.read(
        tmp_path / "fixed.nii.gz",
        tmp_path / "moving.nii.gz",
        fixed_labels=tmp_path / "fixed_labels.nii.gz",
        moving_labels=None,
        fixed_mask=tmp_path / "fixed_labels.nii.gz",
        fixed_landmarks=tmp_path / "fixed.fcsv",
        moving_landmarks=tmp_path / "moving.fcsv",
    )
    assert pair.name == "fixed <- moving" and pair.moving_labels is None
    np.testing.assert_array_equal(pair.fixed_labels, labels)
    np.testing.assert_array_equal(pair.fixed_mask, labels > 0)
    np.testing.assert_array_equal(pair.moving_landmarks, points)
    paths = (tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz")
    with pytest.raises(TypeError, match=r"\['labels'\]; there are fixed_mask"):
        Pair.read(*paths, labels=paths[0])
    with pytest.raises(ValueError, match="given together"):
        Pair.read(*paths, fixed_landmarks=tmp_path / "fixed.fcsv")
    with pytest.raises(ValueError, match="fixed: cannot read 'fixed.fcsv'"):
        Pair.read(tmp_path / "fixed.fcsv", paths[1])
    write_labels(tmp_path / "other.nii.gz", labels, Grid(grid.shape))
    with pytest.raises(ValueError, match="fixed_mask: 'other.nii.gz' must lie on the grid"):
        Pair.read(*paths, fixed_mask=tmp_path / "other.nii.gz")


def test_read_clouds(tmp_path):
    points = np.random.default_rng(0).normal(size=(20, 3))
    np.savetxt(tmp_path / "fixed.xyz", points)
    np.save(tmp_path / "moving.npy", points + 1)
    np.save(tmp_path / "weights.npy", np.arange(20))
    np.savetxt(tmp_path / "labels.txt", np.arange(20))
    pair = Pair.read(
        tmp_path / "fixed.xyz",
        tmp_path / "moving.npy",
        weights=tmp_path / "weights.npy",
        fixed_labels=tmp_path / "labels.txt",
    )
    np.testing.assert_allclose(pair.fixed.points, points)
    assert pair.weights[3] == 3 and pair.fixed_labels[4] == 4
