"""A learning rate that falls over a training, whatever its length."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np


class FallingRate(keras.callbacks.Callback):
    """Lets the learning rate fall to a hundredth of itself along half a cosine over all epochs.

    It depends on epoch and step alone, so that a resumed training goes on as it would have.

    Args:
        optimizer: whose rate it is; one that is a schedule stays as it is.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer):
        super().__init__()
        rate = optimizer.get_config()["learning_rate"]
        self.optimizer, self.rate = optimizer, float(rate) if np.isscalar(rate) else None
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self.rate is not None:
            steps = self.params["steps"] or 1
            progress = min((self.epoch + batch / steps) / self.params["epochs"], 1.0)
            share = 0.01 + 0.99 * (1 + np.cos(np.pi * progress)) / 2
            self.optimizer.learning_rate = np.float32(self.rate * share)

    def restore(self) -> None:
        """Gives the optimiser its rate back."""
        if self.rate is not None:
            self.optimizer.learning_rate = self.rate


def fit_falling(fit: Callable, optimizer: keras.optimizers.Optimizer, epochs: int, x, y, options):
    """Calls `fit(x, y, **options)` with a falling rate, which the optimiser has back afterwards.

    Args:
        fit: of a compiled `keras.Model`.
        optimizer: of that model.
        epochs: where the options say none.
        x, y: what is fitted.
        options: of `fit`.
    """
    options = dict(options)
    if options.get("epochs") is None:
        options["epochs"] = epochs
    given = options.pop("callbacks", None)
    given = given if isinstance(given, list | tuple) else [given]
    given = [each for each in given if each is not None]
    falling = FallingRate(optimizer)
    try:
        return fit(x, y, callbacks=[*given, falling], **options)
    finally:
        falling.restore()
