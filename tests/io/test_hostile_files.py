"""Files of every kind, altered at random: each is read, or refused by an error that names it."""

import json
import struct
import warnings

import numpy as np
import pytest
import SimpleITK as sitk
import trimesh

import zoo
from zoo.data.image import Image
from zoo.data.pairs import read_table
from zoo.geometry import Grid
from zoo.io.images import read_labels, write_labels
from zoo.io.landmarks import read_correspondences, read_landmarks, write_landmarks
from zoo.io.meshes import write_mesh
from zoo.transform import Dense, Transform

RNG = np.random.default_rng(0)
GRID = Grid((4, 5, 3), (1.0, 2.0, 3.0))
PICTURE = Image(RNG.integers(0, 255, (6, 7, 3)), Grid((6, 7)))
VOLUME = Image(RNG.normal(size=(4, 5, 3)), GRID)
POINTS = RNG.normal(size=(6, 3))
BOX = trimesh.creation.box()
ALTERATIONS = 40  # of each file


def labels(path):
    write_labels(path, RNG.integers(0, 5, GRID.shape), GRID)


def cloud(path):
    path.write_text(
        "# vtk DataFile Version 3.0\npoints\nASCII\nDATASET POLYDATA\nPOINTS 3 float\n"
        "0 0 0\n1 0 0\n0 1 0\n"
    )


def stl(path):
    facets = np.zeros(12, [("n", "<f4", 3), ("v", "<f4", (3, 3)), ("a", "<u2")])
    facets["v"] = BOX.vertices[BOX.faces]
    path.write_bytes(bytes(80) + struct.pack("<I", 12) + facets.tobytes())


def table(path):
    for name in ("a.png", "b.png"):
        PICTURE.write(path.with_name(name))
    path.write_text("fixed,moving\na.png,b.png\n")


def field(path):
    Dense(RNG.normal(size=(*GRID.shape, 3)) / 9, GRID).save(path)


# A name, what writes it, and what reads it.
KINDS = {
    "volume.nii": (VOLUME.write, Image.read),
    "volume.nii.gz": (VOLUME.write, Image.read),
    "volume.mha": (VOLUME.write, Image.read),
    "volume.nrrd": (VOLUME.write, Image.read),
    "picture.png": (PICTURE.write, Image.read),
    "picture.jpg": (PICTURE.write, Image.read),
    "picture.tif": (PICTURE.write, Image.read),
    "picture.bmp": (PICTURE.write, Image.read),
    "labels.nii": (labels, read_labels),
    "labels.mha": (labels, read_labels),
    "mesh.ply": (lambda path: write_mesh(BOX, path), zoo.Scan.read),
    "text.ply": (lambda path: BOX.export(path, encoding="ascii"), zoo.Scan.read),
    "mesh.obj": (lambda path: write_mesh(BOX, path), zoo.Scan.read),
    "mesh.off": (lambda path: write_mesh(BOX, path), zoo.Scan.read),
    "mesh.stl": (stl, zoo.Scan.read),
    "cloud.xyz": (lambda path: np.savetxt(path, POINTS), zoo.Scan.read),
    "cloud.npy": (lambda path: np.save(path, POINTS), zoo.Scan.read),
    "cloud.npz": (lambda path: np.savez(path, points=POINTS), zoo.Scan.read),
    "cloud.vtk": (cloud, zoo.Scan.read),
    "points.csv": (lambda path: write_landmarks(path, POINTS), read_landmarks),
    "points.fcsv": (lambda path: write_landmarks(path, POINTS), read_landmarks),
    "points.mrk.json": (lambda path: write_landmarks(path, POINTS), read_landmarks),
    "points.txt": (lambda path: np.savetxt(path, POINTS), read_landmarks),
    "pairs.csv": (table, read_table),
    "six.csv": (
        lambda path: np.savetxt(path, RNG.normal(size=(4, 6)), delimiter=","),
        read_correspondences,
    ),
    "field.nii.gz": (field, Transform.load),
    "field.nrrd": (field, Transform.load),
    "affine.tfm": (
        lambda path: sitk.WriteTransform(sitk.AffineTransform(3), str(path)),
        Transform.load,
    ),
    "affine.h5": (
        lambda path: sitk.WriteTransform(sitk.AffineTransform(3), str(path)),
        Transform.load,
    ),
}


def altered(content: bytes, rng) -> bytes:
    """Bits turned, numbers exchanged, parts cut, doubled or replaced."""
    data = bytearray(content)
    kind = rng.integers(6)
    at = int(rng.integers(max(len(data), 1)))
    if kind == 0:
        for place in rng.integers(0, len(data), rng.integers(1, 8)):
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = data[: int(rng.integers(1, 60))]
    elif kind == 3:
        data[at : at + 8] = struct.pack("<d", rng.choice([np.nan, np.inf, -1.0, 1e300, 0.0]))
    elif kind == 4:
        words = (b"-1", b"nan", b"999999999999", b"1e400", b'"', b"\0", b"", b"\xff\xfe", b"[[[[")
        digits = [k for k, byte in enumerate(data[:600]) if byte in b"0123456789"] or [at]
        place = int(rng.choice(digits))
        data[place : place + 1] = words[int(rng.integers(len(words)))]
    else:
        data[:] = rng.bytes(int(rng.integers(0, 400)))
    return bytes(data)


@pytest.mark.parametrize("name", KINDS)
def test_altered_files(tmp_path, name, capfd):
    write, read = KINDS[name]
    path = tmp_path / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(path)
        read(path)
        content = path.read_bytes()
        refused = 0
        for seed in range(ALTERATIONS):
            path.write_bytes(altered(content, np.random.default_rng(seed)))
            try:
                read(path)
            except (ValueError, FileNotFoundError) as error:
                # Of a table of pairs the files that it names may be missing.
                assert name in str(error) or isinstance(error, FileNotFoundError), (seed, error)
                refused += 1
    assert refused > ALTERATIONS // 10
    capfd.readouterr()  # what ITK and Pillow print


LARGE = json.dumps({"markups": [{"controlPoints": [{"position": [1, 2, "9" * 400]}]}]})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.mrk.json", "[]"),
        ("text.mrk.json", '"markups"'),
        ("null.mrk.json", '{"markups": null}'),
        ("numbers.mrk.json", '{"markups": [1, 2]}'),
        ("points.mrk.json", '{"markups": [{"controlPoints": null}]}'),
        ("point.mrk.json", '{"markups": [{"controlPoints": ["a"]}]}'),
        ("position.mrk.json", '{"markups": [{"controlPoints": [{"position": null}]}]}'),
        ("deep.mrk.json", "[" * 100_000),
        ("large.mrk.json", LARGE),
        ("nul.csv", "x,y\n1,\0\n"),
        ("long.csv", "x,y\n1," + "9" * 200_000 + "\n"),
        ("quote.csv", 'x,y\n"1,2\n'),
        ("nul.fcsv", "# columns = id,x,y,z\n1,\0,2,3\n"),
        ("long.fcsv", "# columns = id,x,y,z\n1," + "9" * 200_000 + ",2,3\n"),
        ("columns.fcsv", "# columns = id,a,b\n1,2,3\n"),
        ("binary.txt", "\xff\xfe\x00"),
        ("complex.txt", "1+2j 3 4\n"),
    ],
)  # fmt: skip
def test_hostile_landmarks(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=f"path: '{name}'"):
        read_landmarks(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("fixed,moving\na.png,b.png,c.png\n", "row 1 of 'pairs.csv' has more cells"),
        ("fixed,moving\na.png," + "9" * 200_000 + "\n", "no readable table: field larger"),
        ("fixed,fixed,moving\na,b,c\n", "has a column twice"),
        ("fixed,moving\n\xff\xfe,b\n", "no readable table"),
        ("fixed\na\n", "must have the columns"),
        ("fixed,moving\n", "lists no pairs"),
        ("", "it has none"),
    ],
)
def test_hostile_tables(tmp_path, content, message):
    (tmp_path / "pairs.csv").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=f"path: .*{message}"):
        read_table(tmp_path / "pairs.csv")


def test_names_that_are_no_files(tmp_path):
    for path in (tmp_path, "", *(tmp_path / name for name in ("a\0b.png", "x" * 5000 + ".png"))):
        with pytest.raises((FileNotFoundError, ValueError), match="path: "):
            Image.read(path)
    for path in (None, 3, b"a.png", ["a.png"]):
        with pytest.raises(TypeError, match=f"path must be a path, not {type(path).__name__}"):
            Image.read(path)
