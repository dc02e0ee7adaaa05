"""Weights and their cards: find a preset, fetch it, check it, write one.

A preset is a folder, ``<model>/<tag>/``, with a manifest (``preset.json``), the weights
(``model.weights.h5``) and, where there are any, a golden input and output, a card, the recipe that
trained it and a picture. Files too large for the folder are listed with URLs and a sha256, and are
fetched into a cache the first time that they are wanted.

This package needs the standard library alone; it knows neither models nor Keras. With
`huggingface_hub` it also reaches private repositories, and uploads presets.

Environment:
    ZOO_HOME: the cache folder; ``deformation-zoo`` in ``$XDG_CACHE_HOME`` or ``~/.cache`` if unset.
    ZOO_OFFLINE: ``1`` forbids every download.
    ZOO_TIMEOUT: seconds without a byte after which a download is given up, 30 if unset; the whole
        may take twice as long, and once more for each megabyte.
    HF_ENDPOINT: the server behind ``hf://`` handles; ``https://huggingface.co`` if unset.
    HF_TOKEN: for private repositories and uploads; or log in by ``hf auth login``.
"""

from pretrained.cache import FetchError, home
from pretrained.manifest import FORMAT, GOLDEN, WEIGHTS, ManifestError, card, check_tag, validate
from pretrained.pushing import PushError, push
from pretrained.store import (
    IntegrityError,
    Preset,
    PresetNotFound,
    find,
    info,
    locate,
    verify,
)
from pretrained.writer import LONGEST_NAME, check, rehash, write

__all__ = [
    "FORMAT",
    "GOLDEN",
    "LONGEST_NAME",
    "WEIGHTS",
    "FetchError",
    "IntegrityError",
    "ManifestError",
    "Preset",
    "PresetNotFound",
    "PushError",
    "card",
    "check",
    "check_tag",
    "find",
    "home",
    "info",
    "locate",
    "push",
    "rehash",
    "validate",
    "verify",
    "write",
]
