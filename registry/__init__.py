"""Names and the things they stand for.

A catalogue of entries that are imported only when used. Standard library only: listing every
method costs no import of an array library, and any package may depend on this one.
"""

from registry.catalogue import (
    UnknownName,
    add_method,
    find,
    get,
    isolated,
    models,
    register,  # noqa: F401  (the old name of add_method: it works, but is not advertised)
    rename,
)
from registry.entry import Entry
from registry.plugins import broken_presets, preset_folders, reload

__all__ = [
    "Entry",
    "UnknownName",
    "add_method",
    "broken_presets",
    "find",
    "get",
    "isolated",
    "models",
    "preset_folders",
    "reload",
    "rename",
]
