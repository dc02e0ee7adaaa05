"""Pages to turn, zoom and slide, each one file: `cloud_page(pair, transform).save("pair.html")`.

They open in any browser without a server and without a network, and in a notebook they show
themselves. plotly makes them: `pip install plotly`. Shapes stand as in the pictures of
`zoo.view.surfaces` and `zoo.view.clouds`, and have the colours of these.

What is large is thinned, so that pages rarely reach 15 MB, and the page says so: clouds to
30,000 random points, meshes to 40,000 of their vertices, one from each cell of a lattice, and
shapes that move to 200,000 positions over all times.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import to_hex

from zoo.data.pair import Pair
from zoo.ops.arguments import checked, shown
from zoo.ops.array_arguments import real_array, real_points
from zoo.registration.measure import Measured
from zoo.registration.paths import path_length
from zoo.transform import Transform
from zoo.view import clouds
from zoo.view.clouds import FIXED, LONGEST, MOVING
from zoo.view.page import INK, Page
from zoo.view.page_images import image_page as image_page
from zoo.view.page_shapes import Frames, Shape, box_of, scene_of
from zoo.view.surfaces import COLOUR, EYE

MOST_POSITIONS = 200_000  # of a shape that moves, over all times
TIMES = 11  # of a cloud on its way; of a path at most twice as many

BEHIND = 0.25  # opacity of what the moved shape is compared with
AIM = "#777777"
MORE = ("#d98c2b", "#5f9e6e", "#8d6bb0", "#b55d60")  # colours of further surfaces


@checked()
def pair_page(pair: Pair, transform: Transform | Measured | None = None) -> Page:
    """The page of a pair: `image_page` or `cloud_page`.

    Raises:
        ValueError: for what is no pair, and as those.
    """
    return image_page(pair, transform) if pair.is_images else cloud_page(pair, transform)


@checked()
def surface_page(meshes: Mapping, points: np.ndarray | None = None) -> Page:
    """Meshes in one scene, each in its place and unit; a click on its name hides it.

    Args:
        meshes: `{name: trimesh.Trimesh}`.
        points: a cloud `[n, 3]` to be seen with them, called "scan".

    Raises:
        ValueError: for nothing to draw, or what has no vertices and faces.
    """
    shapes = []
    for number, (name, mesh) in enumerate(meshes.items()):
        if not (hasattr(mesh, "vertices") and hasattr(mesh, "faces")):
            raise ValueError(f"meshes must hold trimesh.Trimesh, not {shown(mesh)} ({name!r}).")
        vertices = real_points(f"meshes[{name!r}]", mesh.vertices, (3,))
        colour = to_hex(COLOUR) if not number else MORE[(number - 1) % len(MORE)]
        faces = _checked_faces(f"faces of meshes[{name!r}]", mesh.faces, len(vertices))
        shapes.append(Shape(str(name), vertices, faces, colour))
    if points is not None:
        shapes.append(Shape("scan", real_points("points", points, (3,)), None, INK))
    if not shapes:
        raise ValueError("meshes is empty and there are no points: nothing to draw.")
    notes = [shape.thin() for shape in shapes]
    figure = scene_of(shapes, EYE, (0, 1, 0), box_of(*(shape.points for shape in shapes)))
    return Page(figure, ", ".join(shape.name for shape in shapes), [" ".join(notes)])


@checked()
def cloud_page(pair: Pair, transform: Transform | Measured | None = None) -> Page:
    """A pair of clouds or meshes before and, with a transform, after registration.

    Fixed is blue, moving orange; the moved one has the colour of its displacement, and a slider
    takes it back. On the way every point goes straight, as a transform knows both ends alone.

    Args:
        pair: of clouds or meshes, in the plane or in space.
        transform: from fixed to moving space, or what was measured of one for this pair.

    Raises:
        ValueError: for a pair of images, what is no transform, one of another rank, or one that
            carries points to NaN or infinity.
    """
    clouds.check(pair, transform)
    fixed = Shape("fixed", pair.fixed.points, pair.fixed.faces, to_hex(FIXED))
    moving = Shape("moving", pair.moving.points, pair.moving.faces, to_hex(MOVING))
    shapes, frames = [fixed, moving], None
    moved = None
    if transform is not None:
        moved = clouds.moved_points(clouds.as_measured(pair, transform))
        ways = np.linalg.norm(moved - pair.moving.points, axis=1)
    notes = [fixed.thin(), moving.thin(None if moved is None else MOST_POSITIONS // TIMES)]
    if moved is not None:
        ends = moving.points, moved[moving.kept]
        limit = float(np.quantile(ways, LONGEST) or ways.max() or 1.0)
        travelling = Shape("moved", ends[1], moving.faces, "", ways[moving.kept], limit)
        moving.visible = "legendonly"
        fixed.opacity = BEHIND if fixed.faces is not None else 1.0
        shapes.append(travelling)
        times = np.linspace(0, 1, TIMES)
        frames = Frames(
            travelling,
            [ends[0] + time * (ends[1] - ends[0]) for time in times],
            None,
            [f"{time:.0%}" for time in times],
            "of the way from moving to moved",
            TIMES - 1,
        )
        notes.append(
            f"Displacements: mean {_short(ways.mean())}, at most {_short(ways.max())} world "
            "units. The slider moves every point straight from its place in moving to that in "
            "moved."
        )
    places = [shape.points for shape in shapes]
    meshes = fixed.faces is not None or moving.faces is not None
    box = box_of(*places, robust=not meshes)
    if not meshes:
        outside = sum(int(((p < box[0]) | (p > box[1])).any(axis=1).sum()) for p in places)
        if outside:
            notes.append(f"Drawn points far from all others, which lie outside: {outside:,}.")
    right_up_towards = clouds.viewpoint(pair.fixed.points)
    figure = scene_of(shapes, right_up_towards[2], right_up_towards[1], box, frames)
    return Page(figure, pair.name, [" ".join(notes)])


@checked()
def path_page(
    path: np.ndarray,
    faces: np.ndarray | None = None,
    target: np.ndarray | None = None,
    target_faces: np.ndarray | None = None,
    title: str = "path",
) -> Page:
    """A shape on its way, with a slider over time, and what it was to reach.

    The shape has the colour of its distance from where it began.

    Args:
        path: positions at equal times, `[steps + 1, n, dims]`.
        faces: triangles `[m, 3]`, or None for points.
        target: points `[k, dims]`, in another colour.
        target_faces: its triangles.
        title: of the page.

    Raises:
        ValueError: for what is no path, or a target of other dimensions.
    """
    length = path_length(path)  # which checks it
    path = np.asarray(path, np.float64)
    dims = path.shape[2]
    faces = _checked_faces("faces", faces, path.shape[1])
    chosen = np.unique(np.linspace(0, len(path) - 1, min(len(path), 2 * TIMES)).round().astype(int))
    start = Shape("start", path[0], faces, to_hex(MOVING), visible="legendonly")
    notes = [start.thin(MOST_POSITIONS // len(chosen), "shape")]
    if len(chosen) < len(path):
        notes.append(f"{len(chosen)} of {len(path)} times are drawn.")
    notes.append(f"Length of the path: {_short(length)} world units.")
    places = [path[k][start.kept] for k in chosen]
    ways = [np.linalg.norm(points - places[0], axis=1) for points in places]
    farthest = np.max(ways, axis=0)
    limit = float(np.quantile(farthest, LONGEST) or farthest.max() or 1.0)
    shapes = [start, Shape("shape", places[-1], start.faces, "", ways[-1], limit)]
    if target is not None:
        target = real_points("target", target, (dims,))
        target_faces = _checked_faces("target_faces", target_faces, len(target))
        aim = Shape("target", target, target_faces, AIM)
        notes.append(aim.thin())
        aim.opacity = BEHIND if aim.faces is not None else 1.0
        shapes.append(aim)
    names = [f"{k / (len(path) - 1):.2f}" for k in chosen]
    frames = Frames(shapes[1], places, ways, names, "time", len(names) - 1)
    box = box_of(*places, *(shape.points for shape in shapes))
    figure = scene_of(shapes, EYE, (0, 1, 0), box, frames)
    return Page(figure, title, [" ".join(notes)])


# Words and checks


def _checked_faces(name: str, faces, count: int) -> np.ndarray | None:
    if faces is None:
        return None
    faces = real_array(name, faces)
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "ui":
        raise ValueError(f"{name} must be whole numbers [m, 3], not {faces.dtype} {faces.shape}.")
    if faces.size and not (faces.min() >= 0 and faces.max() < count):
        raise ValueError(f"{name} must be indices of the {count} points; some are not.")
    return faces


def _short(number: float) -> str:
    return f"{number:,.3g}" if number < 1000 else f"{number:,.0f}"
