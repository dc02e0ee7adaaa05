"""Recipes of networks for clouds: trained on generated lungs, measured on lungs never seen."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence

from zoo.recipes.skeleton import Job, make_preset, rows

TASK = "registration"
REFINED = 3  # of the test lungs that divroc registers, too
COMPARED, FEWER = 20, 1024  # lungs that the settings are trained on, and their points
LEVELS = ("E", "H")


def cloud_network_preset(
    recipe: str,
    *,
    method: str,
    config: Mapping,
    cases: int,
    steps: int,
    learning_rate: float,
    batch_size: int,
    points: int,
    level: str = "H",
    setting_steps: int = 0,
    seed: int = 0,
    **facts,
):
    """Trains a network on the true flow of generated lungs, measures it on others, writes a preset.

    Measured are the ten lungs that nothing is trained on, and the first of them also with `divroc`
    behind the network, and by `divroc` alone. With `setting_steps`, networks are also trained anew
    for so many steps in each setting, see `settings`.

    Args:
        recipe: `__file__` of the `train.py`; the preset is written to its folder by default.
        method: name of the entry.
        config: constructor arguments.
        cases: lungs that are trained on.
        steps: of the training.
        learning_rate: at the start of a cosine decay to a fiftieth.
        batch_size: pairs in a step.
        points: of each cloud in training.
        level: of the lungs in training, see `zoo.data.vessels.vessel_case`.
        setting_steps: 0 leaves the comparison of settings out.
        seed: of weights and batches.
        **facts: further keys of the manifest: `licence`, `summary`, `notes`, `default`.
    """

    def begin(arguments) -> Job:
        import keras

        import zoo
        from zoo.data.vessels import TEST_SEEDS, TRAIN_SEEDS, VesselPairs, vessel_pair
        from zoo.view.clouds import cloud_registration_figure

        lungs = VesselPairs(TRAIN_SEEDS[:cases], points, batch_size, level, cases, seed)
        if steps % len(lungs):
            raise ValueError(f"steps must be a multiple of the {len(lungs)} batches, not {steps}.")
        model = zoo.create(method, seed=seed, **config)
        _compile(model, learning_rate, steps)
        test = {each: [vessel_pair(k, each, model.points) for k in TEST_SEEDS] for each in LEVELS}

        def metrics() -> list[dict]:
            found = []
            for each, pairs in test.items():
                data = f"breathing vessels, level {each}, seeds {TEST_SEEDS[0]}-{TEST_SEEDS[-1]}"
                whole = f"{model.points} points, 300 landmarks held out"
                alone, first = each_measured(model, pairs), pairs[:REFINED]
                found += rows(means(alone), data, f"{whole}: the network alone", TASK)
                chain = zoo.create("chain", first=model, second="divroc")
                for name, each_found in (
                    ("the network alone", alone[:REFINED]),
                    ("the network, then divroc", each_measured(chain, first)),
                    ("divroc alone", each_measured(zoo.create("divroc"), first)),
                ):
                    protocol = f"{whole}, the first {REFINED}: {name}"
                    found += rows(means(each_found), data, protocol, TASK)
            if setting_steps:
                keras.utils.set_random_seed(seed)
                found += settings(lungs, model, setting_steps, learning_rate, test["H"])
            return found

        pair = test["E"][0]
        return Job(
            model,
            lungs,
            source=f"{cases} lungs of zoo.data.vessels, level {level}, {points} points of each "
            "cloud, with their true flow",
            steps=steps,
            metrics=metrics,
            draw=lambda path: cloud_registration_figure(pair, path, model.transform(pair)),
            fit={"epochs": steps // len(lungs)},
        )

    make_preset(recipe, begin, facts, seed=seed)


def settings(lungs, trained, steps: int, learning_rate: float, test: Sequence) -> list[dict]:
    """The network, trained anew in each setting for the same number of steps.

    On the true flow; on clouds and deformed copies of them; without truth by three measures of
    likeness; and by a teacher, from where the training on deformed copies had ended. All with fewer
    lungs and points than the network itself, of which only the first test lungs are measured.

    Args:
        lungs: `VesselPairs`, of which some cases are used.
        trained: the network, whose configuration the others have.
        steps: of each training.
        learning_rate: see `cloud_network_preset`; of the teacher a tenth.
        test: pairs.
    """
    import zoo
    from zoo.data.cloud_draws import CloudDraws, DeformedClouds
    from zoo.data.pair import Pair
    from zoo.data.scan import Scan
    from zoo.data.vessels import TEST_SEEDS, VesselPairs, vessel_case

    cases, draws = lungs.cases[:COMPARED], {"points": FEWER, "seed": lungs.seed}
    known = VesselPairs(cases, batch_size=1, level=lungs.level, keep=COMPARED, **draws)
    clouds = [vessel_case(case, lungs.level) for case in cases]
    pairs = [Pair(Scan(each.exhale.points), Scan(each.inhale.points)) for each in clouds]
    alone = CloudDraws(pairs, steps=len(known), **draws)
    copies = DeformedClouds([pair.moving for pair in pairs], steps=len(known), **draws)
    data = f"breathing vessels, level {LEVELS[-1]}, seeds {TEST_SEEDS[0]}-{TEST_SEEDS[-1]}"
    found, kept = [], None
    for name, options, batches in (
        ("untrained", {}, None),
        ("true flow", {}, known),
        ("deformed copies", {}, copies),
        ("without truth, chamfer", {"data": "chamfer"}, alone),
        ("without truth, density", {"data": "density"}, alone),
        ("without truth, both", {"data": "both"}, alone),
        ("a teacher, after deformed copies", {"teacher": 0.99}, alone),
    ):
        model = zoo.create(trained.entry().name, **{**trained.get_preset_config(), **options})
        if model.taught is not None:
            for network in (model.network, model.taught):
                network.set_weights(kept)
        _compile(model, learning_rate / (1 if model.taught is None else 10), steps)
        if batches is not None:
            model.fit(batches, epochs=max(1, steps // len(batches)), verbose=0)
        if batches is copies:
            kept = model.network.get_weights()
        protocol = (
            f"{model.points} points, 300 landmarks held out, the first {REFINED}: {steps} steps "
            f"with {FEWER} points, {name}"
        )
        found += rows(means(each_measured(model, test[:REFINED])), data, protocol, TASK)
    return found


def each_measured(model, pairs: Sequence) -> list[dict[str, float]]:
    """Of each of some pairs with landmarks what `zoo.registration.measure` says, and the seconds.

    Args:
        model: a registration; fitted to each pair where it has to be.
        pairs: of clouds.
    """
    from zoo.registration.measure import Measured

    found = []
    for pair in pairs:
        begin = time.perf_counter()
        with warnings.catch_warnings():
            # What is doubtful of a pair shows in the numbers.
            warnings.simplefilter("ignore", UserWarning)
            if model.needs_fit:
                model.fit(pair, verbose=0)
            transform = model.transform(pair)
        seconds = time.perf_counter() - begin
        results = Measured(transform, pair).results()
        found.append({**results, "seconds": seconds})
    return found


def means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number."""
    return {name: sum(row[name] for row in found) / len(found) for name in found[0]}


def _compile(model, learning_rate: float, steps: int) -> None:
    import keras

    decay = keras.optimizers.schedules.CosineDecay(learning_rate, steps, alpha=0.02)
    model.compile(keras.optimizers.Adam(decay, global_clipnorm=1.0))
