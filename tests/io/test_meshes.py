"""Meshes as other programs write them: every vertex, in the order of the file, with its digits."""

import struct

import numpy as np
import pytest
import trimesh

import zoo
from zoo.io.meshes import read_mesh, write_mesh, write_moved
from zoo.io.ply import ply_bytes, read_ply

BOX = trimesh.creation.box((2, 3, 4))
VERTICES = np.array(BOX.vertices) + [10, 20, 30]
FACES = np.array(BOX.faces)
QUADS = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
AREA = 52.0
UTM = np.array([448262.35, 5411932.71, 120.4])


def rows(table):
    return "".join(" ".join(map(str, row)) + "\n" for row in table)


def obj_rows(faces, start=0):
    """Faces whose corners have texture coordinates of their own, as along seams."""
    lines = (
        " ".join(f"{v + 1}/{(3 * k + j + start) % 14 + 1}/1" for j, v in enumerate(face))
        for k, face in enumerate(faces)
    )
    return "".join(f"f {line}\n" for line in lines)


POINTS = "".join(f"v {x} {y} {z}\n" for x, y, z in VERTICES)
TEXTURE = "".join(f"vt {k / 10} {k / 5}\n" for k in range(14)) + "vn 0 0 1\n"
PLY = (
    "ply\nformat ascii 1.0\ncomment TextureFile absent.jpg\nelement vertex 8\nproperty float x\n"
    "property float y\nproperty float z\nelement face 12\nproperty list uchar int vertex_indices\n"
    "property list uchar float texcoord\nproperty int texnumber\nend_header\n"
)
FILES = {
    "seams.obj": POINTS + TEXTURE + obj_rows(FACES),
    "materials.obj": f"mtllib absent.mtl\no Box\n{POINTS}{TEXTURE}usemtl one\n{obj_rows(FACES[:6])}"
    f"g other\nusemtl two\ns off\n{obj_rows(FACES[6:], 5)}",
    "back.obj": POINTS + "".join(f"f {a - 8} {b - 8} {c - 8}\n" for a, b, c in FACES),
    "quads.obj": POINTS + "".join(f"f {' '.join(str(v + 1) for v in q)}\n" for q in QUADS),
    "long.obj": POINTS + "".join(f"f {a + 1} \\\n{b + 1} {c + 1} # end\r\n" for a, b, c in FACES),
    "texture.ply": PLY
    + rows(VERTICES)
    + rows([[3, *face, 6, k / 12, 0, 1, 0, 1, 1, 0] for k, face in enumerate(FACES)]),
    "colours.off": f"COFF\n# by hand\n8 6 0\n\n{rows([[*v, 255, 0, 0, 255] for v in VERTICES])}"
    + rows([[4, *quad, 0.1, 0.2, 0.3] for quad in QUADS]),
    "normals.off": f"NOFF 8 12 0\n{rows([[*v, 0, 0, 1] for v in VERTICES])}"
    + rows([[3, *face] for face in FACES]),
}


@pytest.mark.parametrize("name", FILES)
def test_vertices_are_those_of_the_file(tmp_path, name):
    (tmp_path / name).write_text(FILES[name], newline="")
    mesh = read_mesh(tmp_path / name)
    np.testing.assert_allclose(mesh.vertices, VERTICES, atol=1e-6)
    assert mesh.area == pytest.approx(AREA) and mesh.is_watertight
    assert mesh.volume == pytest.approx(24)
    scan = zoo.Scan.read(tmp_path / name)
    np.testing.assert_allclose(scan.points, VERTICES, atol=1e-6)
    np.testing.assert_array_equal(scan.faces, mesh.faces)


def test_normals_and_colours_of_vertices_are_kept(tmp_path):
    normals = np.random.default_rng(0).normal(size=(8, 3))
    text = "".join(f"v {x} {y} {z} 0 0.5 1\n" for x, y, z in VERTICES)
    text += "".join(f"vn {x} {y} {z}\n" for x, y, z in normals)
    text += "".join(f"f {a + 1}//{a + 1} {b + 1}//{b + 1} {c + 1}//{c + 1}\n" for a, b, c in FACES)
    (tmp_path / "own.obj").write_text(text)
    scan = zoo.Scan.read(tmp_path / "own.obj")
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    np.testing.assert_allclose(scan.normals, normals / lengths, atol=1e-9)
    colours = read_mesh(tmp_path / "own.obj").visual.vertex_colors
    np.testing.assert_array_equal(colours[:, :3], [[0, 128, 255]] * 8)


def texture_lists(order, texture):
    """A .ply whose faces have so many texture coordinates each."""
    if order == "ascii":
        table = [[3, *f, n, *[0.5] * n, 7] for f, n in zip(FACES, texture, strict=True)]
        return (PLY + rows(VERTICES) + rows(table)).encode()
    sign = {"binary_little_endian": "<", "binary_big_endian": ">"}[order]
    body = VERTICES.astype(f"{sign}f4").tobytes()
    for face, count in zip(FACES, texture, strict=True):
        numbers = (3, *face, count, *[0.5] * count, 7)
        body += struct.pack(f"{sign}B3iB{count}fi", *numbers)
    return PLY.replace("ascii", order).encode() + body


@pytest.mark.parametrize("order", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("texture", [[0] * 12, [6] * 12, [6, 0] * 6, [0] + [6] * 11])
def test_texture_lists_may_be_empty(tmp_path, order, texture):
    (tmp_path / "a.ply").write_bytes(texture_lists(order, texture))
    mesh = read_mesh(tmp_path / "a.ply")
    np.testing.assert_allclose(mesh.vertices, VERTICES)
    np.testing.assert_array_equal(mesh.faces, FACES)
    ply = read_ply((tmp_path / "a.ply").read_bytes())
    again = read_ply(ply_bytes(ply))
    assert again.comments == ["comment TextureFile absent.jpg"]
    for one, other in zip(ply.elements, again.elements, strict=True):
        assert one.kinds == other.kinds
    face = again.element("face")
    np.testing.assert_array_equal(face.columns["texcoord"].lengths, texture)
    np.testing.assert_array_equal(face.columns["texcoord"].values, [0.5] * sum(texture))
    np.testing.assert_array_equal(face.columns["texnumber"], [7] * 12)


def test_triangles_and_quads_in_one_binary_ply(tmp_path):
    faces = [*QUADS[:3], *([q[0], *q[k : k + 2]] for q in QUADS[3:] for k in (1, 2))]
    head = PLY[: PLY.index("property list uchar float")] + "end_header\n"
    head = head.replace("ascii", "binary_little_endian").replace("face 12", f"face {len(faces)}")
    body = b"".join(struct.pack(f"<B{len(face)}i", len(face), *face) for face in faces)
    contents = head.encode() + VERTICES.astype("<f4").tobytes() + body
    (tmp_path / "mixed.ply").write_bytes(contents)
    mesh = read_mesh(tmp_path / "mixed.ply")
    assert mesh.area == pytest.approx(AREA) and mesh.volume == pytest.approx(24)
    assert ply_bytes(read_ply(contents)) == contents


@pytest.mark.parametrize("kind", ["vertex", "face"])
@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_colours_of_others_in_ply(tmp_path, kind, encoding):
    mesh = trimesh.Trimesh(VERTICES, FACES, process=False)
    colours = np.random.default_rng(0).integers(0, 255, (8 if kind == "vertex" else 12, 4))
    setattr(mesh.visual, f"{kind}_colors", colours.astype(np.uint8))
    mesh.export(tmp_path / "theirs.ply", encoding=encoding)
    ours = read_mesh(tmp_path / "theirs.ply").visual
    assert ours.kind == kind
    np.testing.assert_array_equal(getattr(ours, f"{kind}_colors"), colours)


COLOURED = {
    "a.obj": f"mtllib a.mtl\n{POINTS}{TEXTURE}usemtl one\n{obj_rows(QUADS)}",
    "a.ply": PLY.replace("float z\n", "float z\nproperty float quality\nproperty uchar red\n")
    + rows([[*v, 0.5, k] for k, v in enumerate(VERTICES)])
    + rows([[3, *face, 6, *[0.25] * 6, 7] for face in FACES]),
    "a.off": f"STCNOFF\n8 6 0\n{rows([[*v, 0, 0, 1, 9, 8, 7, 255, 0.5, 0.5] for v in VERTICES])}"
    + rows([[4, *quad, 1, 2, 3] for quad in QUADS]),
}


@pytest.mark.parametrize("name", COLOURED)
def test_a_moved_mesh_keeps_what_its_file_held(tmp_path, name):
    source, out = tmp_path / name, tmp_path / f"moved{name[1:]}"
    source.write_text(COLOURED[name])
    moved = read_mesh(source).vertices + UTM + 1e-7
    if name == "a.ply":
        write_moved(source, moved, out)
        before, after = read_ply(source.read_bytes()), read_ply(out.read_bytes())
        vertex = after.element("vertex")
        assert vertex.stacked(("quality", "red")).tolist() == [[0.5, k] for k in range(8)]
        for name in before.element("face").columns:
            columns = (each.element("face").columns[name] for each in (before, after))
            values = [getattr(column, "values", column) for column in columns]
            np.testing.assert_array_equal(*values)
    else:
        with pytest.warns(UserWarning, match=f"'{name}': left out .* are the normals of the vert"):
            write_moved(source, moved, out)
        skipped = {"a.obj": ("v ", "vn "), "a.off": ()}[name]
        said = [line for line in out.read_text().splitlines() if not line.startswith(skipped)]
        kept = {
            "a.obj": [
                line.replace("/1 ", " ").removesuffix("/1") if line[0] == "f" else line
                for line in COLOURED[name].splitlines()
                if not line.startswith(skipped)
            ],
            "a.off": ["STCOFF", "8 6 0"]
            + [f"{x!r} {y!r} {z!r} 9 8 7 255 0.5 0.5" for x, y, z in moved.tolist()]
            + [f"4 {' '.join(map(str, quad))} 1 2 3" for quad in QUADS],
        }[name]
        assert said == kept
    again = read_mesh(out)
    np.testing.assert_array_equal(again.vertices, moved)
    np.testing.assert_array_equal(again.faces, read_mesh(source).faces)


@pytest.mark.parametrize(
    ("name", "suffix", "lost"),
    [
        ("a.obj", ".ply", "normals of the vertices.*, texture coordinates, materials"),
        ("a.ply", ".obj", "quality of its vertex elements, texcoord, texnumber of its face"),
        ("a.off", ".ply", "normals of the vertices.*, texture coordinates, colours of the faces"),
        ("a.off", ".stl", "cannot hold the colours of its vertices"),
    ],
)
def test_what_another_kind_of_file_cannot_hold_is_said(tmp_path, name, suffix, lost):
    (tmp_path / name).write_text(COLOURED[name])
    mesh = read_mesh(tmp_path / name)
    with pytest.warns(UserWarning, match=lost):
        write_moved(tmp_path / name, mesh.vertices + 1, tmp_path / f"b{suffix}")
    again = read_mesh(tmp_path / f"b{suffix}")
    if suffix != ".stl":
        np.testing.assert_allclose(again.vertices, VERTICES + 1)
    if (name, suffix) == ("a.off", ".ply"):
        np.testing.assert_array_equal(again.visual.vertex_colors[:, :3], [[9, 8, 7]] * 8)


@pytest.mark.parametrize(("name", "beside"), [("a.obj", "a.mtl"), ("a.ply", "absent.jpg")])
def test_files_beside_a_moved_mesh_are_named(tmp_path, name, beside):
    (tmp_path / name).write_text(COLOURED[name])
    with pytest.warns(UserWarning, match=f"names {beside}, to be copied from {tmp_path}"):
        write_moved(tmp_path / name, VERTICES, tmp_path / "other" / name)


def test_moved_vertices_are_as_many(tmp_path):
    (tmp_path / "a.ply").write_text(COLOURED["a.ply"])
    with pytest.raises(ValueError, match=r"vertices must have the shape \(8, 3\)"):
        write_moved(tmp_path / "a.ply", VERTICES[:7], tmp_path / "b.ply")


def test_stl_vertices_are_merged_only_where_they_are_equal(tmp_path):
    tiny = VERTICES * 1e-9
    facets = np.zeros(12, [("n", "<f4", 3), ("v", "<f4", (3, 3)), ("a", "<u2")])
    facets["v"] = tiny[FACES]
    (tmp_path / "tiny.stl").write_bytes(bytes(80) + struct.pack("<I", 12) + facets.tobytes())
    scan = zoo.Scan.read(tmp_path / "tiny.stl")
    _, first = np.unique(FACES.ravel(), return_index=True)
    order = FACES.ravel()[np.sort(first)]
    np.testing.assert_array_equal(scan.points, tiny[order].astype("f4"))
    np.testing.assert_array_equal(scan.points[scan.faces], facets["v"])
    assert ((scan.normals * (scan.points - scan.points.mean(axis=0))).sum(axis=1) > 0).all()


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".off"])
@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_written_coordinates_keep_their_digits(tmp_path, suffix, scale):
    vertices = scale * (VERTICES / 7 + UTM)
    mesh = trimesh.Trimesh(vertices, FACES, process=False)
    if suffix != ".off":
        mesh.visual.vertex_colors = np.random.default_rng(0).integers(0, 255, (8, 4))
    write_mesh(mesh, tmp_path / f"mesh{suffix}")
    options = {"maintain_order": True} if suffix == ".obj" else {}
    theirs = trimesh.load(tmp_path / f"mesh{suffix}", process=False, **options)
    close = 1e-16 * np.abs(vertices).max()
    np.testing.assert_allclose(theirs.vertices, vertices, rtol=0, atol=close)
    np.testing.assert_array_equal(theirs.faces, FACES)
    ours = read_mesh(tmp_path / f"mesh{suffix}")
    np.testing.assert_allclose(ours.vertices, vertices, rtol=0, atol=close)
    if suffix == ".ply":
        np.testing.assert_array_equal(theirs.visual.vertex_colors, mesh.visual.vertex_colors)
        cloud = trimesh.PointCloud(vertices)
        write_mesh(cloud, tmp_path / "cloud.ply")
        np.testing.assert_array_equal(trimesh.load(tmp_path / "cloud.ply").vertices, vertices)


def test_what_cannot_be_kept_is_said(tmp_path):
    far = trimesh.Trimesh(VERTICES + UTM, FACES, process=False)
    with pytest.warns(UserWarning, match="single precision, which moves vertices by up to 0"):
        write_mesh(far, tmp_path / "far.stl")
    write_mesh(BOX, tmp_path / "near.stl")
    with pytest.raises(ValueError, match="'cloud.obj' cannot hold a cloud without faces"):
        write_mesh(trimesh.PointCloud(VERTICES), tmp_path / "cloud.obj")


FLAT = PLY.replace("float z", "float w").replace("face 12", "face 0")
HUGE = PLY.replace("element vertex 8", "element vertex 4000000000")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("far.obj", POINTS + "f 1 2 9\n", "1 of its 1 faces name vertices that there are not"),
        ("zero.obj", POINTS + "f 0 1 2\n", "names vertex 0"),
        ("back.obj", POINTS + "f 1 2 -9\n", "names vertex -9"),
        ("two.obj", POINTS + "f 1 2\n", "2 corners"),
        ("word.obj", POINTS + "f 1 2 x\n", "invalid literal"),
        ("short.obj", "v 1 2\nv 1 2\n", ""),
        ("far.off", f"OFF\n8 1 0\n{rows(VERTICES)}3 0 1 8\n", "1 of its 1 faces"),
        ("negative.off", f"OFF\n8 1 0\n{rows(VERTICES)}3 0 1 -1\n", "1 of its 1 faces"),
        ("cut.off", f"OFF\n8 12 0\n{rows(VERTICES)}3 0 1 2\n", "announces 8 vertices and 12 faces"),
        ("huge.off", "OFF\n4000000000 1 0\n1 2 3\n", "announces 4000000000"),
        ("minus.off", "OFF\n-8 1 0\n1 2 3\n", "announces -8"),
        ("binary.off", "OFF BINARY\n", "plain text"),
        ("empty.off", "", "empty"),
        (
            "far.ply",
            PLY + rows(VERTICES) + rows([[3, 0, 1, 8, *[6] * 7, 0]] * 12),
            "12 of its 12 faces name",
        ),
        (
            "minus.ply",
            PLY + rows(VERTICES) + rows([[3, 0, 1, -1, *[6] * 7, 0]] * 12),
            "12 of its 12",
        ),
        ("huge.ply", HUGE + rows(VERTICES), ""),
        ("huge2.ply", HUGE.replace("ascii", "binary_little_endian") + rows(VERTICES), ""),
        ("cut.ply", PLY[:90], "no header that begins with ply"),
        ("rows.ply", PLY + rows(VERTICES) + "3 0 1 2 0 0\n", "ends before its 12 rows of face do"),
        ("word.ply", PLY + rows(VERTICES) + rows([[3, "a", 1, 2, 0, 0]] * 12), "convert"),
        ("half.ply", PLY + rows(VERTICES) + rows([[3, 0.5, 1, 2, 0, 0]] * 12), "no whole number"),
        ("less.ply", PLY + rows(VERTICES) + rows([[-3, 0, 1, 2, 0, 0]] * 12), "the length -3"),
        ("long.ply", PLY + "1" * 99, "a word of 99 letters"),
        ("kind.ply", PLY.replace("float x", "real x"), "header has the line 'property real x'"),
        ("twice.ply", PLY.replace("float y", "float x"), "vertex has two 'x'"),
        ("flat.ply", FLAT + rows(VERTICES), "no vertices of x, y"),
        ("bare.ply", PLY.replace("ascii 1.0", "utf 8"), "line 'format utf 8'"),
        (
            "other.ply",
            PLY.replace("vertex_indices", "corners") + rows(VERTICES) + "3 0 1 2 0 0\n" * 12,
            "no list of vertex_indices",
        ),
        ("nan.off", "OFF\n3 1 0\n0 0 nan\n1 0 0\n0 1 0\n3 0 1 2\n", "points must be finite"),
    ],
)
def test_hostile_meshes(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"'{name}' is not a readable.*{message}"):
        zoo.Scan.read(tmp_path / name)


def test_hostile_stl(tmp_path):
    (tmp_path / "huge.stl").write_bytes(bytes(80) + struct.pack("<I", 2**32 - 1) + bytes(100))
    with pytest.raises(ValueError, match="'huge.stl' is not a readable"):
        zoo.Scan.read(tmp_path / "huge.stl")
