"""Locks that a process holds as long as it lives, so that what a killed one left can be told.

They are of the operating system (``flock``), and end with the process however it ends. Where there
are none, an open file cannot be removed, which comes to the same.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class Held(OSError):
    """Another process holds a lock."""


@contextlib.contextmanager
def new_file(name: Callable[[], Path]) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file that is locked while it is written, and gone afterwards unless it was renamed.

    Args:
        name: Gives a path that is free.

    Yields:
        The path, and the file, open for writing.
    """
    while True:
        path = name()
        file = path.open("xb")
        # Between these two lines another process may take it for something left, and remove it.
        if _lock(file) is not False and _is(file, path):
            break
        file.close()
    try:
        with file:
            yield path, file
    finally:
        # Gone already after a rename.
        with contextlib.suppress(OSError):
            path.unlink()


def remove_if_left(path: Path) -> None:
    """Removes a file of ``new_file`` whose process is no more; leaves those that are in use."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if fcntl is None or _lock(file) is True:
            path.unlink()


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds the lock of a path: a file that is made for it, and removed in the end.

    Raises:
        Held: If another process, or another thread, holds it.
        OSError: If the file cannot be made.
    """
    while True:
        if fcntl is None:
            try:
                path.unlink(missing_ok=True)
            except PermissionError as error:
                raise Held(f"{path} is locked") from error
        file = path.open("ab")
        if _lock(file) is False:
            file.close()
            raise Held(f"{path} is locked")
        # Whoever held it before may have removed the file that was opened here.
        if _is(file, path):
            break
        file.close()
    try:
        yield
    finally:
        if fcntl is not None:
            path.unlink(missing_ok=True)
        file.close()
        if fcntl is None:
            path.unlink(missing_ok=True)


def _lock(file: BinaryIO) -> bool | None:
    """Whether the lock of a file was free and is taken now; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # such as a network drive without locks
        return None
    return True


def _is(file: BinaryIO, path: Path) -> bool:
    """Whether a path still is the file that was opened."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
