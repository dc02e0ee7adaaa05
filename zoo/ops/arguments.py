"""Checks of arguments: one wording for each kind of mistake."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any


def one_of(name: str, value: Any, known: Collection) -> Any:
    """Checks that an argument is one of those that there are, and returns it.

    Raises:
        ValueError: for any other.
    """
    if value not in known:
        raise ValueError(f"{name} must be one of {tuple(known)}, not {value!r}.")
    return value


def at_least(name: str, value: Any, least: float, optional: bool = False) -> Any:
    """Checks that a number is not below a limit, and returns it.

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


def positive(name: str, value: Any, optional: bool = False) -> Any:
    """Checks that a number is above zero and finite, and returns it.

    Raises:
        ValueError: for any other, but None with `optional`.
    """
    if value is None and optional:
        return value
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive{' or None' if optional else ''}, not {value!r}.")
    return value


def not_negative(name: str, value: Any, optional: bool = False) -> Any:
    """Checks that a number is zero or more and finite, and returns it.

    Raises:
        ValueError: for any other, but None with `optional`.
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
    if isinstance(value, bool):
        return False
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return number.is_integer() if whole else not isinstance(value, str)
