"""What a wheel has of the presets of the repository, and where the others are.

A wheel states the licences of all that it holds. So it holds presets that anybody may use for
anything, the smallest first while there is room, without their pictures; and a list of the others,
which a distribution of their own carries.
"""

import json
import re
import zlib
from pathlib import Path

from pretrained.manifest import MANIFEST, PREVIEW, WEIGHTS, bytes_of, parse

FREE = re.compile(r"CC0-1\.0|CC-BY-\d\.\d")
ROOM = 8_500_000  # bytes, compressed, of a wheel below 10 MB
ELSEWHERE = "elsewhere.json"  # in the root of the presets of a wheel


def divided(root: Path) -> tuple[list[Path], list[Path]]:
    """The preset folders below a root that go into a wheel, and the others.

    Args:
        root: Of ``<model>/<tag>/``.

    Returns:
        Two lists of folders, each in the order of their names.
    """
    inside, others, room = [], [], ROOM
    folders = {path.parent: _packed(path.parent) for path in root.glob(f"*/*/{MANIFEST}")}
    for folder in sorted(folders, key=lambda each: (folders[each], each)):
        is_free = FREE.fullmatch(_read(folder)["licence"]["weights"])
        if is_free and folders[folder] <= room:
            inside.append(folder)
            room -= folders[folder]
        else:
            others.append(folder)
    return sorted(inside), sorted(others)


def licences(folders: list[Path]) -> list[str]:
    """The licences of the weights of presets, each once, in order."""
    return sorted({_read(folder)["licence"]["weights"] for folder in folders})


def reduce(root: Path) -> None:
    """Makes a copy of all presets that of a wheel: removes what it does not have, and lists it."""
    listed = elsewhere(root)
    inside, others = divided(root)
    for folder in others:
        manifest = _read(folder)
        listed[f"{manifest['model']}.{manifest['tag']}"] = {
            "licence": manifest["licence"]["weights"],
            "bytes": manifest["files"][WEIGHTS]["bytes"],
        }
    for path in [each for each in root.glob("*/*/*") if each.is_file()]:
        if path.parent not in inside or path.name == PREVIEW:
            path.unlink()
    for folder in sorted(root.glob("**/"), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    text = json.dumps(dict(sorted(listed.items())), indent=2)
    (root / ELSEWHERE).write_text(f"{text}\n", encoding="utf-8")


def elsewhere(root: Path) -> dict[str, dict]:
    """The presets that a wheel does not have: licence of the weights and their bytes, by name.

    Args:
        root: Of the presets of the package; a repository has all of its presets.
    """
    path = root / ELSEWHERE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def remedy(name: str, facts: dict) -> str:
    """What to do about a preset that is elsewhere."""
    return (
        f"preset {name!r} is not in the wheel that is installed, which holds small ones under CC0 "
        f"or CC-BY alone: its weights are {facts['licence']}, {facts['bytes'] / 1e6:.1f} MB. In a "
        "clone of the repository, `pip install ./presets` installs all the others; or load it "
        f"from there by its folder, CLONE/pretrained/{name.replace('.', '/', 1)}"
    )


def _read(folder: Path) -> dict:
    return parse(bytes_of(folder / MANIFEST), str(folder / MANIFEST))


def _packed(folder: Path) -> int:
    files = [path for path in folder.iterdir() if path.is_file() and path.name != PREVIEW]
    return sum(len(zlib.compress(path.read_bytes())) for path in files)
