"""Pictures of surfaces: polyscope off-screen where OpenGL is there, matplotlib where it is not."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from matplotlib.image import imread

from zoo.io import written_whole

RENDER_SECONDS = 120
COLOURS = ((0.36, 0.55, 0.74), (0.88, 0.60, 0.35), (0.47, 0.66, 0.47))
Panel = tuple[str, list[tuple[np.ndarray, np.ndarray | None]]]


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
    panels: list[Panel] = [] if points is None else [("scan", [(_unit(points), None)])]
    panels += [(title, [(_unit(mesh.vertices), mesh.faces)]) for title, mesh in meshes.items()]
    if not panels:
        raise ValueError("meshes is empty and there are no points: nothing to draw.")
    return _draw(panels, Path(path), renderer)


def cloud_figure(pair, path: str | Path, transform=None, renderer: str = "auto") -> str:
    """Draws a pair of clouds, fixed in blue and moving in orange, before and after registration.

    Args:
        pair: a `zoo.Pair` of clouds in space.
        path: the PNG to write; it appears complete or not at all.
        transform: a `zoo.Transform`; without it only the panel before registration is drawn.
        renderer: as for `surface_figure`.

    Returns:
        The renderer that drew the picture.
    """
    fixed, moving = pair.fixed.points, pair.moving.points
    clouds = {"before": moving}
    if transform is not None:
        clouds["after"] = transform.move(moving)
    panels = [
        (title, [(_unit(fixed, fixed), None), (_unit(points, fixed), None)])
        for title, points in clouds.items()
    ]
    return _draw(panels, Path(path), renderer)


def _draw(panels: list[Panel], path: Path, renderer: str) -> str:
    if renderer not in ("auto", "polyscope", "matplotlib"):
        raise ValueError(f"renderer must be 'auto', 'polyscope' or 'matplotlib', not {renderer!r}.")
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
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        figure.savefig(partial)
    return drawn_by


def _unit(points, frame=None) -> np.ndarray:
    """Centred, longest side 2, so that scans in metres and in millimetres look alike."""
    points = np.asarray(points, dtype=np.float64)
    frame = points if frame is None else frame
    low, high = frame.min(axis=0), frame.max(axis=0)
    return (points - (low + high) / 2) * (2 / (high - low).max())


def _draw_polyscope(figure: Figure, panels: list[Panel]) -> str | None:
    """Draws into the figure; returns why that was not possible, or None."""
    arrays = {}
    for index, (_, items) in enumerate(panels):
        for number, (points, faces) in enumerate(items):
            arrays[f"points{index}_{number}"] = points
            if faces is not None:
                arrays[f"faces{index}_{number}"] = faces
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


def _draw_matplotlib(figure: Figure, panels: list[Panel]):
    light = LightSource(azdeg=315, altdeg=55)
    for index, (title, items) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1, projection="3d", title=title)
        for number, (points, faces) in enumerate(items):
            colour = COLOURS[number % len(COLOURS)]
            # matplotlib's vertical axis is z; scans stand along y.
            shown = points[:, [2, 0, 1]]
            if faces is None:
                axes.scatter(*shown.T, s=0.5, color=colour)
            else:
                axes.plot_trisurf(
                    *shown.T,
                    triangles=faces,
                    color=colour,
                    lightsource=light,
                    linewidth=0,
                    antialiased=False,
                )
        axes.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
        axes.set_box_aspect((1, 1, 1), zoom=1.4)
        axes.view_init(elev=13, azim=17)
        axes.set_axis_off()
