"""Event files for TensorBoard, which need TensorFlow to be written and TensorBoard to be seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

BUCKETS = 30


def can_summarise() -> bool:
    """True under the TensorFlow backend."""
    return keras.backend.backend() == "tensorflow"


class Summaries:
    """One event file in a folder.

    Args:
        folder: made when it is missing.

    Raises:
        RuntimeError: under another backend than TensorFlow.
    """

    def __init__(self, folder: str | Path):
        if not can_summarise():
            raise RuntimeError(
                f"Summaries need the TensorFlow backend, not {keras.backend.backend()!r}."
            )
        import tensorflow as tf

        self._tf = tf
        self._writer = tf.summary.create_file_writer(str(folder))

    def write(
        self,
        step: int,
        scalars: Mapping[str, float] | None = None,
        pictures: Mapping[str, str | Path] | None = None,
        histograms: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Adds values of one step; the file then holds them, whatever happens later.

        Args:
            step: what the horizontal axis counts, such as epochs.
            scalars: numbers by name.
            pictures: PNG files by name.
            histograms: arrays of any shape by name, shown by the distribution of their values.
        """
        with self._writer.as_default(step=step):
            for name, value in (scalars or {}).items():
                self._add(name, "scalars", "SCALAR", np.float32(value))
            for name, path in (pictures or {}).items():
                png = Path(path).read_bytes()
                # Width and height are in the header of the file, big-endian.
                sides = [int.from_bytes(png[at : at + 4], "big") for at in (16, 20)]
                self._add(name, "images", "BLOB_SEQUENCE", [*(b"%d" % s for s in sides), png])
            for name, values in (histograms or {}).items():
                counts, edges = np.histogram(np.asarray(values, np.float64), BUCKETS)
                table = np.stack([edges[:-1], edges[1:], counts], axis=-1)
                self._add(name, "histograms", "TENSOR", table)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _add(self, name: str, plugin: str, kind: str, value) -> None:
        # tf.summary.scalar and its like need TensorBoard even to write; this is what they write.
        kinds = self._tf.compat.v1.SummaryMetadata
        metadata = kinds(
            plugin_data=kinds.PluginData(plugin_name=plugin), data_class=f"DATA_CLASS_{kind}"
        )
        self._tf.summary.write(name, value, metadata=metadata)
