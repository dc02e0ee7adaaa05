"""What the options of a variational registration network may be."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.layers.activations import EXTRAPOLATIONS
from zoo.layers.intensities import INTENSITIES
from zoo.layers.variational_unit import ACTIVATIONS
from zoo.losses.tables import PENALTIES, SIMILARITIES
from zoo.ops.arguments import MOST, increasing, label_values, not_negative, one_of, positive
from zoo.ops.array_arguments import few_enough
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
LIMITS = {
    "channels": (1, 1024),
    "levels": (1, 16),
    "units": (1, 200),
    "filters": (1, 1024),
    "data_kernel": (1, 63),
    "smoothness_kernel": (2, 63),  # differences need two taps
    "spacing": (1, 4096),
    "share_units": (1, MOST),
    "knots": (2, 4096),
    "features": (0, 1024),
    "passes": (1, 1000),
}
MOST_UNITS = 1000  # of all levels; more would take minutes to build


def check_options(given: dict) -> None:
    """Checks the arguments of `zoo.models.dirvnet.DIRVNet`; label values become integers.

    Args:
        given: all of them by name; changed in place.

    Raises:
        ValueError: naming the argument, what was given and what may be.
    """
    for name, known in CHOICES.items():
        one_of(name, given[name], known)
    if given["levels"] * given["units"] > MOST_UNITS:
        raise ValueError(
            f"levels x units must be at most {MOST_UNITS}, not {given['levels']} x "
            f"{given['units']}."
        )
    for name in ("data_kernel", "smoothness_kernel"):
        taps = given[name] ** given["dims"]
        few_enough(f"{name} and filters", (taps, given["filters"], given["channels"]), 2**24)
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
