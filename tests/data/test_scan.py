"""Scans: what files give, what bad input says, and the analytic shapes."""

import numpy as np
import pytest
import trimesh

import zoo
from zoo.data import shapes
from zoo.data.orientation import doubts_of_normals
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


def test_unused_vertices_keep_their_rows(tmp_path):
    vertices = np.concatenate([MESH.vertices[:5], [[9, 9, 9]], MESH.vertices[5:]])
    faces = MESH.faces + (MESH.faces >= 5)
    trimesh.Trimesh(vertices, faces, process=False).export(tmp_path / "mesh.ply")
    with pytest.warns(UserWarning, match=r"1 belong to no face.* numbers 5\."):
        scan = zoo.Scan.read(tmp_path / "mesh.ply")
    np.testing.assert_allclose(scan.points, vertices, atol=1e-6)
    np.testing.assert_array_equal(scan.faces, faces)
    rest = scan.without_unused()
    np.testing.assert_allclose(rest.points, MESH.vertices, atol=1e-6)
    np.testing.assert_array_equal(rest.faces, MESH.faces)
    training, test = scan.split()
    assert len(training) + len(test) == len(MESH.vertices)


def test_faces_without_area_cost_no_normals():
    whole = zoo.Scan.from_mesh(MESH).normals
    a, b = MESH.faces[0][:2]
    middle = MESH.vertices[[a, b]].mean(axis=0)
    vertices = np.concatenate([MESH.vertices, [middle]])
    faces = np.concatenate([MESH.faces, [[a, len(MESH.vertices), b], [a, a, b]]])
    with pytest.warns(UserWarning, match="1 only to faces without area.* numbers 162"):
        scan = zoo.Scan.from_mesh(trimesh.Trimesh(vertices, faces, process=False))
    np.testing.assert_allclose(scan.normals[:-1], whole, atol=1e-9)
    assert scan.normals[-1] @ middle > 0.8 * np.linalg.norm(middle)
    flat = trimesh.Trimesh(vertices, faces[-1:], process=False)
    with pytest.warns(UserWarning, match="no face of 'mesh' has an area"):
        assert zoo.Scan.from_mesh(flat).normals is None


@pytest.mark.parametrize("share", [0.05, 0.5, 0.65])
def test_winding_is_mended(share):
    faces = MESH.faces.copy()
    turned = np.random.default_rng(0).permutation(len(faces))[: int(share * len(faces))]
    faces[turned] = faces[turned][:, ::-1]
    with pytest.warns(UserWarning, match=rf"{len(turned)} of the 320 faces .* are turned"):
        scan = zoo.Scan.from_mesh(trimesh.Trimesh(MESH.vertices, faces, process=False))
    assert (scan.normals * scan.points).sum(axis=1).min() > 0.99
    mended = trimesh.Trimesh(scan.points, scan.faces, process=False)
    assert mended.is_winding_consistent and mended.volume == pytest.approx(MESH.volume)


def test_a_strip_with_one_side_is_reported():
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    vertices = [
        [
            (1 + w * np.cos(a / 2)) * np.cos(a),
            (1 + w * np.cos(a / 2)) * np.sin(a),
            w * np.sin(a / 2),
        ]
        for a in angles
        for w in (-0.3, 0.3)
    ]
    ends = [(2 * k, 2 * k + 1) for k in range(40)] + [(1, 0)]
    faces = []
    for (a, b), (c, d) in zip(ends, ends[1:], strict=False):
        faces += [(a, b, d), (a, d, c)]
    with pytest.warns(UserWarning, match="no turning of some makes them agree"):
        scan = zoo.Scan.from_mesh(trimesh.Trimesh(vertices, faces, process=False))
    np.testing.assert_array_equal(scan.faces, faces)


@pytest.mark.parametrize("scan", [shapes.torus(2000), shapes.torus_knot(4000, tube=0.2)])
def test_normals_that_point_inward_are_doubted(scan):
    assert doubts_of_normals(scan.points, scan.normals) == []
    (inward,) = doubts_of_normals(scan.points, -scan.normals)
    assert "point inward" in inward
    signs = np.where(np.random.default_rng(0).random(len(scan)) < 0.5, -1, 1)[:, None]
    (mixed,) = doubts_of_normals(scan.points, signs * scan.normals)
    assert "opposite normals" in mixed


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
        (THREE + 0j, None, "points must hold real numbers, not complex128"),
        (THREE > 0, None, "points must hold real numbers, not bool"),
        (THREE.astype(str), None, "points must (hold|be an array of) real numbers"),
        (THREE, THREE > 0, "normals must (hold|be an array of) real numbers"),
        (THREE * 1e35, None, "points must lie within 1e"),
        (THREE * 1e-35, None, "points must lie within 1e"),
    ],
)
def test_bad_scans(points, normals, message):
    with pytest.raises(ValueError, match=message):
        zoo.Scan(points, normals)


@pytest.mark.parametrize(
    ("faces", "message"),
    [
        ([[0, 1, 3]], r"from 0 to 2; face 0 is \[0, 1, 3\]"),
        ([[0, 1, 2], [0, -1, 2]], r"face 1 is \[0, -1, 2\]"),
        ([[0, 1]], r"shape \(1, 2\)"),
        ([[0.0, 1.0, 2.0]], "whole numbers"),
        (np.zeros((0, 3), int), "at least one row"),
        ([[True, False, True]], "not bool"),
    ],
)
def test_bad_faces(faces, message):
    with pytest.raises(ValueError, match=f"faces must be .*{message}"):
        zoo.Scan(THREE, None, faces)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], r"one for each of the 3 points, not \(2,\)"),
        ([1.0, -1.0, 1.0], "not be negative.* from -1 to 1, with 2 above"),
        ([0.0, 0.0, 1.0], "more than zero for at least two points"),
        ([1.0, np.nan, 1.0], "must be finite"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=f"weights must be .*{message}|weights .*{message}"):
        zoo.Scan(THREE, weights=weights)


def test_weights_stay_with_their_points(tmp_path):
    scan = shapes.torus(50)
    weights = np.arange(50.0)
    np.savez(tmp_path / "a.npz", points=scan.points, weights=weights)
    read = zoo.Scan.read(tmp_path / "a.npz")
    np.testing.assert_array_equal(read.subset([3, 1]).weights, [3, 1])
    used = read.without_unused()
    np.testing.assert_array_equal(used.points, scan.points[1:])
    np.testing.assert_array_equal(used.weights, weights[1:])
    joined = zoo.Scan.joined([read, scan])
    np.testing.assert_array_equal(joined.weights, np.concatenate([weights, np.ones(50)]))
    training, test = read.split(seed=2)
    np.testing.assert_array_equal(np.sort(np.concatenate([training.weights, test.weights]))[1], 2.0)


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
    assert len(bunny) == 35_947 and bunny.normals is not None
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


def test_an_archive_that_declares_too_much_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, points=np.zeros((10_000, 3)))
    monkeypatch.setattr("zoo.data.scan.MOST_BYTES", 100_000)
    with pytest.raises(ValueError, match="declares 2.* bytes when unpacked"):
        zoo.Scan.read(path)


def test_range_scans_are_joined_in_their_common_frame(tmp_path):
    import trimesh

    whole = shapes.torus(300)
    turn = trimesh.transformations.rotation_matrix(0.7, [1.0, 2.0, 0.5])
    turn[:3, 3] = 1.0, -2.0, 3.0
    back = np.linalg.inv(turn)
    seen = whole.points @ back[:3, :3].T + back[:3, 3]
    np.savez(tmp_path / "one.npz", points=whole.points[:100], normals=whole.normals[:100])
    np.savez(tmp_path / "two.npz", points=seen[100:], normals=whole.normals[100:] @ back[:3, :3].T)
    paths = [tmp_path / "one.npz", tmp_path / "two.npz"]
    scan = zoo.Scan.read(paths, poses=[np.eye(4), turn])
    np.testing.assert_allclose(scan.points, whole.points, atol=1e-9)
    np.testing.assert_allclose(scan.normals, whole.normals, atol=1e-6)
    bare = zoo.Scan.joined([zoo.Scan(whole.points), whole])
    assert bare.normals is None and len(bare) == 600


@pytest.mark.parametrize(
    ("scans", "poses", "message"),
    [
        ([], None, "scans must be one or more of one dimension"),
        ([shapes.sphere(9), shapes.circle(9)], None, "of one dimension, not \\[3, 2\\]"),
        ([shapes.sphere(9)], [np.eye(4)] * 2, "poses must be 1, one for each scan, not 2"),
        ([shapes.sphere(9)], [2 * np.eye(4)], r"poses\[0\] must be a rigid motion"),
        ([shapes.sphere(9)], [np.eye(3)], r"poses\[0\] must be a rigid motion"),
        ([shapes.sphere(9)], [np.full((4, 4), np.nan)], r"poses\[0\]"),
    ],
)
def test_scans_that_cannot_be_joined(scans, poses, message):
    with pytest.raises(ValueError, match=message):
        zoo.Scan.joined(scans, poses)


def test_poses_of_one_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match="poses need a list of paths"):
        zoo.Scan.read(tmp_path / "one.ply", poses=[np.eye(4)])
