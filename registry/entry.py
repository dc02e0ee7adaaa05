"""One entry: what is known about a method before it is imported, and how its name is compared."""

from __future__ import annotations

import importlib
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """What the catalogue knows about one method, without importing it.

    Attributes:
        name: Lower case letters, digits, underscores and dashes. No dot: a dot separates model
            and tag in the name of a preset.
        target: `"package.module:Class"`, or the class itself.
        task: What it solves: `"registration"`, `"surface"`, or words of your own.
        data: What it works on: `"image"`, `"points"`, `"mesh"`. One string stands for a tuple of
            one, here and in `traits`.
        dims: Spatial dimensions it supports.
        traits: Properties worth searching for, such as `"diffeomorphic"`.
        summary: One sentence.
        paper: A reference, such as `"arXiv:2002.10099"`.
        error: Why a plugin could not be loaded; such an entry is broken and only `load` raises.
        plugin: The distribution that brought the entry; filled in by `registry.plugins`.
    """

    name: str
    target: str | type
    task: str
    data: tuple[str, ...]
    dims: tuple[int, ...] = (2, 3)
    traits: tuple[str, ...] = ()
    summary: str = ""
    paper: str = ""
    error: str = ""
    plugin: str = ""

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and re.fullmatch(r"[a-z0-9_-]+", self.name)):
            raise ValueError(
                f"name: got {self.name!r}, expected lower case letters, digits, underscores "
                "and dashes"
            )
        if not (isinstance(self.task, str) and self.task.strip()):
            raise ValueError(f"task of {self.name!r}: got {self.task!r}, expected a word")
        for field, kind in (("data", str), ("dims", int), ("traits", str)):
            value = getattr(self, field)
            values = several(value)
            if not all(isinstance(item, kind) for item in values):
                raise TypeError(
                    f"{field} of {self.name!r}: got {value!r}, expected one or several "
                    f"{kind.__name__}"
                )
            object.__setattr__(self, field, values)
        # A broken plugin's target is whatever its metadata says, malformed or not.
        well_formed = isinstance(self.target, type) or (
            isinstance(self.target, str) and re.fullmatch(r"[\w.]+:[\w.]+", self.target)
        )
        if not (well_formed or self.error):
            raise ValueError(
                f"target of {self.name!r}: got {self.target!r}, expected a class or "
                "'package.module:Class'"
            )

    @property
    def where(self) -> str:
        """The target in words: `"package.module:Class"`."""
        if isinstance(self.target, type):
            return f"{self.target.__module__}:{self.target.__qualname__}"
        return self.target

    def load(self) -> type:
        """Import the target and return the class.

        Returns:
            The class that this entry stands for.

        Raises:
            RuntimeError: The entry is a broken plugin's.
            ImportError: The target cannot be imported; the cause is chained.
            TypeError: The target is not a class.
        """
        if self.error:
            raise RuntimeError(
                f"{self.name!r} ({self.where}) comes from the plugin {self.plugin!r}, which "
                f"could not be loaded: {self.error}"
            )
        if isinstance(self.target, type):
            return self.target
        module, _, path = self.target.partition(":")
        try:
            found = operator.attrgetter(path)(importlib.import_module(module))
        except (Exception, SystemExit) as error:
            raise ImportError(
                f"cannot load {self.name!r} from {self.target!r}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, type):
            raise TypeError(
                f"cannot load {self.name!r} from {self.target!r}: got {found!r}, expected a class"
            )
        return found


def fold(name: str) -> str:
    """The spelling under which names are compared."""
    if not isinstance(name, str):
        raise TypeError(f"name: got {name!r}, expected a string")
    # To the dash, not to the underscore: the pattern "[a-f]*" has to survive.
    return name.lower().replace("_", "-")


def several(value: Any) -> tuple:
    """A tuple of the values, or of the one value that is given."""
    is_one = isinstance(value, str) or not isinstance(value, Iterable)
    return (value,) if is_one else tuple(value)
