"""Checks of arguments, one wording for each kind of mistake; each returns what it was given."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any


def one_of(name: str, value: Any, known: Collection) -> Any:
    """Checks that an argument is one of those that there are.

    Args:
        name: of the argument.
        value: what was given; of another type, such as an array or a list, it is none of them.
        known: what there is; the keys of a dict.

    Raises:
        ValueError: for any other.
    """
    # By type as well, as True is no 1, and as an array compares with every word by itself.
    if not any(_is_alike(value, each) and value == each for each in known):
        raise ValueError(f"{name} must be one of {tuple(known)}, not {value!r}.")
    return value


def at_least(name: str, value: Any, least: float, optional: bool = False) -> Any:
    """Checks that a number is not below a limit.

    Args:
        name: of the argument.
        value: what was given.
        least: the limit; a whole one asks for a whole number.
        optional: whether None is allowed as well.

    Raises:
        ValueError: for less, NaN, or what is no such number.
    """
    if value is None and optional:
        return value
    whole = isinstance(least, int)
    if not _is_number(value, whole) or not value >= least:
        kind = " a whole number of" if whole and not _is_number(value, whole) else ""
        rest = " or None" if optional else ""
        raise ValueError(f"{name} must be{kind} at least {least}{rest}, not {value!r}.")
    return value


def between(name: str, value: Any, low: float, high: float) -> Any:
    """Checks that a number lies between two limits, or is one of them.

    Args:
        name: of the argument.
        value: what was given.
        low: the lower limit; two whole limits ask for a whole number.
        high: the upper limit.

    Raises:
        ValueError: for a number outside, NaN, or what is no such number.
    """
    whole = isinstance(low, int) and isinstance(high, int)
    if not _is_number(value, whole) or not low <= value <= high:
        kind = "be a whole number" if whole and not _is_number(value, whole) else "lie"
        limits = f"{low} and {high}" if whole else f"{low:g} and {high:g}"
        raise ValueError(f"{name} must {kind} between {limits}, not {value!r}.")
    return value


def positive(name: str, value: Any, optional: bool = False) -> Any:
    """Checks that a number is above zero and finite.

    Args:
        name: of the argument.
        value: what was given.
        optional: whether None is allowed as well.

    Raises:
        ValueError: for any other.
    """
    if value is None and optional:
        return value
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive{' or None' if optional else ''}, not {value!r}.")
    return value


def not_negative(name: str, value: Any, optional: bool = False) -> Any:
    """Checks that a number is zero or more and finite.

    Args:
        name: of the argument.
        value: what was given.
        optional: whether None is allowed as well.

    Raises:
        ValueError: for any other.
    """
    if value is None and optional:
        return value
    if not _is_number(value) or not 0 <= value < math.inf:
        rest = ", unless it is None" if optional else ""
        raise ValueError(f"{name} must not be negative{rest}, not {value!r}.")
    return value


def increasing(name: str, value: Any) -> Any:
    """Checks that an argument is two increasing numbers, and returns it.

    Raises:
        ValueError: for any other.
    """
    try:
        low, high = value
        good = _is_number(low) and _is_number(high) and low < high
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{name} must be two increasing numbers, not {value!r}.")
    return value


def label_values(name: str, value: Any) -> tuple[int, ...]:
    """Checks that an argument lists values of labels, and returns them.

    Raises:
        ValueError: for an empty list, or what are no whole numbers.
    """
    try:
        values = tuple(value)
        good = bool(values) and all(_is_number(each, whole=True) for each in values)
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"{name} must list at least one label value, not {value!r}.")
    return tuple(int(each) for each in values)


def _is_number(value: Any, whole: bool = False) -> bool:
    # NumPy declares its numbers as such, but not its booleans; Python takes its own for numbers.
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return not whole or isinstance(value, Integral) or float(value).is_integer()


def _is_alike(value: Any, known: Any) -> bool:
    if isinstance(value, bool) or isinstance(known, bool):
        return type(value) is type(known)
    return isinstance(value, type(known)) or (_is_number(value) and _is_number(known))
