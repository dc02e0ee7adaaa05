"""Slices of a grid, and how they stand in a picture: as the world does, not as the array is stored.

In the plane x runs to the right and y down; in space left is on the right, anterior (axial) and
superior (coronal, sagittal) on top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from zoo.data.image import Image
from zoo.geometry import Grid, to_itk
from zoo.ops.arguments import between


@dataclass(frozen=True)
class Plane:
    """A slice of the fixed grid and how it is shown; pictures are slices without a normal.

    Attributes:
        grid: the whole grid.
        normal: the array axis across the slice, None in the plane.
        index: which slice, 0 in the plane.
        column: the array axis that runs horizontally.
        row: the array axis that runs vertically.
        leftward: whether the index of column grows to the left.
        upward: whether the index of row grows upward.
    """

    grid: Grid
    normal: int | None
    index: int
    column: int
    row: int
    leftward: bool
    upward: bool

    @property
    def sides(self) -> np.ndarray:
        """Width and height of the picture in mm."""
        return self.grid.extent[[self.column, self.row]]

    @property
    def slab(self) -> Grid:
        """The grid of the slice, one voxel thick."""
        if self.normal is None:
            return self.grid
        start, shape = np.zeros(self.grid.rank, dtype=int), list(self.grid.shape)
        start[self.normal], shape[self.normal] = self.index, 1
        return self.grid.window(start, shape)

    def cut(self, image: Image) -> Image:
        """The slice of an image on this grid, one voxel thick."""
        if self.normal is None:
            return image
        return Image(image.array.take([self.index], axis=self.normal), self.slab, image.name)

    def picture(self, array: np.ndarray) -> np.ndarray:
        """`[rows, columns, ...]` of an array `[*spatial, ...]` on this grid or on its slab."""
        if self.normal is not None:
            thick = array.shape[self.normal] > 1
            array = array.take(self.index if thick else 0, axis=self.normal)
        return to_itk(array, 2) if self.row > self.column else array

    def show(self, axes: Axes, picture: np.ndarray, **options):
        """Draws `[rows, columns, ...]`; further drawing is in voxels, and moves no border."""
        spacing = self.grid.spacing
        shown = axes.imshow(picture, aspect=spacing[self.row] / spacing[self.column], **options)
        height, width = picture.shape[:2]
        across, down = (-0.5, width - 0.5), (height - 0.5, -0.5)
        axes.set(
            xlim=across[::-1] if self.leftward else across,
            ylim=down[::-1] if self.upward else down,
            xticks=[],
            yticks=[],
        )
        axes.autoscale(False)
        return shown


def plane_of(grid: Grid, slice_axis: int, slice_index: int | None) -> Plane:
    """The plane of a picture.

    Args:
        grid: of the fixed image.
        slice_axis: of volumes, the array axis across which the slice is cut.
        slice_index: of volumes, which slice; negative ones count from the end, None is the middle.

    Raises:
        ValueError: for a slice that is not there.
    """
    normal, index = None, 0
    if grid.rank == 2:
        if slice_index is not None:
            raise ValueError(f"slice_index must be None for images of rank 2, not {slice_index}.")
    else:
        between("slice_axis", slice_axis, -3, 2)
        normal = slice_axis % 3
        count = grid.shape[normal]
        index = count // 2 if slice_index is None else slice_index
        if not -count <= index < count:
            raise ValueError(
                f"slice_index must be within {-count} and {count - 1}, as fixed has {count} "
                f"slices along axis {normal}, not {slice_index}."
            )
        index %= count
    # Where each axis of the array points to in the world. The later one of the world is vertical.
    world = np.abs(grid.direction).argmax(axis=0)
    inside = [axis for axis in range(grid.rank) if axis != normal]
    column, row = sorted(inside, key=lambda axis: (world[axis], axis))
    backward = grid.direction[world, range(grid.rank)] < 0
    # y grows downward in a picture, z, towards superior, upward.
    upward = backward[row] != (world[row] == 2)
    return Plane(grid, normal, index, column, row, bool(backward[column]), bool(upward))
