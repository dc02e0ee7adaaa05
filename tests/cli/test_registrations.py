"""`zoo register | view | jacobian | evaluate` on pairs, on small cases."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

import registry
import zoo
from zoo.cli import registrations, shared
from zoo.data.pair import COMPANIONS
from zoo.data.phantoms import phantom_pair
from zoo.io.landmarks import read_landmarks
from zoo.registration import measure
from zoo.transform import Affine


def pair_words(folder):
    words = [folder / "fixed.nii.gz", folder / "moving.nii.gz"]
    for side in ("fixed", "moving"):
        words += [f"--{side}-landmarks", folder / f"{side}.csv"]
        words += [f"--{side}-labels", folder / f"{side}_labels.nii.gz"]
    return words


def test_register_then_warp_jacobian_and_view(run, images, tmp_path):
    out = tmp_path / "out"
    status, said, err = run("register", *pair_words(images), "--out", out, "--json")
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
        run("warp", moving, out / transform, "--out", moved, "--like", fixed)
        difference = zoo.Image.read(moved).array - zoo.Image.read(fixed).array
        assert np.abs(difference[8:-8, 8:-8]).mean() < 0.02
    carried = tmp_path / "carried.csv"
    run("warp", images / "moving.csv", out / "transform.h5", "--out", carried)
    expected = read_landmarks(images / "fixed.csv")
    assert np.abs(read_landmarks(carried) - expected).max() < 0.5
    det = tmp_path / "det.nii.gz"
    told = json.loads(run("jacobian", out / "warp.nii.gz", "--out", det, "--json")[1])
    assert told["folds_percent"] == 0
    assert zoo.Image.read(det).array.mean() == pytest.approx(told["largest"], rel=0.05)
    for words in ((), ("--transform", out / "warp.nii.gz")):
        picture = tmp_path / f"view{len(words)}.png"
        assert run("view", fixed, moving, *words, "--out", picture)[0] == 0
        assert picture.stat().st_size > 10_000


def test_register_clouds_and_warp_a_mesh(run, tmp_path):
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
    status, _, err = run("register", *words)
    assert status == 0, err
    result = zoo.Scan.read(out / "moved.ply")
    np.testing.assert_allclose(result.points, mesh.vertices, atol=1e-3)
    run("warp", words[1], out / "transform.h5", "--out", tmp_path / "warped.ply")
    np.testing.assert_allclose(zoo.Scan.read(tmp_path / "warped.ply").points, result.points)
    assert "registration.png" in {path.name for path in out.iterdir()}
    before, both = tmp_path / "before.png", tmp_path / "both.png"
    assert run("view", *words[:2], "--out", before)[0] == 0
    transform = ("--transform", out / "transform.h5")
    assert run("view", *words[:2], *transform, "--out", both)[0] == 0
    # Two panels stand beside each other, instead of one, and as many below.
    assert (np.array(imread(both).shape[:2]) > 1.5 * np.array(imread(before).shape[:2])).all()


def test_register_goes_on_from_a_start_with_a_preset(run, images, tmp_path, monkeypatch):
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
    status, _, err = run("register", *pair_words(images), *words)
    assert status == 0 and loaded == ["dirvnet.chessboard2d"], err
    results, before = json.loads((out / "results.json").read_text()), measure(start, pair)
    assert results["tre_mm"] < 0.7 * before["tre_mm"]
    assert results["initial_tre_mm"] == pytest.approx(before["initial_tre_mm"])
    saved = zoo.Transform.load(out / "transform.h5")
    np.testing.assert_allclose(saved.parts[0].matrix, matrix)
    assert results["tre_mm"] == pytest.approx(measure(saved, pair)["tre_mm"], rel=1e-4)


def test_learned_methods_are_fitted_to_a_pair_only_when_asked():
    class Model:
        def __init__(self, needs_fit):
            self.needs_fit = needs_fit

        def fit(self, pair, **options):
            fitted.append(options)

    fitted = []
    registrations._fit_if_needed(Model(False), None)
    assert not fitted
    registrations._fit_if_needed(Model(True), None)
    registrations._fit_if_needed(Model(False), None, 3)
    registrations._fit_if_needed(Model(True), None, 3)
    assert fitted == [{"verbose": 0}, *[{"verbose": 0, "epochs": 3}] * 2]


def test_methods_know_whether_they_need_a_fit():
    needs = {
        entry.name: entry.load().needs_fit
        for entry in registry.find(task="registration")
        if entry.where.startswith("zoo.")
    }
    assert needs.items() >= {"affine": True, "divroc": True, "dirvnet": False}.items()


def test_companions_are_those_of_a_pair(images, tmp_path):
    assert shared.companions() == COMPANIONS
    options = zoo.cli.parser().parse_args(["view", "a", "b", "--out", "c.png", "--weights", "w"])
    assert all(hasattr(options, name) for name in COMPANIONS) and options.weights == Path("w")


def test_weights_of_points(run, tmp_path):
    points = np.random.default_rng(0).random((80, 2)) * [2, 1]
    moving = np.concatenate([points + 0.05, points[:20] + [0.5, 0.3]])
    np.save(tmp_path / "fixed.npy", points)
    np.save(tmp_path / "moving.npy", moving)
    np.save(tmp_path / "weights.npy", np.repeat([1.0, 0.0], [80, 20]))
    out = tmp_path / "out"
    words = ("register", tmp_path / "fixed.npy", tmp_path / "moving.npy", "--out", out)
    words += ("--set", "kind=rigid", "--weights", tmp_path / "weights.npy")
    status, _, err = run(*words)
    assert status == 0, err
    np.testing.assert_allclose(zoo.Scan.read(out / "moved.xyz").points[:80], points, atol=1e-3)


def test_several_methods_are_created_or_loaded_by_one_name(run, images, tmp_path, monkeypatch):
    made = []

    def make(name, **config):
        made.append((name, config))
        return zoo.api.registry.get("affine").load()(dims=2, levels=1, start="identity")

    monkeypatch.setattr("zoo.api.create", make)
    monkeypatch.setattr("zoo.api.load", make)
    words = ("--epochs", 1, "--overwrite", "--out", tmp_path / "out")
    words += ("--set", "loss=mi", "--set", "affine.levels=2")
    for method in ("affine+dirvnet", "affine+dirvnet.brain2d"):
        status, _, err = run("register", *pair_words(images)[:2], "-m", method, *words)
        assert status == 0, err
    affine = {"affine.dims": 2, "affine.loss": "mi", "affine.levels": 2}
    assert made == [
        ("affine+dirvnet", affine | {"dirvnet.dims": 2}),
        ("affine+dirvnet.brain2d", affine),
    ]
    status, _, err = run("register", *pair_words(images)[:2], "-m", "affine+igr", *words)
    assert status == 1 and "'igr' is of the task 'surface'" in err


def test_clouds_go_on_from_a_start(run, tmp_path):
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
        status, _, err = run(*words, *start)
        assert status == 0, err
        errors.append(np.abs(zoo.Scan.read(out / "moved.xyz").points - points).max())
    assert errors[1] < 1e-3 < 0.1 < errors[0]
    saved = zoo.Transform.load(out / "transform.h5")
    np.testing.assert_allclose(saved.matrix, turned, atol=1e-4)


def test_the_preset_of_a_method_for_one_pair_is_fitted_to_the_next(run, tmp_path):
    points = np.random.default_rng(0).random((80, 2)) * [2, 1]
    np.save(tmp_path / "fixed.npy", points)
    np.save(tmp_path / "moving.npy", points + 0.05)
    model = zoo.create("affine", dims=2, kind="rigid")
    model.fit(zoo.Pair(zoo.Scan(points), zoo.Scan(points - 0.1)))
    model.save_preset(tmp_path / "earlier")
    out = tmp_path / "out"
    words = ("register", tmp_path / "fixed.npy", tmp_path / "moving.npy", "--out", out)
    status, _, err = run(*words, "-m", tmp_path / "earlier")
    assert status == 0, err
    np.testing.assert_allclose(zoo.Scan.read(out / "moved.xyz").points, points, atol=1e-3)


def test_view_of_a_transform_of_another_rank(run, scan, shift, tmp_path):
    words = ("--transform", shift.with_name("shift.h5"), "--out", tmp_path / "view.png")
    status, _, err = run("view", scan, scan, *words)
    assert status == 1 and "transform must carry points of rank 3" in err
    assert not (tmp_path / "view.png").exists()


def test_a_start_of_another_rank(run, scan, shift, tmp_path):
    out = tmp_path / "out"
    words = ("register", scan, scan, "--out", out, "--start", shift.with_name("shift.h5"))
    status, _, err = run(*words)
    assert status == 1 and "--start" in err and not out.exists()


def test_evaluate_a_list_of_pairs(run, images):
    rows = json.loads(run("evaluate", "affine", images / "pairs.csv", "--json")[1])
    assert len(rows) == 2
    assert all(row["tre_mm"] < 0.2 < row["initial_tre_mm"] for row in rows)
    assert "mean of 2 pairs" in run("evaluate", "affine", images / "pairs.csv")[1]


def test_register_pictures_of_16_bits(run, tmp_path):
    from PIL import Image as Pillow

    pair, _, _ = phantom_pair((48, 40), spacing=1.0)
    for side in ("fixed", "moving"):
        array = np.rint(getattr(pair, side).array[..., 0].T * 4000)
        Pillow.fromarray(array.astype(np.uint16)).save(tmp_path / f"{side}.png")
    out = tmp_path / "out"
    words = ("register", tmp_path / "fixed.png", tmp_path / "moving.png", "--out", out)
    quick = ("--epochs", 1, "--set", "levels=1", "--set", "start=identity")
    status, _, err = run(*words, *quick)
    assert status == 0, err
    assert zoo.Image.read(out / "moved.nii.gz").array.max() > 255
    status, _, err = run(*words, *quick)
    assert status == 1 and "--overwrite" in err


def test_register_planar_clouds_and_overwrite(run, tmp_path):
    points = np.random.default_rng(0).random((60, 2)) * [2, 1]
    np.save(tmp_path / "fixed.npy", points)
    np.save(tmp_path / "moving.npy", points + 0.05)
    out = tmp_path / "out"
    out.mkdir()
    words = ("register", tmp_path / "fixed.npy", tmp_path / "moving.npy", "--out", out)
    status, _, err = run(*words, "--set", "kind=rigid")
    assert status == 0, err
    np.testing.assert_allclose(zoo.Scan.read(out / "moved.xyz").points, points, atol=1e-3)
    for name in ("moved.png", "warp.nii.gz", "notes.txt"):
        (out / name).touch()
    (out / "registration.png").write_text("of an earlier run")
    assert run(*words)[0] == 1
    assert run(*words, "--overwrite")[0] == 0
    names = {path.name for path in out.iterdir()}
    results = {"moved.xyz", "registration.png", "results.json", "transform.h5"}
    assert names == results | {"notes.txt"}
    assert imread(out / "registration.png").std() > 0.05


def test_reprs_take_one_line(images):
    pair = zoo.Pair.read(images / "fixed.nii.gz", images / "moving.nii.gz")
    assert repr(pair.fixed) == "Image('fixed', 48 x 40 voxels, channels=1)"
    assert repr(pair) == f"Pair({pair.fixed!r} <- {pair.moving!r})"
    marked = zoo.Pair(np.eye(3), np.eye(3) + 1, weights=np.ones(3))
    assert "with weights" in repr(marked) and "\n" not in repr(marked)
