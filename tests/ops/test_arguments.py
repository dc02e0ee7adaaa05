"""Checks of arguments: what each lets through as it came, and what it says of the rest."""

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from zoo.ops.arguments import at_least, between, not_negative, one_of, positive

NO_NUMBERS = ["3", "three", b"3", None, True, np.True_, 1j, [3], np.array([3.0]), object()]
WORDS = ("linear", "nearest", None)


@pytest.mark.parametrize(
    ("check", "limits", "value"),
    [
        (one_of, (WORDS,), "linear"),
        (one_of, (WORDS,), np.str_("nearest")),
        (one_of, (WORDS,), None),
        (one_of, ((2, 3),), np.int64(3)),
        (one_of, ((1, 2),), 2.0),
        (one_of, ((True, False, "auto"),), False),
        (one_of, ({"tanh": 1.0},), "tanh"),
        (at_least, (1,), 1),
        (at_least, (1,), np.int32(7)),
        (at_least, (1,), 4.0),
        (at_least, (1,), 2**32 - 1),
        (at_least, (0.5,), 0.5),
        (at_least, (0.5,), Fraction(3, 4)),
        (at_least, (0.5,), math.inf),
        (at_least, (1, True), None),
        (between, (0.0, 1.0), 0),
        (between, (0.0, 1.0), np.float32(0.25)),
        (between, (0, 2.5), 0.5),
        (between, (1, 8), 8),
        (positive, (), 1e-30),
        (positive, (), np.float64(2)),
        (positive, (), 3),
        (positive, (True,), None),
        (not_negative, (), 0),
        (not_negative, (), -0.0),
        (not_negative, (), np.float16(1)),
        (not_negative, (True,), None),
    ],
)
def test_what_is_allowed_comes_back(check, limits, value):
    assert check("size", value, *limits) is value


@pytest.mark.parametrize(
    ("check", "limits", "value", "message"),
    [
        (one_of, (WORDS,), "cubic", "one of ('linear', 'nearest', None), not 'cubic'."),
        (one_of, (WORDS,), "", "one of ('linear', 'nearest', None), not ''."),
        (one_of, (WORDS,), ["linear"], "one of ('linear', 'nearest', None), not ['linear']."),
        (one_of, ({"tanh": 1.0},), ["tanh"], "one of ('tanh',), not ['tanh']."),
        (one_of, (WORDS,), np.array(["linear"] * 2), "('linear', 'nearest', None), not array("),
        (one_of, ((1, 2),), True, "one of (1, 2), not True."),
        (one_of, ((2, 3),), math.nan, "one of (2, 3), not nan."),
        (one_of, ((2, 3),), "2", "one of (2, 3), not '2'."),
        (at_least, (1,), 0, "at least 1, not 0."),
        (at_least, (1,), 1.5, "a whole number of at least 1, not 1.5."),
        (at_least, (1,), math.nan, "a whole number of at least 1, not nan."),
        (at_least, (1,), math.inf, "a whole number of at least 1, not inf."),
        (at_least, (1,), 10**400, "at most 4294967295, not 1000"),
        (positive, (), 10**400, "positive, not 1000"),
        (at_least, (2, True), -3, "at least 2 or None, not -3."),
        (at_least, (0.5,), 0.1, "at least 0.5, not 0.1."),
        (at_least, (0.5,), math.nan, "at least 0.5, not nan."),
        (positive, (), 0, "positive, not 0."),
        (positive, (), -1.0, "positive, not -1.0."),
        (positive, (), math.nan, "positive, not nan."),
        (positive, (), math.inf, "positive, not inf."),
        (positive, (True,), 0, "positive or None, not 0."),
    ],
)
def test_what_is_not_allowed_is_named(check, limits, value, message):
    with pytest.raises(ValueError) as caught:
        check("size", value, *limits)
    assert str(caught.value).startswith("size must be ") and message in str(caught.value)


@pytest.mark.parametrize(
    ("check", "limits", "value", "message"),
    [
        (between, (0.0, 1.0), 1.5, "size must lie between 0 and 1, not 1.5."),
        (between, (0.0, 1.0), -1e-9, "size must lie between 0 and 1, not -1e-09."),
        (between, (0.0, 1.0), math.nan, "size must lie between 0 and 1, not nan."),
        (between, (1, 8), 9, "size must lie between 1 and 8, not 9."),
        (between, (1, 1234567), 0, "size must lie between 1 and 1234567, not 0."),
        (between, (1, 8), 2.5, "size must be a whole number between 1 and 8, not 2.5."),
        (not_negative, (), -1, "size must not be negative, not -1."),
        (not_negative, (), math.nan, "size must not be negative, not nan."),
        (not_negative, (), math.inf, "size must not be negative, not inf."),
        (not_negative, (True,), -1, "size must not be negative, unless it is None, not -1."),
    ],
)
def test_limits_are_named(check, limits, value, message):
    with pytest.raises(ValueError) as caught:
        check("size", value, *limits)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("check", "limits"),
    [
        (one_of, ((2, 3),)),
        (at_least, (1,)),
        (at_least, (0.5,)),
        (between, (1, 8)),
        (between, (0.0, 8.0)),
        (positive, ()),
        (not_negative, ()),
    ],
)
@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value).partition(" at ")[0])
def test_what_is_no_number_is_refused(check, limits, value):
    with pytest.raises(ValueError, match="^size must "):
        check("size", value, *limits)


def test_nothing_heavy_is_imported():
    code = "import sys, zoo.ops.arguments; print({'numpy', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
