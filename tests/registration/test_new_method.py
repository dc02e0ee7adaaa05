"""A method of sixty lines gets fits in stages, callbacks, resumed training and the shell."""

import inspect
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import registry
import zoo
from zoo.cli import main
from zoo.data.phantoms import phantom_pair
from zoo.testing import check

sys.path.insert(0, str(Path(__file__).parent))
import free_form


@pytest.fixture
def method():
    with registry.isolated():
        facts = {"task": "registration", "data": "image", "dims": (2, 3)}
        zoo.add_method("free-form", **facts)(free_form.FreeForm)
        yield "free-form"


def test_it_is_short():
    assert len(inspect.getsource(free_form).splitlines()) <= 60


def test_it_keeps_the_contract(method):
    assert len(check(method)) >= 11


def test_it_registers_and_is_measured(method, seeded):
    pair, _, _ = phantom_pair((40, 36), turn=4.0, stretch=0.03, shift=2.0)
    model = zoo.create(method, dims=2)
    model.compile(keras.optimizers.Adam(0.2))
    with pytest.warns(UserWarning, match="has not been fitted"):
        model.transform(pair)
    history = model.fit(pair, epochs=6, verbose=0)
    assert (
        history.epoch == list(range(6)) and history.history["loss"][-1] < history.history["loss"][0]
    )
    measured = model.evaluate(pair)
    assert measured["tre_mm"] < 0.5 * measured["initial_tre_mm"]
    assert measured["folds_percent"] == 0


class Interrupted(Exception):
    """Ends a training in the middle, as Ctrl-C would."""


def test_an_interrupted_fit_resumes(method, seeded, tmp_path):
    pair, _, _ = phantom_pair((24, 20), turn=4.0, shift=1.0)

    def fitted(*callbacks):
        model = zoo.create(method, dims=2)
        model.fit(pair, epochs=5, steps_per_epoch=3, verbose=0, callbacks=list(callbacks))
        return model.get_weights()

    def stop(epoch, logs):
        if epoch == 2:
            raise Interrupted

    unbroken = fitted()
    backup = [keras.callbacks.BackupAndRestore(tmp_path / "kept") for _ in range(2)]
    with pytest.raises(Interrupted):
        fitted(keras.callbacks.LambdaCallback(on_epoch_end=stop), backup[0])
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: seen.append(epoch))
    for one, other in zip(fitted(backup[1], watch), unbroken, strict=True):
        np.testing.assert_array_equal(one, other)
    assert seen == [2, 3, 4]


def test_the_shell_knows_it(method, tmp_path, capsys):
    pair, _, _ = phantom_pair((24, 20), turn=4.0, shift=1.0)
    for side in ("fixed", "moving"):
        getattr(pair, side).write(tmp_path / f"{side}.nii.gz")
    command = ["register", "fixed.nii.gz", "moving.nii.gz", "-m", method, "--out", "result"]
    words = [str(tmp_path / word) if "." in word or word == "result" else word for word in command]
    assert main([*words, "--set", "lattice=4", "--epochs", "2"]) in (0, None)
    assert "ncc" in json.loads((tmp_path / "result" / "results.json").read_text())
    assert (tmp_path / "result" / "warp.nii.gz").exists()


def test_an_example_without_a_seed_is_named(method, monkeypatch):
    def unseeded(cls):
        example = super(free_form.FreeForm, cls).example()
        return example | {
            "inputs": [{"moving": np.random.default_rng().uniform(size=(1, 5, 5, 1))}]
        }

    monkeypatch.setattr(free_form.FreeForm, "example", classmethod(unseeded))
    with pytest.raises(AssertionError, match="seed of its own. .*inputs differ from call to call"):
        check(method)
