"""Generated figures: closed, repeatable, and in exact correspondence."""

import numpy as np
import pytest
import trimesh

from zoo.data.figures import (
    BONES,
    POSES,
    articulated_figure,
    figure_pair,
    random_figures,
    random_pose,
    two_legs,
)


@pytest.mark.parametrize("pose", POSES)
def test_figures_are_closed_surfaces_of_one_piece(pose):
    figure = articulated_figure(pose, subject=1, cells=40)
    mesh = trimesh.Trimesh(figure.points, figure.faces, process=False)
    assert mesh.is_watertight and mesh.body_count == 1 and mesh.volume > 0


def test_a_pose_turns_what_hangs_on_the_bone_rigidly():
    rest, raised = (articulated_figure(pose, cells=40) for pose in ({}, {"left_arm": (0, 0, 90)}))
    start, end, thin = (np.array(BONES["left_forearm"][k]) for k in (1, 2, 4))
    hand = np.linalg.norm(rest.points - end, axis=1) < 1.5 * thin
    assert hand.sum() > 5
    apart = [
        np.linalg.norm(f.points[hand][:, None] - f.points[hand], axis=-1) for f in (rest, raised)
    ]
    np.testing.assert_allclose(*apart, atol=0.01)
    assert (raised.points[hand][:, 1] > start[1] + 0.3).all()
    legs = rest.points[:, 1] < -0.3
    np.testing.assert_allclose(raised.points[legs], rest.points[legs], atol=1e-6)


def test_subjects_differ_and_repeat():
    one, again, other = (articulated_figure("rest", s, 32) for s in (1, 1, 2))
    assert np.array_equal(one.points, again.points)
    assert np.abs(one.points - other.points).max() > 0.01
    left = one.points[one.points[:, 0] > 0.3]
    right = one.points[one.points[:, 0] < -0.3]
    assert abs(left[:, 0].max() + right[:, 0].min()) < 0.05


def test_labels_tell_who_belongs_to_whom():
    pair = figure_pair("step", "step", cells=32)
    partner = np.argsort(pair.fixed_labels)[pair.moving_labels]
    assert np.array_equal(pair.fixed.points[partner], pair.moving.points)
    assert not np.array_equal(pair.fixed.points, pair.moving.points)
    source, target = (
        trimesh.Trimesh(each.points, each.faces, process=False)
        for each in (pair.moving, pair.fixed)
    )
    assert source.area == pytest.approx(target.area) and target.is_watertight


def test_legs_swing_rigidly_apart():
    pair = two_legs(30.0, 100)
    moved = pair.fixed_landmarks - pair.moving_landmarks
    left, right = moved[:100], moved[100:]
    assert left[:, 2].mean() > 0 > right[:, 2].mean() or left[:, 2].mean() < 0 < right[:, 2].mean()
    np.testing.assert_allclose(
        np.linalg.norm(pair.fixed_landmarks, axis=1), np.linalg.norm(pair.moving_landmarks, axis=1)
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: articulated_figure("jump"), "pose must be one of"),
        (lambda: articulated_figure({"tail": (0, 0, 1)}), "pose must be one of"),
        (lambda: articulated_figure(subject=-1), "subject must"),
        (lambda: two_legs(-1.0), "swing must be at least"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_random_figures_repeat_and_their_labels_are_partners():
    first, again, other = (random_figures(seed, cells=20) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.fixed.points, again.fixed.points)
    assert not np.allclose(first.moving.points, other.moving.points)
    posed = first.fixed.points[np.argsort(first.fixed_labels)]
    # Neighbours along the surface stay neighbours; a wrong order would tear them apart.
    edges = first.moving.faces[:, :2]
    before, after = (
        np.linalg.norm(np.diff(points[edges], axis=1)[:, 0], axis=1)
        for points in (first.moving.points, posed)
    )
    assert np.median(np.abs(np.log(after / before))) < 0.3
    assert set(random_pose(3)) <= set(BONES)
