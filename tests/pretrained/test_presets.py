"""Every preset of the tree is complete, untouched, and computes what it computed when made."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
from packaging.licenses import canonicalize_license_expression

import pretrained
import zoo
from zoo.api import presets
from zoo.model import by_name

PRESETS = {preset.name: preset for preset in presets()}
ROOT = Path(pretrained.__file__).parent


def test_the_promised_presets_are_there():
    promised = {
        "igr": (
            "armadillo",
            "bunny",
            "dragon",
            "drill",
            "fish",
            "happy",
            "knot",
            "koala",
            "lucy",
            "rgb_dragon",
        ),
        "dirvnet": (
            "brain2d",
            "chessboard2d",
            "chessboard3d",
            "hippocampus3d",
            "hippocampus3d_labels",
        ),
        "divroc": ("vessels",),
        "igr_space": ("figures",),
        "nephi": ("hippocampus3d", "lungs3d", "shapes2d"),
    }
    assert {f"{model}.{tag}" for model, tags in promised.items() for tag in tags} <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_files_recipe_and_card(name):
    preset = PRESETS[name]
    assert pretrained.verify(preset) == []
    for required in ("train.py", "card.md", "preview.png", "golden.npz"):
        assert preset.path(required).is_file()
    assert preset.manifest["metrics"], "no metrics"
    assert any("held out" in row["protocol"] for row in preset.manifest["metrics"])
    assert importlib.util.spec_from_file_location("recipe", preset.path("train.py"))
    assert "train.py" in preset.manifest["training"]["script"]


@pytest.mark.parametrize("name", PRESETS)
def test_licences_are_of_spdx_and_those_of_the_recipe(name):
    preset = PRESETS[name]
    for key, written in preset.manifest["licence"].items():
        if key in ("weights", "data"):
            assert canonicalize_license_expression(written) == written
        if key == "weights":
            assert f'"weights": "{written}"' in preset.path("train.py").read_text()


@pytest.mark.parametrize("name", PRESETS)
def test_golden_output(name):
    preset = PRESETS[name]
    facts = preset.manifest["files"]["golden.npz"]
    model = zoo.load(name)
    with np.load(preset.path("golden.npz")) as golden:
        sides = {"input": {}, "output": {}}
        for key in golden:
            side, _, array = key.partition(".")
            sides[side][array] = golden[key]
    given = sides["input"]
    computed = model.predict(given if len(given) > 1 else next(iter(given.values())), verbose=0)
    for array, values in by_name(computed, sides["output"]).items():
        expected = sides["output"][array]
        atol = facts["atol"] * np.abs(expected).max()
        np.testing.assert_allclose(values, expected, rtol=facts["rtol"], atol=atol)


def test_the_tree_stays_small():
    total = sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file())
    assert total < 120e6
    assert all(path.stat().st_size < 25e6 for path in ROOT.rglob("*.h5"))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("igr.armadillo", "stanford_armadillo/armadillo.obj"),
        ("igr.bunny", "stanford_bunny/bun_zipper.ply"),
    ],
)
def test_figures_of_the_card_are_met_again(name, file, data):
    """On the held-out quarter, with the recipe's mesh and samples."""
    training, test = zoo.Scan.read(data(file)).split(test=0.25, seed=313)
    trim = training if name == "igr.bunny" else None
    results = zoo.load(name).evaluate(test, trim=trim, resolution=256, samples=30_000)
    rows = PRESETS[name].manifest["metrics"]
    for metric in ("chamfer", "hausdorff"):
        stated = [
            row["value"]
            for row in rows
            if row["name"] == metric
            and ("trim" in row["protocol"]) == (trim is not None)
            and "floor" not in row["protocol"]
        ]
        assert results[metric] == pytest.approx(stated[0], rel=0.02)


def test_the_metric_sees_a_turned_frame(data):
    """The truth against itself scores the sampling floor; any turned or swapped axes do not."""
    import trimesh

    from zoo.metrics.surface import held_out_distances

    whole = zoo.Scan.read(data("stanford_bunny/bun_zipper.ply"))
    _, test = whole.split(test=0.25, seed=313)
    mesh = trimesh.Trimesh(whole.points, whole.faces, process=False)
    points = np.asarray(trimesh.sample.sample_surface(mesh, len(test), seed=412)[0])
    centre, scale = whole.frame
    assert held_out_distances(points, test.points, centre, scale)["chamfer"] <= 0.020
    for axes, signs in [((1, 0, 2), (1, 1, 1)), ((1, 0, 2), (1, -1, 1)), ((0, 2, 1), (1, 1, 1))]:
        turned = (points - centre)[:, axes] * signs + centre
        assert held_out_distances(turned, test.points, centre, scale)["chamfer"] > 0.10


def test_altered_weights_are_refused(tmp_path):
    folder = tmp_path / "altered"
    shutil.copytree(ROOT / "igr" / "knot", folder)
    assert zoo.load(folder).built
    weights = folder / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(pretrained.IntegrityError, match=r"model\.weights\.h5"):
        zoo.load(folder)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    model = zoo.create("igr", width=16, depth=2, skips=())
    small = model.save_preset(tmp_path / "small")
    other = zoo.create("igr", width=24, depth=2, skips=()).save_preset(tmp_path / "other")
    preset = pretrained.info(str(small))
    files = {"model.weights.h5": other / "model.weights.h5"}
    manifest = {**preset.manifest, "files": {}}
    broken = pretrained.write(tmp_path / "broken", manifest, files)
    with pytest.raises(ValueError, match="do not fit its configuration"):
        zoo.load(broken.folder)


def test_saving_refuses_to_overwrite(tmp_path):
    model = zoo.create("igr", width=16, depth=2, skips=())
    model.save_preset(tmp_path / "mine")
    with pytest.raises(FileExistsError):
        model.save_preset(tmp_path / "mine")
    model.save_preset(tmp_path / "mine", overwrite=True, summary="Mine.")
    assert "Mine." in zoo.describe(str(tmp_path / "mine"))
    with pytest.raises(TypeError, match="save_preset"):
        model.save_preset(tmp_path / "typo", sumary="Mine.")


def test_loading_twice_gives_independent_models():
    first, second = zoo.load("igr.knot"), zoo.load("igr.knot")
    first.network.linear[-1].bias.assign([9.0])
    points = np.zeros((1, 3))
    assert first.predict(points) != second.predict(points)


def test_the_default_preset_stands_for_the_method():
    points = np.eye(3)
    np.testing.assert_array_equal(
        zoo.load("igr").predict(points), zoo.load("igr.knot").predict(points)
    )
