"""Pictures of a cloud registration: before, after, how points travel, and which errors are left.

Clouds in space are seen along the shortest side of the fixed cloud, a little from the right and
from above; z points up, or y where z is that side. In the plane x runs to the right and y up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from zoo.data.pair import Pair
from zoo.io import written_whole
from zoo.registration.measure import Measured
from zoo.transform import Transform
from zoo.view.surfaces import EYE, REACH, Scene, polyscope_pictures

SHOWN = 30_000  # points of a cloud, at most
LINES = {2: 400, 3: 800}  # of the flow, at most, by rank
TAIL = 0.05  # share of the points at each end of an axis, or of the errors, that may lie anywhere
WIDENED = 0.5  # how far beyond the other points they still count, of the longest side
MARGIN = 0.04  # around the points, of the longest side
APART = 2.0  # a frame so many times that of the registered clouds is too wide for them
LONGEST = 0.98  # quantile of the lengths that has the last colour
BINS = (10, 40)
DECADES = 6  # of the histogram, at most
STEPS = (1, 2, 5, 10)  # round numbers

FIXED, MOVING = (0.10, 0.42, 0.72), (0.95, 0.52, 0.10)
FADED = 0.6  # how much of its colour the farthest point loses
BEFORE, AFTER = "0.72", "#5b2a86"
# Without its end, which is too pale for lines on white.
LENGTHS = ListedColormap(colormaps["plasma_r"](np.linspace(0.12, 1, 256)))

# Inches.
DPI = 140
SIDE = 3.7  # of a square panel; others have the same area
NARROWEST = 0.6  # panel, width over height or the inverse
LEGEND, TITLE, SCALE = 0.34, 0.32, 0.24
BAR, NUMBERS = 0.09, 0.42
COUNTS = 0.45  # beside the histogram


def cloud_registration_figure(
    pair: Pair,
    path: str | Path,
    transform: Transform | Measured | None = None,
    renderer: str = "auto",
) -> str:
    """Draws a registration of clouds: before, after, the flow, and a histogram of the errors.

    Fixed points are blue, moving ones orange. Lines of the flow lead from randomly chosen moving
    points to the dots where these arrive. Errors are those of `registration_errors`. Of a large
    cloud random points are drawn. Few points far from all others do not widen the frame; titles
    count those that lie outside.

    Args:
        pair: a pair of clouds, in the plane or in space.
        path: the PNG to write; it appears complete or not at all.
        transform: from fixed to moving space, or what was measured of one for this pair, so that
            nothing is computed again; without it only the panel before is drawn.
        renderer: of clouds in space before and after: "polyscope", "matplotlib", or "auto",
            polyscope if it can render here. The plane and the flow are drawn by matplotlib.

    Returns:
        The renderer that drew the clouds.

    Raises:
        TypeError: for a transform that is none.
        ValueError: for a pair of images, an unknown renderer, polyscope for clouds in the plane, a
            transform of another rank, or one that carries points to NaN or infinity.
        RuntimeError: if polyscope was demanded and cannot render here.
    """
    check(pair, transform, renderer)
    figure, drawn_by = _draw(pair, transform, renderer)
    with written_whole(path) as partial:
        figure.savefig(partial)
    return drawn_by


def registration_errors(
    pair: Pair, transform: Transform | Measured
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What is left of the distance between two clouds, point by point.

    With landmarks, the distances of the fixed ones, pulled, to the moving ones. Without, those of
    every point to the nearest one of the other cloud, in both directions, each of which counts one
    half: their mean is the Chamfer distance. Both are as `zoo.registration.measure` has them.

    Args:
        pair: a pair of clouds.
        transform: from fixed to moving space, or what was measured of one for this pair.

    Returns:
        For "before" and "after" distances `[n]` in world units, and their shares `[n]` of the
        whole, which add up to 1.

    Raises:
        ValueError: for a transform of another rank, or one that carries points to NaN or infinity.
    """
    measured = as_measured(pair, transform)
    states = {"before": measured.initial, "after": measured}
    if pair.fixed_landmarks is None:
        moved_points(measured)
        return {name: _nearest(each) for name, each in states.items()}
    moving = pair.moving_landmarks
    share = np.full(len(moving), 1 / len(moving))
    _checked(measured, "pulled_landmarks")
    return {
        name: (np.linalg.norm(each.pulled_landmarks - moving, axis=1), share)
        for name, each in states.items()
    }


def robust_box(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bounding box of a cloud without the few points that lie far from all others.

    Args:
        points: `[n, d]`.

    Returns:
        Its lower and its upper corner, each `[d]`.
    """
    low, high = np.quantile(points, (TAIL, 1 - TAIL), axis=0)
    reach = WIDENED * (high - low).max()
    if reach > 0:  # Otherwise most points are one, and the others all that there is to see.
        near = (points >= low - reach) & (points <= high + reach)
        points = points[near.all(axis=1)]
    return points.min(axis=0), points.max(axis=0)


def _nearest(measured: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Distances to the nearest point of the other cloud and their shares, each `[n + m]`."""
    both = measured.nearest[::-1]
    shares = [np.full(len(distances), 0.5 / len(distances)) for distances in both]
    return np.concatenate(both), np.concatenate(shares)


def as_measured(pair: Pair, transform: Transform | Measured) -> Measured:
    """What a transform makes of a pair, unless it is that already."""
    return transform if isinstance(transform, Measured) else Measured(transform, pair)


def moved_points(measured: Measured) -> np.ndarray:
    """The moving cloud in the fixed space `[n, rank]`, if all of it goes to finite places."""
    return _checked(measured, "moved_points")


def _checked(measured: Measured, what: str) -> np.ndarray:
    """What a transform carries, if it carries all points to somewhere."""
    try:
        carried = getattr(measured, what)
    except ValueError as error:
        rank = measured.pair.rank
        raise ValueError(
            f"transform must carry points of rank {rank}, as the pair has them: {error}"
        ) from error
    lost = int((~np.isfinite(carried)).any(axis=1).sum())
    if lost:
        raise ValueError(
            f"transform must carry all points to finite places; {lost} of {len(carried)} go to "
            "NaN or infinity."
        )
    return carried


def check(pair: Pair, transform: Transform | Measured | None, renderer: str = "auto"):
    """Checks the arguments of a picture of clouds.

    Raises:
        TypeError: for a transform that is none.
        ValueError: for a pair of images, or an unknown renderer.
    """
    if pair.is_images:
        raise ValueError("pair must be one of clouds, not of images; zoo.view.images draws those.")
    if not (transform is None or isinstance(transform, Measured) or hasattr(transform, "pull")):
        raise TypeError(f"transform must be a zoo.Transform, not {type(transform).__name__}.")
    known = ("auto", "matplotlib") if pair.rank == 2 else ("auto", "polyscope", "matplotlib")
    if renderer not in known:
        raise ValueError(
            f"renderer must be one of {known} for clouds of rank {pair.rank}, not {renderer!r}."
        )


# How the world is looked at


def viewpoint(points: np.ndarray) -> np.ndarray:
    """`[3, rank]`: the directions in the world of right, up and towards the eye."""
    if points.shape[1] == 2:
        return np.eye(3, 2)
    low, high = robust_box(points)
    depth = int((high - low).argmin())
    upright = np.eye(3)[[axis for axis in range(3) if axis != depth] + [depth]]
    upright[2] *= np.linalg.det(upright)  # Not a mirror image.
    return _turn() @ upright


def _turn() -> np.ndarray:
    """`[3, 3]`: right, up and towards the eye for who looks from `EYE` to the origin, y up."""
    towards = np.array(EYE) / np.linalg.norm(EYE)
    right = np.cross((0, 1, 0), towards)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(towards, right), towards])


@dataclass(frozen=True, eq=False)
class _Frame:
    """The box that a panel shows, in coordinates right, up and towards the eye, in world units.

    Attributes:
        low: `[3]`.
        high: `[3]`.
    """

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def around(cls, *clouds: np.ndarray) -> _Frame:
        """The frame of clouds, with a margin."""
        lows, highs = zip(*map(robust_box, clouds), strict=True)
        low, high = np.min(lows, axis=0), np.max(highs, axis=0)
        margin = MARGIN * (high - low).max()
        return cls(low - margin, high + margin)

    @property
    def centre(self) -> np.ndarray:
        return (self.low + self.high) / 2

    @property
    def half(self) -> float:
        """Half of the longest side."""
        return float((self.high - self.low).max() / 2)

    @property
    def sides(self) -> np.ndarray:
        """Width and height of the panel, neither too narrow for its title."""
        sides = (self.high - self.low)[:2]
        return np.maximum(sides, NARROWEST * sides.max())

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Which points lie inside, bool `[n]`."""
        return ((points >= self.low) & (points <= self.high)).all(axis=1)

    def scene(self, points: np.ndarray, colours: np.ndarray) -> Scene:
        """Points inside for polyscope, which looks from its own eye."""
        points = (points - self.centre) / self.half
        # Undoes the perspective, which neither the flow nor the scale has.
        points[:, :2] *= 1 - points[:, 2:] / np.linalg.norm(EYE)
        return points @ _turn(), None, colours


def _frames(fixed: np.ndarray, moving: np.ndarray, moved: np.ndarray | None) -> dict[str, _Frame]:
    if moved is None:
        return {"before": _Frame.around(fixed, moving)}
    whole, registered = _Frame.around(fixed, moving, moved), _Frame.around(fixed, moved)
    # One for all, so that panels compare, unless a moving cloud from far away would make a dot of
    # what is registered.
    after = registered if whole.half > APART * registered.half else whole
    return {"before": whole, "after": after, "flow": whole}


def _mixed(clouds: tuple, frame: _Frame) -> tuple[np.ndarray, np.ndarray]:
    """Points of both clouds inside, `[n, 3]`, in an order that prefers none; their colours."""
    shown = [some_rows(points[frame.holds(points)], SHOWN) for points in clouds]
    colours = np.repeat([FIXED, MOVING], [len(points) for points in shown], axis=0)
    order = some_rows(np.arange(len(colours)), len(colours))
    return np.concatenate(shown)[order], colours[order]


def some_rows(values: np.ndarray, count: int) -> np.ndarray:
    """At most so many rows, drawn at random, the same ones every time."""
    return values[np.random.default_rng(0).permutation(len(values))[:count]]


# Drawing


def _draw(pair: Pair, transform: Transform | Measured | None, renderer: str) -> tuple[Figure, str]:
    """The figure, and who drew the clouds."""
    view = viewpoint(pair.fixed.points)
    fixed, moving = pair.fixed.points @ view.T, pair.moving.points @ view.T
    clouds, moved = {"before": (fixed, moving)}, None
    if transform is not None:
        measured = as_measured(pair, transform)
        moved = moved_points(measured) @ view.T
        clouds["after"] = (fixed, moved)
    frames = _frames(fixed, moving, moved)
    pictures = None
    if pair.rank == 3:
        scenes = [frames[name].scene(*_mixed(both, frames[name])) for name, both in clouds.items()]
        pictures = polyscope_pictures(scenes, renderer)
    figure, axes = _layout(frames)
    for index, (name, both) in enumerate(clouds.items()):
        if pictures is None:
            _draw_points(axes[name], *_mixed(both, frames[name]), frames[name])
        else:
            _draw_picture(axes[name], pictures[index], frames[name])
        _finish(axes[name], name, both, frames[name])
    _draw_legend(figure, pair)
    if transform is not None:
        _draw_flow(axes["flow"], axes["lengths"], moving, moved, frames["flow"], LINES[pair.rank])
        what = "points" if pair.fixed_landmarks is None else "landmarks"
        _draw_errors(axes["errors"], registration_errors(pair, measured), what)
    return figure, "matplotlib" if pictures is None else "polyscope"


def _layout(frames: dict[str, _Frame]) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and axes by name: those of the frames, and of `lengths` and `errors`."""
    sides = frames["before"].sides
    width, height = SIDE * np.sqrt(sides / sides[::-1])
    upper = LEGEND + TITLE + height + SCALE
    if "after" not in frames:
        figure = Figure(figsize=(width, upper), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        return figure, {"before": figure.add_subplot()}
    lower = TITLE + height + BAR + NUMBERS
    figure = Figure(figsize=(2 * width + COUNTS, upper + lower), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 2, height_ratios=(height, height, BAR))
    places = {
        "before": grid[0, 0],
        "after": grid[0, 1],
        "flow": grid[1, 0],
        "lengths": grid[2, 0],
        "errors": grid[1:, 1],
    }
    return figure, {name: figure.add_subplot(place) for name, place in places.items()}


def _draw_points(axes: Axes, points: np.ndarray, colours: np.ndarray, frame: _Frame):
    order = np.argsort(points[:, 2], kind="stable")  # From back to front.
    points, colours = points[order], colours[order]
    if np.ptp(points[:, 2]) > 0:
        away = (frame.high[2] - points[:, 2:]) / (frame.high[2] - frame.low[2])
        colours += FADED * away * (1 - colours)
    size = float(np.clip(300 / np.sqrt(len(points)), 1.0, 16.0))
    axes.scatter(*points[:, :2].T, s=size, c=colours, linewidths=0)


def _draw_picture(axes: Axes, picture: np.ndarray, frame: _Frame):
    reach = REACH * frame.half
    left, bottom = frame.centre[:2] - reach
    axes.imshow(picture, extent=(left, left + 2 * reach, bottom, bottom + 2 * reach))


def _finish(axes: Axes, title: str, clouds: tuple, frame: _Frame):
    outside = sum(int((~frame.holds(points)).sum()) for points in clouds)
    if outside:
        title += f" ({outside:,} outside)"
    _limit(axes, title, frame)
    # A bar of a round length below the panel.
    _, length, *_ = MaxNLocator(6, steps=STEPS).tick_values(0, frame.sides[0])
    left, _ = axes.get_xlim()
    place = axes.get_xaxis_transform()
    axes.plot([left, left + length], [-0.02] * 2, "k", lw=1, transform=place, clip_on=False)
    style = {"fontsize": 8, "ha": "center", "va": "top"}
    axes.text(left + length / 2, -0.03, f"{length:g} units", transform=place, **style)


def _limit(axes: Axes, title: str, frame: _Frame):
    """Lets axes show just the frame, undistorted."""
    ends = np.stack([frame.centre[:2] - frame.sides / 2, frame.centre[:2] + frame.sides / 2])
    axes.set(xlim=ends[:, 0], ylim=ends[:, 1], aspect="equal", anchor="N")
    axes.set_title(title, fontsize=11)
    axes.set_axis_off()


def _draw_legend(figure: Figure, pair: Pair):
    handles = []
    for name, cloud, colour in (("fixed", pair.fixed, FIXED), ("moving", pair.moving, MOVING)):
        count = f"{len(cloud):,} points"
        if len(cloud) > SHOWN:
            count = f"{SHOWN:,} of {count}"
        label = f"{name}, {count}"
        handles.append(Line2D([], [], color=colour, marker="o", linestyle="", label=label))
    style = {"frameon": False, "fontsize": 9, "handletextpad": 0.1, "columnspacing": 1.5}
    figure.legend(handles=handles, loc="outside upper center", ncols=2, **style)


def _draw_flow(axes: Axes, bar_axes: Axes, moving, moved, frame: _Frame, count: int):
    chosen = some_rows(np.flatnonzero(frame.holds(moving) & frame.holds(moved)), count)
    lengths = np.linalg.norm(moved - moving, axis=1)[chosen]
    # Long lines lie on top of short ones.
    chosen, lengths = chosen[np.argsort(lengths)], np.sort(lengths)
    limit = np.quantile(lengths, LONGEST) or lengths.max() or 1.0
    lines = LineCollection(
        np.stack([moving[chosen, :2], moved[chosen, :2]], axis=1),
        array=lengths,
        cmap=LENGTHS,
        norm=Normalize(0, limit),
        linewidths=0.9,
    )
    axes.add_collection(lines)
    axes.scatter(*moved[chosen, :2].T, s=4, c=lines.to_rgba(lengths), linewidths=0)
    _limit(axes, f"flow of {len(chosen):,} points (dot: moved)", frame)
    bar = axes.figure.colorbar(
        lines,
        cax=bar_axes,
        orientation="horizontal",
        extend="max" if lengths[-1] > limit else "neither",
        ticks=MaxNLocator(6, steps=STEPS),
        format="{x:g}",
    )
    bar.set_label("length (world units)", fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _draw_errors(axes: Axes, errors: dict, what: str):
    low, high = _range([distances for distances, _ in errors.values()])
    count = 1.5 * np.sqrt(len(errors["after"][0]))
    bins = np.geomspace(low, high, int(np.clip(count, *BINS)) + 1)
    styles = {
        "before": {"color": BEFORE},
        "after": {"facecolor": (*to_rgb(AFTER), 0.4), "edgecolor": AFTER, "linewidth": 1.2},
    }
    for name, (distances, shares) in errors.items():
        mean = (shares * distances).sum()
        axes.hist(
            np.clip(distances, low, high),
            bins,
            weights=100 * shares,
            histtype="stepfilled",
            label=f"{name}, mean " + (f"{mean:#.3g}" if mean < 100 else f"{mean:,.0f}"),
            **styles[name],
        )
    title = "landmark errors" if what == "landmarks" else "distances to the other cloud"
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("distance (world units)", fontsize=9)
    axes.set_ylabel(f"{what} (%)", fontsize=9)
    axes.set_xscale("log")
    marks = (1, 2, 5) if high < 1e2 * low else (1, 3) if high < 1e4 * low else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=marks))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.tick_params(labelsize=8)
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


def _range(series: list[np.ndarray]) -> tuple[float, float]:
    """Where a logarithmic axis begins and ends; the few values beyond count at its ends."""
    lows, highs = [], []
    for values in series:
        values = values[values > 0]
        if values.size:
            few, many = np.quantile(values, (TAIL, 1 - TAIL))
            lows.append(max(values.min(), few / 3))
            highs.append(min(values.max(), many * 3))
    high = max(highs, default=1.0)
    return max(min([*lows, high / 10]), high / 10**DECADES), high
