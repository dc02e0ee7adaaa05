"""Padding of CT is recognised, backgrounds are not, and gaps are masked."""

import numpy as np
import pytest

from zoo.data.image import Image
from zoo.data.padding import padding_of, with_room, without_padding
from zoo.data.pair import Pair
from zoo.geometry import Grid

SHAPE = (30, 28)


def disc(radius):
    x, y = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij")
    return x**2 + y**2 < radius**2


def picture(array):
    return Image(np.asarray(array, np.float32), Grid(SHAPE))


def scan(padding=None):
    """A body in air, noisy, and what lies outside of the scanner's circle."""
    random = np.random.default_rng(0)
    values = np.where(disc(8), 40.0, -1000.0) + random.normal(0, 10, SHAPE)
    return values if padding is None else np.where(disc(13), values, padding)


@pytest.mark.parametrize("value", [-2000, -3024, -32768, 3071, 32767, 0])
def test_what_lies_far_from_air_is_padding(value):
    np.testing.assert_array_equal(padding_of(picture(scan(value))), ~disc(13))


def test_backgrounds_are_no_padding():
    random = np.random.default_rng(1)
    tissue = random.uniform(0.5, 1.0, SHAPE)
    for array in (
        scan(),
        np.maximum(scan(), -1000),  # air that the scanner clips
        np.where(disc(9), tissue, 0.0),  # a body on black
        disc(9).astype(float),  # an outline
        np.indices(SHAPE).sum(0) // 5 % 2,  # a board
        tissue,
        1.5 - np.where(disc(9), tissue, 0.0),  # a body on white
        np.where(disc(5), 2000.0, scan()),  # metal, or a bright body in noise
        np.where(disc(9), random.normal(0, 1, SHAPE), 0.0),  # standardised within a mask
    ):
        assert padding_of(picture(array)) is None


def test_a_padded_pair_is_masked_and_harmless():
    user = np.ones(SHAPE, bool)
    user[:, :10] = False
    plain = Pair(picture(scan()), picture(scan()[::-1]))
    assert without_padding(plain) is plain
    pair = without_padding(Pair(picture(scan(-3024)), picture(scan()), fixed_mask=user))
    np.testing.assert_array_equal(pair.fixed_mask, user & disc(13))
    assert pair.moving_mask is None
    assert pair.fixed.array.min() >= -1100


def test_gaps_are_filled_and_masked():
    array = scan()
    array[3, 4], array[5, 6] = np.nan, np.inf
    with pytest.raises(ValueError, match="2 values are NaN or infinite.*with_gaps"):
        picture(array)
    image, mask = Image.with_gaps(array, Grid(SHAPE))
    assert not mask[3, 4] and not mask[5, 6] and mask.sum() == mask.size - 2
    assert image.array[3, 4, 0] == image.array.min()
    assert Image.with_gaps(scan(), Grid(SHAPE))[1] is None
    with pytest.raises(ValueError, match="all are NaN"):
        Image.with_gaps(np.full(SHAPE, np.nan), Grid(SHAPE))


def test_a_file_with_gaps_is_read_with_a_mask(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    array = scan().astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(array.T), str(tmp_path / "whole.mha"))
    array[3, 4] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array.T), str(tmp_path / "gap.mha"))
    sitk.WriteImage(sitk.GetImageFromArray(array.T), str(tmp_path / "gap.nii"))
    with pytest.warns(UserWarning, match="fixed: 1 voxels of 'gap.mha' are NaN"):
        pair = Pair.read(tmp_path / "gap.mha", tmp_path / "whole.mha")
    assert not pair.fixed_mask[3, 4] and pair.fixed_mask.sum() == array.size - 1
    # ITK writes the gap into .nii, and would read it as a zero.
    with pytest.raises(ValueError, match="leave those voxels out by a mask"):
        Image.read(tmp_path / "gap.nii")


def test_room_is_background_and_is_cut_off_again():
    image = np.random.default_rng(0).normal(size=(1, 30, 32, 17, 2)).astype(np.float32)
    large, inner = with_room({"fixed": image, "fixed_mask": np.ones_like(image[..., :1])})
    assert large["fixed"].shape == (1, 32, 32, 32, 2)
    assert large["fixed"].dtype == np.float32
    np.testing.assert_array_equal(large["fixed"][inner], image)
    assert large["fixed_mask"].sum() == image[..., 0].size
    assert (large["fixed"][large["fixed_mask"][..., 0] == 0] == image.min()).all()
