"""Training batches of a scanned surface: points on it, and points of space around it."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from scipy.spatial import cKDTree

from zoo.data.draws import drawn_rows
from zoo.data.scan import Scan
from zoo.data.winding import Winding, consistent_normals, without_noise
from zoo.ops.arguments import MOST, checked, positive, shown
from zoo.ops.array_arguments import real_array

POOL = 20_000  # points of the box whose distances are looked up once
STRAIGHT, BENT = 0.2, 0.4  # shares of a training until which a field is fully, and at all, held
SURE = 0.25  # how far a winding number must lie from one half to tell a side
NOISES = 1.0  # standard deviations of noise that make the smallest thing that can be seen
FAR = 2.0  # spacings of the scan beyond which the nearest point tells the distance


class SurfaceSampler(keras.utils.PyDataset):
    """Training batches of one scan, in the frame where its longest side is [-1, 1].

    A batch holds `surface` points drawn without replacement, their `normals` where the scan has
    them, and `off_surface` points: one Gaussian sample about each surface point and an eighth as
    many uniform samples of the box. Of a scan with weights points are drawn in proportion to them,
    and those of weight zero play no part. Each batch depends on (seed, epoch, index) only.

    A straight sampler's batches hold `straight` `[n]`, how much the field is to be kept from
    bending, the same for all: 1, and from a fifth of the `epochs`, where these are known, falling
    to 0 at two.

    A guided sampler finds normals that the scan lacks, or that contradict each other, by
    `zoo.data.winding`, moves noisy points onto the planes through their neighbours, and knows of
    the uniform samples on which side they lie and how far from the nearest point of the scan; its
    batches hold besides:

    * `trust` `[n]`, how sure the sign of a normal is, from 0 to 1;
    * `distance` `[m]`, signed distances of the uniform samples, which come last in `off_surface`;
    * `known` `[m]`, 1 where that distance is known, else 0.

    Args:
        scan: the points.
        frame: centre `[dims]` and scale of the frame; None is the scan's own.
        steps: batches of an epoch.
        points: surface points of a batch; None is 16,384 or all points of a smaller scan.
        neighbours: which neighbour's distance is the standard deviation of the local samples.
        box: half side of the cube of the uniform samples.
        seed: of everything drawn.
        guided: see above.
        straight: see above.

    Attributes:
        epoch, epochs: which one it is and of how many, None where that is not known.
        detail: of a guided one, how close neighbouring points of the scan are, or how far they
            still lie from the surface, if that is more; in the frame. Smaller things cannot be
            seen.
        found: whether a guided one has found (or turned) normals.

    Raises:
        ValueError: if the scan has fewer points than `points`, or not more than `neighbours`.
    """

    @checked(steps=(1, MOST), points=(1, MOST), neighbours=(1, MOST), box=positive)
    def __init__(
        self,
        scan: Scan,
        frame: tuple[np.ndarray, float] | None = None,
        steps: int = 100,
        points: int | None = None,
        neighbours: int = 50,
        box: float = 1.8,
        seed: int = 0,
        guided: bool = False,
        straight: bool = False,
    ):
        super().__init__()
        if scan.weights is not None:
            scan = scan.without_unused()
        if points is not None and points > len(scan):
            raise ValueError(
                f"points_per_step must not exceed the {len(scan)} points of the scan "
                f"{scan.name!r}, not {points}; leave it out to use all of them."
            )
        if len(scan) <= neighbours:
            raise ValueError(
                f"neighbours={neighbours} needs a scan of more points than that; "
                f"{scan.name!r} has {len(scan)}."
            )
        centre, scale = scan.frame if frame is None else frame
        centre, scale = real_array("frame", centre), positive("scale of the frame", scale)
        if centre.shape != (scan.dims,):
            raise ValueError(
                f"frame must be a centre of {scan.dims} numbers and a scale, not {shown(frame)}."
            )
        self.points = ((scan.points - centre) / scale).astype(np.float32)
        self.normals = None if scan.normals is None else scan.normals.astype(np.float32)
        self.shares = None
        if scan.weights is not None:
            self.shares = np.cumsum(scan.weights / scan.weights.sum())
        # On the coordinates alone: the authors' code searches positions and normals together.
        self.tree = cKDTree(self.points)
        # Only the distance that is wanted: of ten million points all 50 take 8 GB.
        distances, _ = self.tree.query(self.points, k=[neighbours + 1], workers=-1)
        self.sigma = distances[:, 0].astype(np.float32)
        self.count = points or min(16_384, len(scan))
        self.steps, self.box, self.seed, self.guided = steps, box, seed, guided
        self.neighbours, self.straight = neighbours, straight
        self.epoch, self.epochs, self.found = 0, None, False
        if guided:
            self._guide()

    def _guide(self) -> None:
        """Finds normals, and distances of a pool of points of the box."""
        moved, noise, neighbours = without_noise(self.points)
        if moved is not self.points:
            self.points, self.tree = moved, cKDTree(moved)
        some = self.points[np.random.default_rng(self.seed).permutation(len(self.points))[:POOL]]
        spacing = np.median(self.tree.query(some, k=[2], workers=-1)[0])
        # Of duplicates the nearest point says nothing, but one of many does.
        spacing = max(spacing, 0.7 * np.median(self.sigma) / np.sqrt(self.neighbours))
        self.detail = float(max(spacing, NOISES * noise))
        given = self.normals
        normals, trust = consistent_normals(self.points, given, neighbours)
        self.found = given is None or normals is not given
        self.normals, self.trust = normals.astype(np.float32), trust.astype(np.float32)
        rng = np.random.default_rng(self.seed)
        pool = rng.uniform(-self.box, self.box, (POOL, self.points.shape[1])).astype(np.float32)
        distance, nearest = self.tree.query(pool, workers=-1)
        winding = Winding(self.points, self.normals * self.trust[:, None])(pool)
        if winding[np.abs(winding) > 0.5].sum() < 0:
            winding = winding + 1.0  # the solid is what lies outside
        self.pool, self.pool_distance = pool, np.where(winding > 0.5, -distance, distance)
        clear = distance > FAR * self.detail
        self.pool_known = (clear & (np.abs(winding - 0.5) > SURE)).astype(np.float32)

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        batch = self.draw(np.random.default_rng((self.seed, self.epoch, index)))
        if self.straight:
            progress = (self.epoch + index / self.steps) / (self.epochs or np.inf)
            share = np.interp(progress, (STRAIGHT, BENT), (1.0, 0.0))
            batch["straight"] = np.full(self.count, share, np.float32)
        return (batch,)

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A batch."""
        if self.shares is None:
            chosen = rng.choice(len(self.points), self.count, replace=False, shuffle=False)
        else:
            chosen = drawn_rows(self.shares, self.count, rng)
        surface = self.points[chosen]
        noise = rng.standard_normal(surface.shape, dtype=np.float32)
        local = surface + self.sigma[chosen, None] * noise
        count = max(self.count // 8, 1)
        batch = {"surface": surface}
        if self.guided:
            drawn = rng.integers(len(self.pool), size=count)
            uniform = self.pool[drawn]
            batch["trust"] = self.trust[chosen]
            batch["distance"] = self.pool_distance[drawn].astype(np.float32)
            batch["known"] = self.pool_known[drawn]
        else:
            uniform = rng.uniform(-self.box, self.box, (count, surface.shape[1]))
        batch["off_surface"] = np.concatenate([local, uniform.astype(np.float32)])
        if self.normals is not None:
            batch["normals"] = self.normals[chosen]
        return batch


class ManySurfaces(keras.utils.PyDataset):
    """Training batches of several scans, of which every step sees some, each equally often.

    A batch stacks what `SurfaceSampler.draw` gives of these scans, so arrays have one more axis in
    front; `member` `[shapes]` are their numbers. It depends on (seed, epoch, index) only.

    Args:
        samplers: one for each scan, alike but for their points.
        shapes: scans of a batch, at most as many as there are.
        steps: batches of an epoch.
        seed: of the order and of everything drawn.

    Raises:
        ValueError: for no samplers, or fewer than `shapes`.
    """

    @checked(shapes=(1, MOST), steps=(1, MOST))
    def __init__(
        self, samplers: Sequence[SurfaceSampler], shapes: int = 4, steps: int = 100, seed: int = 0
    ):
        super().__init__()
        if shapes > len(samplers):
            raise ValueError(
                f"shapes must not exceed the {len(samplers)} scans in samplers, not {shapes}."
            )
        self.samplers, self.shapes, self.steps, self.seed = samplers, shapes, steps, seed
        self.epoch = 0

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        count = len(self.samplers)
        first = (self.epoch * self.steps + index) * self.shapes
        members = []
        for place in range(first, first + self.shapes):
            order = np.random.default_rng((self.seed, place // count)).permutation(count)
            members.append(int(order[place % count]))
        drawn = [
            self.samplers[member].draw(np.random.default_rng((self.seed, self.epoch, index, k)))
            for k, member in enumerate(members)
        ]
        batch = {name: np.stack([each[name] for each in drawn]) for name in drawn[0]}
        batch["member"] = np.array(members, np.int32)
        return (batch,)
