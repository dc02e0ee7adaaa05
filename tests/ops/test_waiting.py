"""Whoever waits for a compilation is told so; whoever need not wait hears nothing."""

import time

import keras
import numpy as np
import pytest
from keras import ops

from zoo.ops import waiting


@pytest.mark.parametrize(("seconds", "said"), [(0.0, False), (0.5, True)])
def test_only_a_slow_first_step_is_announced(seconds, said, monkeypatch, capsys):
    monkeypatch.setattr(waiting, "PATIENCE", 0.2)

    class Slow(keras.Model):
        def train_step(self, *data):
            time.sleep(seconds)
            return {"loss": ops.zeros(())}

    model = Slow()
    model.compile(run_eagerly=True)
    if keras.backend.backend() == "jax":
        pytest.skip("a train step of jax is pure")
    model.fit(np.ones((3, 1)), batch_size=1, verbose=0, callbacks=[waiting.Compiling()])
    assert capsys.readouterr().err.count("compiling the training step, once") == int(said)
