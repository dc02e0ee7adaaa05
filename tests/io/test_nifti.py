"""Where NIfTI and NRRD files lie in the world: against closed forms, SimpleITK and nibabel."""

import gzip
import struct
import warnings

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_geometry import GRIDS

from zoo.data.image import Image
from zoo.data.pair import Pair
from zoo.geometry import Grid
from zoo.io.images import read_field, read_image, read_labels
from zoo.transform import Dense, Transform

sitk = pytest.importorskip("SimpleITK")
TO_LPS = np.diag([-1.0, -1, 1, 1])
VALUES = np.random.default_rng(0).normal(size=(5, 6, 4)).astype("<f4")
TURN = Rotation.from_euler("xyz", (0.2, -0.1, 0.3)).as_matrix()


def affine(linear, origin=(5.0, -7.0, 11.0)):
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = linear, origin
    return result


def nifti(path, values=VALUES, sform=None, qform=None, pixdim=(2.0, 2.0, 3.0), **changes):
    """A file of one version, packed by the tables of the standard; right-anterior-superior.

    `qform` is `(quaternion, offset, factor)`, `changes` other fields of the header.
    """
    given = {"kind": 16, "bits": 32, "slope": 1.0, "inter": 0.0, "units": 2, "intent": 0}
    given |= {"sizes": values.shape, "magic": b"n+1", "order": "<", "start": 352.0} | changes
    order = given["order"]
    quaternion, offset, factor = ((0, 0, 0), (0, 0, 0), 1) if qform is None else qform
    dim = [len(given["sizes"]), *given["sizes"], *[1] * (7 - len(given["sizes"]))]
    rows = np.zeros(12) if sform is None else np.asarray(sform)[:3].ravel()
    header = bytearray(352)

    def put(at, layout, *numbers):
        struct.pack_into(order + layout, header, at, *numbers)

    put(0, "i", 348)
    put(40, "8h", *dim)
    put(68, "3h", given["intent"], given["kind"], given["bits"])
    put(76, "8f", factor, *pixdim, 0, 0, 0, 0)
    put(108, "3f", given["start"], given["slope"], given["inter"])
    put(123, "B", given["units"])
    put(252, "2h", int(qform is not None), int(sform is not None))
    put(256, "18f", *quaternion, *offset, *rows)
    header[344:347] = given["magic"]
    body = values.astype(values.dtype.newbyteorder(order)).tobytes(order="F")
    content = bytes(header[: 348 if given["magic"] == b"ni1" else 352])
    if given["magic"] == b"ni1":
        path.with_suffix(".img").write_bytes(body)
        body = b""
    packed = path.suffix == ".gz"
    path.write_bytes(gzip.compress(content + body) if packed else content + body)
    return path


def place(image):
    return TO_LPS @ image.grid.matrix


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("shear", [0.0, 0.01, 0.27])
def test_the_sform_is_carried_with_its_shear(tmp_path, suffix, order, shear):
    linear = TURN @ np.diag([0.49, 0.49, 2.5]) @ [[1, 0, 0], [0, 1, shear], [0, 0, 1]]
    lengths = np.linalg.norm(linear, axis=0)
    path = nifti(
        tmp_path / f"image{suffix}", sform=affine(linear.round(3)), pixdim=lengths, order=order
    )
    image = Image.read(path)
    np.testing.assert_allclose(place(image), affine(linear.round(3)), atol=1e-5)
    np.testing.assert_array_equal(image.array[..., 0], VALUES)
    image.write(tmp_path / "again.nii.gz")
    np.testing.assert_allclose(
        place(Image.read(tmp_path / "again.nii.gz")), place(image), atol=1e-5
    )
    image.write(tmp_path / "again.mha")
    assert Image.read(tmp_path / "again.mha").grid.close_to(image.grid, 1e-5)


def test_the_sform_counts_and_what_disagrees_is_said(tmp_path):
    sform, turned = affine(np.diag([2.0, 2, 3])), ((0, 0, 1.0), (5.0, -7, 11), 1)
    same = ((0, 0, 0), (5.0, -7, 11), 1)
    with pytest.warns(UserWarning, match=r"sform and the qform of 'two.nii' disagree by up to"):
        image = Image.read(nifti(tmp_path / "two.nii", sform=sform, qform=turned))
    np.testing.assert_allclose(place(image), sform)
    with pytest.warns(UserWarning, match="does not say where it lies"):
        image = Image.read(nifti(tmp_path / "none.nii"))
    np.testing.assert_allclose(image.grid.matrix, np.diag([2.0, 2, 3, 1]))
    with pytest.warns(UserWarning, match=r"sizes \[2.0, 2.0, 3.0\] by its sform and \[0.0, 2.0"):
        image = Image.read(nifti(tmp_path / "pixdim.nii", sform=sform, pixdim=(0, 2, 3)))
    np.testing.assert_allclose(place(image), sform)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Image.read(nifti(tmp_path / "one.nii", sform=sform, qform=same))
        image = Image.read(nifti(tmp_path / "qform.nii", qform=turned))
    np.testing.assert_allclose(place(image), affine(np.diag([-2.0, -2, 3])), atol=1e-6)


@pytest.mark.parametrize("factor", [1, -1])
def test_qforms_agree_with_itk(tmp_path, factor):
    x, y, z, w = Rotation.from_matrix(TURN).as_quat()
    quaternion = np.array([x, y, z]) * np.sign(w)
    path = nifti(tmp_path / "image.nii", qform=(quaternion, (5, -7, 11), factor))
    theirs = sitk.ReadImage(str(path))
    image = Image.read(path)
    expected = affine(TURN @ np.diag([2.0, 2, 3 * factor]))
    np.testing.assert_allclose(place(image), expected, atol=1e-5)
    index = [3, 1, 2]
    there = theirs.TransformIndexToPhysicalPoint(index)
    np.testing.assert_allclose(image.grid.to_world(index), there, atol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_itk_reads_what_is_written(tmp_path, grid, channels):
    values = np.random.default_rng(1).normal(size=(*grid.shape, channels))
    Image(values, grid).write(tmp_path / "image.nii.gz")
    theirs = sitk.ReadImage(str(tmp_path / "image.nii.gz"))
    assert theirs.GetSize() == grid.shape and theirs.GetNumberOfComponentsPerPixel() == channels
    index = [3, 1, 2][: grid.rank]
    np.testing.assert_allclose(
        theirs.TransformIndexToPhysicalPoint(index), grid.to_world(index), atol=1e-4
    )
    np.testing.assert_allclose(np.ravel(theirs[index]), values[tuple(index)], rtol=1e-6)


def test_long_axes_make_a_nifti_2_file(tmp_path):
    values = np.random.default_rng(0).normal(size=(40_000, 2, 1))
    image = Image(values, Grid((40_000, 2), (0.5, 2.0), (3.0, 4.0)))
    image.write(tmp_path / "long.nii")
    assert (tmp_path / "long.nii").read_bytes()[4:8] == b"n+2\0"
    back = Image.read(tmp_path / "long.nii")
    np.testing.assert_array_equal(back.array, image.array)
    assert back.grid.close_to(image.grid)


def test_files_of_other_kinds_and_names(tmp_path):
    sform = affine(np.diag([2.0, 2, 3]))
    plain = nifti(tmp_path / "plain.nii", sform=sform)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "bare.nii.gz").write_bytes(plain.read_bytes())
    pair = nifti(tmp_path / "pair.hdr", sform=sform, magic=b"ni1", start=0.0)
    for path in (tmp_path / "packed.nii", tmp_path / "bare.nii.gz", pair):
        image = Image.read(path)
        np.testing.assert_array_equal(image.array[..., 0], VALUES)
        np.testing.assert_allclose(place(image), sform)
    with pytest.raises(ValueError, match=r"Give the \.hdr"):
        Image.read(tmp_path / "pair.img")
    with pytest.raises(ValueError, match=r"\.hdr is only read"):
        image.write(tmp_path / "out.hdr")
    (tmp_path / "pair.img").unlink()
    with pytest.raises(ValueError, match=r"'pair.hdr' is .* beside it, in 'pair.img'"):
        Image.read(pair)
    image.write(tmp_path / "parts.nhdr")
    np.testing.assert_array_equal(Image.read(tmp_path / "parts.nhdr").array, image.array)
    (tmp_path / "scans").mkdir()
    with pytest.raises(FileNotFoundError, match="a folder. A DICOM series"):
        read_image(tmp_path / "scans")
    (tmp_path / "one.dcm").write_bytes(b"?")
    with pytest.raises(ValueError, match=r"one of \.nii.*Convert DICOM"):
        Image.read(tmp_path / "one.dcm")


def test_scaled_and_coloured_values(tmp_path):
    stored = np.arange(120, dtype="<i2").reshape(5, 6, 4)
    kinds = {"kind": 4, "bits": 16, "sform": np.eye(4), "pixdim": (1, 1, 1)}
    path = nifti(tmp_path / "scaled.nii", stored, slope=0.5, inter=-3.0, **kinds)
    np.testing.assert_array_equal(read_image(path)[0][..., 0], stored * 0.5 - 3)
    for slope in (0.0, np.nan):
        path = nifti(tmp_path / "unscaled.nii", stored, slope=slope, inter=7.0, **kinds)
        np.testing.assert_array_equal(read_image(path)[0][..., 0], stored)
    large = np.array([[[0, 16777217, 312782573, -5]]], "<i4")
    path = nifti(tmp_path / "large.nii", large, **kinds | {"kind": 8, "bits": 32})
    np.testing.assert_array_equal(read_labels(path)[0], large)
    red = np.arange(3 * 2 * 3 * 4, dtype="u1").reshape(3, 2, 3, 4)
    path = nifti(tmp_path / "rgb.nii", red, **kinds | {"kind": 128, "bits": 24}, sizes=(2, 3, 4))
    np.testing.assert_array_equal(read_image(path)[0], np.moveaxis(red, 0, -1))
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(read_image(path)[0], theirs.transpose(2, 1, 0, 3))


def test_microns_are_converted_as_by_itk(tmp_path):
    path = nifti(tmp_path / "fine.nii", sform=affine(np.diag([2.0, 2, 3])), units=3)
    theirs = sitk.ReadImage(str(path))
    grid = Image.read(path).grid
    np.testing.assert_allclose(grid.spacing, theirs.GetSpacing())
    np.testing.assert_allclose(grid.origin, theirs.GetOrigin())


@pytest.mark.parametrize("intent", [1006, 1007])
@pytest.mark.filterwarnings("ignore:.*by its pixdim")
def test_vectors_are_turned_as_by_itk(tmp_path, intent):
    vectors = np.random.default_rng(0).normal(size=(5, 6, 4, 1, 3)).astype("<f4")
    path = nifti(tmp_path / "field.nii", vectors, sform=affine(np.eye(3)), intent=intent)
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(2, 1, 0, 3)
    np.testing.assert_array_equal(read_image(path)[0], theirs)
    assert (np.sign(theirs[0, 0, 0] * vectors[0, 0, 0, 0]) == [1, 1, 1]).all() == (intent == 1007)


def test_gaps_in_nifti_become_a_mask(tmp_path):
    values = VALUES.copy()
    values[1, 2, :3] = np.nan
    holes = nifti(tmp_path / "holes.nii.gz", values, sform=np.eye(4), pixdim=(1, 1, 1))
    whole = nifti(tmp_path / "whole.nii.gz", sform=np.eye(4), pixdim=(1, 1, 1))
    with pytest.warns(UserWarning, match="3 voxels of 'holes.nii.gz' are NaN"):
        pair = Pair.read(holes, whole)
    np.testing.assert_array_equal(pair.fixed_mask, np.isfinite(values))
    with pytest.raises(ValueError, match="'holes.nii.gz'.*3 values are NaN"):
        Image.read(holes)


NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixdim": (0.0, 2, 3)}, r"voxels have the sizes \[0.0, 2.0, 3.0\]"),
        ({"pixdim": (NAN, 2, 3)}, r"voxels have the sizes \[nan, 2.0, 3.0\]"),
        ({"pixdim": (1, -2, 3)}, r"voxels have the sizes \[1.0, -2.0, 3.0\]"),
        ({"sform": affine(np.diag([0.0, 2, 3]))}, "axes have the lengths"),
        ({"sform": affine(np.ones((3, 3)))}, "direction is singular"),
        ({"sform": affine(np.full((3, 3), NAN))}, "sform holds NaN"),
        ({"qform": ((1, 1, 1), (0, 0, 0), 1)}, "qform is no rotation"),
        ({"sizes": (0, 6, 4)}, "3 axes of the sizes"),
        ({"sizes": (-5, 6, 4)}, "3 axes of the sizes"),
        ({"sizes": (30_000, 30_000, 30_000)}, "truncated: at most"),
        ({"sizes": (5, 6, 2, 2)}, r"it has 4 axes.*ReadImage\(path\)\[:, :, :, 0\]"),
        ({"kind": 32}, "complex64"),
        ({"kind": 1}, "single bits"),
        ({"kind": 77}, "unknown type 77"),
        ({"start": NAN}, "begin at byte nan"),
        ({"start": 1e30}, "truncated"),
        ({"magic": b"\0\0\0"}, "ANALYZE"),
        ({"intent": 2006}, "FNIRT"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.filterwarnings("ignore:.*(does not say where|by its pixdim)")
def test_hostile_headers(tmp_path, suffix, options, message):
    path = nifti(tmp_path / f"bad{suffix}", **options)
    with pytest.raises(ValueError, match=rf"'bad{suffix}'.*{message}"):
        Image.read(path)


@pytest.mark.filterwarnings("ignore:.*by its pixdim")
def test_short_headers(tmp_path):
    whole = nifti(tmp_path / "whole.nii", sform=np.eye(4)).read_bytes()
    for count in (0, 3, 4, 40, 200, 347, 351):
        (tmp_path / "cut.nii").write_bytes(whole[:count])
        with pytest.raises(ValueError, match="'cut.nii' is not a readable"):
            Image.read(tmp_path / "cut.nii")


def test_agrees_with_nibabel(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(0)
    for seed, kind in enumerate((nibabel.Nifti1Image, nibabel.Nifti2Image)):
        there = affine(Rotation.random(random_state=seed).as_matrix() @ np.diag([0.7, 1.1, 2.3]))
        values = rng.normal(size=(5, 4, 6)).astype("f4")
        nibabel.save(kind(values, there), tmp_path / "theirs.nii.gz")
        image = Image.read(tmp_path / "theirs.nii.gz")
        np.testing.assert_allclose(place(image), there, atol=1e-5)
        np.testing.assert_array_equal(image.array[..., 0], values)
        image.write(tmp_path / "ours.nii.gz")
        theirs = nibabel.load(tmp_path / "ours.nii.gz")
        np.testing.assert_allclose(theirs.affine, there, atol=1e-5)
        np.testing.assert_allclose(theirs.get_qform(coded=True)[0], there, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(theirs.dataobj), values)


# NRRD

SHAPE = (8, 9, 6)
SHIFT = np.array([1.5, -2.0, 0.5])


def nrrd(path, vectors, space="left-posterior-superior", extra=""):
    head = (
        f"NRRD0005\ntype: float\ndimension: 4\nspace: {space}\nsizes: 3 8 9 6\n"
        "space directions: none (2,0,0) (0,2,0) (0,0,3)\nkinds: vector domain domain domain\n"
        f"endian: little\nencoding: raw\nspace origin: (0,0,0)\n{extra}"
    )
    body = np.moveaxis(vectors, -1, 0).astype("<f4").tobytes(order="F")
    path.write_bytes(head.encode() + b"\n" + body)
    return path


def test_modelling_fields_move_points(tmp_path):
    grid = Grid(SHAPE, (2, 2, 3))
    rng = np.random.default_rng(0)
    vectors = SHIFT + 0.3 * np.sin(grid.coordinates() / 4)
    points = rng.uniform(3, 9, (40, 3))
    theirs = sitk.GetImageFromArray(vectors.transpose(2, 1, 0, 3).copy(), isVector=True)
    theirs.SetSpacing((2, 2, 3))
    field = sitk.DisplacementFieldTransform(theirs)
    expected = np.array([field.TransformPoint(point) for point in points.tolist()])
    path = nrrd(tmp_path / "moves.nrrd", vectors, extra="displacement field type:=modeling\n")
    phi = Transform.load(path)
    np.testing.assert_allclose(phi.move(points), expected, atol=1e-4)
    np.testing.assert_allclose(phi.pull(expected), points, atol=1e-3)
    path = nrrd(tmp_path / "pulls.nrrd", vectors, extra="displacement field type:=resampling\n")
    np.testing.assert_allclose(Transform.load(path).pull(points), expected, atol=1e-4)
    path = nrrd(tmp_path / "odd.nrrd", vectors, extra="displacement field type:=sideways\n")
    with pytest.raises(ValueError, match="'odd.nrrd'.*'sideways'"):
        Transform.load(path)


@pytest.mark.parametrize(
    ("space", "signs"),
    [("right-anterior-superior", (-1, -1, 1)), ("RAS", (-1, -1, 1)), ("LAS", (1, -1, 1))],
)
def test_vectors_follow_the_space_of_a_nrrd(tmp_path, space, signs):
    path = nrrd(tmp_path / "field.nrrd", np.broadcast_to(SHIFT * signs, (*SHAPE, 3)), space)
    field, grid = read_field(path)
    np.testing.assert_allclose(np.diag(grid.direction), signs)
    points = np.array([[5.0, 6, 7], [3, 4, 5]]) * signs
    np.testing.assert_allclose(Dense(field, grid).pull(points), points + SHIFT, atol=1e-5)
    frame = "measurement frame: (0,1,0) (1,0,0) (0,0,1)\n"
    swapped = np.broadcast_to((SHIFT * signs)[[1, 0, 2]], (*SHAPE, 3))
    np.testing.assert_allclose(
        read_field(nrrd(tmp_path / "framed.nrrd", swapped, space, frame))[0], field, atol=1e-6
    )
    with pytest.raises(ValueError, match="space is 'scanner-xyz'"):
        read_field(nrrd(tmp_path / "odd.nrrd", swapped, "scanner-xyz"))


@pytest.mark.parametrize("named", ["../secret.raw", "/etc/hostname", "a/../../secret.raw"])
@pytest.mark.parametrize("kind", ["nhdr", "mhd"])
def test_headers_read_only_files_beside_them(tmp_path, named, kind):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.raw").write_bytes(bytes(3 * 8 * 9 * 6 * 4))
    path = tmp_path / "in" / f"image.{kind}"
    if kind == "nhdr":
        path.write_text(
            "NRRD0005\ntype: uchar\ndimension: 3\nsizes: 8 9 6\nencoding: raw\n"
            f"data file: {named}\n"
        )
    else:
        path.write_text(
            f"ObjectType = Image\nNDims = 3\nDimSize = 8 9 6\nElementType = MET_UCHAR\n"
            f"ElementDataFile = {named}\n"
        )
    with pytest.raises(ValueError, match=f"'image.{kind}'.*may only name files beside it"):
        Image.read(path)


@pytest.mark.parametrize("suffix", ["mha", "nrrd"])
def test_announced_sizes_are_compared_first(tmp_path, suffix):
    image = Image(VALUES, Grid(VALUES.shape))
    image.write(tmp_path / f"image.{suffix}")
    content = (tmp_path / f"image.{suffix}").read_bytes()
    assert b"5 6 4" in content
    (tmp_path / f"image.{suffix}").write_bytes(content.replace(b"5 6 4", b"50000 60000 40000"))
    with pytest.raises(ValueError, match=f"'image.{suffix}'.*truncated: at most 480 of"):
        Image.read(tmp_path / f"image.{suffix}")
