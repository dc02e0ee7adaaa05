"""Breathing lungs: generated pairs of vessel trees with an exactly known correspondence.

Arteries and veins grow into two lungs by repeated splits of the volume that they supply; the clouds
of the two phases are independent samples of them. The frame is LPS mm, as in
`zoo.data.vessel_breathing`, which moves the inhaled lung into exhalation. Numbers are those of a
fit to the landmarks of DIR-Lab COPDgene and to the sizes of the clouds of PVT1010.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import keras
import numpy as np

from zoo.data.pair import Pair
from zoo.data.scan import Scan
from zoo.data.vessel_breathing import HEIGHT, BreathingMap, inside_lungs, into_lungs
from zoo.ops.arguments import MOST, MOST_SEED, at_least, checked, one_of

TRAIN_SEEDS = range(800)
VALIDATION_SEEDS = range(800, 900)
TEST_SEEDS = range(900, 910)
"""Seeds of the cases that nothing is fitted to."""

LEVELS = ("E", "H", "P")
LOBES = ("right upper", "right middle", "right lower", "left upper", "left lower")
LANDMARKS, LANDMARK_RADIUS = 300, 0.6  # how many, and of vessels thicker than that, mm

SUPPLIED = 2600  # volume elements in a lung, for arteries and for veins
SHORTEST = 2.2  # mm
REACH = 0.42  # length of a branch, of the distance to the centre of what it supplies
WIDEST = np.deg2rad(65)  # between a branch and its parent
BOW = 0.03  # how far the middle of a branch leaves the straight line, of its length
CURVED = 1 + 8 / 3 * BOW**2  # length of such a parabola, of the straight line
SPACING = 0.75  # between points along a vessel, mm
JITTER = {"E": 0.35, "H": 0.8, "P": 0.8}  # mm
SEEN = {"inhale": (0.30, 0.06), "exhale": (0.50, 0.10)}  # radius seen half the time; its slope, mm
LOST = {"inhale": 0.15, "exhale": 0.30}  # share of the length, in subtrees, at levels H and P
CLUTTER = 0.08  # points that are no vessel, of those that are, at levels H and P


@dataclass(frozen=True, eq=False)
class VesselTree:
    """The arteries and veins of the five lobes in inhalation: ten trees that begin at the hila.

    Branches are in depth-first order, so `i` to `i + subtree[i]` are a branch and what it feeds.

    Attributes:
        start: float64 `[b, 3]`, mm.
        end: float64 `[b, 3]`, mm.
        bow: float64 `[b, 3]`, offset of the middle of the branch from the straight line.
        parent: int64 `[b]`; -1 at a hilum.
        subtree: int64 `[b]`, branches that depend on it, with itself.
        radius: float64 `[b]`, mm; `r^exponent` is the sum of that of the children (Murray's law).
        length: float64 `[b]`, mm.
        arc: float64 `[b]`, mm from the hilum to its start, along the vessels.
        lobe: int8 `[b]`, index into `LOBES`.
        vein: bool `[b]`; others are arteries.
        exponent: of the radii, 2.3 to 3.0.
    """

    start: np.ndarray
    end: np.ndarray
    bow: np.ndarray
    parent: np.ndarray
    subtree: np.ndarray
    radius: np.ndarray
    length: np.ndarray
    arc: np.ndarray
    lobe: np.ndarray
    vein: np.ndarray
    exponent: float

    def points(self, branch: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Points `[n, 3]` at shares of the way `[n]`, from 0 to 1, along branches `[n]`."""
        along = share[:, None]
        straight = self.start[branch] * (1 - along) + self.end[branch] * along
        return straight + 4 * along * (1 - along) * self.bow[branch]


@dataclass(frozen=True, eq=False)
class VesselCloud:
    """What is seen of the vessels in one phase, in random order.

    Attributes:
        points: float64 `[n, 3]`, mm.
        partners: float64 `[n, 3]`: where these very points are in the other phase.
        branch: int64 `[n]`, of the tree; -1 for clutter.
        radius: float64 `[n]`, mm; for clutter, like what follows, of a vessel nearby.
        arc: float64 `[n]`, mm from the hilum along the vessels.
        lobe: int8 `[n]`, index into `LOBES`.
        vein: bool `[n]`.
    """

    points: np.ndarray
    partners: np.ndarray
    branch: np.ndarray
    radius: np.ndarray
    arc: np.ndarray
    lobe: np.ndarray
    vein: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def subset(self, indices: np.ndarray) -> VesselCloud:
        """The points at `indices` (or where a mask is True), with all that is known of them."""
        return VesselCloud(*(getattr(self, field.name)[indices] for field in fields(self)))


@dataclass(frozen=True, eq=False)
class VesselCase:
    """A generated patient: two clouds, 300 landmarks, and the map between them.

    Attributes:
        seed: of everything drawn; tree, motion and landmarks are the same at all levels.
        level: "E", "H" or "P", see `vessel_case`.
        tree: `VesselTree`.
        breathing: `BreathingMap`, the true map from inhalation to exhalation; its `gradient` and
            `displacement` serve Jacobian determinants.
        inhale: `VesselCloud`.
        exhale: `VesselCloud`.
        inhale_landmarks: float64 `[300, 3]`, forks of vessels of more than 0.6 mm radius.
        exhale_landmarks: float64 `[300, 3]`, the same after breathing.
        initial_error: mean distance of the landmarks, mm.
    """

    seed: int
    level: str
    tree: VesselTree
    breathing: BreathingMap
    inhale: VesselCloud
    exhale: VesselCloud
    inhale_landmarks: np.ndarray
    exhale_landmarks: np.ndarray
    initial_error: float

    def draw(self, points: int | None, seed: int | Sequence[int]) -> tuple[VesselCloud, ...]:
        """Random subsets of the clouds of inhalation and exhalation.

        Args:
            points: how many of each; None, or more than there are, gives all.
            seed: of the choice.
        """
        at_least("points", points, 2, optional=True)
        rng = np.random.default_rng(seed)
        clouds = self.inhale, self.exhale
        return tuple(cloud.subset(rng.permutation(len(cloud))[:points]) for cloud in clouds)

    @checked(points=(2, MOST))
    def pair(self, points: int | None = 65_536) -> Pair:
        """The case for a registration: inhalation (moving) is brought onto exhalation (fixed).

        So the error is measured as published for PVT1010 and DIR-Lab COPDgene: inhaled landmarks
        are moved and compared with their places in exhalation.

        Args:
            points: at most so many of each cloud, drawn at random; None for all.
        """
        inhale, exhale = self.draw(points, (self.seed, 5))
        name = f"vessels {self.seed}{self.level}"
        return Pair(
            Scan(exhale.points, name=f"{name} exhale"),
            Scan(inhale.points, name=f"{name} inhale"),
            fixed_landmarks=self.exhale_landmarks,
            moving_landmarks=self.inhale_landmarks,
            name=name,
        )


@checked(points=(2, MOST))
def vessel_pair(seed: int, level: str = "H", points: int | None = 65_536) -> Pair:
    """A generated pair of clouds; see `VesselCase.pair` and `vessel_case`.

    Example:
        >>> from zoo.data.vessels import vessel_pair
        >>> pair = vessel_pair(900, points=2000)
        >>> pair.moving.points.shape, pair.moving_landmarks.shape
        ((2000, 3), (300, 3))
    """
    return vessel_case(seed, level).pair(points)


@checked()
def vessel_case(seed: int, level: str = "H") -> VesselCase:
    """Generates a patient: at level H about 140,000 points in inhalation, 80,000 in exhalation.

    Args:
        seed: 0 to 799 (`TRAIN_SEEDS`), 800 to 899 (`VALIDATION_SEEDS`) or 900 to 909
            (`TEST_SEEDS`); others are free.
        level: "E" (easy): points scatter by 0.35 mm, and thin branches are missing, more of them
            in exhalation. "H" (hard): they scatter by 0.8 mm; besides, subtrees of 15 % of the
            length are missing in inhalation and others, of 30 %, in exhalation, and 8 % of clutter
            are added. "P" (partial): H without the lowest 5 to 15 mm of one phase.

    Raises:
        ValueError: for an unknown level or a negative seed.
    """
    one_of("level", level, LEVELS)
    at_least("seed", seed, 0)
    streams = [np.random.default_rng((seed, number)) for number in range(5)]
    tree, breathing = _grown(streams[0]), BreathingMap(streams[1])
    clouds = {
        phase: _sampled(tree, breathing, phase, level, stream)
        for phase, stream in zip(SEEN, streams[2:4], strict=True)
    }
    rng = streams[4]
    children = np.bincount(tree.parent[tree.parent >= 0], minlength=len(tree.parent))
    forks = np.flatnonzero((children > 1) & (tree.radius > LANDMARK_RADIUS))
    landmarks = tree.end[rng.choice(forks, LANDMARKS, replace=False)]
    exhaled = breathing(landmarks)
    if level == "P":
        phase = tuple(SEEN)[rng.integers(2)]
        height = clouds[phase].points[:, 2]
        clouds[phase] = clouds[phase].subset(height > height.min() + rng.uniform(5, 15))
    return VesselCase(
        seed,
        level,
        tree,
        breathing,
        **clouds,
        inhale_landmarks=landmarks,
        exhale_landmarks=exhaled,
        initial_error=float(np.linalg.norm(exhaled - landmarks, axis=1).mean()),
    )


class VesselPairs(keras.utils.PyDataset):
    """Batches of generated pairs for the training of networks.

    A batch is `({"fixed", "moving"}, flow)`, float32 `[batch, points, 3]` in mm: clouds of
    exhalation and of inhalation, and where each point of the moving one goes. Each pair depends on
    (seed, epoch, index, its place in the batch) only; `epoch` is 0 until it is set. An epoch goes
    through the cases in random order, each with newly drawn points.

    Args:
        cases: seeds of the cases.
        points: of each cloud.
        batch_size: pairs of a batch.
        level: "E", "H" or "P".
        keep: cases that stay in memory, about 5 MB each; generating one takes about a second.
        seed: of the order and of the choice of points.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size` of Keras.

    Raises:
        ValueError: for numbers out of range, no cases or an unknown level; later, for more points
            than a cloud has.
    """

    @checked(points=(2, MOST), batch_size=(1, 2**20), keep=(0, MOST), cases=(0, MOST_SEED))
    def __init__(
        self,
        cases: Sequence[int] = TRAIN_SEEDS,
        points: int = 8192,
        batch_size: int = 4,
        level: str = "H",
        keep: int = 64,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        at_least("points", points, 2)
        at_least("batch_size", batch_size, 1)
        at_least("keep", keep, 0)
        if len(cases) < batch_size:
            raise ValueError(f"cases must be at least a batch of {batch_size}, not {len(cases)}.")
        one_of("level", level, LEVELS)
        self.cases, self.points, self.batch_size = tuple(cases), points, batch_size
        self.level, self.keep, self.seed = level, keep, seed
        self.epoch = 0
        self._kept: dict[int, tuple[np.ndarray, ...]] = {}

    def __len__(self):
        return len(self.cases) // self.batch_size

    def __getitem__(self, index):
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.cases))
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        made = [self._pair(self.cases[case], index, place) for place, case in enumerate(chosen)]
        fixed, moving, flow = (np.stack(parts) for parts in zip(*made, strict=True))
        return {"fixed": fixed, "moving": moving}, flow

    def _pair(self, case: int, index: int, place: int) -> list[np.ndarray]:
        exhale, inhale, flow = self._case(case)
        fewest = min(len(exhale), len(inhale))
        if self.points > fewest:
            raise ValueError(f"points must be at most the {fewest} of case {case}: {self.points}.")
        rng = np.random.default_rng((self.seed, self.epoch, index, place))
        target, source = (rng.permutation(len(each))[: self.points] for each in (exhale, inhale))
        return [exhale[target], inhale[source], flow[source]]

    def _case(self, seed: int) -> tuple[np.ndarray, ...]:
        if seed in self._kept:
            return self._kept[seed]
        case = vessel_case(seed, self.level)
        flow = case.inhale.partners - case.inhale.points
        made = tuple(
            each.astype(np.float32) for each in (case.exhale.points, case.inhale.points, flow)
        )
        if len(self._kept) < self.keep:
            self._kept[seed] = made
        return made


def _supplied(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Volume elements `[n, 3]` and the trees, 2 lobe + vein, that supply them, sorted by these."""
    points, trees = [], []
    for vein in (0, 1):
        for side in (-1, 1):
            found = rng.uniform((6, -84, 0), (130, 84, HEIGHT), (6 * SUPPLIED, 3)) * (side, 1, 1)
            found = found[inside_lungs(found)][:SUPPLIED]
            _, y, z = found.T
            lower = z < 0.5 * HEIGHT + 0.75 * y
            if side < 0:
                lobe = np.where(lower, 2, np.where(z < 0.52 * HEIGHT, 1, 0))
            else:
                lobe = np.where(lower, 4, 3)
            points.append(found)
            trees.append(2 * lobe + vein)
    points, trees = np.concatenate(points), np.concatenate(trees)
    order = np.argsort(trees, kind="stable")
    return points[order], trees[order]


def _grown(rng: np.random.Generator) -> VesselTree:
    # All branches of a generation at once; `group` says which of them supplies a point.
    points, group = _supplied(rng)
    tree = np.arange(2 * len(LOBES))
    vein, side = tree % 2, np.where(tree < 6, -1, 1)
    node = np.stack([28 * side, 8 - 12 * vein, 110 - 10 * vein], axis=-1).astype(np.float64)
    direction = _unit(_centres(points, group) - node)
    parent = np.full(len(tree), -1)
    generations, count = [], 0
    while len(node):
        size = np.bincount(group)
        first = np.cumsum(size) - size
        last = size == 1
        tips = node[last] + 0.8 * (points[first[last]] - node[last])
        made = [(node[last], tips, parent[last], tree[last])]
        # The others split what they supply by a plane along their direction.
        along = _across(points, group, direction, rng)
        order = np.lexsort((along, group))
        below = np.rint(rng.uniform(0.32, 0.68, len(node)) * size).clip(1, np.maximum(size - 1, 1))
        half = 2 * group + (np.arange(len(group)) - first[group] >= below[group])
        wanted = ~last[group]
        points = points[order][wanted]
        label, child = np.unique(half[wanted], return_inverse=True)
        mother = label // 2
        reach = _centres(points, child) - node[mother]
        distance = np.linalg.norm(reach, axis=1)
        alive = distance >= SHORTEST
        mother, reach, distance = mother[alive], reach[alive], distance[alive, None]
        heading = _within_angle(reach / distance, direction[mother])
        end = into_lungs(node[mother] + heading * np.maximum(SHORTEST, REACH * distance))
        made.append((node[mother], end, parent[mother], tree[mother]))
        generations.append([np.concatenate(each) for each in zip(*made, strict=True)])
        direction = _unit(end - node[mother])
        node, tree = end, tree[mother]
        parent = count + len(tips) + np.arange(len(end))
        count += len(tips) + len(end)
        points, group = points[alive[child]], (np.cumsum(alive) - 1)[child[alive[child]]]
    return _assembled(generations, rng)


def _assembled(generations: list, rng: np.random.Generator) -> VesselTree:
    ends = np.cumsum([0] + [len(each[0]) for each in generations])
    levels = [slice(*pair) for pair in zip(ends[:-1], ends[1:], strict=True)]
    start, end, parent, tree = (np.concatenate(each) for each in zip(*generations, strict=True))

    def gather(values):  # from the tips to the hila
        for level in reversed(levels[1:]):
            np.add.at(values, parent[level], values[level])
        return values

    exponent = rng.uniform(2.3, 3.0)
    tip = ~np.isin(np.arange(len(parent)), parent)
    power = gather(np.where(tip, rng.uniform(0.35, 0.6, len(tip)) ** exponent, 0.0))
    subtree = gather(np.ones(len(parent), dtype=np.int64))
    bow = _unit(np.cross(end - start, rng.standard_normal(start.shape)))
    straight = np.linalg.norm(end - start, axis=1)
    length = straight * CURVED
    arc, place = np.zeros(len(parent)), np.zeros(len(parent), dtype=np.int64)
    for level in levels:
        # A branch comes after its parent and all that its older siblings feed.
        order = np.argsort(parent[level], kind="stable") + level.start
        mother, sizes = parent[order], subtree[order]
        before = np.cumsum(sizes) - sizes
        before -= before[np.searchsorted(mother, mother)]
        root = mother < 0
        place[order] = before + np.where(root, 0, place[mother] + 1)
        arc[order] = np.where(root, 0.0, arc[mother] + length[mother])
    order = np.argsort(place)
    return VesselTree(
        start[order],
        end[order],
        (BOW * straight[:, None] * bow)[order],
        np.where(parent < 0, -1, place[parent])[order],
        subtree[order],
        power[order] ** (1 / exponent),
        length[order],
        arc[order],
        (tree[order] // 2).astype(np.int8),
        tree[order] % 2 == 1,
        float(exponent),
    )


def _across(points, group, direction, rng) -> np.ndarray:
    """Positions `[n]` along the longest extent of each group, at a right angle to its branch."""
    centred = points - _centres(points, group)[group]
    first = np.flatnonzero(np.diff(group, prepend=-1))
    spread = np.add.reduceat(centred[:, :, None] * centred[:, None], first)
    flat = np.eye(3) - direction[:, :, None] * direction[:, None]
    axis = np.linalg.eigh(flat @ spread @ flat)[1][..., -1]
    axis = axis + 0.25 * rng.standard_normal(axis.shape)
    return (centred * axis[group]).sum(axis=1)


def _centres(points, group) -> np.ndarray:
    first = np.flatnonzero(np.diff(group, prepend=-1))
    return np.add.reduceat(points, first) / np.bincount(group)[:, None]


def _within_angle(heading, direction) -> np.ndarray:
    cosine = (heading * direction).sum(axis=1, keepdims=True)
    aside = _unit(heading - cosine * direction)
    bent = np.cos(WIDEST) * direction + np.sin(WIDEST) * aside
    return np.where(cosine < np.cos(WIDEST), bent, heading)


def _unit(vectors) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _sampled(
    tree: VesselTree, breathing: BreathingMap, phase: str, level: str, rng: np.random.Generator
) -> VesselCloud:
    middle, slope = SEEN[phase]
    seen = rng.random(len(tree.radius)) < 1 / (1 + np.exp(-(tree.radius - middle) / slope))
    if level != "E":
        seen &= ~_lost(tree, LOST[phase], rng)
    ends = np.cumsum(tree.length * seen)
    way = rng.uniform(0, ends[-1], int(ends[-1] / SPACING))
    branch = np.searchsorted(ends, way, side="right")
    share = 1 - (ends[branch] - way) / tree.length[branch]
    points, known = tree.points(branch, share), branch
    if level != "E":
        clusters = int(CLUTTER * len(points) / 12)
        near = rng.integers(len(points), size=clusters)
        first, along = _unit(rng.standard_normal((2, clusters, 3)))
        steps = 0.8 * np.arange(12)[:, None, None] * along
        clutter = points[near] + rng.uniform(0, 8, (clusters, 1)) * first + steps
        points = np.concatenate([points, clutter.reshape(-1, 3)])
        known = np.concatenate([branch, np.tile(branch[near], 12)])
        share = np.concatenate([share, np.tile(share[near], 12)])
        branch = np.concatenate([branch, np.full(12 * clusters, -1)])
    points = points + JITTER[level] * rng.standard_normal(points.shape)
    order = rng.permutation(len(points))
    points, branch, known, share = points[order], branch[order], known[order], share[order]
    # The scatter of exhalation is breathed with the rest, so that the correspondence is exact.
    both = points, breathing(points)
    return VesselCloud(
        *(both if phase == "inhale" else both[::-1]),
        branch,
        tree.radius[known],
        tree.arc[known] + share * tree.length[known],
        tree.lobe[known],
        tree.vein[known],
    )


def _lost(tree: VesselTree, share: float, rng: np.random.Generator) -> np.ndarray:
    """Branches of random thin subtrees that make up a share of the length."""
    run = np.concatenate([[0.0], np.cumsum(tree.length)])
    index = np.arange(len(tree.length))
    below = run[index + tree.subtree] - run[index]
    number = 2 * tree.lobe + tree.vein
    whole = np.bincount(number, tree.length)[number]
    lost, remaining = np.zeros(len(index), dtype=bool), share * run[-1]
    for branch in rng.permutation(index[(tree.radius < 1.3) & (below < 0.03 * whole)]):
        if remaining <= 0:
            break
        part = slice(branch, branch + tree.subtree[branch])
        remaining -= tree.length[part][~lost[part]].sum()
        lost[part] = True
    return lost
