"""Data sets of pairs: batches, sizes, centres, companions and lists of them."""

from pathlib import Path

import keras
import numpy as np
import pytest
from test_pair import full_pair, image

from zoo.data.image import Image, fit_array
from zoo.data.pair import LazyPairs, Pair
from zoo.data.pairs import PairDataset, all_pairs, from_csv, to_atlas
from zoo.geometry import Grid
from zoo.io.landmarks import write_landmarks


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
    masked = to_atlas(images[1:], images[0], masks=masks[1:], atlas_mask=masks[0], align="centre")
    assert {"fixed_mask", "moving_mask"} <= set(masked[0][0])
    with pytest.raises(ValueError, match=r"atlas_mask\[0\] must have the shape"):
        to_atlas(images[1:], images[0], atlas_mask=masks[0][:-1])
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
