"""`zoo mesh | evaluate | demo`: surfaces, and the evaluation of anything."""

from __future__ import annotations

from pathlib import Path

from zoo.cli.registrations import evaluate_pairs
from zoo.cli.shared import (
    RESOLUTIONS,
    SAMPLES,
    add_setting,
    check_between,
    check_file,
    command,
    load_keras,
    place,
    print_numbers,
    require_task,
    resolved,
    source,
)


def add_parsers(commands):
    """`mesh`, `evaluate` and `demo`."""
    sub = command(
        commands, "mesh", mesh, "extract the surface of a preset as a mesh", json_option=False
    )
    sub.add_argument("preset", help="name or folder")
    sub.add_argument("--out", type=place, required=True, help=".ply, .obj, .stl or .off")
    sub.add_argument("--resolution", type=int, default=256)
    sub.add_argument("--trim", type=source, help="a scan: leave its holes open")

    sub = command(
        commands, "evaluate", evaluate, "measure a surface, or a registration on listed pairs"
    )
    sub.add_argument("model", help="a preset or, for pairs, also a method")
    sub.add_argument(
        "truth",
        type=source,
        help="points that were not fitted, the true mesh, or a .csv of pairs with the columns "
        "fixed, moving and optional companions such as fixed_landmarks",
    )
    sub.add_argument("--scan", type=source, help="the fitted scan, for one-sided distances")
    sub.add_argument("--resolution", type=int, default=256)
    sub.add_argument("--samples", type=int, default=100_000, help="points on the mesh")
    add_setting(sub)

    sub = command(
        commands, "demo", demo, "the tour: load, mesh, measure, fine-tune", json_option=False
    )
    sub.add_argument("--out", type=place, default=Path("demo"))


def mesh(options):
    import zoo
    from zoo.data.scan import MESH_SUFFIXES, write_mesh

    if options.out.suffix.lower() not in MESH_SUFFIXES:
        raise ValueError(
            f"--out must end in one of {', '.join(MESH_SUFFIXES)}, not {options.out.name!r}."
        )
    check_file(options.out)
    check_between("resolution", options.resolution, RESOLUTIONS)
    require_task(options.preset, "surface")
    name = resolved(options.preset)
    trim = None if options.trim is None else zoo.Scan.read(options.trim)
    load_keras()
    mesh = zoo.load(name).mesh(options.resolution, trim=trim)
    write_mesh(mesh, options.out)
    print(f"{options.out}: {len(mesh.vertices)} vertices, {len(mesh.faces)} faces")


def evaluate(options):
    import zoo

    if options.truth.suffix.lower() == ".csv":
        evaluate_pairs(options)
        return
    if options.truth.is_dir():
        raise IsADirectoryError(f"truth: {str(options.truth)!r} is a folder, not a scan or a .csv.")
    if options.set:
        raise ValueError("--set configures a fresh method; a scan is evaluated with a preset.")
    check_between("samples", options.samples, SAMPLES)
    check_between("resolution", options.resolution, RESOLUTIONS)
    require_task(options.model, "surface")
    name = resolved(options.model)
    scan = None if options.scan is None else zoo.Scan.read(options.scan)
    truth = zoo.Scan.read(options.truth)
    load_keras()
    results = zoo.load(name).evaluate(
        truth, scan=scan, resolution=options.resolution, samples=options.samples
    )
    print_numbers(results, options.json)


def demo(options):
    load_keras()
    from zoo.demo import run

    run(options.out)
