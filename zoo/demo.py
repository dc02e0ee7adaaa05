"""The tour behind `zoo demo`: a surface is loaded, measured, fine-tuned; two images are aligned."""

from __future__ import annotations

import json
import time
from pathlib import Path


def run(folder: Path) -> dict:
    """Runs the tour and writes meshes, a picture and the figures.

    It needs no data and no network: the preset was trained on a generated scan, and the shape it
    is fine-tuned on is generated too.

    Args:
        folder: where to write.

    Returns:
        The figures, which are also in `figures.json`.
    """
    import keras

    import zoo
    from zoo.data.scan import write_mesh
    from zoo.data.shapes import torus_knot
    from zoo.io import written_whole
    from zoo.view.surfaces import surface_figure

    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()

    def step(text):
        print(f"[{time.perf_counter() - start:5.1f} s] {text}", flush=True)

    step("methods: " + ", ".join(zoo.find()))
    step("presets: " + ", ".join(zoo.find("*", pretrained=True)))
    keras.utils.set_random_seed(0)
    model = zoo.load("igr.knot")
    step(f"loaded igr.knot: {model.count_params():,} parameters")
    before = model.mesh(resolution=192)
    write_mesh(before, folder / "knot.ply")
    step(f"knot.ply: {len(before.faces):,} faces")
    figures = {"pretrained": model.evaluate(torus_knot(10_000, seed=1))}
    step(_told(figures["pretrained"]))

    step("fine-tuning on another shape, a (3, 2) knot with a thinner tube")
    scan, truth = (torus_knot(count, p=3, q=2, tube=0.2, seed=seed) for count, seed in SCANS)
    figures["before fine-tuning"] = model.evaluate(truth)
    step(_told(figures["before fine-tuning"]))
    epochs, steps = 6, 100
    decay = keras.optimizers.schedules.CosineDecay(2e-3, epochs * steps, alpha=1e-2)
    model.compile(keras.optimizers.Adam(decay))
    model.fit(scan, epochs=epochs, steps_per_epoch=steps)
    after = model.mesh(resolution=192)
    write_mesh(after, folder / "fine_tuned.ply")
    figures["after fine-tuning"] = model.evaluate(truth)
    step(_told(figures["after fine-tuning"]))
    model.save_preset(folder / "preset", overwrite=True, summary="The demonstration's result.")

    renderer = surface_figure(
        {"igr.knot": before, "fine-tuned": after}, folder / "surfaces.png", points=scan.points
    )
    step(f"surfaces.png, drawn by {renderer}")
    figures |= _register(folder, step)
    with written_whole(folder / "figures.json") as partial:
        partial.write_text(json.dumps(figures, indent=2) + "\n")
    step(f"everything is in {folder}/")
    return figures


def _register(folder: Path, step) -> dict:
    """Aligns two generated images, and shows and saves the result."""
    import zoo
    from zoo.data.phantoms import phantom_pair
    from zoo.view.images import registration_figure

    pair, _, _ = phantom_pair()
    model = zoo.create("affine", dims=2)
    model.fit(pair, verbose=0)
    transform, results = model.transform(pair), model.evaluate(pair)
    transform.save(folder / "warp.nii.gz")
    moved = transform.warp(pair.moving)
    registration_figure(
        pair.fixed,
        pair.moving,
        moved,
        folder / "registration.png",
        displacement=transform.displacement(),
        fixed_landmarks=pair.fixed_landmarks,
        moving_landmarks=pair.moving_landmarks,
        pulled_landmarks=transform.pull(pair.fixed_landmarks),
    )
    step(
        f"registration.png and warp.nii.gz: landmarks {results['initial_tre_mm']:.2f} mm apart, "
        f"after affine registration {results['tre_mm']:.2f} mm"
    )
    return {"registration": results}


SCANS = ((30_000, 2), (10_000, 3))  # points and seed of the scan and of the truth


def _told(results: dict) -> str:
    return (
        f"Chamfer {results['chamfer']:.4f}, Hausdorff {results['hausdorff']:.4f} (longest side 2)"
    )
