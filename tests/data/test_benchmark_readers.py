import json
from pathlib import Path

import numpy as np
import pytest
from test_images import smooth

from zoo.data import benchmarks
from zoo.data.image import Image
from zoo.data.pairs import PairDataset
from zoo.geometry import Grid
from zoo.io.images import write_labels

SHAPE, SPACING = (6, 5, 4), (0.97, 1.5, 2.5)
GRID = Grid(SHAPE, SPACING)


def write_dirlab(folder, names, volumes, lists, points):
    """Raw int16 volumes with x fastest, and voxel indices counted from 1."""
    for name, volume in zip(names, volumes, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(volume.astype("<i2").tobytes(order="F"))
    for name, rows in zip(lists, points, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(path, rows, fmt="%d", delimiter="\t")


def dirlab_content(seed=0):
    rng = np.random.default_rng(seed)
    volumes = rng.integers(-1000, 2000, (2, *SHAPE))
    points = [np.stack([rng.integers(1, n + 1, 300) for n in SHAPE], axis=-1) for _ in range(2)]
    return volumes, points


def check_dirlab(pair, volumes, points):
    for side, volume, rows in zip(("fixed", "moving"), volumes, points, strict=True):
        image = getattr(pair, side)
        np.testing.assert_array_equal(image.array[..., 0], volume)
        np.testing.assert_allclose(image.grid.spacing, SPACING)
        # A landmark at voxel (i, j, k), counted from 1, is the centre of array entry [i-1, ...].
        landmarks = getattr(pair, f"{side}_landmarks")
        assert landmarks.shape == (300, 3)
        np.testing.assert_allclose(landmarks, (rows - 1) * SPACING)
        np.testing.assert_allclose(image.grid.to_index(landmarks), rows - 1, atol=1e-9)


@pytest.mark.parametrize(
    ("case", "pack", "image", "extreme", "prefix"),
    [
        (1, "Case1Pack", "case1_{}_s.img", "ExtremePhases", "Case1_300"),
        (2, "Case2Pack", "case2_{}-ssm.img", "ExtremePhases", "Case2_300"),
        (8, "Case8Deploy", "case8_{}.img", "extremePhases", "case8_dirLab300"),
    ],
)
def test_dirlab_4dct(tmp_path, monkeypatch, case, pack, image, extreme, prefix):
    monkeypatch.setitem(benchmarks.DIRLAB_4DCT, case, (SHAPE, SPACING))
    volumes, points = dirlab_content()
    phases = ("T00", "T50")
    write_dirlab(
        tmp_path,
        [f"{pack}/Images/{image.format(phase)}" for phase in phases],
        volumes,
        [f"{pack}/{extreme}/{prefix}_{phase}_xyz.txt" for phase in phases],
        points,
    )
    check_dirlab(benchmarks.dirlab_4dct(tmp_path, case), volumes, points)
    check_dirlab(
        benchmarks.dirlab_4dct(tmp_path / pack, case, "T50", "T00"), volumes[::-1], points[::-1]
    )
    with pytest.raises(FileNotFoundError, match="T10"):
        benchmarks.dirlab_4dct(tmp_path, case, moving="T10")
    with pytest.raises(ValueError, match=r"case must be one of \(1, 2, .* 10\), not 11"):
        benchmarks.dirlab_4dct(tmp_path, 11)
    path = tmp_path / pack / "Images" / image.format("T00")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"must have 240 bytes for \(6, 5, 4\) voxels, not 238"):
        benchmarks.dirlab_4dct(tmp_path, case)


def test_dirlab_4dct_phases_between_have_no_landmarks(tmp_path, monkeypatch):
    monkeypatch.setitem(benchmarks.DIRLAB_4DCT, 6, (SHAPE, SPACING))
    volumes, _ = dirlab_content()
    write_dirlab(tmp_path, ["case6_T00.img", "case6_T10.img"], volumes, [], [])
    pair = benchmarks.dirlab_4dct(tmp_path, 6, moving="T10")
    assert pair.fixed_landmarks is None


def test_dirlab_copdgene(tmp_path, monkeypatch):
    monkeypatch.setitem(benchmarks.DIRLAB_COPDGENE, 3, (SHAPE, SPACING))
    volumes, points = dirlab_content(1)
    write_dirlab(
        tmp_path,
        [f"copd3/copd3_{state}BHCT.img" for state in "ie"],
        volumes,
        [f"copd3/copd3_300_{state}BH_xyz_r1.txt" for state in "ie"],
        points,
    )
    check_dirlab(benchmarks.dirlab_copdgene(tmp_path, 3), volumes, points)


def test_published_sizes_are_complete():
    for cases in (benchmarks.DIRLAB_4DCT, benchmarks.DIRLAB_COPDGENE):
        assert sorted(cases) == list(range(1, 11))
        for shape, spacing in cases.values():
            assert shape[0] == shape[1] and spacing[0] == spacing[1] and spacing[2] == 2.5


def write_histology(folder):
    """Two stained sections of different size; landmarks 1..4 and 2..5."""
    rng = np.random.default_rng(0)
    for name, shape, numbers in (("HE", (30, 20), range(1, 5)), ("PanCK", (32, 18), range(2, 6))):
        values = rng.integers(0, 256, (*shape, 3))
        Image(values, Grid(shape)).write(folder / f"scale/{name}.png")
        rows = [f"{number},{number * 3},{number + 10}" for number in numbers]
        (folder / f"scale/{name}.csv").write_text("\n".join([",X,Y", *rows]) + "\n")


@pytest.mark.filterwarnings("ignore:.*no counterpart")
def test_histology(tmp_path):
    pytest.importorskip("PIL")
    write_histology(tmp_path)
    table = tmp_path / "dataset_medium.csv"
    table.write_text(
        ",Target image,Source image,Target landmarks,Source landmarks,status\n"
        "0,scale/HE.png,scale/PanCK.png,scale/HE.csv,scale/PanCK.csv,training\n"
        "1,scale/PanCK.png,scale/HE.png,scale/PanCK.csv,scale/hidden.csv,evaluation\n"
    )
    pairs = benchmarks.histology_pairs(table)
    assert len(pairs) == 2 and len(benchmarks.histology_pairs(table, status="training")) == 1
    pair = pairs[0]
    assert pair.fixed.shape == (30, 20) and pair.moving.shape == (32, 18)
    assert pair.fixed.channels == 1
    # Numbers 2, 3 and 4 are in both files; pixels are the world.
    expected = [[6, 12], [9, 13], [12, 14]]
    np.testing.assert_array_equal(pair.fixed_landmarks, expected)
    np.testing.assert_array_equal(pair.moving_landmarks, expected)
    assert pairs[1].fixed_landmarks is None
    assert benchmarks.histology_pairs(table, grey=False)[0].fixed.channels == 3
    batch = PairDataset(pairs[:1], shape=(32, 24))[0][0]
    assert batch["moving"].shape == (1, 32, 24, 1)
    with pytest.raises(ValueError, match="no rows of the status 'test'"):
        benchmarks.histology_pairs(table, status="test")
    table.write_text("fixed,moving\na,b\n")
    with pytest.raises(ValueError, match="Source image"):
        benchmarks.histology_pairs(table)


def test_learn2reg(tmp_path):
    pytest.importorskip("SimpleITK")
    direction = np.diag([-1.0, 1.0, 1.0])  # files of the challenge are often not LPS
    grid = Grid(SHAPE, SPACING, (10, -5, 3), direction)
    rng = np.random.default_rng(0)
    names = [f"LungCT_0001_000{k}" for k in range(2)]
    rows = rng.uniform(0, 2.4, (9, 3))
    for k, name in enumerate(names):
        Image(smooth(SHAPE, k), grid).write(tmp_path / f"imagesTr/{name}.nii.gz")
        labels = rng.integers(0, 3, SHAPE)
        write_labels(tmp_path / f"labelsTr/{name}.nii.gz", labels, grid)
        write_labels(tmp_path / f"masksTr/{name}.nii.gz", labels > 0, grid)
        (tmp_path / "keypointsTr").mkdir(exist_ok=True)
        np.savetxt(tmp_path / f"keypointsTr/{name}.csv", rows + k, delimiter=",", fmt="%.3f")
    entry = {"fixed": f"./imagesTr/{names[0]}.nii.gz", "moving": f"./imagesTr/{names[1]}.nii.gz"}
    dataset = tmp_path / "LungCT_dataset.json"
    content = {"name": "LungCT", "training": [{"image": entry["fixed"]}]}
    content |= {"training_paired_images": [entry], "registration_val": [entry, entry]}
    dataset.write_text(json.dumps(content))

    pairs = benchmarks.learn2reg(dataset)
    assert len(pairs) == 1 and len(benchmarks.learn2reg(dataset, "registration_val")) == 2
    pair = pairs[0]
    assert pair.fixed.grid.close_to(grid)
    np.testing.assert_allclose(grid.to_index(pair.fixed_landmarks), rows, atol=1e-3)
    np.testing.assert_allclose(pair.arrays()["moving_landmarks"][0], rows + 1, atol=1e-3)
    np.testing.assert_array_equal(pair.moving_mask, pair.moving_labels > 0)
    with pytest.raises(ValueError, match="only under .*'registration_val', 'training_paired"):
        benchmarks.learn2reg(dataset, "training")
    (tmp_path / "masksTr" / f"{names[1]}.nii.gz").unlink()
    assert pairs[0].fixed_mask is None and pairs[0].fixed_labels is not None
    for text in ("{", "[1]", '{"registration_val": [{"fixed": "a", "moving": "b"}, 3]}'):
        dataset.write_text(text)
        with pytest.raises(ValueError, match="no Learn2Reg .json"):
            benchmarks.learn2reg(dataset)


def test_lung_keypoints(tmp_path):
    rows = np.random.default_rng(0).uniform(0, 190, (12, 6))
    np.savetxt(tmp_path / "case_001.csv", rows, delimiter=",")
    pair = benchmarks.lung_keypoints(tmp_path / "case_001.csv")
    np.testing.assert_allclose(pair.fixed.points, rows[:, :3] * (1.75, 1.25, 1.75))
    np.testing.assert_allclose(pair.moving_landmarks, rows[:, 3:] * (1.75, 1.0, 1.25))
    np.savetxt(tmp_path / "bad.csv", rows[:, :4], delimiter=",")
    with pytest.raises(ValueError, match="rows of 6 numbers, not 4"):
        benchmarks.lung_keypoints(tmp_path / "bad.csv")


DATA = Path(__file__).parents[3] / "shared/data"


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data are not here")
def test_real_histology():
    folder = DATA / "birl_histology/lesions"
    stem = folder / "Izd2-29-041-w35_"
    pair = benchmarks.histology_pair(
        f"{stem}HE.jpg", f"{stem}proSPC.jpg", f"{stem}HE.csv", f"{stem}proSPC.csv"
    )
    assert pair.fixed.shape == (890, 733) and len(pair.fixed_landmarks) == 78
    apart = np.linalg.norm(pair.fixed_landmarks - pair.moving_landmarks, axis=1)
    assert np.median(apart) == pytest.approx(65.8, abs=0.1)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data are not here")
def test_real_liver_landmarks():
    from zoo.data.pair import Pair

    folder = DATA / "ptvreg_mri/ETHLiver/dataset18"
    pair = Pair.read(
        folder / "exhMaster_unmasked.force_direction.mha",
        folder / "cyc_3_10.force_direction.mha",
        fixed_landmarks=folder / "exhMasterLMliver.vtk",
        moving_landmarks=folder / "cyc_3_10LMliver.vtk",
    )
    apart = np.linalg.norm(pair.fixed_landmarks - pair.moving_landmarks, axis=1)
    assert apart.mean() == pytest.approx(22.1, abs=0.1)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data are not here")
def test_real_lung_keypoints():
    pair = benchmarks.lung_keypoints(DATA / "l2r_lungct_keypoints/keypoints/case_014.csv")
    assert pair.rank == 3 and len(pair.fixed) == len(pair.moving) > 800
