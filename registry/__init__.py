"""Names and the things they stand for.

A catalogue of entries that are imported only when used. Standard library only: listing every
method costs no import of an array library, and any package may depend on this one.
"""

from registry.catalogue import Entry, UnknownName, find, get, isolated, register, rename
from registry.plugins import broken_presets, models, preset_folders, reload

__all__ = [
    "Entry",
    "UnknownName",
    "broken_presets",
    "find",
    "get",
    "isolated",
    "models",
    "preset_folders",
    "register",
    "reload",
    "rename",
]
