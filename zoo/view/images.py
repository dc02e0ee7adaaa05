"""Pictures of an image registration: what was given, what came out, how it differs, how it bends.

Everything is shown on the grid of the fixed image. Volumes are shown by one slice. Pictures stand
as the world does, not as the array is stored: in the plane x runs to the right and y down; in
space left is on the right, anterior (axial) and superior (coronal, sagittal) on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy.ndimage import maximum_filter

from zoo.data.image import Image
from zoo.geometry import Grid
from zoo.io import written_whole
from zoo.view.planes import Plane, plane_of

PERCENTILES = (0.5, 99.5)
LINES = 24  # of the deformed grid along the longer side
RATIOS = (1.05, 8.0)  # the scale of the determinant ends between these, and their inverses
LANDMARK_SLICES = 2  # landmarks of a volume are drawn up to so many slices away

FOLD_PIXELS = 4

NO_DATA = to_rgb("0.8")  # the moving image does not reach here
FOLD = to_rgb("#ffd400")  # not on the diverging map, and told from it without red and green
LINE, FIXED, MOVING = "#ffb000", "#00d0ff", "#ff5a00"

# Inches.
DPI = 140
SIDE = 3.0  # of a square panel; others have the same area
LONGEST, NARROWEST = 4.4, 1.7
GAP, TEXT, BAR, TICKS = 0.12, 0.17, 0.1, 0.28


def registration_figure(
    fixed: Image,
    moving: Image,
    moved: Image,
    path: str | Path,
    displacement: np.ndarray | None = None,
    determinant: np.ndarray | None = None,
    slice_axis: int = -1,
    slice_index: int | None = None,
    title: str | None = None,
    fixed_landmarks: np.ndarray | None = None,
    moving_landmarks: np.ndarray | None = None,
    pulled_landmarks: np.ndarray | None = None,
) -> Path:
    """Draws a registration: images, checkerboard, differences, deformed grid and determinant.

    The window of intensities of the fixed image is its own, because the moving image may be of
    another modality; moving and moved share one. Both differences share a symmetric scale.

    With landmarks, the fixed panel links each fixed landmark to its counterpart in the moving
    image, and the checkerboard links it to the same point plus `moving - pulled`: the length of
    that line is the error that the registration left. Titles give the means over all landmarks.

    Args:
        fixed: the fixed image, one channel, three (shown as red, green and blue) or others (shown
            as their mean).
        moving: the moving image, on any grid; it is resampled to that of the fixed image.
        moved: the moving image after registration, on the grid of the fixed image.
        path: the PNG to write; it appears complete or not at all.
        displacement: `[*spatial, rank]` in voxels of the fixed grid, which leads from a fixed
            voxel to its place in the moving image; None leaves out the deformed grid.
        determinant: `[*spatial]`, that of the Jacobian of `x + displacement(x)`, without unit;
            None leaves it out. Voxels that are not positive are marked in yellow; their
            percentage is that of the whole array.
        slice_axis: for volumes, the array axis across which the slice is cut.
        slice_index: for volumes, which slice; negative ones count from the end, None is the
            middle.
        title: above all panels.
        fixed_landmarks: `[n, rank]` in the world, mm. In volumes those near the slice are drawn.
        moving_landmarks: their counterparts in the moving image, `[n, rank]`.
        pulled_landmarks: the fixed landmarks carried to the moving space by the registration,
            `[n, rank]`.

    Returns:
        The path that was written.

    Raises:
        ValueError: if moved is not on the grid of fixed, or moving of another rank; for a
            displacement, determinant or landmarks of the wrong shape; for a slice that is not
            there; for moving or pulled landmarks without fixed ones.
    """
    figure = _draw(
        fixed,
        moving,
        moved,
        displacement,
        determinant,
        plane_of(fixed.grid, slice_axis, slice_index),
        title,
        {"fixed": fixed_landmarks, "moving": moving_landmarks, "pulled": pulled_landmarks},
    )
    path = Path(path)
    with written_whole(path) as partial:
        figure.savefig(partial, format="png")
    return path


def checkerboard(
    fixed: np.ndarray, moved: np.ndarray, squares: int | Sequence[int] = 8
) -> np.ndarray:
    """Two pictures in alternating squares, the first of them from `fixed`.

    Args:
        fixed: `[a, b]` or `[a, b, channels]`.
        moved: likewise, of the same shape.
        squares: how many along the longer of the first two axes, or along each of them.

    Returns:
        An array of the same shape.

    Raises:
        ValueError: for arrays that are no pictures or differ in shape, or squares below 1.
    """
    fixed, moved = np.asarray(fixed), np.asarray(moved)
    if fixed.ndim not in (2, 3) or moved.shape != fixed.shape:
        raise ValueError(
            "fixed and moved must have the same shape [a, b] or [a, b, channels], not "
            f"{fixed.shape} and {moved.shape}."
        )
    sides = np.asarray(fixed.shape[:2])
    counts = np.asarray(squares)
    if counts.shape not in ((), (2,)) or (counts < 1).any():
        raise ValueError(f"squares must be one or two numbers of at least 1, not {squares}.")
    if counts.ndim == 0:
        counts = np.maximum(np.rint(counts * sides / sides.max()), 1)
    rows, columns = (
        (np.arange(side) * count // side).astype(int)
        for side, count in zip(sides, counts, strict=True)
    )
    from_moved = (rows[:, None] + columns) % 2 == 1
    return np.where(from_moved.reshape(*sides, *(1,) * (fixed.ndim - 2)), moved, fixed)


def difference(fixed: Image, moving: Image) -> np.ndarray:
    """`fixed - moving` on the grid of the fixed image, in grey values.

    Args:
        fixed: an image; several channels count as one, see `Image.grey`.
        moving: likewise, on any grid of the same rank.

    Returns:
        float32 `[*spatial]`, NaN where the moving image does not reach.
    """
    there, inside = _resampled(moving.grey(), fixed.grid)
    return np.where(inside, fixed.grey().array[..., 0] - there.array[..., 0], np.float32(np.nan))


def grid_lines(displacement: np.ndarray, steps: Sequence[int]) -> list[np.ndarray]:
    """Lines of a regular grid in the plane, each point moved by the displacement there.

    Args:
        displacement: `[a, b, 2]` in voxels, components in the order of the axes.
        steps: voxels from line to line along each axis, at least 1. The first and the last line
            are equally far from the border, up to one voxel.

    Returns:
        Lines `[n, 2]` in voxels: first those that run along the second axis.
    """
    displacement = np.asarray(displacement, dtype=np.float64)
    sides = displacement.shape[:2]
    position = np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), axis=-1) + displacement
    first, second = (
        range((side - 1) % step // 2, side, step) for side, step in zip(sides, steps, strict=True)
    )
    return [position[k] for k in first] + [position[:, k] for k in second]


def intensity_window(*arrays: np.ndarray) -> tuple[float, float]:
    """The range of grey values that is shown, common to all arrays.

    Args:
        arrays: of any shape.

    Returns:
        Two percentiles of all values; the extremes where those coincide; never an empty range.
    """
    values = np.concatenate([np.ravel(array) for array in arrays])
    low, high = map(float, np.percentile(values, PERCENTILES))
    if not high > low:
        low, high = float(values.min()), float(values.max())
    return low, high if high > low else low + 1.0


def determinant_limit(determinant: np.ndarray) -> float:
    """Where the logarithmic scale of a Jacobian determinant ends; it begins at the inverse.

    Args:
        determinant: of any shape.
    """
    ratio = np.abs(np.log(determinant[determinant > 0]))
    limit = np.exp(np.percentile(ratio, PERCENTILES[1])) if ratio.size else 1.0
    # A narrower range would show the rounding errors of a rigid map as structure, a wider one,
    # from voxels about to fold, would show all others as white.
    return float(np.clip(limit, *RATIOS))


def percent(value: float) -> str:
    """A percentage in words."""
    return "0 %" if value == 0 else "< 0.01 %" if value < 0.01 else f"{value:.2f} %"


# Drawing


def _draw(fixed, moving, moved, displacement, determinant, plane, title, landmarks) -> Figure:
    _check(fixed, moving, moved, displacement, determinant)
    landmarks = _checked_landmarks(landmarks, fixed.rank)
    if moving.grid.close_to(fixed.grid):
        # Cut, not interpolated: equal images differ by exactly nothing.
        moving = plane.cut(moving)
    fixed, moved = plane.cut(fixed), plane.cut(moved)
    before, after = (plane.picture(difference(fixed, image)) for image in (moving, moved))
    moving, inside = _resampled(moving, fixed.grid)
    pictures = _pictures(plane, fixed, moving, moved)
    pictures["moving"][~plane.picture(inside)] = NO_DATA

    names = ["fixed", "moving", "moved", "checkerboard", "fixed - moving", "fixed - moved"]
    titles = {name: name.replace(" - ", " \N{MINUS SIGN} ") for name in names}
    if displacement is not None:
        titles["grid"] = "deformed grid"
    if determinant is not None:
        folded = 100 * float((np.asarray(determinant) <= 0).mean())
        titles["determinant"] = f"Jacobian determinant\n{percent(folded)} not positive"
    links = _links(**landmarks)
    for name, (start, end, words) in links.items():
        if end is not None:
            apart = np.linalg.norm(end - start, axis=1).mean()
            titles[name] += f"\n{words}: {apart:.3g} mm"

    header = []
    if links:
        header.append("landmarks: \N{WHITE CIRCLE} fixed, \N{MULTIPLICATION SIGN} counterpart")
    if plane.normal is not None:
        count = plane.grid.shape[plane.normal]
        header.append(f"slice {plane.index} of 0\N{EN DASH}{count - 1} along axis {plane.normal}")
    figure, panels, bars = _layout(titles, plane.sides, title, "    ".join(header))

    for name, picture in pictures.items():
        plane.show(panels[name], picture)
    for name, (start, end, _) in links.items():
        _draw_landmarks(panels[name], plane, start, end)
    _draw_differences(panels, bars, plane, before, after)
    if displacement is not None:
        _draw_grid(panels["grid"], plane, np.asarray(displacement), pictures["fixed"])
    if determinant is not None:
        values = plane.picture(np.asarray(determinant, dtype=np.float64))
        _draw_determinant(panels["determinant"], bars["determinant"], plane, values)
    return figure


def _pictures(plane: Plane, fixed: Image, moving: Image, moved: Image) -> dict[str, np.ndarray]:
    """`[rows, columns, 3]` within [0, 1] for each panel that shows intensities."""
    arrays = {}
    for name, image in (("fixed", fixed), ("moving", moving), ("moved", moved)):
        array = plane.picture((image if image.channels == 3 else image.grey()).array)
        arrays[name] = np.broadcast_to(array, (*array.shape[:2], 3))
    windows = {"fixed": intensity_window(arrays["fixed"])}
    windows["moving"] = windows["moved"] = intensity_window(arrays["moving"], arrays["moved"])
    pictures = {}
    for name, array in arrays.items():
        low, high = windows[name]
        pictures[name] = np.clip((array - low) / (high - low), 0, 1)
    # Square in mm, whatever the spacing.
    width, height = np.maximum(np.rint(8 * plane.sides / plane.sides.max()), 1)
    board = checkerboard(pictures["fixed"], pictures["moved"], (height, width))
    return pictures | {"checkerboard": board}


def _layout(titles: dict[str, str], sides: np.ndarray, title: str | None, header: str):
    """Figure, axes by name, axes of colour bars by name.

    Placed by hand, so that all panels are of one size and colour bars take nothing from them.
    """
    width, height = SIDE * np.sqrt(sides / sides[::-1])
    shrink = min(LONGEST / max(width, height), 1)
    width, height = max(width * shrink, NARROWEST), height * shrink
    columns = 3 if len(titles) == 6 else 4
    names = list(titles)
    rows = [names[:columns], names[columns:]]
    heads = [TEXT * (1.5 + max(titles[name].count("\n") for name in row)) for row in rows]
    top = 2 * TEXT if title or header else 0.0
    total = np.array(
        [
            columns * (width + GAP) + GAP,
            top + sum(heads) + 2 * height + 2 * GAP + BAR + TICKS,
        ]
    )
    figure = Figure(figsize=total, dpi=DPI)
    FigureCanvasAgg(figure)

    def place(left: float, below: float, wide: float, high: float) -> Axes:
        """Axes by their left and lower edge; `below` is measured from the top."""
        return figure.add_axes(
            (left / total[0], 1 - below / total[1], wide / total[0], high / total[1])
        )

    panels, lefts, below = {}, {}, top
    for row, head in zip(rows, heads, strict=True):
        below += head + height
        for k, name in enumerate(row):
            lefts[name] = GAP + k * (width + GAP)
            panels[name] = place(lefts[name], below, width, height)
            panels[name].set_title(titles[name], fontsize=9, pad=3)
        below += GAP
    # Below the second row, one for both differences.
    both = 2 * width + GAP
    bars = {"difference": place(lefts["fixed - moving"] + both / 4, below + BAR, both / 2, BAR)}
    if "determinant" in titles:
        left = lefts["determinant"] + 0.1 * width
        bars["determinant"] = place(left, below + BAR, 0.8 * width, BAR)
    line = 1 - TEXT / total[1]
    if title:
        figure.text(GAP / total[0], line, title, fontsize=11, weight="bold", va="center")
    if header:
        side = 1 - GAP / total[0]
        figure.text(side, line, header, fontsize=9, color="0.35", va="center", ha="right")
    return figure, panels, bars


def _draw_differences(panels, bars, plane, before, after):
    sizes = np.abs(np.stack([before, after]))
    sizes = sizes[np.isfinite(sizes)]
    limit = np.percentile(sizes, PERCENTILES[1]) or sizes.max() or 1.0
    colours = colormaps["RdBu_r"].with_extremes(bad=NO_DATA)
    for name, picture in (("fixed - moving", before), ("fixed - moved", after)):
        shown = plane.show(panels[name], picture, cmap=colours, vmin=-limit, vmax=limit)
    beyond = "both" if sizes.max() > limit else "neither"
    bar = panels["fixed - moved"].figure.colorbar(
        shown, cax=bars["difference"], orientation="horizontal", extend=beyond
    )
    bar.ax.tick_params(labelsize=8, length=2, pad=1)


def _draw_grid(axes: Axes, plane: Plane, displacement: np.ndarray, behind: np.ndarray):
    # Dark enough for the lines to stand out from white slides as well as from scans.
    plane.show(axes, 0.5 * behind)
    components = [plane.row, plane.column]
    field = plane.picture(displacement)[..., components]
    steps = np.rint(plane.sides.max() / LINES / plane.grid.spacing[components])
    lines = grid_lines(field, np.maximum(steps, 1).astype(int))
    lines = [line[:, ::-1] for line in lines]
    axes.add_collection(LineCollection(lines, colors=LINE, linewidths=0.7))


def _draw_determinant(axes: Axes, bar_axes: Axes, plane: Plane, values: np.ndarray):
    folded = values <= 0
    limit = determinant_limit(values)
    colours = colormaps["RdBu_r"].with_extremes(bad=NO_DATA)
    # Without zeros, which have no logarithm; folds are drawn over it.
    logarithmic = np.maximum(values, 1 / limit)
    shown = plane.show(axes, logarithmic, cmap=colours, norm=LogNorm(1 / limit, limit))
    if folded.any():
        # Scaling down must not make single folds vanish: each is at least so many pixels wide.
        panel = axes.get_window_extent()
        size = np.ceil(FOLD_PIXELS * np.divide(folded.shape, (panel.height, panel.width)))
        mark = np.zeros((*folded.shape, 4))
        mark[maximum_filter(folded, size=tuple(size.astype(int)))] = to_rgba(FOLD)
        plane.show(axes, mark, interpolation="nearest")
    bar = axes.figure.colorbar(shown, cax=bar_axes, orientation="horizontal", extend="both")
    bar.ax.xaxis.set_major_locator(FixedLocator(limit ** np.array([-1, -0.5, 0, 0.5, 1])))
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    bar.ax.tick_params(labelsize=8, length=2, pad=1)


def _draw_landmarks(axes: Axes, plane: Plane, start: np.ndarray, end: np.ndarray | None):
    """Circles at world points `[n, rank]`, with lines to crosses at others."""
    start = plane.grid.to_index(start)
    near = np.ones(len(start), dtype=bool)
    if plane.normal is not None:
        near = np.abs(start[:, plane.normal] - plane.index) <= LANDMARK_SLICES
    shown = [plane.column, plane.row]
    start = start[near][:, shown]
    if end is not None:
        end = plane.grid.to_index(end)[near][:, shown]
        lines = np.stack([start, end], axis=1)
        axes.add_collection(LineCollection(lines, colors=MOVING, linewidths=1.0))
        axes.plot(*end.T, "x", color=MOVING, markersize=4, markeredgewidth=1.2)
    axes.plot(*start.T, "o", color=FIXED, markersize=4.5, markeredgewidth=1.2, fillstyle="none")


def _links(fixed, moving, pulled) -> dict:
    """For each panel with landmarks: where lines begin and end, and what their length is."""
    if fixed is None:
        return {}
    links = {"fixed": (fixed, moving, "mean TRE before")}
    if moving is None:
        links["fixed"] = (fixed, pulled, "mean displacement")
    left = None if moving is None or pulled is None else fixed + moving - pulled
    return links | {"checkerboard": (fixed, left, "mean TRE after")}


def _resampled(image: Image, grid: Grid) -> tuple[Image, np.ndarray]:
    """The image on another grid, and where it has values there, bool `[*spatial]`."""
    if image.grid.close_to(grid):
        return image, np.ones(grid.shape, dtype=bool)
    return image.resample(grid, outside=None), image.grid.contains(grid.coordinates())


# Checks


def _check(fixed, moving, moved, displacement, determinant):
    grid = fixed.grid
    if moving.rank != grid.rank:
        raise ValueError(
            f"moving must have {grid.rank} spatial axes as fixed has, not {moving.rank}."
        )
    if moved.shape != grid.shape:
        raise ValueError(f"moved must have the shape {grid.shape} of fixed, not {moved.shape}.")
    if not moved.grid.close_to(grid):
        raise ValueError(
            f"moved must lie on the grid of fixed, {_where(grid)}, not {_where(moved.grid)}."
        )
    for name, array, shape in (
        ("displacement", displacement, (*grid.shape, grid.rank)),
        ("determinant", determinant, grid.shape),
    ):
        if array is not None and np.shape(array) != shape:
            raise ValueError(f"{name} must have the shape {shape}, not {np.shape(array)}.")


def _where(grid: Grid) -> str:
    return (
        f"spacing {grid.spacing.tolist()}, origin {grid.origin.tolist()}, direction "
        f"{grid.direction.tolist()}"
    )


def _checked_landmarks(landmarks: dict, rank: int) -> dict:
    given = {name: points for name, points in landmarks.items() if points is not None}
    if given and "fixed" not in given:
        raise ValueError(
            f"fixed_landmarks must be given with {next(iter(given))}_landmarks, not None."
        )
    checked = dict.fromkeys(landmarks)
    for name, points in given.items():
        points = np.asarray(points, dtype=np.float64)
        count = "n" if name == "fixed" else len(checked["fixed"])
        right = points.ndim == 2 and points.shape[1] == rank and len(points)
        if not right or count not in ("n", len(points)):
            raise ValueError(
                f"{name}_landmarks must have the shape [{count}, {rank}], not {points.shape}."
            )
        checked[name] = points
    return checked
