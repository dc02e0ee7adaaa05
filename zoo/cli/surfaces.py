"""`zoo mesh | evaluate | train | demo`: surfaces."""

from __future__ import annotations

import hashlib
import json

from zoo.cli.registrations import evaluate_pairs
from zoo.cli.shared import assignment, is_preset, print_numbers


def mesh(options):
    import zoo
    from zoo.data.scan import MESH_SUFFIXES, write_mesh

    if options.out.suffix.lower() not in MESH_SUFFIXES:
        raise ValueError(
            f"--out must end in one of {', '.join(MESH_SUFFIXES)}, not {options.out.name!r}."
        )
    trim = None if options.trim is None else zoo.Scan.read(options.trim)
    mesh = zoo.load(options.preset).mesh(options.resolution, trim=trim)
    write_mesh(mesh, options.out)
    print(f"{options.out}: {len(mesh.vertices)} vertices, {len(mesh.faces)} faces")


def evaluate(options):
    import zoo

    if options.truth.suffix.lower() == ".csv":
        evaluate_pairs(options)
        return
    scan = None if options.scan is None else zoo.Scan.read(options.scan)
    truth = zoo.Scan.read(options.truth)
    results = zoo.load(options.model).evaluate(truth, scan=scan, resolution=options.resolution)
    print_numbers(results, options.json)


def train(options):
    import keras

    import pretrained
    import zoo

    if options.out.exists() and not options.overwrite:
        raise FileExistsError(f"--out: {options.out} exists; pass --overwrite to replace it.")
    scan = zoo.Scan.read(options.scan)
    keras.utils.set_random_seed(options.seed)
    config = dict(assignment(text) for text in options.set)
    if is_preset(options.model):
        if config:
            raise ValueError("--set configures a fresh method; a preset has its configuration.")
        model = zoo.load(options.model)
    else:
        model = zoo.create(options.model, **({"dims": scan.dims} | config))
    steps = options.epochs * options.steps_per_epoch
    decay = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps, alpha=1e-3)
    model.compile(keras.optimizers.Adam(decay))
    # An interrupted run resumes from here when the same command is given again.
    words = {name: str(value) for name, value in vars(options).items() if name != "run"}
    key = hashlib.sha256(json.dumps([words, str(options.out.resolve())]).encode()).hexdigest()
    backup = pretrained.home() / "interrupted" / key[:16]
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
    from zoo.demo import run

    run(options.out)
