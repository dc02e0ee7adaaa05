"""Stages are one training: one beginning, counted epochs, fresh optimisers, one end."""

import keras
import numpy as np
import pytest

from zoo.data.pairs import RepeatedBatch
from zoo.registration.fitting import Training, half_cosine, quarter_cosine


class Valley(keras.Model):
    """Descends to a place."""

    def __init__(self, place=3.0):
        super().__init__()
        self.at = self.add_weight(shape=(), initializer="zeros", name="at")
        self.place, self.built = place, True

    def call(self, inputs):
        return inputs["x"] * self.at

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.square(self.at - self.place)


class Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen, self.rates = [], []

    def on_train_begin(self, logs=None):
        self.seen.append("begin")

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(epoch)

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))

    def on_train_end(self, logs=None):
        self.seen.append("end")


BATCHES = RepeatedBatch({"x": np.ones((1, 1), np.float32)}, 4)


def owner(rate=0.1):
    model = Valley()
    model.compile(keras.optimizers.Adam(rate))
    return model


def test_callbacks_see_one_training(seeded):
    model, watch = owner(), Watch()
    with Training(model, watch, verbose=0) as training:
        assert training.stage(model, BATCHES, 2)
        assert training.stage(model, BATCHES, 3, rate=0.5)
    assert watch.seen == ["begin", 0, 1, 2, 3, 4, "end"]
    assert training.history.epoch == [0, 1, 2, 3, 4]
    assert len(training.history.history["loss"]) == 5 and model.history is training.history
    # The rate decays in every stage, and is what it was in the end.
    assert watch.rates[0] == pytest.approx(0.1) and watch.rates[8] == pytest.approx(0.05)
    assert watch.rates[7] < 0.3 * watch.rates[0]
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


def test_every_stage_starts_afresh(seeded):
    values = []
    for stages in (1, 2):
        model = owner()
        with Training(model, verbose=0) as training:
            for _ in range(stages):
                model.at.assign(0.0)
                training.stage(model, BATCHES, 2)
        values.append(float(model.at))
    assert values[0] == values[1] > 0


def test_a_callback_stops_all_stages(seeded):
    model = owner()
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch == 1)
    )
    part = Valley()
    with Training(model, [stop], verbose=0) as training:
        assert training.stage(part, BATCHES, 5)
        assert not training.stage(model, BATCHES, 5)
    assert training.history.epoch == [0, 1] and training.stopped
    assert float(part.at) > 0 and float(model.at) == 0


def test_a_restored_training_leaves_out_what_is_done(seeded):
    class Restore(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model._initial_epoch = 3

    model, kept, unkept, watch = owner(), Valley(), Valley(), Watch()
    with Training(model, [Restore(), watch], verbose=0) as training:
        for part, options in ((kept, {}), (unkept, {"kept": False})):
            assert training.stage(part, BATCHES, 1, **options)
        training.stage(model, BATCHES, 2)
        training.stage(kept, BATCHES, 1)
    assert watch.seen == ["begin", 1, 3, 4, "end"]
    assert float(unkept.at) > 0


def test_a_training_within_another(seeded):
    model, part, watch = owner(), owner(), Watch()
    with Training(model, [watch], verbose=0) as training:
        training.stage(model, BATCHES, 1)
        within = training.within(part)
        with within:
            within.stage(part, BATCHES, 2)
        training.go_on_from(within)
        training.stage(model, BATCHES, 1)
    assert watch.seen == ["begin", 0, 1, 2, 3, "end"]
    assert training.history.epoch == [0, 1, 2, 3]


def test_schedules_stay(seeded):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.5)
    model, watch = owner(schedule), Watch()
    with Training(model, [watch], verbose=0) as training:
        for _ in range(2):
            training.stage(model, BATCHES, 1)
    np.testing.assert_allclose(watch.rates[:4], watch.rates[4:])


def test_decays():
    assert quarter_cosine(0.0) == 1 and quarter_cosine(1.0) == pytest.approx(0.0314, abs=1e-3)
    assert half_cosine(0.05)(0.0) == 1 and half_cosine(0.05)(1.0) == pytest.approx(0.05)
    assert half_cosine(0.1)(0.5) == pytest.approx(0.55)
