"""Generated figures with limbs, in poses, whose vertices correspond exactly; made here, so free.

A figure stands upright along y and looks along z; a unit is about half its height.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from scipy.spatial.transform import Rotation

from zoo.data.pair import Pair
from zoo.data.scan import Scan
from zoo.ops.arguments import MOST_SEED, checked, one_of

# Bone: the bone it hangs on, where it begins and ends, and its thickness there.
BONES = {
    "spine": (None, (0, 0.0, 0), (0, 0.5, 0), 0.15, 0.17),
    "head": ("spine", (0, 0.6, 0), (0, 0.85, 0.02), 0.07, 0.13),
    "left_arm": ("spine", (0.2, 0.48, 0), (0.5, 0.42, 0), 0.07, 0.055),
    "left_forearm": ("left_arm", (0.5, 0.42, 0), (0.82, 0.38, 0.02), 0.055, 0.045),
    "right_arm": ("spine", (-0.2, 0.48, 0), (-0.5, 0.42, 0), 0.07, 0.055),
    "right_forearm": ("right_arm", (-0.5, 0.42, 0), (-0.82, 0.38, 0.02), 0.055, 0.045),
    "left_thigh": ("spine", (0.1, -0.08, 0), (0.13, -0.5, 0), 0.1, 0.075),
    "left_shin": ("left_thigh", (0.13, -0.5, 0), (0.14, -0.92, -0.02), 0.075, 0.05),
    "right_thigh": ("spine", (-0.1, -0.08, 0), (-0.13, -0.5, 0), 0.1, 0.075),
    "right_shin": ("right_thigh", (-0.13, -0.5, 0), (-0.14, -0.92, -0.02), 0.075, 0.05),
}
# Of joints, degrees about x (forward is negative for legs), y and z.
POSES: dict[str, dict[str, tuple[float, float, float]]] = {
    "rest": {},
    "step": {
        "left_thigh": (-35, 0, 0),
        "left_shin": (20, 0, 0),
        "right_thigh": (25, 0, 0),
        "right_shin": (25, 0, 0),
        "left_arm": (0, 25, -55),
        "right_arm": (0, 25, 55),
    },
    "wave": {"left_arm": (0, 0, 50), "left_forearm": (0, 0, 45), "right_arm": (0, 0, 60)},
    "sit": {
        "left_thigh": (-75, 0, 0),
        "left_shin": (75, 0, 0),
        "right_thigh": (-75, 0, 0),
        "right_shin": (75, 0, 0),
    },
}
BLEND = 0.045  # width over which limbs melt into each other
SOFTNESS = 0.05  # of the skin at joints
CELLS = 64  # of the box along its longest side, when the figure is meshed


@checked(subject=(0, MOST_SEED), cells=(16, 512))
def articulated_figure(
    pose: str | Mapping[str, tuple[float, float, float]] = "rest",
    subject: int = 0,
    cells: int = CELLS,
) -> Scan:
    """A figure as a closed mesh; all poses of all subjects correspond vertex by vertex.

    The first subject at rest is meshed once. Others have their bones in other lengths and
    thicknesses, and poses turn the bones; vertices follow by linear blend skinning.

    Args:
        pose: "rest", "step", "wave", "sit", or degrees about x, y and z by bone.
        subject: 0 for the first one; others are drawn with this seed.
        cells: of the grid that is meshed, along its longest side.

    Returns:
        A scan with faces; 64 cells give about 3,000 vertices.

    Raises:
        ValueError: for an unknown pose or bone.
    """
    if isinstance(pose, str):
        pose = POSES[one_of("pose", pose, POSES)]
    for bone in pose:
        one_of("pose", bone, BONES)
    vertices, faces, weights = _meshed(cells)
    lengths, girths = _proportions(subject)
    moved = np.zeros_like(vertices)
    turns, places = {}, {}
    for index, (bone, (parent, start, end, *_)) in enumerate(BONES.items()):
        start, end = np.array(start, float), np.array(end, float)
        turn = Rotation.from_euler("xyz", pose.get(bone, (0, 0, 0)), degrees=True)
        if parent is None:
            turns[bone], places[bone] = turn, start
        else:
            turns[bone] = turns[parent] * turn
            above = np.array(BONES[parent][1], float)
            places[bone] = places[parent] + turns[parent].apply(lengths[parent] * (start - above))
        # Along the bone by its length, across by its girth.
        axis = (end - start) / np.linalg.norm(end - start)
        local = vertices - start
        along = (local @ axis)[:, None] * axis
        shaped = lengths[bone] * along + girths[bone] * (local - along)
        moved += weights[:, index : index + 1] * (places[bone] + turns[bone].apply(shaped))
    return Scan(moved, faces=faces.copy(), name=f"figure_{subject}")


def figure_pair(
    fixed: str | Mapping[str, tuple[float, float, float]] = "step",
    moving: str | Mapping[str, tuple[float, float, float]] = "rest",
    fixed_subject: int = 0,
    moving_subject: int = 0,
    cells: int = CELLS,
) -> Pair:
    """Two figures as a pair, the vertices of the fixed one in another order.

    Which fixed vertex belongs to which moving one is in `fixed_labels` and `moving_labels`.

    Args:
        fixed, moving: poses, see `articulated_figure`.
        fixed_subject, moving_subject: whose.
        cells: see `articulated_figure`.

    Example:
        >>> from zoo.data.figures import figure_pair
        >>> pair = figure_pair("rest", "rest", cells=24)
        >>> one, other = np.argsort(pair.fixed_labels), np.argsort(pair.moving_labels)
        >>> bool(np.allclose(pair.fixed.points[one], pair.moving.points[other]))
        True
    """
    target = articulated_figure(fixed, fixed_subject, cells)
    source = articulated_figure(moving, moving_subject, cells)
    order = np.random.default_rng(0).permutation(len(target))
    shuffled = Scan(target.points[order], faces=np.argsort(order)[target.faces], name=target.name)
    labels = np.arange(len(target))
    return Pair(shuffled, source, fixed_labels=order, moving_labels=labels)


def random_pose(seed: int) -> dict[str, tuple[float, float, float]]:
    """A pose that a walking, waving or gesturing figure might have, for `articulated_figure`.

    Args:
        seed: of the angles; a figure is as likely to lean to the left as to the right.
    """
    random = np.random.default_rng(seed)
    pose = {}
    for side, sign in (("left", 1), ("right", -1)):
        pose[f"{side}_thigh"] = (random.uniform(-60, 40), 0.0, sign * random.uniform(0, 20))
        pose[f"{side}_shin"] = (random.uniform(0, 60), 0.0, 0.0)
        pose[f"{side}_arm"] = (0.0, random.uniform(-30, 30), random.uniform(-60, 60))
        pose[f"{side}_forearm"] = (0.0, 0.0, sign * random.uniform(0, 60))
    return pose


def random_figures(seed: int, cells: int = CELLS) -> Pair:
    """A random subject at rest, to be moved onto another one in a random pose.

    Args:
        seed: of subjects and pose.
        cells: see `articulated_figure`.
    """
    moving, fixed = (int(each) for each in np.random.default_rng(seed).integers(1, 10**6, 2))
    pose = random_pose(seed)
    return figure_pair(pose, fixed_subject=fixed, moving_subject=moving, cells=cells)


@checked(swing=(0.0, 180.0), count=(8, 10**7))
def two_legs(swing: float = 45.0, count: int = 2000, seed: int = 0) -> Pair:
    """Two upright tubes side by side that swing apart, one forward and one backward.

    The nearest points of the one are soon those of the other, unless something keeps them apart.

    Args:
        swing: degrees of each about the hip.
        count: points of each leg, spread evenly; fixed ones are in another order.
        seed: of the points.

    Returns:
        A pair of clouds with normals; labels are the leg's number, and landmarks all points, fixed
        and moving in corresponding order.
    """
    random = np.random.default_rng(seed)
    legs, normals, labels, swung, swung_normals = [], [], [], [], []
    for label, side in enumerate((-0.13, 0.13)):
        angle, height = random.uniform(0, 2 * np.pi, count), random.uniform(-1, 0, count)
        normal = np.stack([np.cos(angle), np.zeros(count), np.sin(angle)], axis=1)
        leg = 0.09 * normal + np.stack([np.full(count, side), height, np.zeros(count)], axis=1)
        turn = Rotation.from_euler("x", swing if label else -swing, degrees=True)
        legs.append(leg)
        normals.append(normal)
        swung.append(turn.apply(leg))
        swung_normals.append(turn.apply(normal))
        labels.append(np.full(count, label))
    parts = [np.concatenate(each) for each in (legs, normals, swung, swung_normals, labels)]
    order = random.permutation(2 * count)
    return Pair(
        Scan(parts[2][order], parts[3][order], name="swung legs"),
        Scan(parts[0], parts[1], name="legs"),
        fixed_labels=parts[4][order],
        moving_labels=parts[4],
        fixed_landmarks=parts[2],
        moving_landmarks=parts[0],
    )


def _proportions(subject: int) -> tuple[dict[str, float], dict[str, float]]:
    """Length and girth of every bone relative to the first subject's; both sides are alike."""
    random = np.random.default_rng(subject)
    lengths, girths = {}, {}
    stout = random.uniform(0.85, 1.3)
    for bone in BONES:
        twin = bone.replace("right", "left")
        if twin in lengths:
            lengths[bone], girths[bone] = lengths[twin], girths[twin]
            continue
        lengths[bone] = random.uniform(0.88, 1.12) if subject else 1.0
        girths[bone] = stout * random.uniform(0.9, 1.1) if subject else 1.0
    return lengths, girths


@lru_cache(maxsize=4)
def _meshed(cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, faces and skinning weights `[n, bones]` of the first subject at rest."""
    from skimage.measure import marching_cubes

    low, high = np.array([-1.0, -1.05, -0.3]), np.array([1.0, 1.05, 0.3])
    step = float((high - low).max()) / cells
    axes = [np.arange(a, b + step, step) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    distances = _distances(points)
    # A soft minimum, so that the surface is one and smooth where limbs meet.
    melted = -BLEND * np.log(np.exp(-distances / BLEND).sum(axis=1))
    field = melted.reshape([len(axis) for axis in axes])
    vertices, faces, _, _ = marching_cubes(field, 0.0, spacing=(step,) * 3)
    vertices = vertices.astype(np.float64) + low
    distances = _distances(vertices)
    weights = np.exp(-(distances - distances.min(axis=1, keepdims=True)) / SOFTNESS)
    # A bone holds only skin near it: a hand at the hip does not pull at it.
    weights[weights < 0.05] = 0.0
    return vertices, faces.astype(np.int64), weights / weights.sum(axis=1, keepdims=True)


def _distances(points: np.ndarray) -> np.ndarray:
    """Signed distances `[n, bones]` from round cones around the bones."""
    found = []
    for _, start, end, thick, thin in BONES.values():
        start, end = np.array(start, float), np.array(end, float)
        axis = end - start
        along = np.clip((points - start) @ axis / (axis @ axis), 0, 1)
        nearest = start + along[:, None] * axis
        radius = thick + along * (thin - thick)
        found.append(np.linalg.norm(points - nearest, axis=1) - radius)
    return np.stack(found, axis=1)
