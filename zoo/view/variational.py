"""Pictures of a variational registration network: results, steps, and what it has learned.

Arrays are the network's, `[batch, *spatial, channels]`, 2D or 3D. Volumes are shown by the middle
slice of their last axis, numbers in titles are of all voxels. In a picture the first axis of the
array, x, runs to the right and the second, y, down. Levels and units count from 0, coarse to fine.

Every function returns a matplotlib `Figure`, and writes it as PNG where a `path` is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from keras import ops
from matplotlib import colormaps
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from zoo.io import written_whole
from zoo.ops.arguments import one_of
from zoo.view.images import LINE, PERCENTILES, grid_lines, intensity_window

PAIRS = 8  # at most so many are shown
LINES = 16  # of the deformed grid along the longer side
ARROWS = 16
POINTS = 241  # of a curve
BEYOND = 0.15  # of the width of the nodes is shown on either side of them
SIGNED, LENGTHS = "bwr", "viridis"
MINUS, RHO, PHI = "\N{MINUS SIGN}", "\N{GREEK SMALL LETTER RHO}", "\N{GREEK SMALL LETTER PHI}"
ERROR = f"predicted {MINUS} known"

# Inches.
DPI = 110
SIDE = 1.5  # of a square panel; others have the same area
GAP, TEXT, LABEL, BAR = 0.08, 0.2, 0.55, 0.55
PLOT = (3.2, 2.3)


def pairs_figure(
    fixed: np.ndarray,
    moving: np.ndarray,
    moved: np.ndarray,
    displacement: np.ndarray,
    path: str | Path | None = None,
) -> Figure:
    """Up to eight pairs: images, differences before and after, deformed grid lines.

    Titles of differences are their mean absolute values. One row per pair, in which intensities
    share a window and differences a symmetric scale.

    Args:
        fixed: `[batch, *spatial, channels]`; several channels are shown as their mean.
        moving: likewise.
        moved: likewise.
        displacement: `[batch, *spatial, rank]` in voxels.
        path: where to write a PNG.

    Raises:
        ValueError: for arrays that do not fit together.
    """
    _check_batch("fixed", fixed, field=False)
    _check_same("moving", moving, "fixed", fixed.shape)
    _check_same("moved", moved, "fixed", fixed.shape)
    _check_same("displacement", displacement, "fixed", (*fixed.shape[:-1], fixed.ndim - 2))
    names = ("fixed", "moving", "moved", f"fixed {MINUS} moving", f"fixed {MINUS} moved", "grid")
    count = min(len(fixed), PAIRS)
    figure, panels = _panels(count, names, _picture(fixed[0, ..., 0]).shape, TEXT)
    for k, row in enumerate(panels):
        images = [array[k] for array in (fixed, moving, moved)]
        pictures = [_picture(image.mean(axis=-1)) for image in images]
        low, high = intensity_window(*pictures)
        for axes, picture in zip(row, pictures, strict=False):
            axes.imshow(picture, cmap="gray", vmin=low, vmax=high)
        limit = _limit(*(pictures[0] - other for other in pictures[1:]))
        for axes, other, image in zip(row[3:], pictures[1:], images[1:], strict=False):
            axes.imshow(pictures[0] - other, cmap=SIGNED, vmin=-limit, vmax=limit)
            _add_title(axes, _mean_size(images[0] - image))
        row[5].imshow(0.5 * (pictures[0] - low) / (high - low), cmap="gray", vmin=0, vmax=1)
        _draw_grid(row[5], displacement[k])
        row[0].set_ylabel(f"pair {k}", fontsize=8)
    return _written(figure, path)


def displacement_figure(
    displacement: np.ndarray, known: np.ndarray | None = None, path: str | Path | None = None
) -> Figure:
    """Components of up to eight displacements, known, predicted and their difference, and arrows.

    One row per pair; blue and red are the negative and positive limit that stands beside the row.
    Titles of differences are their mean absolute values. Arrows have their true length.

    Args:
        displacement: predicted, `[batch, *spatial, rank]` in voxels.
        known: likewise; None shows the prediction alone.
        path: where to write a PNG.

    Raises:
        ValueError: for arrays that do not fit together.
    """
    _check_batch("displacement", displacement, field=True)
    kinds = {"predicted": displacement}
    if known is not None:
        _check_same("known", known, "displacement", displacement.shape)
        kinds = {"known": known, "predicted": displacement}
    shown = [*kinds, ERROR] if known is not None else [*kinds]
    names = [f"{axis} {kind}" for axis in "xy" for kind in shown]
    names += [f"{kind} field" for kind in kinds]
    count = min(len(displacement), PAIRS)
    figure, panels = _panels(count, names, _picture(displacement[0, ..., 0]).shape, TEXT)
    for k, row in enumerate(panels):
        fields = {kind: array[k] for kind, array in kinds.items()}
        limit = _limit(*map(_plane, fields.values()))
        if known is not None:
            fields[ERROR] = fields["predicted"] - fields["known"]
        places = iter(row)
        for axis in range(2):
            for kind, field in fields.items():
                axes = next(places)
                picture = _picture(field[..., axis])
                axes.imshow(picture, cmap=SIGNED, vmin=-limit, vmax=limit)
                if kind == ERROR:
                    _add_title(axes, _mean_size(field[..., axis]))
        for kind in kinds:
            _draw_arrows(next(places), fields[kind])
        row[0].set_ylabel(f"pair {k}\n\N{PLUS-MINUS SIGN}{_short(limit)} voxels", fontsize=8)
    return _written(figure, path)


def unit_displacement_figure(
    displacements: Sequence[Sequence[np.ndarray]],
    known: Sequence[np.ndarray] | None = None,
    show: str = "components",
    path: str | Path | None = None,
) -> Figure:
    """The displacement of one pair after every unit, in voxels of the full resolution.

    With `known`, titles are mean endpoint errors, and two columns are added: what is known, and
    the difference of the last unit from it.

    Args:
        displacements: for each level, coarse to fine, and each unit `[*spatial, rank]` in voxels
            of that level.
        known: for each level `[*spatial, rank]`, likewise.
        show: "components", one row for x and one for y, or "magnitude".
        path: where to write a PNG.

    Raises:
        ValueError: for an unknown `show`, or levels that do not fit.
    """
    one_of("show", show, ("components", "magnitude"))
    _check_levels(displacements, known, "known")
    signed, units = show == "components", len(displacements[0])
    names = [f"unit {unit}" for unit in range(units)]
    names += ["known", f"unit {units - 1} {MINUS} known"] if known is not None else []
    rows = []
    for number, level in enumerate(displacements):
        scale = 2.0 ** (len(displacements) - 1 - number)
        fields, words = [scale * field for field in level], []
        if known is not None:
            truth = scale * known[number]
            errors = [np.linalg.norm(field - truth, axis=-1).mean() for field in fields]
            words = [f"error {_short(error)}" for error in errors]
            fields += [truth, fields[-1] - truth]
        if signed:
            rows += [
                (f"level {number}, {name}", [f[..., k] for f in fields], words * (k == 0))
                for k, name in enumerate("xy")
            ]
        else:
            rows.append((f"level {number}", [np.linalg.norm(f, axis=-1) for f in fields], words))
    limit = _limit(*(_picture(array) for _, arrays, _ in rows for array in arrays))
    shape = _picture(rows[-1][1][0]).shape
    figure, panels = _panels(len(rows), names, shape, TEXT if known is not None else GAP, BAR)
    style = {"cmap": SIGNED, "vmin": -limit} if signed else {"cmap": LENGTHS, "vmin": 0}
    for row, (label, arrays, words) in zip(panels, rows, strict=True):
        for axes, array in zip(row, arrays, strict=True):
            shown = axes.imshow(_picture(array), vmax=limit, **style)
        for axes, word in zip(row, words, strict=False):
            _add_title(axes, word)
        row[0].set_ylabel(label, fontsize=8)
    _add_bar(figure, shown, "voxels of the full resolution")
    return _written(figure, path)


def unit_image_figure(
    fixed: Sequence[np.ndarray],
    moved: Sequence[Sequence[np.ndarray]],
    path: str | Path | None = None,
) -> Figure:
    """The moved image of one pair after every unit, and what differs in the end.

    Titles are the mean absolute differences from the fixed image.

    Args:
        fixed: for each level, coarse to fine, `[*spatial, channels]`.
        moved: for each level and unit, likewise.
        path: where to write a PNG.

    Raises:
        ValueError: for levels that do not fit.
    """
    _check_levels(moved, fixed, "fixed")
    last = f"fixed {MINUS} unit {len(moved[0]) - 1}"
    names = ["fixed", *(f"unit {unit}" for unit in range(len(moved[0]))), last]
    shape = _picture(fixed[-1][..., 0]).shape
    figure, panels = _panels(len(moved), names, shape, TEXT, BAR)
    everything = [
        [_picture(image.mean(axis=-1)) for image in (first, *others)]
        for first, others in zip(fixed, moved, strict=True)
    ]
    low, high = intensity_window(*(picture for row in everything for picture in row))
    limit = _limit(*(row[0] - row[-1] for row in everything))
    for k, (row, pictures) in enumerate(zip(panels, everything, strict=True)):
        for axes, picture in zip(row, pictures, strict=False):
            axes.imshow(picture, cmap="gray", vmin=low, vmax=high)
        for axes, image in zip(row[1:], moved[k], strict=False):
            _add_title(axes, _mean_size(fixed[k] - image))
        picture = pictures[0] - pictures[-1]
        shown = row[-1].imshow(picture, cmap=SIGNED, vmin=-limit, vmax=limit)
        row[0].set_ylabel(f"level {k}", fontsize=8)
    _add_bar(figure, shown, last)
    return _written(figure, path)


def loss_figure(
    records: Sequence[tuple[int, int, int, float]],
    measure: str = "error",
    path: str | Path | None = None,
) -> Figure:
    """Error of the last unit of every level over the epochs, and of all units at the last epoch.

    Args:
        records: `(epoch, level, unit, error)` in any order.
        measure: what the error is, with its unit.
        path: where to write a PNG.

    Raises:
        ValueError: without records.
    """
    if not len(records):
        raise ValueError("records is empty: there is nothing to draw.")
    errors = {tuple(map(int, record[:3])): float(record[3]) for record in records}
    epochs, levels, units = (sorted({key[k] for key in errors}) for k in range(3))
    figure, ((over_epochs, over_units),) = _plots(1, 2, (5.0, 3.4))
    colours = colormaps[LENGTHS](np.linspace(0.1, 0.85, len(levels)))
    curves = []
    for level, colour in zip(levels, colours, strict=True):
        curves.append([errors.get((epoch, level, units[-1]), np.nan) for epoch in epochs])
        over_epochs.plot(epochs, curves[-1], ".-", color=colour, label=f"level {level}")
        steps = [errors.get((epochs[-1], level, unit), np.nan) for unit in units]
        over_units.plot(units, steps, ".-", color=colour, label=f"level {level}")
    mean = np.mean(curves, axis=0)
    over_epochs.plot(epochs, mean, "--", color="0.3", label="mean of levels")
    over_epochs.set(xlabel="epoch", ylabel=measure, title="last unit of each level")
    over_units.set(xlabel="unit", title=f"epoch {epochs[-1]}")
    for axes in (over_epochs, over_units):
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=8)
    return _written(figure, path)


def curves_of(activation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Learned functions as curves over their nodes and a little beyond.

    Args:
        activation: a layer of `zoo.layers.activations`, built.

    Returns:
        Places `[n]`, the activations phi and the potentials rho, their integrals, `[n, filters]`.
    """
    positions = np.asarray(activation.positions, np.float64)
    margin = BEYOND * (positions[-1] - positions[0])
    x = np.linspace(positions[0] - margin, positions[-1] + margin, POINTS)
    # The corners of piecewise linear functions are at the nodes.
    x = np.union1d(x, positions).astype(np.float32)
    inputs = np.repeat(x[:, None], activation.knots.shape[-1], axis=1)
    values = (activation(inputs), activation.potential(inputs))
    return (x, *(ops.convert_to_numpy(value) for value in values))


def function_figure(
    units: Mapping[str, Sequence], unit: int = -1, path: str | Path | None = None
) -> Figure:
    """Activations phi and potentials rho of one unit of every level, one curve per filter.

    Args:
        units: for each level, by name, its `VariationalUnit`s.
        unit: which of them; negative ones count from the end.
        path: where to write a PNG.

    Raises:
        ValueError: without levels, or for a unit that is not there.
    """
    for name, level in units.items():
        if not -len(level) <= unit < len(level):
            raise ValueError(f"unit must be one of the {len(level)} of {name}, not {unit}.")
    figure, panels = _plots(_checked_count(units, "units"), 4)
    for row, (name, level) in zip(panels, units.items(), strict=True):
        chosen, number = level[unit], unit % len(level)
        for axes, experts, title in zip(
            (row[:2], row[2:]),
            (chosen.data, chosen.smoothness),
            ("data", "smoothness"),
            strict=True,
        ):
            _draw_functions(axes, experts)
            axes[0].set_title(f"{name}, unit {number}: {title}, activation {PHI}", fontsize=9)
            axes[1].set_title(f"{title}, potential {RHO}", fontsize=9)
            words = "response to the residual" if title == "data" else "response to u (voxels)"
            for one in axes:
                one.set_xlabel(words, fontsize=8)
    return _written(figure, path)


def histogram_figure(
    weights: Mapping[str, Mapping[str, np.ndarray]],
    gradients: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Histograms of the weights of every level, with logarithmic counts.

    Args:
        weights: for each level, by name, arrays of any shape by name, the same names in all.
        gradients: of the loss with respect to them, likewise; drawn in further columns.
        path: where to write a PNG.

    Raises:
        ValueError: without levels, or for gradients of other names.
    """
    rows, sources = _checked_count(weights, "weights"), {"": weights}
    if gradients is not None:
        for level in weights:
            if set(gradients.get(level, ())) != set(weights[level]):
                raise ValueError(
                    f"gradients must have the names {list(weights[level])} at {level!r}, not "
                    f"{list(gradients.get(level, ()))}."
                )
        sources["gradient of "] = gradients
    kinds = [(prefix, kind) for prefix in sources for kind in next(iter(weights.values()))]
    figure, panels = _plots(rows, len(kinds))
    for row, level in zip(panels, weights, strict=True):
        for axes, (prefix, kind) in zip(row, kinds, strict=True):
            values = np.ravel(sources[prefix][level][kind])
            axes.hist(values, bins=40, log=True, color="tab:orange" if prefix else "tab:blue")
            axes.set_title(f"{level}: {prefix}{kind}", fontsize=9)
            words = f"n {values.size}\nmean {_short(values.mean())}\nstd {_short(values.std())}"
            axes.text(0.97, 0.95, words, fontsize=7, ha="right", va="top", transform=axes.transAxes)
    return _written(figure, path)


# Parts of pictures


def _draw_grid(axes, displacement: np.ndarray):
    field = _plane(displacement)
    step = max(round(max(field.shape[:2]) / LINES), 1)
    lines = grid_lines(field, (step, step))
    axes.add_collection(LineCollection(lines, colors=LINE, linewidths=0.6), autolim=False)


def _draw_arrows(axes, displacement: np.ndarray):
    field = _plane(displacement)
    step = max(round(max(field.shape[:2]) / ARROWS), 1)
    x, y = (np.arange((size - 1) % step // 2, size, step) for size in field.shape[:2])
    u, v = np.moveaxis(field[np.ix_(x, y)], -1, 0)
    width, height = field.shape[:2]
    axes.quiver(*np.meshgrid(x, y), u.T, v.T, angles="xy", scale_units="xy", scale=1, width=0.008)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal")


def _draw_functions(panels, experts):
    activation = experts.activation
    x, *curves = curves_of(activation)
    banks = curves[0].shape[1] // experts.filters
    colours = colormaps[LENGTHS](np.linspace(0, 0.9, experts.filters))
    styles = ("-", "--", ":")
    for axes, values in zip(panels, curves, strict=True):
        for k, curve in enumerate(values.T):
            bank, number = divmod(k, experts.filters)
            axes.plot(x, curve, styles[bank], color=colours[number], linewidth=1)
        for end in activation.positions[[0, -1]]:
            axes.axvline(end, color="0.8", linewidth=0.8, zorder=0)
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    keys = [("-", colours[k], f"filter {k}") for k in sorted({0, experts.filters - 1})]
    if banks > 1:
        keys += [(styles[k], "0.3", f"{axis} component") for k, axis in enumerate("xyz"[:banks])]
    lines = [Line2D([], [], linestyle=style, color=colour) for style, colour, _ in keys]
    panels[0].legend(lines, [words for *_, words in keys], fontsize=7)


def _plane(displacement: np.ndarray) -> np.ndarray:
    """`[a, b, 2]`, the components in the plane of a displacement `[*spatial, rank]`."""
    rank = displacement.shape[-1]
    return displacement if rank == 2 else displacement[:, :, displacement.shape[2] // 2, :2]


def _picture(array: np.ndarray) -> np.ndarray:
    """`[rows, columns]` of `[*spatial]`."""
    return (array if array.ndim == 2 else array[..., array.shape[2] // 2]).T


def _limit(*arrays: np.ndarray) -> float:
    """End of a symmetric scale for all arrays; never zero."""
    sizes = np.abs(np.concatenate([np.ravel(array) for array in arrays]))
    return float(np.percentile(sizes, PERCENTILES[1]) or sizes.max() or 1.0)


def _short(number: float) -> str:
    return f"{number:.2f}" if abs(number) >= 0.1 else f"{number:.2g}"


def _mean_size(difference: np.ndarray) -> str:
    return f"mean |\N{MIDDLE DOT}| {_short(np.abs(difference).mean())}"


# Layout


def _panels(
    rows: int, names: Sequence[str], shape: tuple[int, int], head: float, foot: float = GAP
):
    """Figure and `[rows, columns]` of axes for pictures of one shape, with names on top.

    Args:
        rows: number of them.
        names: of the columns.
        shape: of the pictures.
        head: room above a row for its titles, inches.
        foot: room below the last row, inches.
    """
    height, width = SIDE * np.sqrt(np.divide(shape, shape[::-1]))
    columns, top = len(names), TEXT + head
    total = (
        LABEL + columns * (width + GAP),
        top + rows * height + (rows - 1) * head + foot,
    )
    figure = Figure(figsize=total, dpi=DPI)
    room = {
        "left": LABEL / total[0],
        "right": 1 - GAP / total[0],
        "top": 1 - top / total[1],
        "bottom": foot / total[1],
        "wspace": GAP / width,
        "hspace": head / height,
    }
    panels = figure.subplots(rows, columns, squeeze=False, gridspec_kw=room)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
    for axes, name in zip(panels[0], names, strict=True):
        axes.set_title(name, fontsize=8, pad=3)
    return figure, panels


def _add_title(axes, words: str):
    """Words above a panel, below the name of its column."""
    axes.set_title("\n".join(filter(None, (axes.get_title(), words))), fontsize=8, pad=3)


def _add_bar(figure: Figure, shown, words: str):
    width, height = figure.get_size_inches()
    wide = min(4.0, 0.8 * width)
    place = (0.5 * (1 - wide / width), 0.38 / height, wide / width, 0.09 / height)
    bar = figure.colorbar(shown, cax=figure.add_axes(place), orientation="horizontal")
    bar.ax.tick_params(labelsize=7, length=2, pad=1)
    bar.set_label(words, fontsize=8, labelpad=1)


def _plots(rows: int, columns: int, size: tuple[float, float] = PLOT):
    figure = Figure((columns * size[0], rows * size[1]), dpi=DPI, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.tick_params(labelsize=8)
    return figure, panels


def _written(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        with written_whole(path) as partial:
            figure.savefig(partial, format="png")
    return figure


# Checks


def _check_same(name: str, array, other: str, expected: tuple):
    if np.shape(array) != tuple(expected):
        raise ValueError(
            f"{name} must have the shape {tuple(expected)}, as {other}, not {np.shape(array)}."
        )


def _check_batch(name: str, array: np.ndarray, field: bool):
    shape = np.shape(array)
    if len(shape) not in (4, 5) or 0 in shape or (field and shape[-1] != len(shape) - 2):
        last = "rank" if field else "channels"
        raise ValueError(f"{name} must be [batch, *spatial, {last}] in 2D or 3D, not {shape}.")


def _check_levels(steps: Sequence[Sequence[np.ndarray]], single: Sequence | None, name: str):
    """The same number of units on all levels, and `single` one array like theirs for each."""
    counts = {len(level) for level in steps}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"levels must have the same number of units, not {sorted(counts)}.")
    if single is not None and len(single) != len(steps):
        raise ValueError(f"{name} must have {len(steps)} levels, not {len(single)}.")
    for number, one in enumerate(single or ()):
        _check_same(name, one, f"the units of level {number}", np.shape(steps[number][0]))


def _checked_count(levels: Mapping, name: str) -> int:
    if not levels:
        raise ValueError(f"{name} is empty: there is nothing to draw.")
    return len(levels)
