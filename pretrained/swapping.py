"""A folder that takes the place of another one: whole, or not at all, whenever the process ends."""

import contextlib
import glob
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pretrained import cache, locks
from pretrained.manifest import MANIFEST, ManifestError, bytes_of, parse

TRIES = 100  # of a twentieth of a second, for a folder that is exchanged just now


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Has the folder for itself, and clears away what killed processes have left of it."""
    try:
        with locks.lock(folder.with_name(f".{folder.name}.lock")):
            _clear(folder)
            yield
    except locks.Held as error:
        raise FileExistsError(f"{folder} is being written by another process") from error


def _clear(folder: Path) -> None:
    """Ends what a killed process had begun; to be called by whoever has the folder for itself."""
    drafts = _left(folder, "new")
    for old in _left(folder, "old"):
        # Killed between two renames: the new one was complete before the first of them.
        if not folder.exists():
            new = old.with_suffix(".new")
            os.rename(new if new in drafts and _is_whole(new) else old, folder)
        shutil.rmtree(old, ignore_errors=True)
    for left in drafts:
        shutil.rmtree(left, ignore_errors=True)


def draft_of(folder: Path) -> Path:
    """A free path beside a folder, so that the last step is a rename; hidden from any listing."""
    return folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.new")


def _left(folder: Path, suffix: str) -> list[Path]:
    """Drafts ("new"), or folders that stepped aside ("old"), of a folder."""
    digits = "[0-9a-f]" * 16
    return list(folder.parent.glob(f".{glob.escape(folder.name)}.{digits}.{suffix}"))


def recover(folder: Path) -> None:
    """Puts a folder back whose overwriting was killed between its two renames."""
    for _ in range(TRIES):
        if folder.exists() or not _left(folder, "old"):
            return
        try:
            with writing(folder):
                return
        except FileExistsError:
            # Somebody is between the two renames just now.
            time.sleep(0.05)
        except OSError:
            return  # such as a folder that is only to be read: it is reported as missing


def _is_whole(folder: Path) -> bool:
    try:
        manifest = parse(bytes_of(folder / MANIFEST), str(folder))
    except (ManifestError, OSError):
        return False
    files = manifest["files"].items()
    return not any(
        cache.damage(folder / name, entry)
        for name, entry in files
        if (folder / name).exists() or not entry.get("urls")
    )


def put(draft: Path, folder: Path) -> None:
    """Renames ``draft`` to ``folder``; an old one steps aside, and back if that goes wrong."""
    if not folder.exists():
        os.rename(draft, folder)
        return
    old = draft.with_suffix(".old")
    os.rename(folder, old)
    try:
        os.rename(draft, folder)
    except BaseException:
        os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
