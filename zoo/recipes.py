"""Training recipes shared by presets: what the `train.py` beside the weights calls."""

from __future__ import annotations

import argparse
import os
import platform
import time
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
    from zoo.view.figures import surface_figure

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
    try:
        model.save_preset(
            arguments.out,
            overwrite=True,
            files={"train.py": Path(recipe), "preview.png": preview},
            metrics=metrics,
            training={
                "data": f"{data}, {len(training)} points",
                "script": "train.py",
                "seed": seed,
                "steps": steps,
                "versions": {name: version(name) for name in ("keras", "numpy")}
                | {keras.backend.backend(): version(keras.backend.backend())},
                "minutes": round(minutes, 1),
                "hardware": _hardware(),
            },
            **facts,
        )
    finally:
        preview.unlink()
    print(zoo.describe(str(arguments.out)))


UNITS = {
    "chamfer": "longest side = 2",
    "hausdorff": "longest side = 2",
    "benchmark_chamfer": "of the scan",
    "benchmark_hausdorff": "of the scan",
    "normal_consistency": "cosine",
    "surface_residual": "longest side = 2",
    "eikonal_residual": "1",
}


def _hardware() -> str:
    import keras

    devices = keras.distribution.list_devices()
    if any(not device.startswith("cpu") for device in devices):
        return ", ".join(devices)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def _rows(results: dict, data: str, protocol: str) -> list[dict]:
    return [
        {
            "data": data,
            "protocol": protocol,
            "name": name,
            "value": float(f"{value:.4g}"),
            "unit": UNITS[name],
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
