"""What of a displacement is kept, on cases whose answer is known."""

import numpy as np
import pytest

from zoo.losses.similarity import MeanSquaredError
from zoo.registration.acceptance import determinant, discrepancy, judged, unfolded

SHAPE = (24, 20)


def ramp():
    """A picture whose value is its first coordinate, `[1, *SHAPE, 1]`."""
    return np.broadcast_to(np.arange(24.0)[None, :, None, None], (1, *SHAPE, 1)).astype("float32")


def shift(by):
    return np.broadcast_to(np.float32([by, 0.0]), (*SHAPE, 2)).copy()


def images(by=2.0):
    return {"fixed": ramp() + np.float32(by), "moving": ramp()}


def test_folds_are_smoothed_away_and_nothing_else_changes():
    folded = shift(0.0)
    folded[10:12, 8:10, 0] = [[3.0], [-3.0]]
    assert (determinant(folded) <= 0).any()
    mended = unfolded(folded)
    assert (determinant(mended) > 0).all()
    np.testing.assert_array_equal(mended[0], 0)
    straight = shift(1.5)
    assert unfolded(straight) is straight


def test_discrepancy_is_the_loss_where_volumes_stay():
    loss = MeanSquaredError()
    assert discrepancy(images(), shift(0.0), loss) == pytest.approx(4.0)
    masked = images() | {"fixed_mask": np.zeros((1, *SHAPE, 1), "float32")}
    masked["fixed_mask"][:, :10] = 1
    assert discrepancy(masked, shift(2.0), loss) == pytest.approx(0.0, abs=1e-6)


def test_what_helps_is_kept_and_half_of_what_goes_too_far():
    loss = MeanSquaredError()
    kept, doubts = judged(images(), shift(2.0), loss)
    np.testing.assert_array_equal(kept, shift(2.0))
    assert doubts == []
    kept, doubts = judged(images(), shift(4.5), loss)
    np.testing.assert_array_equal(kept, shift(2.25))
    assert doubts == []


def test_what_does_harm_is_dropped_with_a_reason():
    kept, doubts = judged(images(), shift(-2.0), MeanSquaredError())
    np.testing.assert_array_equal(kept, 0)
    (doubt,) = doubts
    assert "makes the images more alike" in doubt and "4" in doubt
    start = shift(1.0)
    kept, doubts = judged(images(), shift(-2.0), MeanSquaredError(), start=start)
    np.testing.assert_array_equal(kept, start)


def test_ways_that_do_not_lead_back_are_dropped():
    loss = MeanSquaredError()
    kept, doubts = judged(images(), shift(2.0), loss, back=shift(-2.0))
    np.testing.assert_array_equal(kept, shift(2.0))
    kept, doubts = judged(images(), shift(2.0), loss, back=shift(1.0))
    np.testing.assert_array_equal(kept, 0)
    assert "do not support a deformation" in doubts[0]


def test_nothing_found_for_equal_images_is_no_doubt():
    kept, doubts = judged(images(0.0), shift(0.0), MeanSquaredError(), back=shift(0.0))
    assert doubts == [] and not kept.any()
