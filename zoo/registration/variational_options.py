"""What the options of a variational registration network may be."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.layers.activations import EXTRAPOLATIONS
from zoo.layers.intensities import INTENSITIES
from zoo.layers.variational_unit import ACTIVATIONS
from zoo.losses.tables import PENALTIES, SIMILARITIES
from zoo.ops.arguments import at_least, increasing, label_values, not_negative, one_of, positive
from zoo.ops.correlation import PADDINGS

CHOICES = {
    "dims": (2, 3),
    "start": ("descent", "random"),
    "activation": tuple(ACTIVATIONS),
    "extrapolation": EXTRAPOLATIONS,
    "padding": PADDINGS,
    "intensities": INTENSITIES,
    "similarity": tuple(SIMILARITIES),
    "penalty": tuple(PENALTIES),
    "unit_loss": ("last", "exponential"),
}
LEAST = dict.fromkeys(("channels", "levels", "units", "filters", "data_kernel", "spacing"), 1)
# Differences need two taps.
LEAST |= {"share_units": 1, "passes": 1, "smoothness_kernel": 2, "knots": 2, "features": 0}


def check_options(given: dict) -> None:
    """Checks the arguments of `zoo.models.dirvnet.DIRVNet`; label values become integers.

    Args:
        given: all of them by name; changed in place.

    Raises:
        ValueError: naming the argument, what was given and what may be.
    """
    for name, known in CHOICES.items():
        one_of(name, given[name], known)
    for name, least in LEAST.items():
        at_least(name, given[name], least)
    least = max(given["dims"], given["channels"] + given["features"])
    if given["filters"] < least:
        raise ValueError(
            f"filters must be at least {least}, one for each axis, channel and feature, not "
            f"{given['filters']}."
        )
    for name in ("momentum", "damping", "step"):
        positive(name, given[name], optional=True)
    not_negative("smoothness", given["smoothness"])
    for name in ("data_limits", "smoothness_limits"):
        increasing(name, given[name])
    if given["labels"] is not None:
        given["labels"] = label_values("labels", given["labels"])
    weights, levels = given["level_weights"], given["levels"]
    if weights is not None and (
        not isinstance(weights, Sequence)
        or len(weights) != levels
        or min(weights) < 0
        or not any(weights)
    ):
        raise ValueError(
            f"level_weights must hold {levels} numbers, coarse to fine, none negative and not all "
            f"zero, not {weights!r}."
        )
    if given["velocity"] and given["passes"] > 1:
        raise ValueError("passes must be 1 with velocity=True: a composition has no velocity.")
