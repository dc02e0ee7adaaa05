"""Checks of what `fit`, `predict` and `compile` are given, before Keras sees it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import keras
import numpy as np

from zoo.ops.arguments import MOST, at_least, between, not_negative, one_of, shown
from zoo.ops.array_arguments import real_array, real_tensor

MOST_EPOCHS = 10**7


def check_fit(options: Mapping) -> None:
    """Checks options of `fit` that Keras does not look at before it trains.

    Raises:
        ValueError: naming the option, what came and what may be.
    """
    limits = {
        "epochs": (1, MOST_EPOCHS),
        "initial_epoch": (0, MOST_EPOCHS),
        "steps_per_epoch": (1, MOST_EPOCHS),
        "batch_size": (1, MOST),
    }
    for name, (low, high) in limits.items():
        if options.get(name) is not None or (name == "initial_epoch" and name in options):
            at_least(name, options[name], low)
            between(name, options[name], low, high)
    if "verbose" in options:
        one_of("verbose", options["verbose"], ("auto", 0, 1, 2, True, False))
    if "shuffle" in options:
        one_of("shuffle", options["shuffle"], (True, False))


def check_inputs(name: str, value) -> None:
    """Checks that an argument can be trained on: arrays, a dict of them, or what yields batches.

    Raises:
        ValueError: for anything else, complex numbers, objects, NaN and infinity.
    """
    parts = {name: value}
    if isinstance(value, Mapping):
        parts = {f"{name}[{key!r}]": part for key, part in value.items()}
        if not parts:
            raise ValueError(f"{name} must not be empty.")
    # A data set may have a shape as well, that of what it yields.
    elif not (hasattr(value, "shape") and hasattr(value, "dtype")):
        if isinstance(value, str | bytes | list | tuple) or not isinstance(
            value, Iterable | keras.utils.PyDataset
        ):
            raise ValueError(
                f"{name} must be a container of the zoo, an array or a data set, not "
                f"{shown(value)}."
            )
        return
    for part, array in parts.items():
        real_tensor(part, array)
        if not isinstance(array, keras.KerasTensor) and 0 in tuple(array.shape):
            raise ValueError(f"{part} must not be empty; its shape is {tuple(array.shape)}.")
        if isinstance(array, np.ndarray):
            real_array(part, array)


def check_compile(optimizer, loss_weights, jit_compile, terms: Collection[str], rest: Mapping):
    """Checks arguments of `compile`.

    Args:
        optimizer: as `compile` is given, and so on.
        loss_weights: likewise.
        jit_compile: likewise.
        terms: of the loss that the model has.
        rest: further arguments.

    Raises:
        ValueError: naming the argument, what came and what may be.
    """
    if rest.get("loss") is not None:
        raise ValueError(
            f"loss must be None: the loss is the sum of {sorted(terms)}, which loss_weights weighs."
        )
    if not isinstance(optimizer, str | Mapping | keras.optimizers.Optimizer | None):
        raise ValueError(
            f"optimizer must be an optimiser of Keras, its name or None, not {shown(optimizer)}."
        )
    if isinstance(optimizer, str | Mapping):
        try:
            keras.optimizers.get(optimizer)
        except Exception as error:  # Keras raises what it comes across
            raise ValueError(f"optimizer: {error}") from error
    one_of("jit_compile", jit_compile, (True, False, "auto"))
    if not isinstance(loss_weights, Mapping | None):
        raise ValueError(
            f"loss_weights must be a dict of weights by term or None, not {shown(loss_weights)}."
        )
    for term, weight in (loss_weights or {}).items():
        not_negative(f"loss_weights[{term!r}]", weight)
