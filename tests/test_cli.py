"""The shell commands of the README, on small cases."""

import json

import numpy as np
import pytest

import zoo
from zoo.cli import main
from zoo.data import shapes
from zoo.data.phantoms import phantom_pair
from zoo.io.images import write_labels
from zoo.io.landmarks import read_landmarks, write_landmarks


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


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A generated pair on disk, with landmarks and the organs as labels."""
    folder = tmp_path_factory.mktemp("pair")
    pair, _, _ = phantom_pair((48, 40), spacing=2.0)
    for side in ("fixed", "moving"):
        image = getattr(pair, side)
        image.write(folder / f"{side}.nii.gz")
        write_labels(folder / f"{side}_labels.nii.gz", image.array[..., 0] > 0.3, image.grid)
        write_landmarks(folder / f"{side}.csv", getattr(pair, f"{side}_landmarks"))
    (folder / "pairs.csv").write_text(
        "fixed,moving,fixed_landmarks,moving_landmarks\n"
        "fixed.nii.gz,moving.nii.gz,fixed.csv,moving.csv\n"
        "moving.nii.gz,fixed.nii.gz,moving.csv,fixed.csv\n"
    )
    return folder


def pair_words(folder):
    words = [folder / "fixed.nii.gz", folder / "moving.nii.gz"]
    for side in ("fixed", "moving"):
        words += [f"--{side}-landmarks", folder / f"{side}.csv"]
        words += [f"--{side}-labels", folder / f"{side}_labels.nii.gz"]
    return words


def test_register_then_warp_jacobian_and_view(capsys, images, tmp_path):
    out = tmp_path / "out"
    status, said, err = run(capsys, "register", *pair_words(images), "--out", out, "--json")
    assert status == 0, err
    results = json.loads(said)
    assert results == json.loads((out / "results.json").read_text())
    assert results["tre_mm"] < 0.2 < results["initial_tre_mm"]
    assert results["dice"] > 0.95 > results["initial_dice"]
    names = {path.name for path in out.iterdir()}
    assert names == {
        "moved.nii.gz",
        "registration.png",
        "results.json",
        "transform.h5",
        "warp.nii.gz",
    }
    fixed, moving = images / "fixed.nii.gz", images / "moving.nii.gz"
    moved = tmp_path / "moved.nii.gz"
    for transform in ("warp.nii.gz", "transform.h5"):
        run(capsys, "warp", moving, out / transform, "--out", moved, "--like", fixed)
        difference = zoo.Image.read(moved).array - zoo.Image.read(fixed).array
        assert np.abs(difference[8:-8, 8:-8]).mean() < 0.02
    carried = tmp_path / "carried.csv"
    run(capsys, "warp", images / "moving.csv", out / "transform.h5", "--out", carried)
    expected = read_landmarks(images / "fixed.csv")
    assert np.abs(read_landmarks(carried) - expected).max() < 0.5
    det = tmp_path / "det.nii.gz"
    told = json.loads(run(capsys, "jacobian", out / "warp.nii.gz", "--out", det, "--json")[1])
    assert told["folds_percent"] == 0
    assert zoo.Image.read(det).array.mean() == pytest.approx(told["largest"], rel=0.05)
    for words in ((), ("--transform", out / "warp.nii.gz")):
        picture = tmp_path / f"view{len(words)}.png"
        assert run(capsys, "view", fixed, moving, *words, "--out", picture)[0] == 0
        assert picture.stat().st_size > 10_000


def test_register_clouds_and_warp_a_mesh(capsys, tmp_path):
    import trimesh

    mesh = trimesh.creation.cylinder(1.0, 4.0, sections=30).subdivide().subdivide()
    mesh.vertices[:, 0] *= 1.5
    mesh.vertices += 0.1 * np.cos(mesh.vertices[:, ::-1])
    mesh.export(tmp_path / "fixed.ply")
    turn = trimesh.transformations.rotation_matrix(0.3, [1, 1, 0])
    moved = mesh.copy().apply_transform(turn).apply_translation([0.5, 0, 0])
    moved.export(tmp_path / "moving.ply")
    out = tmp_path / "out"
    words = (tmp_path / "fixed.ply", tmp_path / "moving.ply", "--set", "kind=rigid", "--out", out)
    status, _, err = run(capsys, "register", *words)
    assert status == 0, err
    result = zoo.Scan.read(out / "moved.ply")
    np.testing.assert_allclose(result.points, mesh.vertices, atol=1e-3)
    run(capsys, "warp", words[1], out / "transform.h5", "--out", tmp_path / "warped.ply")
    np.testing.assert_allclose(zoo.Scan.read(tmp_path / "warped.ply").points, result.points)
    picture = tmp_path / "view.png"
    assert (
        run(capsys, "view", *words[:2], "--transform", out / "transform.h5", "--out", picture)[0]
        == 0
    )


def test_evaluate_a_list_of_pairs(capsys, images):
    rows = json.loads(run(capsys, "evaluate", "affine", images / "pairs.csv", "--json")[1])
    assert len(rows) == 2
    assert all(row["tre_mm"] < 0.2 < row["initial_tre_mm"] for row in rows)
    assert "mean of 2 pairs" in run(capsys, "evaluate", "affine", images / "pairs.csv")[1]


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
        (("register", "absent.nii.gz", "SCAN", "--out", "folder"), "absent.nii.gz"),
        (("register", "SCAN", "SCAN", "-m", "afine", "--out", "folder"), "affine"),
        (("warp", "absent.nii.gz", "absent.h5", "--out", "a.nii.gz"), "absent.h5"),
        (("jacobian", "SCAN", "--out", "a.nii.gz"), "scan.xyz"),
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
