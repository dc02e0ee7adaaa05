"""A page that opens without a server and without a network: one figure of plotly, and words."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, to_hex

from zoo.io import require, written_whole

FRAME_HEIGHT = 720  # of a page in a notebook, pixels
STOPS = 64  # of a scale of colours
INK, PALE, BACKGROUND = "#222", "#d8d8d8", "#fff"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
# Nothing that the page holds may leave it: plotly's button to share a chart would upload it.
CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "scrollZoom": True,
    "showSendToCloud": False,
    "modeBarButtonsToRemove": ["sendChartToCloud"],
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
html, body {{ height: 100%; margin: 0; background: {background}; color: {ink}; }}
body {{ display: flex; flex-direction: column; font: 14px/1.4 {font}; }}
h1 {{ font-size: 17px; font-weight: 600; margin: 12px 16px 0; }}
p {{ margin: 4px 16px 0; color: #555; }}
main {{ flex: 1 1 auto; min-height: 420px; position: relative; }}
main > div {{ position: absolute; inset: 0; }}
</style>
</head>
<body>
<h1>{title}</h1>
{notes}
<main>
{figure}
</main>
</body>
</html>
"""


class Page:
    """An interactive page; in a notebook it shows itself.

    Attributes:
        figure: a `plotly.graph_objects.Figure`.
        title: above it.
        notes: sentences below the title, each a paragraph: what is drawn, and what was left out.
    """

    def __init__(self, figure, title: str, notes: Sequence[str] = ()):
        self.figure, self.title, self.notes = figure, title, tuple(notes)

    def __repr__(self) -> str:
        return f"Page({self.title!r})"

    def html(self) -> str:
        """The whole page, plotly.js (4.8 MB) included."""
        figure = self.figure.to_html(
            full_html=False,
            include_plotlyjs=True,
            auto_play=False,
            div_id="figure",
            config=CONFIG,
        )
        return _PAGE.format(
            title=escape(self.title),
            notes="\n".join(f"<p>{escape(note)}</p>" for note in self.notes),
            figure=figure,
            background=BACKGROUND,
            ink=INK,
            font=FONT,
        )

    def save(self, path: str | Path) -> Path:
        """Writes the page; it appears complete or not at all.

        Args:
            path: the .html to write.

        Returns:
            The path that was written.

        Raises:
            ValueError: for another suffix.
        """
        if not isinstance(path, str | Path) or Path(path).suffix.lower() != ".html":
            raise ValueError(f"path must end in .html, not {str(path)!r}.")
        path = Path(path).expanduser()
        with written_whole(path) as partial:
            partial.write_text(self.html(), encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escape(self.html())}" width="100%" height="{FRAME_HEIGHT}" '
            'style="border: 0"></iframe>'
        )


def plotly_objects():
    """`plotly.graph_objects`.

    Raises:
        ImportError: if plotly is missing, with the command that installs it.
    """
    return require("plotly.graph_objects", "plotly", "a page")


def compact(values) -> np.ndarray:
    """Numbers as they go into a page: single precision, where that still tells them apart."""
    values = np.asarray(values)
    if values.dtype.kind != "f":
        return values.astype(np.int32)
    finite = values[np.isfinite(values)]
    if finite.size:
        largest, apart = np.abs(finite).max(), np.ptp(finite)
        # Less than that is no more than rounding of double precision.
        if 1e-9 * largest < apart < 1e4 * np.spacing(np.float32(largest)):
            return values.astype(np.float64)
    return values.astype(np.float32)


def scale_of(colours: Colormap | str, start: float = 0.0) -> list[list]:
    """A colour map of matplotlib as a scale of plotly.

    Args:
        colours: the map, or its name.
        start: where it begins, from 0 to 1.
    """
    colours = colormaps[colours] if isinstance(colours, str) else colours
    shares = np.linspace(0, 1, STOPS)
    return [[float(k), to_hex(colours(start + (1 - start) * k))] for k in shares]


def frame_slider(names: Sequence[str], active: int, label: str, **place) -> dict:
    """A slider that goes from frame to frame of a figure.

    Args:
        names: of the frames, which are also its marks.
        active: which of them is shown first.
        label: what stands before the mark that is shown.
        **place: where it is, as plotly has it: `x`, `y`, `len`, `pad`.
    """
    at_once = {"mode": "immediate", "transition": {"duration": 0}}
    steps = [
        {
            "label": name,
            "method": "animate",
            "args": [[name], at_once | {"frame": {"duration": 0, "redraw": True}}],
        }
        for name in names
    ]
    return slider(steps, active, label, **place)


def slider(steps: list[dict], active: int, label: str, **place) -> dict:
    """A slider of plotly, in the looks of all pages."""
    return {
        "steps": steps,
        "active": active,
        "currentvalue": {"prefix": f"{label}: ", "font": {"size": 13}, "xanchor": "left"},
        "font": {"size": 11, "color": "#666"},
        "tickcolor": PALE,
        "bordercolor": PALE,
        "bgcolor": "#eee",
        "activebgcolor": "#888",
        "transition": {"duration": 0},
        **place,
    }


def buttons(choices: list[dict], kind: str = "buttons", **place) -> dict:
    """A row of buttons, or a menu (`kind="dropdown"`), in the looks of all pages."""
    return {
        "type": kind,
        "direction": "right" if kind == "buttons" else "down",
        "buttons": choices,
        "bgcolor": "#f6f6f6",
        "bordercolor": PALE,
        "font": {"size": 12},
        **place,
    }
