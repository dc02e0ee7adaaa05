"""Recipes of flows: one fitted to a pair of generated figures, and one learned from a cohort."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence

from zoo.recipes.skeleton import Job, make_preset, rows

TASK = "registration"
EPOCHS = 20  # of a cohort's training, between which its state is kept


def flow_preset(
    recipe: str,
    *,
    pair: dict,
    config: dict | None = None,
    method: str = "resnet_lddmm",
    **facts,
):
    """Registers two generated figures, measures the flow, writes the preset.

    Args:
        recipe: `__file__` of the `train.py`; the preset is written to its folder by default.
        pair: arguments of `zoo.data.figures.figure_pair`.
        config: constructor arguments; None for the defaults.
        method: name of the entry.
        **facts: further keys of the manifest: `licence`, `summary`, `notes`, `default`.
    """

    def begin(arguments) -> Job:
        import zoo
        from zoo.data.figures import figure_pair

        figures, model = figure_pair(**pair), zoo.create(method, **(config or {}))
        words = ", ".join(f"{name}={value!r}" for name, value in pair.items())
        data = f"figure_pair({words}) of zoo.data.figures"

        return Job(
            model,
            figures,
            source=f"{data}, {len(figures.moving)} vertices of each, their partners not told",
            steps=model.steps,
            metrics=lambda: rows(
                measured(model, [figures]), data, "partners held out, height 2, this preset", TASK
            ),
            draw=lambda path: _draw(model, figures, path),
            resume=False,
        )

    make_preset(recipe, begin, facts)


def cohort_preset(
    recipe: str,
    *,
    seeds: Sequence[int],
    test_seeds: Sequence[int],
    config: dict,
    steps: int,
    learning_rate: float,
    batch_size: int = 4,
    cells: int = 40,
    whole: dict | None = None,
    method: str = "resnet_lddmm",
    seed: int = 0,
    **facts,
):
    """Learns the flow of a cohort of generated figures, and measures what it saves on others.

    Args:
        recipe: `__file__` of the `train.py`; the preset is written to its folder by default.
        seeds: of the members, see `zoo.data.figures.random_figures`.
        test_seeds: of pairs that are only measured.
        config: constructor arguments without `members`; its `steps` are those of a fit to a pair.
        steps: of the training.
        learning_rate: at the start of a cosine decay to a twentieth.
        batch_size: pairs in a step.
        cells: of the figures.
        whole: constructor arguments of the fit from zero that the others are compared with; None
            for the defaults.
        method: name of the entry.
        seed: of weights and batches.
        **facts: further keys of the manifest: `licence`, `summary`, `notes`, `default`.
    """

    def begin(arguments) -> Job:
        import keras

        import zoo
        from zoo.data.figures import random_figures

        model = zoo.create(method, members=len(seeds), seed=seed, **config)
        decay = keras.optimizers.schedules.CosineDecay(learning_rate, steps, alpha=0.05)
        # A fit to a pair has too few steps to repay XLA, this training has not.
        model.compile(keras.optimizers.Adam(decay, global_clipnorm=1.0), jit_compile=True)
        test = [random_figures(each, cells) for each in test_seeds]

        def metrics() -> list[dict]:
            # Fits to single pairs have the rate of a fit, not where the training ended.
            model.compile(model.default_optimizer())
            found, data = [], f"{len(test)} random_figures of zoo.data.figures, unseen"
            alone = {key: value for key, value in config.items() if key != "codes"}
            for name, fitted in (
                (f"{model.steps} steps from the cohort", model),
                (f"{model.steps} steps from zero", zoo.create(method, **alone)),
                ("default, from zero", zoo.create(method, **(whole or {}))),
            ):
                protocol = f"held out pairs, height 2: {name}"
                found += rows(measured(fitted, test, fit=True), data, protocol, TASK)
            return found

        def draw(path):
            model.fit(test[0], verbose=0)
            _draw(model, test[0], path)

        if steps % EPOCHS:
            raise ValueError(f"steps must be a multiple of {EPOCHS}, not {steps}.")
        return Job(
            model,
            [random_figures(each, cells) for each in seeds],
            source=f"{len(seeds)} random_figures of zoo.data.figures, their partners not told",
            steps=steps,
            metrics=metrics,
            draw=draw,
            fit={
                "epochs": EPOCHS,
                "steps_per_epoch": steps // EPOCHS,
                "batch_size": batch_size,
            },
        )

    make_preset(recipe, begin, facts, seed=seed)


def measured(model, pairs: Iterable, fit: bool = False) -> dict[str, float]:
    """Means over pairs of figures, whose partners their labels tell.

    Args:
        model: of flows.
        pairs: of `zoo.data.figures`.
        fit: fit the model to each pair first; else it has been.

    Returns:
        `error` of all vertices, `initial_error`, `folds_percent` of determinants at vertices that
        are not positive, and with `fit` `seconds` of one.
    """
    import numpy as np

    from zoo.metrics.registration import fold_percentage

    found = []
    for pair in pairs:
        begin = time.perf_counter()
        if fit:
            with warnings.catch_warnings():
                # What a fit says of a pair is in the numbers.
                warnings.simplefilter("ignore", UserWarning)
                model.fit(pair, verbose=0)
        seconds = time.perf_counter() - begin
        start = pair.moving.points
        truth = pair.fixed.points[np.argsort(pair.fixed_labels)]
        moved = model.transform(pair).move(start)
        found.append(
            {
                "error": np.linalg.norm(moved - truth, axis=1).mean(),
                "initial_error": np.linalg.norm(start - truth, axis=1).mean(),
                "folds_percent": fold_percentage(np.linalg.det(model.jacobian(start))),
            }
            | ({"seconds": seconds} if fit else {})
        )
    return {name: float(np.mean([row[name] for row in found])) for name in found[0]}


def _draw(model, pair, path):
    """The picture of the path of a pair that the model was fitted to."""
    from zoo.view.paths import path_figure

    moving, fixed = pair.moving, pair.fixed
    path_figure(model.trajectory(moving), path, moving.faces, fixed.points, fixed.faces)
