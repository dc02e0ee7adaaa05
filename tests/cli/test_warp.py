"""`zoo warp`."""

import numpy as np
import pytest

import zoo
from zoo.geometry import Grid
from zoo.io.images import read_labels, write_labels
from zoo.io.landmarks import read_named_landmarks, write_landmarks
from zoo.io.meshes import read_mesh
from zoo.transform import Affine


@pytest.mark.parametrize(
    ("name", "labels"), [("labels.png", [0, 1]), ("labels.nii.gz", [2**30 + 1, -7])]
)
def test_warped_labels_keep_their_values(run, shift, tmp_path, name, labels):
    array = np.full((8, 6), labels[0])
    array[4:] = labels[1]
    write_labels(tmp_path / name, array, Grid((8, 6)))
    out = tmp_path / f"moved_{name}"
    words = ("warp", tmp_path / name, shift, "--out", out, "--nearest")
    assert run(*words)[0] == 0
    expected = np.zeros((8, 6))
    expected[:5] = array[3:]
    np.testing.assert_array_equal(read_labels(out)[0], expected)
    assert run(*words, "--outside", 5)[0] == 0
    assert (read_labels(out)[0][5:] == 5).all()
    status, _, err = run(*words, "--outside", 0.5)
    assert status == 1 and "--outside" in err


def test_warp_outside_and_like(run, shift, tmp_path):
    image = zoo.Image(np.arange(48.0).reshape(8, 6) - 1000, Grid((8, 6)))
    source, out = tmp_path / "ct.nii.gz", tmp_path / "out.nii.gz"
    image.write(source)
    for words, value in (((), -1000), (("--outside", "-24"), -24)):
        run("warp", source, shift, "--out", out, *words)
        assert (zoo.Image.read(out).array[5:] == value).all()
    bare = shift.with_name("shift.h5")
    for words in (("warp", source, bare), ("jacobian", bare)):
        status, _, err = run(*words, "--out", out)
        assert status == 1 and "--like" in err
        assert run(*words, "--out", out, "--like", source)[0] == 0


def test_warp_keeps_the_names_of_landmarks(run, shift, tmp_path):
    source, out = tmp_path / "points.csv", tmp_path / "out.csv"
    write_landmarks(source, [[4, 2], [5, 3]], ["nose", "chin"])
    assert run("warp", source, shift, "--out", out)[0] == 0
    names, points = read_named_landmarks(out)
    assert names == ["nose", "chin"]
    np.testing.assert_allclose(points, [[1, 2], [2, 3]], atol=1e-4)


def test_warp_keeps_texture_coordinates_and_says_what_it_drops(run, tmp_path):
    points = "v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 1\n"
    rest = "vt 0 0\nvt 1 0\nvt 0 1\nusemtl red\nf 1/1 2/2 3/3\n"
    (tmp_path / "a.obj").write_text(points + rest)
    Affine(np.eye(3), [3.0, 0.0, 0.0]).save(tmp_path / "shift.h5")
    words = ("warp", tmp_path / "a.obj", tmp_path / "shift.h5", "--out")
    status, _, err = run(*words, tmp_path / "b.obj")
    assert status == 0 and "left out" not in err
    moved = "v -3.0 0.0 0.0 1 0 0\nv -2.0 0.0 0.0 0 1 0\nv -3.0 1.0 0.0 0 0 1\n"
    assert (tmp_path / "b.obj").read_text() == moved + rest
    status, _, err = run(*words, tmp_path / "b.ply")
    assert status == 0 and "left out of 'b.ply' are texture coordinates, materials" in err
    colours = read_mesh(tmp_path / "b.ply").visual.vertex_colors
    np.testing.assert_array_equal(colours[:, :3], 255 * np.eye(3))


@pytest.mark.parametrize("suffix", [".xyz", ".npy", ".npz"])
def test_warp_a_table_of_points(run, shift, tmp_path, suffix):
    points = np.random.default_rng(0).random((9, 2))
    np.save(tmp_path / "cloud.npy", points)
    out = tmp_path / f"out{suffix}"
    transform = shift.with_name("shift.h5")
    assert run("warp", tmp_path / "cloud.npy", transform, "--out", out)[0] == 0
    np.testing.assert_allclose(zoo.Scan.read(out).points, points - [3, 0])
    status, _, err = run("warp", out, transform, "--out", tmp_path / "out.csv")
    assert status == 1 and "--out" in err
