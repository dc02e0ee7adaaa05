"""The catalogue: declare an entry, get it by name, find entries by their facts."""

from __future__ import annotations

import difflib
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from registry import plugins
from registry.entry import Entry, fold, several

_FACTS = ("task", "data", "dims", "traits")

_lock = threading.RLock()
_entries: dict[str, Entry] = {}
_renamed: dict[str, str] = {}  # folded old name -> folded new name


class UnknownName(KeyError):
    """No entry has this name; the message offers close matches."""

    __str__ = Exception.__str__  # KeyError shows the repr of its message, quotes and all


def add_method(entry: Entry | str | None = None, /, *, replace: bool = False, **facts: Any) -> Any:
    """Put a method into the catalogue: `add_method(Entry(...))`, or as a decorator of a class.

        @add_method("mine", task="registration", data="image")
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

    Example:
        >>> @zoo.add_method("mine", task="surface", data="points", summary="One line.")
        ... class Mine(zoo.Surface):
        ...     pass
        >>> zoo.find("mine")
        ['mine']
    """
    if isinstance(entry, Entry) and not facts:
        return _add(entry, replace)
    if isinstance(entry, str) and "name" not in facts:
        facts["name"] = entry
    elif entry is not None:
        raise TypeError(
            f"entry: got {entry!r} with {sorted(facts)}, expected an Entry alone, or a name and "
            "facts: @add_method('mine', task=..., data=...)"
        )

    def decorate(cls: type) -> type:
        if not isinstance(cls, type):
            raise TypeError(f"@add_method got {cls!r}, expected a class")
        first_line = (cls.__doc__ or "").strip().partition("\n")[0].strip()
        _add(Entry(target=cls, **{"summary": first_line, **facts}), replace)
        return cls

    return decorate


def register(*args: Any, **facts: Any) -> Any:
    """The old name of `add_method`, which warns: `zoo register` in a shell registers a pair."""
    # FutureWarning, because Python hides DeprecationWarning from users.
    warnings.warn(
        "register is now add_method: @zoo.add_method(...) puts a method into the catalogue",
        FutureWarning,
        stacklevel=2,
    )
    return add_method(*args, **facts)


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
            # As for `register`, a warning that Python shows.
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
        and all(set(several(v)) <= set(several(getattr(entry, f))) for f, v in facts.items())
    ]
    return sorted(matches, key=lambda entry: entry.name)


def models() -> list[Entry]:
    """The entries of all plugins, imported on the first call.

    Each entry point of the group `zoo.models` gives an `Entry`, an iterable of them, or a function
    that returns either. One that fails becomes a broken entry with the entry point's name.

    A plugin never overrides: an entry whose name is registered, or belongs to a plugin that sorts
    before, is broken as well, and listed as `<distribution>-<name>` to keep names unique.

    Returns:
        The entries, broken ones included; no two share a name.
    """
    return plugins.entries(_taken())


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


def _taken() -> dict[str, str]:
    """Folded names that plugins may not have, old names included, and what each stands for."""
    with _lock:
        owner = {old: _entries[new].where for old, new in _renamed.items()}
        return owner | {key: entry.where for key, entry in _entries.items()}


def _add(entry: Entry, replace: bool) -> Entry:
    key = fold(entry.name)
    with _lock:
        # A plugin is loaded whenever anybody lists names: it replaces nothing of others.
        if (owner := _taken().get(key)) and (not replace or plugins.is_loading()):
            way = "a plugin replaces nothing" if replace else "replace=True replaces it"
            raise ValueError(f"name: {entry.name!r} already stands for {owner}; {way}")
        _renamed.pop(key, None)
        _entries[key] = entry
    return entry


def _registered() -> dict[str, Entry]:
    with _lock:
        return dict(_entries)


def _everything() -> dict[str, Entry]:
    found = models()  # before _registered: a plugin may register more as it is imported
    return {fold(entry.name): entry for entry in found} | _registered()


def _unknown(name: str, entries: dict[str, Entry]) -> UnknownName:
    close = difflib.get_close_matches(fold(name), entries, cutoff=0.5)
    broken = sorted(entry.name for entry in entries.values() if entry.error)
    sentence = f"Nothing is named {name!r}."
    if close:
        sentence += f" Did you mean {' or '.join(repr(entries[key].name) for key in close)}?"
    if broken:
        sentence += f" Plugins that could not be loaded: {', '.join(broken)}."
    return UnknownName(f"{sentence} find('*') lists every name.")
