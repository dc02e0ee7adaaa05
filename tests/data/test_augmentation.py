"""Augmented pairs: repeatable, each image in its own way, labels along with their images."""

import numpy as np
import pytest

from zoo.data.augmentation import Augmented
from zoo.data.pairs import RepeatedBatch

SHAPE = (24, 20)


def batches(**options):
    block = np.zeros((2, *SHAPE, 1), np.float32)
    block[:, 6:18, 5:15] = 1
    batch = {"fixed": 100 * block, "moving": 3 * block}
    labels = {"fixed_labels": 2 * block, "moving_labels": block}
    return Augmented(RepeatedBatch(batch | labels, 3), **options)


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_the_same_draw_for_the_same_epoch_and_index_only():
    data, again = batches(), batches()
    for one, other in zip(data[1][0].values(), again[1][0].values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(data) == 3
    assert not np.array_equal(data[0][0]["fixed"], data[1][0]["fixed"])
    before = data[0][0]["fixed"]
    data.epoch = 1
    assert not np.array_equal(data[0][0]["fixed"], before)


def test_labels_go_with_their_images():
    (batch,) = batches(noise=0.0, crop=0.0, gain=3.0)[0]
    for side, value in (("fixed", 2), ("moving", 1)):
        for image, labels in zip(batch[side], batch[f"{side}_labels"], strict=True):
            middle = (image.min() + image.max()) / 2
            assert dice(image > middle, labels == value) > 0.95
    assert dice(batch["fixed_labels"][0] > 0, batch["moving_labels"][0] > 0) < 0.99


def test_masks_go_with_their_images_and_end_where_they_are_cropped():
    (pairs,) = RepeatedBatch(batches().pairs.batch)[0]
    masks = {f"{side}_mask": np.ones_like(pairs["fixed"]) for side in ("fixed", "moving")}
    plain = batches(noise=0.0, gain=1.0, offset=0.0)[0][0]
    (batch,) = Augmented(RepeatedBatch(pairs | masks), noise=0.0, gain=1.0, offset=0.0)[0]
    for side in ("fixed", "moving"):
        np.testing.assert_array_equal(batch[side], plain[side])  # masks change nothing else
        mask, image = batch[f"{side}_mask"], batch[side]
        assert 0 < 1 - mask.mean() < 0.6 and set(np.unique(mask)) == {0, 1}
        assert (image[mask == 0] == image.min()).mean() > 0.9


def test_nothing_changes_where_nothing_may():
    still = batches(turn=0.0, zoom=0.0, shift=0.0, crop=0.0, noise=0.0, gain=1.0, offset=0.0)
    for key, values in still.pairs[0][0].items():
        np.testing.assert_allclose(still[0][0][key], values, atol=1e-4)


def test_what_does_not_suit_is_refused():
    for options in ({"gain": 0.5}, {"crop": 0.5}, {"noise": -1.0}, {"zoom": 1.0}):
        with pytest.raises(ValueError):
            batches(**options)
    points = RepeatedBatch({"fixed": 0, "moving": 0, "fixed_landmarks": 0})
    with pytest.raises(ValueError, match="nothing but images, labels and masks"):
        Augmented(points)[0]
