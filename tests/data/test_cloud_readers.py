import struct
from pathlib import Path

import numpy as np
import pytest

from zoo.data import cloud_benchmarks as benchmarks
from zoo.data import keypoints
from zoo.data.scan import Scan
from zoo.io.vtk import read_vtk_points

KITTI = Path(__file__).resolve().parents[3] / "shared" / "data" / "kitti_scene_flow"


def cloud(count=200, seed=0, extent=(200, 150, 180)):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (count, 3)) * extent


def write_vtk(path, points, binary=True, kind="float"):
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"# vtk DataFile Version 4.2\nvessels\n{'BINARY' if binary else 'ASCII'}\n"
    head += f"DATASET POLYDATA\nPOINTS {len(points)} {kind}\n"
    if binary:
        body = struct.pack(f">{points.size}{kind[0]}", *points.ravel())
    else:
        body = "\n".join(" ".join(map(repr, row)) for row in points.tolist()).encode()
    tail = f"\nVERTICES {len(points)} {2 * len(points)}\n".encode() + bytes(8 * len(points))
    path.write_bytes(head.encode() + body + tail)


@pytest.mark.parametrize(("binary", "kind"), [(True, "float"), (True, "double"), (False, "double")])
def test_vtk_points(tmp_path, binary, kind):
    # A coordinate whose bytes end a line must not end the reading.
    points = np.vstack([cloud(), np.frombuffer(b"\n" * 24, ">f8").reshape(1, 3)])
    points = points.astype(">f4").astype(float) if kind == "float" else points
    path = tmp_path / "cloud.vtk"
    write_vtk(path, points, binary, kind)
    np.testing.assert_array_equal(read_vtk_points(path), points)
    np.testing.assert_array_equal(Scan.read(path).points, points)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"POINTS") + 600])
    with pytest.raises(ValueError, match="ends after .* of 201 points"):
        read_vtk_points(path)
    path.write_bytes(b"<VTKFile>\n")
    with pytest.raises(ValueError, match="no legacy VTK file"):
        read_vtk_points(path)


def test_vtk_points_of_whole_numbers(tmp_path):
    points = np.arange(-6, 6).reshape(4, 3)
    for binary in (True, False):
        write_vtk(tmp_path / "cloud.vtk", points, binary, "int")
        np.testing.assert_array_equal(read_vtk_points(tmp_path / "cloud.vtk"), points)
    data = (tmp_path / "cloud.vtk").read_bytes()
    (tmp_path / "cloud.vtk").write_bytes(b"\xef\xbb\xbf" + data)
    np.testing.assert_array_equal(read_vtk_points(tmp_path / "cloud.vtk"), points)
    (tmp_path / "cloud.vtk").write_bytes(data.replace(b" int", b" bit"))
    with pytest.raises(ValueError, match="no legacy VTK file"):
        read_vtk_points(tmp_path / "cloud.vtk")


def test_pvt1010(tmp_path):
    for case, phases in ((3, ("EXP", "INSP")), (11, ("EXP", "INSP")), (12, ("EXP",))):
        for phase in phases:
            write_vtk(tmp_path / f"copd_{case:06d}_{phase}.vtk", cloud(seed=case + len(phase)))
    # Case 3 is for testing, and case 12 lacks a phase.
    pairs = benchmarks.pvt1010(tmp_path)
    assert len(pairs) == 1
    assert pairs[0].name == "copd_000011_EXP <- copd_000011_INSP"
    np.testing.assert_allclose(pairs[0].fixed.points, cloud(seed=14), atol=1e-5)
    np.testing.assert_allclose(pairs[0].moving.points, cloud(seed=15), atol=1e-5)
    with pytest.raises(ValueError, match="phases must be of"):
        benchmarks.pvt1010(tmp_path, fixed="MID")
    with pytest.raises(FileNotFoundError, match="no pairs"):
        benchmarks.pvt1010(tmp_path / "nowhere")


def test_lcsd500_finds_what_the_patterns_say(tmp_path):
    for name, seed in (("a_first", 1), ("a_second", 2), ("b_first", 3), ("b_second", 4)):
        write_vtk(tmp_path / "clouds" / f"{name}.vtk", cloud(seed=seed))
    write_vtk(tmp_path / "clouds" / "c_first.vtk", cloud())
    rows = np.arange(12.0).reshape(2, 6)
    np.savetxt(tmp_path / "a.csv", rows, delimiter=",")
    np.savetxt(tmp_path / "b.csv", rows[:, :5], delimiter=",")
    patterns = {"fixed": "clouds/{case}_first.vtk", "moving": "clouds/{case}_second.vtk"}
    pairs = benchmarks.lcsd500(tmp_path, **patterns, correspondences="{case}.csv")
    assert len(pairs) == 2 and pairs[0].name == "a"
    np.testing.assert_allclose(pairs[0].fixed.points, cloud(seed=1), atol=1e-5)
    np.testing.assert_allclose(pairs[0].moving.points, cloud(seed=2), atol=1e-5)
    np.testing.assert_array_equal(pairs[0].fixed_landmarks, rows[:, :3])
    np.testing.assert_array_equal(pairs[0].moving_landmarks, rows[:, 3:])
    with pytest.raises(ValueError, match="'b.csv': .*rows of 6 numbers"):
        pairs[1]
    assert benchmarks.lcsd500(tmp_path, **patterns)[1].fixed_landmarks is None
    with pytest.raises(FileNotFoundError, match="no pairs"):
        benchmarks.lcsd500(tmp_path, **patterns | {"moving": "{case}.vtk"})
    with pytest.raises(ValueError, match="fixed must hold {case} once"):
        benchmarks.lcsd500(tmp_path, **patterns | {"fixed": "first.vtk"})
    with pytest.raises(ValueError, match="moving must be a path below folder"):
        benchmarks.lcsd500(tmp_path, patterns["fixed"], f"{tmp_path}/{{case}}.vtk")
    with pytest.raises(FileNotFoundError, match="no case has a table none/{case}.csv"):
        benchmarks.lcsd500(tmp_path, **patterns, correspondences="none/{case}.csv")
    with pytest.raises(ValueError, match="must differ"):
        benchmarks.lcsd500(tmp_path, patterns["fixed"], patterns["fixed"])


def pvt_dirlab(folder, case=10, **options):
    index = np.stack([np.arange(1, 301), np.arange(301, 1, -1), 1 + np.arange(300) % 130], axis=-1)
    for phase, letter, seed in (("INSP", "i", 0), ("EXP", "e", 1)):
        write_vtk(folder / f"copd_{case:06d}_{phase}.vtk", cloud(seed=seed))
        path = folder / "marks" / f"copd{case}" / f"copd{case}_300_{letter}BH_xyz_r1.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(path, index, fmt="%d", delimiter="\t")
    return index, benchmarks.pvt1010_dirlab(folder, folder / "marks", case, **options)


def test_pvt1010_dirlab_pairs_axes_with_spacings(tmp_path):
    index, pair = pvt_dirlab(tmp_path)
    # In case 10 a voxel is 0.742 mm wide and 0.625 mm high, which tells the axes apart.
    for marks in (pair.fixed_landmarks, pair.moving_landmarks):
        step = np.diff(marks, axis=0) / np.diff(index, axis=0)
        np.testing.assert_allclose(step, np.broadcast_to([0.742188, 0.742188, -2.5], step.shape))
    # The top slice of the volume is the last one of the scan; x, y of the first voxel its origin.
    first = np.array([-189.0, -176.0 + 300 * 0.742188])
    for marks, slices, origin in (
        (pair.moving_landmarks, 535, -355.0),
        (pair.fixed_landmarks, 539, -346.25),
    ):
        np.testing.assert_allclose(marks[0, :2], first)
        middle = origin + 0.625 * np.mean([slices - 1 - k for k in range(4)])
        assert marks[0, 2] == pytest.approx(middle + 0.5 * 0.625)
    np.testing.assert_allclose(pair.fixed.points, cloud(seed=1), atol=1e-5)


def test_pvt1010_stacks_end_at_the_same_slice(tmp_path):
    _, scanner = pvt_dirlab(tmp_path)
    _, stack = pvt_dirlab(tmp_path, frame="stack")
    # Equal indices are equal places in this frame; clouds move with their landmarks.
    np.testing.assert_allclose(stack.fixed_landmarks, stack.moving_landmarks)
    for side in ("fixed", "moving"):
        marks = getattr(stack, f"{side}_landmarks") - getattr(scanner, f"{side}_landmarks")
        points = getattr(stack, side).points - getattr(scanner, side).points
        for shift in (marks, points):
            np.testing.assert_allclose(shift, np.broadcast_to(marks[0], shift.shape), atol=1e-9)
    with pytest.raises(ValueError, match="frame must be one of"):
        pvt_dirlab(tmp_path, frame="world")
    with pytest.raises(ValueError, match=r"case must be one of \(1, 2, .* 10\), not 11"):
        benchmarks.pvt1010_dirlab(tmp_path, tmp_path, 11)


def test_lung250m(tmp_path):
    torch = pytest.importorskip("torch")
    for scan in (1, 2):
        clouds = [torch.tensor(cloud(60 * (k + 1), seed=10 * scan + k)) for k in range(3)]
        labels = [1 + torch.arange(60 * (k + 1)) % 2 for k in range(3)]
        for kind, content in (("coordinates", clouds), ("artery_vein", labels)):
            path = tmp_path / "cloudsTs" / kind / f"case_104_{scan}.pth"
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(content, path)
    marks = np.concatenate([cloud(30, 5), cloud(30, 6)], axis=1)
    torch.save({"104": torch.tensor(marks)}, tmp_path / "lms.pth")
    pair = benchmarks.lung250m(tmp_path, 104, landmarks=tmp_path / "lms.pth")
    np.testing.assert_array_equal(pair.fixed.points, cloud(60, 10))
    np.testing.assert_array_equal(pair.moving.points, cloud(60, 20))
    np.testing.assert_array_equal(pair.fixed_landmarks, marks[:, :3])
    np.testing.assert_array_equal(pair.moving_landmarks, marks[:, 3:])
    np.testing.assert_array_equal(pair.fixed_labels, 1 + np.arange(60) % 2)
    swapped = benchmarks.lung250m(tmp_path, 104, "vessels", tmp_path / "lms.pth", fixed=2, moving=1)
    np.testing.assert_array_equal(swapped.fixed.points, cloud(180, 22))
    np.testing.assert_array_equal(swapped.fixed_landmarks, marks[:, 3:])
    # Automatic correspondences serve where no expert's are given.
    assert benchmarks.lung250m(tmp_path, 104).fixed_landmarks is None
    (tmp_path / "corrfieldTr").mkdir()
    np.savetxt(tmp_path / "corrfieldTr" / "case_104.csv", marks[:7], delimiter=",")
    automatic = benchmarks.lung250m(tmp_path, 104)
    np.testing.assert_allclose(automatic.moving_landmarks, marks[:7, 3:])
    with pytest.raises(ValueError, match="cloud must be one of"):
        benchmarks.lung250m(tmp_path, 104, "bones")
    with pytest.raises(FileNotFoundError, match="no case_105_1.pth"):
        benchmarks.lung250m(tmp_path, 105)


def write_scene(folder, before, after):
    folder.mkdir(parents=True)
    np.save(folder / "pc1.npy", before.astype(np.float32))
    np.save(folder / "pc2.npy", after.astype(np.float32))


def test_scene_flow(tmp_path):
    rng = np.random.default_rng(0)
    before = rng.uniform((-10, -2, 1), (10, 5, 50), (400, 3)).astype(np.float32)
    after = before + rng.normal(0, 0.5, (400, 3)).astype(np.float32)
    write_scene(tmp_path / "000000", before, after)
    near = (before[:, 2] < 35) & (after[:, 2] < 35)
    low = (before[:, 1] < -1.4) & (after[:, 1] < -1.4)
    for ground, kept in ((False, near & ~low), (True, near)):
        pairs = benchmarks.kitti_scene_flow(tmp_path, None, ground)
        pair = pairs[0]
        assert len(pairs) == 1 and len(pair.moving) == len(pair.fixed) == kept.sum()
        # Every moving point keeps its own flow, while the fixed cloud is in another order.
        np.testing.assert_array_equal(pair.moving.points, pair.moving_landmarks)
        order = np.lexsort(pair.moving.points.T)
        expected = np.lexsort(before[kept].astype(float).T)
        np.testing.assert_array_equal(pair.moving_landmarks[order], before[kept][expected])
        np.testing.assert_array_equal(pair.fixed_landmarks[order], after[kept][expected])
        assert not np.array_equal(pair.fixed.points, pair.fixed_landmarks)
    # FlyingThings3D looks along -z, with x reversed, and has no ground to leave out.
    write_scene(tmp_path / "flying" / "0000001", before * (-1, 1, -1), after * (-1, 1, -1))
    flying = benchmarks.flyingthings3d(tmp_path / "flying", None)[0]
    np.testing.assert_array_equal(flying.moving.points, pair.moving.points)
    few = benchmarks.flyingthings3d(tmp_path / "flying", 50)[0]
    assert len(few.fixed) == len(few.moving) == len(few.fixed_landmarks) == 50
    with pytest.raises(FileNotFoundError, match="no scenes"):
        benchmarks.kitti_scene_flow(tmp_path / "nowhere")


@pytest.mark.skipif(not KITTI.is_dir(), reason="needs three scenes of KITTI")
def test_real_kitti_scenes():
    pairs = benchmarks.kitti_scene_flow(KITTI)
    lengths = [
        np.linalg.norm(pair.fixed_landmarks - pair.moving_landmarks, axis=1).mean()
        for pair in pairs
    ]
    assert [len(pair.fixed) for pair in pairs] == [8192] * len(pairs)
    assert min(lengths) > 0.2 and max(lengths) < 3


def test_landmark_errors_scale_each_axis_with_its_own_spacing():
    spacing = np.array([0.75, 0.7, 0.6])
    for axis in range(3):
        fixed, moved = np.zeros((4, 3)), np.zeros((4, 3))
        moved[:, axis] = 10 * spacing[axis]  # an error of 10 voxels along one axis
        np.testing.assert_allclose(benchmarks.landmark_errors(fixed, moved), 10 * spacing[axis])
        swapped = benchmarks.landmark_errors(fixed, moved, swapped_spacing=spacing)
        np.testing.assert_allclose(swapped, 10 * spacing[2 - axis])
        scaled = benchmarks.landmark_errors(fixed, moved, factors=(1, 2, 3))
        np.testing.assert_allclose(scaled, 10 * spacing[axis] * (axis + 1))
    with pytest.raises(ValueError, match="same shape"):
        benchmarks.landmark_errors(fixed, moved[:2])


def test_summary_pools_landmarks():
    row = benchmarks.summarise_landmark_errors([np.array([1.0, 2.0, 3.0]), np.array([4.0, 10.0])])
    assert (row["mean"], row["p25"], row["p50"], row["p75"]) == (4.0, 2.0, 3.0, 4.0)
    assert row["std"] == pytest.approx(np.sqrt(10)) and row["case_means"] == [2.0, 7.0]
    with pytest.raises(ValueError, match="at least one case"):
        benchmarks.summarise_landmark_errors([])


def test_flow_spreads_to_landmarks():
    points, landmarks = cloud(300), cloud(40, seed=1)
    matrix, offset = np.random.default_rng(2).normal(0, 0.1, (3, 3)), np.array([3.0, -2.0, 1.0])
    # A spline with an affine part reproduces affine flows, whatever its ridge is.
    spread = benchmarks.spread_flow(points, points @ matrix + offset, landmarks)
    np.testing.assert_allclose(spread, landmarks @ matrix + offset, atol=1e-6)
    # With no ridge it goes through the given values, and with one past them.
    flow = np.sin(points / 30)
    through, past = (
        benchmarks.spread_flow(points, flow, points[:20], ridge=ridge) for ridge in (0.0, 0.1)
    )
    np.testing.assert_allclose(through, flow[:20], atol=1e-6)
    assert np.abs(past - flow[:20]).max() > 0.01
    # The Gaussian mean of two points depends on how near they are; far away the nearer one counts.
    two, values = np.array([[0.0, 0, 0], [10, 0, 0]]), np.array([[1.0, 0, 0], [3, 0, 0]])
    at = np.array([[5.0, 0, 0], [2.5, 0, 0], [-900, 0, 0]])
    mean = benchmarks.spread_flow(two, values, at, "gaussian")
    share = 1 / (1 + np.exp((7.5**2 - 2.5**2) / 50))
    np.testing.assert_allclose(mean[:, 0], [2, 1 + 2 * share, 1])
    with pytest.raises(ValueError, match="method must be one of .'spline', 'gaussian'"):
        benchmarks.spread_flow(two, values, at, "nearest")


def test_density_keypoints_are_local_maxima():
    # 40 tight clusters of 30 points: the centre of each is its densest point.
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(*[np.arange(4) * 50.0] * 3), -1).reshape(-1, 3)[:40]
    shell = rng.standard_normal((40, 29, 3))
    shell *= rng.uniform(0.8, 1.2, (40, 29, 1)) / np.linalg.norm(shell, axis=-1, keepdims=True)
    points = np.concatenate([centres[:, None], centres[:, None] + shell], axis=1).reshape(-1, 3)
    chosen = keypoints.density_keypoints(points, 40, sharpness=0.3, rivals=29)
    assert set(chosen.tolist()) == set(range(0, 1200, 30))
    # For more points the sharpness grows until less stand in each other's way.
    more = keypoints.density_keypoints(points, 100, seed=1)
    assert len(np.unique(more)) == 100
    np.testing.assert_array_equal(more, keypoints.density_keypoints(points, 100, seed=1))
    with pytest.raises(ValueError, match="1 to 1200 points, not 1300"):
        keypoints.density_keypoints(points, 1300)


def test_farthest_points():
    points = cloud(500)
    chosen = keypoints.farthest_points(points, 60)
    assert chosen[0] == 0 and len(np.unique(chosen)) == 60
    apart = np.linalg.norm(points[chosen][:, None] - points[chosen], axis=-1)
    gaps = [apart[k, :k].min() for k in range(1, 60)]
    assert (np.diff(gaps) <= 1e-12).all()
    # Greedy choice: no other point was farther from those before.
    for k in (1, 7, 59):
        away = np.linalg.norm(points[:, None] - points[chosen[:k]], axis=-1).min(axis=1)
        assert away.max() == pytest.approx(gaps[k - 1])
    equal = np.repeat([[0.0, 0, 0], [1, 0, 0]], 3, axis=0)
    assert sorted(keypoints.farthest_points(equal, 6)) == list(range(6))


def test_voxel_means():
    points = np.array([[0.1, 0.1, 0.1], [0.9, 0.5, 0.1], [1.5, 0, 0], [-0.5, 0, 0]])
    means = keypoints.voxel_means(points, 1.0)
    np.testing.assert_allclose(means, [[-0.5, 0, 0], [0.5, 0.3, 0.1], [1.5, 0, 0]])


def test_moments_match():
    moving, fixed = cloud(300), cloud(400, seed=1) * (1.5, 0.5, 1) + 40
    aligned, scale, shift = keypoints.match_moments(moving, fixed)
    np.testing.assert_allclose(aligned, moving * scale + shift)
    np.testing.assert_allclose(aligned.mean(axis=0), fixed.mean(axis=0))
    np.testing.assert_allclose(aligned.std(axis=0), fixed.std(axis=0))
    with pytest.raises(ValueError, match="extend along every axis"):
        keypoints.match_moments(moving * (1, 1, 0), fixed)


def test_synthetic_pairs_know_their_flow():
    first, second = cloud(600), cloud(700, seed=1)
    fixed, moving, flow = keypoints.synthetic_pair(first, second, 250, seed=3)
    assert fixed.shape == moving.shape == flow.shape == (250, 3)
    # Undone, the moving points are points of the same cloud as the fixed ones, but none of them.
    source = first if (first == fixed[0]).all(axis=1).any() else second
    rows = [
        int(np.flatnonzero(np.isclose(source, point).all(axis=1))[0])
        for point in [*fixed, *(moving + flow)]
    ]
    assert len(set(rows)) == 500
    assert 0 < np.abs(flow).max() <= 28
    drawn = {keypoints.synthetic_pair(first, second, 10, seed=k)[0].tobytes() for k in range(2)}
    assert len(drawn) == 2
    with pytest.raises(ValueError, match="at most half of the 600 points, not 301"):
        keypoints.synthetic_pair(first, second, 301)


def test_deformations_are_smooth():
    points = cloud(800)
    moved = keypoints.deform_cloud(points, local_shift=0.0) - points
    near = points + 0.01
    beside = keypoints.deform_cloud(np.vstack([points, near]), local_shift=0.0)
    assert np.abs(moved).max() <= 25
    shift = beside - np.vstack([points, near])
    assert np.abs(shift[800:] - shift[:800]).max() < 0.1
    local = keypoints.deform_cloud(points, global_shift=0.0) - points
    assert 0 < np.abs(local).max() <= 3


def test_jolts_keep_the_correspondence():
    moving, flow = cloud(200), np.random.default_rng(1).normal(0, 5, (200, 3))
    fixed = (moving + flow)[::-1]
    both = 0
    for seed in range(8):
        target, moved, new = keypoints.jolt_pair(fixed, moving, flow, seed=seed)
        # The fixed cloud still is where the flow leads.
        np.testing.assert_allclose(moved + new, target[::-1])
        both += not np.array_equal(target, fixed)
        design = np.hstack([moving, np.ones((200, 1))])
        solution = np.linalg.lstsq(design, moved, rcond=None)[0]
        np.testing.assert_allclose(design @ solution, moved, atol=1e-9)
        assert 0.9**3 <= np.linalg.det(solution[:3]) <= 1.1**3
    assert 0 < both < 8
