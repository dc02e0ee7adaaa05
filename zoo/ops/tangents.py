"""What tangents that travel with points tell of a surface."""

from __future__ import annotations

from keras import ops


def surface_elements(tangents):
    """The normal of moved tangents, as long as the area (or length) that they span.

    Args:
        tangents: `[b, n, 1, 2]` or `[b, n, 2, 3]`.

    Returns:
        Tensor `[b, n, dims]`.
    """
    if tangents.shape[-1] == 2:
        return ops.stack([-tangents[:, :, 0, 1], tangents[:, :, 0, 0]], axis=-1)
    return ops.cross(tangents[:, :, 0], tangents[:, :, 1])


def conformal_distortion(tangents):
    """How unevenly a surface is stretched at points, `[b, n]`; zero where angles are kept.

    Args:
        tangents: `[b, n, 2 or more, 3]`, of which the first two were orthonormal at the start.
    """
    first, second = tangents[:, :, 0], tangents[:, :, 1]
    lengths = ops.sum(ops.square(first) + ops.square(second), axis=-1)
    cross = ops.cross(first, second)
    area = ops.sqrt(ops.sum(ops.square(cross), axis=-1) + 1e-12)
    return lengths / (2.0 * area) - 1.0
