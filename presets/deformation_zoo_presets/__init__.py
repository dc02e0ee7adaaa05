"""The presets of the zoo that its wheel does not hold; each under the terms of its data."""

from pathlib import Path


def folder() -> Path:
    """The folder of `<model>/<tag>/`, for the entry point `zoo.presets`."""
    return Path(__file__).parent / "presets"
