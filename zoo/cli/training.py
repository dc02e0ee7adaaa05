"""`zoo train`: surfaces from scans, registration networks from pairs or folders of images."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
from pathlib import Path

from zoo.api import info, is_preset
from zoo.cli.arguments import has_argument, parts, settings
from zoo.cli.shared import (
    add_seed,
    add_setting,
    check_folder,
    check_numbers,
    command,
    entry_of,
    load_keras,
    model_of,
    place,
    require_task,
    source,
)

# Only for networks that are trained on pairs.
PAIR_OPTIONS = ("batch_size", "shape", "align", "validation", "labels")
FITTED_TO_EACH = "model: {!r} is fitted to each pair: use zoo register."

EPOCHS = 20  # of a registration, when none are given


def add_parsers(commands):
    """`train`."""
    sub = command(
        commands,
        "train",
        train,
        "fit a surface to a scan, or train a registration network on pairs",
        json_option=False,
    )
    sub.set_defaults(resumes=True)
    sub.add_argument("model", help="a method ('igr') or a preset to start from ('igr.bunny')")
    sub.add_argument(
        "data",
        type=source,
        help="a scan; for a registration a .csv of pairs with the columns fixed, moving and "
        "optional companions, a folder of images of which all pairs are taken, or a folder of "
        "clouds, each of which is learned from with deformed copies of itself",
    )
    sub.add_argument("--out", type=place, required=True, help="the preset folder to write")
    sub.add_argument("--epochs", type=int, help="20, of igr 6, when left out")
    sub.add_argument(
        "--steps-per-epoch",
        type=int,
        help="100 for a scan, once through all pairs for a registration, when left out",
    )
    sub.add_argument(
        "--learning-rate",
        type=float,
        help="start of a cosine decay; when left out 1e-3 for a registration, for a scan what the "
        "method has, or 2e-3",
    )
    add_seed(sub)
    add_setting(sub)
    sub.add_argument(
        "--loss-weight",
        action="append",
        default=[],
        metavar="TERM=NUMBER",
        help="the weight of a term of the loss (may be repeated)",
    )
    sub.add_argument("--overwrite", action="store_true", help="replace an existing preset")
    pairs = sub.add_argument_group("for registration networks")
    pairs.add_argument("--batch-size", type=int, help="pairs of a step; 1 when left out")
    pairs.add_argument(
        "--shape",
        type=_shape,
        metavar="NxN",
        help="crop or pad all pairs to so many voxels, such as 160x192",
    )
    pairs.add_argument(
        "--align",
        choices=("world", "centre"),
        help="'centre' brings the middles of images together that share no frame",
    )
    pairs.add_argument(
        "--validation",
        type=_share_or_place,
        metavar="SHARE_OR_DATA",
        help="share of the subjects to hold out, such as 0.2, or a second .csv or folder",
    )
    pairs.add_argument(
        "--labels",
        type=source,
        help="folder of label images to learn from, of the same names as the images",
    )


def train(options):
    _check_out(options.out, options.overwrite)
    check_numbers(options)
    weights = dict(_loss_weight(text) for text in options.loss_weight)
    config = settings(options.model, options.set)
    if len(parts(options.model)) > 1:
        raise ValueError(f"model: train the parts of {options.model!r} one by one.")
    entry = entry_of(options.model)
    task = "registration" if entry is not None and entry.task == "registration" else "surface"
    if entry is None and (options.data.is_dir() or options.data.suffix.lower() == ".csv"):
        task = "registration"
    require_task(options.model, task)
    if task == "registration":
        _train_registration(options, config, weights, entry)
    else:
        _train_surface(options, config, weights)


def _train_surface(options, config: dict, weights: dict):
    import zoo

    given = [name for name in PAIR_OPTIONS if getattr(options, name) is not None]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} is for registrations, not for scans.")
    scan = zoo.Scan.read(options.data)
    keras = load_keras()
    keras.utils.set_random_seed(options.seed)
    model = model_of(options.model, config, scan.dims)
    steps, optimizer = options.steps_per_epoch or 100, model.default_optimizer()
    if options.epochs is None:
        options.epochs = model.usual_epochs
    own = optimizer.get_config()
    rate = options.learning_rate
    if rate is None:
        rate = own["learning_rate"] if isinstance(own["learning_rate"], float) else 2e-3
    decay = keras.optimizers.schedules.CosineDecay(rate, options.epochs * steps, alpha=1e-3)
    optimizer = type(optimizer).from_config(own | {"learning_rate": decay})
    model.compile(optimizer, loss_weights=model.loss_weights | weights)
    _run(
        model,
        scan,
        options,
        _backup_folder(options, [scan.points, scan.normals, scan.weights]),
        {"steps_per_epoch": steps, "seed": options.seed},
        options.epochs * steps,
        summary=f"{options.model} fitted to {options.data.name}.",
        source=options.data.name,
    )


def _train_registration(options, config: dict, weights: dict, entry):
    if entry is not None and "per-instance" in entry.traits:
        raise ValueError(FITTED_TO_EACH.format(entry.name))
    _check_pairs("data", options.data)
    if isinstance(options.validation, Path):
        _check_pairs("--validation", options.validation)
    if options.labels is not None and not options.labels.is_dir():
        raise NotADirectoryError(f"--labels: no folder {str(options.labels)!r}.")
    if options.labels is not None and entry is not None and not has_argument(entry.name, "labels"):
        raise ValueError(f"--labels: {entry.name!r} does not learn from labels.")
    if options.epochs is None:
        options.epochs = EPOCHS
    keras = load_keras()
    from zoo.cli.training_pairs import read_training_pairs

    keras.utils.set_random_seed(options.seed)
    pairs = read_training_pairs(options)
    if options.labels is not None:
        config = _learning_from_labels(options.model, config, pairs.label_values)
        weights = {"labels": 1.0} | weights
    model = model_of(options.model, config, pairs.first.rank)
    if model.needs_fit:
        raise ValueError(FITTED_TO_EACH.format(options.model))
    model.prepare(pairs.first)  # checks that it is of the model's rank and channels
    if not pairs.first.is_images:
        for batches in filter(None, (pairs.training, pairs.validation)):
            batches.points = model.points
    steps = options.epochs * len(pairs.training)
    optimizer = model.default_optimizer()
    decay = keras.optimizers.schedules.CosineDecay(options.learning_rate or 1e-3, steps, alpha=0.01)
    optimizer = type(optimizer).from_config(optimizer.get_config() | {"learning_rate": decay})
    model.compile(optimizer, loss_weights=model.loss_weights | weights)
    _run(
        model,
        pairs.training,
        options,
        _backup_folder(options, [_facts(path) for path in pairs.files]),
        {"validation_data": pairs.validation},
        steps,
        summary=f"{options.model} trained on {options.data.name}.",
        source=f"{options.data.name}, {pairs.amount}",
    )


def _run(model, data, options, backup: Path, fit: dict, steps: int, summary: str, source: str):
    """Trains, or goes on where the same command was interrupted, and writes the preset.

    Args:
        model: compiled.
        data: for its `fit`.
        options: of the command.
        backup: the folder of the state after each epoch.
        fit: further arguments of `fit`.
        steps: of the whole training.
        summary: for the card.
        source: what the data are.
    """
    import keras

    training = {"data": source, "script": "zoo train", "seed": options.seed, "steps": steps}
    facts = {"overwrite": options.overwrite, "summary": summary, "training": training}
    model.check_preset(options.out, **facts)
    # Deleted only when the preset is whole on disk: a full one must not cost the training.
    restore = keras.callbacks.BackupAndRestore(backup, delete_checkpoint=False)
    callbacks = [restore, keras.callbacks.TerminateOnNaN()]
    losses = model.fit(data, epochs=options.epochs, callbacks=callbacks, **fit).history.get("loss")
    if losses and not math.isfinite(losses[-1]):
        # The same command would go on from there, to no better end.
        shutil.rmtree(backup, ignore_errors=True)
        raise ValueError(
            f"the training has diverged: its loss is {losses[-1]}. Nothing is written; try a "
            "smaller --learning-rate."
        )
    try:
        folder = model.save_preset(options.out, **facts)
    except OSError as error:
        raise OSError(
            f"{error}; the training is kept, and the same command writes it"
            f"{'' if options.overwrite else ', also with --overwrite'}."
        ) from error
    shutil.rmtree(backup, ignore_errors=True)
    print(f"{folder}: load it with zoo.load({str(folder)!r})")


def _learning_from_labels(name: str, config: dict, values) -> dict:
    """The configuration with the label values, unless it names some already."""
    if not values:
        raise ValueError("--labels: the label images hold nothing but 0.")
    stored = {}
    if is_preset(name) and not name.endswith(".keras"):
        stored = info(name).config
    return config if stored.get("labels") else {"labels": list(values)} | config


def _check_out(out: Path, overwrite: bool):
    """Checks all that can be known now about the preset that is written in the end."""
    import pretrained

    check_folder(out, overwrite, empty_is_free=False)
    pretrained.check_tag(out.name, "--out")
    if len(os.fsencode(out.name)) > pretrained.LONGEST_NAME:
        raise ValueError(f"--out: the name may have {pretrained.LONGEST_NAME} bytes.")
    replaceable = not out.exists() or (
        out.is_dir() and (not any(out.iterdir()) or (out / "preset.json").is_file())
    )
    if not replaceable:
        raise FileExistsError(f"--out: {out} is no preset; it is not replaced.")


def _check_pairs(argument: str, path: Path):
    if not path.exists():
        raise FileNotFoundError(f"{argument}: no file or folder {str(path)!r}.")
    if not path.is_dir() and path.suffix.lower() != ".csv":
        raise ValueError(
            f"{argument}: a registration is trained on a .csv of pairs or a folder of images, not "
            f"on {path.name!r}."
        )


def _loss_weight(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not name or not 0 <= weight < math.inf:
        raise ValueError(f"--loss-weight needs TERM=NUMBER, not negative, not {text!r}.")
    return name, weight


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(each) for each in text.lower().replace(",", "x").split("x"))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"must be sizes such as 160x192, not {text!r}")
    return sizes


def _share_or_place(text: str) -> float | Path:
    try:
        share = float(text)
    except ValueError:
        return source(text)
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"must be a share between 0 and 1, or data, not {text!r}")
    return share


def _facts(path: Path) -> bytes:
    """What tells whether a file is still the same, without reading it."""
    status = path.stat()
    return json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns]).encode()


def _backup_folder(options, content: list) -> Path:
    """Where the state of a training is kept: one folder for the same options and content.

    Args:
        options: of the command.
        content: arrays, None or bytes that stand for the data.
    """
    import numpy as np

    import pretrained

    words = {
        name: str(value)
        for name, value in vars(options).items()
        if name not in ("run", "resumes", "data", "overwrite")
    }
    words["out"] = str(options.out.resolve())
    if options.model.endswith(".keras"):
        content = [*content, _facts(Path(options.model))]
    elif is_preset(options.model):
        words["start"] = info(options.model).manifest  # with the hashes of its weights
    key = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    for each in content:
        if each is None:
            each = b"none"
        key.update(each if isinstance(each, bytes) else np.ascontiguousarray(each).tobytes())
    return pretrained.home() / "interrupted" / key.hexdigest()[:16]
