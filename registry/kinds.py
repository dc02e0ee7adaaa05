"""What an argument may be, from its annotation or its default as they are written."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from registry.signatures import Argument

# A kind of values, and for a sequence the kinds of its elements.
Kind = tuple[str, tuple]

# What is tried first: "1" is true where that may be, and nearly everything is a text.
ORDER = ("None", "bool", "int", "float", "Sequence", "Mapping", "Any", "str")
EXPECTED = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a finite number",
    "Sequence": "a list such as [1, 2]",
    "Mapping": 'JSON such as {"name": 1}',
}
SEQUENCES = ("Sequence", "list", "tuple", "List", "Tuple", "Iterable", "Collection")
MAPPINGS = ("Mapping", "dict", "Dict")

MOST = 2**31 - 1  # of a whole number
LONGEST = 100_000  # letters of a text, and values in a value
DEEPEST = 16  # levels of lists in lists


def kinds(argument: Argument) -> list[Kind]:
    """The kinds that a value may be of, in the order in which they are tried."""
    if argument.type:
        found = alternatives(argument.type)
    elif argument.default is None or argument.value is None:
        found = {("Any", ())}
    else:
        name = _kind(type(argument.value).__name__)
        found = {(each, ()) for each in {"int": ("int", "float")}.get(name, (name,))}
    return _in_order(found)


def expected(found: Sequence[Kind]) -> str:
    """The kinds in words."""
    names = [name for name, _ in found]
    words = [EXPECTED.get(name, "a value") for name in names if name != "None"]
    # None is named last, as the exception that it is.
    return " or ".join(words + ["None"] * ("None" in names))


def fits(found: Sequence[Kind], value: Any) -> bool:
    """Whether a value, as JSON has it, is of one of some kinds and of a sensible size."""
    return _is_sensible(value) and any(_is_of(kind, value) for kind in found)


def _is_of(kind: Kind, value: Any) -> bool:
    name, inner = kind
    if name == "Sequence":
        # A word is a sequence of letters, which nobody means.
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            return False
        return not inner or all(any(_is_of(each, part) for each in inner) for part in value)
    if name in ("int", "float"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (name == "float" or float(value).is_integer())
    kinds = {"None": type(None), "bool": bool, "Mapping": Mapping, "str": str, "Any": object}
    return isinstance(value, kinds[name])


def _is_sensible(value: Any) -> bool:
    count, waiting = 0, [(value, 0)]
    while waiting:
        each, level = waiting.pop()
        count += len(each) if isinstance(each, str) else 1
        if count > LONGEST or level > DEEPEST:
            return False
        if isinstance(each, int) and abs(each) > MOST:
            return False
        if isinstance(each, float) and not math.isfinite(each):
            return False
        if isinstance(each, Mapping):
            waiting += [(part, level + 1) for pair in each.items() for part in pair]
        elif isinstance(each, list | tuple):
            waiting += [(part, level + 1) for part in each]
    return True


def _in_order(found: Iterable[Kind]) -> list[Kind]:
    return sorted(found, key=lambda kind: ORDER.index(kind[0]))


def alternatives(annotation: str) -> set[Kind]:
    """The kinds of an annotation as it is written."""
    try:
        node = ast.parse(annotation.strip(), mode="eval").body
    except SyntaxError:
        return {("Any", ())}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return alternatives(ast.unparse(node.left)) | alternatives(ast.unparse(node.right))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return alternatives(node.value)
    if not isinstance(node, ast.Subscript):
        return {(_kind(ast.unparse(node)), ())}
    outer, inner = _kind(ast.unparse(node.value)), node.slice
    elements = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    written = [ast.unparse(each) for each in elements]
    if outer in ("Optional", "Union"):
        found = set().union(*map(alternatives, written))
        return found | ({("None", ())} if outer == "Optional" else set())
    if outer == "Literal":
        return {(_kind(type(ast.literal_eval(each)).__name__), ()) for each in written}
    if outer == "Sequence":
        return {(outer, tuple(_in_order(alternatives(written[0]))))}
    return {(outer, ())}


def _kind(name: str) -> str:
    name = name.rpartition(".")[2]
    if name in SEQUENCES:
        return "Sequence"
    if name in MAPPINGS:
        return "Mapping"
    # A class can only be described by JSON; what it cannot use it refuses itself.
    return name if name in (*ORDER, "Optional", "Union", "Literal") else "Any"
