"""Recipes of surfaces: a signed distance fitted to a scan, measured on points held out."""

from __future__ import annotations

from zoo.recipes.skeleton import Job, make_preset, rows

PAPER_STEPS = 100_000


def surface_preset(
    recipe: str,
    *,
    config: dict,
    steps: int,
    learning_rate: float | None = None,
    scan=None,
    seed: int = 0,
    open_scan: bool = False,
    preview_turn: float = 0.0,
    z_up: bool = False,
    method: str = "igr",
    **facts,
):
    """Trains a surface on 75 % of the points of a scan, measures it on the rest, writes the preset.

    The command line of a recipe: the scan's file (unless the recipe generates its scan), `--out`,
    and `--paper` for the authors' network and schedule, which wants an accelerator. Interrupted
    training goes on from its last epoch when the same command is given again.

    Args:
        recipe: `__file__` of the `train.py`; the preset is written to its folder by default.
        config: constructor arguments.
        steps: training steps.
        learning_rate: at the start of a cosine decay to a thousandth of it; None is the method's
            own optimiser and decay.
        scan: a `zoo.Scan` where the recipe generates one.
        seed: of weights and samples.
        open_scan: the scan has holes; the trimmed mesh is measured too.
        preview_turn: degrees about the vertical, for a scan that looks away from the viewer.
        z_up: the vertical of the scan is its third axis, not its second.
        method: name of the entry.
        **facts: further keys of the manifest: `data` (its name), `licence`, `summary`, `notes`,
            `default`.
    """
    data = facts.pop("data")

    def begin(arguments) -> Job:
        import keras

        import zoo

        whole = zoo.Scan.read(arguments.scan) if scan is None else scan
        training, test = whole.split(test=0.25, seed=313)
        total = PAPER_STEPS if arguments.paper else steps
        if arguments.paper:
            from zoo.models.igr import AUTHORS

            model = zoo.create(method, **AUTHORS)
        else:
            model = zoo.create(method, **config)
        if not arguments.paper and learning_rate is not None:
            decay = keras.optimizers.schedules.CosineDecay(learning_rate, total, alpha=1e-3)
            model.compile(keras.optimizers.Adam(decay))
        return Job(
            model,
            training,
            source=f"{data}, {len(training)} points",
            steps=total,
            metrics=lambda: _measured(model, whole, training, test, data, open_scan),
            draw=lambda path: _draw(model, arguments.out.name, preview_turn, z_up, path),
            fit={
                "epochs": max(1, total // 100),
                "steps_per_epoch": min(total, 100),
                "seed": seed,
            },
        )

    argument = None if scan is not None else ("scan", "the file to train on")
    flags = {"paper": f"the authors' network and schedule, {PAPER_STEPS:,} steps"}
    make_preset(recipe, begin, facts, seed=seed, argument=argument, flags=flags)


def _measured(model, whole, training, test, data: str, open_scan: bool) -> list[dict]:
    protocol = "25 % of the points held out"
    metrics = rows(model.evaluate(test), data, protocol, "surface")
    if open_scan:
        protocol = "25 % held out, mesh trimmed at the holes"
        trimmed = rows(model.evaluate(test, trim=training), data, protocol, "surface")
        metrics += [row for row in trimmed if row["name"] in ("chamfer", "hausdorff")]
    protocol = "sampling floor: the true mesh in place of ours"
    return metrics + rows(sampling_floor(whole, test, whole.frame), data, protocol, "surface")


def sampling_floor(whole, test, frame) -> dict:
    """The held-out distances of the true mesh itself, which the number of samples limits.

    Args:
        whole: the true shape; one without faces has no floor.
        test: points of it.
        frame: centre and scale in which distances are measured.
    """
    if whole.faces is None:
        return {}
    import trimesh

    from zoo.metrics.surface import held_out_distances

    mesh = trimesh.Trimesh(whole.points, whole.faces, process=False)
    points, _ = trimesh.sample.sample_surface(mesh, len(test), seed=412)
    return held_out_distances(points, test.points, *frame)


def _draw(model, name: str, turn: float, z_up: bool, path):
    import numpy as np
    import trimesh

    from zoo.view.surfaces import surface_figure

    mesh = model.mesh(160)
    if z_up:
        mesh.apply_transform(trimesh.transformations.rotation_matrix(-np.pi / 2, [1, 0, 0]))
    turned = trimesh.transformations.rotation_matrix(np.deg2rad(turn), [0, 1, 0])
    mesh.apply_transform(turned)
    surface_figure({name: mesh}, path)
