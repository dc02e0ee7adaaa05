#!/usr/bin/env python-real
"""A command-line module of 3D Slicer that registers two volumes by `zoo register`.

3D Slicer runs this file by its own Python and makes the panel from the .xml beside it, which
`--xml` prints. The zoo itself stays in its own environment: `--command` says where. Standard
library only.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DESCRIPTION = Path(__file__).with_suffix(".xml")
# What of a registration is the transform, by how its file is to end.
TRANSFORMS = {".h5": "transform.h5", ".nii.gz": "warp.nii.gz"}
# The launcher of Slicer sets these for its own Python; another one cannot start with them.
SLICERS_OWN = ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def main(arguments: list[str] | None = None) -> int:
    """Registers.

    Args:
        arguments: the words after the name of the file; None takes them from the shell.

    Returns:
        The exit status: that of the first command that fails, or 0.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--xml"]:
        print(DESCRIPTION.read_text(encoding="utf-8"), end="")
        return 0
    options = parser().parse_args(arguments)
    print("<filter-start><filter-name>zoo register</filter-name></filter-start>", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        status = run(options.command, register_command(options, results))
        print("<filter-progress>0.8</filter-progress>", flush=True)
        if not status and options.transform:
            copy(results / TRANSFORMS[suffix_of(options.transform)], Path(options.transform))
        if not status and options.moved:
            transform = str(results / "transform.h5")
            words = ["warp", options.moving, transform, "--like", options.fixed]
            status = run(options.command, [*words, "--out", options.moved])
    print("<filter-end><filter-name>zoo register</filter-name></filter-end>", flush=True)
    return status


def parser() -> argparse.ArgumentParser:
    """The options that the description names."""
    made = argparse.ArgumentParser(description="Registers two volumes by the Deformation Zoo.")
    made.add_argument("fixed")
    made.add_argument("moving")
    made.add_argument("--transform", type=transform_file, help="to write, .h5 or .nii.gz")
    made.add_argument("--moved", help="volume to write")
    made.add_argument("--method", default="affine")
    made.add_argument("--settings", default="", help="NAME=VALUE,NAME=VALUE")
    made.add_argument("--epochs", type=int, default=0)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--command", default="zoo")
    return made


def transform_file(text: str) -> str:
    """A path whose suffix says how the transform is to be written."""
    if suffix_of(text) is None:
        known = " or ".join(TRANSFORMS)
        raise argparse.ArgumentTypeError(f"{text!r} must end in {known}")
    return text


def suffix_of(path: str) -> str | None:
    return next((suffix for suffix in TRANSFORMS if path.lower().endswith(suffix)), None)


def register_command(options: argparse.Namespace, results: Path) -> list[str]:
    """The words after `zoo`."""
    words = ["register", options.fixed, options.moving, "--method", options.method]
    words += ["--out", str(results), "--seed", str(options.seed)]
    if options.epochs:
        words += ["--epochs", str(options.epochs)]
    for setting in filter(None, options.settings.split(",")):
        words += ["--set", setting]
    return words


def run(command: str, words: list[str]) -> int:
    """Runs a command of the zoo; what it says is shown by Slicer.

    Args:
        command: how the zoo is called, a program with perhaps arguments of its own.
        words: after it.

    Returns:
        Its exit status; 127 if there is no such program.
    """
    environment = dict(os.environ)
    if "SLICER_HOME" in environment:
        for name in SLICERS_OWN:
            environment.pop(name, None)
    try:
        return subprocess.run([*shlex.split(command), *words], env=environment).returncode
    except OSError as error:
        print(f"--command: {command!r} cannot be run: {error}", file=sys.stderr)
        return 127


def copy(source: Path, target: Path) -> None:
    """Copies a file, which appears complete or not at all."""
    with tempfile.TemporaryDirectory(dir=target.absolute().parent) as folder:
        partial = Path(folder) / target.name
        shutil.copyfile(source, partial)
        os.replace(partial, target)


if __name__ == "__main__":
    sys.exit(main())
