"""The command line as a function, and small files to run it on."""

import numpy as np
import pytest

import zoo
from zoo.cli import main
from zoo.data import shapes
from zoo.data.phantoms import phantom_pair
from zoo.geometry import Grid
from zoo.io.images import write_labels
from zoo.io.landmarks import write_landmarks
from zoo.transform import Affine, Dense


@pytest.fixture
def run(capsys):
    """Runs a command; returns its exit status and what it printed."""

    def command(*words):
        status = main([str(word) for word in words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return command


@pytest.fixture
def preset(tmp_path):
    model = zoo.create("igr", width=64, depth=2, skips=(), radius=0.6)
    return model.save_preset(tmp_path / "small", summary="A small one.")


@pytest.fixture
def scan(tmp_path):
    shape = shapes.sphere(300)
    path = tmp_path / "scan.xyz"
    np.savetxt(path, np.concatenate([shape.points, shape.normals], axis=1))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A generated pair on disk, with landmarks and the organs as labels."""
    folder = tmp_path_factory.mktemp("pair")
    pair, _, _ = phantom_pair((48, 40), spacing=2.0)
    for side in ("fixed", "moving"):
        image = getattr(pair, side)
        image.write(folder / f"{side}.nii.gz")
        write_labels(folder / f"{side}_labels.nii.gz", image.array[..., 0] > 0.3, image.grid)
        write_landmarks(folder / f"{side}.csv", getattr(pair, f"{side}_landmarks"))
    (folder / "pairs.csv").write_text(
        "fixed,moving,fixed_landmarks,moving_landmarks\n"
        "fixed.nii.gz,moving.nii.gz,fixed.csv,moving.csv\n"
        "moving.nii.gz,fixed.nii.gz,moving.csv,fixed.csv\n"
    )
    return folder


@pytest.fixture
def shift(tmp_path):
    """Pulls three voxels along x, as a field and, without a grid, as a matrix."""
    field = np.zeros((8, 6, 2))
    field[..., 0] = 3
    Dense(field, Grid((8, 6))).save(tmp_path / "shift.nii.gz")
    Affine(np.eye(2), [3.0, 0.0]).save(tmp_path / "shift.h5")
    return tmp_path / "shift.nii.gz"
