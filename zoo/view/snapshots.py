"""Pictures of a surface while it is fitted: a Keras callback."""

from __future__ import annotations

import warnings
from pathlib import Path

import keras

from zoo.ops.arguments import MOST, checked
from zoo.ops.isosurface import NoSurface
from zoo.view.surfaces import surface_figure


class Snapshots(keras.callbacks.Callback):
    """Draws the mesh of a `zoo.surface.Surface` every few epochs of its `fit`.

    The pictures are `epoch_001.png` and so on; they show how far a fit has come, and when more
    of it changes nothing. An epoch in which there is no surface yet is left out with a warning.

    Args:
        folder: of the pictures; it is made where it is absent.
        every: epochs from one picture to the next.
        resolution: of the mesh, see `zoo.surface.Surface.mesh`.

    Raises:
        ValueError: for numbers out of range, and in `fit` for a planar model.

    Example:
        >>> import zoo
        >>> from zoo.view.snapshots import Snapshots
        >>> model, scan = zoo.create("igr"), zoo.Scan.read("mine.ply")          # doctest: +SKIP
        >>> model.fit(scan, callbacks=Snapshots("pictures"))                    # doctest: +SKIP
    """

    @checked(every=(1, MOST), resolution=(2, 4096))
    def __init__(self, folder: str | Path, every: int = 1, resolution: int = 96):
        super().__init__()
        self.folder, self.every, self.resolution = Path(folder), every, resolution

    def on_train_begin(self, logs=None):
        if self.model.dims != 3:
            raise ValueError(f"Snapshots draw meshes: dims must be 3, not {self.model.dims}.")
        self.folder.mkdir(parents=True, exist_ok=True)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        name = f"epoch_{epoch + 1:03d}"
        try:
            mesh = self.model.mesh(self.resolution)
        except NoSurface:
            warnings.warn(f"{name}: there is no surface yet to draw.", UserWarning, stacklevel=2)
            return
        surface_figure({f"epoch {epoch + 1}": mesh}, self.folder / f"{name}.png")
