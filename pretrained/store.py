"""Presets as folders: find them by name, have their files ready, verify them."""

import contextlib
import copy
import difflib
import fnmatch
import os
import re
import urllib.parse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pretrained import cache, hub, shipped, swapping
from pretrained.manifest import (
    CARD,
    HASH,
    MANIFEST,
    PREVIEW,
    RECIPE,
    ManifestError,
    bytes_of,
    card,
    parse,
)

SHOWN = (CARD, PREVIEW, RECIPE)  # and not loaded: not fetched from a hub, nor all in a wheel
ROOT = Path(__file__).parent

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
    swapping.recover(folder)
    looks_like_path = "/" in text or os.sep in text or text.startswith((".", "~"))
    if not isinstance(handle, str) or looks_like_path or (folder / MANIFEST).is_file():
        if not (folder / MANIFEST).is_file():
            raise PresetNotFound(f"no preset in folder {folder}: it holds no {MANIFEST}")
        return read(folder)
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
    if HASH not in preset.manifest:
        warnings.warn(
            f"preset {preset.name} is of format 1 and has no hash of itself: that it is unaltered "
            "cannot be told. State what is there by: zoo verify --rehash FOLDER",
            stacklevel=2,
        )
    for filename, entry in preset.manifest["files"].items():
        path = preset.folder / filename
        if not path.exists() and filename in SHOWN and (_is_cached(preset) or _is_wheels(preset)):
            continue
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
        manifest = read(preset.folder).manifest
    except (ManifestError, OSError) as error:
        return [str(error)]
    if HASH not in manifest:
        problems.append(f"{MANIFEST} is of format 1 and has no hash of itself: zoo verify --rehash")
    for filename, entry in preset.manifest["files"].items():
        path = preset.folder / filename
        if not path.exists() and entry.get("urls"):
            path = cache.place(filename, entry)
            if not path.exists():
                continue
        if filename == PREVIEW and not path.exists() and _is_wheels(preset):
            continue
        if problem := cache.damage(path, entry):
            problems.append(f"{path} {problem}")
    # Of a hub's preset the cache keeps only what loading needs.
    if not _is_cached(preset):
        path = preset.folder / CARD
        preview = (preset.folder / PREVIEW).is_file() or _is_wheels(preset)
        expected = [card(manifest, preview, handle) for handle in (preset.name, None)]
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif path.read_text(encoding="utf-8") not in expected:
            problems.append(f"{path} is not the card that {MANIFEST} generates")
    return list(dict.fromkeys(problems))


def _index(roots: Roots) -> dict[str, Path]:
    """Folders by case-folded ``model.tag``, from the folder names alone; the first root wins."""
    index: dict[str, Path] = {}
    for root in (ROOT, *map(Path, roots)):
        for left in root.glob("*/.*.old"):
            swapping.recover(left.with_name(left.name[1:].rsplit(".", 2)[0]))
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


def _is_cached(preset: Preset) -> bool:
    return preset.folder.is_relative_to(cache.home())


def _is_wheels(preset: Preset) -> bool:
    """Whether a preset came with an installed wheel, which has no pictures."""
    return (ROOT / shipped.ELSEWHERE).is_file() and preset.folder.is_relative_to(ROOT)


def read(folder: Path) -> Preset:
    """The preset in a folder; its other files are not looked at."""
    path = folder / MANIFEST
    return Preset(folder, parse(bytes_of(path), str(path)))


def _installed(folder: Path) -> Preset:
    """Reads a preset that was found by its folder's name, so the two names must agree."""
    preset, name = read(folder), f"{folder.parent.name}.{folder.name}"
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
    for other, facts in shipped.elsewhere(ROOT).items():
        if name in (other.casefold(), other.split(".")[0].casefold()):
            raise PresetNotFound(shipped.remedy(other, facts))
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
    preset = cache.home() / "hub" / f"{repo}/{quoted}{subfolder}" / MANIFEST

    def sources(filename: str) -> list[str]:
        plain = (
            f"{hub.endpoint()}/{repo}/resolve/{quoted}{subfolder}/{urllib.parse.quote(filename)}"
        )
        own = [f"hf://{repo}{subfolder}/{filename}@{revision}"] if hub.is_installed() else []
        # A server of plain files is no hub for the hub's own client.
        return [*own, plain]

    manifest = None
    with contextlib.suppress(ManifestError, OSError):
        manifest = parse(bytes_of(preset), str(preset))
    pinned = re.fullmatch("[0-9a-f]{40}", revision) is not None
    if manifest is None or not (pinned or cache.offline()):
        try:
            manifest = cache.fetch_manifest(sources(MANIFEST), preset)
        except cache.FetchError as error:
            if manifest is None:
                raise
            warnings.warn(f"{handle}: the copy in the cache is used: {error}", stacklevel=4)
    for filename, entry in manifest["files"].items():
        entry["urls"] = [*sources(filename), *entry.get("urls", [])]
    return Preset(preset.parent, manifest)
