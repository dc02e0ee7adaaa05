"""`zoo mesh | evaluate | train | demo`: surfaces."""

from __future__ import annotations

import hashlib
import json
import sys

from zoo.cli.registrations import evaluate_pairs
from zoo.cli.shared import (
    check_folder,
    create,
    is_preset,
    load_keras,
    print_numbers,
    require_task,
    settings,
)


def mesh(options):
    import zoo
    from zoo.data.scan import MESH_SUFFIXES, write_mesh

    if options.out.suffix.lower() not in MESH_SUFFIXES:
        raise ValueError(
            f"--out must end in one of {', '.join(MESH_SUFFIXES)}, not {options.out.name!r}."
        )
    require_task(options.preset, "surface")
    name = _resolved(options.preset)
    trim = None if options.trim is None else zoo.Scan.read(options.trim)
    load_keras()
    mesh = zoo.load(name).mesh(options.resolution, trim=trim)
    write_mesh(mesh, options.out)
    print(f"{options.out}: {len(mesh.vertices)} vertices, {len(mesh.faces)} faces")


def evaluate(options):
    import zoo

    if options.truth.suffix.lower() == ".csv":
        evaluate_pairs(options)
        return
    if options.set:
        raise ValueError("--set configures a fresh method; a scan is evaluated with a preset.")
    if options.samples < 1:
        raise ValueError(f"--samples must be at least 1, not {options.samples}.")
    require_task(options.model, "surface")
    name = _resolved(options.model)
    scan = None if options.scan is None else zoo.Scan.read(options.scan)
    truth = zoo.Scan.read(options.truth)
    load_keras()
    results = zoo.load(name).evaluate(
        truth, scan=scan, resolution=options.resolution, samples=options.samples
    )
    print_numbers(results, options.json)


def train(options):
    import zoo

    check_folder(options.out, options.overwrite, empty_is_free=False)
    for name in ("epochs", "steps_per_epoch"):
        if getattr(options, name) < 1:
            raise ValueError(
                f"--{name.replace('_', '-')} must be at least 1, not {getattr(options, name)}."
            )
    config = settings(options.model, options.set)
    require_task(options.model, "surface")
    scan = zoo.Scan.read(options.scan)
    keras = load_keras()
    keras.utils.set_random_seed(options.seed)
    if is_preset(options.model):
        model = zoo.load(options.model)
    else:
        model = create(options.model, config, scan.dims)
    steps = options.epochs * options.steps_per_epoch
    decay = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps, alpha=1e-3)
    model.compile(keras.optimizers.Adam(decay))
    # An interrupted run resumes from here when the same command is given again.
    backup = _backup_folder(options, scan)
    model.fit(
        scan,
        epochs=options.epochs,
        steps_per_epoch=options.steps_per_epoch,
        seed=options.seed,
        callbacks=[keras.callbacks.BackupAndRestore(backup)],
    )
    facts = {
        "summary": f"{options.model} fitted to {options.scan.name}.",
        "training": {
            "data": options.scan.name,
            "script": "zoo train",
            "seed": options.seed,
            "steps": steps,
        },
    }
    folder = model.save_preset(options.out, overwrite=options.overwrite, **facts)
    print(f"{folder}: load it with zoo.load({str(folder)!r})")


def demo(options):
    load_keras()
    from zoo.demo import run

    run(options.out)


def _resolved(name: str) -> str:
    """The name of a preset; says so where a method stands for its default one."""
    from zoo.api import info

    if is_preset(name):
        return name
    resolved = info(name).name
    print(f"zoo: {name} stands for its preset {resolved}", file=sys.stderr)
    return resolved


def _backup_folder(options, scan):
    """Where the state of a training is kept: one folder for the same options and content."""
    import numpy as np

    import pretrained
    from zoo.api import info

    words = {
        name: str(value) for name, value in vars(options).items() if name not in ("run", "scan")
    }
    words["out"] = str(options.out.resolve())
    if is_preset(options.model) and not options.model.endswith(".keras"):
        words["start"] = info(options.model).manifest  # with the hashes of its weights
    key = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    for array in (scan.points, scan.normals):
        key.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return pretrained.home() / "interrupted" / key.hexdigest()[:16]
