"""Inside, outside and normals of clouds of points."""

import numpy as np
import pytest

from zoo.data import shapes
from zoo.data.winding import Winding, areas, consistent_normals, roughness, smoothed


def shares_of(cloud):
    return np.linalg.norm(cloud, axis=1, keepdims=True)


def test_areas_sum_to_the_surface():
    ball = shapes.sphere(5000, radius=0.7)
    assert areas(ball.points).sum() == pytest.approx(4 * np.pi * 0.7**2, rel=0.1)
    ring = shapes.circle(2000, radius=0.7)
    assert areas(ring.points).sum() == pytest.approx(2 * np.pi * 0.7, rel=0.1)


@pytest.mark.parametrize("cloud", [shapes.sphere(4000, radius=0.8), shapes.circle(800, radius=0.8)])
def test_one_inside_and_zero_outside(cloud):
    rays = cloud.points / shares_of(cloud.points)
    winding = Winding(cloud.points, cloud.normals)
    for radius, number in ((0.0, 1.0), (0.5, 1.0), (1.1, 0.0), (3.0, 0.0)):
        np.testing.assert_allclose(winding(radius * rays[:200]), number, atol=0.1)


def test_a_shorter_normal_counts_less():
    ball = shapes.sphere(1000)
    whole, half = (Winding(ball.points, share * ball.normals) for share in (1.0, 0.5))
    inside = np.zeros((1, 3))
    np.testing.assert_allclose(half(inside), whole(inside) / 2, rtol=1e-5)


def test_normals_of_a_torus_are_found():
    torus = shapes.torus(5000)
    normals, trust = consistent_normals(torus.points)
    cosines = (normals * torus.normals).sum(axis=1)
    assert cosines.min() > 0.9 and trust.min() > 0.5
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-6)


def test_both_walls_of_a_shell_face_away_from_it():
    outer, inner = shapes.sphere(3000, radius=1.0), shapes.sphere(2400, radius=0.8, seed=1)
    points = np.concatenate([outer.points, inner.points])
    normals, _ = consistent_normals(points)
    heights = (normals * points).sum(axis=1)
    assert (heights[:3000] > 0).mean() > 0.99
    assert (heights[3000:] < 0).mean() > 0.99


def test_a_planar_curve():
    ring = shapes.circle(500)
    normals, _ = consistent_normals(ring.points)
    assert (normals * ring.normals).sum(axis=1).min() > 0.99


def test_normals_of_random_signs_are_turned_and_agreeing_ones_stay():
    torus = shapes.torus(3000)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (3000, 1))
    turned, _ = consistent_normals(torus.points, signs * torus.normals)
    np.testing.assert_allclose(turned, torus.normals)
    inward = -torus.normals
    assert consistent_normals(torus.points, inward)[0] is inward


def test_noise_is_told_from_shape():
    torus = shapes.torus(8000)
    assert roughness(torus.points)[0] == 0.0
    noise = np.random.default_rng(0).normal(0, 0.02, torus.points.shape)
    found, neighbours = roughness(torus.points + noise)
    assert found == pytest.approx(0.02, rel=0.3) and neighbours > 30


@pytest.mark.parametrize("dims", [2, 3])
def test_noisy_points_come_closer_to_their_surface(dims):
    rng = np.random.default_rng(0)
    points = rng.standard_normal((4000, dims))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    noisy = points * (1 + rng.normal(0, 0.05, (4000, 1)))

    def off(cloud):
        return np.abs(np.linalg.norm(cloud, axis=1) - 1).mean()

    moved = smoothed(noisy)
    assert off(moved) < 0.4 * off(noisy)
    assert roughness(moved)[0] < roughness(noisy)[0]
    # Planes through their neighbours stay planes.
    flat = np.column_stack([rng.uniform(-1, 1, (500, dims - 1)), np.zeros(500)])
    np.testing.assert_allclose(smoothed(flat), flat, atol=1e-12)


def test_normals_are_found_through_noise():
    torus = shapes.torus(8000)
    points = torus.points + np.random.default_rng(0).normal(0, 0.02, torus.points.shape)
    normals, _ = consistent_normals(points, None, roughness(points)[1])
    cosines = (normals * torus.normals).sum(axis=1)
    assert (cosines > 0).mean() > 0.99 and cosines.mean() > 0.95


def test_two_points_and_equal_points_have_some_normals():
    for points in (np.eye(3)[:2], np.repeat(np.eye(3), 30, axis=0)):
        normals, trust = consistent_normals(points)
        assert np.isfinite(normals).all() and np.isfinite(trust).all()
