"""The skeleton of a report: a table that survives interruptions, pictures, TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from zoo.io import written_whole
from zoo.ops.arguments import at_least
from zoo.ops.summaries import Summaries, can_summarise


class Report(keras.callbacks.Callback):
    """Measures and draws a model at some epochs of its training.

    `folder/losses.csv` holds the rows of the reported epochs, and of epoch 0, before the first
    step. Training that is resumed, with `initial_epoch`, goes on with the table in the folder.
    Under the TensorFlow backend, `folder/tensorboard` gets numbers, the logs of Keras, pictures and
    histograms for TensorBoard.

    A report provides `columns`, `_measured` and `_rows`, and where it has more to show `_scalars`
    and `_drawn`.

    Args:
        folder: made when it is missing.
        every: epochs from report to report.
        tensorboard: write the event file, too; without effect under other backends.

    Raises:
        ValueError: for `every` below 1.
    """

    columns: ClassVar[tuple[str, ...]]
    """Of the table: `epoch`, further whole numbers, and the value."""

    def __init__(self, folder: str | Path, every: int = 5, tensorboard: bool = True):
        super().__init__()
        self.folder, self.every = Path(folder), at_least("every", every, 1)
        self.tensorboard = tensorboard
        self.records: list[tuple] = []
        self._summaries = None
        self._started = False

    # What a report provides

    def _measured(self) -> Any:
        """What the model does now; the other methods get it."""
        raise NotImplementedError(f"{type(self).__name__} does not define _measured.")

    def _rows(self, measured) -> list[tuple]:
        """Rows of the table without the epoch."""
        raise NotImplementedError(f"{type(self).__name__} does not define _rows.")

    def _scalars(self, measured) -> dict[str, float]:
        """Numbers for TensorBoard."""
        return {}

    def _drawn(self, folder: Path, measured) -> tuple[dict[str, Path], Mapping[str, np.ndarray]]:
        """Draws into the epoch's folder; pictures by name, and histograms for TensorBoard."""
        return {}, {}

    # The training

    def on_train_begin(self, logs=None):
        self._started = False
        if self.tensorboard and can_summarise():
            self._summaries = Summaries(self.folder / "tensorboard")

    def on_epoch_begin(self, epoch, logs=None):
        # Only here is it known from which epoch a resumed training goes on.
        if self._started:
            return
        self._started = True
        self.records = self._earlier(epoch)
        if epoch == 0:
            self._record(0, self._measured(), {})

    def on_epoch_end(self, epoch, logs=None):
        epoch += 1
        if epoch % self.every == 0:
            measured = self._measured()
            self._record(epoch, measured, logs or {})
            self._draw(epoch, measured)

    def on_train_end(self, logs=None):
        if self._summaries is not None:
            self._summaries.close()
            self._summaries = None

    def _record(self, epoch: int, measured, logs: dict):
        self.records += [(epoch, *row) for row in self._rows(measured)]
        with written_whole(self._table) as partial, partial.open("w", newline="") as file:
            csv.writer(file).writerows([self.columns, *self.records])
        if self._summaries is not None:
            scalars = {f"training/{name}": float(value) for name, value in logs.items()}
            self._summaries.write(epoch, scalars | self._scalars(measured))

    def _draw(self, epoch: int, measured):
        pictures, histograms = self._drawn(self.folder / f"epoch_{epoch:04d}", measured)
        if self._summaries is not None:
            self._summaries.write(epoch, pictures=pictures, histograms=histograms)

    @property
    def _table(self) -> Path:
        return self.folder / "losses.csv"

    def _earlier(self, epoch: int) -> list[tuple]:
        """What an interrupted training has recorded up to this epoch."""
        if epoch == 0 or not self._table.is_file():
            return []
        with self._table.open(newline="") as file:
            rows = [tuple(map(float, row)) for row in list(csv.reader(file))[1:]]
        records = [(*map(int, row[:-1]), row[-1]) for row in rows]
        return [record for record in records if record[0] <= epoch]
