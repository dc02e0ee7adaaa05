import json

import numpy as np
import pytest

from zoo.io.landmarks import (
    read_common_landmarks,
    read_landmarks,
    read_named_landmarks,
    write_landmarks,
)

POINTS = np.random.default_rng(0).normal(size=(7, 3)) * 100


@pytest.mark.parametrize("suffix", [".csv", ".fcsv", ".mrk.json"])
@pytest.mark.parametrize("names", [None, [f"nose, {k}" for k in range(7)]])
def test_round_trip(tmp_path, suffix, names):
    path = tmp_path / f"new/points{suffix}"
    write_landmarks(path, POINTS, names)
    back_names, back = read_named_landmarks(path)
    np.testing.assert_array_equal(back, POINTS)
    if names or suffix != ".csv":
        assert back_names == (names or [f"F-{k}" for k in range(1, 8)])


def test_round_trip_in_the_plane(tmp_path):
    write_landmarks(tmp_path / "points.csv", POINTS[:, :2])
    np.testing.assert_array_equal(read_landmarks(tmp_path / "points.csv"), POINTS[:, :2])
    with pytest.raises(ValueError, match=r"2 coordinates; \.fcsv holds 3"):
        write_landmarks(tmp_path / "points.fcsv", POINTS[:, :2])


@pytest.mark.parametrize(
    ("text", "names", "points"),
    [
        ("1.5,2\n3,4\n", None, [[1.5, 2], [3, 4]]),
        ("1.5,2,7\n3,4,8\n", None, [[1.5, 2, 7], [3, 4, 8]]),
        ("x,y\n1,2\n", None, [[1, 2]]),
        ("X;Y;Z\n1;2;3\n", None, [[1, 2, 3]]),
        (",X,Y\n1,59,72\n4,122,108\n", ["1", "4"], [[59, 72], [122, 108]]),
        ("name,x,y,z\nnose,1,2,3\n", ["nose"], [[1, 2, 3]]),
        ("x,y,comment\n1,2,good\n", None, [[1, 2]]),
        ("0,10,20\n1,11,21\n", ["0", "1"], [[10, 20], [11, 21]]),
        ("1,10,20\n2,11,21\n3,1,1\n", ["1", "2", "3"], [[10, 20], [11, 21], [1, 1]]),
        ("24.0,76.0,54.0\n26.0,96.0,59.0\n", None, [[24, 76, 54], [26, 96, 59]]),
        ("7,1,2,3\n9,4,5,6\n", ["7", "9"], [[1, 2, 3], [4, 5, 6]]),
        ("\ufeffx,y\r\n1,2\r\n\r\n", None, [[1, 2]]),
    ],
)
def test_tables(tmp_path, text, names, points):
    (tmp_path / "points.csv").write_text(text, encoding="utf-8", newline="")
    found, array = read_named_landmarks(tmp_path / "points.csv")
    assert found == names
    np.testing.assert_array_equal(array, points)
    assert array.dtype == np.float64


@pytest.mark.parametrize(
    ("system", "sign"), [("LPS", 1), ("RAS", -1), ("0", -1), ("1", 1), (None, -1)]
)
def test_slicer_tables(tmp_path, system, sign):
    lines = ["# Markups fiducial file version = 4.11"]
    lines += [] if system is None else [f"# CoordinateSystem = {system}"]
    lines += [
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID",
        "1,10.5,20,30,0,0,0,1,1,1,0,F-1,,",
        "2,-1,-2,-3,0,0,0,1,1,1,0,F-2,,",
    ]
    (tmp_path / "points.fcsv").write_text("\n".join(lines))
    names, points = read_named_landmarks(tmp_path / "points.fcsv")
    assert names == ["F-1", "F-2"]
    np.testing.assert_array_equal(points, [[sign * 10.5, sign * 20, 30], [-sign, -2 * sign, -3]])


def test_slicer_markups(tmp_path):
    def markup(**changes):
        point = {"label": "a", "position": [1, 2, 3], "positionStatus": "defined"}
        absent = {"label": "b", "position": [0, 0, 0], "positionStatus": "undefined"}
        content = {"type": "Fiducial", "controlPoints": [point, absent]} | changes
        (tmp_path / "points.mrk.json").write_text(json.dumps({"markups": [content]}))
        return read_landmarks(tmp_path / "points.mrk.json").tolist()

    assert markup(coordinateSystem="LPS") == [[1, 2, 3]]
    assert markup(coordinateSystem="RAS") == [[-1, -2, 3]]
    assert markup() == [[1, 2, 3]]
    assert markup(coordinateUnits=["mm", "mm", "mm"]) == [[1, 2, 3]]
    with pytest.raises(ValueError, match="unit is 'm'; it must be mm"):
        markup(coordinateUnits="m")
    with pytest.raises(ValueError, match="coordinate system is 'IJK'"):
        markup(coordinateSystem="IJK")
    with pytest.raises(ValueError, match="must hold points"):
        markup(controlPoints=[])


def test_lists(tmp_path):
    (tmp_path / "points.txt").write_text("  90\t188  58\n 91 189 59 \n\n")
    np.testing.assert_array_equal(
        read_landmarks(tmp_path / "points.txt"), [[90, 188, 58], [91, 189, 59]]
    )
    head = "# vtk DataFile Version 3.0\nvtk output\nASCII\nDATASET POLYDATA\nPOINTS 2 float\n"
    (tmp_path / "points.vtk").write_text(head + "1.5 2 3 4\n5 6\nVERTICES 0 0\n")
    np.testing.assert_array_equal(read_landmarks(tmp_path / "points.vtk"), [[1.5, 2, 3], [4, 5, 6]])
    (tmp_path / "points.vtk").write_text(head + "1.5 2 3 4\n")
    with pytest.raises(ValueError, match="ends after 1 of 2 points"):
        read_landmarks(tmp_path / "points.vtk")


def test_names_make_pairs(tmp_path):
    (tmp_path / "fixed.csv").write_text(",X,Y\n1,10,11\n2,20,21\n4,40,41\n")
    (tmp_path / "moving.csv").write_text(",X,Y\n4,4,4\n1,1,1\n5,5,5\n")
    with pytest.warns(UserWarning, match="2 landmarks .* no counterpart"):
        fixed, moving = read_common_landmarks(tmp_path / "fixed.csv", tmp_path / "moving.csv")
    assert fixed.tolist() == [[10, 11], [40, 41]] and moving.tolist() == [[1, 1], [4, 4]]
    # Without names in common the order decides, and then the counts must agree.
    (tmp_path / "plain.csv").write_text("x,y\n7,7\n8,8\n9,9\n")
    _, moving = read_common_landmarks(tmp_path / "fixed.csv", tmp_path / "plain.csv")
    assert moving.tolist() == [[7, 7], [8, 8], [9, 9]]
    (tmp_path / "plain.csv").write_text("x,y\n7,7\n")
    with pytest.raises(ValueError, match="3 points and 'plain.csv' 1"):
        read_common_landmarks(tmp_path / "fixed.csv", tmp_path / "plain.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "empty"),
        ("a.csv", "x,y\n", "must hold points"),
        ("a.csv", "x,y\n1,2\n3\n", "different lengths"),
        ("a.csv", "x,y\n1,two\n", "could not convert"),
        ("a.csv", "x,y\n1,nan\n", "1 points with NaN"),
        ("a.csv", "row,column\n1,2\n", "no columns x and y"),
        ("a.csv", "1,2,3,4,5\n", "must hold points of 2 or 3"),
        ("a.mrk.json", "{", "no readable landmarks"),
        ("a.mrk.json", "{}", "no entry 'markups'"),
        ("a.mrk.json", "[]", "no readable landmarks"),
        ("a.fcsv", "nothing,here", "no readable landmarks"),
        ("a.txt", "1 2 3\n4 5\n", "no readable landmarks"),
        ("a.vtk", "hello", "no legacy VTK"),
        ("a.xlsx", "", "has no suffix of landmarks"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"path: '{name}'.*{message}"):
        read_landmarks(tmp_path / name)


def test_bad_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_landmarks(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"'binary.csv' holds no readable landmarks"):
        read_landmarks(tmp_path / "binary.csv")
    for points, names, message in (
        (np.zeros((3, 4)), None, "shape"),
        (np.zeros((0, 3)), None, "shape"),
        (np.full((2, 3), np.inf), None, "finite"),
        (np.zeros((2, 3)), ["one"], "as many as the 2 points"),
    ):
        with pytest.raises(ValueError, match=message):
            write_landmarks(tmp_path / "points.csv", points, names)
    with pytest.raises(ValueError, match=r"must be one of \.csv, \.fcsv, \.mrk\.json"):
        write_landmarks(tmp_path / "points.txt", POINTS)
    assert not (tmp_path / "points.csv").exists()
