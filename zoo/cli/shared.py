"""What several commands use."""

from __future__ import annotations

import json
import os

FAILED = 1


def is_preset(name: str) -> bool:
    """Whether a word names a preset (`model.tag` or a folder) and not a method."""
    return "." in name or os.sep in name


def assignment(text: str) -> tuple:
    """`name=value` as the name and the value, which may be JSON.

    Raises:
        ValueError: without an equals sign.
    """
    name, found, value = text.partition("=")
    if not found:
        raise ValueError(f"--set needs NAME=VALUE, not {text!r}.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def print_numbers(results: dict, as_json: bool):
    """Prints names and numbers, aligned or as JSON."""
    if as_json:
        print(json.dumps(results, indent=2))
        return
    width = max(map(len, results))
    for name, value in results.items():
        print(f"{name:{width}}  {value:.5g}")
