import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from test_geometry import GRIDS
from test_images import smooth

from zoo.data.image import Image, fit_array
from zoo.data.pair import LandmarksOutside, LazyPairs, Pair
from zoo.data.pairs import PairDataset, all_pairs, from_csv, to_atlas
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


# Data sets


def test_batches_depend_on_seed_epoch_and_index_only():
    pairs = [Pair(image(seed=k), image(seed=k + 1)) for k in range(5)]
    one, two = (PairDataset(pairs, batch_size=2, seed=3) for _ in range(2))
    assert isinstance(one, keras.utils.PyDataset) and len(one) == 3
    one.epoch = two.epoch = 4
    backwards = [two[k] for k in reversed(range(3))][::-1]
    for ours, theirs in zip([one[k] for k in range(3)], backwards, strict=True):
        np.testing.assert_array_equal(ours[0]["fixed"], theirs[0]["fixed"])
    seen = np.concatenate([one[k][0]["fixed"] for k in range(3)])
    every = np.stack([pair.fixed.array for pair in pairs])
    np.testing.assert_array_equal(np.sort(seen.sum((1, 2, 3))), np.sort(every.sum((1, 2, 3))))
    two.epoch = 5
    assert any((one[k][0]["fixed"] != two[k][0]["fixed"]).any() for k in range(2))
    still = PairDataset(pairs, shuffle=False)
    np.testing.assert_array_equal(still[3][0]["fixed"][0], pairs[3].fixed.array)


def test_steps_count_an_epoch():
    pairs = [Pair(image(seed=k), image(seed=k + 1)) for k in range(3)]
    dataset = PairDataset(pairs, batch_size=2, steps=6)
    assert len(dataset) == 6
    seen = np.concatenate([dataset[k][0]["fixed"] for k in range(6)]).sum((1, 2, 3))
    values, counts = np.unique(seen, return_counts=True)
    assert len(values) == 3 and (counts == 4).all()
    assert len(PairDataset(pairs[0], steps=10)) == 10


def test_one_shape_for_all():
    one, two = full_pair((8, 9)), full_pair((11, 8), seed=5)
    dataset = PairDataset([one, two], batch_size=2, shape=(10, 8), shuffle=False)
    batch = dataset[0][0]
    assert batch["fixed"].shape == batch["moving_labels"].shape == (2, 10, 8, 1)
    np.testing.assert_array_equal(batch["fixed"][0, 1:9, :, 0], one.fixed.array[:, :8, 0])
    assert (batch["fixed"][0, 0] == one.fixed.array.min()).all()
    assert (batch["fixed_mask"][0, 0] == 0).all()
    # Landmarks stay where the picture is.
    np.testing.assert_allclose(batch["fixed_landmarks"][0], one.fixed_landmarks + [1, 0], 1e-5)
    with pytest.raises(ValueError, match="one size.*give shape="):
        PairDataset([one, two], batch_size=2, shuffle=False)[0]
    plain = Pair(one.fixed, one.moving)
    with pytest.raises(ValueError, match="same companions"):
        PairDataset([one, plain], batch_size=2)[0]


@pytest.mark.parametrize("lazy", [False, True])
def test_centres_can_be_aligned(lazy):
    values = np.random.default_rng(0).uniform(1, 2, (6, 6))
    fixed = Image(np.pad(values, 2), Grid((10, 10)))
    moving = Image(values, Grid((6, 6), origin=4))
    points = np.array([[3.0, 4.0]])
    pair = Pair(fixed, moving, fixed_landmarks=points, moving_landmarks=points + 2)
    pairs = LazyPairs([lambda: pair]) if lazy else [pair]
    batch = PairDataset(pairs, shape=(7, 7), align="centre")[0][0]
    # Cropping 10 to 7 and padding 6 to 7 differ by half a voxel: whole voxels decide.
    difference = batch["moving_landmarks"] - batch["fixed_landmarks"]
    assert batch["fixed"].shape == batch["moving"].shape == (1, 7, 7, 1)
    for key in ("fixed", "moving"):
        x, y = np.rint(batch[f"{key}_landmarks"][0, 0]).astype(int)
        assert batch[key][0, x, y, 0] == np.float32(values[1, 2])
    assert np.abs(difference).max() <= 1
    world = PairDataset(pairs)[0][0]
    np.testing.assert_array_equal(world["moving_landmarks"] - world["fixed_landmarks"], [[[2, 2]]])


def test_all_pairs_and_atlas():
    images = [image(seed=k, origin=100 * k) for k in range(4)]
    labels = [np.full(picture.shape, k + 1) for k, picture in enumerate(images)]
    dataset = all_pairs(images, labels, align="centre", shuffle=False)
    assert len(dataset) == 12
    found = {
        (int(batch["fixed_labels"].max()), int(batch["moving_labels"].max()))
        for (batch,) in (dataset[k] for k in range(12))
    }
    assert found == {(a, b) for a in range(1, 5) for b in range(1, 5) if a != b}
    masks = [np.ones(picture.shape, bool) for picture in images]
    larger = [size + 4 for size in images[0].shape]
    (batch,) = all_pairs(images, masks=masks, align="centre", shape=larger)[0]
    for side in ("fixed", "moving"):
        assert batch[f"{side}_mask"].sum() == masks[0].size < batch[side].size
    atlas = to_atlas(images[1:], images[0], labels[1:], labels[0], align="centre", batch_size=3)
    batch = atlas[0][0]
    assert (batch["fixed_labels"] == 1).all() and batch["moving_labels"].max() == 4
    np.testing.assert_array_equal(batch["fixed"][2], images[0].array)
    with pytest.raises(ValueError, match="at least two"):
        all_pairs(images[:1])
    with pytest.raises(ValueError, match="as many as the 4 images"):
        all_pairs(images, labels[:2])
    with pytest.raises(ValueError, match=r"masks\[0\] must have the shape"):
        all_pairs(images, masks=[mask[:-1] for mask in masks])
    with pytest.raises(ValueError, match="do not overlap"):
        all_pairs(images)[0]


def test_listed_pairs(tmp_path):
    pytest.importorskip("PIL")
    folder = tmp_path / "pictures"
    for k in range(3):
        Image(image(seed=k).array, Grid((8, 9))).write(folder / f"{k}.png")
        write_landmarks(folder / f"{k}.csv", np.full((4, 2), k))
    table = tmp_path / "pairs.csv"
    table.write_text(
        "fixed,moving,fixed_landmarks,moving_landmarks,name\n"
        "pictures/0.png,pictures/1.png,pictures/0.csv,pictures/1.csv,first\n"
        "pictures/1.png,pictures/2.png,,,\n"
    )
    dataset = from_csv(table, shuffle=False)
    assert len(dataset) == 2 and dataset.pairs[0].name == "first"
    assert set(dataset[1][0]) == {"fixed", "moving"}
    np.testing.assert_array_equal(dataset[0][0]["moving_landmarks"], np.ones((1, 4, 2)))
    for text, error, message in (
        ("fixed,moved\na,b\n", ValueError, "must have the columns fixed and moving"),
        ("fixed,moving\n", ValueError, "lists no pairs"),
        ("", ValueError, "it has none"),
        ("fixed,moving\npictures/0.png,\n", ValueError, "row 1 of 'pairs.csv' lacks"),
        ("fixed,moving\npictures/0.png,7.png\n", FileNotFoundError, "row 1, moving: no file"),
    ):
        table.write_text(text)
        with pytest.raises(error, match=message):
            from_csv(table)


def test_bad_data_sets():
    pair = Pair(image(), image(seed=1))
    for options, message in (
        ({"pairs": []}, "pairs is empty"),
        ({"pairs": pair, "batch_size": 0}, "batch_size must be at least 1"),
        ({"pairs": pair, "steps": 0}, "steps must be at least 1"),
        ({"pairs": pair, "align": "left"}, "align must be"),
        ({"pairs": Pair(np.eye(3), np.eye(3) + 1), "shape": (3, 3)}, "these are clouds"),
    ):
        with pytest.raises(ValueError, match=message):
            PairDataset(**options)
    with pytest.raises(ValueError, match="shape must have 2 axes"):
        PairDataset(pair, shape=(8, 8, 8))[0]


DATA = Path(__file__).parents[3] / "shared/data/msd_hippocampus"


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data are not here")
def test_centred_hippocampi_are_padded_and_not_interpolated():
    from zoo.io.images import read_labels

    files = sorted((DATA / "images").glob("*.nii.gz"))[:6]
    images = [Image.read(path).normalised() for path in files]
    labels = [read_labels(DATA / "labels" / path.name)[0] for path in files]
    assert len({picture.shape for picture in images}) > 1
    dataset = all_pairs(images, labels, shape=(48, 64, 48), align="centre")
    padded = {fit_array(values, (48, 64, 48), 0)[0].astype("f4").tobytes() for values in labels}
    pictures = {picture.fitted((48, 64, 48)).array.tobytes() for picture in images}
    assert len(dataset) == 30
    for k in range(0, 30, 3):
        batch = dataset[k][0]
        for side in ("fixed", "moving"):
            assert batch[f"{side}_labels"].tobytes() in padded
            assert batch[side].tobytes() in pictures
