"""Recipes of registration networks: trained on many pairs, measured on pairs never seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zoo.recipes.skeleton import Job, make_preset, rows


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
    refined: dict | None = None,
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
        refined: arguments of `fit(pair)`, after which the test pairs are measured once more; None
            leaves that out.
        **facts: further keys of the manifest: `data` (its name), `protocol`, `licence`, `summary`,
            `notes`, `default`.
    """
    data, protocol = facts.pop("data"), facts.pop("protocol")

    def begin(arguments) -> Job:
        import keras

        import zoo

        training, test = datasets(arguments.data) if folder else datasets()
        if steps % len(training):
            raise ValueError(
                f"steps must be a multiple of the {len(training)} batches, not {steps}."
            )
        model = zoo.create(method, **config)
        untrained = measure_all(model, test)
        decay = keras.optimizers.schedules.CosineDecay(learning_rate, steps, alpha=0.01)
        optimizer = keras.optimizers.Adam(decay, global_clipnorm=1.0)
        model.compile(optimizer, loss_weights=loss_weights)

        def metrics() -> list[dict]:
            trained = rows(measure_all(model, test), data, protocol, "registration")
            before = f"{protocol}, before training"
            found = trained + rows(untrained, data, before, "registration")
            if refined is None:
                return found
            fitted, told = measure_all(model, test, refined), f"{protocol}, each after fit(pair)"
            return found + rows(fitted, data, told, "registration")

        return Job(
            model,
            training,
            source=data,
            steps=steps,
            metrics=metrics,
            draw=lambda path: _draw(model, test, path, facts["summary"]),
            fit={"epochs": steps // len(training)},
        )

    argument = ("data", "the folder of the data") if folder else None
    make_preset(recipe, begin, facts, seed=seed, argument=argument)


def hippocampus_datasets(folder: Path, held_out: int = 40, validation: int = 20):
    """Hippocampi of the Medical Segmentation Decathlon, for `registration_preset`.

    The cases are the left and right halves of fewer heads, in an unknown order that is likely to
    keep those of one head close. So they are split by blocks of their numbers: the last one is
    only tested on, and between it and the training cases lie those for choosing settings.

    Args:
        folder: holds `images/` and `labels/`.
        held_out: cases that are only tested on, those of the highest numbers.
        validation: cases before them that are not trained on, for choosing settings.

    Returns:
        Batches of two augmented pairs of the other cases, and 40 random pairs of the cases held
        out; all centred, 48 x 64 x 48 voxels, with labels.
    """
    import numpy as np

    from zoo.data.augmentation import Augmented
    from zoo.data.image import Image
    from zoo.data.pair import Pair
    from zoo.data.pairs import PairDataset, all_pairs

    def case(name):
        labels = Image.read(folder / "labels" / name).array[..., 0]
        return Image.read(folder / "images" / name).centred(), labels.astype(np.int32)

    names = sorted(path.name for path in (folder / "images").glob("*.nii.gz"))
    test = [case(name) for name in names[-held_out:]]
    training = [case(name) for name in names[: -held_out - validation]]
    images, labels = zip(*training, strict=True)
    random = np.random.default_rng(1)
    drawn = [random.choice(held_out, 2, replace=False) for _ in range(40)]
    pairs = [
        Pair(fixed, moving, fixed_labels=fixed_labels, moving_labels=moving_labels)
        for (fixed, fixed_labels), (moving, moving_labels) in (
            (test[first], test[second]) for first, second in drawn
        )
    ]
    frame = {"shape": (48, 64, 48), "align": "centre"}
    batches = all_pairs(images, labels, batch_size=2, steps=50, **frame)
    return Augmented(batches), PairDataset(pairs, **frame).pairs


def brain_slices_datasets(folder: Path, batch_size: int, steps: int, held_out: int = 12):
    """Axial brain slices of the ANTs tutorial, for `registration_preset`.

    Args:
        folder: holds `axial_slices.npz`.
        batch_size: pairs of a batch.
        steps: batches of an epoch.
        held_out: subjects that are only tested on, the last ones.

    Returns:
        Batches of random pairs of the other subjects, without labels, and two pairs of every
        subject held out, with labels.
    """
    import numpy as np

    from zoo.data.image import Image
    from zoo.data.pair import Pair
    from zoo.data.pairs import all_pairs
    from zoo.geometry import Grid

    with np.load(folder / "axial_slices.npz") as stored:
        images, labels = stored["images"].astype(np.float32), stored["labels"].astype(np.int32)
    images = [Image(image, Grid(image.shape)) for image in images]
    held = list(zip(images[-held_out:], labels[-held_out:], strict=True))
    test = [
        Pair(fixed, moving, fixed_labels=fixed_labels, moving_labels=moving_labels)
        for number, (fixed, fixed_labels) in enumerate(held)
        for moving, moving_labels in (held[(number + 1) % held_out], held[(number + 5) % held_out])
    ]
    return all_pairs(images[:-held_out], batch_size=batch_size, steps=steps), test


def measure_all(model, test, fit: dict | None = None) -> dict[str, float]:
    """Means over test pairs, or over batches with known displacements.

    Args:
        model: a registration model.
        test: a list of `zoo.Pair` (see `zoo.registration.measure`), or a data set that yields
            `({"fixed", "moving"}, displacement)`.
        fit: arguments of `model.fit(pair)`, which then comes before each pair is measured.

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
            if fit is not None:
                model.fit(item, **{"verbose": 0, **fit})
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


def _draw(model, test, path: Path, title: str):
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
