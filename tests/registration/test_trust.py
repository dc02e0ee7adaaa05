"""What watched points say of a deformation: partners, chance, distributions, folds."""

import numpy as np
import pytest

from zoo.losses.cloud_terms import search_tree
from zoo.registration.trust import Apart, Judge, Watch, folds


def cloud(count=600, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3)).astype(np.float32)


def watch(fixed, held=100):
    kept = len(fixed) - held
    spacing = float(np.median(search_tree(fixed).query(fixed, k=2)[0][:, 1]))
    return Watch(fixed, (kept, kept), spacing, search_tree(fixed[:kept]))


def apart(distance, unlike=0.0, count=100):
    spread = np.random.default_rng(0).uniform(0.9, 1.1, count)
    return Apart(distance * spread, unlike)


def test_points_with_partners_meet_and_others_do_not():
    fixed = cloud()
    # Another order, or all partners of what is held out would be held out.
    same = np.random.default_rng(1).permutation(fixed)
    met = watch(fixed).apart(same).met
    assert met > 0.7
    assert watch(fixed).apart(cloud(seed=2)).met < 0.09


def test_samples_of_one_distribution_are_alike_and_a_shrunk_one_is_not():
    fixed, moving = cloud(1000), cloud(1000, 2)
    eye = watch(fixed)
    assert abs(eye.apart(moving).unlike) < 0.1
    assert eye.apart(0.7 * moving).unlike > eye.apart(moving).unlike + 0.05


def test_support_takes_more_than_chance():
    start = apart(1.0, unlike=0.1)
    assert apart(0.8, unlike=0.05).supported(start)
    assert not apart(0.8, unlike=0.12).supported(start), "a cloud that shrinks"
    assert not apart(1.0, unlike=0.05).supported(start), "no closer"
    assert apart(0.2, unlike=0.12).supported(start), "partners"
    assert apart(0.5).closer(apart(1.0)) == pytest.approx(np.log(2), abs=0.02)


def test_a_stage_that_drives_points_apart_or_folds_is_not_kept():
    fixed = cloud()
    moving = np.random.default_rng(1).permutation(fixed) + np.float32(0.03)
    judge = Judge(watch(fixed), moving)

    def back(points):
        return points - np.float32(0.03)

    def away(points):
        return points + np.float32(0.2)

    def mirror(points):
        return points * np.float32([-1, 1, 1])

    assert not judge.keeps(away, moving, away(moving))
    assert judge.keeps(back, moving, back(moving))
    assert judge.supported and judge.pairing in ("resolved", "exact")
    assert not judge.keeps(mirror, moving, back(moving))
    assert judge.doubts(1.0, linear=False) == []


def test_folds_are_a_percentage():
    points = cloud()

    def folded(points):
        return np.concatenate([np.abs(points[:, :1]), points[:, 1:]], axis=1)

    assert folds(lambda points: points, points, 0.01) == 0
    assert folds(folded, points, 0.001) == pytest.approx(50, abs=8)


def test_without_watched_points_nothing_is_judged():
    judge = Judge(None, cloud())
    assert judge.keeps(lambda points: points, cloud(), cloud()) and judge.supported
    assert judge.doubts(1.0, linear=False) == [] and judge.pairing == "resolved"
