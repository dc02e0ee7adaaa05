"""Presets that are written, or stated anew, as whole folders."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pretrained import cache, swapping
from pretrained.manifest import (
    CARD,
    FORMAT,
    HASH,
    LIMIT,
    MANIFEST,
    PREVIEW,
    RECIPE,
    ManifestError,
    bytes_of,
    card,
    check_filename,
    parse,
    text_of,
    validate,
)
from pretrained.store import ROOT, SHOWN, IntegrityError, Preset, read

LONGEST_NAME = 200  # bytes of a folder's name; a draft of it carries a longer one


def write(
    folder: str | os.PathLike,
    manifest: Mapping,
    files: Mapping[str, str | os.PathLike | Callable[[Path], object]],
    overwrite: bool = False,
) -> Preset:
    """Writes a whole preset folder, or nothing.

    Args:
        folder: The folder to make.
        manifest: The content of ``preset.json``. ``format`` is filled in, and so are the hashes and
            sizes in ``files``, whose other keys (``urls``, ``rtol``, ``atol``) are kept, and the
            hash of the manifest itself. A file that is listed with urls and hash need not be given.
        files: Per file name, a file to copy or a function that writes to the path it is given.
        overwrite: Replace an existing preset, the whole folder with it. The old one may be the
            source of ``files``; it stays as it is if anything fails.

    Returns:
        The preset as it reads back.

    Raises:
        FileExistsError: If ``folder`` exists and ``overwrite`` is off, or it is no preset.
        FileNotFoundError: If a file of ``files`` is not there or was not written.
        ManifestError: If the manifest is not valid.
        OSError: If another process is writing this folder, or the disk does not take it.
    """
    folder = Path(folder).expanduser().resolve()
    check(folder, manifest, files, overwrite)
    where = str(folder / MANIFEST)
    manifest = _own(manifest, where)

    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = swapping.draft_of(folder)
    with swapping.writing(folder):
        # What was there when the check was made may be another one now.
        _check_free(folder, overwrite)
        try:
            draft.mkdir()
            for name, source in files.items():
                target = draft / name
                if callable(source):
                    source(target)
                    if not target.is_file():
                        raise FileNotFoundError(
                            f"files[{name!r}] wrote nothing to the path it was given"
                        )
                else:
                    shutil.copyfile(source, target)
                _state(manifest, target)
            for name, entry in manifest["files"].items():
                if name not in files and not entry.get("urls"):
                    raise ManifestError(
                        f"{where}: files lists {name!r}, neither given nor with urls"
                    )
            _finish(draft, manifest, where, _named(folder, manifest))
            swapping.put(draft, folder)
        finally:
            # Gone already after the rename.
            shutil.rmtree(draft, ignore_errors=True)
    return read(folder)


def check(
    folder: str | os.PathLike,
    manifest: Mapping,
    files: Mapping[str, object] | Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Checks what can be checked of a preset before there are any files, say before a training.

    Args:
        folder: As for ``write``.
        manifest: As for ``write``.
        files: The names of the files.
        overwrite: As for ``write``.

    Raises:
        FileExistsError, ManifestError: As for ``write``.
        OSError: If the folder cannot be made there.
    """
    folder = Path(folder).expanduser().resolve()
    swapping.recover(folder)
    _check_free(folder, overwrite)
    where = str(folder / MANIFEST)
    for name in files:
        check_filename(name, where)
    manifest = _own(manifest, where)
    for name in {*files, CARD}:
        facts = {"sha256": "0" * 64, "bytes": 0}
        manifest["files"][name] = {**manifest["files"].get(name, {}), **facts}
    validate(manifest, where)
    if len(os.fsencode(folder.name)) > LONGEST_NAME:
        raise ManifestError(f"{where}: the name of the folder is longer than {LONGEST_NAME} bytes")
    place = folder.parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(f"{folder} cannot be made: {place} is no folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be made: {place} cannot be written to")


def rehash(folder: str | os.PathLike) -> Preset:
    """States anew what a preset folder holds: its manifest, recipe, picture and card.

    For a manifest that was edited by hand, a recipe or picture that was exchanged, and for presets
    of format 1. Weights and golden output are never stated anew: they have to be those that the
    manifest lists.

    Args:
        folder: Of the preset.

    Returns:
        The preset as it reads back.

    Raises:
        IntegrityError: If the weights, or another file that is no text or picture, are altered.
        ManifestError: If the manifest is not valid.
        FileNotFoundError: If a file is missing.
    """
    folder = Path(folder).expanduser().resolve()
    where = str(folder / MANIFEST)
    with swapping.writing(folder):
        manifest = _own(parse(bytes_of(folder / MANIFEST), where, hashed=False), where)
        for name, entry in list(manifest["files"].items()):
            path = folder / name
            if name in SHOWN or (entry.get("urls") and not path.exists()):
                continue
            if problem := cache.damage(path, entry):
                raise IntegrityError(f"{path} {problem}: it is not stated anew")
        for name in (RECIPE, PREVIEW):
            if (folder / name).is_file():
                _state(manifest, folder / name)
            elif name in manifest["files"]:
                raise FileNotFoundError(f"{folder / name} is missing")
        draft = swapping.draft_of(folder)
        try:
            shutil.copytree(folder, draft)
            _finish(draft, manifest, where, _named(folder, manifest))
            swapping.put(draft, folder)
        finally:
            # Gone already after the rename.
            shutil.rmtree(draft, ignore_errors=True)
    return read(folder)


def _check_free(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{folder} exists; pass overwrite=True to replace it")
    # A mistaken path must not cost anybody a folder of something else.
    # A recipe may lie there alone, before it has made anything.
    if not folder.is_dir() or (
        {path.name for path in folder.iterdir()} - {RECIPE} and not (folder / MANIFEST).is_file()
    ):
        raise FileExistsError(f"{folder} is not a preset (no {MANIFEST}): it is not replaced")


def _own(manifest: Mapping, where: str) -> dict:
    """A copy of a manifest, of the format that is written, without what is stated last."""
    manifest = {"files": {}, **manifest, "format": FORMAT}
    manifest = {"format": FORMAT, **manifest}
    manifest = {key: _as_json(value, where, key) for key, value in manifest.items()}
    manifest.pop(HASH, None)
    files = manifest["files"]
    if not isinstance(files, dict) or not all(isinstance(each, dict) for each in files.values()):
        validate(manifest, where)  # which names what is wrong
    files.pop(CARD, None)
    return manifest


def _state(manifest: dict, path: Path) -> None:
    """Lists a file in a manifest as it is."""
    facts = {"sha256": cache.sha256(path), "bytes": path.stat().st_size}
    manifest["files"][path.name] = {**manifest["files"].get(path.name, {}), **facts}


def _finish(draft: Path, manifest: dict, where: str, handle: str | None) -> None:
    """Writes card and manifest, the hash of each in what is written next."""
    validate(manifest, where)
    text = card(manifest, (draft / PREVIEW).is_file(), handle)
    (draft / CARD).write_text(text, encoding="utf-8", newline="\n")
    _state(manifest, draft / CARD)
    text = text_of(manifest)
    if len(text.encode("utf-8")) > LIMIT:
        raise ManifestError(f"{where}: it would be longer than {LIMIT} bytes")
    (draft / MANIFEST).write_text(text, encoding="utf-8", newline="\n")


def _named(folder: Path, manifest: dict) -> str | None:
    """The name that loads a preset of the package itself; others may lie anywhere."""
    return f"{manifest['model']}.{manifest['tag']}" if folder.parent.parent == ROOT else None


def _as_json(value: object, where: str, key: str) -> object:
    """The value as it will read back: a copy, with lists for tuples."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{where}: {key} cannot be written as JSON: {error}") from error
