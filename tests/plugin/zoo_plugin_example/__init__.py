"""An example of a plugin for the zoo."""

from pathlib import Path


def preset_folder() -> Path:
    """The folder of presets that this package brings."""
    return Path(__file__).parent / "presets"
