"""Entries and presets from other distributions, through their entry points.

A distribution adds methods and folders of presets in its own `pyproject.toml`:

    [project.entry-points."zoo.models"]
    mine = "my_package.entries:ENTRIES"

    [project.entry-points."zoo.presets"]
    mine = "my_package:preset_folder"

Nothing is imported before it is asked for, and what fails is reported under its own name only:
whatever it raises, and also if it does not come to an end. So each is loaded in a thread of its own
that is waited for only so long.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from itertools import islice
from pathlib import Path
from typing import Any

from registry.entry import Entry, fold

PATIENCE = 10.0  # seconds for one entry point; one that imports nothing heavy takes none
MOST = 1000  # entries of one entry point
LONGEST = 500  # letters of an error

_loading = threading.local()  # `here` in a thread that loads a plugin
_lock = threading.RLock()
_models: list[Entry] | None = None
_presets: tuple[list[Path], dict[str, str]] | None = None


def entries(taken: Mapping[str, str]) -> list[Entry]:
    """The entries of all plugins, as `registry.models` describes them.

    Args:
        taken: Folded names that no plugin may have, and what each stands for.

    Returns:
        The entries, broken ones included; no two share a name, and none has one that is taken.
    """
    owners, listed = dict(taken), []
    # Broken ones last, so that they take no name from an entry that works.
    for entry in sorted(_loaded_models(), key=lambda entry: bool(entry.error)):
        name = entry.name
        if owner := owners.get(fold(name)):
            clash = f"ValueError: the name {name!r} already stands for {owner}"
            while fold(name) in owners:
                name = f"{_slug(entry.plugin)}-{name}"
            entry = replace(entry, name=name, error=entry.error or clash)
        owners[fold(name)] = entry.where
        listed.append(entry)
    return listed


def preset_folders() -> list[Path]:
    """The folders of presets that plugins bring.

    Each entry point of the group `zoo.presets` gives a path, or a function that returns one.

    Returns:
        The folders that exist; `broken_presets` tells about the others.
    """
    return list(_loaded_presets()[0])


def broken_presets() -> dict[str, str]:
    """The entry points of the group `zoo.presets` that failed.

    Returns:
        The entry point's name and its error. A second failure under the same name is listed as
        `<distribution>-<name>`.
    """
    return dict(_loaded_presets()[1])


def reload() -> None:
    """Forget what plugins gave, so that the next use looks again, say after `pip install`."""
    global _models, _presets
    importlib.invalidate_caches()
    with _lock:
        _models = _presets = None


def _loaded_models() -> list[Entry]:
    global _models
    # The lock is held by the thread that waits for this one.
    if is_loading():
        return list(_models or ())
    with _lock:
        if _models is None:
            # Set before it is filled: a plugin that asks the registry while it is imported sees
            # the plugins before it, and does not start over.
            found = _models = []
            try:
                for point in _points("zoo.models"):
                    found.extend(_entries(point))
            except BaseException:  # Ctrl-C must not leave half a list behind
                _models = None
                raise
        return list(_models)


def _loaded_presets() -> tuple[list[Path], dict[str, str]]:
    global _presets
    if is_loading():
        return _presets or ([], {})
    with _lock:
        if _presets is None:
            folders, broken = [], {}
            for point in _points("zoo.presets"):
                folder, error = _patiently(_folder, point)
                if error is None:
                    folders.append(folder)
                else:
                    name = point.name
                    while name in broken:
                        name = f"{_distribution(point)}-{name}"
                    broken[name] = _described(error)
            _presets = folders, broken
        return _presets


def is_loading() -> bool:
    """Whether the caller is a plugin that is being loaded."""
    return getattr(_loading, "here", False)


def _points(group: str) -> list[EntryPoint]:
    try:
        found = list(entry_points(group=group))
    except Exception:
        # Of one distribution the list cannot be read, which must not hide the others'.
        found = [point for each in distributions() for point in _points_of(each, group)]
    # By name, not in the order of sys.path: who wins a clash must not depend on the machine.
    return sorted(found, key=lambda p: (_distribution(p), p.name))


def _points_of(distribution: Distribution, group: str) -> list[EntryPoint]:
    try:
        return list(distribution.entry_points.select(group=group))
    except Exception:
        return []


def _distribution(point: EntryPoint) -> str:
    # A half removed distribution has no name.
    return getattr(point.dist, "name", None) or "unknown"


def _entries(point: EntryPoint) -> list[Entry]:
    found, error = _patiently(_given, point)
    if error is None:
        return found
    unknown = {"task": "unknown", "data": (), "dims": ()}
    name, plugin = _slug(point.name) or "unnamed", _distribution(point)
    return [Entry(name, point.value, **unknown, error=_described(error), plugin=plugin)]


def _given(point: EntryPoint) -> list[Entry]:
    """The entries that an entry point gives; runs code of the plugin."""
    plugin, found = _distribution(point), _value(point)
    is_many = isinstance(found, Iterable) and not isinstance(found, type)
    found = list(islice(found, MOST + 1)) if is_many else [found]
    if len(found) > MOST:
        raise ValueError(f"{point.value} gave more than {MOST} entries")
    for entry in found:
        if not isinstance(entry, Entry):
            raise TypeError(f"{point.value} gave {entry!r}, expected a registry.Entry")
    # Plain ones, since a class derived from Entry may run code wherever it is listed.
    names = [each.name for each in fields(Entry)]
    return [
        Entry(**{name: getattr(entry, name) for name in names} | {"plugin": plugin})
        for entry in found
    ]


def _folder(point: EntryPoint) -> Path:
    """The folder that an entry point gives; runs code of the plugin."""
    found = _value(point)
    if not isinstance(found, str | os.PathLike):
        raise TypeError(f"{point.value} gave {found!r}, expected a path")
    if not Path(found).is_dir():
        raise NotADirectoryError(f"{point.value} gave {str(found)!r}, expected a folder")
    return Path(found)


def _value(point: EntryPoint) -> Any:
    found = point.load()
    # A class is callable too, but calling it would build a model.
    return found() if callable(found) and not isinstance(found, type) else found


def _patiently(function: Callable, point: EntryPoint) -> tuple[Any, BaseException | None]:
    """What a function makes of an entry point, or why it does not; the user's Ctrl-C is raised."""
    outcome: list[tuple[Any, BaseException | None]] = []

    def load():
        _loading.here = True
        try:
            outcome.append((function(point), None))
        except BaseException as error:  # SystemExit is usual, and a plugin may raise any
            outcome.append((None, error))

    # A daemon, which ends with the process where it does not end before.
    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    # What comes later is not waited for, and not taken either.
    return outcome[0] if outcome else (None, TimeoutError(f"not loaded after {PATIENCE:g} s"))


def _described(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException as other:
        text = f"({type(other).__name__} when it is printed)"
    return f"{type(error).__name__}: {text[:LONGEST]}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", name.lower())
