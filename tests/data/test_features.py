"""Intrinsic features: invariance, with and without faces, and what breaks Laplacians."""

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

import zoo.data.features as features
from zoo.data.features import spectral_likeness, standardised, wave_kernel_signatures
from zoo.data.figures import articulated_figure
from zoo.data.scan import Scan

CELLS = 32


def unlike(first: np.ndarray, second: np.ndarray) -> float:
    """How far apart features of the same vertices are, relative to those of random ones."""
    one, other = standardised(first, second)
    order = np.random.default_rng(0).permutation(len(other))
    same, random = (np.linalg.norm(one - each, axis=1).mean() for each in (other, other[order]))
    return same / random


def test_a_limb_that_bends_keeps_its_features():
    rest, step = (articulated_figure(pose, cells=CELLS) for pose in ("rest", "step"))
    assert unlike(*(wave_kernel_signatures(each) for each in (rest, step))) < 0.35


def test_position_and_scale_mean_nothing():
    figure = articulated_figure(cells=CELLS)
    moved = Scan(1000.0 * figure.points + 5e4, faces=figure.faces)
    assert unlike(*(wave_kernel_signatures(each) for each in (figure, moved))) < 1e-3


def test_left_is_like_right_and_a_foot_is_not_like_a_hand():
    figure = articulated_figure(cells=CELLS)
    found = standardised(wave_kernel_signatures(figure))[0]
    points = figure.points
    tips = {
        name: np.argmin(np.linalg.norm(points - place, axis=1))
        for name, place in {
            "left": (0.85, 0.38, 0.02),
            "right": (-0.85, 0.38, 0.02),
            "foot": (0.14, -0.97, -0.02),
        }.items()
    }
    to_right, to_foot = (
        np.linalg.norm(found[tips["left"]] - found[tips[name]]) for name in ("right", "foot")
    )
    assert to_right < 0.5 * to_foot


def test_a_bare_cloud_has_nearly_the_features_of_its_mesh():
    figure = articulated_figure(cells=CELLS)
    cloud = Scan(figure.points)
    assert unlike(*(wave_kernel_signatures(each) for each in (figure, cloud))) < 0.7


def test_large_shapes_borrow_from_a_sample(monkeypatch):
    figure = articulated_figure(cells=48)
    whole = wave_kernel_signatures(figure)
    monkeypatch.setattr(features, "LARGEST", dict.fromkeys(features.LARGEST, 600))
    features._remembered.clear()
    assert unlike(whole, wave_kernel_signatures(figure)) < 0.6


def test_what_no_face_uses_and_faces_without_area_do_no_harm():
    figure = articulated_figure(cells=CELLS)
    points = np.concatenate([figure.points, figure.points[:1] + 0.01])
    faces = np.concatenate([figure.faces, [[5, 5, 6], [7, 7, 7]]])
    found = wave_kernel_signatures(Scan(points, faces=faces))
    assert found.shape == (len(points), 16) and np.isfinite(found).all()
    assert unlike(found[:-1], wave_kernel_signatures(figure)) < 0.05
    near = cKDTree(figure.points).query(points[-1:])[1][0]
    assert np.linalg.norm(found[-1] - found[near]) < 0.5 * np.linalg.norm(found[-1])


def test_several_components_are_fine():
    figure = articulated_figure(cells=CELLS)
    other = figure.points + np.array([3.0, 0, 0])
    faces = np.concatenate([figure.faces, figure.faces + len(figure)])
    both = wave_kernel_signatures(Scan(np.concatenate([figure.points, other]), faces=faces))
    one, two = np.split(both, 2)
    assert unlike(one, two) < 0.05


def test_the_same_shape_is_decomposed_once(monkeypatch):
    figure = articulated_figure(cells=CELLS)
    first = wave_kernel_signatures(figure)
    monkeypatch.setattr(features, "_spectrum", None)
    again = Scan(figure.points.copy(), faces=figure.faces.copy())
    assert wave_kernel_signatures(again) is first


@pytest.mark.parametrize(
    ("scan", "words"),
    [
        (Scan(np.random.default_rng(0).normal(size=(50, 2))), "in space"),
        (Scan(np.random.default_rng(0).normal(size=(9, 3))), "at least ten points"),
    ],
)
def test_what_is_no_surface_is_refused(scan, words):
    with pytest.raises(ValueError, match=words):
        wave_kernel_signatures(scan)


@pytest.mark.parametrize("count", [10, 13, 17])
def test_clouds_of_few_points_have_features(count):
    cloud = Scan(np.random.default_rng(0).normal(size=(count, 3)))
    assert np.isfinite(wave_kernel_signatures(cloud)).all()


def test_spectra_tell_a_bent_body_from_another_shape():
    rest, step = (articulated_figure(pose, cells=CELLS) for pose in ("rest", "step"))
    ball = trimesh.creation.icosphere(subdivisions=3)
    assert spectral_likeness(rest, rest) == 1.0
    assert spectral_likeness(rest, step) > 0.8
    assert spectral_likeness(rest, Scan(ball.vertices, faces=ball.faces)) < 0.2


def test_parts_that_touch_are_heard_in_a_cloud_and_not_in_a_mesh():
    apart, touching = (
        trimesh.util.concatenate(
            [trimesh.creation.capsule(2.0, 0.2).apply_translation((x, 0, 0)) for x in (0, gap)]
        )
        for gap in (1.0, 0.41)
    )
    meshes = [Scan(each.vertices, faces=each.faces) for each in (apart, touching)]
    clouds = [
        Scan(np.asarray(trimesh.sample.sample_surface(each, 1500, seed=k)[0]))
        for k, each in enumerate((apart, touching))
    ]
    assert spectral_likeness(*meshes) > 0.99
    assert spectral_likeness(*clouds) < 0.9
