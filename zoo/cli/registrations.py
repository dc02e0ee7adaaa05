"""`zoo register | warp | jacobian | view`, and `evaluate` on a list of pairs."""

from __future__ import annotations

import json
from pathlib import Path

from zoo.cli.shared import assignment, is_preset, print_numbers

COMPANIONS = [
    f"{side}_{what}" for side in ("fixed", "moving") for what in ("mask", "labels", "landmarks")
]


def register(options):
    import keras

    from zoo.data.scan import write_mesh
    from zoo.io import written_whole
    from zoo.io.images import PICTURE_SUFFIXES, image_suffix

    pair = _read_pair(options)
    keras.utils.set_random_seed(options.seed)
    model = _registration(options.method, pair.rank, options.set)
    _fit_if_needed(model, pair, options.method, options.epochs)
    transform, results = model.transform(pair), model.evaluate(pair)
    options.out.mkdir(parents=True, exist_ok=True)
    transform.save(options.out / "transform.h5")
    if pair.is_images:
        # A picture stays a picture.
        suffix = ".png" if image_suffix(options.moving) in PICTURE_SUFFIXES else ".nii.gz"
        transform.warp(pair.moving, pair.fixed.grid).write(options.out / f"moved{suffix}")
        transform.save(options.out / "warp.nii.gz", pair.fixed.grid)
        _draw(pair, transform, options.out / "registration.png")
    else:
        import trimesh

        points = transform.move(pair.moving.points)
        if pair.moving.faces is None:
            moved = trimesh.PointCloud(points)
        else:
            moved = trimesh.Trimesh(points, pair.moving.faces, process=False)
        write_mesh(moved, options.out / "moved.ply")
    with written_whole(options.out / "results.json") as partial:
        partial.write_text(json.dumps(results, indent=2) + "\n")
    print_numbers(results, options.json)


def warp(options):
    import numpy as np

    import zoo
    from zoo.data.image import Image
    from zoo.data.scan import MESH_SUFFIXES, read_mesh, write_mesh
    from zoo.io.images import image_suffix
    from zoo.io.landmarks import read_landmarks, write_landmarks

    transform = zoo.Transform.load(options.transform)
    if image_suffix(options.moving):
        grid = None if options.like is None else Image.read(options.like).grid
        order = "nearest" if options.nearest else "linear"
        transform.warp(Image.read(options.moving), grid, order).write(options.out)
    elif options.moving.suffix.lower() in MESH_SUFFIXES:
        mesh = read_mesh(options.moving)
        mesh.vertices = transform.move(np.asarray(mesh.vertices))
        write_mesh(mesh, options.out)
    else:
        write_landmarks(options.out, transform.move(read_landmarks(options.moving)))
    if options.json:
        print(json.dumps({"out": str(options.out)}))
    else:
        print(options.out)


def jacobian(options):
    import zoo
    from zoo.data.image import Image
    from zoo.metrics.registration import fold_percentage

    transform = zoo.Transform.load(options.transform)
    grid = transform.fixed_grid if options.like is None else Image.read(options.like).grid
    determinant = transform.jacobian_determinant(grid)
    Image(determinant[..., None], grid).write(options.out)
    numbers = {
        "folds_percent": fold_percentage(determinant),
        "smallest": float(determinant.min()),
        "largest": float(determinant.max()),
    }
    print_numbers(numbers, options.json)


def view(options):
    import zoo
    from zoo.transform import Affine

    pair = _read_pair(options)
    if not pair.is_images:
        from zoo.view.figures import cloud_figure

        transform = None if options.transform is None else zoo.Transform.load(options.transform)
        cloud_figure(pair, options.out, transform)
    elif options.transform is None:
        _draw(pair, Affine.identity(pair.rank, pair.fixed.grid), options.out)
    else:
        _draw(pair, zoo.Transform.load(options.transform), options.out)
    if options.json:
        print(json.dumps({"out": str(options.out)}))
    else:
        print(options.out)


def evaluate_pairs(options):
    from zoo.data.pairs import read_table

    rows = []
    for pair in read_table(options.truth):
        model = _registration(options.model, pair.rank, options.set)
        _fit_if_needed(model, pair, options.model)
        rows.append({"pair": pair.name} | model.evaluate(pair))
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(row.pop("pair"))
        print_numbers(row, False)
    names = [name for name in rows[0] if all(name in row for row in rows)]
    print(f"mean of {len(rows)} pairs")
    print_numbers({name: sum(row[name] for row in rows) / len(rows) for name in names}, False)


def _registration(name: str, rank: int, settings: list[str]):
    """A preset, or a fresh model of the pair's dimension."""
    import zoo

    config = dict(assignment(text) for text in settings)
    if is_preset(name):
        if config:
            raise ValueError("--set configures a fresh method; a preset has its configuration.")
        return zoo.load(name)
    return zoo.create(name, **({"dims": rank} | config))


def _fit_if_needed(model, pair, name: str, epochs: int | None = None):
    """Optimises for the pair: always for per-instance methods, for others when asked."""
    import registry

    per_instance = not is_preset(name) and "per-instance" in registry.get(name).traits
    if per_instance or epochs:
        model.fit(pair, verbose=0, **({"epochs": epochs} if epochs else {}))


def _read_pair(options):
    import zoo

    companions = {name: getattr(options, name) for name in COMPANIONS}
    return zoo.Pair.read(options.fixed, options.moving, **companions)


def _draw(pair, transform, path: Path):
    from zoo.view.registration import registration_figure

    grid = pair.fixed.grid
    pulled = None if pair.fixed_landmarks is None else transform.pull(pair.fixed_landmarks)
    registration_figure(
        pair.fixed,
        pair.moving,
        transform.warp(pair.moving, grid),
        path,
        displacement=transform.displacement(grid),
        determinant=transform.jacobian_determinant(grid),
        fixed_landmarks=pair.fixed_landmarks,
        moving_landmarks=pair.moving_landmarks,
        pulled_landmarks=pulled,
    )
