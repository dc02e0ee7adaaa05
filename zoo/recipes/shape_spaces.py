"""Recipes of families of shapes: learned from some scans, measured on others, whole and in part."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial

from zoo.recipes.skeleton import Job, make_preset, rows
from zoo.recipes.surfaces import sampling_floor

TASK = "surface"
RESOLUTION, SAMPLES = 128, 100_000  # of the meshes that are measured
STRIP = 5  # shapes of the picture
MEASURED = ("chamfer", "hausdorff", "normal_consistency", "surface_residual")


def front(scan):
    """The points of a scan that face along z."""
    return scan.subset(scan.normals[:, 2] > 0)


def space_preset(
    recipe: str,
    *,
    scan_of: Callable,
    seeds: Sequence[int],
    test_seeds: Sequence[int],
    config: dict,
    steps: int,
    points: int = 6000,
    search: dict | None = None,
    argument: tuple[str, str] | None = None,
    part: tuple[str, Callable] = ("the front", front),
    open_scans: bool = False,
    method: str = "igr_space",
    seed: int = 0,
    **facts,
):
    """Learns a family of shapes, measures on others what a code tells of them, writes the preset.

    Measured are scans of the shapes held out, whole and only in part, against other points of the
    same shapes; beside the training shape that is closest, and what as many points of the true mesh
    would score.

    Args:
        recipe: `__file__` of the `train.py`; the preset is written to its folder by default.
        scan_of: makes the mesh of a seed, a `zoo.Scan` with faces; with an `argument`, of a seed
            and that path.
        seeds: of the members; anything that tells them apart.
        test_seeds: of the shapes that are held out, at least two; the picture shows the way from
            the first to the second.
        config: constructor arguments without `members`.
        steps: of the training.
        points: of each scan, spread evenly over its mesh.
        search: arguments of `encode`, which finds the codes of the shapes held out.
        argument: name and help of a path that the command line takes, such as a file of shapes.
        part: what is scanned in part: in words, and what cuts it out of a scan.
        open_scans: the shapes have holes, and meshes are trimmed there.
        method: name of the entry.
        seed: of weights and batches.
        **facts: further keys of the manifest: `data` (its name), `licence`, `summary`, `notes`,
            `default`.
    """
    data = facts.pop("data")

    def begin(arguments) -> Job:
        import zoo

        make = scan_of
        if argument is not None:
            make = partial(scan_of, path=getattr(arguments, argument[0]))
        model = zoo.create(method, members=len(seeds), **config)
        test = [make(each) for each in test_seeds]
        scans = [sampled(mesh, points, 1) for mesh in test]

        def draw(path):
            from zoo.view.surfaces import surface_figure

            ends = [model.encode(scan, **(search or {})) for scan in scans[:2]]
            strip = model.interpolate(*ends, STRIP, RESOLUTION)
            names = [f"{round(100 * k / (STRIP - 1))} %" for k in range(STRIP)]
            surface_figure(dict(zip(names, strip, strict=True)), path)

        return Job(
            model,
            [sampled(make(each), points, 0) for each in seeds],
            source=f"{len(seeds)} {data}, {points} points of each with normals",
            steps=steps,
            metrics=lambda: _measured(model, test, scans, search or {}, part, open_scans, data),
            draw=draw,
            fit={
                "epochs": max(1, steps // 100),
                "steps_per_epoch": min(steps, 100),
                "seed": seed,
            },
        )

    make_preset(recipe, begin, facts, seed=seed, argument=argument)


def sampled(mesh, count: int, seed: int):
    """Points of a mesh, spread evenly, with the normals of their faces.

    Args:
        mesh: a `zoo.Scan` with faces.
        count: of the points.
        seed: of where they lie.
    """
    import trimesh

    import zoo

    solid = trimesh.Trimesh(mesh.points, mesh.faces, process=False)
    points, faces = trimesh.sample.sample_surface(solid, count, seed=seed)
    return zoo.Scan(points, solid.face_normals[faces], name=mesh.name)


def _measured(
    model, meshes: Sequence, scans: Sequence, search: dict, part, open_scans: bool, data: str
) -> list[dict]:
    """Means over shapes that were held out, by protocol, as rows of the manifest."""
    import numpy as np

    data, (words, cut) = f"{len(meshes)} {data}, unseen", part
    found: dict[str, list[dict]] = {}
    for mesh, scan in zip(meshes, scans, strict=True):
        truth = sampled(mesh, len(scan), 2)
        closest = min(range(model.members), key=lambda k: model.residual_of(scan, k))
        for protocol, code in (
            ("held out shapes, from a scan", model.encode(scan, **search)),
            (f"held out shapes, from a scan of {words}", model.encode(cut(scan), **search)),
            ("held out shapes: the closest training shape", closest),
        ):
            results = _evaluated(model.decode(code), truth, truth if open_scans else None)
            found.setdefault(protocol, []).append({name: results[name] for name in MEASURED})
        floor = sampling_floor(mesh, truth, model.frame)
        found.setdefault("sampling floor: the true mesh in place of ours", []).append(floor)
    metrics = []
    for protocol, each in found.items():
        means = {name: float(np.mean([row[name] for row in each])) for name in each[0]}
        metrics += rows(means, data, protocol, TASK)
    return metrics


def _evaluated(model, truth, trim) -> dict:
    with warnings.catch_warnings():
        # What is doubtful of a shape shows in the numbers.
        warnings.simplefilter("ignore", UserWarning)
        return model.evaluate(truth, resolution=RESOLUTION, samples=SAMPLES, trim=trim)
