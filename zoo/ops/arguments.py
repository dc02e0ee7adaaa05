"""Checks of arguments, one wording for each kind of mistake.

`checked` holds the arguments of a function to its annotations, and to limits beside them; the
functions below it each check one argument, and return what they were given.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

MOST = 2**31 - 1  # of whole numbers without a limit of their own: what 32 bits hold
MOST_SEED = 2**32 - 1

Limit = tuple[float, float] | Callable[[str, Any], Any]

# What the constructors of Keras take, and what most of them do not look at.
_KERAS = {
    "name": (str | None, None),
    "trainable": (bool, None),
    "workers": (int, (1, 1024)),
    "use_multiprocessing": (bool, None),
    "max_queue_size": (int, (1, MOST)),
}


def checked(**limits: Limit) -> Callable:
    """Decorates a function, or a class, so that arguments are what its annotations say.

    A whole number is no bool and fits 32 bits, a number is finite, an array holds real numbers.
    Numbers and booleans of NumPy, and whole numbers like 4.0, arrive as Python's own, sequences of
    numbers as tuples. Arguments without an annotation pass, and so does what symbolic tensors are
    given for. What is called `seed` is never negative. It costs about a microsecond an argument,
    and is meant for what runs on the host, not for what a graph traces.

    Args:
        **limits: of arguments: the lowest and the highest number, or a function of name and value
            such as `positive`; of sequences for each of their numbers.

    Returns:
        The decorator. What it made raises a ValueError that names the argument, what came and what
        was expected.
    """

    def decorate(function):
        if isinstance(function, type):
            function.__init__ = decorate(function.__init__)
            return function
        parameters = inspect.signature(function).parameters
        names = [name for name, each in parameters.items() if each.kind != each.VAR_KEYWORD]
        passes_on = len(names) < len(parameters)
        checks: dict[str, Callable | None] = {}

        @functools.wraps(function)
        def call(*args, **kwargs):
            if not checks:
                checks.update(_checks(function, names, limits, passes_on))
            args = list(args)
            for place, name in enumerate(names[: len(args)]):
                check = checks[name]
                if check is not None:
                    args[place] = check(name, args[place])
            for name, value in kwargs.items():
                check = checks.get(name)
                if check is not None:
                    kwargs[name] = check(name, value)
            return function(*args, **kwargs)

        # Keras asks for it in a way that does not see through `wraps`.
        call.__signature__ = inspect.signature(function)
        return call

    return decorate


def _checks(function, names: Sequence[str], limits: Mapping, passes_on: bool) -> dict:
    hints = typing.get_type_hints(function)
    found = {name: _check_of(hints.get(name), limits.get(name), name) for name in names}
    for name, (hint, limit) in (_KERAS if passes_on else {}).items():
        found.setdefault(name, _check_of(hint, limit, name))
    return found


def _check_of(hint: Any, limit: Limit | None, name: str) -> Callable | None:
    """`(name, value) -> value` for an annotation; None where there is nothing to check."""
    if name == "seed" and limit is None:
        limit = (0, MOST_SEED)
    kinds = typing.get_args(hint) if _is_union(hint) else (hint,)
    if hint is None or Any in kinds:
        return None
    wanted = " or ".join(_phrase(kind, limit) for kind in kinds)
    rest = " or None" if type(None) in kinds else ""

    def check(name: str, value: Any) -> Any:
        for kind in kinds:
            taken = _taken(value, kind)
            if taken is not _NO:
                _limited(name, taken, limit, rest)
                if name == "seed" and isinstance(taken, tuple) and not taken:
                    break
                return taken
        raise ValueError(f"{name} must be {wanted}, not {shown(value)}.")

    return check


_NO = object()  # what a value is that is not of the kind


def _taken(value: Any, kind: Any) -> Any:
    """The value as one of a kind, or `_NO`."""
    if kind is type(None):
        return None if value is None else _NO
    if kind is bool:
        return bool(value) if type(value) is bool or _is_numpys(value, "bool") else _NO
    if kind is int:
        return int(value) if _is_number(value, whole=True) else _NO
    if kind is float:
        return float(value) if _is_number(value) and _is_finite(value) else _NO
    if kind is str or kind is Path:
        return value if isinstance(value, str if kind is str else str | os.PathLike) else _NO
    origin = typing.get_origin(kind) or kind
    if origin is Callable:
        return value if callable(value) else _NO
    if origin in (Sequence, tuple, list):
        return _sequence(value, kind)
    if _is_numpys(kind, "ndarray"):
        return value if _is_array(value) else _NO
    return value if isinstance(value, origin) else _NO


def _sequence(value: Any, kind: Any) -> Any:
    if isinstance(value, str | bytes | Mapping | set | frozenset) or not hasattr(value, "__len__"):
        return _NO
    parts = [part for part in typing.get_args(kind) if part is not ...]
    if not parts or not hasattr(value, "__getitem__") or getattr(value, "shape", None) == ():
        return value if hasattr(value, "__getitem__") else _NO
    fixed = typing.get_origin(kind) is tuple and ... not in typing.get_args(kind)
    if fixed and len(value) != len(parts):
        return _NO
    numbers = all(part in (int, float) or typing.get_origin(part) for part in parts)
    if not numbers and not isinstance(value, list | tuple):
        return value  # it may make its parts one by one
    kinds = parts if fixed else parts[:1] * len(value)
    taken = [_any_of(each, part) for each, part in zip(value, kinds, strict=True)]
    if any(each is _NO for each in taken):
        return _NO
    return tuple(taken) if numbers else value


def _any_of(value: Any, hint: Any) -> Any:
    for kind in typing.get_args(hint) if _is_union(hint) else (hint,):
        taken = _taken(value, kind)
        if taken is not _NO:
            return taken
    return _NO


def _limited(name: str, value: Any, limit: Limit | None, rest: str) -> None:
    if isinstance(value, tuple):
        for each in value:
            _limited(name, each, limit, rest)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if limit is None and isinstance(value, int):
            limit = (-MOST, MOST)
        if callable(limit):
            limit(name, value)
        elif limit is not None and value < limit[0]:
            raise ValueError(f"{name} must be at least {limit[0]}{rest}, not {shown(value)}.")
        elif limit is not None and value > limit[1]:
            raise ValueError(f"{name} must be at most {limit[1]}{rest}, not {shown(value)}.")


def _phrase(kind: Any, limit: Limit | None, several: bool = False) -> str:
    """What is expected, in words."""
    if kind is type(None):
        return "None"
    if kind in (bool, str):
        return "True or False" if kind is bool else "words" if several else "a word"
    if kind in (int, float):
        what = "whole number" if kind is int else "finite number"
        least = f" of at least {limit[0]}" if kind is int and isinstance(limit, tuple) else ""
        return f"{what}s{least}" if several else f"a {what}{least}"
    origin = typing.get_origin(kind) or kind
    if origin is Callable:
        return "functions" if several else "a function"
    if _is_numpys(origin, "ndarray"):
        return "arrays of real numbers" if several else "an array of real numbers"
    if origin not in (Sequence, tuple, list):
        article = "" if several else "an " if origin.__name__[0] in "AEIOU" else "a "
        return f"{article}{origin.__name__}{'s' if several else ''}"
    parts = typing.get_args(kind) or (Any,)
    if parts[0] is Any:
        return "sequences" if several else "a sequence"
    fixed = origin is tuple and ... not in parts
    options = typing.get_args(parts[0]) if _is_union(parts[0]) else parts[:1]
    inner = " or ".join(_phrase(option, limit, several=True) for option in options)
    count = f"{len(parts)} " if fixed else ""
    return f"{'sequences' if several else 'a sequence'} of {count}{inner}"


def shown(value: Any) -> str:
    """A value for a message: its repr, cut where it is long."""
    try:
        text = repr(value)
    except Exception as error:  # of whatever class the value is; the message must not fail
        text = f"{type(value).__name__} ({type(error).__name__} when it is printed)"
    return text if len(text) <= 120 else f"{text[:100]}... ({type(value).__name__})"


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _is_numpys(value: Any, name: str) -> bool:
    kind = value if isinstance(value, type) else type(value)
    return kind.__module__ == "numpy" and kind.__name__.rstrip("_") == name


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (OverflowError, TypeError, ValueError):
        return False


def _is_array(value: Any) -> bool:
    import numpy as np

    try:
        return np.asarray(value).dtype.kind in "buif"
    except (ValueError, TypeError):
        return False


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
        raise ValueError(f"{name} must be one of {tuple(known)}, not {shown(value)}.")
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
    if whole and _is_number(value, whole) and value > MOST_SEED:
        raise ValueError(f"{name} must be at most {MOST_SEED}, not {shown(value)}.")
    if not _is_number(value, whole) or not value >= least:
        kind = " a whole number of" if whole and not _is_number(value, whole) else ""
        rest = " or None" if optional else ""
        raise ValueError(f"{name} must be{kind} at least {least}{rest}, not {shown(value)}.")
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
        raise ValueError(f"{name} must {kind} between {limits}, not {shown(value)}.")
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
    if not _is_number(value) or not _is_finite(value) or not value > 0:
        raise ValueError(
            f"{name} must be positive{' or None' if optional else ''}, not {shown(value)}."
        )
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
    if not _is_number(value) or not _is_finite(value) or not value >= 0:
        rest = ", unless it is None" if optional else ""
        raise ValueError(f"{name} must not be negative{rest}, not {shown(value)}.")
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
        raise ValueError(f"{name} must be two increasing numbers, not {shown(value)}.")
    return value


def whole_numbers(name: str, value: Any) -> tuple[int, ...]:
    """Checks that an argument is a sequence of whole numbers, and returns them.

    Raises:
        ValueError: for any other.
    """
    taken = _taken(value, Sequence[int])
    if taken is _NO:
        raise ValueError(f"{name} must be a sequence of whole numbers, not {shown(value)}.")
    return taken


def label_values(name: str, value: Any) -> tuple[int, ...]:
    """Checks that an argument lists values of labels, and returns them.

    Raises:
        ValueError: for an empty list, or what are no whole numbers.
    """
    try:
        values = tuple(value)
        good = bool(values) and all(_is_number(each, whole=True) for each in values)
        good = good and all(abs(each) <= MOST for each in values)
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"{name} must list at least one label value, not {shown(value)}.")
    return tuple(int(each) for each in values)


def _is_number(value: Any, whole: bool = False) -> bool:
    # NumPy declares its numbers as such, but not its booleans; Python takes its own for numbers.
    if type(value) is int or (type(value) is float and not whole):
        return True
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return not whole or isinstance(value, Integral) or float(value).is_integer()


def _is_alike(value: Any, known: Any) -> bool:
    if isinstance(value, bool) or isinstance(known, bool):
        return type(value) is type(known)
    return isinstance(value, type(known)) or (_is_number(value) and _is_number(known))
