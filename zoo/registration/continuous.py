"""A map of the box [-1, 1]^rank as a transform of the world, with exact Jacobians."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zoo.geometry import Grid
from zoo.ops.arguments import checked
from zoo.ops.array_arguments import real_points
from zoo.ops.compiling import in_chunks
from zoo.transform import Mapped


class Continuous(Mapped):
    """A function of coordinates in the box that a grid spans, as a map of world coordinates.

    The centres of the first and the last voxel along an axis are -1 and 1. Beyond the box the
    displacement is that of the nearest point of its border, as of a field: a network says nothing
    there. `move` inverts `pull` by iteration; `counterpart` is the map that a method has learned
    for the other direction, and `consistency` how far the two are from undoing each other.

    Args:
        function: float32 points `[n, rank]` of the box to a tuple of one tensor, where they are
            pulled.
        derivative: likewise, to the Jacobians `[n, rank, rank]` of `function`.
        frame: the grid that spans the box.
        back: of the other direction, `(function, derivative)`.
        fixed_grid: the fixed image's; default the frame.
    """

    @checked()
    def __init__(
        self,
        function: Callable,
        derivative: Callable,
        frame: Grid,
        back: tuple[Callable, Callable] | None = None,
        fixed_grid: Grid | None = None,
    ):
        super().__init__(self._carried, None, fixed_grid or frame)
        self.function, self.derivative, self.frame, self.back = function, derivative, frame, back
        self._half = np.maximum(np.asarray(frame.shape) - 1, 1) / 2

    def jacobian(self, points) -> np.ndarray:
        """The exact Jacobian of `pull`, float64 `[n, rank, rank]`, at points `[n, rank]` in mm.

        `[:, i, k]` is the derivative of component i along axis k of the world. It is that of
        the map itself, so it shows folds that differences between voxels miss.
        """
        points = real_points("points", points, (self.rank,), least=0)
        places, inside = self._placed(points)
        own = in_chunks(self.derivative, places)[0].astype(np.float64) - np.eye(self.rank)
        # Nothing changes across the border where the displacement goes on as it is there.
        own = own * inside[:, None, :]
        to_box = np.linalg.inv(self.frame.direction * self.frame.spacing) / self._half[:, None]
        return np.eye(self.rank) + np.linalg.inv(to_box) @ own @ to_box

    def counterpart(self, moving_grid: Grid | None = None) -> Continuous:
        """The learned map from the moving to the fixed space, near the inverse of this one.

        Args:
            moving_grid: of the moving image, which becomes its `fixed_grid`.

        Raises:
            ValueError: if there is none.
        """
        if self.back is None:
            raise ValueError("this transform has no counterpart: its inverse is numerical only.")
        there = (self.function, self.derivative)
        return Continuous(*self.back, self.frame, there, moving_grid)

    def consistency(self, points) -> np.ndarray:
        """How far the counterpart is from undoing `pull`, `[n]` in mm, at points `[n, rank]`."""
        return np.linalg.norm(self.counterpart().pull(self.pull(points)) - points, axis=-1)

    def _carried(self, points: np.ndarray) -> np.ndarray:
        places, _ = self._placed(points)
        # Only what is added is single precision, so that no digits of the world are lost.
        shift = in_chunks(self.function, places)[0].astype(np.float64) - places
        return points + self.frame.vectors_to_world(shift * self._half)

    def _placed(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in the box, float32, moved onto its border from outside; which were inside."""
        places = self.frame.to_index(points) / self._half - 1.0
        inside = np.abs(places) <= 1.0 + 1e-6
        return np.clip(places, -1.0, 1.0).astype(np.float32), inside
