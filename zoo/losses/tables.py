"""Losses of registration by the names that constructors take, and the rule for masks."""

from __future__ import annotations

from keras import ops

from zoo.losses.mind import MIND
from zoo.losses.mutual_information import MutualInformation
from zoo.losses.similarity import LNCC, NCC, MeanSquaredError
from zoo.losses.smoothness import Bending, Diffusion, TotalVariation
from zoo.ops.sampling import warp

SIMILARITIES = {
    "mse": MeanSquaredError,
    "ncc": NCC,
    "lncc": LNCC,
    "mi": MutualInformation,
    "mind": MIND,
}
PENALTIES = {"diffusion": Diffusion, "bending": Bending, "tv": TotalVariation}


def both_masks(fixed_mask=None, moving_mask=None, displacement=None):
    """Where a similarity counts: inside the fixed mask, and where the moving one is pulled from.

    No gradient flows into it: a loss must not fall because the overlap shrinks.

    Args:
        fixed_mask: None or tensor `[batch, *spatial, 1]`.
        moving_mask: likewise.
        displacement: `[batch, *spatial, rank]` in voxels, with a moving mask.

    Returns:
        Tensor `[batch, *spatial]`, or None without masks.
    """
    mask = None if fixed_mask is None else fixed_mask[..., 0]
    if moving_mask is None:
        return mask
    inside = ops.stop_gradient(warp(moving_mask, displacement))[..., 0]
    return inside if mask is None else mask * inside
