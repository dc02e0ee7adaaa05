"""The shell commands of the README, on small cases."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

import pretrained
import zoo
from zoo.cli import main, registrations, shared, surfaces
from zoo.data import shapes
from zoo.data.phantoms import phantom_pair
from zoo.geometry import Grid
from zoo.io.images import read_labels, write_labels
from zoo.io.landmarks import read_landmarks, read_named_landmarks, write_landmarks
from zoo.registration import measure
from zoo.transform import Affine, Dense


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
    assert "registration.png" in {path.name for path in out.iterdir()}
    before, both = tmp_path / "before.png", tmp_path / "both.png"
    assert run(capsys, "view", *words[:2], "--out", before)[0] == 0
    transform = ("--transform", out / "transform.h5")
    assert run(capsys, "view", *words[:2], *transform, "--out", both)[0] == 0
    # Two panels stand beside each other, instead of one, and as many below.
    assert (np.array(imread(both).shape[:2]) > 1.5 * np.array(imread(before).shape[:2])).all()


def test_register_goes_on_from_a_start_with_a_preset(capsys, images, tmp_path, monkeypatch):
    pair, matrix, offset = phantom_pair((48, 40), spacing=2.0)
    start = Affine(matrix, offset + [3.0, -2.0])
    start.save(tmp_path / "start.h5")
    config = {"levels": 2, "units": 4, "filters": 2, "data_kernel": 1, "smoothness_kernel": 3}
    loaded = []
    monkeypatch.setattr(
        "zoo.api.load", lambda name: loaded.append(name) or zoo.create("dirvnet", **config)
    )
    out = tmp_path / "out"
    words = ("-m", "dirvnet.chessboard2d", "--start", tmp_path / "start.h5", "--out", out)
    status, _, err = run(capsys, "register", *pair_words(images), *words)
    assert status == 0 and loaded == ["dirvnet.chessboard2d"], err
    results, before = json.loads((out / "results.json").read_text()), measure(start, pair)
    assert results["tre_mm"] < 0.7 * before["tre_mm"]
    assert results["initial_tre_mm"] == pytest.approx(before["initial_tre_mm"])
    saved = zoo.Transform.load(out / "transform.h5")
    np.testing.assert_allclose(saved.parts[0].matrix, matrix)
    assert results["tre_mm"] == pytest.approx(measure(saved, pair)["tre_mm"], rel=1e-4)


def test_learned_methods_are_fitted_to_a_pair_only_when_asked():
    class Model:
        def fit(self, pair, **options):
            fitted.append(options)

    fitted = []
    for name in ("dirvnet", "dirvnet.chessboard2d", "saved.keras"):
        registrations._fit_if_needed(Model(), None, name)
    assert not fitted
    for name, epochs in (("affine", None), ("dirvnet", 3), ("dirvnet.chessboard2d", 3)):
        registrations._fit_if_needed(Model(), None, name, epochs)
    assert fitted == [{"verbose": 0}, *[{"verbose": 0, "epochs": 3}] * 2]


def test_clouds_go_on_from_a_start(capsys, tmp_path):
    points = np.random.default_rng(0).random((80, 2)) * [2, 1]
    turned = np.array([[0.0, -1.0], [1.0, 0.0]])
    np.save(tmp_path / "fixed.npy", points)
    np.save(tmp_path / "moving.npy", points @ turned.T + [3.0, 1.0])
    Affine(turned, [3.02, 0.99]).save(tmp_path / "start.h5")
    out = tmp_path / "out"
    words = ["register", tmp_path / "fixed.npy", tmp_path / "moving.npy", "--out", out]
    words += ["--set", "kind=rigid", "--set", "start=identity", "--overwrite"]
    errors = []
    for start in ([], ["--start", tmp_path / "start.h5"]):
        status, _, err = run(capsys, *words, *start)
        assert status == 0, err
        errors.append(np.abs(zoo.Scan.read(out / "moved.xyz").points - points).max())
    assert errors[1] < 1e-3 < 0.1 < errors[0]
    saved = zoo.Transform.load(out / "transform.h5")
    np.testing.assert_allclose(saved.matrix, turned, atol=1e-4)


def test_the_preset_of_a_method_for_one_pair_is_fitted_to_the_next(capsys, tmp_path):
    points = np.random.default_rng(0).random((80, 2)) * [2, 1]
    np.save(tmp_path / "fixed.npy", points)
    np.save(tmp_path / "moving.npy", points + 0.05)
    model = zoo.create("affine", dims=2, kind="rigid")
    model.fit(zoo.Pair(zoo.Scan(points), zoo.Scan(points - 0.1)))
    model.save_preset(tmp_path / "earlier")
    out = tmp_path / "out"
    words = ("register", tmp_path / "fixed.npy", tmp_path / "moving.npy", "--out", out)
    status, _, err = run(capsys, *words, "-m", tmp_path / "earlier")
    assert status == 0, err
    np.testing.assert_allclose(zoo.Scan.read(out / "moved.xyz").points, points, atol=1e-3)


def test_view_of_a_transform_of_another_rank(capsys, scan, shift, tmp_path):
    words = ("--transform", shift.with_name("shift.h5"), "--out", tmp_path / "view.png")
    status, _, err = run(capsys, "view", scan, scan, *words)
    assert status == 1 and "transform must carry points of rank 3" in err
    assert not (tmp_path / "view.png").exists()


def test_a_start_of_another_rank(capsys, scan, shift, tmp_path):
    out = tmp_path / "out"
    words = ("register", scan, scan, "--out", out, "--start", shift.with_name("shift.h5"))
    status, _, err = run(capsys, *words)
    assert status == 1 and "--start" in err and not out.exists()


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
        (("train", "igr", "SCAN", "--out", "folder", "--set", "widht=3"), "widht"),
        (("train", "igr", "SCAN", "--out", "folder", "--set", "width=wide"), "zoo: "),
        (("train", "igr", "SCAN", "--out", "folder", "--epochs", "0"), "--epochs"),
        (("train", "affine", "SCAN", "--out", "folder"), "'surface': igr"),
        (("train", "igr", "SCAN", "--out", "SCAN/inside"), "no folder"),
        (("mesh", "affine", "--out", "mesh.ply"), "'registration'"),
        (("evaluate", "igr", "pairs.csv"), "'registration': affine"),
        (("evaluate", "igr.knot", "SCAN", "--set", "width=3"), "--set"),
        (("evaluate", "igr.knot", "SCAN", "--samples", "0"), "--samples"),
        (("register", "SCAN", "SCAN", "-m", "igr", "--out", "folder"), "'registration': affine"),
        (("register", "SCAN", "SCAN", "--out", "SCAN/inside"), "no folder"),
        (("register", "SCAN", "SCAN", "--out", "folder", "--set", "knid=rigid"), "knid"),
        (("register", "SCAN", "SCAN", "--out", "folder", "--set", "levels=many"), "--set"),
        (("register", "SCAN", "SCAN", "--out", "folder", "--start", "absent.h5"), "absent.h5"),
        (("jacobian", "SCAN", "--out", "a.png"), "--out must end in"),
        (("view", "SCAN", "SCAN", "--out", "a.jpg"), ".png"),
    ],
)
def test_mistakes_give_one_line_and_no_files(capsys, scan, tmp_path, monkeypatch, words, reason):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    status, out, err = run(capsys, *(word.replace("SCAN", str(scan)) for word in words))
    assert status == 1 and not out
    assert reason in err and err.startswith("zoo: ") and err.count("\n") == 1
    assert not list((tmp_path / "empty").iterdir())


def test_training_resumes_only_for_the_same_content(scan, preset):
    def folder(path, *words):
        command = ("train", "igr", path, "--out", "folder", *words)
        options = zoo.cli.parser().parse_args([str(word) for word in command])
        return surfaces._backup_folder(options, zoo.Scan.read(path))

    copy = scan.with_name("copy.xyz")
    copy.write_bytes(scan.read_bytes())
    assert folder(scan) == folder(copy) != folder(scan, "--seed", 1)
    assert folder(scan).is_relative_to(pretrained.home())
    rows = np.loadtxt(scan)
    np.savetxt(copy, rows[:, :3])
    bare = folder(copy)
    np.savetxt(copy, rows[::-1, :3])
    assert len({folder(scan), bare, folder(copy)}) == 3


@pytest.fixture
def shift(tmp_path):
    """Pulls three voxels along x, as a field and, without a grid, as a matrix."""
    field = np.zeros((8, 6, 2))
    field[..., 0] = 3
    Dense(field, Grid((8, 6))).save(tmp_path / "shift.nii.gz")
    Affine(np.eye(2), [3.0, 0.0]).save(tmp_path / "shift.h5")
    return tmp_path / "shift.nii.gz"


@pytest.mark.parametrize(
    ("name", "labels"), [("labels.png", [0, 1]), ("labels.nii.gz", [2**30 + 1, -7])]
)
def test_warped_labels_keep_their_values(capsys, shift, tmp_path, name, labels):
    array = np.full((8, 6), labels[0])
    array[4:] = labels[1]
    write_labels(tmp_path / name, array, Grid((8, 6)))
    out = tmp_path / f"moved_{name}"
    words = ("warp", tmp_path / name, shift, "--out", out, "--nearest")
    assert run(capsys, *words)[0] == 0
    expected = np.zeros((8, 6))
    expected[:5] = array[3:]
    np.testing.assert_array_equal(read_labels(out)[0], expected)
    assert run(capsys, *words, "--outside", 5)[0] == 0
    assert (read_labels(out)[0][5:] == 5).all()
    status, _, err = run(capsys, *words, "--outside", 0.5)
    assert status == 1 and "--outside" in err


def test_warp_outside_and_like(capsys, shift, tmp_path):
    image = zoo.Image(np.arange(48.0).reshape(8, 6) - 1000, Grid((8, 6)))
    source, out = tmp_path / "ct.nii.gz", tmp_path / "out.nii.gz"
    image.write(source)
    for words, value in (((), -1000), (("--outside", "-24"), -24)):
        run(capsys, "warp", source, shift, "--out", out, *words)
        assert (zoo.Image.read(out).array[5:] == value).all()
    bare = shift.with_name("shift.h5")
    for words in (("warp", source, bare), ("jacobian", bare)):
        status, _, err = run(capsys, *words, "--out", out)
        assert status == 1 and "--like" in err
        assert run(capsys, *words, "--out", out, "--like", source)[0] == 0


def test_warp_keeps_the_names_of_landmarks(capsys, shift, tmp_path):
    source, out = tmp_path / "points.csv", tmp_path / "out.csv"
    write_landmarks(source, [[4, 2], [5, 3]], ["nose", "chin"])
    assert run(capsys, "warp", source, shift, "--out", out)[0] == 0
    names, points = read_named_landmarks(out)
    assert names == ["nose", "chin"]
    np.testing.assert_allclose(points, [[1, 2], [2, 3]], atol=1e-4)


@pytest.mark.parametrize("suffix", [".xyz", ".npy", ".npz"])
def test_warp_a_table_of_points(capsys, shift, tmp_path, suffix):
    points = np.random.default_rng(0).random((9, 2))
    np.save(tmp_path / "cloud.npy", points)
    out = tmp_path / f"out{suffix}"
    transform = shift.with_name("shift.h5")
    assert run(capsys, "warp", tmp_path / "cloud.npy", transform, "--out", out)[0] == 0
    np.testing.assert_allclose(zoo.Scan.read(out).points, points - [3, 0])
    status, _, err = run(capsys, "warp", out, transform, "--out", tmp_path / "out.csv")
    assert status == 1 and "--out" in err


def test_the_default_preset_is_named_and_samples_are_passed_on(capsys, scan, monkeypatch):
    class Model:
        def evaluate(self, truth, **options):
            return {"samples": options["samples"]}

    loaded = []
    monkeypatch.setattr("zoo.api.load", lambda name: loaded.append(name) or Model())
    status, out, err = run(capsys, "evaluate", "igr", scan, "--json")
    assert status == 0 and json.loads(out) == {"samples": 100_000}
    assert loaded[0].startswith("igr.") and loaded[0] in err
    _, out, err = run(capsys, "evaluate", "igr.knot", scan, "--json", "--samples", 7)
    assert json.loads(out) == {"samples": 7} and not err


def test_numbers_that_are_not_finite(capsys):
    results = {"a": math.nan, "b": [np.float64("inf"), 1.5], "c": {"d": 2}}
    assert json.loads(shared.dumps(results)) == {"a": None, "b": [None, 1.5], "c": {"d": 2}}
    shared.print_numbers({"a": math.nan}, True)
    assert json.loads(capsys.readouterr().out) == {"a": None}
    assert registrations._mean("dice", [1.0, math.nan, 2.0]) == 1.5
    assert "dice is undefined for 1 of 3" in capsys.readouterr().err
    assert math.isnan(registrations._mean("dice", [math.nan]))


def test_register_pictures_of_16_bits(capsys, tmp_path):
    from PIL import Image as Pillow

    pair, _, _ = phantom_pair((48, 40), spacing=1.0)
    for side in ("fixed", "moving"):
        array = np.rint(getattr(pair, side).array[..., 0].T * 4000)
        Pillow.fromarray(array.astype(np.uint16)).save(tmp_path / f"{side}.png")
    out = tmp_path / "out"
    words = ("register", tmp_path / "fixed.png", tmp_path / "moving.png", "--out", out)
    quick = ("--epochs", 1, "--set", "levels=1", "--set", "start=identity")
    status, _, err = run(capsys, *words, *quick)
    assert status == 0, err
    assert zoo.Image.read(out / "moved.nii.gz").array.max() > 255
    status, _, err = run(capsys, *words, *quick)
    assert status == 1 and "--overwrite" in err


def test_register_planar_clouds_and_overwrite(capsys, tmp_path):
    points = np.random.default_rng(0).random((60, 2)) * [2, 1]
    np.save(tmp_path / "fixed.npy", points)
    np.save(tmp_path / "moving.npy", points + 0.05)
    out = tmp_path / "out"
    out.mkdir()
    words = ("register", tmp_path / "fixed.npy", tmp_path / "moving.npy", "--out", out)
    status, _, err = run(capsys, *words, "--set", "kind=rigid")
    assert status == 0, err
    np.testing.assert_allclose(zoo.Scan.read(out / "moved.xyz").points, points, atol=1e-3)
    for name in ("moved.png", "warp.nii.gz", "notes.txt"):
        (out / name).touch()
    (out / "registration.png").write_text("of an earlier run")
    assert run(capsys, *words)[0] == 1
    assert run(capsys, *words, "--overwrite")[0] == 0
    names = {path.name for path in out.iterdir()}
    results = {"moved.xyz", "registration.png", "results.json", "transform.h5"}
    assert names == results | {"notes.txt"}
    assert imread(out / "registration.png").std() > 0.05


def test_ctrl_c(capsys, scan, tmp_path, monkeypatch):
    def interrupted(*words, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(surfaces, "check_folder", interrupted)
    monkeypatch.setattr(registrations, "check_folder", interrupted)
    status, _, err = run(capsys, "train", "igr", scan, "--out", tmp_path / "folder")
    assert status == 130 and err == "zoo: interrupted; the same command resumes\n"
    status, _, err = run(capsys, "register", scan, scan, "--out", tmp_path / "folder")
    assert status == 130 and err == "zoo: interrupted\n"


def test_reprs_take_one_line(images):
    pair = zoo.Pair.read(images / "fixed.nii.gz", images / "moving.nii.gz")
    assert repr(pair.fixed) == "Image('fixed', 48 x 40 voxels, channels=1)"
    assert repr(pair) == f"Pair({pair.fixed!r} <- {pair.moving!r})"
    marked = zoo.Pair(np.eye(3), np.eye(3) + 1, weights=np.ones(3))
    assert "with weights" in repr(marked) and "\n" not in repr(marked)


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0 and zoo.__version__ in capsys.readouterr().out


def test_what_imports_print_is_kept_and_shown_on_failure(capfd):
    with shared.silent_import():
        os.write(2, b"build options")
    assert not capfd.readouterr().err
    with pytest.raises(ImportError), shared.silent_import():
        os.write(2, b"no such library")
        raise ImportError("broken")
    assert "no such library" in capfd.readouterr().err


def test_commands_are_quiet_and_listing_needs_no_tensorflow(shift, tmp_path):
    code = "import sys; from zoo.cli import main; status = main(sys.argv[1:]); "

    def fresh(check, *words):
        command = [sys.executable, "-c", code + check, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True)

    result = fresh("sys.exit(status)", "jacobian", shift, "--out", tmp_path / "det.nii.gz")
    assert result.returncode == 0 and not result.stderr
    absent = "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    mistake = ("train", "igr", "absent.ply", "--out", tmp_path / "folder")
    for words in (("list",), ("show", "igr.knot"), ("verify", "igr.knot"), mistake):
        assert fresh(absent, *words).returncode == 0
