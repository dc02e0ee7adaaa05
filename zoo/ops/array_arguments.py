"""Checks of arrays, points and tensors that are given as arguments."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from zoo.ops.arguments import shown

MOST_VALUES = 2**28  # of an array that is made; 1 GiB in float32


def real_array(name: str, value: Any, finite: bool = True, booleans: bool = True) -> Any:
    """An argument as an array of real numbers.

    Args:
        name: of the argument.
        value: what was given.
        finite: whether NaN and infinity are refused.
        booleans: whether these count as numbers.

    Returns:
        A NumPy array, of the dtype that it has.

    Raises:
        ValueError: for what is no array, is complex, or holds objects or words.
    """
    import numpy as np

    if value is None or isinstance(value, str | bytes | Mapping | set):
        raise ValueError(f"{name} must be an array of real numbers, not {shown(value)}.")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name} must be an array of real numbers, its rows of one length, not {shown(value)}."
        ) from error
    if array.dtype.kind not in ("buif" if booleans else "uif"):
        raise ValueError(f"{name} must hold real numbers, not {array.dtype} ({shown(value)}).")
    # NumPy makes 1 of a True among numbers.
    if not booleans and isinstance(value, list | tuple) and _holds_booleans(value):
        raise ValueError(f"{name} must hold numbers, not True or False ({shown(value)}).")
    if finite and array.dtype.kind == "f":
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise ValueError(f"{name} must be finite; {bad} values are NaN or infinite.")
    return array


def _holds_booleans(rows: list | tuple) -> bool:
    return any(
        _holds_booleans(row) if isinstance(row, list | tuple) else _is_boolean(row) for row in rows
    )


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) == "bool"


def real_points(
    name: str, value: Any, dims: Collection[int] | None = (2, 3), least: int = 1
) -> Any:
    """An argument as points.

    Args:
        name: of the argument.
        value: what was given.
        dims: how many coordinates a point may have; None is any number.
        least: how many points there must be.

    Returns:
        float64 `[n, dims]`.

    Raises:
        ValueError: for another shape, values that are not real and finite, or too few points.
    """
    wanted = f"[n, {'d' if dims is None else ' or '.join(map(str, dims))}]"
    if hasattr(value, "points"):
        raise TypeError(
            f"{name} must be an array {wanted}, not a {type(value).__name__}; give its .points."
        )
    array = real_array(name, value, booleans=False)
    if array.ndim != 2 or (not array.shape[1] if dims is None else array.shape[1] not in dims):
        raise ValueError(f"{name} must have the shape {wanted}, not {array.shape}.")
    if len(array) < least:
        count = "one point" if least == 1 else f"{least} points"
        raise ValueError(f"{name} must hold at least {count}, not {len(array)}.")
    return array.astype("float64", copy=False)


def real_tensor(name: str, value: Any) -> Any:
    """Checks that an argument is an array or a tensor, symbolic or not, of real numbers.

    Raises:
        ValueError: for what has no shape, or is complex or holds objects or words.
    """
    dtype = str(getattr(value, "dtype", "nothing"))
    if not hasattr(value, "shape"):
        raise ValueError(f"{name} must be an array or a tensor, not {shown(value)}.")
    if any(word in dtype for word in ("complex", "object", "string", "<U", "|S")):
        raise ValueError(f"{name} must hold real numbers, not {dtype}.")
    return value


def tensors(names: Collection[str], value: Any) -> tuple:
    """What a layer that takes several tensors is called with.

    Args:
        names: of the tensors, in their order.
        value: what was given.

    Returns:
        A tuple of the tensors.

    Raises:
        ValueError: for what is no sequence of so many, or one of which `real_tensor` is none.
    """
    if not isinstance(value, list | tuple) or len(value) != len(names):
        raise ValueError(
            f"the layer must be called with ({', '.join(names)}), not with {shown(value)}."
        )
    return tuple(real_tensor(name, each) for name, each in zip(names, value, strict=True))


def few_enough(name: str, shape: Collection[int], most: int = MOST_VALUES) -> None:
    """Checks that an array of a shape, which is to be made, is not absurdly large.

    Raises:
        ValueError: for more than `most` values.
    """
    if math.prod(shape) > most:
        raise ValueError(
            f"{name} makes an array of {math.prod(shape):.3g} values ({shown(tuple(shape))}); "
            f"at most {most:.3g} are possible."
        )
