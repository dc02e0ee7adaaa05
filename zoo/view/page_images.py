"""The page of a pair of images: slices to slide through, one image over the other, how it bends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from zoo.data.pair import Pair
from zoo.ops.arguments import checked
from zoo.registration.measure import Measured
from zoo.transform import Affine, Transform
from zoo.view.clouds import as_measured
from zoo.view.page import Page, buttons, frame_slider, plotly_objects, slider
from zoo.view.page_slices import NODES, PIXELS, Album
from zoo.view.planes import Plane, plane_of

SLICES = 32  # of a volume, at most
RIGHT = (0.56, 0.98)  # where the determinant is, shares of the width
SHADES = 10  # steps of the slider from fixed to moved

# How the axes of the world grow in a picture: x and y to the right, y down, z up.
ACROSS = {2: ("x →", "y →"), 3: ("left →", "posterior →", "superior →")}
DOWN = {2: ("← x", "← y"), 3: ("← left", "anterior →", "superior →")}


@checked(slice_axis=(-3, 2))
def image_page(
    pair: Pair, transform: Transform | Measured | None = None, slice_axis: int = -1
) -> Page:
    """A pair of images on the fixed grid, and what a transform does to it.

    A slider leads from the fixed image to the one laid over it, which a menu chooses: the moved or
    the moving one; or else it shows their difference. Beside it are the Jacobian determinant, its
    colours centred on 1, with folds in yellow, and the deformed grid. Volumes have a slider over
    slices. Pictures stand as in `zoo.view.images`.

    At most 32 slices of a volume are drawn, equally far apart, and of large images every second,
    third, ... pixel, so that the longer side has at most 1,024 (in volumes 192); of the
    determinant at most 384 (96). Folds are looked for in all voxels of a slice. Grey values are
    drawn in 256 steps.

    Args:
        pair: of images.
        transform: from fixed to moving space, or what was measured of one for this pair; without
            it the page has the images alone.
        slice_axis: for volumes, the array axis across which slices are cut.

    Raises:
        ValueError: for a pair of clouds, what is no transform, one of another rank, or a slice
            axis that is not there.
    """
    if not pair.is_images:
        raise ValueError("pair must be one of images, not of clouds; cloud_page shows those.")
    go = plotly_objects()
    if transform is not None and not isinstance(transform, Measured):
        _check_rank(transform, pair.rank)
    plane = plane_of(pair.fixed.grid, slice_axis, None)
    measured = as_measured(pair, transform or Affine.identity(pair.rank))
    album = Album.of(measured, plane, transform is not None)
    indices = _slices(plane)
    first = len(indices) // 2
    figure = go.Figure(album.traces(go, replace(plane, index=indices[first])))
    figure.update_layout(_layout(album))
    sliders = [_shade_slider(album)]
    if len(indices) > 1:
        figure.frames = [
            go.Frame(name=str(k), **album.frame(go, replace(plane, index=k))) for k in indices
        ]
        place = {"x": 0, "len": album.split, "y": 0, "pad": {"t": 110, "b": 5}}
        if album.registered:  # below the determinant
            place |= {"x": RIGHT[0], "len": RIGHT[1] - RIGHT[0], "pad": {"t": 30, "b": 5}}
        sliders.append(frame_slider([str(k) for k in indices], first, "slice", **place))
    figure.update_layout(sliders=sliders, updatemenus=[_menu(album)])
    return Page(figure, pair.name, [" ".join(_notes(album, indices))])


def _check_rank(transform: Transform, rank: int):
    try:
        transform.pull(np.zeros((1, rank)))
    except ValueError as error:
        raise ValueError(f"transform must be of rank {rank}, as the pair is: {error}") from error


def _slices(plane: Plane) -> list[int]:
    if plane.normal is None:
        return [0]
    count = plane.grid.shape[plane.normal]
    return sorted({int(k) for k in np.linspace(0, count - 1, min(count, SLICES)).round()})


def _notes(album: Album, indices: list[int]) -> list[str]:
    """What the page shows, and what it leaves out."""
    said = []
    if album.plane.normal is not None:
        count = album.plane.grid.shape[album.plane.normal]
        some = f"{len(indices)} of {count}" if len(indices) < count else f"All {count}"
        said.append(f"{some} slices along axis {album.plane.normal} are drawn.")
    for what, most in (("pictures", PIXELS), ("the determinant", NODES)):
        columns, rows = album.steps(most)
        if max(columns, rows) > 1 and (what == "pictures" or album.registered):
            said.append(f"Of {what} one pixel of {columns} × {rows} is drawn.")
    said.append("Grey values in 256 steps.")
    if album.registered:
        said.append("A click on a name hides it or shows it again.")
    return said


# Layout and controls


def _layout(album: Album) -> dict:
    """Two panels, or one, of one scale, without distortion."""
    world = np.abs(album.plane.grid.direction).argmax(axis=0)
    extent = (album.size - 1) * album.spacing
    half = album.spacing / 2
    across = {
        "range": [float(-half[0]), float(extent[0] + half[0])],
        "title": {"text": ACROSS[album.rank][world[album.plane.column]], "standoff": 4},
    }
    down = {
        "constraintoward": "top",
        "range": [float(extent[1] + half[1]), float(-half[1])],
        "title": {"text": DOWN[album.rank][world[album.plane.row]], "standoff": 4},
    }
    plain = {"showticklabels": False, "ticks": "", "showgrid": False, "zeroline": False}
    plain |= {"constrain": "domain"}
    layout = {
        "margin": {"l": 40, "r": 20, "t": 50, "b": 30},
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "uirevision": "kept",
        "xaxis": {**plain, **across, "domain": [0, album.split - 0.04]},
        "yaxis": {**plain, **down, "scaleanchor": "x"},
        "legend": {
            "orientation": "h",
            "x": 1.0,
            "xanchor": "right",
            "y": 1.02,
            "yanchor": "bottom",
        },
    }
    if album.registered:
        side = {"matches": "x", "domain": list(RIGHT), "anchor": "y2"}
        layout["xaxis2"] = {**plain, **across, **side}
        layout["yaxis2"] = {**plain, **down, "matches": "y", "anchor": "x2", "scaleanchor": "x2"}
    return layout


def _shade_slider(album: Album) -> dict:
    """From the fixed image to what is laid over it."""
    over = list(range(1, 1 + len(album.over)))
    steps = [
        {
            "label": f"{share:.0%}",
            "method": "restyle",
            "args": [{"opacity": share}, over],
        }
        for share in np.linspace(0, 1, SHADES + 1)
    ]
    place = {"x": 0, "len": album.split, "y": 0, "pad": {"t": 30, "b": 5}}
    return slider(steps, SHADES // 2, "fixed (0%) to the one over it (100%)", **place)


def _menu(album: Album) -> dict:
    """Which image lies over the fixed one, or which difference is shown."""
    names = album.pictures
    traces = list(range(len(names) + 1))  # and the bar of the differences
    choices = []
    for name in names[1:]:
        alone = name not in album.over
        seen = [each == name or (each == "fixed" and not alone) for each in names]
        label = name if alone else f"fixed, {name}"
        choices.append(
            {"label": label, "method": "restyle", "args": [{"visible": [*seen, alone]}, traces]}
        )
    place = {"x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "active": 0}
    return buttons(choices, **place)
