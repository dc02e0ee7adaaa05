"""The shell: `zoo list | show | mesh | evaluate | train | verify | demo`, thin over the API."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

FAILED = 1


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

    sub = command("evaluate", _evaluate, "measure a surface preset against points or a mesh")
    sub.add_argument("preset", help="name or folder")
    sub.add_argument("truth", type=Path, help="points that were not fitted, or the true mesh")
    sub.add_argument("--scan", type=Path, help="the fitted scan, for one-sided distances")
    sub.add_argument("--resolution", type=int, default=256)

    sub = command("train", _train, "fit a method or preset to a scan", json_option=False)
    sub.add_argument("model", help="a method ('igr') or a preset to start from ('igr.bunny')")
    sub.add_argument("scan", type=Path)
    sub.add_argument("--out", type=Path, required=True, help="the preset folder to write")
    sub.add_argument("--epochs", type=int, default=20)
    sub.add_argument("--steps-per-epoch", type=int, default=100)
    sub.add_argument("--learning-rate", type=float, default=2e-3, help="start of a cosine decay")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the constructor, such as width=256 (may be repeated)",
    )
    sub.add_argument("--overwrite", action="store_true", help="replace an existing preset")

    sub = command("verify", _verify, "hash the files of presets again")
    sub.add_argument("preset", nargs="*", help="names or folders; all when left out")

    sub = command("demo", _demo, "the tour: load, mesh, measure, fine-tune", json_option=False)
    sub.add_argument("--out", type=Path, default=Path("demo"))
    return parser


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

    if options.json and ("." in options.name or os.sep in options.name):
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

    scan = None if options.scan is None else zoo.Scan.read(options.scan)
    truth = zoo.Scan.read(options.truth)
    results = zoo.load(options.preset).evaluate(truth, scan=scan, resolution=options.resolution)
    _print_numbers(results, options.json)


def _train(options):
    import keras

    import pretrained
    import zoo

    if options.out.exists() and not options.overwrite:
        raise FileExistsError(f"--out: {options.out} exists; pass --overwrite to replace it.")
    scan = zoo.Scan.read(options.scan)
    keras.utils.set_random_seed(options.seed)
    config = dict(_assignment(text) for text in options.set)
    if "." in options.model or os.sep in options.model:
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
