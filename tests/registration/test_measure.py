"""The measures of a pair are those of their definitions, and nothing is computed twice for them."""

import json

import numpy as np
import pytest

import zoo
from zoo import transform as transforms
from zoo.cli import main, registrations
from zoo.data.image import Image
from zoo.data.phantoms import phantom_pair
from zoo.geometry import Grid
from zoo.io.images import write_labels
from zoo.io.landmarks import write_landmarks
from zoo.metrics import registration as metrics
from zoo.metrics.surface import cloud_distances
from zoo.ops import derivatives
from zoo.registration import Measured, measure, warped_labels
from zoo.transform import Affine, Dense


def labelled(pair):
    return [(image.array[..., 0] > 0.3).astype(np.int32) for image in (pair.fixed, pair.moving)]


def bent(grid, size=1.5):
    field = size * np.sin(np.moveaxis(np.indices(grid.shape), 0, -1)[..., ::-1] / 7)
    return Dense(field, grid)


def phantom(shift=0.0, channels=1, **companions):
    """A pair of one grid, or of two where the moving one is shifted."""
    pair, matrix, offset = phantom_pair((40, 36), spacing=2.0)
    rng = np.random.default_rng(0)
    arrays = [
        image.array * rng.uniform(0.5, 1.5, channels) + 0.01 * rng.normal(size=(40, 36, channels))
        for image in (pair.fixed, pair.moving)
    ]
    grid = pair.moving.grid
    moved = Grid(grid.shape, grid.spacing, grid.origin + shift, grid.direction)
    fixed_labels, moving_labels = labelled(pair)
    companions |= {"fixed_labels": fixed_labels, "moving_labels": moving_labels}
    for side in ("fixed_landmarks", "moving_landmarks"):
        companions[side] = getattr(pair, side)
    pair = zoo.Pair(Image(arrays[0], pair.fixed.grid), Image(arrays[1], moved), **companions)
    return pair, Affine(matrix, offset, pair.fixed.grid)


def by_definition(transform, pair):
    """The measures of a pair of images, one after the other by what a transform offers."""
    grid, results = pair.fixed.grid, {}
    for prefix, each in (("initial_", Affine.identity(pair.rank, grid)), ("", transform)):
        pulled = each.pull(pair.fixed_landmarks)
        error = metrics.target_registration_error(pair.moving_landmarks, pulled)
        results[f"{prefix}tre_mm"] = error["mean_mm"]
        results[f"{prefix}median_tre_mm"] = error["median_mm"]
        results[f"{prefix}median_rtre"] = error["median_mm"] / np.linalg.norm(grid.extent)
        labels = Image(pair.moving_labels[..., None], pair.moving.grid)
        labels = each.warp(labels, grid, "nearest").array[..., 0].astype(int)
        results[f"{prefix}dice"] = metrics.dice_scores(pair.fixed_labels, labels)["mean"]
        results[f"{prefix}hd95_mm"] = metrics.hausdorff95(pair.fixed_labels, labels, grid.spacing)[
            "mean"
        ]
        ones = Image(np.ones((*pair.moving.shape, 1)), pair.moving.grid)
        counts = each.warp(ones, grid, outside=0.0).array[..., 0] > 0.5
        if pair.fixed_mask is not None:
            counts &= pair.fixed_mask
        moved = each.warp(pair.moving.grey(), grid)
        both = [image.array[..., 0][counts].astype(float) for image in (pair.fixed.grey(), moved)]
        results[f"{prefix}ncc"] = np.corrcoef(both)[0, 1]
    determinant = transform.jacobian_determinant(grid)
    results["folds_percent"] = metrics.fold_percentage(determinant, pair.fixed_mask)
    results["sd_log_jacobian"] = metrics.sd_log_jacobian(determinant, pair.fixed_mask, "positive")
    return results


@pytest.mark.parametrize(
    ("shift", "channels", "masked"), [(0.0, 1, False), (1.3, 1, True), (0.7, 3, True)]
)
def test_images_are_measured_by_definition(shift, channels, masked):
    mask = np.indices((40, 36)).sum(axis=0) > 20
    pair, affine = phantom(shift, channels, **({"fixed_mask": mask} if masked else {}))
    for transform in (affine, bent(pair.fixed.grid), affine @ bent(pair.fixed.grid)):
        found, wanted = measure(transform, pair), by_definition(transform, pair)
        assert list(found)[:3] == ["initial_tre_mm", "initial_median_tre_mm", "initial_median_rtre"]
        assert found == pytest.approx(wanted, rel=1e-6, nan_ok=True)
        np.testing.assert_array_equal(
            warped_labels(transform, pair), Measured(transform, pair).moved_labels
        )


def test_clouds_are_measured_by_definition():
    fixed, moving = np.random.default_rng(0).normal(size=(2, 300, 3)) * [3, 2, 1]
    pair = zoo.Pair(fixed[:200], moving)
    turn = Affine([[0, -1, 0], [1, 0, 0], [0, 0, 1]], [1, 2, 3])
    measured = Measured(turn, pair)
    results = measured.results()
    moved = turn.move(moving)
    assert list(results) == ["initial_chamfer", "chamfer"]
    assert results["chamfer"] == cloud_distances(moved, fixed[:200])["chamfer"]
    assert results["initial_chamfer"] == cloud_distances(moving, fixed[:200])["chamfer"]
    onto, back = measured.nearest
    assert onto.shape == (300,) and back.shape == (200,) and measured.nearest[0] is onto
    assert measured.moved_points is measured.moved_points


def test_a_constant_moving_image_correlates_with_nothing():
    pair, _ = phantom()
    away = Affine(np.eye(2), [500.0, 0.0], pair.fixed.grid)
    assert measure(away, pair)["ncc"] == 0.0


class Counts(dict):
    """How often something was computed for as many points as a grid has."""

    def wrap(self, monkeypatch, owner, name, of=lambda *words: words[-1]):
        function = getattr(owner, name)

        def counted(*words, **options):
            if np.prod(np.shape(of(*words))[:-1]) >= 128 * 112:
                self[name] = self.get(name, 0) + 1
            return function(*words, **options)

        monkeypatch.setattr(owner, name, counted)


@pytest.mark.parametrize("started", [False, True])
def test_a_registration_from_the_shell_computes_nothing_twice(tmp_path, monkeypatch, started):
    pair, matrix, offset = phantom_pair((128, 112), spacing=1.0)
    for side, labels in zip(("fixed", "moving"), labelled(pair), strict=True):
        getattr(pair, side).write(tmp_path / f"{side}.nii.gz")
        write_labels(tmp_path / f"{side}_labels.nii.gz", labels, pair.fixed.grid)
        write_landmarks(tmp_path / f"{side}.csv", getattr(pair, f"{side}_landmarks"))
    words = ["register", tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz", "--json"]
    for side in ("fixed", "moving"):
        words += [f"--{side}-labels", tmp_path / f"{side}_labels.nii.gz"]
        words += [f"--{side}-landmarks", tmp_path / f"{side}.csv"]
    words += ["-m", "affine", "--epochs", 1, "--out", tmp_path / "out"]
    if started:
        # Not merged with what is found, as another affine map would be.
        bent(pair.fixed.grid).save(tmp_path / "start.h5")
        words += ["--start", tmp_path / "start.h5"]
    counts, before = Counts(), Counts()
    for kind in (Affine, Dense):
        counts.wrap(monkeypatch, kind, "pull")
    counts.wrap(monkeypatch, Grid, "coordinates", of=lambda grid: np.empty((*grid.shape, 2)))
    counts.wrap(monkeypatch, Grid, "vectors_to_index")
    counts.wrap(monkeypatch, transforms, "_interpolate", of=lambda _, indices, *__: indices)
    counts.wrap(monkeypatch, derivatives, "jacobian_determinant")
    fit = registrations._fit_if_needed

    def fitted(*words):
        before.update(counts)
        fit(*words)
        counts.clear()

    monkeypatch.setattr(registrations, "_fit_if_needed", fitted)
    assert main([str(word) for word in words]) == 0
    # The indices that all warps share, and the displacement, are one product each.
    wanted = {"pull": 1, "coordinates": 1, "vectors_to_index": 2, "jacobian_determinant": 1}
    # Image and labels; inside of the start its own field, which also needs its indices.
    wanted["_interpolate"] = 2
    if started:
        wanted |= {"pull": 2, "_interpolate": 3, "vectors_to_index": 3}
        # To align the pair, whose image and labels are warped at once; the field is known, and
        # one of the products was needed to read it.
        assert before == {"coordinates": 1, "vectors_to_index": 2, "_interpolate": 2}
    assert counts == wanted
    assert json.loads((tmp_path / "out" / "results.json").read_text())["dice"] > 0.5
