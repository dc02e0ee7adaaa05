"""The skeleton of every recipe: command line, seed, timed training, metrics, picture, preset."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zoo.metrics.units import unit_of

FILES = ("train.py", "preview.png")


@dataclass(frozen=True)
class Job:
    """What a recipe fills in.

    Attributes:
        model: compiled, as it goes into training.
        data: what `fit` takes.
        source: the training data in words.
        steps: of the whole training.
        metrics: measures the trained model: rows of the manifest, see `rows`.
        draw: writes the preview to a path.
        fit: further arguments of `fit`.
        resume: whether an interrupted training goes on from its last epoch when the same command
            is given again.
    """

    model: Any
    data: Any
    source: str
    steps: int
    metrics: Callable[[], list[dict]]
    draw: Callable[[Path], None]
    fit: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = True


def make_preset(
    recipe: str,
    begin: Callable[[argparse.Namespace], Job],
    facts: dict,
    *,
    seed: int = 0,
    argument: tuple[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
):
    """Trains a model by a job, measures and draws it, and writes the preset.

    The command line has the recipe's own argument and flags, and `--out`.

    Args:
        recipe: `__file__` of the `train.py`; the preset is written to its folder by default.
        begin: makes the job, from the arguments of the command line; Keras is seeded before.
        facts: keys of the manifest: `licence`, `summary`, `notes`, `default`.
        seed: of weights and batches.
        argument: name and help of a path that the recipe needs.
        flags: further options by name, with their help.
    """
    import keras

    flags = flags or {}
    parser = argparse.ArgumentParser(description=facts["summary"])
    if argument is not None:
        parser.add_argument(argument[0], type=Path, help=argument[1])
    # A shell leaves the ~ of --out=~/x as it is.
    parser.add_argument(
        "--out",
        type=lambda text: Path(text).expanduser(),
        default=Path(recipe).resolve().parent,
    )
    for name, meaning in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=meaning)
    arguments = parser.parse_args()
    out = arguments.out

    keras.utils.set_random_seed(seed)
    job = begin(arguments)
    # What cannot be written in the end is told now, not after the training.
    job.model.check_preset(out, overwrite=True, files=dict.fromkeys(FILES), **facts)
    out.parent.mkdir(parents=True, exist_ok=True)
    # With other flags it is another training, which must not go on from this one's state.
    given = [name for name in flags if getattr(arguments, name)]
    kept = out.parent / "-".join([f".{out.name}-training", *given])
    minutes = _train(job, kept)
    training = {
        "data": job.source,
        "seed": seed,
        "steps": job.steps,
        "minutes": round(minutes, 1),
    }
    metrics = job.metrics()
    preview = out.parent / f".{out.name}-preview.png"
    job.draw(preview)
    _write(job.model, out, recipe, preview, metrics=metrics, training=training, **facts)
    shutil.rmtree(kept, ignore_errors=True)


def rows(results: Mapping[str, float], data: str, protocol: str, task: str) -> list[dict]:
    """Metrics as rows of the manifest, to four digits.

    Args:
        results: values by name.
        data: what was measured on.
        protocol: how.
        task: of the method, which says what the units are.
    """
    return [
        {
            "data": data,
            "protocol": protocol,
            "name": name,
            "value": float(f"{value:.4g}"),
            "unit": unit_of(name, task),
        }
        for name, value in results.items()
    ]


def _train(job: Job, kept: Path) -> float:
    """Fits the model; the minutes, with those of the interrupted runs before."""
    import keras

    clock = kept / "minutes.json"
    earlier = json.loads(clock.read_text()) if clock.exists() else 0.0
    start = time.perf_counter()

    def minutes() -> float:
        return earlier + (time.perf_counter() - start) / 60

    callbacks = []
    if job.resume:
        callbacks = [
            keras.callbacks.BackupAndRestore(kept, delete_checkpoint=False),
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: clock.write_text(json.dumps(minutes()))
            ),
        ]
    job.model.fit(job.data, callbacks=callbacks, verbose=2, **job.fit)
    return minutes()


def _write(model, folder: Path, recipe: str, preview: Path, training: dict, **facts):
    """Writes the preset with its recipe, and what it was made with; takes the preview along."""
    import keras

    import zoo

    backend = keras.backend.backend()
    training |= {
        "script": "train.py",
        "versions": {name: version(name) for name in ("keras", "numpy", backend)},
        "hardware": _hardware(),
    }
    files = dict(zip(FILES, (Path(recipe), preview), strict=True))
    try:
        model.save_preset(folder, overwrite=True, files=files, training=training, **facts)
    finally:
        preview.unlink()
    print(zoo.describe(str(folder)))


def _hardware() -> str:
    import keras

    devices = keras.distribution.list_devices()
    if any(not device.startswith("cpu") for device in devices):
        return ", ".join(devices)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"
