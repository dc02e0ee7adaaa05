"""The shell: `zoo list`, `zoo register`, `zoo mesh` and the rest, thin over the Python API."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from zoo import __version__
from zoo.cli import browse, registrations, surfaces
from zoo.cli.registrations import COMPANIONS
from zoo.cli.shared import FAILED, INTERRUPTED

SETTING = {
    "action": "append",
    "default": [],
    "metavar": "NAME=VALUE",
    "help": "an argument of the constructor, such as width=256 (may be repeated)",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: the words after `zoo`; None takes them from the shell.

    Returns:
        The exit status: 0; 1 when something the user gave is at fault, with one line of reason on
        standard error; 130 after Ctrl-C.
    """
    parsed = parser().parse_args(arguments)
    # TensorFlow prints its build options on import, which hides what the command says.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return parsed.run(parsed) or 0
    except KeyboardInterrupt:
        resumes = "; the same command resumes" if parsed.run is surfaces.train else ""
        print(f"zoo: interrupted{resumes}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of `zoo list | head` is gone; there is nobody left to tell.
        sys.stdout = None
        return 0
    except (ValueError, LookupError, OSError, RuntimeError, ImportError) as error:
        print(f"zoo: {error}", file=sys.stderr)
        return FAILED


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    top = argparse.ArgumentParser(
        prog="zoo", description="Deformable registration and neural surfaces, by name."
    )
    top.add_argument("--version", action="version", version=f"zoo {__version__}")
    commands = top.add_subparsers(required=True, metavar="command")

    def command(name, run, help, json_option=True):
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run)
        if json_option:
            sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    sub = command("list", browse.list_names, "list methods and presets")
    sub.add_argument("pattern", nargs="?", default="*", help="wildcard, such as 'igr*'")
    sub.add_argument("--pretrained", action="store_true", help="presets only")
    for fact in ("task", "data", "traits"):
        sub.add_argument(f"--{fact}", help=f"only methods with this {fact}")
    sub.add_argument("--dims", type=int, help="only methods for this dimension")

    sub = command("show", browse.show, "show the card of a method or preset")
    sub.add_argument("name")

    sub = command(
        "mesh", surfaces.mesh, "extract the surface of a preset as a mesh", json_option=False
    )
    sub.add_argument("preset", help="name or folder")
    sub.add_argument("--out", type=Path, required=True, help=".ply, .obj, .stl or .off")
    sub.add_argument("--resolution", type=int, default=256)
    sub.add_argument("--trim", type=Path, help="a scan: leave its holes open")

    sub = command(
        "evaluate", surfaces.evaluate, "measure a surface, or a registration on listed pairs"
    )
    sub.add_argument("model", help="a preset or, for pairs, also a method")
    sub.add_argument(
        "truth",
        type=Path,
        help="points that were not fitted, the true mesh, or a .csv of pairs with the columns "
        "fixed, moving and optional companions such as fixed_landmarks",
    )
    sub.add_argument("--scan", type=Path, help="the fitted scan, for one-sided distances")
    sub.add_argument("--resolution", type=int, default=256)
    sub.add_argument("--samples", type=int, default=100_000, help="points on the mesh")
    sub.add_argument("--set", **SETTING)

    sub = command(
        "register", registrations.register, "register a moving image or cloud to a fixed one"
    )
    _pair_arguments(sub)
    sub.add_argument("-m", "--method", default="affine", help="a method or preset")
    sub.add_argument("--out", type=Path, required=True, help="folder for the results")
    sub.add_argument(
        "--start",
        type=Path,
        metavar="TRANSFORM",
        help="from where to go on, such as the transform.h5 of an affine alignment; the result "
        "includes it",
    )
    sub.add_argument(
        "--epochs",
        type=int,
        help="of the optimisation for this pair; a learned method only optimises when given this",
    )
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--set", **SETTING)
    sub.add_argument("--overwrite", action="store_true", help="replace existing results")

    sub = command(
        "warp", registrations.warp, "apply a transform to an image, landmarks, a mesh or a cloud"
    )
    sub.add_argument("moving", type=Path)
    sub.add_argument("transform", type=Path, help="a field or ITK transform, as register writes it")
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument("--like", type=Path, help="an image whose grid the result has")
    sub.add_argument("--nearest", action="store_true", help="for labels, which stay integers")
    sub.add_argument(
        "--outside",
        type=float,
        metavar="NUMBER",
        help="value where the moving image does not reach; its minimum, or 0 for labels, when "
        "left out",
    )

    sub = command(
        "jacobian", registrations.jacobian, "the Jacobian determinant of a transform as an image"
    )
    sub.add_argument("transform", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument("--like", type=Path, help="an image whose grid the result has")

    sub = command(
        "view", registrations.view, "a picture of a pair, and of what a transform does to it"
    )
    _pair_arguments(sub)
    sub.add_argument("--transform", type=Path)
    sub.add_argument("--out", type=Path, required=True, help="the .png to write")

    sub = command("train", surfaces.train, "fit a method or preset to a scan", json_option=False)
    sub.add_argument("model", help="a method ('igr') or a preset to start from ('igr.bunny')")
    sub.add_argument("scan", type=Path)
    sub.add_argument("--out", type=Path, required=True, help="the preset folder to write")
    sub.add_argument("--epochs", type=int, default=20)
    sub.add_argument("--steps-per-epoch", type=int, default=100)
    sub.add_argument("--learning-rate", type=float, default=2e-3, help="start of a cosine decay")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--set", **SETTING)
    sub.add_argument("--overwrite", action="store_true", help="replace an existing preset")

    sub = command("verify", browse.verify, "hash the files of presets again")
    sub.add_argument("preset", nargs="*", help="names or folders; all when left out")

    sub = command(
        "demo", surfaces.demo, "the tour: load, mesh, measure, fine-tune", json_option=False
    )
    sub.add_argument("--out", type=Path, default=Path("demo"))
    return top


def _pair_arguments(sub):
    sub.add_argument("fixed", type=Path, help="image, picture, mesh or cloud")
    sub.add_argument("moving", type=Path)
    for name in COMPANIONS:
        sub.add_argument(f"--{name.replace('_', '-')}", type=Path)
