"""Pictures come out with and without OpenGL, whole or not at all."""

import numpy as np
import pytest
import trimesh
from matplotlib.image import imread

from zoo.view import surfaces
from zoo.view.surfaces import surface_figure

BALL = trimesh.creation.icosphere(2)


def dark_share(path) -> float:
    """Share of the pixels that are not background."""
    return float((imread(path)[..., :3].min(axis=-1) < 0.9).mean())


def test_matplotlib_draws_meshes_and_points(tmp_path):
    path = tmp_path / "new" / "figure.png"
    used = surface_figure({"ball": BALL}, path, points=BALL.vertices, renderer="matplotlib")
    assert used == "matplotlib"
    assert dark_share(path) > 0.05
    assert [found.name for found in path.parent.iterdir()] == ["figure.png"]


def test_polyscope_draws_where_it_can(tmp_path):
    try:
        surface_figure({"ball": BALL}, tmp_path / "ball.png", renderer="polyscope")
    except RuntimeError as error:
        pytest.skip(f"no OpenGL here: {error}")
    assert dark_share(tmp_path / "ball.png") > 0.05


def test_a_failing_polyscope_falls_back(tmp_path, monkeypatch):
    def failing(scenes):
        raise RuntimeError("no EGL")

    monkeypatch.setattr(surfaces, "_rendered", failing)
    assert surface_figure({"ball": BALL}, tmp_path / "ball.png") == "matplotlib"
    with pytest.raises(RuntimeError, match="no EGL"):
        surface_figure({"ball": BALL}, tmp_path / "other.png", renderer="polyscope")
    assert not (tmp_path / "other.png").exists()


def test_a_crashing_renderer_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(surfaces, "__file__", str(tmp_path / "surfaces.py"))
    (tmp_path / "render.py").write_text("import os; os.abort()")
    assert surface_figure({"ball": BALL}, tmp_path / "ball.png") == "matplotlib"


def test_units_do_not_matter(tmp_path):
    shares = []
    for scale in (1e-3, 1e3):
        mesh = trimesh.Trimesh(BALL.vertices * scale, BALL.faces, process=False)
        surface_figure({"ball": mesh}, tmp_path / "ball.png", renderer="matplotlib")
        shares.append(dark_share(tmp_path / "ball.png"))
    assert shares[0] == pytest.approx(shares[1], rel=0.02)


@pytest.mark.parametrize(
    ("meshes", "renderer", "message"),
    [({}, "auto", "nothing to draw"), ({"ball": BALL}, "blender", "renderer must be")],
)
def test_bad_input(tmp_path, meshes, renderer, message):
    with pytest.raises(ValueError, match=message):
        surface_figure(meshes, tmp_path / "figure.png", renderer=renderer)
    assert not list(tmp_path.iterdir())


def test_scenes_hold_finite_unit_boxes():
    points = surfaces._unit(np.array([[0, 0, 0], [5.0, 1, 1]]))
    np.testing.assert_allclose(np.ptp(points, axis=0).max(), 2.0)
    np.testing.assert_allclose(points.mean(axis=0), 0.0, atol=1e-12)
