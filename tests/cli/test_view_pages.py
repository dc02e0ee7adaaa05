"""`zoo view ... --out page.html`, and one surface alone."""

import sys

import numpy as np
import pytest
import trimesh
from PIL import Image as Picture

from zoo.transform import Affine

BALL = trimesh.creation.icosphere(2)


@pytest.fixture
def shapes(tmp_path):
    """Two meshes, a transform of them and a folder of a path."""
    BALL.export(tmp_path / "fixed.ply")
    trimesh.Trimesh(1.5 * BALL.vertices, BALL.faces).export(tmp_path / "moving.ply")
    Affine(np.eye(3), [0.5, 0, 0]).save(tmp_path / "transform.h5")
    (tmp_path / "path").mkdir()
    for k in range(3):
        mesh = trimesh.Trimesh((1 + k) * BALL.vertices, BALL.faces, process=False)
        mesh.export(tmp_path / "path" / f"{k}.ply")
    return tmp_path


def text_of(path) -> str:
    text = path.read_text()
    assert text.startswith("<!doctype html>") and "Plotly.newPlot(" in text
    return text[text.rindex("Plotly.newPlot(") :]


def test_pages_of_shapes(run, shapes):
    pair = shapes / "fixed.ply", shapes / "moving.ply"
    for words, name, sliders in (
        (pair, '"moving"', False),
        ((*pair, "--transform", shapes / "transform.h5"), '"moved"', True),
        ((*pair, "--path", shapes / "path"), '"target"', True),
        (pair[:1], '"fixed"', False),
    ):
        page = shapes / "page.html"
        status, out, err = run("view", *words, "--out", page)
        assert status == 0 and out.strip() == str(page), err
        text = text_of(page)
        assert f'"name":{name}' in text and ('"sliders"' in text) == sliders
        page.unlink()


def test_pages_of_images(run, images, tmp_path):
    pair = images / "fixed.nii.gz", images / "moving.nii.gz"
    Affine(np.eye(2), [3.0, 0.0]).save(tmp_path / "shift.h5")
    page = tmp_path / "page.HTML"
    assert run("view", *pair, "--transform", tmp_path / "shift.h5", "--out", page, "--json")[0] == 0
    assert "determinant" in text_of(page)
    assert run("view", *pair, "--out", page)[0] == 0
    assert "determinant" not in text_of(page)


def test_a_surface_alone(run, preset, scan, shapes, tmp_path):
    for given, suffix in ((preset, ".html"), (scan, ".html"), (shapes / "fixed.ply", ".png")):
        out = tmp_path / f"alone{suffix}"
        status, _, err = run("view", given, "--resolution", 16, "--out", out)
        assert status == 0, err
        if suffix == ".png":
            assert np.asarray(Picture.open(out).convert("L")).std() > 5
        else:
            assert '"type":"mesh3d"' in text_of(out) or '"name":"scan"' in text_of(out)


def test_what_cannot_be_shown_is_said(run, images, shapes, tmp_path, monkeypatch):
    mesh, image, page = shapes / "fixed.ply", images / "fixed.nii.gz", tmp_path / "page.html"
    np.savetxt(tmp_path / "plane.xyz", np.random.default_rng(0).normal(size=(20, 2)))
    for words, said in (
        ((mesh, "--transform", shapes / "transform.h5"), "--transform belongs to a pair"),
        ((mesh, "--fixed-mask", mesh), "--fixed-mask belongs to a pair"),
        ((image,), "moving is needed: 'fixed.nii.gz' is an image"),
        ((tmp_path / "plane.xyz",), "fixed: 'plane.xyz' lies in the plane"),
        (("igr.nothing",), "igr.nothing"),
        (("dirvnet.brain2d",), "'dirvnet.brain2d' is of the task 'registration'"),
        ((tmp_path / "missing.ply",), "no file"),
        ((mesh, "--resolution", 1), "--resolution must be from 2"),
        ((mesh, mesh, "--path", mesh), "holds no two .ply"),
    ):
        status, _, err = run("view", *words, "--out", page)
        assert status == 1 and said in err, err
        assert not page.exists()
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    status, _, err = run("view", mesh, "--out", page)
    assert status == 1 and "pip install plotly" in err
