"""Pictures of surfaces: polyscope off-screen where OpenGL is there, matplotlib where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from matplotlib.image import imread

RENDER_SECONDS = 120
BLUE = (0.36, 0.55, 0.74)


def surface_figure(
    meshes: dict, path: str | Path, points: np.ndarray | None = None, renderer: str = "auto"
) -> str:
    """Draws meshes side by side, each scaled to the same size, seen from the front and above.

    Args:
        meshes: `{title: trimesh.Trimesh}`, one panel each.
        path: the PNG to write; it appears complete or not at all.
        points: a cloud `[n, 3]` for a panel before the meshes.
        renderer: "polyscope", "matplotlib", or "auto": polyscope if it can render here.

    Returns:
        The renderer that drew the picture.

    Raises:
        ValueError: for an unknown renderer, or nothing to draw.
        RuntimeError: if polyscope was demanded and cannot render here.
    """
    if renderer not in ("auto", "polyscope", "matplotlib"):
        raise ValueError(
            f"renderer must be 'auto', 'polyscope' or 'matplotlib', not {renderer!r}."
        )
    panels = [] if points is None else [("scan", _unit(points), None)]
    panels += [(title, _unit(mesh.vertices), mesh.faces) for title, mesh in meshes.items()]
    if not panels:
        raise ValueError("meshes is empty and there are no points: nothing to draw.")
    figure = Figure(figsize=(4.2 * len(panels), 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    drawn_by = "matplotlib"
    if renderer != "matplotlib":
        failure = _draw_polyscope(figure, panels)
        if failure is None:
            drawn_by = "polyscope"
        elif renderer == "polyscope":
            raise RuntimeError(
                "renderer: polyscope needs a display or EGL; use renderer='matplotlib'. "
                f"It said: {failure}"
            )
    if drawn_by == "matplotlib":
        _draw_matplotlib(figure, panels)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.png")
    try:
        figure.savefig(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return drawn_by


def _unit(points) -> np.ndarray:
    """Centred, longest side 2, so that scans in metres and in millimetres look alike."""
    points = np.asarray(points, dtype=np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2) * (2 / (high - low).max())


def _draw_polyscope(figure: Figure, panels: list) -> str | None:
    """Draws into the figure; returns why that was not possible, or None."""
    arrays = {f"points{index}": panel[1] for index, panel in enumerate(panels)}
    arrays |= {f"faces{i}": panel[2] for i, panel in enumerate(panels) if panel[2] is not None}
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene.npz"
        np.savez(scene, **arrays)
        command = [sys.executable, str(Path(__file__).with_name("render.py")), str(scene)]
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=RENDER_SECONDS
            )
        except subprocess.CalledProcessError as error:
            return (error.stderr or error.stdout).strip()[-500:] or f"exit code {error.returncode}"
        except subprocess.TimeoutExpired:
            return f"no picture within {RENDER_SECONDS} s"
        pictures = [imread(scene.with_name(f"panel{index}.png")) for index in range(len(panels))]
    for index, (picture, panel) in enumerate(zip(pictures, panels, strict=True)):
        axes = figure.add_subplot(1, len(panels), index + 1, title=panel[0])
        axes.imshow(picture)
        axes.set_axis_off()
    return None


def _draw_matplotlib(figure: Figure, panels: list):
    light = LightSource(azdeg=315, altdeg=55)
    for index, (title, points, faces) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1, projection="3d", title=title)
        # matplotlib's vertical axis is z; scans stand along y.
        shown = points[:, [2, 0, 1]]
        if faces is None:
            axes.scatter(*shown.T, s=0.5, color=BLUE)
        else:
            axes.plot_trisurf(
                *shown.T,
                triangles=faces,
                color=BLUE,
                lightsource=light,
                linewidth=0,
                antialiased=False,
            )
        axes.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
        axes.set_box_aspect((1, 1, 1), zoom=1.4)
        axes.view_init(elev=13, azim=17)
        axes.set_axis_off()
