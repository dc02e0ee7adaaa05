"""Scans: what files give, what bad input says, and the analytic shapes."""

import numpy as np
import pytest
import trimesh

import zoo
from zoo.data import shapes
from zoo.data.scan import write_mesh

MESH = trimesh.creation.icosphere(2)


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".off"])
def test_meshes_keep_vertex_order_and_get_normals(tmp_path, suffix):
    order = np.random.default_rng(0).permutation(len(MESH.vertices))
    shuffled = trimesh.Trimesh(MESH.vertices[order], np.argsort(order)[MESH.faces], process=False)
    shuffled.export(tmp_path / f"mesh{suffix}")
    scan = zoo.Scan.read(tmp_path / f"mesh{suffix}")
    np.testing.assert_allclose(scan.points, MESH.vertices[order], atol=1e-6)
    assert (scan.normals * scan.points).sum(axis=1).min() > 0.99
    assert scan.faces.shape == MESH.faces.shape


def test_an_stl_is_merged(tmp_path):
    MESH.export(tmp_path / "mesh.stl")
    scan = zoo.Scan.read(tmp_path / "mesh.stl")
    assert len(scan) == len(MESH.vertices)
    assert (scan.normals * scan.points).sum(axis=1).min() > 0.99


def test_unused_vertices_are_left_out(tmp_path):
    vertices = np.concatenate([[[9, 9, 9]], MESH.vertices])
    trimesh.Trimesh(vertices, MESH.faces + 1, process=False).export(tmp_path / "mesh.ply")
    scan = zoo.Scan.read(tmp_path / "mesh.ply")
    np.testing.assert_allclose(scan.points, MESH.vertices, atol=1e-6)
    assert scan.faces.max() == len(scan) - 1


PLY = """ply
format {kind} 1.0
element vertex 3
property float x
property float y
property float z
property float nx
property float ny
property float nz
end_header
"""
ROWS = np.array([[0, 0, 0, 0, 0, 2], [1, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0]], dtype="<f4")


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
def test_clouds_in_ply_keep_their_normals(tmp_path, kind):
    text = "\n".join(" ".join(map(str, row)) for row in ROWS) + "\n"
    body = text.encode() if kind == "ascii" else ROWS.tobytes()
    (tmp_path / "cloud.ply").write_bytes(PLY.format(kind=kind).encode() + body)
    scan = zoo.Scan.read(tmp_path / "cloud.ply")
    np.testing.assert_allclose(scan.points, ROWS[:, :3])
    np.testing.assert_allclose(scan.normals, [[0, 0, 1], [0, 1, 0], [1, 0, 0]])


def test_tables(tmp_path):
    scan = shapes.torus(50)
    rows = np.concatenate([scan.points, scan.normals], axis=1)
    np.savetxt(tmp_path / "a.xyz", rows)
    np.save(tmp_path / "b.npy", rows)
    np.savez(tmp_path / "c.npz", points=scan.points, normals=scan.normals)
    for name in ("a.xyz", "b.npy", "c.npz"):
        read = zoo.Scan.read(tmp_path / name)
        np.testing.assert_allclose(read.points, scan.points)
        np.testing.assert_allclose(read.normals, scan.normals)
    np.savetxt(tmp_path / "bare.xyz", scan.points)
    assert zoo.Scan.read(tmp_path / "bare.xyz").normals is None
    np.savetxt(tmp_path / "plane.xyz", scan.points[:, :2])
    assert zoo.Scan.read(tmp_path / "plane.xyz").dims == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("not.ply", b"solid nothing"),
        ("cut.ply", PLY.format(kind="binary_little_endian").encode() + ROWS.tobytes()[:20]),
        ("text.npy", b"1 2 3\n4 5 6\n"),
        ("words.xyz", b"one two three\n"),
        ("wide.xyz", b"1 2 3 4 5\n1 2 3 4 5\n"),
        ("empty.xyz", b""),
        ("empty.obj", b""),
        ("binary.off", bytes(range(200))),
        ("short.stl", b"solid"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_files_that_are_not_what_they_say(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        zoo.Scan.read(tmp_path / name)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        zoo.Scan.read(tmp_path / "absent.ply")
    (tmp_path / "scan.doc").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"suffix must be one of \.ply"):
        zoo.Scan.read(tmp_path / "scan.doc")


THREE = np.eye(3)


@pytest.mark.parametrize(
    ("points", "normals", "message"),
    [
        (np.zeros((0, 3)), None, "at least two points, not 0"),
        (np.zeros((1, 3)), None, "at least two points, not 1"),
        (np.zeros((5, 3)), None, "all equal"),
        (np.zeros((5, 4)), None, r"not \(5, 4\)"),
        (np.zeros(5), None, r"not \(5,\)"),
        (np.array([[0, 0, np.nan], [1, 1, 1]]), None, "points must be finite; 1 values"),
        (np.array([[0, 0, np.inf], [1, 1, 1]]), None, "points must be finite; 1 values"),
        (THREE, THREE[:2], r"normals must have the shape of points, \(3, 3\), not \(2, 3\)"),
        (THREE, np.diag([1.0, 0.0, 1.0]), "the one of point 1 is"),
        (THREE, THREE * np.nan, "normals must be finite"),
    ],
)
def test_bad_scans(points, normals, message):
    with pytest.raises(ValueError, match=message):
        zoo.Scan(points, normals)


def test_splits_are_disjoint_and_seeded():
    scan = shapes.torus(101)
    training, test = scan.split(test=0.25, seed=1)
    assert (len(training), len(test)) == (76, 25)
    together = np.concatenate([training.points, test.points])
    assert len(np.unique(together, axis=0)) == 101
    np.testing.assert_array_equal(test.points, scan.split(test=0.25, seed=1)[1].points)
    with pytest.raises(ValueError, match="test must lie between 0 and 1, not 1.5"):
        scan.split(test=1.5)


def test_written_meshes_read_back_and_leave_nothing_half_done(tmp_path):
    write_mesh(MESH, tmp_path / "new" / "mesh.ply")
    assert len(zoo.Scan.read(tmp_path / "new" / "mesh.ply")) == len(MESH.vertices)
    with pytest.raises(ValueError, match="cannot write"):
        write_mesh(MESH, tmp_path / "mesh.docx")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mesh.ply"]


def test_the_torus_is_exact_and_area_uniform():
    torus = shapes.torus(40_000)
    assert np.abs(shapes.torus_distance(torus.points)).max() < 1e-6
    step = 1e-4 * torus.normals
    slope = shapes.torus_distance(torus.points + step) / 1e-4
    np.testing.assert_allclose(slope, 1, atol=1e-3)
    # The outer half of a torus has the larger area: 1/2 + r / (pi R).
    outer = np.hypot(*torus.points[:, :2].T) > 0.6
    assert outer.mean() == pytest.approx(0.5 + 0.25 / (np.pi * 0.6), abs=0.01)


def test_the_knot_is_a_tube():
    knot = shapes.torus_knot(5000, tube=0.2)
    centre_line = knot.points - 0.2 * knot.normals
    t = np.linspace(0, 2 * np.pi, 20_000)
    ring = 1 + 0.45 * np.cos(3 * t)
    curve = np.stack([ring * np.cos(2 * t), ring * np.sin(2 * t), 0.45 * np.sin(3 * t)], axis=1)
    from scipy.spatial import cKDTree

    assert cKDTree(curve).query(centre_line)[0].max() < 1e-3


def test_real_files(data):
    bunny = zoo.Scan.read(data("stanford_bunny/bun_zipper.ply"))
    assert len(bunny) == 34_834 and bunny.normals is not None
    assert zoo.Scan.read(data("stanford_bunny/bun000.ply")).normals is None
    assert zoo.Scan.read(data("surface_scans/anchor.ply")).normals.shape == (85_127, 3)


def test_columns_that_are_no_normals_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    np.savetxt(tmp_path / "intensity.xyz", rng.uniform(0, 99, (20, 4)))
    np.savetxt(tmp_path / "colours.xyz", rng.integers(0, 255, (20, 6)))
    for name in ("intensity.xyz", "colours.xyz"):
        with pytest.raises(ValueError, match="no unit normals; intensities or colours"):
            zoo.Scan.read(tmp_path / name)


def test_tiny_scans_do_not_split():
    with pytest.raises(ValueError, match="fewer than two of the 3 points"):
        zoo.Scan(np.eye(3)).split()
