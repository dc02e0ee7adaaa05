"""What a variational registration network does, reported while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
from keras import ops

from zoo.layers.pyramid import downsample_displacement, image_pyramid
from zoo.losses import EndpointError
from zoo.losses.base import blank, weighted_mean
from zoo.ops.compiling import compiled
from zoo.reports.base import Report
from zoo.view import variational

KNOWN, UNKNOWN = "mean endpoint error (voxels)", "mean absolute residual"


class VariationalReport(Report):
    """Reports on one fixed batch while a `zoo.models.dirvnet.DIRVNet` trains.

    At every reported epoch `folder/epoch_0005` (and so on) gets these pictures:

    - `pairs.png`: images, differences before and after, deformed grids;
    - `displacements.png`: known, predicted and their difference;
    - `unit_displacements.png`, `unit_images.png`: the first pair after every unit;
    - `functions.png`: activations and potentials of the last unit of each level;
    - `weights.png`: histograms.

    `folder/losses.csv` holds `epoch, level, unit, error` of these epochs, and of epoch 0, before
    the first step; `folder/losses.png` shows it. Levels and units count from 0, coarse to fine.
    Where the displacement is known, the error is the mean endpoint error in voxels of the full
    resolution; else the mean absolute residual of the images as the network matches them. A
    `fixed_mask` counts in both. Training that is resumed, with `initial_epoch`, goes on with the
    table in the folder.

    Under the TensorFlow backend, `folder/tensorboard` gets the same for TensorBoard: the errors
    and the logs of Keras as scalars, the pictures, and histograms of the weights.

    >>> import pathlib, tempfile
    >>> from zoo.data.chessboard import ChessboardPairs
    >>> from zoo.models.dirvnet import DIRVNet
    >>> from zoo.reports import VariationalReport
    >>> data = ChessboardPairs((16, 16), batch_size=2, steps=1, magnitude=1.0)
    >>> model = DIRVNet(levels=1, units=1, filters=2, data_kernel=3, smoothness_kernel=3)
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> report = VariationalReport(data[0], folder, every=1)
    >>> history = model.fit(data, epochs=1, callbacks=[report], verbose=0)
    >>> len((folder / "losses.csv").read_text().splitlines())  # the names, before, after
    3

    Args:
        data: the batch, `(x, y)` or `(x,)`: `x` a dict of `fixed` and `moving`, `[batch, *spatial,
            channels]`, and perhaps `fixed_mask`; `y` the displacement `[batch, *spatial, rank]` in
            voxels. Or a `keras.utils.PyDataset`, whose first batch is kept.
        folder: made when it is missing.
        every: epochs from report to report.
        tensorboard: write the event file, too; without effect under other backends.

    Raises:
        TypeError: for data that are no batch, or a model that is no DIRV-Net.
        ValueError: for arrays that do not fit together or to the model, or `every` below 1.
    """

    columns = ("epoch", "level", "unit", "error")

    def __init__(self, data, folder: str | Path, every: int = 5, tensorboard: bool = True):
        super().__init__(folder, every, tensorboard)
        self._x, self._known = _batch(data)

    @property
    def measure(self) -> str:
        """What the error is, with its unit."""
        return UNKNOWN if self._known is None else KNOWN

    def on_train_begin(self, logs=None):
        if not (hasattr(self.model, "trace") and hasattr(self.model, "units")):
            raise TypeError(
                f"VariationalReport needs a DIRVNet, not {type(self.model).__name__}; fit(pair) "
                "trains none."
            )
        options, shape = self.model.options, self._x["fixed"].shape
        if (len(shape) - 2, shape[-1]) != (options.dims, options.channels):
            raise ValueError(
                f"data: the images have the shape {shape}, this model dims={options.dims} and "
                f"channels={options.channels}."
            )
        model = self.model
        # In training the outputs bring their trace along.
        self._register = compiled(lambda x: model(x, training=True), model)
        super().on_train_begin(logs)

    # Numbers

    def _measured(self) -> tuple[dict, list | None, list[list[float]]]:
        """Outputs of the network, known displacement and errors of each level, coarse to fine."""
        outputs = self._register(self._x)
        trace, masks, known = outputs["trace"], None, None
        if "fixed_mask" in self._x:
            masks = image_pyramid(self._x["fixed_mask"], len(trace))[::-1]
        if self._known is not None:
            known = [ops.convert_to_tensor(self._known)]
            for _ in trace[1:]:
                known.insert(0, downsample_displacement(known[0]))
        errors = []
        for number, level in enumerate(trace):
            mask = None if masks is None else masks[number][..., 0]
            if known is not None:
                scale, measure = 2 ** (len(trace) - 1 - number), EndpointError()
                values = [
                    scale * measure(known[number], field, mask) for field in level["displacements"]
                ]
            else:
                values = [self._residual(level["fixed"], image, mask) for image in level["moved"]]
            errors.append([float(ops.convert_to_numpy(value)) for value in values])
        return outputs, known, errors

    def _residual(self, fixed, moved, mask):
        # Learned features stand behind the intensities, and have no scale of their own.
        kept = self.model.options.channels
        residual = ops.mean(ops.abs(fixed - moved)[..., :kept], axis=-1)
        return ops.mean(weighted_mean(blank(residual, mask), mask))

    def _rows(self, measured) -> list[tuple[int, int, float]]:
        *_, errors = measured
        return [
            (level, unit, error)
            for level, units in enumerate(errors)
            for unit, error in enumerate(units)
        ]

    def _scalars(self, measured) -> dict[str, float]:
        *_, errors = measured
        scalars = {"error/mean of levels": float(np.mean([units[-1] for units in errors]))}
        for level, units in enumerate(errors):
            scalars[f"error/level {level}"] = units[-1]
            scalars |= {f"units/level {level} unit {u}": error for u, error in enumerate(units)}
        return scalars

    # Pictures

    def _drawn(self, folder: Path, measured):
        outputs, known, _ = measured
        x = self._x
        kept = self.model.options.channels
        trace = outputs["trace"]
        displacement, moved = map(_numpy, (outputs["displacement"], outputs["moved"]))
        steps, images = (
            [[_numpy(value[0]) for value in level[key]] for level in trace]
            for key in ("displacements", "moved")
        )
        images = [[image[..., :kept] for image in level] for level in images]
        fixed = [_numpy(level["fixed"][0])[..., :kept] for level in trace]
        first = None if known is None else [_numpy(field[0]) for field in known]
        units = _by_level(self.model.units)
        weights = {level: _weights(members) for level, members in units.items()}
        drawn = {
            "pairs": (variational.pairs_figure, x["fixed"], x["moving"], moved, displacement),
            "displacements": (variational.displacement_figure, displacement, self._known),
            "unit_displacements": (variational.unit_displacement_figure, steps, first),
            "unit_images": (variational.unit_image_figure, fixed, images),
            "functions": (variational.function_figure, units),
            "weights": (variational.histogram_figure, weights),
        }
        pictures = {}
        for name, (draw, *arguments) in drawn.items():
            pictures[name] = folder / f"{name}.png"
            draw(*arguments, path=pictures[name])
        pictures["losses"] = self.folder / "losses.png"
        variational.loss_figure(self.records, self.measure, pictures["losses"])
        histograms = {
            f"{level}/{kind}": values
            for level, kinds in weights.items()
            for kind, values in kinds.items()
        }
        return pictures, histograms


def _batch(data) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Copies of the images, and of the displacement where it is known."""
    if isinstance(data, keras.utils.PyDataset):
        data = data[0]
    if not isinstance(data, tuple | list) or len(data) not in (1, 2):
        raise TypeError(
            "data must be a batch (x, y) or (x,), or a PyDataset of such, not "
            f"{type(data).__name__}."
        )
    x, y = (*data, None)[:2]
    if not isinstance(x, Mapping) or not {"fixed", "moving"} <= set(x):
        given = sorted(x) if isinstance(x, Mapping) else type(x).__name__
        raise TypeError(f"data: x must be a dict with 'fixed' and 'moving', not {given}.")
    kept = [key for key in ("fixed", "moving", "fixed_mask") if key in x]
    x = {key: np.array(x[key], np.float32) for key in kept}
    shape = x["fixed"].shape
    if len(shape) not in (4, 5) or x["moving"].shape != shape or not len(x["fixed"]):
        raise ValueError(
            "data: fixed and moving must have the same shape [batch, *spatial, channels] in 2D or "
            f"3D, not {shape} and {x['moving'].shape}."
        )
    expected = {"fixed_mask": (x.get("fixed_mask"), 1)}
    if y is not None:
        y = np.array(y, np.float32)
        expected["y"] = (y, len(shape) - 2)
    for name, (array, last) in expected.items():
        if array is not None and array.shape != (*shape[:-1], last):
            raise ValueError(
                f"data: {name} must have the shape {(*shape[:-1], last)}, not {array.shape}."
            )
    return x, y


def _by_level(units: list[list]) -> dict[str, list]:
    if len(units) > 1 and all(level is units[0] for level in units):
        return {"all levels": units[0]}
    return {f"level {number}": level for number, level in enumerate(units)}


def _weights(units: list) -> dict[str, np.ndarray]:
    """All weights of a level, by kind; those of units that share count once."""
    distinct = {id(unit): unit for unit in units}.values()
    kinds = {}
    for term in ("data", "smoothness"):
        experts = [getattr(unit, term) for unit in distinct]
        kinds[f"{term} filters"] = np.stack([_numpy(one.kernel) for one in experts])
        kinds[f"{term} functions"] = np.stack([_numpy(one.activation.knots) for one in experts])
    return kinds


def _numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)
