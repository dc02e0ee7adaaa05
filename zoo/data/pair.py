"""Two images, or two clouds, to be registered, with what is known about them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from zoo.data.image import EXACT, Image, resample_array, smoothed
from zoo.data.scan import READABLE, Scan, as_scan
from zoo.geometry import Grid
from zoo.ops.arguments import one_of, shown
from zoo.ops.array_arguments import real_array, real_points

EXTENT_RATIO = 50  # clouds that differ by more are probably in different units


@dataclass(frozen=True, eq=False)
class Pair:
    """What a registration works on: `moving` is to be brought onto `fixed`.

    Both are images, possibly on different grids, or both are clouds (fixed is the target, moving
    the source). Everything else is optional; losses and metrics use what is there.

    Attributes:
        fixed: `zoo.Image` or `zoo.Scan`. A mesh or an array `[n, 3]` (or `[n, 2]`) becomes a scan,
            another array an image with its first voxel at the origin.
        moving: like fixed.
        fixed_mask: booleans on the grid of the image, or one for each point: True where it counts.
        moving_mask: likewise.
        fixed_labels: integers on the grid of the image, or one for each point; kept as int32.
        moving_labels: likewise.
        fixed_landmarks: world coordinates `[n, rank]` in mm, float64.
        moving_landmarks: the points that correspond to them, likewise.
        weights: non-negative, one for each point of the moving cloud; for images one for each
            landmark. float64.
        name: for messages and pictures; by default from the names of the two.

    Raises:
        ValueError: for an image with a cloud, ranks or channels that differ, images that are
            constant, of a single voxel, or apart in the world, masks or labels of another shape,
            landmarks that are not as many or not of the rank, negative weights.

    Example:
        >>> points = np.eye(3)
        >>> pair = zoo.Pair(points + 1, points)
        >>> pair.rank, pair.is_images
        (3, False)
    """

    fixed: Image | Scan
    moving: Image | Scan
    fixed_mask: np.ndarray | None = None
    moving_mask: np.ndarray | None = None
    fixed_labels: np.ndarray | None = None
    moving_labels: np.ndarray | None = None
    fixed_landmarks: np.ndarray | None = None
    moving_landmarks: np.ndarray | None = None
    weights: np.ndarray | None = None
    name: str | None = None

    def __post_init__(self):
        for side in ("fixed", "moving"):
            object.__setattr__(self, side, _as_data(getattr(self, side), side))
        if isinstance(self.fixed, Image) != isinstance(self.moving, Image):
            kinds = [type(data).__name__ for data in (self.fixed, self.moving)]
            raise ValueError(f"fixed and moving must be of one kind, not {' and '.join(kinds)}.")
        if self.name is not None and not isinstance(self.name, str):
            raise ValueError(f"name must be a word or None, not {shown(self.name)}.")
        if self.name is None:
            names = (self.fixed.name, self.moving.name)
            object.__setattr__(self, "name", " <- ".join(names))
        if self.is_images:
            self._check_images()
        else:
            self._check_clouds()
        for side in ("fixed", "moving"):
            self._check_maps(side)
        self._check_landmarks()
        self._check_weights()

    def __repr__(self) -> str:
        present = [name for name in COMPANIONS if getattr(self, name) is not None]
        companions = f", with {', '.join(present)}" if present else ""
        return f"Pair({self.fixed!r} <- {self.moving!r}{companions})"

    @property
    def is_images(self) -> bool:
        """Whether this is a pair of images; otherwise it is one of clouds."""
        return isinstance(self.fixed, Image)

    @property
    def rank(self) -> int:
        """2 in the plane, 3 in space."""
        return self.fixed.rank if self.is_images else self.fixed.dims

    @classmethod
    def read(
        cls, fixed: str | Path, moving: str | Path, *, name: str | None = None, **companions
    ) -> Pair:
        """Reads a pair; the suffixes say whether it is one of images or of clouds.

        Landmarks that both files number or name are matched by that; see
        `zoo.io.landmarks.read_common_landmarks`. Voxels that are NaN or infinite
        are left out by the mask of their image, with a warning.

        Args:
            fixed: .nii, .nii.gz, .hdr, .mha, .mhd, .nrrd, .nhdr; .png, .jpg, .tif, .bmp; or .ply,
                .obj, .stl, .off, .xyz, .npy, .npz, .vtk.
            moving: likewise.
            name: for messages and pictures.
            **companions: paths under the names of the attributes. `fixed_mask`, `moving_mask`
                (counts where it is not 0), `fixed_labels`, `moving_labels`: images, for clouds
                .npy or .txt. `fixed_landmarks`, `moving_landmarks`: .csv, .fcsv, .mrk.json, .txt
                or .vtk. `weights`: .npy or .txt.

        Raises:
            FileNotFoundError: if a file is missing.
            TypeError: for a companion that there is not.
            ValueError: for files that cannot be read, masks or labels on another grid than their
                image, or parts that are no pair.

        Example:
            >>> image = zoo.Image.from_array(np.eye(8), spacing=2.0)
            >>> image.write("fixed.mha")
            >>> image.centred().write("moving.mha")
            >>> pair = zoo.Pair.read("fixed.mha", "moving.mha")
            >>> pair.name, pair.fixed.grid.centre, pair.moving.grid.centre
            ('fixed <- moving', array([7., 7.]), array([0., 0.]))
        """
        unknown = sorted(set(companions) - set(COMPANIONS))
        if unknown:
            raise TypeError(f"unknown companions {unknown}; there are {', '.join(COMPANIONS)}.")
        paths = {key: path for key, path in companions.items() if path is not None}
        parts: dict = {}
        for side, path in (("fixed", fixed), ("moving", moving)):
            parts[side], parts[f"{side}_mask"] = _read(path, side)
        landmarks = [key for key in ("fixed_landmarks", "moving_landmarks") if key in paths]
        if len(landmarks) == 1:
            raise ValueError("fixed_landmarks and moving_landmarks must be given together.")
        if landmarks:
            from zoo.io.landmarks import read_common_landmarks

            points = read_common_landmarks(*(paths.pop(key) for key in landmarks))
            parts |= dict(zip(landmarks, points, strict=True))
        for key, path in paths.items():
            if key == "weights":
                parts[key] = _read_column(path, key)
            else:
                values = _read_map(path, parts[key.partition("_")[0]], key)
                if key.endswith("mask"):
                    gaps = parts[key]
                    values = values != 0 if gaps is None else (values != 0) & gaps
                parts[key] = values
        return cls(**parts, name=name)

    def on_fixed_grid(self, outside: float | None = None) -> Pair:
        """The pair with the moving image, its mask and its labels sampled on the fixed grid.

        Nothing moves in the world, so landmarks stay. A finer moving image is smoothed before.

        Args:
            outside: value where the moving image ends; None is its minimum. Mask and labels are 0
                there.

        Raises:
            ValueError: for a pair of clouds, or where nothing but background comes onto the grid.
        """
        if not self.is_images:
            raise ValueError("on_fixed_grid needs a pair of images; this is one of clouds.")
        if outside is not None:
            real_array("outside", outside)
        grid, source = self.fixed.grid, self.moving.grid
        if grid == source:
            return self
        if grid.close_to(source, 1e-6):
            return replace(self, moving=Image(self.moving.array, grid, self.moving.name))
        outside = float(self.moving.array.min()) if outside is None else outside
        changes: dict = {"moving": self.moving.resample(grid, outside=outside, antialias=True)}
        if self.moving_mask is not None:
            mask = self.moving_mask.astype(np.uint8)
            changes["moving_mask"] = resample_array(mask, source, grid, "nearest") > 0
        if self.moving_labels is not None:
            changes["moving_labels"] = resample_array(self.moving_labels, source, grid, "nearest")
        with warnings.catch_warnings():
            # Landmarks outside the fixed image were reported when this pair was made.
            warnings.simplefilter("ignore", LandmarksOutside)
            return replace(self, **changes)

    def aligned(self, transform) -> Pair:
        """What is left to do after a transform: the moving side, carried to the fixed space.

        The map of the whole is `transform @ rest`, where `rest` registers the pair returned here.

        Args:
            transform: a `zoo.Transform` from fixed to moving space, such as an affine alignment.

        Returns:
            The pair with the moving image, mask and labels pulled onto the fixed grid, or the
            moving cloud (without normals) and, in any case, the moving landmarks moved.

        Raises:
            TypeError: for anything but a transform.
        """
        if not hasattr(transform, "pull"):
            raise TypeError(f"transform must be a zoo.Transform, not {type(transform).__name__}.")
        changes: dict = {}
        if self.moving_landmarks is not None:
            changes["moving_landmarks"] = transform.move(self.moving_landmarks)
        if not self.is_images:
            points = transform.move(self.moving.points)
            # Normals turn with the Jacobian, which a transform does not have to know.
            changes["moving"] = replace(self.moving, points=points, normals=None)
            return replace(self, **changes)
        grid = self.fixed.grid
        # A finer moving image is smoothed before, as in `on_fixed_grid`; scales of the transform
        # itself are near one for scans of one kind.
        array = smoothed(self.moving.array, grid.index_map(self.moving.grid)[0])
        sampled = transform.sampled(grid, self.moving.grid)
        changes["moving"] = sampled.warp(
            replace(self.moving, array=array), outside=float(self.moving.array.min())
        )
        for key, dtype in (("moving_mask", bool), ("moving_labels", np.int32)):
            values = getattr(self, key)
            if values is not None:
                values = Image(values, self.moving.grid)
                moved = sampled.warp(values, order="nearest").array[..., 0]
                changes[key] = np.rint(moved).astype(dtype)
        with warnings.catch_warnings():
            # Landmarks outside the fixed image were reported when this pair was made.
            warnings.simplefilter("ignore", LandmarksOutside)
            return replace(self, **changes)

    def counting_mask(self, side: str) -> np.ndarray:
        """Which points of a cloud count: booleans, by the mask and, for "moving", the weights.

        Args:
            side: "fixed" or "moving".
        """
        one_of("side", side, ("fixed", "moving"))
        counts = np.ones(len(getattr(self, side)), bool)
        mask = getattr(self, f"{side}_mask")
        if mask is not None:
            counts &= mask
        if side == "moving" and self.weights is not None:
            counts &= self.weights > 0
        return counts

    def counting(self, side: str) -> tuple[np.ndarray, np.ndarray]:
        """The points of a cloud that count, `[k, dims]`, and how much, at most 1, `[k]`.

        Args:
            side: "fixed" or "moving".
        """
        mask = self.counting_mask(side)
        weights = np.ones(len(mask))
        if side == "moving" and self.weights is not None:
            weights = self.weights / self.weights.max()
        return getattr(self, side).points[mask], weights[mask]

    def arrays(self) -> dict[str, np.ndarray]:
        """The pair as a batch of one, float32, for a model.

        Labels that float32 does not hold stay int32. Images come on the fixed grid. Landmarks of
        images are given in voxels of that grid, the unit of displacements; those of clouds in world
        units.

        Returns:
            `fixed` and `moving` `[1, *spatial, channels]` (clouds: `[1, n, dims]` and
            `[1, m, dims]`) and of the companions those that are there: `..._mask` and `..._labels`
            `[1, *spatial, 1]` (clouds: `[1, n, 1]`), `..._landmarks` `[1, k, rank]`, `weights`
            `[1, k]`.
        """
        pair = self.on_fixed_grid() if self.is_images else self
        result = {}
        for side in ("fixed", "moving"):
            data = getattr(pair, side)
            result[side] = data.array if self.is_images else data.points
            for key in (f"{side}_mask", f"{side}_labels"):
                if getattr(pair, key) is not None:
                    result[key] = getattr(pair, key)[..., None]
            points = getattr(pair, f"{side}_landmarks")
            if points is not None:
                in_voxels = pair.fixed.grid.to_index if self.is_images else np.asarray
                result[f"{side}_landmarks"] = in_voxels(points)
        if pair.weights is not None:
            result["weights"] = pair.weights
        return {key: np.asarray(value, _kind(key, value))[None] for key, value in result.items()}

    # Checks

    def _check_images(self):
        fixed, moving = self.fixed, self.moving
        if fixed.rank != moving.rank:
            raise ValueError(
                f"fixed and moving must have the same rank, not {fixed.rank} and {moving.rank}."
            )
        if fixed.channels != moving.channels:
            raise ValueError(
                f"fixed and moving must have the same channels, not {fixed.channels} and "
                f"{moving.channels}; image.grey() makes one of several."
            )
        for side, image in (("fixed", fixed), ("moving", moving)):
            if np.prod(image.shape) == 1:
                raise ValueError(f"{side}: {image.name!r} has a single voxel.")
            if image.array.min() == image.array.max():
                raise ValueError(
                    f"{side}: {image.name!r} is constant; every value is {image.array.flat[0]:g}."
                )
        if not fixed.grid.overlaps(moving.grid):
            raise ValueError(
                f"fixed and moving do not overlap in the world: {fixed.name!r} spans "
                f"{_span(fixed.grid)}, {moving.name!r} {_span(moving.grid)} (mm, LPS). If their "
                "places mean nothing, use image.centred() on both."
            )

    def _check_clouds(self):
        fixed, moving = self.fixed, self.moving
        if fixed.dims != moving.dims:
            raise ValueError(
                f"fixed and moving must have the same dimension, not {fixed.dims} and "
                f"{moving.dims}."
            )
        sides = [scan.frame[1] for scan in (fixed, moving)]
        ratio = max(sides) / min(sides)
        if ratio > EXTENT_RATIO:
            warnings.warn(
                f"{fixed.name!r} and {moving.name!r} differ in extent by a factor of {ratio:.3g}; "
                "are they in the same unit?",
                stacklevel=4,
            )

    def _check_maps(self, side: str):
        data = getattr(self, side)
        shape = data.shape if self.is_images else (len(data),)
        for key, dtype in ((f"{side}_mask", bool), (f"{side}_labels", np.int32)):
            values = getattr(self, key)
            if values is None:
                continue
            values = real_array(key, values)
            if values.shape != shape:
                raise ValueError(
                    f"{key} must have the shape {shape} of {side}, not {values.shape}."
                )
            whole = values.dtype.kind in "bui"
            if not whole and values.dtype.kind == "f":
                whole = np.array_equal(values, np.rint(values)) and np.isfinite(values).all()
            if not whole:
                raise ValueError(f"{key} must hold whole numbers; it holds {values.dtype} others.")
            low, high = values.min().item(), values.max().item()
            if key.endswith("mask"):
                if low < 0:
                    raise ValueError(f"{key} must not be negative; its smallest value is {low}.")
                if high == 0:
                    raise ValueError(f"{key} is empty: it leaves nothing of {data.name!r}.")
            elif low < -(2**31) or high >= 2**31:
                raise ValueError(f"{key} must fit into 32 bits; they span {low} to {high}.")
            object.__setattr__(self, key, values.astype(dtype))

    def _check_landmarks(self):
        counts = []
        for side in ("fixed", "moving"):
            key = f"{side}_landmarks"
            if getattr(self, key) is None:
                continue
            points = real_points(key, getattr(self, key), (self.rank,))
            object.__setattr__(self, key, points)
            counts.append(len(points))
            outside = 0
            if self.is_images:
                outside = int((~getattr(self, side).grid.contains(points)).sum())
            if outside:
                warnings.warn(
                    f"{key}: {outside} of {len(points)} lie outside {getattr(self, side).name!r}; "
                    "are they in mm, LPS?",
                    LandmarksOutside,
                    stacklevel=4,
                )
        if len(counts) == 1:
            raise ValueError("fixed_landmarks and moving_landmarks must be given together.")
        if counts and counts[0] != counts[1]:
            raise ValueError(
                f"fixed_landmarks and moving_landmarks must be as many, not {counts[0]} and "
                f"{counts[1]}."
            )

    def _check_weights(self):
        if self.weights is None:
            return
        if self.is_images and self.fixed_landmarks is None:
            raise ValueError("weights belong to landmarks, and this pair of images has none.")
        count = len(self.fixed_landmarks if self.is_images else self.moving)
        weights = real_array("weights", self.weights).astype(np.float64)
        if weights.shape != (count,):
            raise ValueError(f"weights must have the shape {(count,)}, not {weights.shape}.")
        if not np.isfinite(weights).all() or weights.min() < 0 or not weights.any():
            raise ValueError("weights must be finite, not negative, and not all zero.")
        object.__setattr__(self, "weights", weights)


class LandmarksOutside(UserWarning):
    """Landmarks lie outside their image."""


class LazyPairs(Sequence):
    """A sequence of pairs that are made when they are asked for, so that many fit into memory.

    Args:
        makers: functions without arguments, each of which returns a pair.
    """

    def __init__(self, makers: Sequence[Callable[[], Pair]]):
        self._makers = list(makers)

    def __len__(self):
        return len(self._makers)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return LazyPairs(self._makers[index])
        return self._makers[index]()


COMPANIONS = tuple(f.name for f in fields(Pair) if f.name not in ("fixed", "moving", "name"))


def _kind(key: str, values: np.ndarray) -> type:
    large = key.endswith("_labels") and max(-int(values.min()), int(values.max())) > EXACT
    return np.int32 if large else np.float32


def _as_data(data, side: str) -> Image | Scan:
    if isinstance(data, Image | Scan):
        return data
    if isinstance(data, np.ndarray) and not (data.ndim == 2 and data.shape[1] in (2, 3)):
        try:
            return Image.from_array(data, name=side)
        except ValueError as error:
            raise ValueError(f"{side}: {error}") from error
    try:
        scan = as_scan(data)
    except ValueError as error:
        raise ValueError(f"{side}: {error}") from error
    if scan is None:
        raise ValueError(
            f"{side} must be a zoo.Image, a zoo.Scan, a mesh or an array, not "
            f"{type(data).__name__}; zoo.Pair.read takes paths."
        )
    return scan if scan is data or scan.name != "scan" else replace(scan, name=side)


def _span(grid: Grid) -> str:
    corners = grid.corners()
    ends = zip(corners.min(axis=0), corners.max(axis=0), strict=True)
    return " x ".join(f"[{low:.4g}, {high:.4g}]" for low, high in ends)


def _read(path: str | Path, argument: str) -> tuple[Image | Scan, np.ndarray | None]:
    """An image or a scan, and a mask of the image if it has gaps."""
    from zoo.io import existing
    from zoo.io.images import PICTURE_SUFFIXES, VOLUME_SUFFIXES, image_suffix, read_image

    suffix = image_suffix(path)
    if suffix:
        array, grid = read_image(path)
        name = Path(path).name
        try:
            image, mask = Image.with_gaps(array, grid, name.removesuffix(suffix))
        except ValueError as error:
            raise ValueError(f"path: {name!r}: {error}") from error
        if mask is not None:
            warnings.warn(
                f"{argument}: {mask.size - np.count_nonzero(mask)} voxels of {name!r} are NaN or "
                "infinite and are left out by a mask.",
                UserWarning,
                stacklevel=3,
            )
        return image, mask
    if Path(path).suffix.lower() in READABLE:
        return Scan.read(path), None
    if Path(path).expanduser().is_dir():
        existing(path, argument)  # which says what a folder of DICOM needs
    known = VOLUME_SUFFIXES + PICTURE_SUFFIXES + READABLE
    raise ValueError(
        f"{argument}: cannot read {Path(path).name!r}; the suffix must be one of "
        f"{', '.join(known)}."
    )


def _read_map(path: str | Path, data: Image | Scan, argument: str) -> np.ndarray:
    if isinstance(data, Scan):
        return _read_column(path, argument)
    from zoo.io.images import read_labels

    values, grid = read_labels(path)
    if not grid.close_to(data.grid, tolerance=0.1):
        raise ValueError(
            f"{argument}: {Path(path).name!r} must lie on the grid of {data.name!r}, "
            f"{data.grid.shape} voxels over {_span(data.grid)}, not {grid.shape} over "
            f"{_span(grid)}."
        )
    return values


def _read_column(path: str | Path, argument: str) -> np.ndarray:
    from zoo.io import existing

    path = existing(path, argument)
    try:
        binary = path.suffix.lower() == ".npy"
        values = np.load(path, allow_pickle=False) if binary else np.loadtxt(path, ndmin=1)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{argument}: {path.name!r} is no list of numbers: {error}") from error
    return values
