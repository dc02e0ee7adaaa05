"""Points drawn at random on shapes, evenly over their surface, with what is known of them there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from scipy.spatial import cKDTree

from zoo.ops.arguments import at_least

DENSITY_NEIGHBOURS = 8  # whose distance tells how much surface a point of a bare cloud stands for
LARGEST_SHARE = 10.0  # of a point of a bare cloud, as a multiple of the mean


class Shape:
    """A mesh or a bare cloud from which points are drawn in proportion to the area.

    Args:
        points: `[n, dims]`.
        faces: `[m, 3]` triangles, or None; those without an area are never drawn from.
        weights: of the points, `[n]`, not negative; None counts all alike.
        features: `[n, count]`, which are drawn along; None for none.
        normals: `[n, dims]` of a bare cloud; a mesh knows those of its faces.

    Attributes:
        points, faces, features: as given, float32.
        oriented: whether draws come with normals.
    """

    def __init__(self, points, faces=None, weights=None, features=None, normals=None):
        self.points = np.asarray(points, np.float32)
        self.features = np.zeros((len(points), 0), np.float32) if features is None else features
        weights = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
        self.faces = self.frames = None
        if faces is not None and len(faces):
            corners = np.asarray(points, np.float64)[faces]
            sides = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
            normal = np.cross(*sides)
            areas = np.linalg.norm(normal, axis=1)
            usable = areas > 1e-12 * areas.max(initial=0.0)
            if usable.any():
                self.faces = np.asarray(faces)[usable]
                self.frames = _frames(sides[0][usable], normal[usable])
                weights = areas[usable] * weights[self.faces].mean(axis=1)
        if self.faces is None:
            weights = weights * _local_areas(self.points)
            if normals is not None:
                self.frames = _frames(None, np.asarray(normals, np.float64))
        self.oriented = self.frames is not None
        total = weights.sum()
        if not total > 0:
            raise ValueError("weights must be positive somewhere on the shape.")
        self._shares = np.cumsum(weights / total)

    def draw(self, count: int, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Points that are spread over the whole shape.

        Args:
            count: how many.
            random: from where chance comes.

        Returns:
            A dict of `points` `[count, dims]`, `features` `[count, c]` and, of a shape that knows
            them, `frames` `[count, dims, dims]`: rows that span the tangent plane, then the normal.
        """
        rows = drawn_rows(self._shares, count, random)
        drawn = {} if self.frames is None else {"frames": self.frames[rows]}
        if self.faces is None:
            return drawn | {"points": self.points[rows], "features": self.features[rows]}
        root, along = np.sqrt(random.random(count)), random.random(count)
        corners = np.stack([1 - root, root * (1 - along), root * along], 1).astype(np.float32)
        for name, values in (("points", self.points), ("features", self.features)):
            drawn[name] = np.einsum("nk,nkc->nc", corners, values[self.faces[rows]])
        return drawn


def drawn_rows(shares: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Indices `[count]` drawn in proportion to weights, of which `shares` are the running sums."""
    # One draw from each of `count` equal parts of the whole leaves no gaps.
    ranks = (np.arange(count) + random.random(count)) / count
    return np.minimum(np.searchsorted(shares, ranks), len(shares) - 1)


def _frames(first: np.ndarray | None, normal: np.ndarray) -> np.ndarray:
    """Orthonormal rows: tangents, then the normal, float32 `[n, dims, dims]`."""
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    if normal.shape[1] == 2:
        tangent = np.stack([normal[:, 1], -normal[:, 0]], axis=1)
        return np.stack([tangent, normal], axis=1).astype(np.float32)
    if first is None:
        axis = np.eye(3)[np.argmin(np.abs(normal), axis=1)]
        first = np.cross(normal, axis)
    first = first / np.linalg.norm(first, axis=1, keepdims=True)
    return np.stack([first, np.cross(normal, first), normal], axis=1).astype(np.float32)


def _local_areas(points: np.ndarray) -> np.ndarray:
    """How much of the curve or surface a point of a bare cloud stands for, up to a factor."""
    count = min(DENSITY_NEIGHBOURS + 1, len(points))
    distances = cKDTree(points).query(points, k=count, workers=-1)[0][:, -1]
    areas = distances ** (points.shape[1] - 1)
    mean = areas.mean()
    return np.minimum(areas, LARGEST_SHARE * mean) if mean > 0 else np.ones(len(points))


class ShapeDraws(keras.utils.PyDataset):
    """New points of two shapes for every step of a registration.

    A batch depends on the seed, the epoch and the index alone, so a resumed training draws what an
    unbroken one draws.

    Args:
        moving: where the moving points come from.
        fixed: where the fixed ones come from.
        points: of each shape in every step.
        steps: of an epoch.
        total: steps of the whole training.
        constants: arrays `[1, ...]` that every batch has as well.
        schedule: of the progress from 0 to 1; makes further arrays.
        seed: of the draws.

    Attributes:
        epoch: to be told by whoever trains.
    """

    def __init__(
        self,
        moving: Shape,
        fixed: Shape,
        points: int,
        steps: int,
        total: int,
        constants: Mapping[str, np.ndarray],
        schedule: Callable[[float], Mapping[str, np.ndarray]],
        seed: int = 0,
    ):
        super().__init__()
        at_least("points", points, 1)
        self.shapes = {"moving": moving, "fixed": fixed}
        self.points, self.steps, self.total = points, steps, total
        self.constants, self.schedule, self.seed = dict(constants), schedule, seed
        self.epoch = 0

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        random = np.random.default_rng((self.seed, self.epoch, index))
        batch = self.constants | _drawn(self.shapes, self.points, random)
        progress = (self.epoch * self.steps + index) / max(self.total - 1, 1)
        return (batch | dict(self.schedule(min(progress, 1.0))),)


class CohortDraws(keras.utils.PyDataset):
    """New points of some pairs of a cohort for every step, each step at another progress.

    A batch depends on the seed, the epoch and the index alone.

    Args:
        pairs: of every pair its `(moving, fixed, constants)`, see `ShapeDraws`; asked for once.
        points: of each shape in every step.
        batch_size: pairs in every step.
        steps: of an epoch.
        schedule: see `ShapeDraws`; it is asked at random, as one flow serves all.
        seed: of the draws.

    Attributes:
        epoch: to be told by whoever trains.

    Raises:
        ValueError: when batches are made of pairs that cannot be stacked.
    """

    def __init__(
        self,
        pairs: Sequence[Callable[[], tuple[Shape, Shape, Mapping]]],
        points: int,
        batch_size: int,
        steps: int,
        schedule: Callable[[float], Mapping[str, np.ndarray]],
        seed: int = 0,
    ):
        super().__init__()
        at_least("points", points, 1)
        self.pairs, self.points, self.seed = list(pairs), points, seed
        self.batch_size, self.steps, self.schedule = min(batch_size, len(pairs)), steps, schedule
        self.epoch = 0
        self._made: dict[int, tuple[Shape, Shape, Mapping]] = {}

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        random = np.random.default_rng((self.seed, self.epoch, index))
        members = random.choice(len(self.pairs), self.batch_size, replace=False)
        rows = []
        for member in members.tolist():
            if member not in self._made:
                self._made[member] = self.pairs[member]()
            moving, fixed, constants = self._made[member]
            drawn = _drawn({"moving": moving, "fixed": fixed}, self.points, random)
            rows.append(dict(constants) | drawn | {"member": np.array([[member]], np.int32)})
        for member, row in zip(members, rows, strict=True):
            for name in rows[0].keys() | row.keys():
                shapes = [each[name].shape if name in each else None for each in (rows[0], row)]
                if shapes[0] != shapes[1]:
                    raise ValueError(
                        f"pairs of a cohort must have the same of everything, but pair {member} "
                        f"has {name} {shapes[1]}, pair {members[0]} {shapes[0]}."
                    )
        batch = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        scheduled = dict(self.schedule(float(random.random())))
        repeated = {name: np.repeat(row, len(rows), axis=0) for name, row in scheduled.items()}
        return (batch | repeated,)


def _drawn(shapes: Mapping[str, Shape], points: int, random) -> dict[str, np.ndarray]:
    """A draw of each shape as a batch of one."""
    batch = {}
    for side, shape in shapes.items():
        for name, values in shape.draw(points, random).items():
            batch[f"{side}_{name}"] = values[None]
    return batch
