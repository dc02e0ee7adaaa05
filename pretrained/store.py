"""Presets as folders: find them by name, have their files ready, write and verify them."""

import contextlib
import copy
import difflib
import fnmatch
import json
import os
import re
import secrets
import shutil
import urllib.parse
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pretrained import cache
from pretrained.manifest import (
    CARD,
    FORMAT,
    GOLDEN,
    MANIFEST,
    PREVIEW,
    WEIGHTS,
    ManifestError,
    card,
    check_filename,
    parse,
    validate,
)

Roots = Sequence[str | os.PathLike]
Handle = str | os.PathLike


class PresetNotFound(LookupError):
    """No preset answers to a handle; the message says what is there."""


class IntegrityError(OSError):
    """A file of a preset folder is not the one that its manifest describes."""


@dataclass(frozen=True)
class Preset:
    """A preset folder and its manifest.

    Attributes:
        folder: The folder with ``preset.json``.
        manifest: The checked content of ``preset.json``.
    """

    folder: Path
    manifest: dict = field(repr=False, hash=False)

    @property
    def model(self) -> str:
        """The registered name of the model."""
        return self.manifest["model"]

    @property
    def tag(self) -> str:
        """What tells this preset from the model's others."""
        return self.manifest["tag"]

    @property
    def name(self) -> str:
        """``model.tag``."""
        return f"{self.model}.{self.tag}"

    @property
    def config(self) -> dict:
        """A copy of the arguments of the model's constructor."""
        return copy.deepcopy(self.manifest["config"])

    def path(self, filename: str) -> Path:
        """Where a file is on this machine.

        Args:
            filename: A plain name, such as ``"model.weights.h5"``.

        Returns:
            The file in the folder, or else its copy in the cache.

        Raises:
            FileNotFoundError: If it is in neither; ``locate`` fetches what the manifest lists.
        """
        places = [self.folder / filename]
        if entry := self.manifest["files"].get(filename):
            places.append(cache.place(filename, entry))
        for place in places:
            if place.is_file():
                return place
        looked = " nor ".join(map(str, places))
        raise FileNotFoundError(f"preset {self.name} has no file {filename!r}: neither {looked}")


def find(pattern: str = "*", roots: Roots = ()) -> list[Preset]:
    """Lists installed presets by name.

    Args:
        pattern: A wildcard on ``model.tag``, such as ``"igr.*"``; case does not matter.
        roots: Further folders of ``<model>/<tag>/`` to look in, after the package's own.

    Returns:
        The presets, sorted by name. A folder with a broken manifest is left out with a warning.
    """
    found = []
    for name, folder in sorted(_index(roots).items()):
        if fnmatch.fnmatchcase(name, pattern.casefold()):
            try:
                found.append(_installed(folder))
            except (ManifestError, OSError) as error:
                warnings.warn(f"preset {name} is skipped: {error}", stacklevel=2)
    return found


def info(handle: Handle, roots: Roots = ()) -> Preset:
    """Reads one preset's manifest, and none of its other files.

    Args:
        handle: ``"model.tag"``; ``"model"`` for its default or only preset; a folder; or
            ``"hf://owner/repo[/folder][@revision]"``, whose manifest is fetched.
        roots: Further folders of ``<model>/<tag>/`` to look in, after the package's own.

    Raises:
        PresetNotFound: If there is no such preset, with close matches, or several.
        ManifestError: If its manifest is broken or newer than this package.
        FetchError: If a hub's manifest cannot be fetched.
        ValueError: If an ``hf://`` handle is not of that form.
    """
    text = os.fspath(handle)
    if text.startswith("hf://"):
        return _hub(text)
    folder = Path(text).expanduser().absolute()
    looks_like_path = "/" in text or os.sep in text or text.startswith((".", "~"))
    if not isinstance(handle, str) or looks_like_path or (folder / MANIFEST).is_file():
        if not (folder / MANIFEST).is_file():
            raise PresetNotFound(f"no preset in folder {folder}: it holds no {MANIFEST}")
        return _read(folder)
    return _by_name(text, roots)


def locate(handle: Handle, roots: Roots = ()) -> Preset:
    """Has every file of a preset on this machine, with the size and hash in its manifest.

    Args:
        handle: As for ``info``.
        roots: As for ``info``.

    Returns:
        The preset; ``path`` answers for every file that its manifest lists.

    Raises:
        IntegrityError: If a file in the folder is altered or truncated; it is never replaced.
        FileNotFoundError: If a file is not there and has no URL.
        FetchError: If a file cannot be fetched. An altered file in the cache is fetched again.
        PresetNotFound, ManifestError, ValueError: As for ``info``.
    """
    preset = info(handle, roots)
    for filename, entry in preset.manifest["files"].items():
        path = preset.folder / filename
        if path.exists():
            if problem := cache.damage(path, entry):
                raise IntegrityError(
                    f"preset {preset.name}: {path} {problem}: it was altered or not copied whole; "
                    "restore it, or write the preset again"
                )
        elif entry.get("urls"):
            cache.fetch(filename, entry)
        else:
            raise FileNotFoundError(
                f"preset {preset.name}: {path} is missing, and {MANIFEST} gives no URL to fetch it"
            )
    return preset


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
            sizes in ``files``, whose other keys (``urls``, ``rtol``, ``atol``) are kept. A file
            that is listed with urls and hash need not be given.
        files: Per file name, a file to copy or a function that writes to the path it is given. The
            weights, the golden file and whatever ``manifest["files"]`` lists are hashed.
        overwrite: Replace an existing preset, the whole folder with it. The old one may be the
            source of ``files``; it stays as it is if anything fails.

    Returns:
        The preset as it reads back.

    Raises:
        FileExistsError: If ``folder`` exists and ``overwrite`` is off, or it is no preset.
        FileNotFoundError: If a file of ``files`` is not there or was not written.
        ManifestError: If the manifest is not valid.
    """
    folder = Path(folder).expanduser().resolve()
    if folder.exists():
        if not overwrite:
            raise FileExistsError(f"{folder} exists; pass overwrite=True to replace it")
        # A mistaken path must not cost anybody a folder of something else.
        if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MANIFEST).is_file()):
            raise FileExistsError(f"{folder} is not a preset (no {MANIFEST}): it is not replaced")
    where = str(folder / MANIFEST)
    for name in files:
        check_filename(name, where)
    manifest = {"format": FORMAT, "files": {}, **manifest}
    manifest = {key: _as_json(value, where, key) for key, value in manifest.items()}

    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, so that the last step is a rename; hidden, so that nobody lists it.
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.new")
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
            if name in (WEIGHTS, GOLDEN) or name in manifest["files"]:
                facts = {"sha256": cache.sha256(target), "bytes": target.stat().st_size}
                manifest["files"][name] = {**manifest["files"].get(name, {}), **facts}
        validate(manifest, where)
        for name, entry in manifest["files"].items():
            if name not in files and not entry.get("urls"):
                raise ManifestError(f"{where}: files lists {name!r}, neither given nor with urls")
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (draft / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
        text = card(manifest, preview=PREVIEW in files)
        (draft / CARD).write_text(text, encoding="utf-8", newline="\n")
        _put(draft, folder)
    finally:
        # Gone already after the rename.
        shutil.rmtree(draft, ignore_errors=True)
    return _read(folder)


def verify(preset: Preset) -> list[str]:
    """Checks the files of a preset without fetching any.

    Args:
        preset: What ``find``, ``info`` or ``locate`` returned.

    Returns:
        Problems in words, none for a sound preset: files missing, altered or not as the schema
        asks, and a card that ``preset.json`` would not generate. A file with URLs that has not been
        fetched is no problem; ``locate`` first to have it checked too.
    """
    problems = []
    try:
        validate(preset.manifest, str(preset.folder / MANIFEST))
    except ManifestError as error:
        return [str(error)]
    for filename, entry in preset.manifest["files"].items():
        path = preset.folder / filename
        if not path.exists() and entry.get("urls"):
            path = cache.place(filename, entry)
            if not path.exists():
                continue
        if problem := cache.damage(path, entry):
            problems.append(f"{path} {problem}")
    # Of a hub's preset the cache keeps only what loading needs.
    if not preset.folder.is_relative_to(cache.home()):
        path = preset.folder / CARD
        expected = card(preset.manifest, preview=(preset.folder / PREVIEW).is_file())
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif path.read_text(encoding="utf-8") != expected:
            problems.append(f"{path} is not the card that {MANIFEST} generates")
    return problems


def _index(roots: Roots) -> dict[str, Path]:
    """Folders by case-folded ``model.tag``, from the folder names alone; the first root wins."""
    index: dict[str, Path] = {}
    for root in (Path(__file__).parent, *map(Path, roots)):
        for folder in sorted(path.parent.absolute() for path in root.glob(f"*/*/{MANIFEST}")):
            # A hidden folder is a preset that is being written.
            if folder.name.startswith("."):
                continue
            first = index.setdefault(f"{folder.parent.name}.{folder.name}".casefold(), folder)
            if first.resolve() != folder.resolve():
                warnings.warn(
                    f"preset folder {folder} is ignored: {first} has that name", stacklevel=3
                )
    return index


def _put(draft: Path, folder: Path) -> None:
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


def _as_json(value: object, where: str, key: str) -> object:
    """The value as it will read back: a copy, with lists for tuples."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{where}: {key} cannot be written as JSON: {error}") from error


def _read(folder: Path) -> Preset:
    path = folder / MANIFEST
    return Preset(folder, parse(path.read_bytes(), str(path)))


def _installed(folder: Path) -> Preset:
    """Reads a preset that was found by its folder's name, so the two names must agree."""
    preset, name = _read(folder), f"{folder.parent.name}.{folder.name}"
    if preset.name.casefold() != name.casefold():
        raise ManifestError(
            f"{folder / MANIFEST}: model and tag are {preset.name!r}, expected {name!r} as its "
            "folders are named"
        )
    return preset


def _by_name(handle: str, roots: Roots) -> Preset:
    name, index = handle.casefold(), _index(roots)
    if name in index:
        return _installed(index[name])
    models = {key.split(".")[0] for key in index}
    presets = find(f"{name}.*", roots) if name in models else []
    chosen = [preset for preset in presets if preset.manifest.get("default")] or presets
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        several = ", ".join(preset.name for preset in chosen)
        raise PresetNotFound(f"model {handle!r} has several presets, expected one of: {several}")
    close = difflib.get_close_matches(name, sorted(models | set(index)), n=4, cutoff=0.5)
    title, names = ("close matches", close) if close else ("known presets", sorted(index))
    raise PresetNotFound(f"no preset named {handle!r}; {title}: {', '.join(names) or 'none'}")


def _hub(handle: str) -> Preset:
    """The preset in a repository of the hub; its manifest is kept in the cache."""
    pattern = r"hf://([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)(?:@([^@\s]+))?"
    match = re.fullmatch(pattern, handle)
    parts = re.split("[/@]", handle.removeprefix("hf://"))
    if match is None or not {".", ".."}.isdisjoint(parts):
        raise ValueError(f"handle is {handle!r}, expected hf://owner/repo[/folder][@revision]")
    repo, subfolder, revision = match[1], match[2], match[3] or "main"
    # A branch may have a slash in its name; quoted, it is one part of the URL and one folder.
    quoted = urllib.parse.quote(revision, safe="")
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    base = f"{endpoint}/{repo}/resolve/{quoted}{subfolder}"
    preset = cache.home() / "hub" / f"{repo}/{quoted}{subfolder}" / MANIFEST

    manifest = None
    with contextlib.suppress(ManifestError, OSError):
        manifest = parse(preset.read_bytes(), str(preset))
    pinned = re.fullmatch("[0-9a-f]{40}", revision) is not None
    if manifest is None or not (pinned or cache.offline()):
        try:
            manifest = cache.fetch_manifest(f"{base}/{MANIFEST}", preset)
        except cache.FetchError as error:
            if manifest is None:
                raise
            warnings.warn(f"{handle}: the copy in the cache is used: {error}", stacklevel=4)
    for filename, entry in manifest["files"].items():
        source = f"{base}/{urllib.parse.quote(filename)}"
        entry["urls"] = [source, *entry.get("urls", [])]
    return Preset(preset.parent, manifest)
