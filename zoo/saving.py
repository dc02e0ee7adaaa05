"""By `import zoo` alone Keras finds the zoo's classes: `keras.saving.load_model("a.keras")`.

Keras looks a class up under the name that it was registered with, which is when its module is
imported; the zoo imports its modules when they are first used. So, once Keras is there, each name
stands for a class that is imported when Keras makes an object of it.
"""

from __future__ import annotations

import functools
import re
import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from pathlib import Path

_ROOM = re.compile(
    r"^@keras\.saving\.register_keras_serializable\(package=\"([\w.]+)\"\)\n(?:@.*\n)*"
    r"(class|def) (\w+)",
    re.MULTILINE,
)
ROOMS = ("layers", "losses", "metrics", "models")


def announce() -> None:
    """Lets Keras know the classes by name: now, or when it is imported."""
    if "keras" in sys.modules:
        _add_names(sys.modules["keras"])
    else:
        sys.meta_path.insert(0, _AfterKeras())


class _AfterKeras(MetaPathFinder):
    """Adds the names right after Keras was imported, whoever imports it."""

    def find_spec(self, name, path=None, target=None):
        if name != "keras":
            return None
        others = (finder for finder in list(sys.meta_path) if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _add_names(module)

        spec.loader.exec_module = exec_module
        return spec


def _add_names(keras) -> None:
    known = keras.saving.get_custom_objects()
    for registered, (module, name, kind) in declared().items():
        make = _later_class if kind == "class" else _later_function
        known.setdefault(registered, make(module, name))


@functools.cache
def declared() -> dict[str, tuple[str, str, str]]:
    """Module, name, and `class` or `def`, of all that is declared, by the name for Keras."""
    from zoo.catalogue import ENTRIES

    found = {}
    for room in ROOMS:
        for path in sorted((Path(__file__).parent / room).glob("*.py")):
            for package, kind, name in _ROOM.findall(path.read_text(encoding="utf-8")):
                found[f"{package}>{name}"] = f"zoo.{room}.{path.stem}", name, kind
    for entry in ENTRIES:
        module, _, name = entry.target.partition(":")
        found[f"zoo>{name}"] = module, name, "class"
    return found


def _real(module: str, name: str):
    # Its import registers it in the place of what stood for it.
    return getattr(import_module(module), name)


def _later_class(module: str, name: str) -> type:
    class Later:
        def __new__(cls, *args, **kwargs):
            return _real(module, name)(*args, **kwargs)

        @classmethod
        def from_config(cls, config, **kwargs):
            return _real(module, name).from_config(config, **kwargs)

    Later.__name__ = Later.__qualname__ = name
    Later.__doc__ = f"Stands for `{module}.{name}` until that is imported."
    return Later


def _later_function(module: str, name: str):
    def later(*args, **kwargs):
        return _real(module, name)(*args, **kwargs)

    later.__name__ = name
    return later
