"""ResNet-LDDMM of a cohort: one flow with codes, and fits that begin there."""

import keras
import numpy as np
import pytest
from keras import ops

import zoo
from zoo.data.figures import articulated_figure, figure_pair
from zoo.data.pair import LazyPairs, Pair
from zoo.models.resnet_lddmm import ResNetLDDMM, frame_around

SMALL = {"blocks": 4, "width": 24, "points": 200, "steps": 20, "codes": 4}


def leaning(angle: float, subject: int = 0) -> Pair:
    """A figure at rest, and one whose arms point up or down."""
    arms = {"left_arm": (0, 0, angle), "right_arm": (0, 0, -angle)}
    return Pair(articulated_figure(arms, subject, 24), articulated_figure("rest", subject, 24))


PAIRS = [leaning(angle) for angle in (-50, 50)]


@pytest.fixture(scope="module")
def cohort():
    keras.utils.set_random_seed(0)
    model = ResNetLDDMM(members=2, **SMALL)
    model.compile(keras.optimizers.Adam(3e-3))
    model.fit(PAIRS, epochs=8, steps_per_epoch=20, verbose=0)
    return model


def error(model, pair) -> float:
    return float(np.linalg.norm(model.predict(pair)["moved"] - pair.fixed.points, axis=1).mean())


def test_codes_steer_one_flow_to_each_member(cohort):
    codes = cohort.cohort(np.array([[0], [1]]))
    for number, pair in enumerate(PAIRS):
        centre, half = frame_around(pair)
        placed = ((pair.moving.points - centre) / half)[None].astype(np.float32)
        truth = (pair.fixed.points - centre) / half
        off = [
            float(np.linalg.norm(ops.convert_to_numpy(end) - truth, axis=1).mean())
            for end in (cohort.flow(placed, codes[k : k + 1])[0] for k in (number, 1 - number))
        ]
        assert off[0] < 0.5 * off[1], off


def test_pairs_of_a_batch_do_not_meet(cohort):
    batches = cohort.prepare(LazyPairs([lambda: PAIRS[0], lambda: PAIRS[1]]), batch_size=2)
    (batch,) = batches[0]
    together = cohort(batch)
    terms = cohort.loss_terms(batch, None, together)
    alone = []
    for row in range(2):
        one = {name: values[row : row + 1] for name, values in batch.items()}
        outputs = cohort(one)
        np.testing.assert_allclose(outputs["moved"][0], together["moved"][row], atol=1e-5)
        alone.append(cohort.loss_terms(one, None, outputs))
    for name, value in terms.items():
        mean = np.mean([float(each[name]) for each in alone])
        assert float(value) == pytest.approx(mean, rel=1e-4, abs=1e-6), name


def test_a_fit_begins_at_the_closest_member_and_leaves_the_cohort_as_it_was(cohort):
    before = cohort.cohort.shared.get_weights()
    fresh = ResNetLDDMM(**SMALL)
    pair = leaning(45)
    for model in (cohort, fresh):
        model.fit(pair, verbose=0)
    assert error(cohort, pair) < error(fresh, pair)
    for weight, old in zip(cohort.cohort.shared.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    first = error(cohort, pair)
    cohort.fit(leaning(-45), verbose=0)
    cohort.fit(pair, verbose=0)
    assert error(cohort, pair) == pytest.approx(first, rel=1e-2)


def test_a_file_keeps_cohort_and_pair(cohort, tmp_path):
    pair = leaning(45)
    cohort.fit(pair, verbose=0)
    cohort.save(tmp_path / "cohort.keras")
    loaded = zoo.load(tmp_path / "cohort.keras")
    np.testing.assert_allclose(
        loaded.predict(pair)["moved"], cohort.predict(pair)["moved"], atol=1e-6
    )
    np.testing.assert_array_equal(loaded.cohort.table, cohort.cohort.table)
    transform = cohort.transform(pair)
    moved = transform.move(pair.moving.points)
    assert np.abs(transform.pull(moved) - pair.moving.points).max() < 1e-5


def test_a_cohort_of_another_size_or_kind_is_refused(cohort):
    with pytest.raises(ValueError, match="the 2 pairs that members says, not 3"):
        cohort.fit([*PAIRS, PAIRS[0]], verbose=0)
    with pytest.raises(TypeError, match=r"x must be a zoo\.Pair"):
        ResNetLDDMM(**SMALL).fit(PAIRS, verbose=0)
    marked = Pair(
        PAIRS[1].fixed, PAIRS[1].moving, fixed_landmarks=np.eye(3), moving_landmarks=np.eye(3)
    )
    with pytest.raises(ValueError, match="pairs of a cohort must have the same"):
        cohort.fit([PAIRS[0], marked], verbose=0)


def test_figures_of_any_data_term_can_be_a_cohort():
    pairs = [figure_pair("step", cells=16), figure_pair("wave", cells=16)]
    for data in ("correspondence", "varifold"):
        model = ResNetLDDMM(data=data, members=2, **SMALL)
        model.fit(pairs, epochs=1, steps_per_epoch=2, verbose=0)
        model.fit(pairs[0], epochs=1, verbose=0)
        assert np.isfinite(model.predict(pairs[0])["moved"]).all()
