"""A model zoo for deformable registration and neural surfaces, in Keras.

Three words: an *entry* is a method that exists under a name, a *preset* is a folder with its
weights, a *transform* is what a registration returns. Importing this package loads neither Keras
nor any data library; each name below is imported on first use.
"""

import os as _os
from importlib import import_module
from importlib.util import find_spec

from zoo.saving import announce as _announce

__version__ = "0.1.0"

BACKENDS = ("tensorflow", "jax")

# Otherwise Keras would fail by whatever is missing first, deep inside.
if _os.environ.get("KERAS_BACKEND") not in (None, "", *BACKENDS):
    raise ImportError(
        f"KERAS_BACKEND is {_os.environ['KERAS_BACKEND']!r}, and the zoo runs on "
        f"{' or '.join(BACKENDS)}: set the environment variable to one of them, or unset it."
    )
_announce()

_HOMES = {
    "find": "zoo.api",
    "describe": "zoo.api",
    "create": "zoo.api",
    "load": "zoo.api",
    "presets": "zoo.api",
    "push": "zoo.api",
    "add_method": "zoo.catalogue",
    "Entry": "zoo.catalogue",
    "Model": "zoo.model",
    "Registration": "zoo.registration",
    "Surface": "zoo.surface",
    "Scan": "zoo.data.scan",
    "Grid": "zoo.geometry",
    "Image": "zoo.data.image",
    "Pair": "zoo.data.pair",
    "Transform": "zoo.transform",
}

# Names of the past: they work and warn, but are not advertised.
_OLD_HOMES = {"register": "zoo.catalogue"}

# Rooms that are imported when they are first named, as in `zoo.layers.SpatialTransformer`.
_ROOMS = (
    "checkpoints",
    "data",
    "io",
    "layers",
    "losses",
    "metrics",
    "ops",
    "registration",
    "testing",
    "view",
)

# They lie beside this package in the repository and inside it in a wheel.
_LEAVES = ("pretrained", "registry")

__all__ = sorted(_HOMES)


def __getattr__(name):
    if home := _HOMES.get(name) or _OLD_HOMES.get(name):
        return getattr(import_module(home), name)
    if name in _ROOMS:
        return import_module(f"zoo.{name}")
    if name in _LEAVES:
        inside = find_spec(f"zoo.{name}") is not None
        return import_module(f"zoo.{name}" if inside else name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__():
    return [*globals(), *__all__, *_ROOMS, *_LEAVES]
