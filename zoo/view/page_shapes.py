"""Meshes and clouds as traces of plotly, and the scene in which they stand and move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from zoo.view import clouds
from zoo.view.clouds import LENGTHS, MARGIN
from zoo.view.page import buttons, compact, frame_slider, plotly_objects, scale_of

MOST_POINTS = clouds.SHOWN  # of a cloud
MOST_VERTICES = 40_000  # of a mesh that stands still
AWAY = 1.55  # from the eye to the centre, in longest sides
LOWER = -0.06  # where the eye looks, along the upward direction: axes are labelled below
SECONDS = 2.0  # from the first to the last shape when it plays
LIGHT = {"ambient": 0.5, "diffuse": 0.8, "specular": 0.1, "roughness": 0.7, "fresnel": 0.1}


@dataclass(eq=False)
class Shape:
    """A mesh or a cloud of a scene.

    Attributes:
        name: in the legend.
        points: `[n, 2 or 3]`.
        faces: `[m, 3]`, or None for points alone.
        colour: of all of it.
        values: `[n]`, in whose place each point has a colour of its own.
        limit: of the values, which has the last colour.
        visible: as plotly has it.
        opacity: from 0 to 1.
        kept: indices of the points that are left after thinning.
    """

    name: str
    points: np.ndarray
    faces: np.ndarray | None
    colour: str
    values: np.ndarray | None = None
    limit: float = 1.0
    visible: bool | str = True
    opacity: float = 1.0
    kept: np.ndarray = field(default_factory=lambda: np.arange(0))

    def __post_init__(self):
        if self.faces is not None and not len(self.faces):
            self.faces = None  # plotly would make faces of its own

    def thin(self, most: int | None = None, name: str | None = None) -> str:
        """Leaves out what is beyond `most` points; says what is drawn."""
        count, mesh = len(self.points), self.faces is not None
        limit = MOST_VERTICES if mesh else MOST_POINTS
        limit = limit if most is None else min(limit, most)
        if mesh:
            self.kept, self.faces = clustered(self.points, self.faces, limit)
        else:
            self.kept = np.sort(clouds.some_rows(np.arange(count), limit))
        self.points = self.points[self.kept]
        what = "vertices" if mesh else "points"
        of = f" of {count:,}" if len(self.kept) < count else ""
        return f"{name or self.name}: {len(self.kept):,}{of} {what}."

    def trace(self, go):
        """As a trace of plotly."""
        shared = {
            "name": self.name,
            "showlegend": True,
            "visible": self.visible,
            "opacity": self.opacity,
            **_coordinates(self.points),
        }
        if self.faces is not None:
            shared |= {"i": (f := compact(self.faces))[:, 0], "j": f[:, 1], "k": f[:, 2]}
            look = {"color": self.colour}
            if self.values is not None:
                look = {"intensity": compact(self.values), **self._scale("c")}
            lit = {"lighting": LIGHT, "lightposition": {"x": -4e4, "y": 6e4, "z": 4e4}}
            return go.Mesh3d(**shared, **look, **lit, hovertemplate=self._hover("intensity"))
        plane = self.points.shape[1] == 2
        # Few points are large, so that they are seen, many are small, so that they part.
        size = float(np.clip(250 / np.sqrt(len(self.points)), 1.5, 6)) + plane
        look = {"color": self.colour}
        if self.values is not None:
            look = {"color": compact(self.values), **self._scale("c")}
        marker = {"size": size, "line": {"width": 0}, **look}
        kind = go.Scattergl if plane else go.Scatter3d
        hover = self._hover("marker.color")
        return kind(**shared, mode="markers", marker=marker, hovertemplate=hover)

    def frame(self, go, points: np.ndarray, values: np.ndarray | None):
        """What changes of the trace when the shape is elsewhere."""
        changed: dict = _coordinates(points)
        if self.faces is not None:
            return go.Mesh3d(**changed, **({} if values is None else {"intensity": values}))
        kind = go.Scattergl if points.shape[1] == 2 else go.Scatter3d
        return kind(**changed, **({} if values is None else {"marker": {"color": values}}))

    def _scale(self, prefix: str) -> dict:
        bar = {"title": {"text": "displacement<br>(world units)"}, "thickness": 14, "len": 0.6}
        return {
            "colorscale": scale_of(LENGTHS),
            f"{prefix}min": 0,
            f"{prefix}max": self.limit,
            "colorbar": {**bar, "x": 1.0, "y": 0.4},
            "showscale": True,
        }

    def _hover(self, value: str) -> str:
        axes = ", ".join(f"%{{{axis}:.4g}}" for axis in "xyz"[: self.points.shape[1]])
        far = "" if self.values is None else f"<br>displacement %{{{value}:.4g}}"
        return f"{axes}{far}"


@dataclass(eq=False)
class Frames:
    """How one shape of a scene moves.

    Attributes:
        shape: which one.
        places: its points at each time, `[n, dims]`.
        values: of its points at each time, `[n]`, or None where they stay.
        names: of the times.
        label: what the times are.
        active: which of them is shown first.
    """

    shape: Shape
    places: Sequence[np.ndarray]
    values: Sequence[np.ndarray] | None
    names: Sequence[str]
    label: str
    active: int


def clustered(points: np.ndarray, faces: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """A mesh of fewer vertices: of those in one cell of a lattice, the one nearest to their mean.

    Args:
        points: `[n, 3]`.
        faces: `[m, 3]`, indices of the points.
        most: vertices that may be left.

    Returns:
        Indices of the vertices that are left, in their order, and the faces of these that still
        have three corners, each once.
    """
    if len(points) <= most:
        return np.arange(len(points)), faces
    low, side = points.min(axis=0), np.ptp(points, axis=0).max()
    cells = np.sqrt(most)
    while True:
        keys = np.floor((points - low) / side * cells).astype(np.int64)
        _, member = np.unique(keys @ (int(cells + 2) ** np.arange(3)), return_inverse=True)
        count = member.max() + 1
        if count <= most:
            break
        cells *= 0.9
    means = np.stack([np.bincount(member, axis) for axis in points.T], 1)
    means /= np.bincount(member)[:, None]
    order = np.lexsort((((points - means[member]) ** 2).sum(axis=1), member))
    nearest = order[np.searchsorted(member[order], np.arange(count))]
    kept = np.sort(nearest)
    place = np.empty(count, np.int64)
    place[member[kept]] = np.arange(count)
    faces = place[member[faces]]
    corners = np.sort(faces, axis=1)
    faces = faces[(np.diff(corners, axis=1) > 0).all(axis=1)]
    _, once = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return kept, faces[np.sort(once)]


def _coordinates(points: np.ndarray) -> dict[str, np.ndarray]:
    return {axis: compact(values) for axis, values in zip("xyz", points.T, strict=False)}


def box_of(*places: np.ndarray, robust: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Corners of what the scene shows, with a margin."""
    ends = [clouds.robust_box(p) if robust else (p.min(axis=0), p.max(axis=0)) for p in places]
    low, high = np.min([e[0] for e in ends], axis=0), np.max([e[1] for e in ends], axis=0)
    margin = MARGIN * (high - low).max() or 1.0
    return low - margin, high + margin


# The scene


def scene_of(shapes: list[Shape], eye, up, box, frames: Frames | None = None):
    """The figure: 1 : 1 : 1, seen from `eye`, with a slider where something moves."""
    go = plotly_objects()
    figure = go.Figure([shape.trace(go) for shape in shapes])
    low, high = box
    layout: dict = {
        "margin": {"l": 10, "r": 10, "t": 36, "b": 10},
        "legend": {"x": 1.0, "xanchor": "left", "y": 1, "itemsizing": "constant"},
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "uirevision": "kept",  # The view stays when the slider moves.
    }
    ranges = [[float(a), float(b)] for a, b in zip(low, high, strict=True)]
    if len(ranges) == 2:
        axis = {"gridcolor": "#eee", "zeroline": False, "tickfont": {"color": "#888"}}
        layout |= {
            "xaxis": {**axis, "range": ranges[0], "title": {"text": "x"}},
            "yaxis": {**axis, "range": ranges[1], "title": {"text": "y"}, "scaleanchor": "x"},
        }
    else:
        eye, sides = np.asarray(eye, float), high - low
        eye = eye * (AWAY / np.linalg.norm(eye))
        axis = {"showbackground": False, "gridcolor": "#e6e6e6", "zeroline": False}
        axis |= {"tickfont": {"color": "#888", "size": 11}, "showspikes": False}
        layout["scene"] = {
            **{f"{n}axis": {**axis, "range": r} for n, r in zip("xyz", ranges, strict=True)},
            "aspectmode": "manual",
            "aspectratio": dict(zip("xyz", map(float, sides / sides.max()), strict=True)),
            "camera": {
                "eye": dict(zip("xyz", map(float, eye), strict=True)),
                "up": dict(zip("xyz", map(float, up), strict=True)),
                "center": dict(zip("xyz", map(float, LOWER * np.asarray(up)), strict=True)),
            },
        }
    if frames is not None:
        number = next(k for k, shape in enumerate(shapes) if shape is frames.shape)
        values = frames.values or [None] * len(frames.places)
        figure.frames = [
            go.Frame(
                name=name,
                traces=[number],
                data=[frames.shape.frame(go, at, None if own is None else compact(own))],
            )
            for name, at, own in zip(frames.names, frames.places, values, strict=True)
        ]
        place = {"x": 0.12, "len": 0.8, "y": 0, "pad": {"t": 30, "b": 10}}
        layout["sliders"] = [frame_slider(frames.names, frames.active, frames.label, **place)]
        layout["updatemenus"] = [_play_buttons(len(frames.names))]
    figure.update_layout(layout)
    return figure


def _play_buttons(count: int) -> dict:
    once = {"duration": 1000 * SECONDS / count, "redraw": True}
    play = {"frame": once, "fromcurrent": True, "transition": {"duration": 0}, "mode": "immediate"}
    stop = {"frame": {"duration": 0, "redraw": False}, "mode": "immediate"}
    choices = [
        {"label": "play", "method": "animate", "args": [None, play]},
        {"label": "stop", "method": "animate", "args": [[None], stop]},
    ]
    place = {"x": 0.1, "xanchor": "right", "y": 0, "yanchor": "top", "pad": {"t": 40, "r": 10}}
    return buttons(choices, showactive=False, **place)
