"""The benchmarks run what is there: a pair that lacks a file is left out, and said."""

import numpy as np
from bench_affine import picture_cases, volume_cases

from zoo.data.image import Image
from zoo.geometry import Grid


def picture(path, shape=(12, 10), seed=0):
    Image(np.random.default_rng(seed).integers(0, 255, shape), Grid(shape)).write(path)


def test_pairs_without_their_landmarks_are_left_out(tmp_path, capsys):
    fair, slices = tmp_path / "fair_pairs", tmp_path / "ants_2d_brain_slices"
    for seed, side in enumerate("RT"):
        picture(fair / f"hands-{side}.jpg", seed=seed)
        picture(fair / f"MRIhead-{side}.jpg", seed=seed)
    for number in (16, 64):
        picture(slices / f"r{number}slice.jpg", seed=number)
    (tmp_path / "birl_histology" / "lesions").mkdir(parents=True)
    found = {case.pair.name for case in picture_cases(tmp_path)}
    assert found == {"head, T1/T2", "brain slices r16/r64"}
    said = capsys.readouterr().err
    for missing in ("hands_landmarks.csv", "r62slice.jpg", "Izd2-29-041-w35_HE.jpg"):
        assert f"{missing}\n" in said


def test_volumes_without_their_landmarks_are_left_out(tmp_path, capsys):
    subject = tmp_path / "ptvreg_mri" / "ETHLiver" / "dataset18"
    for seed, name in enumerate(("exhMaster_unmasked.force_direction", "cyc_1_10")):
        values = np.random.default_rng(seed).normal(size=(6, 5, 4))
        Image(values, Grid((6, 5, 4))).write(subject / f"{name}.mha")
    assert list(volume_cases(tmp_path)) == []
    assert "exhMasterLM" in capsys.readouterr().err
