"""The direction, the axes and the units of the challenge's displacements, by known translations."""

import numpy as np
import pytest
from scipy import ndimage

import zoo
from zoo.io.learn2reg import learn2reg_name, read_learn2reg, save_learn2reg
from zoo.transform import Affine, Dense

FIXED = zoo.Grid((14, 12, 10), (2.0, 1.0, 1.5), (5.0, -3.0, 7.0), np.diag([-1.0, 1.0, 1.0]))
SHIFT = np.array([3, -2, 1])  # voxels


def image(grid, at):
    """A smooth blob, unlike along every axis."""
    offsets = (np.moveaxis(np.indices(grid.shape), 0, -1) - at) / (2.0, 1.5, 1.0)
    return np.exp(-(offsets**2).sum(axis=-1))


def moved(moving, field):
    """What the script of the challenge does with labels, linearly."""
    places = np.indices(field.shape[:-1]) + np.moveaxis(field, -1, 0)
    return ndimage.map_coordinates(moving, places, order=1)


def translation(by, grid):
    return Affine(np.eye(3), grid.vectors_to_world(by), grid)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_a_known_translation(tmp_path, suffix):
    nib = pytest.importorskip("nibabel")
    path = tmp_path / f"new/disp_0001_0002{suffix}"
    save_learn2reg(translation(SHIFT, FIXED), path, FIXED)
    file = nib.load(path)
    field = file.get_fdata()
    assert field.shape == (14, 12, 10, 3) and file.get_data_dtype() == np.float32
    np.testing.assert_allclose(field, np.broadcast_to(SHIFT, field.shape), atol=1e-5)
    np.testing.assert_allclose(file.header.get_zooms()[:3], FIXED.spacing)
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    np.testing.assert_allclose(file.affine, to_ras @ FIXED.matrix, atol=1e-5)
    # Fixed voxel x is found at x + SHIFT of the moving image.
    fixed, moving = image(FIXED, (5, 6, 4)), image(FIXED, (5, 6, 4) + SHIFT)
    inside = (slice(0, 10), slice(3, 12), slice(0, 8))
    np.testing.assert_allclose(moved(moving, field)[inside], fixed[inside], atol=1e-4)
    np.testing.assert_array_equal(read_learn2reg(path), field.astype(np.float32))


def test_voxels_are_those_of_the_moving_image(tmp_path):
    moving = zoo.Grid((20, 16, 9), (1.0, 1.25, 2.0), (4.0, -4.0, 6.0), np.diag([-1.0, 1.0, 1.0]))
    random = np.random.default_rng(0)
    transform = Dense(random.normal(scale=0.5, size=(*FIXED.shape, 3)), FIXED)
    save_learn2reg(transform, tmp_path / "disp_0001_0002.nii.gz", FIXED, moving)
    field = read_learn2reg(tmp_path / "disp_0001_0002.nii.gz")
    index = random.integers(0, FIXED.shape, (50, 3))
    there = moving.to_index(transform.pull(FIXED.to_world(index)))
    np.testing.assert_allclose(index + field[tuple(index.T)], there, atol=1e-4)


def test_large_grids_are_pulled_in_slabs(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.io.learn2reg.SLAB", 300)
    path = tmp_path / "disp_0001_0002.nii.gz"
    matrix = np.array([[1.0, 0.1, 0.0], [0.0, 0.9, 0.0], [0.05, 0.0, 1.0]])
    transform = Affine(matrix, [1.0, 2.0, 3.0], FIXED)
    save_learn2reg(transform, path, FIXED)
    np.testing.assert_allclose(read_learn2reg(path), transform.displacement(), atol=1e-4)


def test_archives_are_read(tmp_path):
    field = np.random.default_rng(0).normal(size=(6, 5, 4, 3)).astype(np.float16)
    np.savez(tmp_path / "disp_0001_0002.npz", field)
    np.testing.assert_array_equal(read_learn2reg(tmp_path / "disp_0001_0002.npz"), field)


@pytest.mark.parametrize(
    ("fixed", "moving", "name"),
    [
        ("LungCT_0001_0000.nii.gz", "LungCT_0001_0001.nii.gz", "disp_0001_0001.nii.gz"),
        ("a/OASIS_0395_0000.nii.gz", "b/OASIS_0396_0000.nii.gz", "disp_0395_0396.nii.gz"),
        ("T_0001_0001.nii.gz", "T_0002_0000.nii.gz", "disp_0001_0001_0002_0000.nii.gz"),
    ],
)
def test_names(fixed, moving, name):
    assert learn2reg_name(fixed, moving) == name


def test_what_is_wrong_is_said(tmp_path):
    path = tmp_path / "disp.nii.gz"
    with pytest.raises(ValueError, match="fixed must be named"):
        learn2reg_name("case1.nii.gz", "LungCT_0001_0001.nii.gz")
    with pytest.raises(TypeError, match="transform must be"):
        save_learn2reg(np.zeros((4, 4, 4, 3)), path, FIXED)
    with pytest.raises(ValueError, match="path"):
        save_learn2reg(translation(SHIFT, FIXED), tmp_path / "disp.txt", FIXED)
    plane = zoo.Grid((4, 4))
    with pytest.raises(ValueError, match="must have 3 axes"):
        save_learn2reg(Affine.identity(2, plane), path, plane)
    zoo.Image.from_array(np.random.default_rng(0).normal(size=(5, 5, 5))).write(path)
    with pytest.raises(ValueError, match="must hold finite displacements"):
        read_learn2reg(path)
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(ValueError, match="must hold one array"):
        read_learn2reg(tmp_path / "two.npz")
    with pytest.raises(FileNotFoundError):
        read_learn2reg(tmp_path / "none.nii.gz")
