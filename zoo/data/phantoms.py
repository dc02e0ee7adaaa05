"""Generated image pairs with an exactly known transform, for the demonstration and for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from zoo.data.image import Image
from zoo.data.pair import Pair
from zoo.geometry import Grid
from zoo.ops.arguments import MOST, checked, positive
from zoo.ops.array_arguments import few_enough


@checked(shape=(1, MOST), spacing=positive)
def phantom_pair(
    shape: Sequence[int] = (128, 112),
    spacing: float = 1.0,
    turn: float = 12.0,
    stretch: float = 0.08,
    shift: float = 6.0,
    seed: int = 0,
) -> tuple[Pair, np.ndarray, np.ndarray]:
    """A body with organs, seen twice: the fixed image is the moving one through an affine map.

    Both images are evaluated from one formula, not resampled, so the map is exact.

    Args:
        shape: voxels of both images, of rank 2 or 3.
        spacing: of their grids in mm.
        turn: rotation about the last axis, in degrees.
        stretch: relative stretch of the first axis and squeeze of the second.
        shift: translation along the first axis in mm.
        seed: of the organs.

    Returns:
        `(pair, matrix, offset)`: the pair with the organs' centres as landmarks, and the true map
        `x -> matrix x + offset` from fixed to moving world coordinates.

    Raises:
        ValueError: for a shape of another rank.
    """
    few_enough("shape", (*shape, len(shape)))
    grid = Grid(shape, spacing)
    rank = grid.rank
    cosine, sine = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    matrix = np.eye(rank)
    matrix[:2, :2] = [[cosine, -sine], [sine, cosine]]
    matrix = matrix @ np.diag([1 + stretch, 1 - stretch, 1.0][:rank])
    offset = grid.centre - matrix @ grid.centre
    offset[0] += shift
    body, centres = _body(grid, np.random.default_rng(seed))
    points = grid.coordinates()
    images = [Image(body(where)[..., None], grid) for where in (points @ matrix.T + offset, points)]
    landmarks = (centres - offset) @ np.linalg.inv(matrix).T
    pair = Pair(*images, fixed_landmarks=landmarks, moving_landmarks=centres, name="phantom")
    return pair, matrix, offset


def _body(grid: Grid, rng) -> tuple[Callable, np.ndarray]:
    """Intensity as a function of world points `[..., rank]`, and the centres of its organs."""
    half = grid.extent / 2
    count = 12
    offsets = rng.uniform(-0.45, 0.45, (count, grid.rank)) * half
    centres = grid.centre + offsets
    radii = rng.uniform(0.08, 0.22, (count, grid.rank)) * half.min()
    brightness = rng.uniform(-0.5, 0.5, count)

    def body(points):
        def ellipsoid(centre, radius):
            distance = np.linalg.norm((points - centre) / radius, axis=-1)
            return 1 / (1 + np.exp((distance - 1) * np.mean(radius) / grid.spacing.mean()))

        values = 0.5 * ellipsoid(grid.centre, 0.75 * half)
        for centre, radius, weight in zip(centres, radii, brightness, strict=True):
            values = values + weight * ellipsoid(centre, radius)
        return values.astype(np.float32)

    return body, centres
