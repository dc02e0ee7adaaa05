"""The shell: `zoo list`, `zoo register`, `zoo mesh` and the rest, thin over the Python API."""

from __future__ import annotations

import argparse
import os
import sys
import warnings

from zoo import __version__
from zoo.cli import browse, conversions, publishing, registrations, surfaces, training, views
from zoo.cli.shared import FAILED, INTERRUPTED

COMMAND_FILES = (browse, surfaces, registrations, views, training, conversions, publishing)


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
        with warnings.catch_warnings():
            warnings.showwarning = _Said()
            return parsed.run(parsed) or 0
    except KeyboardInterrupt:
        resumes = "; the same command resumes" if parsed.resumes else ""
        print(f"zoo: interrupted{resumes}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of `zoo list | head` is gone; there is nobody left to tell.
        sys.stdout = None
        return 0
    except (ValueError, LookupError, OSError, RuntimeError, ImportError, TypeError) as error:
        print(f"zoo: {error}", file=sys.stderr)
        return FAILED
    except MemoryError as error:
        print(f"zoo: out of memory: {error}".rstrip(": "), file=sys.stderr)
        return FAILED


class _Said:
    """Prints each warning of the zoo in one line without the place in the code, and only once."""

    def __init__(self):
        self.said = ""

    def __call__(self, message, category, filename, lineno, file=None, line=None):
        text = str(message).removesuffix(".")
        # A doubt may have been a warning already, with the name of the pair before it.
        if text.removeprefix("doubtful: ") not in self.said:
            self.said += f"{text}\n"
            print(f"zoo: {text}", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    """All commands with their options; each file of commands adds its own."""
    top = argparse.ArgumentParser(
        prog="zoo", description="Deformable registration and neural surfaces, by name."
    )
    top.add_argument("--version", action="version", version=f"zoo {__version__}")
    commands = top.add_subparsers(required=True, metavar="command")
    for file in COMMAND_FILES:
        file.add_parsers(commands)
    return top
