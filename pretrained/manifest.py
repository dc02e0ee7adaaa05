"""The manifest of a preset, ``preset.json``: its schema, and the model card made from it."""

import hashlib
import json
import math
import re
import reprlib
from pathlib import Path
from typing import Any

FORMAT = 2  # 1 carried no hash of itself
MANIFEST = "preset.json"
WEIGHTS = "model.weights.h5"
GOLDEN = "golden.npz"
CARD = "card.md"
PREVIEW = "preview.png"
RECIPE = "train.py"
HASH = "sha256"  # the key of a manifest that holds its own hash
LIMIT = 1 << 20  # bytes of a manifest


class ManifestError(ValueError):
    """A ``preset.json`` that cannot be used; the message names the file and the key."""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _matches(pattern: str):
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


# A check is a test and the words for what passes it.
_OBJECT = (lambda value: isinstance(value, dict), "an object")
_LIST = (lambda value: isinstance(value, list), "a list")
_BOOL = (lambda value: isinstance(value, bool), "true or false")
_STRING = (lambda value: isinstance(value, str), "a string")
_TEXT = (_matches(r"(?s).*\S.*"), "a string that is not empty")
_MODEL = (_matches(r"[A-Za-z0-9_-]+"), "a name of letters, digits, '_' and '-'")
_TAG = (_matches(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"), "a name of letters, digits, '_', '-' and '.'")
_NUMBER = (_number, "a finite number")
_COUNT = (_count, "an integer, zero or more")
_SIZE = (lambda value: value is None or _count(value), "an integer, or null where any size goes")
_SHA256 = (_matches(r"[0-9a-f]{64}"), "64 lower-case hexadecimal digits")
_URL = (_matches(r"https?://\S+"), "an http or https URL")

# An object lists its keys: "?" marks an optional one, "*" stands for every key not named here.
# Unknown keys are welcome, so that a plugin can add facts of its own.
_FILE = {"sha256": _SHA256, "bytes": _COUNT, "urls?": [_URL], "rtol?": _NUMBER, "atol?": _NUMBER}
_ARRAY = {"shape": [_SIZE], "unit": _STRING, "dtype?": _TEXT}
_SCHEMA = {
    "model": _MODEL,
    "tag": _TAG,
    "default?": _BOOL,
    "config": _OBJECT,
    "loss_weights?": {"*": _NUMBER},
    "files": {WEIGHTS: _FILE, "*": _FILE},
    "inputs": {"*": _ARRAY},
    "outputs": {"*": _ARRAY},
    "metrics?": [
        {"data": _TEXT, "protocol": _TEXT, "name": _TEXT, "value": _NUMBER, "unit?": _STRING}
    ],
    "training?": {
        "data?": _STRING,
        "script?": _STRING,
        "seed?": _COUNT,
        "versions?": {"*": _STRING},
        "minutes?": _NUMBER,
        "hardware?": _STRING,
    },
    # Best SPDX expressions, as those of the presets here: what wheels and hubs can tell apart.
    "licence": {
        "weights": _TEXT,
        "data": _TEXT,
        "source?": _STRING,
        "terms?": _STRING,
        "patent?": _STRING,
        "attribution?": _STRING,
    },
    "paper?": _STRING,
    "summary?": _STRING,
    "notes?": _STRING,
}

# Formats that hold weights by other means, several of which run code when they are opened.
_FOREIGN_WEIGHTS = re.compile(
    r"\.(h5|hdf5|keras|pt|pth|bin|pkl|pickle|joblib|ckpt|pb|npy|safetensors)$", re.IGNORECASE
)


def validate(manifest: Any, where: str) -> None:
    """Checks a manifest against the schema.

    Args:
        manifest: The content of a ``preset.json``.
        where: The file or URL that it came from, for the message.

    Raises:
        ManifestError: If something is missing or wrong; the message names ``where``, the key, what
            came and what was expected. A format newer than ``FORMAT`` asks for an upgrade.
    """
    _check(manifest, _OBJECT, where, "the manifest")
    # The format goes first: the keys of a newer one may be different.
    version = manifest.get("format")
    if not _count(version) or version < 1:
        raise ManifestError(f"{where}: format is {version!r}, expected an integer up to {FORMAT}")
    if version > FORMAT:
        raise ManifestError(
            f"{where}: format is {version}, and the newest that is supported is {FORMAT}: "
            "upgrade deformation-zoo to load this preset"
        )
    _check(manifest, _SCHEMA, where, "")
    for name in manifest["files"]:
        if name != CARD:
            check_filename(name, where)


def check_tag(tag: str, where: str) -> None:
    """Checks the name of a preset folder, which becomes the tag.

    Raises:
        ManifestError: If it has other characters than a tag may have; the message begins with
            ``where``.
    """
    _check(tag, _TAG, where, "tag")


def check_filename(name: str, where: str) -> None:
    """Refuses names that leave the folder, name a generated file or hold foreign weights."""
    if not re.fullmatch(r"\w[\w. -]*", name) or name in (MANIFEST, CARD):
        raise ManifestError(
            f"{where}: files has {name!r}, expected a plain file name (no folders, no leading dot) "
            f"other than {MANIFEST} and {CARD}"
        )
    if _FOREIGN_WEIGHTS.search(name) and not name.endswith(".weights.h5"):
        raise ManifestError(f"{where}: files has {name!r}, expected weights as .weights.h5 only")


def _check(value: Any, kind: Any, where: str, key: str) -> None:
    """Walks value and schema side by side; ``key`` is the path so far."""
    test, expected = _check_of(kind)
    if not test(value):
        raise ManifestError(f"{where}: {key} is {reprlib.repr(value)}, expected {expected}")
    if isinstance(kind, list):
        for index, item in enumerate(value):
            _check(item, kind[0], where, f"{key}[{index}]")
    elif isinstance(kind, dict):
        prefix = f"{key}." if key else ""
        named = {name.rstrip("?"): child for name, child in kind.items() if name != "*"}
        for name, child in named.items():
            if name not in value and name in kind:
                expected = _check_of(child)[1]
                raise ManifestError(f"{where}: {prefix}{name} is missing, expected {expected}")
        for name, item in value.items():
            child = named.get(name, kind.get("*"))
            if child is not None:
                _check(item, child, where, f"{prefix}{name}")


def _check_of(kind: Any) -> tuple:
    return {dict: _OBJECT, list: _LIST}.get(type(kind), kind)


def digest(manifest: dict) -> str:
    """The hash of a manifest: of its canonical JSON, without the key that holds the hash.

    Keys in order, no spaces, other letters escaped.
    """
    content = {key: value for key, value in manifest.items() if key != HASH}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def text_of(manifest: dict) -> str:
    """A manifest as it is written, with its hash as the last key."""
    content = {key: value for key, value in manifest.items() if key != HASH}
    content[HASH] = digest(content)
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse(text: str | bytes, where: str, hashed: bool = True) -> dict:
    """The manifest in a text.

    Args:
        text: The content of a ``preset.json``.
        where: The file or URL that it came from, for the message.
        hashed: Whether it has to be the text that was written, to the letter. One of format 1 has
            no hash to tell.

    Raises:
        ManifestError: If it is not JSON, breaks the schema, or is not what was written.
    """
    try:
        written = text if isinstance(text, str) else text.decode("utf-8")
        manifest = json.loads(written, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: not valid JSON: {error}") from error
    validate(manifest, where)
    if not hashed or (manifest["format"] == 1 and HASH not in manifest):
        return manifest
    if (found := manifest.get(HASH)) != (expected := digest(manifest)):
        raise ManifestError(
            f"{where}: {HASH} is {reprlib.repr(found)}, and the content has {expected}: it was "
            "altered; restore it, or state what is there anew by: zoo verify --rehash FOLDER"
        )
    # Another spelling of the same numbers has the same hash; a checkout may have other line ends.
    if written.replace("\r\n", "\n") != text_of(manifest):
        raise ManifestError(
            f"{where}: it is not as it was written: spaces, order or spelling differ; restore it, "
            "or state what is there anew by: zoo verify --rehash FOLDER"
        )
    return manifest


def bytes_of(path: Path) -> bytes:
    """The content of a manifest's file; errors name it where it is none, or too long for one."""
    # A pipe in the place of a file would be waited for.
    if not path.is_file():
        raise FileNotFoundError(f"{path} is {'no regular file' if path.exists() else 'missing'}")
    if (size := path.stat().st_size) > LIMIT:
        raise ManifestError(f"{path}: has {size} bytes, expected at most {LIMIT}")
    return path.read_bytes()


def _no_number(word: str):
    raise ValueError(f"{word} is no number of JSON")


def card(manifest: dict, preview: bool = False, handle: str | None = None) -> str:
    """The model card: what the preset is, how good, made from what, and under which licences.

    Args:
        manifest: A manifest that ``validate`` accepts.
        preview: Whether to show ``preview.png``.
        handle: What loads the preset: its name where it is installed under it. None for a folder
            that may lie anywhere.

    Returns:
        Markdown that ends in a newline, the same for the same manifest.
    """
    name = f"{manifest['model']}.{manifest['tag']}"
    size = manifest["files"][WEIGHTS]["bytes"]
    size = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
    parts = [f"# {name}", manifest.get("summary", ""), f"![preview]({PREVIEW})" if preview else ""]
    snippet = f'model = zoo.load("{handle}")  # or the path of this folder; {size}'
    if handle is None:
        snippet = f'model = zoo.load("./{manifest["tag"]}")  # the path of this folder; {size}'
    parts += [f"```python\nimport zoo\n\n{snippet}\n```"]

    if metrics := manifest.get("metrics"):
        parts += ["## How good it is"]
        for data in dict.fromkeys(each["data"] for each in metrics):
            same = [each for each in metrics if each["data"] == data]
            parts += [f"### {' '.join(data.split())}", _figures(same)]

    rows = [
        (f"{side} `{key}`", _shape(array["shape"]), array.get("dtype", ""), array["unit"])
        for side in ("input", "output")
        for key, array in manifest[f"{side}s"].items()
    ]
    parts += ["## What goes in and comes out", _table(("Array", "Shape", "Type", "Unit"), rows)]

    training = dict(manifest.get("training", {}))
    if "versions" in training:
        training["versions"] = ", ".join(f"{k} {v}" for k, v in training["versions"].items())
    if "script" in training:
        training["script"] = f"`{training['script']}`"
    if training:
        parts += ["## How it was made", _facts(training)]

    parts += ["## Licences", _facts(manifest["licence"])]
    for title in ("paper", "notes"):
        if manifest.get(title):
            parts += [f"## {title.capitalize()}", manifest[title]]
    return "\n\n".join(part for part in parts if part) + "\n"


def _figures(metrics: list[dict]) -> str:
    """One line for each protocol, one column for each metric."""
    found, columns = {}, {}
    for each in metrics:
        unit = each.get("unit", "1")
        name = each["name"] if unit == "1" else f"{each['name']} ({unit})"
        found.setdefault(each["protocol"], {})[name] = _value(each["value"])
        columns[name] = None
    rows = [
        (protocol, *(values.get(name, "") for name in columns))
        for protocol, values in found.items()
    ]
    return _table(("Protocol", *columns), rows)


def _value(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _shape(shape: list) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def _facts(facts: dict) -> str:
    return "\n".join(f"- {key.capitalize()}: {fact}" for key, fact in facts.items() if fact != "")


def _table(header: tuple, rows: list[tuple]) -> str:
    # A bar or a line break inside a cell would end it.
    lines = [header, ("---",) * len(header), *rows]
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
