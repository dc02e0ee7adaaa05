"""Recipes of clouds: a generated lung registered, and what the benchmark has measured."""

from __future__ import annotations

import json

from zoo.recipes.skeleton import Job, make_preset, rows

BENCHMARK_METRICS = ("tre_mm", "worst_tre_mm", "folds_percent", "seconds")


def cloud_preset(recipe: str, *, seed: int, level: str, method: str = "divroc", **facts):
    """Registers a generated lung, measures it by its landmarks, writes the preset.

    The command line of a recipe: the file that `tests/benchmarks/bench_divroc.py --json` writes,
    whose tables `accuracy` and `ablation` become metrics, and `--out`.

    Args:
        recipe: `__file__` of the `train.py`; the preset is written to its folder by default.
        seed: of the lung, see `zoo.data.vessels`.
        level: "E", "H" or "P".
        method: name of the entry.
        **facts: further keys of the manifest: `licence`, `summary`, `notes`, `default`.
    """

    def begin(arguments) -> Job:
        import zoo
        from zoo.data.vessels import vessel_pair
        from zoo.view.clouds import cloud_registration_figure

        tables = json.loads(arguments.rows.read_text())
        pair = vessel_pair(seed, level)
        model = zoo.create(method)
        data = f"breathing vessels, level {level}, seed {seed} (zoo.data.vessels)"

        def metrics() -> list[dict]:
            protocol = "300 landmarks held out, this preset"
            found = rows(model.evaluate(pair), data, protocol, "registration")
            for name in ("accuracy", "ablation"):
                found += benchmark_rows(name, tables[name])
            return found

        return Job(
            model,
            pair,
            source=f"{data}, {len(pair.moving)} points of each cloud",
            steps=sum(stage.steps for stage in model.schedule),
            metrics=metrics,
            draw=lambda path: cloud_registration_figure(pair, path, model.transform(pair)),
            resume=False,
        )

    make_preset(recipe, begin, facts, argument=("rows", "what bench_divroc.py --json has written"))


def benchmark_rows(table: str, measured: list[dict]) -> list[dict]:
    """The rows of a table of `bench_divroc.py` as metrics.

    Args:
        table: its name.
        measured: its rows; one that took no time, of no registration, has errors alone.
    """
    metrics = []
    for row in measured:
        level, _, change = row["name"].rpartition(" | ")
        results = {name: row[name] for name in BENCHMARK_METRICS if row["seconds"] or "tre" in name}
        data = f"breathing vessels, level {level or 'H'}, {row['cases']} lungs (zoo.data.vessels)"
        protocol = f"{table}, landmarks held out: {change}"
        metrics += rows(results, data, protocol, "registration")
    return metrics
