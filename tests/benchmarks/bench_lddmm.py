"""ResNet-LDDMM beside its peers, on bodies, hands, faces and scans, and what a step costs.

    python tests/benchmarks/bench_lddmm.py DATA_FOLDER [--parts bodies hands faces scans steps]
        [--quick] [--figure growth.png]

DATA_FOLDER holds makehuman_bodies, ict_faces and shrec19_scans; what is absent is left out. Errors
are distances in cm of all moved vertices from their true places, which no method gets to see:
their mean, and the share of the vertices more than 10 cm off, which is a swapped limb (of hands
and faces more than the same share of their height). The moving shape is always
a mesh. The fixed one is, by column, "mesh" (the same vertices in another order, with faces),
"sampled" (as many points drawn anew on its surface, without faces) or "bare" (that, and the moving
faces are left out too). Peers get as many points drawn evenly on both surfaces, as the vertices of
the bodies crowd in hands and faces: coherent point drift (`pycpd`, its settings the best of six)
1,500 of each, `divroc` as many as there are vertices. "chamfer alone" is the same model without
features.

The steps: time and memory of one step of training by the published notebook's formulation (all
points of both clouds at once, one nonlinearity, six blocks of the width 800, all N x N differences,
written anew here) and by this one at the same width and the default number of drawn points; the
time of one step by the number of vertices, which --figure draws; and a whole fit of two meshes of
50,000 vertices.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import trimesh
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from zoo.data.draws import Shape
from zoo.data.pair import Pair
from zoo.data.scan import Scan

BODIES = (
    ("within", "female_young/rest", "female_young/step"),
    ("within", "male_young/rest", "male_young/wave"),
    ("within", "female_thin/rest", "female_thin/arms_down"),
    ("across", "female_young/rest", "male_old_heavy/wave"),
    ("across", "male_young/rest", "female_thin/step"),
    ("across", "male_old_heavy/rest", "female_young/arms_down"),
)
KINDS = ("mesh", "sampled", "bare")
SWAPPED = 0.06  # of the height: about 10 cm of a body
CPD_POINTS, CPD = 1500, {"alpha": 30, "beta": 0.5, "w": 0.1}
WIDTH, BLOCKS = 800, 6
SIZES = (1_000, 10_000, 100_000)


def pair_of(source, target, faces, kind: str) -> Pair:
    """A pair of which nobody can read the correspondence."""
    random = np.random.default_rng(5)
    if kind == "mesh":
        order = random.permutation(len(target))
        fixed = Scan(target[order], faces=np.argsort(order)[faces])
    else:
        mesh = trimesh.Trimesh(target, faces, process=False)
        fixed = Scan(np.asarray(trimesh.sample.sample_surface(mesh, len(target), seed=1)[0]))
    return Pair(fixed, Scan(source, faces=None if kind == "bare" else faces))


def by_zoo(name: str, **config):
    """A method of the zoo as a function of a pair and points."""
    import zoo

    def register(pair: Pair, points: np.ndarray) -> np.ndarray:
        model = zoo.create(name, **config)
        model.fit(pair, verbose=0)
        return model.transform(pair).move(points)

    return register


def evenly(pair: Pair, count: int) -> Pair:
    """Both clouds drawn evenly over their surfaces."""
    clouds = []
    for seed, scan in enumerate((pair.fixed, pair.moving)):
        shape = Shape(scan.points, scan.faces)
        clouds.append(shape.draw(count, np.random.default_rng(seed))["points"].astype(np.float64))
    return Pair(*clouds)


def by_divroc(pair: Pair, points: np.ndarray) -> np.ndarray:
    """Of evenly drawn points."""
    return by_zoo("divroc")(evenly(pair, len(pair.moving)), points)


def by_cpd(pair: Pair, points: np.ndarray) -> np.ndarray:
    """Coherent point drift of few points; its kernel carries all."""
    from pycpd import DeformableRegistration

    drawn = evenly(pair, CPD_POINTS)
    centre, size = drawn.fixed.points.mean(axis=0), drawn.fixed.points.std()
    fixed, moving = ((each.points - centre) / size for each in (drawn.fixed, drawn.moving))
    drift = DeformableRegistration(X=fixed, Y=moving, **CPD)
    drift.register()
    placed = (points - centre) / size
    kernel = np.exp(-cdist(placed, moving, "sqeuclidean") / (2 * drift.beta**2))
    return (placed + kernel @ drift.W) * size + centre


METHODS = {
    "resnet_lddmm": by_zoo("resnet_lddmm"),
    "chamfer alone": by_zoo("resnet_lddmm", data="chamfer"),
    "divroc": by_divroc,
    "CPD": by_cpd,
}


def row(name: str, pair: Pair, source, target, scored, methods) -> None:
    """Prints the errors of all methods for one pair."""
    height = float(np.ptp(target, axis=0).max())
    start = np.linalg.norm(source - target, axis=1)[scored].mean()
    cells = [f"start {start:.2f}"]
    for method in methods:
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            moved = METHODS[method](pair, source)
        seconds = time.perf_counter() - begin
        off = np.linalg.norm(moved - target, axis=1)[scored]
        swapped = 100 * (off > SWAPPED * height).mean()
        cells.append(f"{method} {off.mean():.2f} ({swapped:.1f} %, {seconds:.0f} s)")
    print(f"{name}: " + " | ".join(cells), flush=True)


def bodies(data: Path, quick: bool) -> None:
    """Persons, in cm."""
    path = data / "makehuman_bodies" / "bodies.npz"
    if not path.is_file():
        return
    with np.load(path) as stored:
        names, vertices = list(stored["names"]), 100 * stored["vertices"].astype(np.float64)
        faces = stored["faces"]
    for number, (where, source, target) in enumerate(BODIES):
        if quick and number % 3:
            continue
        ends = [vertices[names.index(name)] for name in (source, target)]
        for kind in KINDS if number % 3 == 0 else KINDS[:2]:
            pair = pair_of(*ends, faces, kind)
            methods = list(METHODS) if kind == "sampled" else ["resnet_lddmm"]
            if number % 3 and kind == "sampled":
                methods.remove("chamfer alone")
            row(f"{where}, {source} -> {target}, {kind}", pair, *ends, slice(None), methods)


def hands(data: Path, quick: bool) -> None:
    """Hands that close, in cm."""
    folder = data / "makehuman_bodies"
    for person in ("male_young", "female_young")[: 1 if quick else None]:
        files = [folder / f"hand_{person}_{pose}.ply" for pose in ("open", "fist")]
        if not all(file.is_file() for file in files):
            return
        meshes = [trimesh.load(file, process=False) for file in files]
        ends = [100 * np.asarray(mesh.vertices) for mesh in meshes]
        for kind in KINDS:
            pair = pair_of(*ends, meshes[0].faces, kind)
            methods = METHODS if kind == "sampled" else ("resnet_lddmm",)
            row(f"hand, {person}, open -> fist, {kind}", pair, *ends, slice(None), methods)


def faces_(data: Path, quick: bool) -> None:
    """Faces, scored at 68 landmarks, in cm."""
    path = data / "ict_faces" / "faces.npz"
    if not path.is_file():
        return
    with np.load(path) as stored:
        names, vertices = list(stored["names"]), stored["vertices"].astype(np.float64)
        faces, marks = stored["faces"], stored["landmark_vertex_indices"]
    pairs = [("id00/neutral", "id01/neutral"), ("id00/neutral", "id00/open_mouth")]
    for source, target in pairs[: 1 if quick else None]:
        ends = [vertices[names.index(name)] for name in (source, target)]
        pair = pair_of(*ends, faces, "sampled")
        row(f"face, {source} -> {target}", pair, *ends, marks, ("resnet_lddmm", "CPD"))


def scans(data: Path, quick: bool) -> None:
    """The pair of the original demonstration; distances in halves of the longest side."""
    import zoo

    files = [data / "shrec19_scans" / f"scan_{number}.obj" for number in ("016", "015")]
    if not all(file.is_file() for file in files):
        return
    pair = Pair.read(*files)
    both = np.concatenate([pair.fixed.points, pair.moving.points])
    half = np.ptp(both, axis=0).max() / 2
    model = zoo.create("resnet_lddmm")
    begin = time.perf_counter()
    model.fit(pair, verbose=0)
    seconds = time.perf_counter() - begin
    transform = model.transform(pair)
    moved = transform.move(pair.moving.points)
    there = cKDTree(pair.fixed.points).query(moved)[0] / half
    back = cKDTree(moved).query(pair.fixed.points)[0] / half
    box = np.random.default_rng(0).uniform(both.min(0), both.max(0), (5000, 3))
    determinants = [np.linalg.det(model.jacobian(each)) for each in (pair.moving.points, box)]
    missed = max(
        np.abs(transform.pull(transform.move(each)) - each).max() / half
        for each in (pair.moving.points, box)
    )
    print(
        f"scans 015 -> 016: Chamfer {(there.mean() + back.mean()) / 2:.5f}, Hausdorff "
        f"{max(there.max(), back.max()):.4f}, smallest determinants "
        f"{determinants[0].min():.3f} and {determinants[1].min():.3f}, inverse {missed:.1e}, "
        f"fit {seconds:.0f} s",
        flush=True,
    )


def steps(data: Path, quick: bool, figure: Path | None = None) -> None:
    """Each in a process of its own, because memory is never given back."""
    count = 2_000 if quick else 10_000
    jobs = [("notebook", count), ("zoo", count)]
    jobs += [("default", size) for size in SIZES[: 2 if quick else None]]
    seconds = {}
    for what, size in jobs if quick else [*jobs, ("meshes", 50_000)]:
        command = [sys.executable, __file__, "--step", what, str(size)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(printed, end="", flush=True)
        seconds[what, size] = float(printed.split(": ")[1].split(" s")[0])
    if figure is not None:
        from matplotlib.figure import Figure

        sizes = [size for what, size in jobs if what == "default"]
        picture = Figure(figsize=(4.5, 3.2), dpi=120, layout="constrained")
        axes = picture.subplots()
        axes.plot(sizes, [seconds["default", size] for size in sizes], "o-", label="resnet_lddmm")
        axes.plot([count], [seconds["notebook", count]], "s", label="notebook, width 800")
        axes.plot([count], [seconds["zoo", count]], "o", label="resnet_lddmm, width 800")
        axes.set(xscale="log", yscale="log", xlabel="vertices of each shape", ylabel="s per step")
        axes.legend(fontsize=8)
        picture.savefig(figure)


def one_step(what: str, count: int) -> None:
    """Prints time and memory of training steps of one kind, or of a fit of meshes."""
    import keras
    from keras import ops

    import zoo
    from zoo.layers import ResidualFlow

    if what == "meshes":
        rows = round(count**0.5)
        mesh = trimesh.creation.uv_sphere(count=(rows, rows))
        moving = Scan(np.asarray(mesh.vertices), faces=np.asarray(mesh.faces))
        pair = Pair(Scan(moving.points * (1.2, 1.0, 0.8), faces=moving.faces), moving)
        begin = time.perf_counter()
        zoo.create("resnet_lddmm").fit(pair, verbose=0)
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        count = len(moving)
        print(
            f"fit, meshes of {count} vertices: {seconds:.0f} s, {peak:.2f} GiB in all", flush=True
        )
        return
    random = np.random.default_rng(0)
    cloud = random.normal(size=(count, 3))
    cloud /= np.linalg.norm(cloud, axis=1, keepdims=True)
    pair = Pair(cloud * (1.2, 1.0, 0.8), cloud)
    before = _resident()
    if what == "notebook":

        class Notebook(keras.Model):
            def __init__(self):
                super().__init__()
                self.flow = ResidualFlow(blocks=BLOCKS, width=WIDTH, nonlinearities=1)
                self.flow.build()

            def call(self, inputs):
                return self.flow(inputs)

        def chamfer(target, moved):
            differences = moved[:, :, None] - target[:, None]
            squares = ops.sum(ops.square(differences), axis=-1)
            return ops.mean(ops.min(squares, axis=2)) + ops.mean(ops.min(squares, axis=1))

        model = Notebook()
        model.compile("adam", chamfer)
        arrays = [each.points[None].astype(np.float32) for each in (pair.moving, pair.fixed)]
        runs = 3

        def train(number):
            model.fit(*arrays, epochs=number, verbose=0)
    else:
        config = {} if what == "default" else {"blocks": BLOCKS, "width": WIDTH}
        model = zoo.create("resnet_lddmm", data="chamfer", steps=10, **config)
        runs = 10

        def train(number):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(pair, epochs=max(number // 10, 1), verbose=0)

    train(runs)
    begin = time.perf_counter()
    train(runs)
    seconds = (time.perf_counter() - begin) / runs
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 - before
    print(f"step, {what}, {count} points: {seconds:.3f} s, {peak:.2f} GiB", flush=True)


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


PARTS = {"bodies": bodies, "hands": hands, "faces": faces_, "scans": scans, "steps": steps}


def main() -> None:
    """Runs the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="the folder of the data sets")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="a part of each")
    parser.add_argument("--figure", type=Path, help="where the growth of a step is drawn")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        one_step(options.step[0], int(options.step[1]))
        return
    if options.data is None:
        parser.error("the folder of the data sets is needed")
    for part in options.parts:
        drawn = {"figure": options.figure} if part == "steps" else {}
        PARTS[part](options.data, options.quick, **drawn)


if __name__ == "__main__":
    main()
