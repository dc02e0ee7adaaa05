"""An image: channels on a grid in the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.geometry import Grid
from zoo.ops.arguments import checked, increasing, one_of, positive, shown
from zoo.ops.array_arguments import real_array

EXACT = 2**24  # up to which float32 holds every whole number
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True, eq=False)
class Image:
    """A picture or a volume with one or more channels, and where it lies.

    Attributes:
        array: float32 `[*spatial, channels]`; `[*spatial]` is taken as one channel. Axis i is
            axis i of ITK: x, y, z. Whole numbers that float32 does not hold, such as labels above
            2^24, make it float64.
        grid: where the voxels are in the world.
        name: for messages and pictures.

    Raises:
        ValueError: for an array that is empty, does not fit the grid, is not numeric, or holds NaN
            or infinite values.

    Example:
        >>> image = zoo.Image.from_array(np.arange(12.0).reshape(3, 4), spacing=2.0)
        >>> image.shape, image.channels, image.grid.extent
        ((3, 4), 1, array([6., 8.]))
    """

    array: np.ndarray
    grid: Grid
    name: str = "image"

    def __post_init__(self):
        if not isinstance(self.name, str):
            raise ValueError(f"name must be a word, not {shown(self.name)}.")
        if not isinstance(self.grid, Grid):
            raise ValueError(f"grid must be a zoo.Grid, not {type(self.grid).__name__}.")
        array = _held(real_array("array", self.array, finite=False))
        if array.ndim == self.grid.rank:
            array = array[..., None]
        if array.ndim != self.grid.rank + 1 or array.shape[:-1] != self.grid.shape:
            raise ValueError(
                f"array must have the shape {self.grid.shape} of the grid, with or without a last "
                f"axis of channels, not {np.shape(self.array)}."
            )
        if array.size == 0:
            raise ValueError(f"array must not be empty; its shape is {array.shape}.")
        bad = array.size - np.count_nonzero(np.isfinite(array))
        if bad:
            raise ValueError(
                f"array must be finite; {bad} values are NaN or infinite. Replace them, and leave "
                "those voxels out by a mask of the pair; zoo.Image.with_gaps makes both."
            )
        object.__setattr__(self, "array", array)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"Image({self.name!r}, {size} voxels, channels={self.channels})"

    @property
    def rank(self) -> int:
        """2 for pictures, 3 for volumes."""
        return self.grid.rank

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis, without the channels."""
        return self.grid.shape

    @property
    def channels(self) -> int:
        """Values for each voxel."""
        return self.array.shape[-1]

    @classmethod
    def read(cls, path: str | Path) -> Image:
        """Reads a volume (.nii.gz, .mha, .nrrd ...) or a picture; see `zoo.io.images.read_image`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a file that cannot be read, or values that are no image.
        """
        from zoo.io.images import image_suffix, read_image

        array, grid = read_image(path)
        name = Path(path).name
        try:
            return cls(array, grid, name.removesuffix(image_suffix(path)))
        except ValueError as error:
            raise ValueError(f"path: {name!r}: {error}") from error

    @classmethod
    def with_gaps(cls, array, grid: Grid, name: str = "image") -> tuple[Image, np.ndarray | None]:
        """An image of an array with NaN or infinite values, and the mask that leaves them out.

        Args:
            array: `[*spatial]` or `[*spatial, channels]`; the gaps get the lowest of its values.
            grid, name: as for the image.

        Returns:
            The image, and True `[*spatial]` where all channels are finite; None without gaps.

        Raises:
            ValueError: as the constructor; and where nothing is finite.
        """
        array = np.asarray(array)
        if array.dtype.kind != "f":
            return cls(array, grid, name), None
        finite = np.isfinite(array)
        if finite.all():
            return cls(array, grid, name), None
        array = array.copy()
        if not finite.any():
            raise ValueError("array must hold finite values; all are NaN or infinite.")
        array[~finite] = array[finite].min()
        mask = finite if array.ndim == grid.rank else finite.all(axis=-1)
        return cls(array, grid, name), mask

    def write(self, path: str | Path):
        """Writes what `read` reads; see `zoo.io.images.write_image`."""
        from zoo.io.images import write_image

        write_image(path, self.array, self.grid)

    @classmethod
    @checked(spacing=positive, rank=(2, 3))
    def from_array(
        cls,
        array,
        spacing: Sequence[float] | float = 1.0,
        rank: int | None = None,
        name: str = "image",
    ) -> Image:
        """An image with its first voxel at the origin of the world.

        Args:
            array: `[x, y]`, `[x, y, channels]`, `[x, y, z]` or `[x, y, z, channels]`.
            spacing: mm for all axes or for each, which then also says the rank.
            rank: 2 or 3. Where nothing says it, an array of three axes is a picture if the last
                axis has 1, 3 or 4 entries, and a volume otherwise.
            name: for messages and pictures.

        Raises:
            ValueError: for an array of other than two to four axes, or one that is no image.
        """
        array = real_array("array", array)
        if array.ndim not in (2, 3, 4):
            raise ValueError(f"array must have two to four axes, not the shape {array.shape}.")
        if array.size == 0:
            raise ValueError(f"array must not be empty; its shape is {array.shape}.")
        if np.ndim(spacing) and len(spacing) not in (2, 3):
            raise ValueError(f"spacing must be one size, or two or three, not {spacing}.")
        if rank is None and np.ndim(spacing):
            rank = len(spacing)
        if rank is None:
            picture = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4))
            rank = 2 if picture else 3
        if rank not in (2, 3) or array.ndim not in (rank, rank + 1):
            raise ValueError(f"array of the shape {array.shape} cannot be an image of {rank} axes.")
        return cls(array, Grid(array.shape[:rank], spacing), name)

    def resample(
        self,
        grid: Grid,
        order: str = "linear",
        outside: float | None = 0.0,
        antialias: bool = False,
    ) -> Image:
        """The image on another grid, sampled at the same places of the world.

        Args:
            grid: where to sample.
            order: "linear" or "nearest".
            outside: value beyond the outermost voxels; None continues the border.
            antialias: smooth along axes that are sampled more coarsely than they are stored.

        Raises:
            ValueError: for grids of different rank or an unknown order.
        """
        one_of("order", order, ("linear", "nearest"))
        if not isinstance(grid, Grid):
            raise TypeError(f"grid must be a zoo.Grid, not {type(grid).__name__}.")
        if outside is not None:
            _number("outside", outside)
        if grid == self.grid:
            return self
        array = self.array
        if antialias and order == "linear":
            array = smoothed(array, grid.index_map(self.grid)[0])
        channels = [
            resample_array(array[..., k], self.grid, grid, order, outside)
            for k in range(self.channels)
        ]
        return Image(np.stack(channels, axis=-1), grid, self.name)

    def fitted(self, shape: Sequence[int], fill: float | None = None) -> Image:
        """The image cropped or padded about its middle; no voxel moves in the world.

        Args:
            shape: voxels along each axis.
            fill: value of padded voxels; None is the minimum of the image.

        Raises:
            ValueError: for a shape of another rank or without voxels.
        """
        fill = float(self.array.min()) if fill is None else _number("fill", fill)
        array, start = fit_array(self.array, shape, fill)
        return Image(array, self.grid.window(start, array.shape[:-1]), self.name)

    def centred(self) -> Image:
        """The same voxels, moved so that the middle of the grid is the origin of the world."""
        return Image(self.array, self.grid.centred(), self.name)

    def normalised(self, percentiles: tuple[float, float] = (0, 99.5)) -> Image:
        """The image clipped at two percentiles of its values and mapped to [0, 1].

        Where the percentiles coincide, as in pictures that are nearly all background, the extreme
        values take their place.

        Raises:
            ValueError: for percentiles out of order, or a constant image.
        """
        low, high = increasing("percentiles", percentiles)
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles must ascend within 0 and 100, not {percentiles}.")
        low, high = np.percentile(self.array, [low, high])
        if not high > low:
            low, high = float(self.array.min()), float(self.array.max())
        if not high > low:
            raise ValueError(f"the image {self.name!r} is constant ({low:g}): it has no range.")
        array = np.clip((self.array - np.float32(low)) / np.float32(high - low), 0, 1)
        return Image(array, self.grid, self.name)

    def grey(self) -> Image:
        """One channel: the luminance of red, green and blue, or the mean of other channels."""
        if self.channels == 1:
            return self
        count = self.channels
        weights = LUMINANCE if count == 3 else np.full(count, 1 / count)
        return Image(self.array @ np.asarray(weights, np.float32), self.grid, self.name)


def _number(argument: str, value) -> float:
    number = real_array(argument, value)
    if number.ndim or not np.isfinite(number):
        raise ValueError(f"{argument} must be a finite number, not {value!r:.60}.")
    return float(number)


def _held(array: np.ndarray) -> np.ndarray:
    """The array in float32, or in float64 where whole numbers would change in float32."""
    if array.dtype.itemsize <= 2 or array.dtype == np.float32 or not array.size:
        return array.astype(np.float32, copy=False)
    # As Python's numbers, for the largest unsigned ones have no sign to lose.
    largest = max(abs(array.min().item()), abs(array.max().item()))
    whole = array.dtype.kind != "f"
    if whole and largest > 2**53:
        raise ValueError(
            f"array holds whole numbers up to {largest}; of those above 2^53 floats hold few."
        )
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if not EXACT < largest <= 2**53 or np.array_equal(single, array):
        return single
    whole = whole or np.array_equal(array, np.rint(array))
    return array.astype(np.float64) if whole else single


def resample_array(
    array: np.ndarray, source: Grid, grid: Grid, order: str = "linear", outside: float | None = 0
) -> np.ndarray:
    """One channel `[*spatial]` (float or integer labels) on another grid; the dtype stays.

    Args:
        array: values on `source`.
        source: where they are.
        grid: where to sample.
        order: "linear" or "nearest".
        outside: value beyond the outermost voxels; None continues the border.

    Raises:
        ValueError: for grids of different rank.
    """
    from scipy.ndimage import affine_transform

    matrix, offset = grid.index_map(source)
    result = affine_transform(
        array,
        matrix,
        offset,
        output_shape=grid.shape,
        order={"nearest": 0, "linear": 1}[order],
        mode="nearest",
        prefilter=False,
    )
    if outside is not None:
        for axis, size in enumerate(source.shape):
            # The index along one axis is a sum of one term for each axis of the new grid.
            index = np.full((1,) * grid.rank, offset[axis])
            for k, count in enumerate(grid.shape):
                along = [count if j == k else 1 for j in range(grid.rank)]
                index = index + matrix[axis, k] * np.arange(count).reshape(along)
            beyond = (index < -0.5 - 1e-6) | (index > size - 0.5 + 1e-6)
            result[np.broadcast_to(beyond, result.shape)] = outside
    return result


def fit_array(array: np.ndarray, shape: Sequence[int], fill) -> tuple[np.ndarray, np.ndarray]:
    """Crops or pads the first axes of `[*spatial, ...]` about the middle.

    Args:
        array: the values.
        shape: length of each of the first axes afterwards.
        fill: value of padded entries.

    Returns:
        The array and the index `[rank]` at which it begins in the old one, negative where padded.

    Raises:
        ValueError: for a shape with more axes than the array, or without entries.
    """
    sizes = real_array("shape", shape).reshape(-1)
    whole = ((sizes >= 1) & (sizes % 1 == 0)).all()
    if not 0 < len(sizes) <= array.ndim or not whole or array.ndim - len(sizes) > 1:
        raise ValueError(f"shape must hold a positive number for each spatial axis, not {shape}.")
    shape = tuple(int(size) for size in sizes)
    old = np.asarray(array.shape[: len(shape)])
    start = (old - np.asarray(shape)) // 2
    first, last = np.maximum(start, 0), np.minimum(start + shape, old)
    kept = array[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    if kept.shape[: len(shape)] == shape:
        return kept, start
    result = np.full((*shape, *array.shape[len(shape) :]), fill, dtype=array.dtype)
    place = zip(first - start, last - start, strict=True)
    result[tuple(slice(a, b) for a, b in place)] = kept
    return result, start


def smoothed(array: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Gaussian smoothing for steps of `matrix` voxels; the identity map smooths nothing."""
    from scipy.ndimage import gaussian_filter

    step = np.abs(matrix).max(axis=1)
    # A box of `step` voxels and one of 1 voxel differ by this variance.
    sigma = np.sqrt(np.maximum(step**2 - 1, 0) / 12)
    if sigma.max() < 0.05:
        return array
    return gaussian_filter(array, (*sigma, 0), mode="nearest")
