"""What `zoo register` writes of a path, and `zoo view` shows of it."""

import json

import numpy as np
import pygltflib
import pytest
import trimesh
from PIL import Image

import zoo
from zoo.data.figures import figure_pair

SMALL = [
    word for each in ("width=32", "blocks=3", "points=200", "steps=60") for word in ("--set", each)
]


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bodies")
    pair = figure_pair(cells=20)
    for side in ("fixed", "moving"):
        scan = getattr(pair, side)
        trimesh.Trimesh(scan.points, scan.faces, process=False).export(folder / f"{side}.ply")
    return folder, pair


@pytest.fixture
def registered(run, bodies, tmp_path):
    folder, pair = bodies
    files = folder / "fixed.ply", folder / "moving.ply"
    out = tmp_path / "out"
    status, printed, err = run("register", *files, "-m", "resnet_lddmm", "--out", out, *SMALL)
    assert status == 0, err
    return files, pair, out


def test_register_writes_the_path_and_view_draws_it(run, registered, tmp_path):
    files, pair, out = registered
    shapes = sorted((out / "path").glob("*.ply"))
    assert [shape.name for shape in shapes] == ["0.ply", "1.ply", "2.ply", "3.ply"]
    first, last = (trimesh.load(shapes[k], process=False) for k in (0, -1))
    np.testing.assert_allclose(first.vertices, pair.moving.points, atol=1e-6)
    np.testing.assert_array_equal(last.faces, pair.moving.faces)
    moved = zoo.Scan.read(out / "moved.ply")
    np.testing.assert_allclose(last.vertices, moved.points, atol=1e-6)
    document = pygltflib.GLTF2().load(str(out / "path.glb"))
    assert len(document.meshes[0].primitives[0].targets) == 3
    results = json.loads((out / "results.json").read_text())
    assert 0 < results["path_length"] <= np.sqrt(2 * results["path_energy"]) * (1 + 1e-6)
    for folder in (out, out / "path"):
        picture = tmp_path / "strip.png"
        assert run("view", *files, "--path", folder, "--out", picture)[0] == 0
        assert np.asarray(Image.open(picture).convert("L")).std() > 5
        picture.unlink()


def test_view_opens_a_window_of_the_path(run, registered, monkeypatch):
    files, pair, out = registered
    shown = []
    monkeypatch.setattr("zoo.view.paths.show_path", lambda *scene: shown.append(scene))
    assert run("view", *files, "--path", out, "--window")[0] == 0
    path, faces, target = shown[0]
    assert path.shape == (4, len(pair.moving), 3)
    np.testing.assert_array_equal(faces, pair.moving.faces)
    assert len(target) == len(pair.fixed)


def test_what_view_cannot_show_is_said(run, bodies, tmp_path):
    files = bodies[0] / "fixed.ply", bodies[0] / "moving.ply"
    (tmp_path / "empty").mkdir()
    for words, said in (
        (("--window",), "give --path too"),
        ((), "--out is needed"),
        (("--path", tmp_path / "empty", "--out", tmp_path / "x.png"), "no two .ply"),
    ):
        status, _, err = run("view", *files, *words)
        assert status == 1 and said in err, err
    for name, count in (("0", 3), ("1", 4)):
        trimesh.PointCloud(np.random.default_rng(0).random((count, 3))).export(
            tmp_path / "empty" / f"{name}.ply"
        )
    status, _, err = run("view", *files, "--path", tmp_path / "empty", "--out", tmp_path / "x.png")
    assert status == 1 and "1.ply has 4 vertices, 0.ply 3" in err
