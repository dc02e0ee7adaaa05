"""The shell commands of the README, on small cases."""

import json

import numpy as np
import pytest

import zoo
from zoo.cli import main
from zoo.data import shapes


def run(capsys, *words):
    status = main([str(word) for word in words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.fixture
def preset(tmp_path):
    model = zoo.create("igr", width=64, depth=2, skips=(), radius=0.6)
    return model.save_preset(tmp_path / "small", summary="A small one.")


@pytest.fixture
def scan(tmp_path):
    shape = shapes.sphere(300)
    path = tmp_path / "scan.xyz"
    np.savetxt(path, np.concatenate([shape.points, shape.normals], axis=1))
    return path


def test_list(capsys):
    status, out, _ = run(capsys, "list")
    assert status == 0 and "igr.knot" in out and "method" in out
    rows = json.loads(run(capsys, "list", "igr*", "--json", "--task", "surface")[1])
    assert {"igr", "igr.knot"} <= {row["name"] for row in rows}
    only = json.loads(run(capsys, "list", "--pretrained", "--json")[1])
    assert {row["kind"] for row in only} == {"preset"}
    status, out, err = run(capsys, "list", "nothing*")
    assert status == 1 and not out and "nothing matches" in err


def test_show(capsys, preset):
    assert "# igr" in run(capsys, "show", "igr")[1]
    assert "A small one." in run(capsys, "show", preset)[1]
    assert json.loads(run(capsys, "show", "igr", "--json")[1])["task"] == "surface"
    assert json.loads(run(capsys, "show", "igr.knot", "--json")[1])["tag"] == "knot"
    status, _, err = run(capsys, "show", "irg")
    assert status == 1 and "igr" in err and err.startswith("zoo: ")


def test_mesh_and_evaluate(capsys, preset, scan, tmp_path):
    out = tmp_path / "mesh.ply"
    status, said, _ = run(capsys, "mesh", preset, "--out", out, "--resolution", 32)
    assert status == 0 and "faces" in said and len(zoo.Scan.read(out)) > 100
    trimmed = tmp_path / "trimmed.obj"
    half = tmp_path / "half.npy"
    points = zoo.Scan.read(out).points
    np.save(half, points[points[:, 0] > 0])
    run(capsys, "mesh", preset, "--out", trimmed, "--resolution", 32, "--trim", half)
    assert len(zoo.Scan.read(trimmed)) < len(points)
    words = ("evaluate", preset, scan, "--resolution", 32, "--scan", scan, "--json")
    results = json.loads(run(capsys, *words)[1])
    assert results["benchmark_scan_chamfer"] > 0
    assert "hausdorff" in run(capsys, *words[:-1])[1]


def test_train_from_scratch_and_from_a_preset(capsys, preset, scan, tmp_path):
    quick = ("--epochs", 1, "--steps-per-epoch", 2)
    fresh = tmp_path / "fresh"
    words = ("--set", "width=16", "--set", "depth=2", "--set", "skips=[1]")
    status, said, _ = run(capsys, "train", "igr", scan, "--out", fresh, *quick, *words)
    assert status == 0 and "zoo.load" in said
    assert zoo.load(fresh).network.width == 16
    status, _, err = run(capsys, "train", "igr", scan, "--out", fresh, *quick)
    assert status == 1 and "--overwrite" in err
    tuned = tmp_path / "tuned"
    assert run(capsys, "train", preset, scan, "--out", tuned, *quick)[0] == 0
    points = np.eye(3)
    assert not np.array_equal(zoo.load(tuned).predict(points), zoo.load(preset).predict(points))


def test_verify(capsys, preset):
    assert run(capsys, "verify", preset)[0] == 0
    weights = preset / "model.weights.h5"
    weights.write_bytes(weights.read_bytes() + b"x")
    status, out, _ = run(capsys, "verify", preset, "--json")
    assert status == 1 and "model.weights.h5" in out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("mesh", "igr.knot", "--out", "mesh.docx"), "--out must end in"),
        (("mesh", "igr.nothing", "--out", "mesh.ply"), "igr.nothing"),
        (("evaluate", "igr.knot", "absent.ply"), "no file"),
        (("train", "igr", "absent.ply", "--out", "folder"), "no file"),
        (("train", "igr.knot", "SCAN", "--out", "folder", "--set", "width=3"), "--set"),
        (("train", "igr", "SCAN", "--out", "folder", "--set", "width"), "NAME=VALUE"),
        (("train", "igr", "SCAN", "--out", "folder", "--set", "activation=sine"), "activation"),
    ],
)
def test_mistakes_give_one_line_and_no_files(capsys, scan, tmp_path, monkeypatch, words, reason):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    status, out, err = run(capsys, *(scan if word == "SCAN" else word for word in words))
    assert status == 1 and not out
    assert reason in err and err.startswith("zoo: ")
    assert not list((tmp_path / "empty").iterdir())
