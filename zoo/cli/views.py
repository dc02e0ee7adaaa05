"""`zoo view`: a picture or a page of a pair, of shapes on their way, or of one surface."""

from __future__ import annotations

from pathlib import Path

from zoo.cli.shared import (
    RESOLUTIONS,
    add_pair,
    check_between,
    check_file,
    command,
    companions,
    load_keras,
    place,
    print_place,
    read_pair,
    require_task,
    resolved,
    source,
)

PICTURE, PAGE = ".png", ".html"


def add_parsers(commands):
    """`view`."""
    sub = command(
        commands,
        "view",
        view,
        "a picture or a page of a pair, and of what a transform does to it; or of one surface",
    )
    add_pair(sub, alone="; alone also a preset of a surface")
    sub.add_argument("--transform", type=source)
    sub.add_argument("--path", type=source, help="the shapes on the way instead: a folder of them")
    sub.add_argument("--window", action="store_true", help="open the path with a slider")
    sub.add_argument("--resolution", type=int, default=128, help="of the surface of a preset")
    sub.add_argument(
        "--out",
        type=place,
        help="the .png to write; or an .html, a page to turn, zoom and slide in any browser, "
        "without a network",
    )


def view(options):
    """Draws a pair, a path or a surface."""
    if options.window and options.path is None:
        raise ValueError("--window shows a path: give --path too.")
    if options.out is None and not options.window:
        raise ValueError("--out is needed: the .png or .html to write.")
    check_between("resolution", options.resolution, RESOLUTIONS)
    if options.out is not None:
        if options.out.suffix.lower() not in (PICTURE, PAGE):
            raise ValueError(f"--out must end in .png or .html, not {options.out.name!r}.")
        check_file(options.out)
        if _is_page(options):
            from zoo.view.page import plotly_objects

            plotly_objects()  # before anything is computed for it
    if options.moving is None:
        _view_surface(options)
        return
    pair = read_pair(options)
    load_keras()
    if options.path is not None:
        _view_path(options, pair)
        return
    _view_pair(options, pair)
    print_place(options)


def draw(measured, path: Path, before_only: bool = False):
    """The picture of a pair, and of what a transform does to it.

    Args:
        measured: of the transform.
        path: the .png to write.
        before_only: whether there is no transform; clouds are then drawn as they are.
    """
    from zoo.view.clouds import cloud_registration_figure
    from zoo.view.images import registration_figure

    pair = measured.pair
    if not pair.is_images:
        cloud_registration_figure(pair, path, None if before_only else measured)
        return
    registration_figure(
        pair.fixed,
        pair.moving,
        measured.moved,
        path,
        displacement=measured.displacement,
        determinant=measured.jacobian_determinant,
        fixed_landmarks=pair.fixed_landmarks,
        moving_landmarks=pair.moving_landmarks,
        pulled_landmarks=None if pair.fixed_landmarks is None else measured.pulled_landmarks,
    )


def _is_page(options) -> bool:
    return options.out is not None and options.out.suffix.lower() == PAGE


def _view_pair(options, pair):
    import zoo
    from zoo.registration import Measured
    from zoo.transform import Affine

    transform = None if options.transform is None else zoo.Transform.load(options.transform)
    if _is_page(options):
        from zoo.view.html import pair_page

        pair_page(pair, transform).save(options.out)
        return
    measured = Measured(transform or Affine.identity(pair.rank), pair)
    draw(measured, options.out, before_only=transform is None)


def _view_path(options, pair):
    """The picture or the page of a path, or a window with a slider."""
    from zoo.cli.paths import read_path
    from zoo.view.paths import path_figure, show_path

    if pair.is_images:
        raise ValueError("--path is of shapes: fixed and moving must be meshes or clouds.")
    path, faces = read_path(options.path)
    if options.window:
        show_path(path, faces, pair.fixed.points)
    if options.out is None:
        return
    target = pair.fixed.points, pair.fixed.faces
    if _is_page(options):
        from zoo.view.html import path_page

        path_page(path, faces, *target, title=pair.name).save(options.out)
    else:
        path_figure(path, options.out, faces, *target)
    print_place(options)


def _view_surface(options):
    """The picture or the page of a mesh, a cloud, or the surface of a preset."""
    for name in ("transform", "path", *companions()):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} belongs to a pair: give moving too.")
    meshes, points = _surface(options)
    load_keras()
    if _is_page(options):
        from zoo.view.html import surface_page

        surface_page(meshes, points).save(options.out)
    else:
        from zoo.view.surfaces import surface_figure

        surface_figure(meshes, options.out, points)
    print_place(options)


def _surface(options) -> tuple[dict, object]:
    """Meshes by name, and the points of a cloud or None."""
    import zoo
    from zoo.data.scan import READABLE
    from zoo.io.images import image_suffix

    path = options.fixed
    if image_suffix(path):
        raise ValueError(f"moving is needed: {path.name!r} is an image, which is shown in a pair.")
    if not (path.is_file() or path.suffix.lower() in READABLE):
        require_task(str(path), "surface")
        name = resolved(str(path))
        load_keras()
        return {name: zoo.load(name).mesh(options.resolution)}, None
    scan = zoo.Scan.read(path)
    if scan.dims != 3:
        raise ValueError(f"fixed: {path.name!r} lies in the plane; alone, surfaces are shown.")
    if scan.faces is None:
        return {}, scan.points
    import trimesh

    return {scan.name: trimesh.Trimesh(scan.points, scan.faces, process=False)}, None
