"""Shapes on their way: a strip picture of a path, and a scene with a slider."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from zoo.io import written_whole
from zoo.ops.arguments import at_least
from zoo.registration.paths import resampled
from zoo.view.surfaces import COLOUR, draw_scene, polyscope_pictures

TARGET = (0.95, 0.52, 0.10)


def path_figure(
    path: np.ndarray,
    file: str | Path,
    faces: np.ndarray | None = None,
    target: np.ndarray | None = None,
    target_faces: np.ndarray | None = None,
    count: int = 6,
    renderer: str = "auto",
) -> str:
    """Draws shapes at equal distances along a path, in one scale, and what they were to reach.

    Args:
        path: positions at equal times, `[steps + 1, n, dims]`.
        file: the PNG to write; it appears complete or not at all.
        faces: triangles `[m, 3]`, or None for points.
        target: points `[k, dims]` for a last panel, in another colour.
        target_faces: its triangles.
        count: of the shapes.
        renderer: of shapes in space: "polyscope", "matplotlib", or "auto", polyscope if it can
            render here. The plane is drawn by matplotlib.

    Returns:
        The renderer that drew the picture.

    Raises:
        ValueError: for what is no path, or an unknown renderer.
        RuntimeError: if polyscope was demanded and cannot render here.
    """
    at_least("count", count, 2)
    path = np.asarray(path, dtype=np.float64)
    shapes = list(resampled(path, count))
    titles = [f"{k / (count - 1):.0%} of the way" for k in range(count)]
    scenes = [(shape, faces, COLOUR) for shape in shapes]
    if target is not None:
        scenes.append((np.asarray(target, dtype=np.float64), target_faces, TARGET))
        titles.append("target")
    every = np.concatenate([points for points, _, _ in scenes])
    low, high = every.min(axis=0), every.max(axis=0)
    centre, scale = (low + high) / 2, 2 / (high - low).max()
    scenes = [((points - centre) * scale, own, colour) for points, own, colour in scenes]
    plane = path.shape[2] == 2
    pictures = None if plane else polyscope_pictures(scenes, renderer)
    figure = Figure(figsize=(2.6 * len(scenes), 3.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    kind = {"projection": "3d"} if pictures is None and not plane else {}
    panels = figure.subplots(1, len(scenes), squeeze=False, subplot_kw=kind)[0]
    for index, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        if pictures is not None:
            axes.imshow(pictures[index])
        elif plane:
            points, _, colour = scenes[index]
            axes.scatter(*points.T, s=1.0, color=colour)
            axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal")
        else:
            draw_scene(axes, *scenes[index])
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    with written_whole(file) as partial:
        figure.savefig(partial)
    return "matplotlib" if pictures is None else "polyscope"


def show_path(
    path: np.ndarray, faces: np.ndarray | None = None, target: np.ndarray | None = None
) -> None:
    """Opens a polyscope window with the shape, a slider along the path, and a button to play.

    Args:
        path: positions at equal times, `[steps + 1, n, 3]`.
        faces: triangles `[m, 3]`, or None for points.
        target: points `[k, 3]` that are shown beside it.

    Raises:
        ValueError: for what is no path in space.
    """
    import polyscope

    polyscope.init()
    polyscope.set_user_callback(path_scene(path, faces, target))
    polyscope.show()
    polyscope.clear_user_callback()
    polyscope.remove_all_structures()


def path_scene(path, faces=None, target=None, seconds: float = 2.0):
    """Registers the shapes of a path with polyscope, and returns the callback of its slider.

    Args:
        path, faces, target: see `show_path`.
        seconds: from the first to the last shape when it plays.

    Raises:
        ValueError: for what is no path in space.
    """
    import polyscope
    import polyscope.imgui as imgui

    path = np.asarray(path, dtype=np.float64)
    if path.ndim != 3 or len(path) < 2 or path.shape[2] != 3:
        raise ValueError(f"path must have the shape [steps + 1, n, 3], not {path.shape}.")
    if faces is None:
        shape = polyscope.register_point_cloud("shape", path[0], color=COLOUR)
        move = shape.update_point_positions
    else:
        shape = polyscope.register_surface_mesh("shape", path[0], np.asarray(faces), color=COLOUR)
        move = shape.update_vertex_positions
    if target is not None:
        polyscope.register_point_cloud("target", np.asarray(target), color=TARGET, radius=0.001)
    state = {"time": 0.0, "since": None}

    def callback():
        changed, value = imgui.SliderFloat("time", state["time"], 0.0, 1.0)
        if imgui.Button("stop" if state["since"] else "play"):
            state["since"] = None if state["since"] else time.monotonic() - value * seconds
        if state["since"]:
            changed, value = True, (time.monotonic() - state["since"]) / seconds % 1.0
        if changed:
            state["time"] = value
            at = value * (len(path) - 1)
            first = min(int(at), len(path) - 2)
            move(path[first] + (at - first) * (path[first + 1] - path[first]))

    return callback
