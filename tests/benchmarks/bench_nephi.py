"""NePhi on generated lungs beside other methods: error, overlap, folds, memory, time.

    python tests/benchmarks/bench_nephi.py [--sizes 32 48 64] [--seeds 0 1] [--preset NAME]
        [--json FILE] [--figure FILE]
    python tests/benchmarks/bench_nephi.py --jacobians

The lungs are those of `zoo.data.lungs`, without masks; nothing has been fitted to the seeds below
100. Every registration has a process of its own, whose peak memory is given beyond what it held
when everything was imported and the pair generated, in MiB; seconds are those of the registration,
with construction and compilation. `nephi, one pair` finds maps and code of a pair from nothing;
with a preset there are `nephi`, the network alone, and `nephi, 50 steps` of `fit(pair)` after it.
Demons and B-splines are SimpleITK's with the settings of bench_deformable.py, `dirvnet` is the
descent of its columns "ours" and "ours, fit". All results are measured alike: mean error of 100
landmarks in mm, mean Dice of five lobes, percentage of the voxels where the map folds.

`--jacobians` compares the exact derivatives that travel with the points to nested automatic
differentiation (TensorFlow): both with the gradient of the consistency to all weights, in the
plane and in space, for the published network.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

METHODS = ("nephi, one pair", "nephi", "nephi, 50 steps", "dirvnet", "dirvnet, fit")
PEERS = ("demons", "B-spline")
COLUMNS = ("tre_mm", "dice", "folds_percent", "peak_mib", "seconds")
PROBES, BATCH = 500, 2


def registered(method: str, pair, preset: str | None):
    """The transform that a method finds, and the seconds that it takes."""
    import keras
    from bench_affine import Case
    from bench_deformable import with_bspline, with_demons, with_dirvnet

    import zoo
    from zoo.transform import Affine

    keras.utils.set_random_seed(0)
    case, start = Case(pair, "ncc", "mean"), Affine.identity(3, pair.fixed.grid)
    if method == "demons":
        return with_demons(case, start, "diffeomorphic")
    if method == "B-spline":
        return with_bspline(case, start)
    if method.startswith("dirvnet"):
        found = with_dirvnet(case, start)
        plain, fitted = found["ours"], found["ours, fit"]
        return plain if method == "dirvnet" else (fitted[0], plain[1] + fitted[1])
    begin = time.perf_counter()
    if method == "nephi, one pair":
        model = zoo.create("nephi", encoder=False)
        model.fit(pair, verbose=0)
    else:
        model = zoo.load(preset)
        if method.endswith("steps"):
            model.fit(pair, epochs=5, steps_per_epoch=10, verbose=0)
    return model.transform(pair), time.perf_counter() - begin


def peak() -> float:
    """The most memory that this process has held, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(method: str, seed: int, size: int, preset: str | None) -> dict:
    """A row of the table, made in this process."""
    import bench_deformable  # noqa: F401  (imports all that takes memory)

    from zoo.data.lungs import lung_case
    from zoo.registration import measure
    from zoo.transform import Affine

    pair = lung_case(seed, size).pair(masks=False)
    row = {"method": method, "seed": seed, "size": size}
    if method == "initial":
        measured = measure(Affine.identity(3, pair.fixed.grid), pair)
        return row | {name: measured[name] for name in ("tre_mm", "dice")}
    before = peak()
    transform, seconds = registered(method, pair, preset)
    held = peak() - before
    measured = measure(transform, pair)
    row |= {name: measured[name] for name in ("tre_mm", "dice", "folds_percent")}
    return row | {"peak_mib": held, "seconds": seconds}


def table(options) -> list[dict]:
    """All rows, each from a process of its own."""
    methods = [*(m for m in METHODS if options.preset or m not in METHODS[1:3]), *PEERS]
    rows = []
    print("| method | voxels | seed | " + " | ".join(COLUMNS) + " |\n" + "|---" * 8 + "|")
    for size in options.sizes:
        for seed in options.seeds:
            for method in ("initial", *methods):
                words = ["--one", method, "--sizes", str(size), "--seeds", str(seed)]
                words += ["--preset", options.preset] if options.preset else []
                done = subprocess.run(
                    [sys.executable, __file__, *words],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                row = json.loads(done.stdout.splitlines()[-1])
                cells = [f"{row[name]:.3g}" if name in row else "" for name in COLUMNS]
                print(f"| {method} | {size}^3 | {seed} | {' | '.join(cells)} |", flush=True)
                rows.append(row)
    return rows


def draw(rows: list[dict], path: Path) -> None:
    """Error and peak memory by size, a line for each method."""
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    sizes = sorted({row["size"] for row in rows})
    for axis, name, label in zip(
        axes, ("tre_mm", "peak_mib"), ("landmark error, mm", "peak memory, MiB"), strict=True
    ):
        for method in dict.fromkeys(row["method"] for row in rows if name in row):
            means = [
                np.mean([r[name] for r in rows if (r["method"], r["size"]) == (method, size)])
                for size in sizes
            ]
            axis.plot(sizes, means, marker="o", label=method)
        axis.set(xlabel="voxels along an axis", ylabel=label, ylim=(0, None))
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def jacobians() -> None:
    """Seconds of the consistency and its gradient, by travelling tangents and by nested tapes."""
    import keras
    import numpy as np
    import tensorflow as tf

    from zoo.layers.coded_map import TwoWayMaps

    for dims in (2, 3):
        keras.utils.set_random_seed(0)
        maps = TwoWayMaps(dims)
        maps.build()
        random = np.random.default_rng(0)
        for each in (*maps.forwards, *maps.backwards):
            last = each.network.linear[-1].kernel
            last.assign(1e-3 * random.normal(size=last.shape))
        codes = [
            (
                tf.constant(random.normal(size=(BATCH, 32)), tf.float32),
                tf.constant(random.normal(size=(BATCH, *(12,) * dims, 32)), tf.float32),
            )
        ]
        points = tf.constant(random.uniform(-0.9, 0.9, (1, PROBES, dims)), tf.float32)
        identity = tf.eye(dims)

        def travelling(points=points, codes=codes, maps=maps, identity=identity):
            tangents = tf.broadcast_to(identity, (1, PROBES, *identity.shape))
            ends, turned = maps.trace(points, tangents, codes)
            turned = maps.trace(ends, turned, codes, back=True)[1]
            return tf.reduce_mean(tf.square(turned - identity))

        def nested(points=points, codes=codes, maps=maps, identity=identity):
            spread = tf.repeat(points, BATCH, axis=0)
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                tape.watch(spread)
                ends = maps(maps(spread, codes), codes, back=True)
                parts = tf.unstack(ends, axis=-1)
            rows = [tape.gradient(part, spread) for part in parts]
            turned = tf.stack(rows, axis=-1)
            return tf.reduce_mean(tf.square(turned - identity))

        found = {}
        for name, loss in (("travelling", travelling), ("nested", nested)):

            @tf.function(autograph=False)
            def step(loss=loss, maps=maps):
                with tf.GradientTape() as tape:
                    value = loss()
                return value, tape.gradient(value, maps.trainable_variables)

            value, _ = step()
            times = []
            for _ in range(10):
                begin = time.perf_counter()
                step()
                times.append(time.perf_counter() - begin)
            found[name] = float(value), float(np.median(times))
        (first, quick), (second, slow) = found["travelling"], found["nested"]
        print(
            f"{dims}D, {PROBES} points, batch {BATCH}: travelling {1000 * quick:.0f} ms, nested "
            f"{1000 * slow:.0f} ms, {slow / quick:.1f} times; values {first:.6f}, {second:.6f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 48, 64])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--preset", help="a trained network, such as nephi.lungs3d")
    parser.add_argument("--json", type=Path, help="where the rows are written")
    parser.add_argument("--figure", type=Path, help="where the figure is written")
    parser.add_argument("--jacobians", action="store_true", help="time derivatives instead")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.jacobians:
        return jacobians()
    if options.one:
        row = one(options.one, options.seeds[0], options.sizes[0], options.preset)
        return print(json.dumps(row))
    rows = table(options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
