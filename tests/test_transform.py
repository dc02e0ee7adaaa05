"""Transforms: exact affine maps, numerical inverses, composition, and agreement with ITK."""

import numpy as np
import pytest

import zoo
from zoo import transform as module
from zoo.data.image import Image
from zoo.data.scan import Scan
from zoo.geometry import Grid
from zoo.transform import Affine, Composed, Dense, Inverse, Mapped, Transform, Velocity, scattered

sitk = pytest.importorskip("SimpleITK")


def oblique(shape, seed=0):
    rng = np.random.default_rng(seed)
    rank = len(shape)
    direction, _ = np.linalg.qr(rng.standard_normal((rank, rank)))
    return Grid(shape, rng.uniform(0.7, 1.8, rank), rng.uniform(-30, 30, rank), direction)


def smooth(shape, size, seed=0):
    """A smooth field [*shape, rank] of the given size in voxels that does not fold."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij")
    parts = []
    for _ in shape:
        phase, turns = rng.uniform(0, 6, len(shape)), rng.uniform(2, 4, len(shape))
        parts.append(
            np.prod([np.sin(t * x + p) for t, x, p in zip(turns, axes, phase, strict=True)], axis=0)
        )
    return size * np.stack(parts, axis=-1)


def some_points(grid, count=200, seed=1):
    rng = np.random.default_rng(seed)
    return grid.to_world(rng.uniform(0, np.array(grid.shape) - 1, (count, grid.rank)))


SHAPES = [(24, 31), (14, 17, 12)]


def some_affine(rank, grid=None, seed=2):
    rng = np.random.default_rng(seed)
    return Affine(
        np.eye(rank) + 0.1 * rng.standard_normal((rank, rank)), rng.uniform(-3, 3, rank), grid
    )


def test_affine_maps_are_exact():
    points = np.random.default_rng(0).standard_normal((50, 3))
    turn = Affine([[0, -1, 0], [1, 0, 0], [0, 0, 1]], [1, 2, 3])
    np.testing.assert_allclose(turn.pull([[1.0, 0, 0]]), [[1, 3, 3]])
    np.testing.assert_allclose(turn.move(turn.pull(points)), points, atol=1e-12)
    np.testing.assert_allclose(turn.inverse().pull(points), turn.move(points), atol=1e-12)
    both = turn @ some_affine(3)
    assert isinstance(both, Affine)
    np.testing.assert_allclose(both.pull(points), turn.pull(some_affine(3).pull(points)))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_dense_affine_field_is_the_affine_map(shape):
    grid = oblique(shape)
    affine = some_affine(len(shape), grid)
    dense = Dense(affine.displacement(), grid)
    points = some_points(grid)
    np.testing.assert_allclose(dense.pull(points), affine.pull(points), atol=1e-3)
    determinant = dense.jacobian_determinant()
    np.testing.assert_allclose(determinant, np.linalg.det(affine.matrix), atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_numerical_inverse_says_how_good_it_is(shape):
    grid = oblique(shape)
    dense = Dense(smooth(shape, 1.5), grid)
    assert dense.jacobian_determinant().min() > 0
    points = some_points(grid)
    assert dense.inverse_error(points).max() < 1e-3
    np.testing.assert_allclose(dense.move(dense.pull(points)), points, atol=2e-2)
    np.testing.assert_allclose(dense.inverse().move(points), dense.pull(points))
    assert dense.inverse().inverse() is dense


def test_a_field_that_stretches_and_shears_is_inverted():
    # Fixed-point steps alone leave some of these points half a voxel away.
    grid = Grid((24, 24, 24))
    x, y, z = np.moveaxis(grid.coordinates(), -1, 0)
    field = np.stack(
        [3 * np.sin(x / 2.2) + 1.5 * np.sin(y / 2), 3 * np.sin(y / 2.2 + 1), 1.2 * np.sin(x / 2)],
        axis=-1,
    )
    stretching = Dense(0.65 * field, grid)
    assert stretching.jacobian_determinant().min() > 0
    assert stretching.inverse_error(some_points(grid, 3000)).max() < 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_two_functions_are_a_transform(shape):
    grid = oblique(shape)
    dense = Dense(smooth(shape, 1.5), grid)
    points = some_points(grid)
    known = Mapped(dense.pull, dense.move, grid)
    np.testing.assert_array_equal(known.move(points), dense.move(points))
    np.testing.assert_allclose(known.displacement(), dense.field, atol=1e-5)
    inverted = Mapped(dense.pull, fixed_grid=grid)
    np.testing.assert_array_equal(inverted.move(points), dense.move(points))
    assert Mapped(dense.pull, fixed_grid=grid).rank == len(shape)


def swirl(points):
    """Turns by more the nearer a point is to the origin, which fixed-point steps do not undo."""
    angle = 2.5 * np.exp(-((points / 30) ** 2).sum(axis=1))
    x, y = points.T
    return np.stack(
        [x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=1
    )


def test_whatever_pulls_can_move():
    points = np.random.default_rng(0).normal(scale=20, size=(400, 2)) + [3, 1]
    turning = Mapped(swirl, rank=2)
    assert turning.inverse_error(points).max() < 1e-6 * 200
    close = turning.move(points, tolerance=1e-9)
    assert np.abs(swirl(close) - points).max() < 1e-9
    assert turning.inverse_error(points[:1]).max() < 1e-3
    assert turning.move(np.zeros((0, 2))).shape == (0, 2)

    class Pulls(Transform):
        def pull(self, points):
            return swirl(points)

    np.testing.assert_array_equal(Pulls().move(points), turning.move(points))
    with pytest.raises(TypeError, match="give its .points"):
        Pulls().move(Scan(np.eye(3)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Mapped(swirl), ValueError, "rank must be 2 or 3.* not None"),
        (lambda: Mapped(swirl, None, Grid((4, 4)), 3), ValueError, "that of fixed_grid, not 3"),
        (lambda: Mapped(None, swirl, rank=2), TypeError, "pull must be a function"),
        (lambda: Mapped(swirl, 3, rank=2), TypeError, "move must be a function .* not int"),
        (lambda: Mapped(lambda x: x[:1], rank=2).pull(np.eye(2)), ValueError, "pull must return"),
        (lambda: Mapped(swirl, rank=2).pull(np.eye(3)), ValueError, r"shape \[n, 2\]"),
    ],
)
def test_functions_that_are_no_transform(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_grid_is_pulled_in_slabs(monkeypatch, shape):
    grid, moving = oblique(shape), oblique(shape, seed=3)
    align = Affine(np.eye(len(shape)), moving.centre - grid.centre)
    image = Image(smooth(shape, 1.0, seed=5)[..., :1], moving)
    transform = align @ Dense(smooth(shape, 1.5), oblique(shape, seed=4)) @ align.inverse()
    at_once = transform.sampled(grid, moving)
    wanted, displacement = at_once.warp(image).array, at_once.displacement
    monkeypatch.setattr(module, "SLAB", 5 * np.prod(shape[1:]))
    slabs = transform.sampled(grid, moving)
    np.testing.assert_allclose(slabs.displacement, displacement, atol=1e-5)
    np.testing.assert_allclose(slabs.warp(image).array, wanted, atol=1e-5)
    np.testing.assert_array_equal(slabs.inside, at_once.inside)
    # As if it were too large for scipy.
    monkeypatch.setattr(module, "COMPILED_FROM", 0)
    np.testing.assert_allclose(transform.warp(image, grid).array, wanted, atol=1e-4)
    with pytest.raises(ValueError, match="source"):
        transform.sampled(grid, grid).warp(image)


def known_vectors(rank, count=4000, seed=0):
    """Points of a box and where a bend, stretched and shifted, takes them."""
    points = np.random.default_rng(seed).uniform(-1, 1, (count, rank)) * [90, 60, 40][:rank] + 500
    bend = 6 * np.sin(np.roll(points, 1, axis=1) / 25)
    return points, bend + 0.1 * (points - 500) + 7


@pytest.mark.parametrize("rank", [2, 3])
def test_scattered_vectors_are_followed(rank):
    points, vectors = known_vectors(rank)
    lengths = np.linalg.norm(vectors, axis=1)
    flow = scattered(points, vectors, lattice=32)
    error = np.linalg.norm(flow.move(points) - points - vectors, axis=1)
    assert error.mean() < 0.05 * lengths.mean()
    inner = known_vectors(rank, 500, seed=1)[0]
    inside = inner[(np.abs(inner - 500) < 0.8 * np.array([90, 60, 40][:rank])).all(axis=1)]
    assert flow.inverse_error(inside).max() < 1e-3
    np.testing.assert_allclose(flow.pull(flow.move(inside)), inside, atol=0.05)
    once = scattered(points, vectors, lattice=32, passes=1)
    assert error.mean() < np.linalg.norm(once.move(points) - points - vectors, axis=1).mean()


@pytest.mark.parametrize("rank", [2, 3])
def test_scattered_noise_is_smoothed_and_never_folds(rank):
    points, vectors = known_vectors(rank)
    noise = np.random.default_rng(2).normal(size=points.shape)
    errors = []
    for size in (2.0, 40.0):
        flow = scattered(points, vectors + size * noise, lattice=32, passes=4)
        errors.append(np.linalg.norm(flow.move(points) - points - vectors, axis=1).mean())
        bend = flow.parts[1].of
        assert bend.jacobian_determinant().min() > 0
        assert module._cell_determinants(bend.field).min() >= 0.1
        everywhere = (points - 500) * 2 + 500
        assert flow.inverse_error(everywhere).max() < 1e-3
    assert errors[0] < 1.5 and errors[1] < 40
    # Crossing paths cannot be followed by any map.
    crossing = scattered(points, -2.5 * (points - 500) * [1, *[0] * (rank - 1)])
    assert crossing.inverse_error(points).max() < 1e-3


def test_scattered_vectors_of_an_affine_map_are_that_map():
    points = known_vectors(3)[0]
    affine = some_affine(3)
    found = scattered(points, affine.pull(points) - points)
    assert isinstance(found, Affine)
    np.testing.assert_allclose(found.move(points), affine.pull(points))
    few = scattered(points[:2], np.ones((2, 3)))
    np.testing.assert_allclose(few.pull(points), points - 1)
    # A point without weight says nothing.
    weights = np.ones(len(points))
    weights[0], vectors = 0.0, affine.pull(points) - points
    vectors[0] += 1000
    moved = scattered(points, vectors, weights).move(points[1:])
    np.testing.assert_allclose(moved, affine.pull(points[1:]), atol=1e-6)


def test_the_corners_of_cells_see_folds_that_central_differences_miss():
    field = np.zeros((8, 8, 2))
    field[3:5, :, 0] = [[0.8], [-0.8]]
    assert Dense(field, Grid((8, 8))).jacobian_determinant().min() > 0
    assert module._cell_determinants(field).min() == pytest.approx(-0.6)
    assert module._cell_determinants(np.zeros((4, 5, 6, 3))).shape == (5, 6, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": np.ones((4, 2))}, r"vectors must have the shape \(5, 2\)"),
        ({"vectors": np.full((5, 2), np.nan)}, "vectors must be finite"),
        ({"weights": -np.ones(5)}, "weights must not be negative"),
        ({"weights": np.ones(4)}, r"weights must have the shape \(5,\)"),
        ({"lattice": 2}, "lattice must be at least 4"),
        ({"points": np.ones((0, 2)), "vectors": np.ones((0, 2))}, "at least one point"),
    ],
)
def test_scattered_vectors_that_make_no_sense(changes, message):
    words = {"points": np.random.default_rng(0).random((5, 2)), "vectors": np.ones((5, 2))}
    with pytest.raises(ValueError, match=message):
        scattered(**(words | changes))


def test_a_scattered_transform_comes_back_from_a_file(tmp_path):
    points, vectors = known_vectors(2)
    flow = scattered(points, vectors, lattice=24)
    assert isinstance(flow.parts[1], Inverse)
    flow.save(tmp_path / "flow.h5")
    loaded = Transform.load(tmp_path / "flow.h5")
    inner = flow.move(points[(np.abs(points - 500) < [70, 45]).all(axis=1)])
    np.testing.assert_allclose(loaded.pull(inner), flow.pull(inner), atol=0.3)


def test_scans_are_no_points_and_no_images():
    scan = Scan(np.eye(3))
    with pytest.raises(TypeError, match="not a Scan; give its .points"):
        Affine.identity(3).move(scan)
    with pytest.raises(TypeError, match="image must be a zoo.Image, not Scan"):
        Affine.identity(3, Grid((4, 4, 4))).warp(scan)


def test_a_folding_field_admits_its_inverse_is_wrong():
    grid = Grid((40, 40))
    field = np.zeros((40, 40, 2))
    field[..., 0] = 6 * np.sin(np.arange(40) / 2)[:, None]
    folding = Dense(field, grid)
    assert folding.jacobian_determinant().min() < 0
    assert np.isfinite(folding.inverse_error(some_points(grid))).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_velocities_are_inverse_to_their_negatives(shape):
    grid = oblique(shape)
    flow = Velocity(smooth(shape, 1.0), grid)
    inner = some_points(grid, 300)
    index = grid.to_index(inner)
    inner = inner[((index > 3) & (index < np.array(shape) - 4)).all(axis=1)]
    assert flow.inverse_error(inner).mean() < 0.05
    np.testing.assert_allclose(flow.inverse().pull(inner), flow.move(inner), atol=1e-4)
    assert flow.jacobian_determinant().min() > 0


def test_a_constant_velocity_is_a_translation():
    grid = Grid((20, 20), spacing=(2.0, 0.5))
    flow = Velocity(np.broadcast_to([1.0, -2.0], (20, 20, 2)), grid)
    np.testing.assert_allclose(flow.pull([[10.0, 5.0]]), [[12.0, 4.0]], atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_composition_is_one_map_after_the_other(shape):
    grid = oblique(shape)
    affine, dense = some_affine(len(shape)), Dense(smooth(shape, 1.0), grid)
    both = affine @ dense
    points = some_points(grid)
    np.testing.assert_allclose(both.pull(points), affine.pull(dense.pull(points)))
    np.testing.assert_allclose(both.move(both.pull(points)), points, atol=2e-2)
    np.testing.assert_allclose(both.inverse().pull(points), both.move(points))
    assert both.fixed_grid == grid
    nested = Composed([affine, Composed([affine, dense])])
    assert len(nested.parts) == 3
    np.testing.assert_allclose(nested.pull(points), affine.pull(both.pull(points)))


@pytest.mark.parametrize("shape", SHAPES)
def test_warping_and_moving_agree(shape):
    """A blob of the moving image appears where its centre is moved to."""
    grid = Grid(tuple(2 * n for n in shape))
    moving = oblique(tuple(2 * n for n in shape), seed=3)
    transform = Affine(
        moving.direction * 0.9, moving.centre - 0.9 * moving.direction @ grid.centre, grid
    ) @ Dense(smooth(grid.shape, 1.0), grid)
    spot = transform.pull(grid.centre[None] + 1.5)
    blob = np.exp(-(((moving.coordinates() - spot[0]) / 4) ** 2).sum(axis=-1))
    moved = transform.warp(Image(blob[..., None].astype("float32"), moving))
    weights = moved.array / moved.array.sum()
    centre = (weights * grid.coordinates()).reshape(-1, grid.rank).sum(axis=0)
    np.testing.assert_allclose(centre, transform.move(spot)[0], atol=0.4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd", ".tfm", ".h5"])
def test_saved_transforms_come_back(tmp_path, shape, suffix):
    grid = oblique(shape)
    both = some_affine(len(shape)) @ Dense(smooth(shape, 1.0), grid)
    both.save(tmp_path / f"transform{suffix}")
    loaded = Transform.load(tmp_path / f"transform{suffix}")
    points = some_points(grid)
    # A field holds the composition at its voxels; in between it is linear.
    atol = 5e-3 if suffix in (".tfm", ".h5") else 0.05
    np.testing.assert_allclose(loaded.pull(points), both.pull(points), atol=atol)
    if suffix in (".tfm", ".h5"):
        assert isinstance(loaded.parts[0], Affine)
    assert [path.name for path in tmp_path.iterdir()] == [f"transform{suffix}"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("suffix", [".nii.gz", ".h5"])
def test_simpleitk_warps_to_the_same_picture(tmp_path, shape, suffix):
    fixed, moving = oblique(shape), oblique(tuple(n + 5 for n in shape), seed=4)
    rank = len(shape)
    align = Affine(np.eye(rank), moving.centre - fixed.centre)
    transform = align @ Dense(smooth(shape, 1.2), fixed)
    values = smooth(moving.shape, 1.0, seed=5)[..., :1].astype("float32")
    image = Image(values, moving)
    image.write(tmp_path / "moving.nii.gz")
    ours = transform.warp(image)
    ours.write(tmp_path / "ours.nii.gz")
    transform.save(tmp_path / f"warp{suffix}")
    if suffix == ".h5":
        theirs = sitk.ReadTransform(str(tmp_path / "warp.h5"))
    else:
        field = sitk.ReadImage(str(tmp_path / "warp.nii.gz"))
        theirs = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    reference = sitk.ReadImage(str(tmp_path / "ours.nii.gz"))
    moved = sitk.Resample(
        sitk.ReadImage(str(tmp_path / "moving.nii.gz")), reference, theirs, sitk.sitkLinear, 0.0
    )
    inside = np.abs(sitk.GetArrayFromImage(moved)) > 0
    difference = np.abs(sitk.GetArrayFromImage(moved) - sitk.GetArrayFromImage(reference))
    assert inside.mean() > 0.3
    assert difference[inside].max() < 5e-3


def test_nearest_labels_stay_labels():
    grid = Grid((20, 20))
    labels = (np.indices((20, 20)).sum(axis=0) // 7).astype("float32")[..., None]
    moved = Affine([[0.9, 0.1], [0, 1.1]], [1, 0], grid).warp(Image(labels, grid), order="nearest")
    assert set(np.unique(moved.array)) <= set(np.unique(labels))


def test_outside_is_marked():
    grid = Grid((10, 10))
    image = Image(np.ones((10, 10, 1), "float32"), grid)
    shifted = Affine(np.eye(2), [5, 0], grid)
    moved = shifted.warp(image, outside=-1.0).array[..., 0]
    assert (moved[:5] == 1).all() and (moved[5:] == -1).all()
    air = Image(np.linspace(-1000, 500, 100, dtype="float32").reshape(10, 10, 1), grid)
    assert (shifted.warp(air).array[5:] == -1000).all()
    assert (shifted.warp(air, order="nearest").array[5:] == 0).all()
    with pytest.raises(ValueError, match="order must be"):
        shifted.warp(air, order="cubic")


def test_a_composition_has_the_grid_of_its_last_part_only():
    with_grid = Affine(np.eye(2), [1, 0], Grid((4, 4)))
    without = Affine(np.eye(2), [0, 1])
    assert (with_grid @ without).fixed_grid is None
    assert (without @ with_grid).fixed_grid == Grid((4, 4))
    assert Composed([with_grid, Dense(np.zeros((5, 5, 2)), Grid((5, 5)))]).fixed_grid.shape == (
        5,
        5,
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Affine(np.zeros((3, 3)), np.zeros(3)), "singular"),
        (lambda: Affine(np.eye(3), np.zeros(2)), "matrix and offset"),
        (lambda: Dense(np.zeros((4, 4, 3)), Grid((4, 4))), r"shape \(4, 4, 2\)"),
        (lambda: Dense(np.full((4, 4, 2), np.nan), Grid((4, 4))), "finite"),
        (lambda: Affine.identity(3).pull(np.zeros((4, 2))), r"shape \[n, 3\]"),
        (lambda: Affine.identity(3).displacement(), "no grid of its own"),
        (lambda: Affine(np.eye(2), [np.nan, 0]), "offset must be finite"),
        (lambda: Velocity(np.full((4, 4, 2), np.inf), Grid((4, 4))), "velocity must be finite"),
        (lambda: Velocity(np.zeros((4, 4, 3)), Grid((4, 4))), r"velocity must have the shape"),
        (lambda: Affine.identity(2).pull(np.ones((3, 2)) > 0), "real numbers, not bool"),
        (lambda: Affine.identity(2).move(np.ones((3, 2)) + 1j), "real numbers, not complex128"),
        (lambda: Composed([]), "at least one"),
        (lambda: Affine.identity(2, Grid((4, 4))).save("warp.doc"), "suffix must be one of"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_unreadable_transforms(tmp_path):
    (tmp_path / "cut.tfm").write_text("#Insight Transform File V1.0\nTransform: Aff")
    with pytest.raises(ValueError, match="cut.tfm"):
        Transform.load(tmp_path / "cut.tfm")
    with pytest.raises(FileNotFoundError):
        Transform.load(tmp_path / "absent.h5")
    assert zoo.Transform is Transform
