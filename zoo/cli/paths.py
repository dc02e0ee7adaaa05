"""What `zoo register` writes of a method that moves shapes along a path, and `zoo view` reads."""

from __future__ import annotations

from pathlib import Path

FOLDER, ANIMATION, PICTURE = "path", "path.glb", "path.png"


def write_path(model, pair, out: Path) -> dict[str, float]:
    """Writes the shapes on the way, an animation of them, and a strip picture.

    Args:
        model: with a `trajectory` of points, after a fit.
        pair: that it was fitted to.
        out: folder in which `path/*.ply`, `path.glb` and `path.png` are put; in the plane the
            picture alone.

    Returns:
        `path_length` and `path_energy`, see `zoo.registration.paths`.
    """
    import trimesh

    from zoo.data.scan import write_mesh
    from zoo.io.gltf import write_animation
    from zoo.registration.paths import path_energy, path_length
    from zoo.view.paths import path_figure

    faces, target = pair.moving.faces, pair.fixed
    path = model.trajectory(pair.moving.points)
    path_figure(path, out / PICTURE, faces, target.points, target.faces)
    if pair.rank == 3:
        write_animation(out / ANIMATION, path, faces)
        folder = out / FOLDER
        folder.mkdir(exist_ok=True)
        digits = len(str(len(path) - 1))
        for number, shape in enumerate(path):
            mesh = trimesh.PointCloud(shape)
            if faces is not None:
                mesh = trimesh.Trimesh(shape, faces, process=False)
            write_mesh(mesh, folder / f"{number:0{digits}d}.ply")
    return {"path_length": path_length(path), "path_energy": path_energy(path)}


def read_path(folder: Path):
    """The shapes that `write_path` has put into a folder.

    Args:
        folder: of one mesh or cloud for each step, in the order of their names; or the one that
            `zoo register` wrote, which holds it.

    Returns:
        `(path, faces)`: float64 `[steps + 1, n, 3]`, and `[m, 3]` or None.

    Raises:
        FileNotFoundError: for a folder without two shapes.
        ValueError: for shapes with other numbers of vertices.
    """
    import numpy as np

    from zoo.data.scan import Scan

    folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    files = sorted(folder.glob("*.ply"))
    if len(files) < 2:
        raise FileNotFoundError(f"--path: {str(folder)!r} holds no two .ply of a path.")
    shapes = [Scan.read(file) for file in files]
    for file, shape in zip(files, shapes, strict=True):
        if len(shape) != len(shapes[0]):
            raise ValueError(
                f"--path: {file.name} has {len(shape)} vertices, {files[0].name} {len(shapes[0])}."
            )
    return np.stack([shape.points for shape in shapes]), shapes[0].faces


def remove_path(out: Path) -> None:
    """Removes what `write_path` left of an earlier run."""
    for file in (out / FOLDER).glob("*.ply"):
        file.unlink()
    if (out / FOLDER).is_dir() and not any((out / FOLDER).iterdir()):
        (out / FOLDER).rmdir()
    for name in (ANIMATION, PICTURE):
        (out / name).unlink(missing_ok=True)
