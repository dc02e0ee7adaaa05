"""The catalogue: declare an entry, get it by name, find entries by their facts."""

from __future__ import annotations

import difflib
import importlib
import operator
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

_FACTS = ("task", "data", "dims", "traits")

_lock = threading.RLock()
_entries: dict[str, Entry] = {}
_renamed: dict[str, str] = {}  # folded old name -> folded new name


class UnknownName(KeyError):
    """No entry has this name; the message offers close matches."""

    __str__ = Exception.__str__  # KeyError shows the repr of its message, quotes and all


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
            values = _several(value)
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
        except Exception as error:
            raise ImportError(
                f"cannot load {self.name!r} from {self.target!r}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, type):
            raise TypeError(
                f"cannot load {self.name!r} from {self.target!r}: got {found!r}, expected a class"
            )
        return found


def register(entry: Entry | str | None = None, /, *, replace: bool = False, **facts: Any) -> Any:
    """Add an entry: `register(Entry(...))`, or as a decorator of a class.

        @register("mine", task="registration", data="image")
        class Mine: ...

    Args:
        entry: An `Entry`; or, for the decorator, the name, which may also come as `name=`.
        replace: Whether a name that is already taken changes hands.
        **facts: For the decorator, the fields of `Entry` but for the target, which is the class.
            `summary` defaults to the first line of the docstring.

    Returns:
        The entry, or a decorator that returns its class unchanged.

    Raises:
        ValueError: The name is taken, and `replace` is false.
        TypeError: A fact is missing or unknown.
    """
    if isinstance(entry, Entry) and not facts:
        return _add(entry, replace)
    if isinstance(entry, str) and "name" not in facts:
        facts["name"] = entry
    elif entry is not None:
        raise TypeError(
            f"entry: got {entry!r} with {sorted(facts)}, expected an Entry alone, or a name and "
            "facts: @register('mine', task=..., data=...)"
        )

    def decorate(cls: type) -> type:
        if not isinstance(cls, type):
            raise TypeError(f"@register got {cls!r}, expected a class")
        first_line = (cls.__doc__ or "").strip().partition("\n")[0].strip()
        _add(Entry(target=cls, **{"summary": first_line, **facts}), replace)
        return cls

    return decorate


def rename(old: str, new: str) -> None:
    """Let an old name forward to a registered entry; using it warns, and `find` hides it.

    Args:
        old: The name that users may still type.
        new: The name of the entry today.

    Raises:
        ValueError: `old` is the name of an entry.
        UnknownName: `new` is not the name of a registered entry.
    """
    with _lock:
        if owner := _entries.get(fold(old)):
            raise ValueError(f"old: got {old!r}, the name of {owner.where}; expected a free name")
        if fold(new) not in _entries:
            raise _unknown(new, _entries)
        _renamed[fold(old)] = fold(new)


def get(name: str) -> Entry:
    """Look an entry up. Case does not matter, and a dash is as good as an underscore.

    Args:
        name: The entry's name, or an old name, which warns. Plugins are loaded only for a name
            that is not registered.

    Returns:
        The entry, which may be a broken plugin's (see `Entry.error`).

    Raises:
        UnknownName: Nothing has this name.
    """
    key = fold(name)
    for listing in (_registered, _everything):
        entries = listing()
        if key in entries:
            return entries[key]
        if key in _renamed:
            entry = entries[_renamed[key]]
            # FutureWarning, because Python hides DeprecationWarning from users.
            warnings.warn(f"{name!r} is now {entry.name!r}", FutureWarning, stacklevel=2)
            return entry
    raise _unknown(name, entries)


def find(pattern: str = "*", **facts: Any) -> list[Entry]:
    """List entries by name and by facts, plugins' and broken ones included.

    Args:
        pattern: A name with the wildcards `*`, `?` and `[...]`, as forgiving as in `get`.
        **facts: `task=`, `data=`, `dims=`, `traits=`: a value, or several that must all hold.
            A plugin that could not be imported has no known facts, so that any fact excludes it.

    Returns:
        The matching entries, sorted by name.

    Raises:
        TypeError: A fact has another name.
    """
    if unknown := sorted(facts.keys() - set(_FACTS)):
        raise TypeError(f"facts: got {', '.join(unknown)}, expected some of {', '.join(_FACTS)}")
    folded = fold(pattern)
    matches = [
        entry
        for key, entry in _everything().items()
        if fnmatchcase(key, folded)
        and all(set(_several(v)) <= set(_several(getattr(entry, f))) for f, v in facts.items())
    ]
    return sorted(matches, key=lambda entry: entry.name)


@contextmanager
def isolated() -> Iterator[None]:
    """Undo, on leaving, whatever was registered or renamed inside; for tests."""
    with _lock:
        before = dict(_entries), dict(_renamed)
    try:
        yield
    finally:
        with _lock:
            for state, saved in zip((_entries, _renamed), before, strict=True):
                state.clear()
                state.update(saved)


def fold(name: str) -> str:
    """The spelling under which names are compared."""
    if not isinstance(name, str):
        raise TypeError(f"name: got {name!r}, expected a string")
    # To the dash, not to the underscore: the pattern "[a-f]*" has to survive.
    return name.lower().replace("_", "-")


def taken() -> dict[str, str]:
    """Folded names that plugins may not have, old names included, and what each stands for."""
    with _lock:
        owner = {old: _entries[new].where for old, new in _renamed.items()}
        return owner | {key: entry.where for key, entry in _entries.items()}


def _add(entry: Entry, replace: bool) -> Entry:
    key = fold(entry.name)
    with _lock:
        if not replace and (owner := taken().get(key)):
            raise ValueError(
                f"name: {entry.name!r} already stands for {owner}; replace=True replaces it"
            )
        _renamed.pop(key, None)
        _entries[key] = entry
    return entry


def _registered() -> dict[str, Entry]:
    with _lock:
        return dict(_entries)


def _everything() -> dict[str, Entry]:
    from registry import plugins  # not on top: plugins are made of entries

    found = plugins.models()  # before _registered: a plugin may register more as it is imported
    return {fold(entry.name): entry for entry in found} | _registered()


def _several(value: Any) -> tuple:
    is_one = isinstance(value, str) or not isinstance(value, Iterable)
    return (value,) if is_one else tuple(value)


def _unknown(name: str, entries: dict[str, Entry]) -> UnknownName:
    close = difflib.get_close_matches(fold(name), entries, cutoff=0.5)
    broken = sorted(entry.name for entry in entries.values() if entry.error)
    sentence = f"Nothing is named {name!r}."
    if close:
        sentence += f" Did you mean {' or '.join(repr(entries[key].name) for key in close)}?"
    if broken:
        sentence += f" Plugins that could not be loaded: {', '.join(broken)}."
    return UnknownName(f"{sentence} find('*') lists every name.")
