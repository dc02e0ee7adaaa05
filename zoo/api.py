"""Finding, creating and loading methods by name. Keras is imported only to create or load."""

from __future__ import annotations

import json
import reprlib
import zipfile
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

import pretrained
import registry
import zoo.catalogue  # noqa: F401  (declares the built-in entries)
from registry.kinds import expected, fits, kinds
from registry.signatures import arguments

MOST_PACKED = 2**24  # bytes of a `.keras` file, beside a multiple of its size


def find(
    pattern: str = "*", pretrained: bool = False, *, licence: str | None = None, **facts
) -> list[str]:
    """Names of methods, or of presets, by wildcard and by facts.

    Args:
        pattern: wildcards as in file names; "igr.*" (with a dot) asks for presets.
        pretrained: list presets (`model.tag`) instead of methods.
        licence: of the weights, by wildcard, such as "CC0-*"; lists presets. Those of the zoo have
            SPDX identifiers; what is not free is a "LicenseRef-...".
        **facts: `task`, `data`, `dims`, `traits` that an entry must have.

    Returns:
        Sorted names. Broken plugins are listed by `registry.find`, not here.

    Raises:
        TypeError: if `licence` is no text, or a fact has another name.

    Example:
        >>> zoo.find("*lddmm*")
        ['resnet_lddmm']
        >>> "igr" in zoo.find(task="surface", data="points")
        True
        >>> "igr.bunny" in zoo.find("igr.*")
        True
    """
    if licence is not None and not isinstance(licence, str):
        raise TypeError(f"licence: got {licence!r}, expected a wildcard such as 'CC0-*'")
    if pretrained or licence is not None or "." in pattern:
        models = {entry.name for entry in registry.find(**facts)}
        return [
            preset.name
            for preset in presets(pattern)
            if preset.model in models and _is_under(preset, licence)
        ]
    return [entry.name for entry in registry.find(pattern, **facts) if not entry.error]


def _is_under(preset: pretrained.Preset, licence: str | None) -> bool:
    written = preset.manifest["licence"]["weights"]
    return licence is None or fnmatchcase(written.casefold(), licence.casefold())


def presets(pattern: str = "*") -> list[pretrained.Preset]:
    """Presets of this package and of its plugins whose name matches the wildcard."""
    return pretrained.find(pattern, roots=registry.preset_folders())


def info(name: str) -> pretrained.Preset:
    """A preset's manifest by name, folder or hub handle; its weights are not fetched."""
    return pretrained.info(name, roots=registry.preset_folders())


def is_preset(name: str | Path) -> bool:
    """Whether a name stands for a preset (`model.tag`, "hf://...", a folder), not a method."""
    text = str(name)
    return any(mark in text for mark in "./\\") or (Path(text) / "preset.json").is_file()


def describe(name: str | Path) -> str:
    """The card of a preset ("igr.bunny", a folder, "hf://..."), or a method with its arguments.

    Example:
        >>> print(zoo.describe("affine"))
        # affine
        <BLANKLINE>
        Rigid, similarity or affine alignment of images and clouds.
        ...
    """
    if is_preset(name):
        return pretrained.card(info(str(name)).manifest, handle=str(name))
    entry = registry.get(name)
    lines = [
        f"# {entry.name}",
        "",
        entry.summary,
        "",
        f"- task: {entry.task}",
        f"- data: {', '.join(entry.data)}",
        f"- dimensions: {', '.join(map(str, entry.dims))}",
        f"- traits: {', '.join(entry.traits) or 'none'}",
        f"- paper: {entry.paper or 'none'}",
        f"- class: {entry.where}",
    ]
    if entry.error:
        lines.append(f"- broken: {entry.error}")
    names = [preset.name for preset in presets(f"{entry.name}.*")]
    lines.append(f"- presets: {', '.join(names) or 'none'}")
    known = None if entry.error else arguments(entry.target)
    if known:
        lines += ["- arguments, `--set NAME=VALUE` in the shell:"]
        lines += [f"  - {argument}" for argument in known]
    return "\n".join(lines) + "\n"


def create(name: str, **config):
    """A new model with random weights, compiled with the optimiser and losses of its paper.

    Args:
        name: of a method, as `find` lists it; or several, one after the other, "affine+divroc".
        **config: arguments of its constructor; of several methods an argument is for all that
            have it, and `{"divroc.points": 8192}` for one of them.

    Returns:
        A `zoo.Model`.

    Raises:
        registry.UnknownName: if there is no such method; the message lists close ones.

    Example:
        >>> points = np.random.default_rng(0).uniform(size=(200, 2))
        >>> pair = zoo.Pair(points + [0.02, 0.0], points)
        >>> model = zoo.create("affine", dims=2, kind="rigid")
        >>> history = model.fit(pair, verbose=0)
        >>> model.transform(pair).move([[1.0, 1.0]]).round(4)
        array([[1.02, 1.  ]])
    """
    if "+" in name:
        return _chained(name, config)
    model = registry.get(name).load()(**config)
    model.compile()
    return model


def load(source: str | Path, *, golden: bool = False, **config):
    """A pretrained model, compiled; a new one at every call.

    Args:
        source: a preset ("igr.bunny", or "igr" for the default one), a preset folder,
            "hf://owner/repository@revision", or a `.keras` file; or several of them and of
            methods, one after the other, "affine+dirvnet.brain2d".
        golden: also compute the output that the preset stores, and compare.
        **config: constructor arguments that replace a preset's; the weights must still fit.

    Returns:
        A `zoo.Model`. Sizes and hashes of a preset's files have been verified, and its
        configuration and weights are of the types that the method takes.

    Raises:
        pretrained.PresetNotFound: if there is no such preset; the message lists close ones.
        pretrained.IntegrityError: if a file was altered, or `golden` and the output is another.
        pretrained.ManifestError: if the manifest was altered, or its configuration is none of the
            method's.
        ValueError: if the weights do not fit the configuration, or are no finite numbers.

    Example:
        >>> surface = zoo.load("igr.bunny")
        >>> within, without = [-0.02, 0.1, 0.0], [0.2, 0.1, 0.0]  # metres, as the scan
        >>> surface.predict(np.array([within, without]), verbose=0)[:, 0] < 0
        array([ True, False])
    """
    text = str(source)
    if "+" in text and not text.startswith("hf://") and not Path(text).expanduser().exists():
        if golden:
            raise ValueError(f"golden: {text!r} has no output of its own; load its parts with it.")
        return _chained(text, config)
    if text.endswith(".keras"):
        if config or golden:
            given = sorted([*config, *["golden"] * golden])
            raise ValueError(f"a .keras file has its configuration; {given} must be left.")
        return _load_keras_file(Path(source).expanduser())
    preset = pretrained.locate(str(source), roots=registry.preset_folders())
    _check_config(preset.model, preset.config, f"{preset.folder / 'preset.json'}: config")
    config = {**preset.config, **config}
    model = registry.get(preset.model).load()(**config)
    try:
        model.load_checked(preset.path(pretrained.WEIGHTS))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"The weights of {preset.name} do not fit its configuration {config}: {error}"
        ) from error
    # Fine-tuning goes on with the weights of the loss that the preset was trained with.
    model.compile(loss_weights=preset.manifest.get("loss_weights"))
    if golden:
        model.check_golden(preset)
    return model


def push(folder: str | Path, handle: str, *, private: bool = False) -> str:
    """Uploads a preset that `save_preset` wrote to a hub, where others load it by its handle.

    Its hashes are verified first. The hub's card is made of the preset's, with licence, tags and
    metrics for those who search. Needs `pip install huggingface_hub`, and a token that may write.

    Args:
        folder: of the preset, or its name.
        handle: "hf://owner/name"; the repository is made where there is none.
        private: whether a repository that is made is seen by its owner alone.

    Returns:
        The handle of what was uploaded, "hf://owner/name@commit", for `load`.

    Raises:
        pretrained.IntegrityError: if a file of the preset is altered; nothing is uploaded.
        pretrained.PushError: if there is no token, or the hub refuses.
        ValueError, TypeError: if an argument is of another form.
        ImportError: if `huggingface_hub` is not installed.
    """
    roots, tags = registry.preset_folders(), []
    # A preset may be of a method that is not installed here.
    if isinstance(folder, str | Path):
        with suppress(registry.UnknownName):
            entry = registry.get(pretrained.info(str(folder), roots=roots).model)
            tags = [entry.task, *entry.data, *entry.traits]
    return pretrained.push(folder, handle, private=private, tags=tags, roots=roots)


def _check_config(method: str, config: dict, where: str) -> None:
    """Checks that a configuration is one of a method's, before anything is built by it.

    Raises:
        pretrained.ManifestError: if not; the message begins with `where`.
    """
    found = arguments(registry.get(method).target)
    known = None if found is None else {argument.name: argument for argument in found}
    for name, value in config.items():
        if known is not None and name not in known:
            raise pretrained.ManifestError(f"{where} has {name!r}, which {method!r} does not take")
        wanted = [("Any", ())] if known is None else kinds(known[name])
        if not fits(wanted, value):
            raise pretrained.ManifestError(
                f"{where}.{name} is {reprlib.repr(value)}, expected {expected(wanted)} of a "
                "sensible size"
            )
        # A part of a chain.
        if isinstance(value, dict) and value.keys() == {"method", "config"}:
            _check_config(value["method"], value["config"], f"{where}.{name}.config")


def _chained(names: str, config: dict):
    """The methods or presets `a+b+...`, one after the other."""
    from zoo.registration.chain import Chain

    parts = names.split("+")
    wanted = [_own_arguments(part, config) for part in parts]
    unknown = sorted(set(config) - {name for each in wanted for name in each[1]})
    if unknown:
        raise TypeError(f"none of {parts} has the arguments {unknown}.")
    models: list = [None] * len(parts)
    dims = {}
    for number, (part, (own, _)) in enumerate(zip(parts, wanted, strict=True)):
        if is_preset(part):
            models[number] = load(part, **own)
            # A method has the dimension of the presets that it goes with.
            dims = {"dims": models[number].dims}
    for number, (part, (own, _)) in enumerate(zip(parts, wanted, strict=True)):
        if models[number] is None:
            models[number] = create(part, **dims | own)
    chain = models[0]
    for model in models[1:]:
        chain = Chain(chain, model)
        chain.compile()
    return chain


def _own_arguments(part: str, config: dict) -> tuple[dict, set[str]]:
    """The arguments of one part of a chain, and the names under which they were given."""
    own, used, known = {}, set(), set()
    if not is_preset(part):
        found = arguments(registry.get(part).target)
        known = {argument.name for argument in found or ()}
    for name, value in config.items():
        if name.startswith(f"{part}."):
            own[name.removeprefix(f"{part}.")] = value
        elif name in known and f"{part}.{name}" not in config:
            own[name] = value
        else:
            continue
        used.add(name)
    return own, used


def _load_keras_file(path: Path):
    """Imports the class that a `.keras` file needs, which Keras itself only does for its own."""
    if not path.is_file():
        raise FileNotFoundError(f"source: no file {str(path)!r}.")
    from zoo.ops.stored import check_archive

    # Keras packs nothing, so that a file that does grows by a little at most.
    check_archive(path, MOST_PACKED + 20 * path.stat().st_size, "source")
    try:
        with zipfile.ZipFile(path) as archive:
            class_name = json.loads(archive.read("config.json"))["class_name"]
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"source: {path.name!r} is not a Keras model file: {error}") from error
    for entry in registry.find():
        if not entry.error and entry.where.endswith(f":{class_name}"):
            entry.load()

    import keras

    return keras.saving.load_model(path)
