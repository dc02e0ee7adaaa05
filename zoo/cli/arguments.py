"""`--set NAME=VALUE`: checked by name and by type before Keras is imported.

For several methods one after the other, "affine+dirvnet", the arguments are keyed
`part.argument`, as `zoo.create` and `zoo.load` take them.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
from pathlib import Path

import registry
import zoo.api
from registry.kinds import Kind, expected, kinds
from registry.signatures import Argument, arguments

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class _Unfit(ValueError):
    """A value is not of the kind that is tried."""


def parts(name: str) -> list[str]:
    """The methods and presets that a name stands for, "affine+dirvnet" for two.

    Raises:
        ValueError: where a part is missing.
    """
    # Paths and addresses may hold the sign as well.
    if "+" not in name or name.startswith("hf://") or Path(name).exists():
        return [name]
    found = name.split("+")
    if not all(found):
        raise ValueError(f"{name!r} lacks a method before or after '+'; such as 'affine+divroc'.")
    return found


def is_preset(name: str) -> bool:
    """Whether a name stands for a preset, or for several parts of which one is a preset."""
    return any(zoo.api.is_preset(part) for part in parts(name))


def settings(name: str, texts: list[str]) -> dict:
    """The arguments of `--set` for a fresh method, or for the fresh parts of several.

    Args:
        name: of a method or preset, or of several.
        texts: each `NAME=VALUE`, or `PART.NAME=VALUE`.

    Raises:
        ValueError: for a text that is no assignment, an argument that there is not, a value of
            another type, or a preset, which has its configuration.
    """
    given = parts(name)
    fresh = {part: _arguments_of(part) for part in given if not zoo.api.is_preset(part)}
    if texts and not fresh:
        raise ValueError(
            f"--set configures a fresh method, not {name!r}: a preset has its configuration."
        )
    config = {}
    for text in texts:
        key, found, value = text.partition("=")
        if not found or not key:
            raise ValueError(f"--set needs NAME=VALUE, not {text!r}.")
        part, argument = _placed(key, given, fresh)
        word = f"{part}.{argument.name}" if len(given) > 1 else argument.name
        config[word] = converted(argument, value)
    return config


def for_dimension(name: str, dims: int) -> dict:
    """The argument `dims` of a fresh method, or of each fresh part that has it."""
    given = parts(name)
    return {
        f"{part}.dims" if len(given) > 1 else "dims": dims
        for part in given
        if not zoo.api.is_preset(part) and has_argument(part, "dims")
    }


def has_argument(method: str, argument: str) -> bool:
    """Whether a method has an argument; True where its arguments are not known."""
    known = _arguments_of(method)
    return known is None or argument in known


def converted(argument: Argument, text: str):
    """The value of an argument, by its annotation or, without one, by its default.

    Raises:
        ValueError: for a text of another type; the message says which ones there are.
    """
    found = kinds(argument)
    names = [name for name, _ in found]
    for kind in found:
        # A choice may be called "none".
        if kind[0] == "None" and "str" in names and text == "none":
            continue
        try:
            return _as(kind, text)
        except _Unfit:
            continue
    raise ValueError(f"--set: {argument.name} must be {expected(found)}, not {text!r}.")


def _arguments_of(method: str) -> dict[str, Argument] | None:
    entry = registry.get(method)
    found = None if entry.error else arguments(entry.target)
    return None if found is None else {argument.name: argument for argument in found}


def _placed(key: str, given: list[str], fresh: dict) -> tuple[str, Argument]:
    """The part that an argument is for, and the argument."""
    owner, dot, name = key.rpartition(".")
    if dot:
        spelled = {part.lower(): part for part in given}
        part = spelled.get(owner.lower())
        if part is None:
            raise ValueError(f"--set: {owner!r} in {key!r} is none of {', '.join(given)}.")
        if part not in fresh:
            raise ValueError(f"--set: {part!r} is a preset, which has its configuration.")
        candidates = {part: fresh[part]}
    else:
        candidates = fresh
    owners = [part for part, known in candidates.items() if known is not None and name in known]
    # Of a method whose source is not there it is not known, so it may have any argument.
    owners = owners or [part for part, known in candidates.items() if known is None]
    if not owners:
        raise ValueError(_unknown(name, candidates))
    if len(owners) > 1:
        ways = " or ".join(f"{part}.{name}=" for part in owners)
        raise ValueError(f"--set: {' and '.join(owners)} both have {name!r}; say {ways}...")
    return owners[0], (candidates[owners[0]] or {}).get(name, Argument(name))


def _unknown(name: str, candidates: dict) -> str:
    names = list(dict.fromkeys(each for known in candidates.values() for each in known))
    close = difflib.get_close_matches(name.lower(), names)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    owner = " and ".join(map(repr, candidates))
    have = f" There are {', '.join(names)}." if names else ""
    return f"--set: {owner} has no argument {name!r}.{hint}{have}"


def _as(kind: Kind, text: str):
    """A text as a value of one kind.

    Raises:
        _Unfit: if it is none.
    """
    name, inner = kind
    plain = text.strip()
    if name == "str":
        return _unquoted(text)
    if name == "None":
        if plain.lower() not in ("none", "null"):
            raise _Unfit
        return None
    if name == "bool":
        if plain.lower() not in TRUE + FALSE:
            raise _Unfit
        return plain.lower() in TRUE
    if name in ("int", "float"):
        return _number(name, plain)
    if name == "Any":
        return _anything(text)
    value = _literal(plain)
    if not isinstance(value, list if name == "Sequence" else dict):
        raise _Unfit
    return [_element(inner, each) for each in value] if inner else value


def _element(kinds: tuple[Kind, ...], value):
    for kind in kinds:
        try:
            return _as(kind, value if isinstance(value, str) else json.dumps(value))
        except _Unfit:
            continue
    raise _Unfit


def _number(kind: str, text: str) -> int | float:
    try:
        # Not by way of float, which has no room for all whole numbers.
        return int(text) if kind == "int" else _finite(text)
    except ValueError:
        pass
    number = _finite(text)
    if not number.is_integer():
        raise _Unfit
    return int(number)


def _finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise _Unfit from error
    if not math.isfinite(number):
        raise _Unfit
    return number


def _json(text: str):
    def refuse(word):
        raise _Unfit

    try:
        return json.loads(text, parse_constant=refuse)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _Unfit from error


def _literal(text: str):
    """JSON, or a tuple as Python and `zoo show` write it."""
    try:
        return _json(text)
    except _Unfit as error:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise error from None
        return list(value) if isinstance(value, tuple) else value


def _anything(text: str):
    """JSON, or a word as Python writes it, or the text itself."""
    if text in ("None", "True", "False"):
        return ast.literal_eval(text)
    try:
        return _json(text)
    except _Unfit as error:
        if text.strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):
            raise _Unfit from error
        return text


def _unquoted(text: str) -> str:
    """The text without the quotes of JSON, which some write around a word."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value if isinstance(value, str) else text
