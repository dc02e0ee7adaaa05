"""Training recipes shared by presets: what the `train.py` beside the weights calls."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path


def surface_preset(
    recipe: str,
    *,
    config: dict,
    steps: int,
    learning_rate: float,
    scan=None,
    seed: int = 0,
    open_scan: bool = False,
    preview_turn: float = 0.0,
    **facts,
):
    """Trains IGR on 75 % of the points of a scan, measures it on the rest, writes the preset.

    The command line of a recipe: the scan's file (unless the recipe generates its scan), `--out`,
    and `--paper` for the authors' network and schedule, which wants an accelerator.

    Args:
        recipe: `__file__` of the `train.py`; the preset is written to its folder by default.
        config: constructor arguments.
        steps: training steps.
        learning_rate: at the start of a cosine decay to a thousandth of it.
        scan: a `zoo.Scan` where the recipe generates one.
        seed: of weights and samples.
        open_scan: the scan has holes; the trimmed mesh is measured too.
        preview_turn: degrees about the y axis, for a scan that looks away from the viewer.
        **facts: further keys of the manifest: `data` (its name), `licence`, `summary`, `notes`,
            `default`.
    """
    import keras
    import numpy as np
    import trimesh

    import zoo
    from zoo.view.surfaces import surface_figure

    parser = argparse.ArgumentParser(description=facts["summary"])
    if scan is None:
        parser.add_argument("scan", type=Path, help="the file to train on")
    parser.add_argument("--out", type=Path, default=Path(recipe).resolve().parent)
    parser.add_argument("--paper", action="store_true", help="8 x 512, 100,000 steps")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(seed)
    whole = zoo.Scan.read(arguments.scan) if scan is None else scan
    training, test = whole.split(test=0.25, seed=313)
    if arguments.paper:
        model, steps = zoo.create("igr"), 100_000
    else:
        model = zoo.create("igr", **config)
        decay = keras.optimizers.schedules.CosineDecay(learning_rate, steps, alpha=1e-3)
        model.compile(keras.optimizers.Adam(decay))
    epochs = max(1, steps // 100)
    start = time.perf_counter()
    model.fit(training, epochs=epochs, steps_per_epoch=min(steps, 100), seed=seed, verbose=2)
    minutes = (time.perf_counter() - start) / 60

    data = facts.pop("data")
    metrics = _rows(model.evaluate(test), data, "25 % of the points held out")
    if open_scan:
        trimmed = _rows(
            model.evaluate(test, trim=training), data, "25 % held out, mesh trimmed at the holes"
        )
        metrics += [row for row in trimmed if row["name"] in ("chamfer", "hausdorff")]
    floor = _sampling_floor(whole, test)
    if floor:
        metrics += _rows(floor, data, "sampling floor: the true mesh in place of ours")
    preview = arguments.out.parent / f".{arguments.out.name}-preview.png"
    preview.parent.mkdir(parents=True, exist_ok=True)
    mesh = model.mesh(160)
    angle = np.deg2rad(preview_turn)
    mesh.apply_transform(trimesh.transformations.rotation_matrix(angle, [0, 1, 0]))
    surface_figure({arguments.out.name: mesh}, preview)
    _write(
        model,
        arguments.out,
        recipe,
        preview,
        metrics=metrics,
        training={
            "data": f"{data}, {len(training)} points",
            "seed": seed,
            "steps": steps,
            "minutes": round(minutes, 1),
        },
        **facts,
    )


def registration_preset(
    recipe: str,
    *,
    method: str,
    config: dict,
    datasets: Callable,
    steps: int,
    learning_rate: float,
    loss_weights: dict | None = None,
    seed: int = 0,
    folder: bool = True,
    **facts,
):
    """Trains a registration network, measures it on pairs it has not seen, writes the preset.

    The command line of a recipe: the folder of the data (unless they are generated), and `--out`.
    Interrupted training goes on from its last epoch when the same command is given again.

    Args:
        recipe: `__file__` of the `train.py`; the preset is written to its folder by default.
        method: name of the entry.
        config: constructor arguments.
        datasets: maps the folder to the training data set, which `fit` takes, and to the test
            pairs: a list of `zoo.Pair`, or a data set that yields displacements.
        steps: training steps.
        learning_rate: at the start of a cosine decay to a hundredth of it.
        loss_weights: of `compile`.
        seed: of weights and batches.
        folder: whether the recipe needs data.
        **facts: further keys of the manifest: `data` (its name), `protocol`, `licence`, `summary`,
            `notes`, `default`.
    """
    import keras

    import zoo

    parser = argparse.ArgumentParser(description=facts["summary"])
    if folder:
        parser.add_argument("data", type=Path, help="the folder of the data")
    parser.add_argument("--out", type=Path, default=Path(recipe).resolve().parent)
    arguments = parser.parse_args()

    keras.utils.set_random_seed(seed)
    training, test = datasets(arguments.data) if folder else datasets()
    if steps % len(training):
        raise ValueError(f"steps must be a multiple of the {len(training)} batches, not {steps}.")
    model = zoo.create(method, **config)
    untrained = measure_all(model, test)
    decay = keras.optimizers.schedules.CosineDecay(learning_rate, steps, alpha=0.01)
    model.compile(keras.optimizers.Adam(decay, global_clipnorm=1.0), loss_weights=loss_weights)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    kept = arguments.out.parent / f".{arguments.out.name}-training"
    minutes = kept / "minutes.json"
    started = time.perf_counter() - 60 * (
        json.loads(minutes.read_text()) if minutes.exists() else 0
    )

    def count(epoch, logs):
        minutes.write_text(json.dumps((time.perf_counter() - started) / 60))

    clock = keras.callbacks.LambdaCallback(on_epoch_end=count)
    restore = keras.callbacks.BackupAndRestore(kept, delete_checkpoint=False)
    model.fit(training, epochs=steps // len(training), callbacks=[restore, clock], verbose=2)

    data, protocol = facts.pop("data"), facts.pop("protocol")
    metrics = _rows(measure_all(model, test), data, protocol, REGISTRATION_UNITS)
    metrics += _rows(untrained, data, f"{protocol}, before training", REGISTRATION_UNITS)
    preview = arguments.out.parent / f".{arguments.out.name}-preview.png"
    _draw_registration(model, test, preview, facts["summary"])
    _write(
        model,
        arguments.out,
        recipe,
        preview,
        metrics=metrics,
        training={
            "data": data,
            "seed": seed,
            "steps": steps,
            "minutes": round(json.loads(minutes.read_text()), 1),
        },
        **facts,
    )
    shutil.rmtree(kept)


def cloud_preset(recipe: str, *, seed: int, level: str, **facts):
    """Registers a generated lung with `divroc`, measures it by its landmarks, writes the preset.

    The command line of a recipe: the file that `tests/benchmarks/bench_divroc.py --json` writes,
    whose tables `accuracy` and `ablation` become metrics, and `--out`.

    Args:
        recipe: `__file__` of the `train.py`; the preset is written to its folder by default.
        seed: of the lung, see `zoo.data.vessels`.
        level: "E", "H" or "P".
        **facts: further keys of the manifest: `licence`, `summary`, `notes`, `default`.
    """
    import keras

    import zoo
    from zoo.data.vessels import vessel_pair
    from zoo.view.clouds import cloud_registration_figure

    parser = argparse.ArgumentParser(description=facts["summary"])
    parser.add_argument("rows", type=Path, help="what bench_divroc.py --json has written")
    parser.add_argument("--out", type=Path, default=Path(recipe).resolve().parent)
    arguments = parser.parse_args()

    rows = json.loads(arguments.rows.read_text())
    keras.utils.set_random_seed(0)
    pair = vessel_pair(seed, level)
    model = zoo.create("divroc")
    start = time.perf_counter()
    model.fit(pair, verbose=2)
    minutes = (time.perf_counter() - start) / 60
    data = f"breathing vessels, level {level}, seed {seed} (zoo.data.vessels)"
    metrics = _rows(
        model.evaluate(pair), data, "300 landmarks held out, this preset", REGISTRATION_UNITS
    )
    for name in ("accuracy", "ablation"):
        metrics += _cloud_rows(name, rows[name])
    preview = arguments.out.parent / f".{arguments.out.name}-preview.png"
    cloud_registration_figure(pair, preview, model.transform(pair))
    _write(
        model,
        arguments.out,
        recipe,
        preview,
        metrics=metrics,
        training={
            "data": f"{data}, {len(pair.moving)} points of each cloud",
            "seed": 0,
            "steps": sum(stage.steps for stage in model.schedule),
            "minutes": round(minutes, 1),
        },
        **facts,
    )


def _cloud_rows(table: str, rows: list[dict]) -> list[dict]:
    """The rows of a table of `bench_divroc.py` as metrics."""
    metrics = []
    for row in rows:
        level, _, change = row["name"].rpartition(" | ")
        measured = {name: row[name] for name in CLOUD_UNITS if row["seconds"] or "tre" in name}
        data = f"breathing vessels, level {level or 'H'}, {row['cases']} lungs (zoo.data.vessels)"
        metrics += _rows(measured, data, f"{table}, landmarks held out: {change}", CLOUD_UNITS)
    return metrics


def hippocampus_datasets(folder: Path, held_out: int = 40, validation: int = 20):
    """Hippocampi of the Medical Segmentation Decathlon, for `registration_preset`.

    Args:
        folder: holds `images/` and `labels/`.
        held_out: cases that are only tested on.
        validation: further cases that are not trained on, for choosing settings.

    Returns:
        Batches of two pairs of the other cases, and 40 random pairs of the cases held out; all
        centred, 48 x 64 x 48 voxels, with labels.
    """
    import numpy as np

    from zoo.data.image import Image
    from zoo.data.pair import Pair
    from zoo.data.pairs import PairDataset, all_pairs

    def case(name):
        labels = Image.read(folder / "labels" / name).array[..., 0]
        return Image.read(folder / "images" / name).centred(), labels.astype(np.int32)

    frame = {"shape": (48, 64, 48), "align": "centre"}
    names = sorted(path.name for path in (folder / "images").glob("*.nii.gz"))
    order = np.random.default_rng(0).permutation(len(names))
    test = [case(names[k]) for k in order[:held_out]]
    training = [case(names[k]) for k in order[held_out + validation :]]
    images, labels = zip(*training, strict=True)
    random = np.random.default_rng(1)
    drawn = [random.choice(held_out, 2, replace=False) for _ in range(40)]
    pairs = [
        Pair(fixed, moving, fixed_labels=fixed_labels, moving_labels=moving_labels)
        for (fixed, fixed_labels), (moving, moving_labels) in (
            (test[first], test[second]) for first, second in drawn
        )
    ]
    batches = all_pairs(images, labels, batch_size=2, steps=50, **frame)
    return batches, PairDataset(pairs, **frame).pairs


def measure_all(model, test) -> dict[str, float]:
    """Means over test pairs, or over batches with known displacements.

    Args:
        model: a registration model.
        test: a list of `zoo.Pair` (see `zoo.registration.measure`), or a data set that yields
            `({"fixed", "moving"}, displacement)`.

    Returns:
        For pairs the means of what `model.evaluate(pair)` returns. Else `epe`, the mean length of
        the error in voxels, `rms_component`, the same over the root of the rank, `intensity`, the
        mean difference of fixed and moved in grey levels of 255, `folds_percent`, and `epe` and
        `intensity` before registration with `initial_`.
    """
    import numpy as np
    from keras import ops

    from zoo.metrics.registration import fold_percentage
    from zoo.ops.derivatives import jacobian_determinant

    rows = []
    for item in test if isinstance(test, list) else (test[k] for k in range(len(test))):
        if not isinstance(item, tuple):
            rows.append(model.evaluate(item))
            continue
        if len(item) != 2:
            raise ValueError("test must be a list of zoo.Pair or yield known displacements.")
        images, known = item
        found = model.predict(images, batch_size=20, verbose=0)
        epe = float(np.linalg.norm(found["displacement"] - known, axis=-1).mean())
        before, after = (
            float(np.abs(images["fixed"] - image).mean()) * 255
            for image in (images["moving"], found["moved"])
        )
        determinant = ops.convert_to_numpy(jacobian_determinant(found["displacement"]))
        rows.append(
            {
                "epe": epe,
                "rms_component": epe / known.shape[-1] ** 0.5,
                "initial_epe": float(np.linalg.norm(known, axis=-1).mean()),
                "intensity": after,
                "initial_intensity": before,
                "folds_percent": fold_percentage(determinant),
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _draw_registration(model, test, path: Path, title: str):
    from zoo.data.image import Image
    from zoo.data.pair import Pair
    from zoo.geometry import Grid
    from zoo.view.images import registration_figure

    item = test[0]
    if isinstance(item, tuple):
        arrays = (item[0][side][0] for side in ("fixed", "moving"))
        item = Pair(*(Image(array, Grid(array.shape[:-1])) for array in arrays))
    transform = model.transform(item)
    registration_figure(
        item.fixed,
        item.moving,
        transform.warp(item.moving, item.fixed.grid),
        path,
        transform.displacement(item.fixed.grid),
        transform.jacobian_determinant(item.fixed.grid),
        title=title,
    )


REGISTRATION_UNITS = {
    "epe": "voxels",
    "rms_component": "voxels",
    "intensity": "of 255",
    "folds_percent": "%",
    "dice": "1",
    "hd95_mm": "mm",
    "sd_log_jacobian": "1",
    "ncc": "1",
    "tre_mm": "mm",
    "median_tre_mm": "mm",
    "median_rtre": "1",
    "chamfer": "world units",
}


CLOUD_UNITS = {"tre_mm": "mm", "worst_tre_mm": "mm", "folds_percent": "%", "seconds": "s"}


SURFACE_UNITS = {
    "chamfer": "longest side = 2",
    "hausdorff": "longest side = 2",
    "benchmark_chamfer": "of the scan",
    "benchmark_hausdorff": "of the scan",
    "normal_consistency": "cosine",
    "surface_residual": "longest side = 2",
    "eikonal_residual": "1",
}


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
    files = {"train.py": Path(recipe), "preview.png": preview}
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


def _rows(results: dict, data: str, protocol: str, units: dict = SURFACE_UNITS) -> list[dict]:
    return [
        {
            "data": data,
            "protocol": protocol,
            "name": name,
            "value": float(f"{value:.4g}"),
            "unit": units[name.removeprefix("initial_")],
        }
        for name, value in results.items()
    ]


def _sampling_floor(whole, test) -> dict:
    """The held-out distances of the true mesh itself, which the number of samples limits."""
    if whole.faces is None:
        return {}
    import trimesh

    from zoo.metrics.surface import held_out_distances

    mesh = trimesh.Trimesh(whole.points, whole.faces, process=False)
    points, _ = trimesh.sample.sample_surface(mesh, len(test), seed=412)
    return held_out_distances(points, test.points, *whole.frame)
