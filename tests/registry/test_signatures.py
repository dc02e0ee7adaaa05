"""What a class can be given, from its source or from the class."""

import subprocess
import sys
import textwrap

import pytest

import registry
import zoo.catalogue  # noqa: F401  (declares the built-in entries)
from registry.signatures import Argument, arguments

SOURCE = '''
"""A module that must not be imported."""
from __future__ import annotations
from . import base
from .base import Middle as Between
import keras

raise RuntimeError("imported")

class Plain(Between):
    """One.

    Args:
        count: how many of
            them there are. More text.
        left, right: both (of them): at once.
        **kwargs: passed on.

    Raises:
        ValueError: never.
    """

    size: int = 3

    def __init__(self, count: int, left=1, *, right: float | None = None, **kwargs):
        super().__init__(**kwargs)

class Closed(base.Base):
    def __init__(self, only: bool = False):
        """Makes one.

        Args:
            only: this.
        """

class Inherits(base.Base):
    """Nothing of its own."""

class Network(keras.Model):
    """Nothing of its own."""
'''
BASE = '''
from dataclasses import dataclass

class Base:
    """The first.

    Args:
        depth: of it.
    """

    def __init__(self, depth: int = 2, **kwargs): ...

class Middle(Base):
    def __init__(self, left=5, width: int = 7, **kwargs): ...

@dataclass(frozen=True)
class Data:
    """Fields.

    Attributes:
        first: the first.
    """

    first: int
    second: str = "b"
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "written_only" / "inner"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "__init__.py").write_text("from written_only.inner.code import Plain as Offered")
    (folder / "code.py").write_text(SOURCE)
    (folder / "base.py").write_text(BASE)
    (folder / "broken.py").write_text("class Broken(:")
    monkeypatch.syspath_prepend(tmp_path)
    return "written_only.inner"


def test_a_class_is_read_without_importing_it(package):
    expected = (
        Argument("count", "int", None, "how many of them there are. More text."),
        Argument("left", "", "1", "both (of them): at once."),
        Argument("right", "float | None", "None", "both (of them): at once."),
        Argument("width", "int", "7", ""),
        Argument("depth", "int", "2", "of it."),
    )
    assert arguments(f"{package}.code:Plain") == expected
    assert arguments(f"{package}:Offered") == expected
    assert arguments(f"{package}.code:Closed") == (Argument("only", "bool", "False", "this."),)
    assert [each.name for each in arguments(f"{package}.code:Inherits")] == ["depth"]
    assert [each.name for each in arguments(f"{package}.base:Data")] == ["first", "second"]
    assert package not in sys.modules and "written_only" not in sys.modules


def test_what_cannot_be_read_is_none(package):
    for target in (
        f"{package}.code:Network",
        f"{package}.code:Absent",
        f"{package}.absent:Class",
        f"{package}.broken:Broken",
        "no_such_package:Class",
        "math:Class",
    ):
        assert arguments(target) is None


def test_an_argument_in_words():
    required, given, *_ = Argument("a"), Argument("b", "int", "3", "one (two). Three.")
    assert str(required) == "a = to be given" and required.value is None
    assert str(given) == "b = 3: one (two)" and given.value == 3
    assert Argument("c", "", "SOME").value == "SOME"


@pytest.mark.parametrize(
    "entry", [e for e in registry.find() if e.where.startswith("zoo.")], ids=lambda e: e.name
)
def test_source_and_class_say_the_same_and_every_argument_has_a_meaning(entry):
    written, imported = arguments(entry.target), arguments(entry.load())
    assert [(a.name, a.value, a.type) for a in written] == [
        (a.name, a.value, a.type) for a in imported
    ]
    # A chain has the dimension of its parts.
    assert written[0].name == ("first" if entry.name == "chain" else "dims")
    assert all(each.meaning for each in written)
    assert [a.meaning for a in written] == [a.meaning for a in imported]


def test_nothing_heavy_is_imported():
    code = textwrap.dedent(
        """
        import sys, zoo.catalogue, registry
        from registry.signatures import arguments
        for entry in registry.find():
            arguments(entry.target)
        assert arguments("zoo.data.pair:Pair")
        assert not {"keras", "tensorflow", "numpy"} & set(sys.modules)
        """
    )
    subprocess.run([sys.executable, "-c", code], check=True)
