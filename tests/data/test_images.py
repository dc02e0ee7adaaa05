import gzip
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from test_geometry import GRIDS, oblique

from zoo.data.image import Image
from zoo.geometry import Grid
from zoo.io import written_whole
from zoo.io.images import (
    read_field,
    read_labels,
    write_field,
    write_labels,
)

sitk = pytest.importorskip("SimpleITK")
VOLUMES = [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"]


def smooth(shape, seed=0, sigma=1.5):
    return gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma) * 10


def random_image(grid, channels=1, seed=0):
    values = np.random.default_rng(seed).normal(size=(*grid.shape, channels))
    return Image(values, grid)


# Files


@pytest.mark.parametrize("suffix", VOLUMES)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_image_round_trip(tmp_path, suffix, grid, channels):
    image = random_image(grid, channels)
    image.write(tmp_path / f"new/image{suffix}")
    back = Image.read(tmp_path / f"new/image{suffix}")
    np.testing.assert_array_equal(back.array, image.array)
    assert back.grid.close_to(grid, 1e-5)
    assert back.name == "image"
    stray = [path.name for path in (tmp_path / "new").iterdir() if not path.stem.startswith("im")]
    assert not stray


def test_axes_are_those_of_itk(tmp_path):
    image = random_image(GRIDS[1], 2)
    image.write(tmp_path / "image.mha")
    stored = sitk.ReadImage(str(tmp_path / "image.mha"))
    assert stored.GetSize() == image.shape
    np.testing.assert_allclose(stored[4, 1, 6], image.array[4, 1, 6])


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd", ".png"])
def test_labels_round_trip(tmp_path, suffix):
    grid = Grid((5, 6)) if suffix == ".png" else GRIDS[2]
    labels = np.random.default_rng(0).integers(0, 200, grid.shape)
    write_labels(tmp_path / f"labels{suffix}", labels, grid)
    back, place = read_labels(tmp_path / f"labels{suffix}")
    assert back.dtype == np.int32 and place.close_to(grid)
    np.testing.assert_array_equal(back, labels)
    write_labels(tmp_path / f"mask{suffix}", labels > 100, grid)
    np.testing.assert_array_equal(read_labels(tmp_path / f"mask{suffix}")[0], labels > 100)


def test_labels_of_many_values(tmp_path):
    grid = Grid((2, 2))
    labels = np.array([[-5, 0], [70_000, 3]])
    write_labels(tmp_path / "labels.nii.gz", labels, grid)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.nii.gz")[0], labels)
    with pytest.raises(ValueError, match="without loss"):
        write_labels(tmp_path / "labels.png", labels, grid)
    with pytest.raises(ValueError, match="shape"):
        write_labels(tmp_path / "labels.nii.gz", labels, Grid((2, 3)))
    with pytest.raises(ValueError, match="integers"):
        write_labels(tmp_path / "labels.nii.gz", labels / 2, grid)
    Image(labels / 2, grid).write(tmp_path / "halves.nii.gz")
    with pytest.raises(ValueError, match="'halves.nii.gz' is no label map"):
        read_labels(tmp_path / "halves.nii.gz")
    Image(np.zeros((2, 2, 3)), grid).write(tmp_path / "colours.nii.gz")
    with pytest.raises(ValueError, match="3 channels; labels have one"):
        read_labels(tmp_path / "colours.nii.gz")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_round_trip(tmp_path, suffix, channels):
    values = np.random.default_rng(0).integers(0, 256, (6, 9, channels))
    values[0, 0, 0] = 255
    image = Image(values, Grid((6, 9)))
    image.write(tmp_path / f"picture{suffix}")
    back = Image.read(tmp_path / f"picture{suffix}")
    np.testing.assert_array_equal(back.array, values)
    assert back.grid == Grid((6, 9))


def test_pictures_have_x_first(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    picture = pillow.new("RGB", (8, 5))
    picture.putpixel((6, 2), (10, 20, 30))
    picture.save(tmp_path / "picture.png")
    image = Image.read(tmp_path / "picture.png")
    assert image.shape == (8, 5)
    assert image.array[6, 2].tolist() == [10, 20, 30]
    grey = image.grey()
    np.testing.assert_allclose(grey.array[6, 2], 0.299 * 10 + 0.587 * 20 + 0.114 * 30, rtol=1e-6)


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("LA", 1), ("P", 3), ("RGBA", 3)])
def test_other_kinds_of_pictures(tmp_path, mode, channels):
    pillow = pytest.importorskip("PIL.Image")
    picture = pillow.new("RGB", (8, 5), (255, 255, 255)).convert(mode)
    picture.save(tmp_path / "picture.png")
    image = Image.read(tmp_path / "picture.png")
    assert image.channels == channels and image.array.max() == 255


def test_pictures_of_other_ranges(tmp_path):
    unit = Image(np.array([[0, 0.5], [0.25, 1]]), Grid((2, 2)))
    unit.write(tmp_path / "unit.png")
    np.testing.assert_array_equal(
        Image.read(tmp_path / "unit.png").array[..., 0], [[0, 128], [64, 255]]
    )
    with pytest.raises(ValueError, match=r"span \[0, 400\]"):
        Image(unit.array * 400, unit.grid).write(tmp_path / "large.png")
    with pytest.raises(ValueError, match="2 axes and 1 or 3 channels"):
        Image(np.zeros((2, 2, 2)), Grid((2, 2, 2))).write(tmp_path / "volume.png")


# Files that are wrong


def test_thin_volumes_own_their_memory(tmp_path):
    image = random_image(Grid((1, 1, 5000)))
    image.write(tmp_path / "thin.mha")
    arrays = [Image.read(tmp_path / "thin.mha").array for _ in range(20)]
    assert all(np.array_equal(array, image.array) for array in arrays)


def test_four_axes(tmp_path):
    volume = sitk.Image(3, 4, 5, sitk.sitkFloat32)
    sitk.WriteImage(sitk.JoinSeries([volume, volume]), str(tmp_path / "series.nii.gz"))
    with pytest.raises(ValueError, match="'series.nii.gz'.* it has 4 axes"):
        Image.read(tmp_path / "series.nii.gz")
    sitk.WriteImage(sitk.JoinSeries([volume]), str(tmp_path / "one.nii.gz"))
    assert Image.read(tmp_path / "one.nii.gz").shape == (3, 4, 5)


@pytest.mark.parametrize("suffix", [*VOLUMES, ".png", ".jpg"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.8])
def test_truncated_files(tmp_path, suffix, share):
    values = np.random.default_rng(0).uniform(0, 255, (20, 20, 20))
    image = Image(
        values if suffix in VOLUMES else values[0], Grid((20,) * (2 + (suffix in VOLUMES)))
    )
    path = tmp_path / f"image{suffix}"
    image.write(path)
    cut = tmp_path / "image.raw" if suffix == ".mhd" else path
    content = cut.read_bytes()
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f"'image{suffix}' is not a readable"):
        Image.read(path)


def test_gzip_in_several_members_is_whole(tmp_path):
    image = random_image(GRIDS[1])
    image.write(tmp_path / "plain.nii")
    content = (tmp_path / "plain.nii").read_bytes()
    parts = [gzip.compress(content[:500]), gzip.compress(content[500:])]
    (tmp_path / "parts.nii.gz").write_bytes(b"".join(parts))
    np.testing.assert_array_equal(Image.read(tmp_path / "parts.nii.gz").array, image.array)
    (tmp_path / "parts.nii.gz").write_bytes(parts[0])
    with pytest.raises(ValueError, match="truncated: 500 of"):
        Image.read(tmp_path / "parts.nii.gz")


def test_big_endian_nifti(tmp_path):
    image = random_image(Grid((3, 4, 5)))
    image.write(tmp_path / "little.nii")
    content = (tmp_path / "little.nii").read_bytes()
    layout = "i10s18sihcB8h3f4h8f3fhBB4f2i80s24s2h18f16s4s"
    header = struct.unpack("<" + layout, content[:348])
    values = np.frombuffer(content[352:], "<f4").astype(">f4")
    big = struct.pack(">" + layout, *header) + content[348:352] + values.tobytes()
    (tmp_path / "big.nii").write_bytes(big)
    np.testing.assert_array_equal(Image.read(tmp_path / "big.nii").array, image.array)


def test_foreign_and_absent_files(tmp_path):
    for suffix in (".nii.gz", ".nrrd", ".png"):
        path = tmp_path / f"text{suffix}"
        path.write_text("this is no image")
        with pytest.raises(ValueError, match=f"'text{suffix}' is not a readable"):
            Image.read(path)
        with pytest.raises(FileNotFoundError, match="no file"):
            Image.read(tmp_path / f"absent{suffix}")
    (tmp_path / "image.dat").write_text("?")
    with pytest.raises(ValueError, match=r"one of \.nii"):
        Image.read(tmp_path / "image.dat")


def test_values_that_are_no_image(tmp_path):
    values = np.ones((4, 5), np.float32)
    values[1, 2:] = np.nan
    for suffix in VOLUMES:
        sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / f"nan{suffix}"))
        with pytest.raises(ValueError, match=rf"'nan{suffix}'.*3 values are NaN"):
            Image.read(tmp_path / f"nan{suffix}")
    sitk.WriteImage(sitk.Image(4, 4, sitk.sitkComplexFloat32), str(tmp_path / "complex.nii"))
    with pytest.raises(ValueError, match="complex64"):
        Image.read(tmp_path / "complex.nii")


def test_writing_is_all_or_nothing(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_missing_package_names_the_command(tmp_path, monkeypatch):
    image = random_image(Grid((3, 4)))
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ImportError, match="pip install SimpleITK"):
        image.write(tmp_path / "image.mha")


# Fields


@pytest.mark.parametrize("suffix", VOLUMES)
@pytest.mark.parametrize("grid", GRIDS)
def test_field_round_trip(tmp_path, suffix, grid):
    field = np.random.default_rng(0).normal(size=(*grid.shape, grid.rank))
    write_field(tmp_path / f"field{suffix}", field, grid)
    back, place = read_field(tmp_path / f"field{suffix}")
    assert back.dtype == np.float32 and place.close_to(grid, 1e-5)
    np.testing.assert_allclose(back, field, atol=1e-5)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("shape", [(24, 19), (14, 16, 12)])
@pytest.mark.parametrize("reflected", [False, True])
def test_itk_warps_to_the_same_picture(tmp_path, suffix, shape, reflected):
    grid = oblique(shape, seed=len(shape), reflected=reflected)
    moving = Image(smooth(shape), grid)
    field = np.stack([smooth(shape, 1 + k, 2.0) for k in range(grid.rank)], axis=-1)
    write_field(tmp_path / f"field{suffix}", field, grid)
    moving.write(tmp_path / "moving.mha")

    # As in the documentation of write_field.
    stored = sitk.ReadImage(str(tmp_path / f"field{suffix}"))
    transform = sitk.DisplacementFieldTransform(sitk.Cast(stored, sitk.sitkVectorFloat64))
    picture = sitk.ReadImage(str(tmp_path / "moving.mha"))
    warped = sitk.Resample(picture, picture, transform, sitk.sitkLinear, 0.0)
    theirs = sitk.GetArrayFromImage(warped).T

    index = np.moveaxis(np.indices(shape), 0, -1) + field
    ours = map_coordinates(moving.array[..., 0], np.moveaxis(index, -1, 0), order=1)
    inside = ((index > 0) & (index < np.asarray(shape) - 1)).all(axis=-1)
    assert inside.mean() > 0.5 and np.abs(field).max() > 1
    np.testing.assert_allclose(theirs[inside], ours[inside], atol=2e-3)
    assert np.abs(moving.array[..., 0] - ours)[inside].max() > 0.5  # the field does something


def test_nifti_fields_are_vectors(tmp_path):
    grid = GRIDS[0]
    write_field(tmp_path / "field.nii.gz", np.zeros((*grid.shape, 2)), grid)
    header = gzip.decompress((tmp_path / "field.nii.gz").read_bytes())
    assert struct.unpack("<6h", header[40:52])[0] == 5  # components on the fifth axis
    assert struct.unpack("<h", header[68:70])[0] == 1007  # NIFTI_INTENT_VECTOR


def test_fields_that_are_wrong(tmp_path):
    grid = Grid((4, 5, 6))
    with pytest.raises(ValueError, match=r"shape \(4, 5, 6, 3\), not \(4, 5, 6, 2\)"):
        write_field(tmp_path / "field.mha", np.zeros((4, 5, 6, 2)), grid)
    with pytest.raises(ValueError, match="cannot be a .png"):
        write_field(tmp_path / "field.png", np.zeros((4, 5, 6, 3)), grid)
    with pytest.raises(ValueError, match="finite"):
        write_field(tmp_path / "field.mha", np.full((4, 5, 6, 3), np.nan), grid)
    random_image(grid, 2).write(tmp_path / "two.mha")
    with pytest.raises(ValueError, match=r"'two.mha' is no displacement field: it has 2"):
        read_field(tmp_path / "two.mha")
    random_image(grid).write(tmp_path / "one.nii.gz")
    with pytest.raises(ValueError, match=r"'one.nii.gz' is no displacement field: it has 1"):
        read_field(tmp_path / "one.nii.gz")


# Images


@pytest.mark.parametrize("order", ["linear", "nearest"])
@pytest.mark.parametrize("k", [0, 1])
def test_resampling_agrees_with_itk(order, k):
    source, target = GRIDS[k], oblique((9, 8, 7)[: GRIDS[k].rank], seed=5)
    target = Grid(target.shape, source.spacing * 0.7, target.origin, target.direction)
    shift = source.centre - target.centre
    target = Grid(target.shape, target.spacing, target.origin + shift, target.direction)
    image = Image(smooth(source.shape), source)

    picture = sitk.GetImageFromArray(image.array[..., 0].T)
    reference = sitk.Image(list(target.shape), sitk.sitkFloat32)
    for this, grid in ((picture, source), (reference, target)):
        this.SetSpacing(grid.spacing.tolist())
        this.SetOrigin(grid.origin.tolist())
        this.SetDirection(grid.direction.reshape(-1).tolist())
    kind = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}[order]
    expected = sitk.Resample(picture, reference, sitk.Transform(), kind, -7.0)
    ours = image.resample(target, order, outside=-7)
    assert 0 < (ours.array == -7).mean() < 0.9
    np.testing.assert_allclose(ours.array[..., 0], sitk.GetArrayFromImage(expected).T, atol=1e-4)


def test_resampling_to_the_same_grid_is_the_identity():
    image = random_image(GRIDS[1], 2)
    assert image.resample(image.grid) is image
    equal = Grid(
        image.shape, image.grid.spacing * (1 + 1e-12), image.grid.origin, GRIDS[1].direction
    )
    for antialias in (False, True):
        again = image.resample(equal, antialias=antialias)
        np.testing.assert_allclose(again.array, image.array, atol=1e-5)
    with pytest.raises(ValueError, match="order must be"):
        image.resample(equal, "cubic")


def test_antialiasing_removes_what_the_coarse_grid_cannot_hold():
    stripes = np.tile([0.0, 1.0], 32)[:, None] * np.ones((1, 16))
    image = Image(stripes, Grid(stripes.shape))
    coarse = Grid((16, 16), spacing=(4, 1))
    aliased = image.resample(coarse).array
    smoothed = image.resample(coarse, antialias=True).array
    assert np.abs(aliased - 0.5).max() == 0.5
    assert np.abs(smoothed[1:-1] - 0.5).max() < 0.05
    # Along the other axis, which keeps its resolution, nothing is smoothed.
    turned = Image(stripes.T, Grid(stripes.T.shape))
    kept = turned.resample(Grid((4, 64), spacing=(4, 1)), antialias=True).array
    np.testing.assert_allclose(kept, turned.array[::4], atol=1e-6)


def test_fitting_keeps_voxels_in_place():
    image = random_image(GRIDS[1])
    for shape in ((9, 3, 8), (5, 6, 7), (2, 11, 7)):
        fitted = image.fitted(shape, fill=99)
        assert fitted.shape == shape
        index = np.argwhere(fitted.array[..., 0] != 99)
        there = image.grid.to_index(fitted.grid.to_world(index))
        np.testing.assert_allclose(there, np.rint(there), atol=1e-9)
        values = image.array[tuple(np.rint(there).astype(int).T)]
        np.testing.assert_array_equal(fitted.array[tuple(index.T)], values)
        assert len(index) == np.prod(np.minimum(shape, image.shape))
    np.testing.assert_allclose(image.centred().grid.centre, 0, atol=1e-10)


def test_normalisation():
    values = np.arange(1000.0).reshape(20, 50)
    values[-1, -1] = 1e6
    scaled = Image(values, Grid((20, 50))).normalised()
    assert scaled.array.min() == 0 and scaled.array.max() == 1
    assert 0.4 < np.median(scaled.array) < 0.6  # one bright voxel does not darken the rest
    dot = np.zeros((20, 20))
    dot[3, 4] = 5
    assert Image(dot, Grid((20, 20))).normalised().array[3, 4] == 1
    with pytest.raises(ValueError, match="constant"):
        Image(dot * 0, Grid((20, 20))).normalised()
    with pytest.raises(ValueError, match="percentiles"):
        Image(dot, Grid((20, 20))).normalised((50, 20))


def test_ranks_of_arrays():
    assert Image.from_array(np.zeros((6, 7))).rank == 2
    assert Image.from_array(np.zeros((6, 7, 3))).channels == 3
    assert Image.from_array(np.zeros((6, 7, 8))).rank == 3
    assert Image.from_array(np.zeros((6, 7, 3)), spacing=(1, 1, 2)).shape == (6, 7, 3)
    assert Image.from_array(np.zeros((6, 7, 8)), rank=2).channels == 8
    assert Image.from_array(np.zeros((6, 7, 8, 2))).channels == 2
    for bad, rank in ((np.zeros(5), None), (np.zeros((5, 5)), 3)):
        with pytest.raises(ValueError, match="axes"):
            Image.from_array(bad, rank=rank)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 6)), r"shape \(4, 5\) of the grid"),
        (np.zeros((4, 5, 1, 1)), "channels"),
        (np.zeros((4, 5, 0)), "empty"),
        (np.full((4, 5), np.inf), "20 values are NaN or infinite"),
        (np.zeros((4, 5), complex), "real numbers"),
    ],
)
def test_bad_images(array, message):
    with pytest.raises(ValueError, match=message):
        Image(array, Grid((4, 5)))


# Real files

DATA = Path(__file__).parents[3] / "shared/data"


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data are not here")
def test_real_volume(tmp_path):
    path = DATA / "ptvreg_mri/ETHLiver/dataset19/exhMaster_unmasked.force_direction.mha"
    image = Image.read(path)
    assert image.shape == (152, 183, 27)
    np.testing.assert_allclose(image.grid.spacing, (1.28906, 1.28906, 5))
    image.write(tmp_path / "copy.nii.gz")
    assert Image.read(tmp_path / "copy.nii.gz").grid.close_to(image.grid)


@pytest.mark.parametrize("name", ["image.nii.gz", "IMAGE.NII.GZ"])
def test_compressed_files_are_one_gzip_member_of_many_blocks(tmp_path, monkeypatch, name):
    monkeypatch.setattr("zoo.io.images.GZIP_BLOCK", 1000)
    values = np.random.default_rng(0).normal(size=(20, 11, 9, 1)).astype(np.float32)
    image = Image(values, Grid((20, 11, 9), (1.0, 2.0, 3.0)))
    image.write(tmp_path / name)
    unpacking = zlib.decompressobj(31)
    plain = unpacking.decompress((tmp_path / name).read_bytes())
    assert unpacking.eof and not unpacking.unused_data
    assert plain[344:347] == b"n+1" and len(plain) == 352 + values.nbytes
    np.testing.assert_array_equal(Image.read(tmp_path / name).array, values)
    assert [path.name for path in tmp_path.iterdir()] == [name]
