"""Results that cannot be trusted say so, good ones say nothing."""

import json
import warnings

import numpy as np
import pytest

import zoo
from zoo.cli import main
from zoo.data.image import Image
from zoo.data.phantoms import phantom_pair
from zoo.registration import Measured, Quality
from zoo.transform import Affine, Dense


@pytest.fixture(scope="module")
def images():
    pair, matrix, offset = phantom_pair((40, 36), spacing=2.0)
    return pair, Affine(matrix, offset, pair.fixed.grid)


@pytest.fixture(scope="module")
def clouds():
    fixed = np.random.default_rng(0).uniform(-1, 1, (1500, 3))
    true = Affine(1.1 * np.eye(3), [0.1, 0.0, 0.0])
    return zoo.Pair(fixed, true.pull(fixed)), true


def folded(grid):
    """A field that turns back within every few voxels."""
    index = np.moveaxis(np.indices(grid.shape), 0, -1).astype(float)
    return Dense(4.0 * np.sin(index * 2.0), grid)


def test_the_true_map_leaves_no_doubt(images, clouds):
    for pair, true in (images, clouds):
        quality = Quality(Measured(true, pair))
        assert quality.doubts == []
        assert quality.numbers["inverse_error"] < 1e-4
        assert quality.numbers["alone_percent"] < 25


def test_a_folded_field_that_is_no_inverse_is_doubtful(images):
    pair, _ = images
    doubts = Quality(Measured(folded(pair.fixed.grid), pair)).doubts
    assert any("folds" in doubt for doubt in doubts)
    assert any("inverse" in doubt for doubt in doubts)
    assert any("less alike" in doubt for doubt in doubts)


def test_folds_of_clouds_are_counted(clouds):
    pair, true = clouds
    mirrored = Affine(np.diag([1.0, 1.0, -1.0]), np.zeros(3)) @ true
    numbers = Quality(Measured(mirrored, pair)).numbers
    assert numbers["folds_percent"] == 100.0
    assert Quality(Measured(true, pair)).numbers["folds_percent"] == 0.0


def test_what_has_no_counterpart_is_doubtful(images, clouds):
    pair, _ = images
    far = Affine(np.eye(2), [60.0, 0.0], pair.fixed.grid)
    assert any("not reached" in doubt for doubt in Quality(Measured(far, pair)).doubts)
    cloud, true = clouds
    half = zoo.Pair(cloud.fixed.points[cloud.fixed.points[:, 0] < 0], cloud.moving.points)
    quality = Quality(Measured(true, half))
    assert quality.numbers["alone_percent"] == pytest.approx(40, abs=12)
    assert any("far from the other cloud" in doubt for doubt in quality.doubts)


def test_modalities_are_compared_by_information(images):
    pair, true = images
    negative = zoo.Pair(pair.fixed, Image(-pair.moving.array, pair.moving.grid))
    assert any("correlation" in each for each in Quality(Measured(true, negative)).doubts)
    assert Quality(Measured(true, negative), "mi").doubts == []


def test_evaluate_warns_of_the_doubts_of_the_method(images, monkeypatch):
    pair, _ = images
    model = zoo.create("affine", dims=2, levels=1, voxels=500)
    model.fit(pair, epochs=1, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.evaluate(pair)
    monkeypatch.setattr(model, "map_of", lambda pair: folded(pair.fixed.grid))
    model.doubts = ["nothing moves"]
    with pytest.warns(UserWarning, match="nothing moves; the images are less alike.*folds"):
        model.evaluate(pair)


def test_strict_ends_with_status_one_and_files(images, tmp_path, capsys):
    pair, _ = images
    for side, image in (("fixed", pair.fixed), ("moving", pair.moving)):
        image.write(tmp_path / f"{side}.nii.gz")
    words = [str(tmp_path / f"{side}.nii.gz") for side in ("fixed", "moving")]
    setting = ["--set", "levels=1", "--set", "voxels=500", "--set", "start=identity", "--json"]
    words = ["register", *words, *setting, "--strict", "--out"]
    assert main([*words, str(tmp_path / "good")]) == 0
    start = tmp_path / "start.nii.gz"
    folded(pair.fixed.grid).save(start)
    capsys.readouterr()
    assert main([*words, str(tmp_path / "bad"), "--start", str(start)]) == 1
    said = capsys.readouterr()
    results = json.loads(said.out)
    assert results == json.loads((tmp_path / "bad" / "results.json").read_text())
    assert any("folds" in doubt for doubt in results["doubts"])
    assert "zoo: doubtful: the map folds" in said.err
