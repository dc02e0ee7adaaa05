"""What several commands use."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from zoo.api import is_preset as is_single_preset
from zoo.cli.arguments import for_dimension, is_preset, parts
from zoo.cli.compilations import keep_compilations

FAILED = 1
INTERRUPTED = 130  # what shells report for Ctrl-C
MOST = 2**31 - 1  # epochs, steps and pairs of a batch
RESOLUTIONS, SAMPLES = (2, 4096), (1, 10**9)
SEEDS = 2**32  # as many as NumPy and Keras take

# How the companions of a pair come as files, by the last word of their names.
COMPANION_FILES = {
    "mask": "image, or for clouds .npy or .txt: counts where it is not 0",
    "labels": "image of whole numbers, or for clouds .npy or .txt",
    "landmarks": ".csv, .fcsv, .mrk.json, .txt or .vtk",
    "weights": ".npy or .txt, a number for each point of the moving cloud, or each landmark",
}


def command(commands, name: str, run, help: str, json_option: bool = True):
    """Adds a command.

    Args:
        commands: what `add_subparsers` of argparse returned.
        name: of the command.
        run: a function of the parsed options.
        help: one line.
        json_option: whether it has `--json`.

    Returns:
        Its parser, for its arguments.
    """
    sub = commands.add_parser(name, help=help, description=help)
    sub.set_defaults(run=run, resumes=False)
    if json_option:
        sub.add_argument("--json", action="store_true", help="print JSON")
    return sub


def add_setting(sub):
    """Adds `--set`."""
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the constructor, such as width=256, see `zoo show`; of several "
        "methods PART.NAME=VALUE (may be repeated)",
    )


def add_seed(sub):
    """Adds `--seed`."""
    sub.add_argument("--seed", type=int, default=0)


def place(text: str) -> Path:
    """A path of the command line; a shell leaves the ~ of `--out=~/x` as it is."""
    # Path takes it for the folder that the shell is in.
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(os.path.expanduser(text))


def check_file(out: Path):
    """Checks that a file can be written at `--out`, before anything is computed for it.

    Raises:
        OSError: if it is a folder, or its folder cannot be made or written to.
    """
    if out.is_dir():
        raise IsADirectoryError(f"--out: {out} is a folder.")
    _check_place(out.absolute().parent)


def source(text: str) -> Path:
    """The path of something that is read: a pipe or a device would be waited for."""
    path = place(text)
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise argparse.ArgumentTypeError(f"{text!r} is no file or folder, but a pipe or device")
    except (OSError, ValueError) as error:  # such as a name that is too long
        raise argparse.ArgumentTypeError(f"{text!r} cannot be a path: {error}") from error
    return path


def check_numbers(options: argparse.Namespace):
    """Checks the numbers that several commands have, where they were given.

    Raises:
        ValueError: for epochs, steps or batches below 1 or beyond 32 bits, another seed than Keras
            takes, or a learning rate that is not positive.
    """
    for name in ("epochs", "steps_per_epoch", "batch_size"):
        value = getattr(options, name, None)
        if value is not None and not 1 <= value <= MOST:
            limit = "at least 1" if value < 1 else f"at most {MOST}"
            raise ValueError(f"--{name.replace('_', '-')} must be {limit}, not {value}.")
    if not 0 <= options.seed < SEEDS:
        raise ValueError(f"--seed must be from 0 to {SEEDS - 1}, not {options.seed}.")
    rate = getattr(options, "learning_rate", None)
    if rate is not None and not 0 < rate < math.inf:
        raise ValueError(f"--learning-rate must be positive and finite, not {rate:g}.")


def entry_of(name: str):
    """The catalogue's entry of a method, or of a preset's method; None for a `.keras` file."""
    import registry
    from zoo.api import info

    if name.endswith(".keras"):
        return None
    return registry.get(info(name).model if is_single_preset(name) else name)


def require_task(name: str, task: str):
    """Checks that a method or preset is of the kind that a command needs; loads no weights.

    Raises:
        ValueError: if it, or a part of it, solves another task; the message lists methods that do.
    """
    import registry

    for part in parts(name):
        entry = entry_of(part)
        if entry is None or entry.error or entry.task == task:
            continue
        known = ", ".join(found.name for found in registry.find(task=task))
        raise ValueError(
            f"{part!r} is of the task {entry.task!r}; this needs one of the task {task!r}: {known}."
        )


def model_of(name: str, config: dict, dims: int):
    """A preset, a fresh method of as many dimensions, or several of these one after the other.

    Args:
        name: of a method or preset, or of several.
        config: as `settings` makes it.
        dims: of fresh methods.

    Raises:
        ValueError: also for arguments that a constructor does not have, or of a wrong type.
    """
    import zoo

    config = for_dimension(name, dims) | config
    try:
        return zoo.load(name, **config) if is_preset(name) else zoo.create(name, **config)
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
    _check_place(out.absolute())


def _check_place(place: Path):
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
    keep_compilations()
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


def companions() -> tuple[str, ...]:
    """`zoo.data.pair.COMPANIONS`, from its source: a pair needs array libraries, options do not."""
    from registry.signatures import arguments

    fields = arguments("zoo.data.pair:Pair") or ()
    return tuple(each.name for each in fields if each.name not in ("fixed", "moving", "name"))


def add_pair(sub, alone: str = ""):
    """Adds the two of a pair, and what else may be known of it.

    Args:
        sub: a parser.
        alone: what the first one may also be, where the second one may be left out.
    """
    sub.add_argument("fixed", type=source, help=f"image, picture, mesh or cloud{alone}")
    sub.add_argument("moving", type=source, nargs="?" if alone else None)
    for name in companions():
        words = COMPANION_FILES.get(name.rpartition("_")[2])
        sub.add_argument(f"--{name.replace('_', '-')}", type=source, help=words)


def read_pair(options):
    """The pair of `add_pair`."""
    import zoo
    from zoo.data.pair import COMPANIONS

    given = {name: getattr(options, name) for name in COMPANIONS}
    return zoo.Pair.read(options.fixed, options.moving, **given)


def print_place(options):
    """Prints where a result is."""
    print(json.dumps({"out": str(options.out)}) if options.json else options.out)


def check_between(name: str, value: int, limits: tuple[int, int]):
    """Checks a whole number of an option.

    Raises:
        ValueError: for one beyond its limits.
    """
    if not limits[0] <= value <= limits[1]:
        raise ValueError(f"--{name} must be from {limits[0]} to {limits[1]}, not {value}.")


def resolved(name: str) -> str:
    """The name of a preset; says so where a method stands for its default one."""
    from zoo.api import info

    if is_preset(name):
        return name
    found = info(name).name
    print(f"zoo: {name} stands for its preset {found}", file=sys.stderr)
    return found
