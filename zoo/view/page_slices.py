"""Slices of a pair of images as traces of plotly: pictures, determinant, deformed grid, marks."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image as Picture

from zoo.data.image import Image
from zoo.registration.measure import Measured
from zoo.view.clouds import some_rows
from zoo.view.images import (
    FIXED,
    FOLD,
    LANDMARK_SLICES,
    LINES,
    MOVING,
    PERCENTILES,
    determinant_limit,
    difference,
    grid_lines,
    intensity_window,
    percent,
)
from zoo.view.page import INK, compact, scale_of
from zoo.view.planes import Plane

PIXELS = {2: 1024, 3: 192}  # of the longer side of a picture, by rank
NODES = {2: 384, 3: 96}  # of the longer side of a determinant, and of a line of the grid
FOLDS = 2000  # marks of a slice
DIFFERENCES = "RdBu_r"
COLOURS = 255  # of differences
GAP = (204, 204, 204)  # the moving image does not reach here


@dataclass(eq=False)
class Album:
    """All that is drawn of a pair, in world units from the left and upper corner of a picture.

    Attributes:
        measured: of the transform, or of the identity.
        registered: whether there is a transform.
        images: by name, what is shown of them, `[*spatial, 1 or 3]` bytes.
        differences: by name, from the fixed image, `[*spatial]`, NaN where there is none.
        limit: of the colours of the differences.
        bend: of the colours of the determinant.
        plane: one of the slices.
    """

    measured: Measured
    registered: bool
    images: dict[str, np.ndarray]
    differences: dict[str, np.ndarray]
    limit: float
    bend: float
    plane: Plane

    @classmethod
    def of(cls, measured: Measured, plane: Plane, registered: bool) -> Album:
        pair, before = measured.pair, measured.initial
        shown_as = {"fixed": pair.fixed, "moving": before.moved}
        inside = {"fixed": np.ones(pair.fixed.shape, bool), "moving": before.inside}
        if registered:
            shown_as["moved"], inside["moved"] = measured.moved, measured.inside
        arrays = {name: _coloured(image) for name, image in shown_as.items()}
        # The moving image may be of another modality.
        over = [arrays[name][inside[name]] for name in arrays if name != "fixed"]
        window = intensity_window(*(over if any(map(np.size, over)) else [arrays["moving"]]))
        windows = dict.fromkeys(arrays, window) | {"fixed": intensity_window(arrays["fixed"])}
        images = {name: _bytes(array, *windows[name]) for name, array in arrays.items()}
        differences = {}
        for name, image in list(shown_as.items())[1:]:
            values = difference(pair.fixed, image)
            differences[name] = np.where(inside[name], values, np.float32(np.nan))
        sizes = np.abs(np.concatenate([each[np.isfinite(each)] for each in differences.values()]))
        limit = float(np.percentile(sizes, PERCENTILES[1]) or sizes.max()) if sizes.size else 0.0
        bend = determinant_limit(measured.jacobian_determinant) if registered else 1.0
        return cls(measured, registered, images, differences, limit or 1.0, bend, plane)

    @property
    def rank(self) -> int:
        return self.measured.pair.rank

    @property
    def over(self) -> list[str]:
        """What can be laid over the fixed image, that which is shown first in front."""
        return [name for name in reversed(self.images) if name != "fixed"]

    @property
    def split(self) -> float:
        """The share of the width that the images have."""
        return 0.48 if self.registered else 0.9

    @property
    def size(self) -> np.ndarray:
        """Columns and rows of a slice."""
        return np.array([self.plane.grid.shape[axis] for axis in self._axes])

    @property
    def spacing(self) -> np.ndarray:
        """From column to column and from row to row, mm."""
        return self.plane.grid.spacing[self._axes]

    @property
    def _axes(self) -> list[int]:
        return [self.plane.column, self.plane.row]

    def steps(self, most: dict[int, int]) -> np.ndarray:
        """Every how many columns and rows are drawn."""
        return np.maximum(np.ceil(self.size / most[self.rank]).astype(int), 1)

    def stand(self, plane: Plane, array: np.ndarray) -> np.ndarray:
        """`[rows, columns, ...]` of a slice, as the picture has them."""
        picture = plane.picture(array)
        picture = picture[:, ::-1] if plane.leftward else picture
        return picture[::-1] if plane.upward else picture

    def place(self, indices: np.ndarray) -> np.ndarray:
        """mm from the corner of the picture, of columns and rows `[n, 2]` of the slice."""
        mirrored = [self.plane.leftward, self.plane.upward]
        return np.where(mirrored, self.size - 1 - indices, indices) * self.spacing

    # Traces

    def traces(self, go, plane: Plane) -> list:
        """All traces at a slice: pictures, the bar of their differences, then the others."""
        made = list(self._changing(go, plane, whole=True).values())
        made.insert(len(self.pictures), self._bar(go))
        return made

    def frame(self, go, plane: Plane) -> dict:
        """What a frame of plotly changes for a slice: every trace but the bar."""
        changed = list(self._changing(go, plane, whole=False).values())
        numbers = [k for k in range(len(changed) + 1) if k != len(self.pictures)]
        return {"data": changed, "traces": numbers}

    @property
    def pictures(self) -> list[str]:
        """Names of the pictures: images, then differences from the fixed one."""
        return ["fixed", *self.over, *(f"fixed − {name}" for name in self.over)]

    def _bar(self, go):
        """The colours of the differences, which pictures do not explain; it draws nothing else."""
        bar = {"title": {"text": "difference", "side": "right"}, "thickness": 12, "len": 0.8}
        bar |= {"x": self.split - 0.03, "xanchor": "left"}
        scale = {"colorscale": scale_of(DIFFERENCES), "cmin": -self.limit, "cmax": self.limit}
        marker = {"color": [0.0], "showscale": True, "colorbar": bar, **scale}
        shown = {"visible": False, "showlegend": False, "hoverinfo": "skip"}
        return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, **shown)

    def _changing(self, go, plane: Plane, whole: bool) -> dict:
        """Traces by name; with `whole`, also what stays from slice to slice."""
        arrays = [self.stand(plane, self.images[name]) for name in ("fixed", *self.over)]
        values = [self.stand(plane, self.differences[name]) for name in self.over]
        arrays += [_numbered(each / self.limit) for each in values]
        named = zip(self.pictures, arrays, strict=True)
        found = {name: self._picture(go, array, whole) for name, array in named}
        if whole:
            for name, trace in found.items():
                trace.visible = name in ("fixed", self.over[0])
                trace.opacity = 0.5 if name in self.over else 1.0
        if self.measured.pair.fixed_landmarks is not None:
            found |= self._landmarks(go, plane, whole)
        if self.registered:
            found |= self._bending(go, plane, whole)
        return found

    def _picture(self, go, array: np.ndarray, whole: bool):
        columns, rows = self.steps(PIXELS)
        source = _source(array[::rows, ::columns])
        if not whole:
            return go.Image(source=source)
        dx, dy = self.spacing * (columns, rows)
        hover = {"hoverinfo": "skip"}
        return go.Image(source=source, x0=0, y0=0, dx=float(dx), dy=float(dy), **hover)

    def _bending(self, go, plane: Plane, whole: bool) -> dict:
        columns, rows = self.steps(NODES)
        values = self.stand(plane, self.measured.jacobian_determinant)
        few = values[::rows, ::columns]
        # The middle of a logarithmic scale is 1; what has no logarithm has the last colour.
        logarithm = np.log(np.maximum(few, 1e-3 / self.bend))
        facts: dict = {"z": compact(logarithm), "customdata": compact(few)}
        folds = np.argwhere(values <= 0)[:, ::-1] * self.spacing
        # The last one is nowhere, so that the legend names folds where there are none.
        folds = np.concatenate([some_rows(folds, FOLDS), np.full((1, 2), np.nan)])
        grid = self._grid(plane)
        marks = {"x": compact(folds[:, 0]), "y": compact(folds[:, 1])}
        lines = {"x": compact(grid[:, 0]), "y": compact(grid[:, 1])}
        right = {"xaxis": "x2", "yaxis": "y2"}
        look: list[dict] = [{}, {}, {}]
        if whole:
            dx, dy = self.spacing * (columns, rows)
            end = float(np.log(self.bend))
            ticks = np.linspace(-end, end, 5)
            bar = {"title": {"text": "Jacobian determinant", "side": "right"}, "thickness": 12}
            bar |= {"tickvals": ticks, "ticktext": [f"{np.exp(tick):.3g}" for tick in ticks]}
            bar |= {"x": 1.0, "xanchor": "left", "len": 0.8}
            axes = {"x0": 0, "y0": 0, "dx": float(dx), "dy": float(dy), **right}
            look[0] = {**axes, "zmin": -end, "zmax": end, "colorscale": scale_of(DIFFERENCES)}
            look[0] |= {"colorbar": bar, "name": "determinant", "showlegend": True}
            look[0] |= {"hovertemplate": "determinant %{customdata:.4g}<extra></extra>"}
            line = {"color": INK, "width": 0.8}
            look[1] = {"mode": "lines", "line": line, "name": "deformed grid", "opacity": 0.7}
            folded = 100 * float((self.measured.jacobian_determinant <= 0).mean())
            dot = {"symbol": "square", "size": 5, "color": to_hex(FOLD)}
            dot["line"] = {"width": 0.5, "color": INK}
            look[2] = {"mode": "markers", "marker": dot, "name": f"folds ({percent(folded)})"}
            for each in look[1:]:
                each |= {"hoverinfo": "skip", "showlegend": True, **right}
        return {
            "determinant": go.Heatmap(**facts, **look[0]),
            "grid": go.Scatter(**lines, **look[1]),
            "folds": go.Scatter(**marks, **look[2]),
        }

    def _grid(self, plane: Plane) -> np.ndarray:
        """Lines of the deformed grid, `[n, 2]` mm, parted by NaN."""
        rows_columns = [plane.row, plane.column]
        field = plane.picture(self.measured.displacement)[..., rows_columns]
        apart = np.rint(plane.sides.max() / LINES / plane.grid.spacing[rows_columns])
        # Corners of a line that are closer than pixels of the determinant are not seen.
        along = int(self.steps(NODES).max())
        lines = []
        for line in grid_lines(field, np.maximum(apart, 1).astype(int)):
            corners = np.unique([*range(0, len(line), along), len(line) - 1])
            lines += [self.place(line[corners][:, ::-1]), np.full((1, 2), np.nan)]
        return np.concatenate(lines[:-1])

    def _landmarks(self, go, plane: Plane, whole: bool) -> dict:
        pair = self.measured.pair
        start = pair.fixed_landmarks
        end = pair.moving_landmarks
        if self.registered:
            end = start + end - self.measured.pulled_landmarks
        start, end = (plane.grid.to_index(points) for points in (start, end))
        near = np.ones(len(start), bool)
        if plane.normal is not None:
            near = np.abs(start[:, plane.normal] - plane.index) <= LANDMARK_SLICES
        start, end = (self.place(points[near][:, self._axes]) for points in (start, end))
        between = np.full((3 * len(start), 2), np.nan)
        between[0::3], between[1::3] = start, end
        look: list[dict] = [{}, {}]
        if whole:
            what = "what is left of their error" if self.registered else "to their counterparts"
            ring = {"symbol": "circle-open", "size": 8, "color": FIXED, "line": {"width": 2}}
            look[0] = {"mode": "markers", "marker": ring, "name": "fixed landmarks"}
            look[1] = {"mode": "lines", "line": {"color": MOVING, "width": 2}, "name": what}
            for each in look:
                each |= {"hoverinfo": "skip", "showlegend": True}
        return {
            "landmarks": go.Scatter(x=compact(start[:, 0]), y=compact(start[:, 1]), **look[0]),
            "errors": go.Scatter(x=compact(between[:, 0]), y=compact(between[:, 1]), **look[1]),
        }


def _coloured(image: Image) -> np.ndarray:
    return (image if image.channels == 3 else image.grey()).array


def _bytes(array: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(255 * np.clip((array - low) / (high - low), 0, 1)).astype(np.uint8)


def _numbered(shares: np.ndarray) -> np.ndarray:
    """Numbers of the colours of `_palette` for values from -1 to 1, bytes `[rows, columns]`."""
    numbers = np.rint((np.clip(np.nan_to_num(shares), -1, 1) + 1) / 2 * (COLOURS - 1))
    return np.where(np.isnan(shares), COLOURS, numbers).astype(np.uint8)


def _palette() -> list[int]:
    """Red, green and blue of every number; the last one is for what is missing."""
    hues = colormaps[DIFFERENCES](np.linspace(0, 1, COLOURS), bytes=True)[:, :3]
    return [*hues.ravel().tolist(), *GAP]


def _source(array: np.ndarray) -> str:
    """A picture as the address of itself: `[rows, columns, 1 or 3]`, or numbers of colours."""
    buffer = io.BytesIO()
    flat = array.ndim == 2
    array = np.ascontiguousarray(array[..., 0] if array.shape[-1] == 1 and not flat else array)
    picture = Picture.fromarray(array)
    if flat:
        picture.putpalette(_palette())
    picture.save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
