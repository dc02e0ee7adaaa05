import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from zoo.metrics import diffeomorphism
from zoo.metrics.diffeomorphism import non_diffeomorphic_volume


def indices(shape):
    return np.moveaxis(np.indices(shape), 0, -1).astype(float)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4)])
def test_affine_maps_fold_nothing_or_all(shape):
    rank, points = len(shape), indices(shape)
    turn = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()[:rank, :rank]
    keeps = np.eye(rank) + 0.4 * turn
    assert non_diffeomorphic_volume(points @ keeps.T - points) == 0
    # What is turned inside out is as large as its image: twice as long in one direction.
    mirrors = np.diag([-2.0, *[1.0] * (rank - 1)])
    assert non_diffeomorphic_volume(points @ mirrors - points) == pytest.approx(200)


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 4)])
def test_a_plane_that_overtakes_the_next_one(shape):
    # One layer of cells of 6 is stretched to 2.5, the next one is turned inside out, half as deep.
    field = np.zeros((*shape, len(shape)))
    field[3, ..., 0] = 1.5
    assert non_diffeomorphic_volume(field) == pytest.approx(100 * 0.5 / 6)


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 7)])
def test_one_voxel_that_leaves_its_cell(shape):
    field = np.zeros((*shape, len(shape)))
    field[(4,) * len(shape)][0] = 1.5
    cells = np.prod(np.array(shape) - 1)
    found = non_diffeomorphic_volume(field) * cells / 100
    assert found == pytest.approx(exact(field))
    assert 0 < found < 2


def exact(field):
    """The same by all permutations of signs, one determinant at a time."""
    points = indices(field.shape[:-1]) + field
    rank, total = field.shape[-1], 0.0
    parity = {0: [], 1: []}
    corners = list(np.ndindex(*(2,) * rank))
    for corner in corners:
        parity[sum(corner) % 2].append(corner)
    for cell in np.ndindex(*(size - 1 for size in field.shape[:-1])):
        at = {corner: points[tuple(np.add(cell, corner))] for corner in corners}
        for corner in corners:
            edges = []
            for axis in range(rank):
                other = list(corner)
                other[axis] = 1 - other[axis]
                edges.append((at[tuple(other)] - at[corner]) * (1 - 2 * corner[axis]))
            total += max(0, -np.linalg.det(edges)) / (2 if rank == 2 else 6)
        if rank == 3:
            for group in parity.values():
                whole = np.linalg.det([np.subtract(c, group[0]) for c in group[1:]])
                mapped = np.linalg.det([at[c] - at[group[0]] for c in group[1:]])
                total += max(0, -mapped * np.sign(whole)) / 6
    return total / 2


def test_folds_that_central_differences_overlook():
    # Every second plane moves by 1.2 voxels: neighbours of neighbours keep their distance.
    field = np.zeros((8, 6, 6, 3))
    field[::2, ..., 0] = 1.2
    inner = np.gradient(field[..., 0], axis=0)[1:-1] + 1
    assert inner.min() == pytest.approx(1)
    assert non_diffeomorphic_volume(field) == pytest.approx(100 * 4 * 0.2 / 7)


def test_masks_and_slabs(monkeypatch):
    field = np.random.default_rng(0).normal(scale=0.7, size=(9, 8, 7, 3))
    mask = np.zeros((9, 8, 7), bool)
    mask[2:6, 1:5, 3:7] = True
    whole, part = non_diffeomorphic_volume(field), non_diffeomorphic_volume(field, mask)
    assert part == pytest.approx(non_diffeomorphic_volume(field[2:6, 1:5, 3:7]))
    assert whole == pytest.approx(100 * exact(field) / (8 * 7 * 6))
    monkeypatch.setattr(diffeomorphism, "SLAB", 100)
    assert non_diffeomorphic_volume(field) == pytest.approx(whole)
    assert non_diffeomorphic_volume(field, mask) == pytest.approx(part)


@pytest.mark.parametrize(
    ("field", "mask", "message"),
    [
        (np.zeros((4, 4, 3)), None, "displacement must have the shape"),
        (np.zeros((4, 1, 2)), None, "at least 2 voxels"),
        (np.full((4, 4, 2), np.nan), None, "displacement"),
        (np.zeros((4, 4, 2)), np.ones((4, 3)), "mask must have the shape"),
        (np.zeros((4, 4, 2)), np.zeros((4, 4)), "mask must hold all corners"),
    ],
)
def test_what_is_wrong_is_said(field, mask, message):
    with pytest.raises(ValueError, match=message):
        non_diffeomorphic_volume(field, mask)
