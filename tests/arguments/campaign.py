"""Bad arguments, made from the signatures of the public API: what answers they get.

`cases()` pairs every argument of every target with a table of bad values of its kind; `verdict` is
what came of one. `python tests/arguments/campaign.py` prints the figures and all that is not clear.
"""

from __future__ import annotations

import inspect
import math
import re
import resource
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SECONDS = 20  # for one case, on a busy machine; nearly all take milliseconds


class Anything:
    """An object of a class that nobody knows."""

    def __repr__(self):
        return "Anything()"


THING = Anything()
RAGGED = [[0.0, 1.0], [0.0]]
NONE = "None"  # stands for None in the tables, which an optional argument may be

# Bad whatever the range of the argument is; what only some ranges exclude is named beside it.
BAD = {
    "flag": [NONE, "False", "yes", "", 0, 1, 2, -1, 1.0, math.nan, [True], [], THING],
    "whole": [
        NONE, "3", "three", b"3", True, 1.5, math.nan, math.inf, -1, 10**12, 10**30, 3j, [3], {},
        np.array([3, 3]), THING,
    ],
    "number": [
        NONE, "0.5", "x", True, math.nan, math.inf, -math.inf, -0.5, 10**400, 1j, [0.5], {},
        np.array([0.5, 0.5]), THING,
    ],
    "dtype": [
        "float16", "float64", "mixed_float16", "int8", "nothing", "", 3, 0.5, True, [], {}, THING,
        {"class_name": "DTypePolicy", "config": {"name": "mixed_bfloat16"}}, np.float64,
    ],
    "seed": [NONE, "0", "x", True, 1.5, math.nan, math.inf, -1, 10**30, 1j, [], [-1], {}, THING],
    "word": [NONE, "", "nothing", b"auto", 3, 0.5, True, math.nan, ["linear"], (), {}, THING],
    "name": [3, 0.5, True, ["name"], {}, THING],
    "sizes": [
        NONE, "ab", "", 0, -1, 1.5, True, (), (0, 4), (-1, 4), (4.5, 4), (4, "4"), (4, None),
        (4, math.nan), (4, True), (10**6, 10**6), (10**12, 10**12), {}, THING,
    ],
    "numbers": [
        NONE, "ab", (), (0.5, "1"), (0.5, None), (math.nan, 1.0), (0.5, math.inf), (True, 1j), {},
        THING,
    ],
    "points": [
        NONE, "points", 3, (), RAGGED, np.zeros((0, 3)), np.zeros(4), np.zeros((2, 5)),
        np.full((4, 3), np.nan), np.full((4, 3), np.inf), np.ones((4, 3), complex),
        np.ones((4, 3), object), np.ones((4, 3), bool), [["0", "1", "2"]] * 4, THING,
    ],
    "array": [
        NONE, "array", 3, (), RAGGED, np.zeros((0, 3)), np.zeros(4), np.zeros((2, 5, 5, 5, 5, 5)),
        np.ones((1, 8, 8, 1), complex), np.ones((1, 8, 8, 1), object), [["0", "1"]] * 4, THING,
    ],
    "tensor": [
        np.zeros((0, 3), np.float32), np.zeros(4, np.float32), np.zeros((2, 5, 5, 5, 5, 5)),
        np.ones((1, 8, 8, 1), complex), np.ones((1, 8, 8, 2), complex), np.zeros((0, 8, 8, 2)),
    ],
    "thing": [NONE, "nothing at all", 3, 0.5, True, [3], {"a": 1}, np.zeros(3), THING],
}  # fmt: skip

# What Python and its libraries say when nobody looked at the argument.
OBSCURE = re.compile(
    r"not supported between|unsupported operand|has no attribute|object is not|not iterable|"
    r"cannot convert float|could not convert|can't multiply|invalid literal|ufunc|subscriptable|"
    r"unhashable|has no len|must be real number|broadcast|out of range for|inhomogeneous|"
    r"truth value|cannot be interpreted|bad operand|not callable|too large to|Unable to allocate|"
    r"expected non-negative|argument must be|not understood|unexpected keyword|got "
    r"multiple|SeedSequence|RaggedTensor|TensorShape|tensor of unsupported"
)


class TooLong(BaseException):
    """A case did not end in time; nothing on the way may catch it."""


@dataclass(frozen=True)
class Target:
    """Something public that takes arguments.

    Attributes:
        name: of it.
        call: takes the arguments by keyword.
        valid: good values of arguments; the others keep their defaults.
        kinds: of arguments whose annotation does not say it; None leaves an argument out.
        also: bad values for arguments beyond those of their kind.
        fine: reprs of values of the table that are good for an argument.
    """

    name: str
    call: Callable
    valid: dict = field(default_factory=dict)
    kinds: dict = field(default_factory=dict)
    also: dict = field(default_factory=dict)
    fine: dict = field(default_factory=dict)

    def arguments(self) -> Iterator[tuple[str, str, bool]]:
        """Name and kind of every argument, and whether it may be None."""
        parameters = inspect.signature(self.call).parameters
        for name in [*parameters, *(set(self.kinds) - set(parameters))]:
            parameter = parameters.get(name)
            written = "" if parameter is None else str(parameter.annotation)
            if parameter is not None and parameter.kind in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            ):
                continue
            kind = self.kinds[name] if name in self.kinds else kind_of(name, written)
            optional = "None" in written or (parameter is not None and parameter.default is None)
            if kind is not None:
                yield name, kind.rstrip("?"), optional or kind.endswith("?")


def kind_of(name: str, annotation: str) -> str:
    """The kind of an argument by its annotation."""
    if name == "seed":
        return "seed"
    if name == "name":
        return "name"
    plain = annotation.removesuffix(" | None").removeprefix("Optional[").removesuffix("]")
    simple = {"bool": "flag", "int": "whole", "float": "number", "str": "word"}
    if plain in simple:
        return simple[plain]
    if "ndarray" in annotation:
        return "points"
    if "[int" in annotation:
        return "sizes"
    if "[float" in annotation or annotation.endswith("Range"):
        return "numbers"
    return "thing"


@dataclass(frozen=True)
class Case:
    """One bad value for one argument."""

    target: Target
    argument: str
    value: object

    def __str__(self):
        value = repr(self.value).replace("\n", " ")
        value = value if len(value) < 50 else f"{value[:47]}..."
        return f"{self.target.name}({self.argument}={value})"


def cases(targets, most: int | None = None, seed: int = 0) -> list[Case]:
    """All cases, or a draw of so many in which every argument keeps at least one."""
    made = []
    for target in targets:
        for name, kind, optional in target.arguments():
            fine = {repr(None)} if optional else set()
            fine |= set(target.fine.get(name, ())) | set(FINE.get(name, ()))
            values = [None if value is NONE else value for value in BAD[kind]]
            for value in [*values, *target.also.get(name, ())]:
                if repr(value) not in fine:
                    made.append(Case(target, name, value))
    if most is None or len(made) <= most:
        return made
    order = np.random.default_rng(seed).permutation(len(made))
    first = {(made[k].target.name, made[k].argument): k for k in order[::-1]}
    chosen = set(first.values())
    for k in order:
        if len(chosen) >= most:
            break
        chosen.add(k)
    return [made[k] for k in sorted(chosen)]


# Arguments with a sign, or that may be zero-dimensional and the like, wherever they occur.
FINE = {
    "verbose": ("True",),
    "outside": ("-0.5",),
    "skips": ("()",),
    "scales": ("3", "0.5", "[3]"),
    "cells": ("(1000000, 1000000)",),
    "labels": ("()", "(0, 4)", "(-1, 4)", "(1000000, 1000000)"),
    "shift": ("-0.5",),
    "turn": ("-0.5",),
    "origin": ("-0.5",),
    "slope": ("-0.5", "[0.5]", "array([0.5, 0.5])"),
}


def verdict(case: Case, seconds: int = SECONDS) -> tuple[str, str]:
    """What came of a case: "clear", "obscure", "accepted" or "hung", and what was said."""

    def late(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.target.call(**{**case.target.valid, case.argument: case.value})
    except TooLong:
        return "hung", f"no answer within {seconds} s"
    except (ValueError, TypeError, LookupError) as error:
        said = f"{type(error).__name__}: {error}"
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        # Keras prints what a layer said in bold: the code of it touches the first word.
        words = re.sub("\x1b\\[[0-9]*m", "", str(error))
        named = re.search(rf"(?<![A-Za-z]){re.escape(case.argument)}(?![a-z])", words)
        ours = "/zoo/" in where or "/registry/" in where or "keras" in where
        clear = named and ours and not OBSCURE.search(str(error))
        return ("clear" if clear else "obscure"), said
    except Exception as error:
        return "obscure", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return "accepted", ""


def main(words: list[str]) -> None:
    """Prints figures, and what was not clear; words narrow the targets down."""
    from targets import all_targets

    # An array of 10^12 values has to be refused, not to be swapped to disk.
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 12 * 2**30, resource.RLIM_INFINITY))
    chosen = [
        target for target in all_targets() if not words or any(w in target.name for w in words)
    ]
    found, rooms = Counter(), {}
    for case in cases(chosen):
        kind, said = verdict(case)
        found[kind] += 1
        rooms.setdefault(case.target.name.split(".")[0], Counter())[kind] += 1
        if kind != "clear":
            print(f"{kind:9}{case}: {said.splitlines()[0][:150] if said else ''}", flush=True)
    for room, counts in rooms.items():
        print(f"{room:14}{dict(counts)}")
    print(f"{sum(found.values())} cases: {dict(found)}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(sys.argv[1:])
