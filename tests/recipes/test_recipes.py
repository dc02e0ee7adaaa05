"""Recipes make whole presets from a command line, go on after an interruption, know no method."""

import ast
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trimesh
from keras import ops

import pretrained
import registry
import zoo
from zoo.api import info
from zoo.data import shapes
from zoo.data.chessboard import ChessboardPairs
from zoo.data.outlines import shape_pairs
from zoo.recipes import (
    Job,
    cohort_preset,
    flow_preset,
    make_preset,
    measure_all,
    registration_preset,
    space_preset,
    surface_preset,
)
from zoo.recipes.clouds import benchmark_rows
from zoo.recipes.skeleton import rows

ROOT = Path(pretrained.__file__).parents[1]
FACTS = {"summary": "Tiny.", "licence": {"weights": "CC0-1.0", "data": "generated"}}
TINY = {"levels": 1, "units": 1, "filters": 3, "data_kernel": 3, "smoothness_kernel": 3}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a recipe with a command line; the manifest and the file names of its preset."""
    script, out = tmp_path / "train.py", tmp_path / "made" / "tiny"
    script.write_text('"""A recipe."""\n')

    def made(preset, *words, **options):
        monkeypatch.setattr("sys.argv", ["train.py", *words, "--out", str(out)])
        preset(str(script), **options)
        assert [path.name for path in out.parent.iterdir()] == ["tiny"]
        assert not pretrained.verify(info(str(out)))
        return json.loads((out / "preset.json").read_text()), {path.name for path in out.iterdir()}

    return made


def test_a_surface(run, tmp_path):
    scan = shapes.torus(400)
    np.savez(tmp_path / "scan.npz", points=scan.points, normals=scan.normals)
    manifest, files = run(
        surface_preset,
        str(tmp_path / "scan.npz"),
        config={"width": 16, "depth": 2, "skips": (), "neighbours": 10},
        steps=4,
        learning_rate=1e-3,
        data="a torus",
        **FACTS,
    )
    assert {"train.py", "preview.png", "card.md", "golden.npz"} <= files
    assert (manifest["model"], manifest["tag"]) == ("igr", "tiny")
    training = manifest["training"]
    assert training["data"] == "a torus, 300 points" and training["script"] == "train.py"
    assert (training["seed"], training["steps"]) == (0, 4) and training["minutes"] >= 0
    assert {row["protocol"] for row in manifest["metrics"]} == {"25 % of the points held out"}
    assert {row["unit"] for row in manifest["metrics"] if row["name"] == "chamfer"} == {
        "longest side = 2"
    }


def test_a_family_of_shapes(run, tmp_path):
    def ball(seed, path):
        mesh = trimesh.creation.icosphere(2, float(path.read_text()) + 0.1 * (seed % 4))
        mesh.update_faces(mesh.triangles_center[:, 1] > -0.2)  # open below
        return zoo.Scan.from_mesh(mesh)

    (tmp_path / "radius.txt").write_text("0.5")
    manifest, files = run(
        space_preset,
        str(tmp_path / "radius.txt"),
        scan_of=ball,
        seeds=(0, 2),
        test_seeds=(1, 3),
        config={"codes": 2, "width": 16, "depth": 2, "skips": (), "neighbours": 10},
        steps=4,
        points=200,
        search={"epochs": 1, "steps_per_epoch": 2},
        argument=("radius", "a file with a radius"),
        part=("the upper half", lambda scan: scan.subset(scan.points[:, 1] > 0)),
        open_scans=True,
        data="balls",
        **FACTS,
    )
    assert "preview.png" in files and manifest["config"]["members"] == 2
    assert manifest["training"]["data"] == "2 balls, 200 points of each with normals"
    found = {row["protocol"] for row in manifest["metrics"] if row["name"] == "chamfer"}
    assert len(found) == 4 and {row["data"] for row in manifest["metrics"]} == {"2 balls, unseen"}
    assert sum("held out" in protocol for protocol in found) == 3
    assert any("from a scan of the upper half" in protocol for protocol in found)


def test_a_registration(run):
    options = {
        "method": "dirvnet",
        "config": TINY,
        "datasets": lambda: (
            ChessboardPairs((16, 16), 1, 1),
            ChessboardPairs((16, 16), 2, 1, seed=77),
        ),
        "folder": False,
        "learning_rate": 1e-3,
        "data": "boards",
        "protocol": "held out",
        **FACTS,
    }
    with pytest.raises(ValueError, match="steps must be a multiple of the 1 batches"):
        run(registration_preset, steps=2.5, **options)
    manifest, files = run(registration_preset, steps=2, **options)
    assert "preview.png" in files
    protocols = [row["protocol"] for row in manifest["metrics"] if row["name"] == "epe"]
    assert protocols == ["held out", "held out, before training"]


def test_a_recipe_may_lie_in_the_folder_it_is_to_fill(tmp_path, monkeypatch):
    script = tmp_path / "tiny" / "train.py"
    script.parent.mkdir()
    script.write_text('"""A recipe."""\n')
    monkeypatch.setattr("sys.argv", ["train.py"])
    options = {"pair": {"cells": 20}, "config": SHORT, **FACTS}
    (script.parent / "notes.txt").write_text("of somebody else")
    with pytest.raises(FileExistsError, match="is not a preset"):
        flow_preset(str(script), **options)
    (script.parent / "notes.txt").unlink()
    flow_preset(str(script), **options)
    assert not pretrained.verify(info(str(script.parent)))


SHORT = {"width": 16, "blocks": 3, "points": 100, "steps": 20}


def test_a_flow(run):
    manifest, files = run(flow_preset, pair={"fixed": "wave", "cells": 20}, config=SHORT, **FACTS)
    assert {"train.py", "preview.png", "card.md", "golden.npz"} <= files
    assert manifest["training"]["data"].startswith("figure_pair(fixed='wave', cells=20)")
    assert {row["name"] for row in manifest["metrics"]} == {
        "error",
        "initial_error",
        "folds_percent",
    }


def test_a_cohort(run):
    options = {
        "seeds": range(2),
        "test_seeds": [900],
        "config": SHORT | {"codes": 4},
        "learning_rate": 1e-3,
        "cells": 20,
        "whole": SHORT,
    }
    with pytest.raises(ValueError, match="steps must be a multiple of 20, not 30"):
        run(cohort_preset, steps=30, **options, **FACTS)
    manifest, _ = run(cohort_preset, steps=20, **options, **FACTS)
    assert manifest["config"]["members"] == 2
    starts = [row["protocol"] for row in manifest["metrics"] if row["name"] == "error"]
    assert [each.partition(": ")[2] for each in starts] == [
        "20 steps from the cohort",
        "20 steps from zero",
        "default, from zero",
    ]


def test_pairs_are_measured_as_they_are_and_after_a_fit():
    class Known:
        """A model that knows how often it was fitted."""

        fits = 0

        def fit(self, pair, epochs, verbose):
            self.fits += epochs

        def evaluate(self, pair):
            return {"tre_mm": 4.0 - self.fits}

    pairs = shape_pairs(2, 16)
    assert measure_all(Known(), pairs) == {"tre_mm": 4.0}
    assert measure_all(Known(), pairs, {"epochs": 1}) == {"tre_mm": 2.5}


class Line(zoo.Model):
    """y = slope x: the least that a recipe can train."""

    default_loss_weights = {"fit": 1.0}

    def __init__(self, stops_after=None, **kwargs):
        super().__init__(**kwargs)
        self.left = stops_after
        self.slope = self.add_weight(shape=(1,), initializer="uniform", name="slope")
        self.built = True

    def call(self, inputs):
        return inputs * self.slope

    def loss_terms(self, x, y, y_pred):
        if self.left is not None:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
        return {"fit": ops.mean((y_pred - 2 * x) ** 2)}

    def signature(self):
        points = {"shape": [None, 1], "unit": "1", "dtype": "float32"}
        return {"x": points}, {"y": points}

    def golden_inputs(self):
        return np.ones((3, 1), "float32")


def test_a_job_goes_on_where_it_was_interrupted(run, tmp_path, capsys):
    begun = []

    def begin(arguments, stops_after=None):
        model = Line(stops_after)
        model.compile("sgd", run_eagerly=True)
        begun.append((arguments.cases.name, arguments.fast, float(model.slope[0])))
        return Job(
            model,
            np.ones((4, 1), "float32"),
            source="ones",
            steps=3,
            metrics=lambda: rows({"tre_mm": 0.123456}, "ones", "held out", "registration"),
            draw=lambda path: path.write_bytes(b"drawn"),
            fit={"epochs": 3},
        )

    def train(**options):
        command = {"argument": ("cases", "a folder"), "flags": {"fast": "sooner"}, "seed": 5}
        preset = partial(make_preset, begin=partial(begin, **options), facts=FACTS, **command)
        return run(preset, "folder", "--fast")

    with registry.isolated():
        zoo.add_method("line", task="registration", data="points")(Line)
        with pytest.raises(KeyboardInterrupt):
            train(stops_after=1)
        assert (tmp_path / "made" / ".tiny-training-fast" / "minutes.json").is_file()
        capsys.readouterr()
        manifest, _ = train()
    assert begun[0] == begun[1] and begun[0][:2] == ("folder", True)
    told = capsys.readouterr().out
    assert "Epoch 1/3" not in told and "Epoch 2/3" in told and "Epoch 3/3" in told
    training = manifest["training"]
    assert (training["data"], training["seed"], training["steps"]) == ("ones", 5, 3)
    (row,) = manifest["metrics"]
    assert (row["value"], row["unit"]) == (0.1235, "mm")


def test_rows_of_the_cloud_benchmark():
    row = {"tre_mm": 1.0, "worst_tre_mm": 2.0, "folds_percent": 0.0, "cases": 3}
    measured = [row | {"name": "E | none", "seconds": 0}, row | {"name": "blur", "seconds": 9.0}]
    found = benchmark_rows("accuracy", measured)
    names = [each["name"] for each in found]
    errors = ["tre_mm", "worst_tre_mm"]
    assert names == [*errors, *errors, "folds_percent", "seconds"]
    assert found[0]["data"] == "breathing vessels, level E, 3 lungs (zoo.data.vessels)"
    assert found[-1]["data"] == "breathing vessels, level H, 3 lungs (zoo.data.vessels)"
    assert found[-1]["protocol"] == "accuracy, landmarks held out: blur"


@pytest.mark.parametrize(
    "path",
    [
        *(ROOT / "pretrained").glob("*.py"),
        ROOT / "zoo/model.py",
        Path(zoo.recipes.skeleton.__file__),
    ],
    ids=lambda path: path.name,
)
def test_the_preset_writer_knows_no_method(path):
    words = [node.value for node in ast.walk(ast.parse(path.read_text())) if is_text(node)]
    assert not {entry.name for entry in registry.find()} & set(words)


def is_text(node) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
