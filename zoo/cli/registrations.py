"""`zoo register | warp | jacobian`, and `evaluate` on a list of pairs."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path

from zoo.cli.arguments import settings
from zoo.cli.paths import remove_path, write_path
from zoo.cli.shared import (
    FAILED,
    add_pair,
    add_seed,
    add_setting,
    check_file,
    check_folder,
    check_numbers,
    command,
    dumps,
    load_keras,
    model_of,
    place,
    print_numbers,
    print_place,
    read_pair,
    require_task,
    source,
)
from zoo.cli.views import draw

# What `zoo register` may write; which of it depends on the pair.
RESULTS = {
    "transform.h5",
    "warp.nii.gz",
    "registration.png",
    "results.json",
    *(f"moved{suffix}" for suffix in (".png", ".nii.gz", ".ply", ".xyz")),
}


def add_parsers(commands):
    """`register`, `warp` and `jacobian`."""
    sub = command(commands, "register", register, "register a moving image or cloud to a fixed one")
    add_pair(sub)
    sub.add_argument(
        "-m",
        "--method",
        default="affine",
        help="a method or preset, or several one after the other, 'affine+divroc'",
    )
    sub.add_argument("--out", type=place, required=True, help="folder for the results")
    sub.add_argument(
        "--start",
        type=source,
        metavar="TRANSFORM",
        help="from where to go on, such as the transform.h5 of an affine alignment; the result "
        "includes it",
    )
    sub.add_argument(
        "--epochs",
        type=int,
        help="of the optimisation for this pair; a learned method only optimises when given this",
    )
    add_seed(sub)
    add_setting(sub)
    sub.add_argument("--overwrite", action="store_true", help="replace existing results")
    sub.add_argument(
        "--strict",
        action="store_true",
        help="exit with status 1 where the result is doubtful; it is written all the same",
    )

    sub = command(
        commands, "warp", warp, "apply a transform to an image, landmarks, a mesh or a cloud"
    )
    sub.add_argument("moving", type=source)
    sub.add_argument(
        "transform", type=source, help="a field or ITK transform, as register writes it"
    )
    sub.add_argument("--out", type=place, required=True)
    sub.add_argument("--like", type=source, help="an image whose grid the result has")
    sub.add_argument("--nearest", action="store_true", help="for labels, which stay integers")
    sub.add_argument(
        "--outside",
        type=float,
        metavar="NUMBER",
        help="value where the moving image does not reach; its minimum, or 0 for labels, when "
        "left out",
    )

    sub = command(
        commands, "jacobian", jacobian, "the Jacobian determinant of a transform as an image"
    )
    sub.add_argument("transform", type=source)
    sub.add_argument("--out", type=place, required=True)
    sub.add_argument("--like", type=source, help="an image whose grid the result has")


def register(options):
    check_folder(options.out, options.overwrite)
    require_task(options.method, "registration")
    config = settings(options.method, options.set)
    check_numbers(options)
    pair = read_pair(options)
    start = None if options.start is None else _read_start(options.start, pair.rank)
    moved = _moved_name(options.moving, pair)
    keras = load_keras()
    from zoo.io import written_whole
    from zoo.io.images import write_field
    from zoo.io.meshes import write_moved
    from zoo.registration import Measured

    keras.utils.set_random_seed(options.seed)
    model = model_of(options.method, config, pair.rank)
    left = pair if start is None else pair.aligned(start)
    _fit_if_needed(model, left, options.epochs)
    transform = model.transform(left)
    if start is not None:
        transform = start @ transform
    measured = Measured(transform, pair)
    quality = model.quality(measured)
    results = measured.results() | quality.numbers | {"doubts": quality.doubts}
    options.out.mkdir(parents=True, exist_ok=True)
    transform.save(options.out / "transform.h5")
    written = {"transform.h5", moved, "registration.png", "results.json"}
    if pair.is_images:
        measured.moved.write(options.out / moved)
        write_field(options.out / "warp.nii.gz", measured.displacement, pair.fixed.grid)
        written.add("warp.nii.gz")
    elif moved == "moved.ply" and options.moving.suffix.lower() in (".ply", ".obj", ".off"):
        write_moved(options.moving, measured.moved_points, options.out / moved)
    else:
        _write_cloud(options.out / moved, measured.moved_points, pair.moving.faces)
    draw(measured, options.out / "registration.png")
    remove_path(options.out)  # Of a run that --overwrite replaces.
    if hasattr(model, "trajectory"):
        results |= write_path(model, left, options.out)
    with written_whole(options.out / "results.json") as partial:
        partial.write_text(dumps(results) + "\n")
    for name in RESULTS - written:
        # Of a run that --overwrite replaces.
        (options.out / name).unlink(missing_ok=True)
    if not options.json:
        del results["doubts"]  # said on standard error
    print_numbers(results, options.json)
    for doubt in quality.doubts:
        warnings.warn(f"doubtful: {doubt}", UserWarning, stacklevel=1)
    return FAILED if options.strict and quality.doubts else None


def warp(options):
    import numpy as np

    import zoo
    from zoo.data.scan import MESH_SUFFIXES, TABLE_SUFFIXES, read_mesh
    from zoo.io.images import image_suffix
    from zoo.io.landmarks import read_named_landmarks, write_landmarks
    from zoo.io.meshes import write_moved

    check_file(options.out)
    transform = zoo.Transform.load(options.transform)
    suffix = options.moving.suffix.lower()
    if image_suffix(options.moving):
        _warp_image(transform, options)
    elif suffix in MESH_SUFFIXES:
        vertices = np.asarray(read_mesh(options.moving).vertices)
        load_keras()
        write_moved(options.moving, transform.move(vertices), options.out)
    elif suffix in TABLE_SUFFIXES or (
        # A .vtk may be a cloud or landmarks: what is to be written decides.
        suffix == ".vtk" and options.out.suffix.lower() in TABLE_SUFFIXES
    ):
        if options.out.suffix.lower() not in TABLE_SUFFIXES:
            raise ValueError(
                f"--out must end in one of {', '.join(TABLE_SUFFIXES)} for a cloud, not "
                f"{options.out.name!r}."
            )
        scan = zoo.Scan.read(options.moving)
        if scan.normals is not None:
            print("zoo: the normals of the cloud are left out", file=sys.stderr)
        load_keras()
        _write_cloud(options.out, transform.move(scan.points))
    else:
        names, points = read_named_landmarks(options.moving)
        write_landmarks(options.out, transform.move(points), names)
    print_place(options)


def jacobian(options):
    import zoo
    from zoo.data.image import Image
    from zoo.io.images import VOLUME_SUFFIXES, image_suffix

    if image_suffix(options.out) not in VOLUME_SUFFIXES:
        raise ValueError(
            f"--out must end in one of {', '.join(VOLUME_SUFFIXES)}, not {options.out.name!r}: "
            "determinants are no grey values."
        )
    check_file(options.out)
    transform = zoo.Transform.load(options.transform)
    grid = _grid(transform, options)
    load_keras()
    from zoo.metrics.registration import fold_percentage

    determinant = transform.jacobian_determinant(grid)
    Image(determinant[..., None], grid).write(options.out)
    numbers = {
        "folds_percent": fold_percentage(determinant),
        "smallest": float(determinant.min()),
        "largest": float(determinant.max()),
    }
    print_numbers(numbers, options.json)


def evaluate_pairs(options):
    from zoo.data.pairs import read_table

    require_task(options.model, "registration")
    config = settings(options.model, options.set)
    pairs = read_table(options.truth)
    load_keras()
    rows = []
    for pair in pairs:
        model = model_of(options.model, config, pair.rank)
        _fit_if_needed(model, pair)
        rows.append({"pair": pair.name} | model.evaluate(pair))
    if options.json:
        print(dumps(rows))
        return
    for row in rows:
        print(row.pop("pair"))
        print_numbers(row, False)
    if len(rows) == 1:
        return
    names = [name for name in rows[0] if all(name in row for row in rows)]
    print(f"mean of {len(rows)} pairs")
    print_numbers({name: _mean(name, [row[name] for row in rows]) for name in names}, False)


def _mean(name: str, values: list[float]) -> float:
    """The mean without NaN, such as the overlap of labels that an image lacks."""
    numbers = [value for value in values if not math.isnan(value)]
    if len(numbers) < len(values):
        left_out = len(values) - len(numbers)
        print(f"zoo: {name} is undefined for {left_out} of {len(values)} pairs", file=sys.stderr)
    return sum(numbers) / len(numbers) if numbers else math.nan


def _read_start(path: Path, rank: int):
    """The transform of `--start`, for pairs of a rank."""
    import numpy as np

    import zoo

    start = zoo.Transform.load(path)
    try:
        start.pull(np.zeros((1, rank)))
    except ValueError as error:
        raise ValueError(
            f"--start: {path.name!r} is a transform of another rank than the pair's, {rank}."
        ) from error
    return start


def _moved_name(moving: Path, pair) -> str:
    """The file for the moved image or cloud: of the kind of the moving one where that holds it."""
    from zoo.io.images import PICTURE_SUFFIXES, image_suffix

    if not pair.is_images:
        return "moved.ply" if pair.rank == 3 else "moved.xyz"
    array = pair.moving.array
    fits = array.min() >= 0 and array.max() <= 255 and array.shape[-1] in (1, 3)
    return "moved.png" if image_suffix(moving) in PICTURE_SUFFIXES and fits else "moved.nii.gz"


def _write_cloud(path: Path, points, faces=None):
    import numpy as np

    from zoo.data.scan import write_mesh
    from zoo.io import written_whole

    suffix = path.suffix.lower()
    if suffix == ".ply":
        import trimesh

        moved = trimesh.PointCloud(points)
        if faces is not None:
            moved = trimesh.Trimesh(points, faces, process=False)
        write_mesh(moved, path)
        return
    with written_whole(path) as partial:
        if suffix == ".npz":
            np.savez(partial, points=points)
        elif suffix == ".npy":
            np.save(partial, points)
        else:
            np.savetxt(partial, points)


def _warp_image(transform, options):
    import numpy as np

    from zoo.data.image import Image
    from zoo.io.images import read_labels, write_labels

    grid = _grid(transform, options)
    if not options.nearest:
        image = Image.read(options.moving)
        load_keras()
        transform.warp(image, grid, outside=options.outside).write(options.out)
        return
    outside = options.outside or 0
    if outside != round(outside):
        raise ValueError(f"--outside must be a whole number for labels, not {outside:g}.")
    labels, source = read_labels(options.moving)
    load_keras()
    # Images hold float32, which not every label fits: their ranks are warped in their place.
    known = np.unique(np.append(labels.astype(np.int64), int(outside)))
    ranks = Image(np.searchsorted(known, labels), source)
    beyond = float(np.searchsorted(known, int(outside)))
    moved = transform.warp(ranks, grid, "nearest", outside=beyond).array[..., 0]
    write_labels(options.out, known[np.rint(moved).astype(int)], grid)


def _grid(transform, options):
    """The grid of `--like`, or the transform's own."""
    from zoo.data.image import Image

    if options.like is not None:
        return Image.read(options.like).grid
    if transform.fixed_grid is None:
        raise ValueError(
            "--like is needed: this transform has no grid of its own; name the fixed image."
        )
    return transform.fixed_grid


def _fit_if_needed(model, pair, epochs: int | None = None):
    """Optimises for the pair: always for methods that need it, for others when asked.

    A preset of the former brings settings; what it was fitted to is another pair.
    """
    if epochs or model.needs_fit:
        model.fit(pair, verbose=0, **({"epochs": epochs} if epochs else {}))
