"""Whether a displacement of images is kept: no folds, and more alike in either space."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from keras import ops
from scipy import ndimage

from zoo.losses.tables import both_masks
from zoo.ops.derivatives import jacobian_determinant
from zoo.ops.sampling import compose, warp

FLATTEST = 0.02  # determinant below which a map is smoothed
LOST = 0.75  # largest error of the way there and back, as a share of the way there
# From this error on a deformation has to make the images much more alike, to this share of their
# discrepancy: noise can always be fitted to noise a little.
RETURN, GAIN = 0.4, 0.85
LEAST_RETURN = 0.5  # voxels that it may miss in any case
SMALL = 0.1  # voxels; what moves less is as good as nothing
FOLDS = 1e-3  # share of the voxels from which on folds are told
SMOOTHINGS = (1.0, 1.0, 1.5, 1.5, 2.0, 2.0, 3.0, 3.0, 4.0, 6.0)  # standard deviations, voxels


def unfolded(displacement: np.ndarray) -> np.ndarray:
    """The displacement, smoothed around the places where it folds, and nowhere else.

    Args:
        displacement: `[*spatial, rank]` in voxels.

    Returns:
        Likewise, float32; the array itself where nothing folds. Where the smoothing does not end
        the folds they stay.
    """
    rank = displacement.ndim - 1
    for deviation in SMOOTHINGS:
        flat = determinant(displacement) < FLATTEST
        if not flat.any():
            break
        around = ndimage.binary_dilation(flat, iterations=2).astype(np.float32)
        share = np.minimum(2.0 * ndimage.gaussian_filter(around, deviation), 1.0)[..., None]
        smooth = ndimage.gaussian_filter(displacement, (deviation,) * rank + (0,), mode="nearest")
        displacement = displacement + share * (smooth - displacement)
    return displacement


def determinant(displacement: np.ndarray) -> np.ndarray:
    """Jacobian determinant `[*spatial]` of the map of a displacement `[*spatial, rank]`."""
    return ops.convert_to_numpy(jacobian_determinant(displacement[None]))[0]


def discrepancy(images: dict, displacement: np.ndarray, loss: Callable) -> float:
    """How unlike the images are, counted in the fixed and in the moving space alike.

    In the fixed space alone a map seems good that widens what fits and skips what does not: each
    voxel counts half by its own volume and half by the one that it takes in the moving space.

    Args:
        images: `fixed` and `moving`, `[1, *spatial, channels]`, and perhaps their masks,
            `[1, *spatial, 1]`.
        displacement: `[*spatial, rank]` in voxels.
        loss: a similarity loss, which takes a mask `[1, *spatial]`.
    """
    field = displacement[None]
    weight = (1.0 + ops.clip(jacobian_determinant(field), 0.0, 10.0)) / 2.0
    mask = both_masks(images.get("fixed_mask"), images.get("moving_mask"), field)
    if mask is not None:
        weight = weight * mask
    return float(loss(images["fixed"], warp(images["moving"], field), weight))


def judged(
    images: dict,
    displacement: np.ndarray,
    loss: Callable,
    back: np.ndarray | None = None,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, list[str]]:
    """What of a displacement is kept, and what there is to doubt about it.

    It is kept where it leads there and back again and makes the images more alike in both spaces,
    or as half of it does; else the start is.

    Args:
        images: see `discrepancy`.
        displacement: `[*spatial, rank]` in voxels.
        loss: see `discrepancy`.
        back: the displacement that was found for the pair the other way round. Images that show
            the same lead back to where one came from; noise, or different things, do not.
        start: what the displacement has to be better than; None is no displacement.

    Returns:
        The displacement, float32, and sentences, none where nothing is doubtful.
    """
    start, astray = np.zeros_like(displacement) if start is None else start, False
    if back is not None:
        length, error = (_mean_length(each, images.get("fixed_mask")) for each in (
            displacement, ops.convert_to_numpy(compose(displacement[None], back[None]))[0]
        ))  # fmt: skip
        astray = error > max(RETURN * length, LEAST_RETURN)
        if not error <= max(LOST * length, LEAST_RETURN):
            return start, [_unsupported(length, error)]
    before = discrepancy(images, start, loss)
    for share in (1.0, 0.5):
        tried = unfolded(start + share * (displacement - start))
        after = discrepancy(images, tried, loss)
        if after < (GAIN if astray else 1.0) * before:
            return tried, _of_folds(tried)
    if np.abs(displacement - start).max() < SMALL:
        # Images that are alike leave nothing to gain, which is no reason to doubt.
        return start, []
    if astray:
        return start, [_unsupported(length, error)]
    return start, [
        "no deformation was found that makes the images more alike in both spaces (their "
        f"discrepancy, {before:.4g}, would become {after:.4g})"
    ]


def _unsupported(length: float, error: float) -> str:
    return (
        f"the images do not support a deformation: the way there and back again, of {length:.2g} "
        f"voxels in the mean, misses its start by {error:.2g}"
    )


def _of_folds(displacement: np.ndarray) -> list[str]:
    share = float((determinant(displacement) <= 0).mean())
    return [f"{100 * share:.2g} % of the voxels fold"] if share > FOLDS else []


def _mean_length(displacement: np.ndarray, mask) -> float:
    lengths = np.linalg.norm(displacement, axis=-1)
    if mask is None:
        return float(lengths.mean())
    return float(np.average(lengths, weights=np.asarray(mask)[0, ..., 0]))
