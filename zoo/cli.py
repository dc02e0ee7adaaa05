"""The shell: `zoo list`, `zoo register`, `zoo mesh` and the rest, thin over the Python API."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

FAILED = 1


COMPANIONS = [
    f"{side}_{what}" for side in ("fixed", "moving") for what in ("mask", "labels", "landmarks")
]
SETTING = {
    "action": "append",
    "default": [],
    "metavar": "NAME=VALUE",
    "help": "an argument of the constructor, such as width=256 (may be repeated)",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: the words after `zoo`; None takes them from the shell.

    Returns:
        The exit status: 0, or 1 when something the user gave is at fault, with one line of reason
        on standard error.
    """
    parsed = _parser().parse_args(arguments)
    # TensorFlow prints its build options on import, which hides what the command says.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return parsed.run(parsed) or 0
    except BrokenPipeError:
        # The reader of `zoo list | head` is gone; there is nobody left to tell.
        sys.stdout = None
        return 0
    except (ValueError, LookupError, OSError, RuntimeError, ImportError) as error:
        print(f"zoo: {error}", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zoo", description="Deformable registration and neural surfaces, by name."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name, run, help, json_option=True):
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run)
        if json_option:
            sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    sub = command("list", _list, "list methods and presets")
    sub.add_argument("pattern", nargs="?", default="*", help="wildcard, such as 'igr*'")
    sub.add_argument("--pretrained", action="store_true", help="presets only")
    for fact in ("task", "data", "traits"):
        sub.add_argument(f"--{fact}", help=f"only methods with this {fact}")
    sub.add_argument("--dims", type=int, help="only methods for this dimension")

    sub = command("show", _show, "show the card of a method or preset")
    sub.add_argument("name")

    sub = command("mesh", _mesh, "extract the surface of a preset as a mesh", json_option=False)
    sub.add_argument("preset", help="name or folder")
    sub.add_argument("--out", type=Path, required=True, help=".ply, .obj, .stl or .off")
    sub.add_argument("--resolution", type=int, default=256)
    sub.add_argument("--trim", type=Path, help="a scan: leave its holes open")

    sub = command("evaluate", _evaluate, "measure a surface, or a registration on listed pairs")
    sub.add_argument("model", help="a preset or, for pairs, also a method")
    sub.add_argument(
        "truth",
        type=Path,
        help="points that were not fitted, the true mesh, or a .csv of pairs with the columns "
        "fixed, moving and optional companions such as fixed_landmarks",
    )
    sub.add_argument("--scan", type=Path, help="the fitted scan, for one-sided distances")
    sub.add_argument("--resolution", type=int, default=256)
    sub.add_argument("--set", **SETTING)

    sub = command("register", _register, "register a moving image or cloud to a fixed one")
    _pair_arguments(sub)
    sub.add_argument("-m", "--method", default="affine", help="a method or preset")
    sub.add_argument("--out", type=Path, required=True, help="folder for the results")
    sub.add_argument("--epochs", type=int, help="of the optimisation for this pair")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--set", **SETTING)

    sub = command("warp", _warp, "apply a transform to an image, landmarks, a mesh or a cloud")
    sub.add_argument("moving", type=Path)
    sub.add_argument("transform", type=Path, help="a field or ITK transform, as register writes it")
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument("--like", type=Path, help="an image whose grid the result has")
    sub.add_argument("--nearest", action="store_true", help="for labels")

    sub = command("jacobian", _jacobian, "the Jacobian determinant of a transform as an image")
    sub.add_argument("transform", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument("--like", type=Path, help="an image whose grid the result has")

    sub = command("view", _view, "a picture of a pair, and of what a transform does to it")
    _pair_arguments(sub)
    sub.add_argument("--transform", type=Path)
    sub.add_argument("--out", type=Path, required=True, help="the .png to write")

    sub = command("train", _train, "fit a method or preset to a scan", json_option=False)
    sub.add_argument("model", help="a method ('igr') or a preset to start from ('igr.bunny')")
    sub.add_argument("scan", type=Path)
    sub.add_argument("--out", type=Path, required=True, help="the preset folder to write")
    sub.add_argument("--epochs", type=int, default=20)
    sub.add_argument("--steps-per-epoch", type=int, default=100)
    sub.add_argument("--learning-rate", type=float, default=2e-3, help="start of a cosine decay")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--set", **SETTING)
    sub.add_argument("--overwrite", action="store_true", help="replace an existing preset")

    sub = command("verify", _verify, "hash the files of presets again")
    sub.add_argument("preset", nargs="*", help="names or folders; all when left out")

    sub = command("demo", _demo, "the tour: load, mesh, measure, fine-tune", json_option=False)
    sub.add_argument("--out", type=Path, default=Path("demo"))
    return parser


def _pair_arguments(sub):
    sub.add_argument("fixed", type=Path, help="image, picture, mesh or cloud")
    sub.add_argument("moving", type=Path)
    for name in COMPANIONS:
        sub.add_argument(f"--{name.replace('_', '-')}", type=Path)


def _list(options):
    import registry
    import zoo
    from zoo.api import presets

    facts = {
        name: getattr(options, name)
        for name in ("task", "data", "traits", "dims")
        if getattr(options, name) is not None
    }
    rows = []
    if not options.pretrained and "." not in options.pattern:
        for entry in registry.find(options.pattern, **facts):
            note = f"broken: {entry.error}" if entry.error else entry.summary
            rows.append({"name": entry.name, "kind": "method", "summary": note})
    wanted = set(zoo.find("*", pretrained=True, **facts))
    pattern = options.pattern if "." in options.pattern else f"{options.pattern}.*"
    for preset in presets(pattern):
        if preset.name in wanted:
            summary = preset.manifest.get("summary", "")
            rows.append({"name": preset.name, "kind": "preset", "summary": summary})
    if options.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['name']:{width}}  {row['kind']:6}  {row['summary']}")
    if not rows:
        print(f"zoo: nothing matches {options.pattern!r}", file=sys.stderr)
        return FAILED


def _show(options):
    import zoo
    from zoo.api import info

    if options.json and _is_preset(options.name):
        print(json.dumps(info(options.name).manifest, indent=2, ensure_ascii=False))
    elif options.json:
        import dataclasses

        import registry

        entry = registry.get(options.name)
        facts = dataclasses.asdict(entry) | {"target": entry.where}
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print(zoo.describe(options.name), end="")


def _mesh(options):
    import zoo
    from zoo.data.scan import MESH_SUFFIXES, write_mesh

    if options.out.suffix.lower() not in MESH_SUFFIXES:
        raise ValueError(
            f"--out must end in one of {', '.join(MESH_SUFFIXES)}, not {options.out.name!r}."
        )
    trim = None if options.trim is None else zoo.Scan.read(options.trim)
    mesh = zoo.load(options.preset).mesh(options.resolution, trim=trim)
    write_mesh(mesh, options.out)
    print(f"{options.out}: {len(mesh.vertices)} vertices, {len(mesh.faces)} faces")


def _evaluate(options):
    import zoo

    if options.truth.suffix.lower() == ".csv":
        _evaluate_pairs(options)
        return
    scan = None if options.scan is None else zoo.Scan.read(options.scan)
    truth = zoo.Scan.read(options.truth)
    results = zoo.load(options.model).evaluate(truth, scan=scan, resolution=options.resolution)
    _print_numbers(results, options.json)


def _evaluate_pairs(options):
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
        _print_numbers(row, False)
    names = [name for name in rows[0] if all(name in row for row in rows)]
    print(f"mean of {len(rows)} pairs")
    _print_numbers({name: sum(row[name] for row in rows) / len(rows) for name in names}, False)


def _registration(name: str, rank: int, settings: list[str]):
    """A preset, or a fresh model of the pair's dimension."""
    import zoo

    config = dict(_assignment(text) for text in settings)
    if _is_preset(name):
        if config:
            raise ValueError("--set configures a fresh method; a preset has its configuration.")
        return zoo.load(name)
    return zoo.create(name, **({"dims": rank} | config))


def _is_preset(name: str) -> bool:
    return "." in name or os.sep in name


def _fit_if_needed(model, pair, name: str, epochs: int | None = None):
    """Optimises for the pair: always for per-instance methods, for others when asked."""
    import registry

    per_instance = not _is_preset(name) and "per-instance" in registry.get(name).traits
    if per_instance or epochs:
        model.fit(pair, verbose=0, **({"epochs": epochs} if epochs else {}))


def _read_pair(options):
    import zoo

    companions = {name: getattr(options, name) for name in COMPANIONS}
    return zoo.Pair.read(options.fixed, options.moving, **companions)


def _register(options):
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
    _print_numbers(results, options.json)


def _warp(options):
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


def _jacobian(options):
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
    _print_numbers(numbers, options.json)


def _view(options):
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


def _train(options):
    import keras

    import pretrained
    import zoo

    if options.out.exists() and not options.overwrite:
        raise FileExistsError(f"--out: {options.out} exists; pass --overwrite to replace it.")
    scan = zoo.Scan.read(options.scan)
    keras.utils.set_random_seed(options.seed)
    config = dict(_assignment(text) for text in options.set)
    if _is_preset(options.model):
        if config:
            raise ValueError("--set configures a fresh method; a preset has its configuration.")
        model = zoo.load(options.model)
    else:
        model = zoo.create(options.model, **({"dims": scan.dims} | config))
    steps = options.epochs * options.steps_per_epoch
    decay = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps, alpha=1e-3)
    model.compile(keras.optimizers.Adam(decay))
    # An interrupted run resumes from here when the same command is given again.
    words = {name: str(value) for name, value in vars(options).items() if name != "run"}
    key = hashlib.sha256(json.dumps([words, str(options.out.resolve())]).encode()).hexdigest()
    backup = pretrained.home() / "interrupted" / key[:16]
    model.fit(
        scan,
        epochs=options.epochs,
        steps_per_epoch=options.steps_per_epoch,
        seed=options.seed,
        callbacks=[keras.callbacks.BackupAndRestore(backup)],
    )
    facts = {
        "summary": f"{options.model} fitted to {options.scan.name}.",
        "training": {
            "data": options.scan.name,
            "script": "zoo train",
            "seed": options.seed,
            "steps": steps,
        },
    }
    folder = model.save_preset(options.out, overwrite=options.overwrite, **facts)
    print(f"{folder}: load it with zoo.load({str(folder)!r})")


def _assignment(text: str):
    name, found, value = text.partition("=")
    if not found:
        raise ValueError(f"--set needs NAME=VALUE, not {text!r}.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _verify(options):
    import pretrained
    from zoo.api import info, presets

    found = [info(name) for name in options.preset] if options.preset else presets()
    problems = {preset.name: pretrained.verify(preset) for preset in found}
    if options.json:
        print(json.dumps(problems, indent=2))
    else:
        for name, issues in problems.items():
            print(f"{name}: {'; '.join(issues) or 'good'}")
    return FAILED if any(problems.values()) else 0


def _demo(options):
    from zoo.demo import run

    run(options.out)


def _print_numbers(results: dict, as_json: bool):
    if as_json:
        print(json.dumps(results, indent=2))
        return
    width = max(map(len, results))
    for name, value in results.items():
        print(f"{name:{width}}  {value:.5g}")


if __name__ == "__main__":
    sys.exit(main())
