"""Entries and presets from other distributions, through their entry points.

A distribution adds methods and folders of presets in its own `pyproject.toml`:

    [project.entry-points."zoo.models"]
    mine = "my_package.entries:ENTRIES"

    [project.entry-points."zoo.presets"]
    mine = "my_package:preset_folder"

Nothing is imported before it is asked for, and what fails is reported under its own name only.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from registry.entry import Entry, fold

# A plugin may end in sys.exit() as well as in an exception; only the user's Ctrl-C goes through.
_FAILURES = (Exception, SystemExit)

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
    with _lock:
        if _presets is None:
            folders, broken = [], {}
            for point in _points("zoo.presets"):
                try:
                    folders.append(_folder(point))
                except _FAILURES as error:
                    name = point.name
                    while name in broken:
                        name = f"{_distribution(point)}-{name}"
                    broken[name] = _described(error)
            _presets = folders, broken
        return _presets


def _points(group: str) -> list[EntryPoint]:
    # By name, not in the order of sys.path: who wins a clash must not depend on the machine.
    return sorted(entry_points(group=group), key=lambda p: (_distribution(p), p.name))


def _distribution(point: EntryPoint) -> str:
    return point.dist.name or "unknown"  # a half removed distribution has no name


def _entries(point: EntryPoint) -> list[Entry]:
    plugin = _distribution(point)
    try:
        found = _value(point)
        is_many = isinstance(found, Iterable) and not isinstance(found, type)
        found = list(found) if is_many else [found]
        for entry in found:
            if not isinstance(entry, Entry):
                raise TypeError(f"{point.value} gave {entry!r}, expected a registry.Entry")
        return [replace(entry, plugin=plugin) for entry in found]
    except _FAILURES as error:
        unknown = {"task": "unknown", "data": (), "dims": ()}
        name, error = _slug(point.name), _described(error)
        return [Entry(name, point.value, **unknown, error=error, plugin=plugin)]


def _folder(point: EntryPoint) -> Path:
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


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", name.lower())
