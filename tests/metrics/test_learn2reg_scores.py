import numpy as np
import pytest

from zoo.metrics.learn2reg import learn2reg_scores, learn2reg_summary

SHAPE = (12, 11, 10)


def shifted(by):
    return np.zeros((*SHAPE, 3)) + by


def labels():
    image = np.zeros(SHAPE, np.int16)
    image[3:7, 3:7, 3:7], image[3:7, 3:7, 8] = 1, 2
    return image


def test_a_known_translation_scores_perfectly():
    moving = np.roll(labels(), (2, -1, 1), axis=(0, 1, 2))  # fixed voxel x is at x + (2, -1, 1)
    landmarks = np.array([[4, 5, 4], [6.5, 4, 5]])
    scores = learn2reg_scores(
        shifted((2, -1, 1)),
        fixed_landmarks=landmarks,
        moving_landmarks=landmarks + (2, -1, 1),
        spacing=(1.5, 2.0, 3.0),
        fixed_labels=labels(),
        moving_labels=moving,
    )
    expected = {"tre_mm": 0, "dice": 1, "hd95": 0, "sd_log_jacobian": 0, "ndv_percent": 0}
    assert scores == pytest.approx(expected, abs=1e-12)


def test_errors_are_in_millimetres_of_the_moving_image():
    at = np.array([[4.0, 5, 4], [5, 5, 5]])
    scores = learn2reg_scores(
        shifted((1, 0, 0)),
        fixed_landmarks=at,
        moving_landmarks=at + [[1, 0, 1], [0, 0, 0]],
        spacing=(3, 1, 4),
    )
    assert scores["tre_mm"] == pytest.approx((4 + 3) / 2)
    assert "dice" not in scores


def test_labels_by_one_voxel_too_far():
    scores = learn2reg_scores(
        shifted((1, 0, 0)), fixed_labels=labels(), moving_labels=labels(), labels=(1, 2, 7)
    )
    # Three of four planes overlap, of a cube and of a plate.
    assert scores["dice"] == pytest.approx(0.75)
    assert scores["hd95"] == pytest.approx(1)


def test_a_label_that_is_lost_counts_and_one_that_is_missing_does_not():
    fixed = labels()
    lost = learn2reg_scores(shifted((50, 0, 0)), fixed_labels=fixed, moving_labels=labels())
    assert lost["dice"] == 0 and lost["hd95"] == np.inf
    moving = np.where(labels() == 1, 1, 0)
    assert learn2reg_scores(shifted(0), fixed_labels=fixed, moving_labels=moving)["dice"] == 1
    none = learn2reg_scores(shifted(0), fixed_labels=fixed, moving_labels=0 * moving)
    assert np.isnan(none["dice"]) and np.isnan(none["hd95"])


def test_the_jacobian_is_that_of_the_script():
    # Stretched by 2 in one half along x, by 1 in the other: det + 3 is 5 or 4, half each.
    field = np.zeros((16, 8, 8, 3))
    field[..., 0] = np.where(np.arange(16) < 8, np.arange(16), 8)[:, None, None]
    scores = learn2reg_scores(field)
    inner = np.gradient(field[..., 0], axis=0)[2:-2, 2:-2, 2:-2] + 1
    assert scores["sd_log_jacobian"] == pytest.approx(np.log(inner + 3).std())
    mask = np.zeros(field.shape[:-1])
    mask[3:6] = 1
    assert learn2reg_scores(field, mask=mask)["sd_log_jacobian"] == pytest.approx(0)
    folded = field.copy()
    folded[..., 0] = -2 * np.arange(16)[:, None, None]
    assert learn2reg_scores(folded)["ndv_percent"] == pytest.approx(100)


def test_robustness_is_the_quantile_of_the_worse_cases():
    cases = [{"tre_mm": float(k), "dice": k / 10, "ndv_percent": 0.0} for k in range(11)]
    found = learn2reg_summary(cases)
    assert found["tre_mm"] == pytest.approx({"mean": 5, "std": np.sqrt(10), "30": 7})
    assert found["dice"]["30"] == pytest.approx(0.3)
    assert found["ndv_percent"] == {"mean": 0, "std": 0}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"displacement": np.zeros((12, 11, 3))}, ValueError, "displacement must have the shape"),
        ({"displacement": np.zeros((4, 4, 4, 3))}, ValueError, "more than 4 voxels"),
        ({"moving_labels": None}, ValueError, "fixed_labels and moving_labels"),
        ({"fixed_labels": np.ones((3, 3, 3), int)}, ValueError, "fixed_labels must have the shape"),
        ({"fixed_labels": np.ones(SHAPE)}, TypeError, "fixed_labels must be integers"),
        ({"fixed_landmarks": np.ones((2, 3))}, ValueError, "fixed_landmarks and moving_landmarks"),
        ({"spacing": (1.0, 2.0)}, ValueError, "spacing must hold 3"),
        ({"mask": np.ones((2, 2, 2))}, ValueError, "mask must have the shape"),
    ],
)
def test_what_is_wrong_is_said(change, error, message):
    given = {"displacement": shifted(0), "fixed_labels": labels(), "moving_labels": labels()}
    with pytest.raises(error, match=message):
        learn2reg_scores(**given | change)


def test_summaries_need_cases_alike():
    with pytest.raises(ValueError, match="cases must hold"):
        learn2reg_summary([])
    with pytest.raises(ValueError, match="cases must have the same scores"):
        learn2reg_summary([{"dice": 1.0}, {"tre_mm": 1.0}])
