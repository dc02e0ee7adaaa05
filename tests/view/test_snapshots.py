"""Pictures of a surface while it is fitted."""

import matplotlib.image
import pytest

import zoo
from zoo.data import shapes
from zoo.view.snapshots import Snapshots

TINY = {"levels": 2, "finest": 12, "entries": 2**10, "width": 32, "neighbours": 10}


def test_a_picture_every_second_epoch(tmp_path, seeded):
    model = zoo.create("igr", **TINY)
    shots = Snapshots(tmp_path / "pictures", every=2, resolution=24)
    model.fit(shapes.sphere(200), epochs=4, steps_per_epoch=2, callbacks=shots, verbose=0)
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["epoch_002.png", "epoch_004.png"]
    assert matplotlib.image.imread(tmp_path / "pictures" / names[1])[..., :3].std() > 0.01


def test_an_epoch_without_a_surface_is_left_out(tmp_path, seeded):
    model = zoo.create("igr", **TINY, radius=5.0)
    model.compile("sgd")
    model.optimizer.learning_rate = 0.0
    with pytest.warns(UserWarning, match="epoch_001: there is no surface yet"):
        model.fit(
            shapes.sphere(200),
            epochs=1,
            steps_per_epoch=1,
            callbacks=[Snapshots(tmp_path, resolution=16)],
            verbose=0,
        )
    assert not list(tmp_path.iterdir())


def test_planar_models_and_bad_numbers_are_refused(tmp_path):
    model = zoo.create("igr", dims=2, **TINY)
    with pytest.raises(ValueError, match="dims must be 3, not 2"):
        model.fit(shapes.circle(200), epochs=1, callbacks=[Snapshots(tmp_path)], verbose=0)
    with pytest.raises(ValueError, match="every"):
        Snapshots(tmp_path, every=0)
