"""Files: images, label maps, displacement fields and landmarks.

What every reader and writer here shares: a file appears complete or not at all, and a missing
package is answered with the command that installs it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A path to write to in place of `path`; what was written moves there only on success.

    The temporary path has the name of the final one, in a folder beside it, because formats such
    as .mhd name their second file after the first.

    Args:
        path: the final file; missing folders are made.

    Yields:
        The path to write to.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        # The header last: whoever sees it finds the data that it names.
        for file in sorted(Path(folder).iterdir(), key=lambda file: file == temporary):
            os.replace(file, path.with_name(file.name))


def require(module: str, package: str, purpose: str):
    """Imports an optional module.

    Raises:
        ImportError: if it is missing, with the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {package}: pip install {package}") from error


def existing(path: str | Path, argument: str = "path") -> Path:
    """The path, if there is a file.

    Raises:
        FileNotFoundError: if not.
        TypeError: for what is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{argument} must be a path, not {type(path).__name__}.")
    path = Path(path).expanduser()
    try:
        there = path.is_file()
    except (OSError, ValueError) as error:  # too long, or with a null byte
        raise FileNotFoundError(f"{argument}: no file {str(path)!r}: {error}.") from error
    if path.is_dir():
        raise FileNotFoundError(
            f"{argument}: no file {str(path)!r}, but a folder. A DICOM series in it is read by "
            "SimpleITK.ImageSeriesReader or dcm2niix: write it as a .nii.gz file first."
        )
    if not there:
        raise FileNotFoundError(f"{argument}: no file {str(path)!r}.")
    return path
