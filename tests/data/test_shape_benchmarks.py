"""Layouts of published bodies, written small and read back."""

import numpy as np
import pytest
import trimesh

from zoo.data.shape_benchmarks import faust, faust_challenge, shrec19_humans


def write(path, count=12, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    mesh = trimesh.creation.icosphere(subdivisions=0)
    random = np.random.default_rng(seed)
    mesh.vertices = mesh.vertices[:count] * random.uniform(0.5, 1.5, 3)
    mesh.export(path)
    return mesh.vertices


def test_faust_pairs_are_within_or_across_subjects_and_correspond(tmp_path):
    bodies = {
        number: write(tmp_path / f"training/registrations/tr_reg_{number:03d}.ply", seed=number)
        for number in (3, 4, 13)
    }
    assert [pair.name for pair in faust(tmp_path)] == ["004_003", "003_004"]
    assert len(faust(tmp_path, "across")) == 4
    assert len(faust(tmp_path / "training", "all")) == 6
    (pair,) = faust(tmp_path, pairs=[(13, 4)])
    np.testing.assert_allclose(pair.fixed_landmarks, bodies[13], atol=1e-6)
    np.testing.assert_allclose(pair.moving.points, bodies[4], atol=1e-6)


def test_faust_scans_are_scored_by_the_registrations(tmp_path):
    for number in (0, 1):
        write(tmp_path / f"registrations/tr_reg_{number:03d}.ply", seed=number)
    scan = write(tmp_path / "scans/tr_scan_000.ply", seed=7)
    write(tmp_path / "scans/tr_scan_001.ply", seed=8)
    pair = faust(tmp_path, scans=True, pairs=[(1, 0)])[0]
    np.testing.assert_allclose(pair.moving.points, scan, atol=1e-6)
    assert not np.allclose(pair.moving.points, pair.moving_landmarks)


def test_faust_challenge_moves_the_first_scan_onto_the_second(tmp_path):
    first, second = (
        write(tmp_path / f"test/scans/test_scan_00{number}.ply", seed=number) for number in (1, 2)
    )
    (tmp_path / "test/challenge_pairs").mkdir()
    (tmp_path / "test/challenge_pairs/inter_challenge.txt").write_text("001_002\n\n")
    (pair,) = faust_challenge(tmp_path, "across")
    np.testing.assert_allclose(pair.moving.points, first, atol=1e-6)
    np.testing.assert_allclose(pair.fixed.points, second, atol=1e-6)
    with pytest.raises(FileNotFoundError, match=r"intra_challenge\.txt"):
        faust_challenge(tmp_path)


@pytest.mark.parametrize(("start", "suffix"), [(0, ".txt"), (1, ".map")])
def test_shrec19_partners_are_counted_from_zero_or_one(tmp_path, start, suffix):
    source, target = (write(tmp_path / f"obj/{number}.obj", seed=number) for number in (1, 2))
    partners = np.random.default_rng(0).permutation(12)
    (tmp_path / "PAIRS_list_SHREC19_connectivity.txt").write_text("1,2\n2,1\n")
    found = tmp_path / f"matches/FARMgt_txt/1_2{suffix}"
    found.parent.mkdir(parents=True)
    found.write_text("\n".join(str(each + start) for each in partners))
    known, unknown = shrec19_humans(tmp_path)
    np.testing.assert_allclose(known.moving.points, source, atol=1e-6)
    np.testing.assert_allclose(known.fixed_landmarks, target[partners], atol=1e-6)
    assert unknown.fixed_landmarks is None
    assert unknown.name == "2_1"


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (range(1, 12), "a number for each of the 12 vertices, not 11"),
        ([5] * 12, "give first_vertex"),
        (range(2, 14), "give first_vertex"),
        (["x"] * 12, "numbers of vertices alone"),
    ],
)
def test_partners_that_do_not_fit_are_refused(tmp_path, numbers, message):
    for number in (1, 2):
        write(tmp_path / f"{number}.obj")
    (tmp_path / "PAIRS_list_SHREC19_connectivity.txt").write_text("1 2\n")
    (tmp_path / "1_2.txt").write_text(" ".join(map(str, numbers)))
    with pytest.raises(ValueError, match=message):
        shrec19_humans(tmp_path)[0]


def test_first_vertex_settles_what_the_numbers_do_not(tmp_path):
    for number in (1, 2):
        write(tmp_path / f"{number}.obj")
    (tmp_path / "PAIRS_list_SHREC19_connectivity.txt").write_text("1 2\n")
    (tmp_path / "1_2.txt").write_text(" ".join(["5"] * 12))
    pair = shrec19_humans(tmp_path, first_vertex=1)[0]
    np.testing.assert_array_equal(pair.fixed_landmarks[0], pair.fixed.points[4])
    (tmp_path / "1_2.txt").write_text(" ".join(["12"] * 12))
    with pytest.raises(ValueError, match="must name vertices 0 to 11, not 12 to 12"):
        shrec19_humans(tmp_path, first_vertex=0)[0]


def test_what_is_missing_is_named(tmp_path):
    for read in (faust, shrec19_humans):
        with pytest.raises(FileNotFoundError, match="folder: no"):
            read(tmp_path)
    (tmp_path / "PAIRS_list_SHREC19_connectivity.txt").write_text("1 2\n")
    with pytest.raises(FileNotFoundError, match=r"no mesh 2\.obj"):
        shrec19_humans(tmp_path)[0]
    (tmp_path / "PAIRS_list_SHREC19_connectivity.txt").write_text("1\n")
    with pytest.raises(ValueError, match="line 1: two numbers expected"):
        shrec19_humans(tmp_path)
