"""Surfaces from scans as they are: `igr` with its defaults beside screened Poisson (Open3D).

    python tests/benchmarks/bench_surfaces.py DATA_FOLDER [--shapes bunny ...] [--cases normals ...]
    python tests/benchmarks/bench_surfaces.py DATA_FOLDER --protocol

Of every scan three quarters of the points are fitted and the others measured against, in the frame
where the longest side is 2, with as many points sampled on the mesh (`Surface.evaluate`). Cases:

    normals   the points with their normals
    bare      the points alone
    noise     the points alone, with normal noise of 1 % of the longest side
    few       2,000 of the points alone
    half      those with x above the centre alone, measured against that half

Poisson (octree depth 8) gets true normals in the first case; in the others those that Open3D
estimates from 30 neighbours and propagates over 30. Both meshes are trimmed where they lie farther
than 2 % of the longest side, or four spacings, from the points that were given, since a scan says
nothing of its holes. The floor is the score of the true mesh.

With `--protocol` the scans of the Surface Reconstruction Benchmark are reconstructed, from all of
their points, and measured as there: a million samples of the mesh, in the units of the scan. The
dense ground truth is not public, so the scan itself, noisy and with holes, stands for it; the
distances from the scan to the mesh are the benchmark's own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

SHAPES = {
    "bunny": "stanford_bunny/bun_zipper.ply",
    "armadillo": "stanford_armadillo/armadillo.obj",
    "dragon": "stanford_dragon/dragon.obj",
    "koala": "cc_surfaces/koala.*",
    "fish": "cc_surfaces/fish.*",
    "skull": "cc_surfaces/skull.*",
    "lionstatue": "cc_surfaces/lionstatue.*",
}
SCANS = ("anchor", "daratech", "gargoyle")
CASES = ("normals", "bare", "noise", "few", "half")
TRIM = 0.04  # in the frame: 2 % of the longest side

POISSON = """
import sys, time
import numpy as np, open3d as o3d
given = np.load(sys.argv[1])
start = time.perf_counter()
cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(given["points"]))
if "normals" in given:
    cloud.normals = o3d.utility.Vector3dVector(given["normals"])
else:
    cloud.estimate_normals(o3d.geometry.KDTreeSearchParamKNN(30))
    cloud.orient_normals_consistent_tangent_plane(30)
mesh, _ = o3d.geometry.TriangleMesh.create_from_point_cloud_poisson(cloud, depth=8)
np.savez(sys.argv[2], vertices=np.asarray(mesh.vertices), faces=np.asarray(mesh.triangles),
         seconds=time.perf_counter() - start)
"""


def case_of(name: str, training, centre, scale):
    """The points of a case with the normals of it, and which of the true points it covers."""
    rng = np.random.default_rng(0)
    points, normals = training.points, None
    if name == "normals":
        normals = training.normals
    if name == "noise":
        points = points + rng.normal(0, 0.02 * scale, points.shape)
    if name == "few":
        points = points[rng.choice(len(points), min(2000, len(points)), replace=False)]
    if name == "half":
        points = points[points[:, 0] > centre[0]]
    return points, normals


def distances(mesh, given, test, centre, scale) -> tuple[float, float]:
    """Chamfer and Hausdorff distance of a mesh, trimmed where nothing was given."""
    import trimesh
    from scipy.spatial import cKDTree

    from zoo.metrics.surface import held_out_distances

    tree = cKDTree(given)
    limit = max(TRIM * scale, 4 * np.median(tree.query(given, k=2)[0][:, 1]))
    far = tree.query(mesh.vertices, workers=-1)[0] > limit
    kept = trimesh.Trimesh(mesh.vertices, mesh.faces[~far[mesh.faces].any(axis=1)], process=False)
    points, _ = trimesh.sample.sample_surface(kept, len(test), seed=412)
    found = held_out_distances(points, test, centre, scale)
    return found["chamfer"], found["hausdorff"]


def poisson(points, normals) -> tuple:
    import trimesh

    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npz"
        arrays = {"points": points} | ({} if normals is None else {"normals": normals})
        np.savez(given, **arrays)
        subprocess.run(
            [sys.executable, "-c", POISSON, given, made], check=True, capture_output=True
        )
        with np.load(made) as found:
            mesh = trimesh.Trimesh(found["vertices"], found["faces"], process=False)
            return mesh, float(found["seconds"])


def igr(points, normals) -> tuple:
    import keras

    import zoo

    keras.utils.set_random_seed(0)
    start = time.perf_counter()
    model = zoo.create("igr")
    model.fit(zoo.Scan(points, normals), verbose=0)
    seconds = time.perf_counter() - start
    return model.mesh(256), seconds


def protocol(data: Path, methods) -> None:
    """Prints the benchmark's distances of its scans, with and without their normals."""
    import trimesh

    import zoo
    from zoo.metrics.surface import benchmark_distances

    print("| Scan | Normals | Method | d_C | d_H | d_C from the scan | d_H from the scan | s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in SCANS:
        scan = zoo.Scan.read(data / "surface_scans" / f"{name}.ply")
        for normals in (scan.normals, None):
            for method in methods:
                mesh, seconds = method(scan.points, normals)
                samples, _ = trimesh.sample.sample_surface(mesh, 1_000_000, seed=412)
                found = benchmark_distances(samples, scan.points, scan.points)
                cells = [f"{value:.2f}" for value in found.values()]
                known = "without" if normals is None else "with"
                cells = [name, known, f"`{method.__name__}`", *cells, f"{seconds:.0f}"]
                print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    import trimesh

    import zoo

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--alone", action="store_true", help="without Poisson")
    parser.add_argument("--protocol", action="store_true", help="the benchmark's scans instead")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    methods = [igr] if arguments.alone else [igr, poisson]
    if arguments.protocol:
        protocol(arguments.data, methods)
        return
    print("| Scan | Case | Floor | `igr` | Poisson | s | s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for shape in arguments.shapes:
        (path,) = arguments.data.glob(SHAPES[shape])
        whole = zoo.Scan.read(path).without_unused()
        training, held_out = whole.split(test=0.25)
        centre, scale = training.frame
        true = trimesh.Trimesh(whole.points, whole.faces, process=False)
        for case in arguments.cases:
            points, normals = case_of(case, training, centre, scale)
            test = held_out.points
            if case == "half":
                test = test[test[:, 0] > centre[0]]
            floor = distances(
                true, training.points if case != "half" else points, test, centre, scale
            )
            cells, seconds = [], []
            for method in methods:
                mesh, took = method(points, normals)
                cells.append(distances(mesh, points, test, centre, scale))
                seconds.append(took)
            values = " | ".join(f"{one:.4f} / {two:.4f}" for one, two in [floor, *cells])
            times = " | ".join(f"{each:.0f}" for each in seconds)
            print(f"| {shape} | {case} | {values} | {times} |", flush=True)


if __name__ == "__main__":
    main()
