"""Pictures of surfaces: polyscope off-screen where OpenGL is there, matplotlib where it is not."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from matplotlib.image import imread

from zoo.io import written_whole
from zoo.ops.arguments import one_of

RENDER_SECONDS = 120
COLOUR = (0.36, 0.55, 0.74)

# A distant eye, in units of half the longest side, and a narrow field of view, in degrees, so that
# panels compare.
EYE = (2.6, 2.0, 8.6)
FIELD_OF_VIEW = 16
REACH = float(np.linalg.norm(EYE) * np.tan(np.deg2rad(FIELD_OF_VIEW / 2)))

# Points, faces or None, and one colour or one for each point.
Scene = tuple[np.ndarray, np.ndarray | None, Sequence]


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
    titles = [*([] if points is None else ["scan"]), *meshes]
    scenes: list[Scene] = [] if points is None else [(_unit(points), None, COLOUR)]
    scenes += [(_unit(mesh.vertices), mesh.faces, COLOUR) for mesh in meshes.values()]
    if not scenes:
        raise ValueError("meshes is empty and there are no points: nothing to draw.")
    pictures = polyscope_pictures(scenes, renderer)
    figure = Figure(figsize=(4.2 * len(scenes), 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    kind = {"projection": "3d"} if pictures is None else {}
    panels = figure.subplots(1, len(scenes), squeeze=False, subplot_kw=kind)[0]
    for index, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        if pictures is None:
            draw_scene(axes, *scenes[index])
        else:
            axes.imshow(pictures[index])
        axes.set_title(title)
        axes.set_axis_off()
    with written_whole(path) as partial:
        figure.savefig(partial)
    return "matplotlib" if pictures is None else "polyscope"


def polyscope_pictures(scenes: list[Scene], renderer: str) -> list[np.ndarray] | None:
    """Pictures of scenes by polyscope, unless matplotlib is to draw them.

    A picture shows what lies within `REACH` to all sides of the origin, seen from `EYE`.

    Args:
        scenes: meshes, `(points [n, 3], faces [m, 3], colour [3])`, and clouds, `(points [n, 3],
            None, colours [3] or [n, 3])`; colours are red, green and blue within [0, 1].
        renderer: "polyscope", "matplotlib", or "auto": polyscope if it can render here.

    Returns:
        For each scene a square picture `[side, side, 3]`, or None where matplotlib is to draw.

    Raises:
        ValueError: for an unknown renderer.
        RuntimeError: if polyscope was demanded and cannot render here.
    """
    one_of("renderer", renderer, ("auto", "polyscope", "matplotlib"))
    if renderer == "matplotlib":
        return None
    try:
        return _rendered(scenes)
    except RuntimeError as error:
        if renderer == "auto":
            return None
        raise RuntimeError(
            "renderer: polyscope needs a display or EGL; use renderer='matplotlib'. "
            f"It said: {error}"
        ) from error


def _unit(points) -> np.ndarray:
    """Centred, longest side 2, so that scans in metres and in millimetres look alike."""
    points = np.asarray(points, dtype=np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2) * (2 / (high - low).max())


def _rendered(scenes: list[Scene]) -> list[np.ndarray]:
    """Pictures by polyscope; a RuntimeError says why there are none."""
    arrays = {"eye": EYE, "field_of_view": FIELD_OF_VIEW}
    for index, (points, faces, colours) in enumerate(scenes):
        arrays |= {f"points{index}": points, f"colours{index}": colours}
        if faces is not None:
            arrays[f"faces{index}"] = faces
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scene.npz"
        np.savez(file, **arrays)
        command = [sys.executable, str(Path(__file__).with_name("render.py")), str(file)]
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=RENDER_SECONDS
            )
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout).strip()[-500:]
            raise RuntimeError(said or f"exit code {error.returncode}") from error
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"no picture within {RENDER_SECONDS} s") from error
        pictures = [imread(file.with_name(f"panel{index}.png")) for index in range(len(scenes))]
    return [picture[..., :3] for picture in pictures]


def draw_scene(axes: Axes, points: np.ndarray, faces: np.ndarray | None, colour):
    """Draws a scene by matplotlib, seen as `polyscope_pictures` shows it."""
    # matplotlib's vertical axis is z; scans stand along y.
    shown = points[:, [2, 0, 1]]
    if faces is None:
        axes.scatter(*shown.T, s=0.5, color=colour)
    else:
        axes.plot_trisurf(
            *shown.T,
            triangles=faces,
            color=colour,
            lightsource=LightSource(azdeg=315, altdeg=55),
            linewidth=0,
            antialiased=False,
        )
    axes.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
    axes.set_box_aspect((1, 1, 1), zoom=1.4)
    axes.view_init(elev=13, azim=17)
