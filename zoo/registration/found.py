"""What `fit(pair)` found, remembered for that pair and no other."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from zoo.data.pair import Pair

KEPT = 4  # pairs: fields of volumes are large


class Found:
    """The latest results of fits, by the content of their pairs; the oldest is dropped first.

    Args:
        kept: how many results are remembered.
    """

    def __init__(self, kept: int = KEPT):
        self.kept = kept
        self._values: dict[bytes, Any] = {}

    def get(self, pair: Pair) -> Any | None:
        """What was found for these images or clouds; None if nothing was, or it was dropped."""
        return self._values.get(fingerprint(pair)) if self._values else None

    def keep(self, pair: Pair, value: Any) -> None:
        """Remembers what was found for a pair, in place of what was found before."""
        key = fingerprint(pair)
        self._values.pop(key, None)
        if len(self._values) == self.kept:
            del self._values[next(iter(self._values))]
        self._values[key] = value

    def clear(self) -> None:
        """Drops everything."""
        self._values.clear()


def fingerprint(pair: Pair) -> bytes:
    """Tells pairs apart by what is registered: intensities and where they are, or points."""
    digest = hashlib.blake2b(digest_size=16)
    for data in (pair.fixed, pair.moving):
        array = data.array if pair.is_images else data.points
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array))
        if pair.is_images:
            digest.update(data.grid.matrix.tobytes())
    return digest.digest()
