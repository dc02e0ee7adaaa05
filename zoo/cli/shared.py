"""What several commands use."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from zoo.api import is_preset as is_preset

FAILED = 1
INTERRUPTED = 130  # what shells report for Ctrl-C


def entry_of(name: str):
    """The catalogue's entry of a method, or of a preset's method; None for a `.keras` file."""
    import registry
    from zoo.api import info

    if name.endswith(".keras"):
        return None
    return registry.get(info(name).model if is_preset(name) else name)


def require_task(name: str, task: str):
    """Checks that a method or preset is of the kind that a command needs; loads no weights.

    Raises:
        ValueError: if it solves another task; the message lists methods that do.
    """
    import registry

    entry = entry_of(name)
    if entry is None or entry.error or entry.task == task:
        return
    known = ", ".join(found.name for found in registry.find(task=task))
    raise ValueError(
        f"{name!r} is of the task {entry.task!r}; this needs one of the task {task!r}: {known}."
    )


def settings(name: str, texts: list[str]) -> dict:
    """The arguments of `--set` for a fresh method.

    Raises:
        ValueError: for a text that is no assignment, or a preset, which has its configuration.
    """
    config = dict(assignment(text) for text in texts)
    if config and is_preset(name):
        raise ValueError("--set configures a fresh method; a preset has its configuration.")
    return config


def create(name: str, config: dict, dims: int):
    """A fresh model of as many dimensions.

    Raises:
        ValueError: also for arguments that the constructor does not have, or of a wrong type.
    """
    import zoo

    try:
        return zoo.create(name, **({"dims": dims} | config))
    except TypeError as error:
        raise ValueError(f"--set does not suit {name!r}: {str(error).splitlines()[0]}") from error


def check_folder(out: Path, overwrite: bool, empty_is_free: bool = True):
    """Checks that results can be written to a folder, before anything is computed for it.

    Raises:
        FileExistsError: if there is something and `overwrite` is not set.
        OSError: if the folder cannot be made or written to.
    """
    free = not out.exists() or (empty_is_free and out.is_dir() and not any(out.iterdir()))
    if not free and not overwrite:
        raise FileExistsError(f"--out: {out} exists; pass --overwrite to replace it.")
    place = out.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(f"--out: {place} is no folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"--out: {place} cannot be written to.")


def load_keras():
    """Imports Keras without what TensorFlow prints about its build and the machine.

    Returns:
        The module.
    """
    if "keras" in sys.modules:
        return sys.modules["keras"]
    with silent_import():
        import keras

        keras.ops.zeros(1)  # TensorFlow also reports when it first looks for devices
    return keras


@contextmanager
def silent_import():
    """Keeps what native code prints on standard error, and shows it only if the body fails."""
    try:
        error = os.dup(2)
    except OSError:  # closed: nobody listens
        yield
        return
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        os.dup2(kept.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(error, 2)
            os.close(error)
            if failed:
                kept.seek(0)
                os.write(2, kept.read())


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


def dumps(results) -> str:
    """JSON that every reader takes: numbers that are not finite become null."""

    def plain(value):
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(results), indent=2, allow_nan=False)


def print_numbers(results: dict, as_json: bool):
    """Prints names and numbers, aligned or as JSON."""
    if as_json:
        print(dumps(results))
        return
    width = max(map(len, results))
    for name, value in results.items():
        print(f"{name:{width}}  {value:.5g}")
