"""Pairs of clouds as batches for networks: points drawn anew in every epoch."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from zoo.data.keypoints import gaussian_mean
from zoo.data.pair import Pair
from zoo.data.pairs import drawn_places
from zoo.data.scan import Scan
from zoo.ops.arguments import MOST, between, checked, not_negative

LOCAL_CONTROLS = 500
FEWEST = 8  # points that a deformed half needs


class CloudDraws(keras.utils.PyDataset):
    """Batches of pairs of clouds, of which points are drawn at random.

    A batch is `({"fixed", "moving"},)`, float32 `[batch, points, dims]` in world units, with
    `fixed_mask` and `moving_mask` `[batch, points, 1]` where a cloud has fewer points. Each depends
    on (seed, epoch, index) only; `fit` of the zoo's models sets `epoch`.

    Args:
        pairs: of clouds; masks of their points are respected.
        points: of each cloud.
        batch_size: pairs of a batch.
        steps: batches of an epoch; None is once through all pairs.
        seed: of the order and of the points.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size` of Keras.

    Raises:
        ValueError: without pairs, or for numbers out of range.
    """

    @checked(points=(2, MOST), batch_size=(1, 2**20), steps=(1, MOST))
    def __init__(
        self,
        pairs: Sequence[Pair],
        points: int = 8192,
        batch_size: int = 1,
        steps: int | None = None,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not len(pairs):
            raise ValueError("pairs is empty.")
        self.pairs, self.points, self.batch_size = pairs, points, batch_size
        self.steps, self.seed, self.epoch = steps, seed, 0

    def __len__(self):
        return self.steps or -(-len(self.pairs) // self.batch_size)

    def __getitem__(self, index):
        turns = range(index * self.batch_size, (index + 1) * self.batch_size)
        chosen = drawn_places(len(self.pairs), turns, self.seed, self.epoch)
        random = np.random.default_rng((self.seed, self.epoch, index, 1))
        clouds = {side: [] for side in ("fixed", "moving")}
        for pair in (self.pairs[k] for k in chosen):
            for side, drawn in clouds.items():
                points = pair.counting(side)[0]
                drawn.append(points[random.permutation(len(points))[: self.points]])
        batch = {}
        for side, drawn in clouds.items():
            size = max(map(len, drawn))
            batch[side] = np.stack(
                [np.pad(each, ((0, size - len(each)), (0, 0)), mode="edge") for each in drawn]
            ).astype(np.float32)
            if min(map(len, drawn)) < size:
                mask = [np.arange(size)[:, None] < len(each) for each in drawn]
                batch[f"{side}_mask"] = np.stack(mask).astype(np.float32)
        return (batch,)


class DeformedClouds(keras.utils.PyDataset):
    """Batches of clouds and of deformed copies of them, whose flow is known.

    Two disjoint halves of what is drawn of a cloud become the two sides of a pair, so that no point
    has a partner. One of them, either with the same chance, is deformed: by shifts of many points
    of the cloud itself, averaged with a narrow Gaussian, and by those of a coarse grid around it,
    averaged with a wide one. A batch is `({"fixed", "moving"}, flow)`, float32
    `[batch, points, dims]`, in the unit of the cloud. Each depends on (seed, epoch, index) only.

    Source: the augmentation of Shen et al., "Accurate point cloud registration with robust optimal
    transport", NeurIPS 2021, as Falta et al., "Lung250M-4B", NeurIPS 2023, have it; lengths, which
    are theirs for lungs, are shares of the root mean square radius of the cloud.

    Args:
        clouds: scans, or points `[n, dims]`.
        points: of each side; of a cloud with fewer than twice as many, half of what there is.
        batch_size: pairs of a batch.
        steps: batches of an epoch; None is once through all clouds.
        local_shift, local_width: largest shift of a point, and the deviation of the Gaussian.
        global_shift, global_width: the same of the grid, whose spacing is `cell`.
        cell: spacing of the grid.
        noise: standard deviation of noise on either side.
        seed: of all that is drawn.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size` of Keras.

    Raises:
        ValueError: without clouds, or for numbers out of range.

    Example:
        >>> from zoo.data.cloud_draws import DeformedClouds
        >>> cloud = np.random.default_rng(0).normal(size=(500, 3))
        >>> clouds, flow = DeformedClouds([cloud], points=100)[0]
        >>> clouds["fixed"].shape, flow.shape == clouds["moving"].shape
        ((1, 100, 3), True)
    """

    @checked(points=(FEWEST, MOST), batch_size=(1, 2**20), steps=(1, MOST))
    def __init__(
        self,
        clouds: Sequence[Scan | np.ndarray],
        points: int = 8192,
        batch_size: int = 1,
        steps: int | None = None,
        local_shift: float = 0.03,
        local_width: float = 0.15,
        global_shift: float = 0.25,
        global_width: float = 0.5,
        cell: float = 0.9,
        noise: float = 0.0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.clouds = [np.asarray(getattr(cloud, "points", cloud), np.float64) for cloud in clouds]
        if not self.clouds:
            raise ValueError("clouds is empty.")
        fewest = min(map(len, self.clouds))
        if fewest < 2 * FEWEST:
            raise ValueError(f"clouds must have at least {2 * FEWEST} points each, not {fewest}.")
        for name, value in (("local_shift", local_shift), ("global_shift", global_shift)):
            between(name, value, 0.0, 1.0)
        for name, value in (
            ("local_width", local_width), ("global_width", global_width), ("cell", cell)
        ):  # fmt: skip
            between(name, value, 1e-3, 1e3)
        self.noise = not_negative("noise", noise)
        self.local, self.wide = (local_shift, local_width), (global_shift, global_width)
        self.cell, self.points, self.batch_size = cell, points, batch_size
        self.steps, self.seed, self.epoch = steps, seed, 0

    def __len__(self):
        return self.steps or -(-len(self.clouds) // self.batch_size)

    def __getitem__(self, index):
        turns, made = range(index * self.batch_size, (index + 1) * self.batch_size), []
        chosen = drawn_places(len(self.clouds), turns, self.seed, self.epoch)
        size = min(self.points, min(len(self.clouds[k]) for k in chosen) // 2)
        for place, number in enumerate(chosen):
            random = np.random.default_rng((self.seed, self.epoch, index, place))
            made.append(self._pair(self.clouds[number], size, random))
        fixed, moving, flow = (
            np.stack(each).astype(np.float32) for each in zip(*made, strict=True)
        )
        return {"fixed": fixed, "moving": moving}, flow

    def _pair(self, cloud: np.ndarray, size: int, random) -> tuple:
        centre = cloud.mean(axis=0)
        radius = np.sqrt(((cloud - centre) ** 2).sum(axis=1).mean()) or 1.0
        order = random.permutation(len(cloud))[: 2 * size]
        halves = (cloud[order[:size]] - centre) / radius, (cloud[order[size:]] - centre) / radius
        warp = self._random_warp((cloud - centre) / radius, random)
        if random.random() < 0.5:  # the moving side is what has been deformed, and has to go back
            fixed, moving = halves[0], halves[1] + warp(halves[1])
            flow = halves[1] - moving
        else:
            fixed, moving = halves[0] + warp(halves[0]), halves[1]
            flow = warp(moving)
        fixed, seen = (
            each + self.noise * random.normal(size=each.shape) for each in (fixed, moving)
        )
        return centre + radius * fixed, centre + radius * seen, radius * (moving + flow - seen)

    def _random_warp(self, cloud: np.ndarray, random):
        """A function of points that gives their displacement, in radii."""
        near = cloud[random.permutation(len(cloud))[:LOCAL_CONTROLS]]
        low, high = cloud.min(axis=0), cloud.max(axis=0)
        axes = [
            np.arange(a - self.cell * random.random(), b + self.cell, self.cell)
            for a, b in zip(low, high, strict=True)
        ]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, cloud.shape[1])
        parts = [
            (controls, random.uniform(-shift, shift, controls.shape), width)
            for controls, (shift, width) in ((near, self.local), (grid, self.wide))
        ]

        def warp(points):
            return sum(gaussian_mean(points, *part) for part in parts)

        return warp
