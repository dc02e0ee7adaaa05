"""Several descents, one after the other, as the one training that callbacks and users see."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence

import keras
import numpy as np


def quarter_cosine(progress: float) -> float:
    """A learning rate that falls to nearly nothing, fastest at the end."""
    return math.cos(0.49 * math.pi * progress)


def half_cosine(end: float) -> Callable[[float], float]:
    """A learning rate that falls to a share of itself along half a cosine."""
    return lambda progress: end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2


class Training:
    """The stages of a registration as one training.

    Callbacks see one beginning, epochs that are counted on over the stages, and one end; one that
    stops the training stops all of it. Every stage starts its optimiser afresh, and lets the
    learning rate decay; a `LearningRateSchedule` stays as it is and begins anew.

    >>> with Training(model, callbacks) as training:                    # doctest: +SKIP
    ...     for batches in levels:
    ...         training.stage(model, batches, epochs=10)
    >>> training.history                                                # doctest: +SKIP

    A training that `keras.callbacks.BackupAndRestore` restores leaves out the stages that are done.
    A stage that trains the owner itself goes on within; one that trains another model has its
    state there, and is repeated as a whole.

    Args:
        owner: the registration that callbacks know as their model.
        callbacks: of Keras, one or several, or None.
        verbose: of `keras.Model.fit`.
        initial_epoch: number of the first epoch.

    Attributes:
        history: the Keras `History`, the stages one after the other.
    """

    def __init__(
        self,
        owner: keras.Model,
        callbacks: keras.callbacks.Callback | Sequence | None = None,
        verbose: str | int = "auto",
        initial_epoch: int = 0,
    ):
        if isinstance(callbacks, keras.callbacks.Callback):
            callbacks = [callbacks]
        self.owner, self.verbose = owner, verbose
        self.history = keras.callbacks.History()
        self._listening = keras.callbacks.CallbackList(
            [*(callbacks or ()), self.history], model=owner
        )
        self._epoch, self._restored = initial_epoch, 0

    def within(self, part: keras.Model) -> Training:
        """A training of another owner whose stages are stages of this one, for its callbacks."""
        relay = _Relay(self.owner, self._listening)
        return Training(part, [relay], self.verbose, self._epoch)

    def go_on_from(self, training: Training) -> None:
        """Counts epochs on from where a training that was `within` this one ended."""
        self._epoch = training._epoch

    @property
    def stopped(self) -> bool:
        """Whether a callback has stopped the training."""
        return self.owner.stop_training

    def __enter__(self) -> Training:
        self.owner.stop_training = False
        self.owner._initial_epoch = None
        # From now on the weights hold something, which callbacks may look at.
        self.owner.fitted = True
        rate = _rate(self.owner.optimizer)
        self._listening.on_train_begin()
        # A backup holds the rate of the moment, which the stages let decay.
        _set_rate(self.owner.optimizer, rate)
        # Where Keras' callbacks put the number of the epoch that they have restored.
        self._restored, self.owner._initial_epoch = self.owner._initial_epoch or 0, None
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None:
            self._listening.on_train_end()
        # Models and their graphs are circles, which would wait for their collection in memory.
        gc.collect()
        # Stages that train the owner have put their own there.
        self.owner.history = self.history

    def stage(
        self,
        part: keras.Model,
        batches: keras.utils.PyDataset,
        epochs: int,
        rate: float = 1.0,
        decay: Callable[[float], float] = quarter_cosine,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        kept: bool = True,
    ) -> bool:
        """Trains on some batches for some epochs, unless the training has been stopped.

        Args:
            part: the owner, or another model that shares its weights or ends in them; one that was
                not compiled gets an optimiser like the owner's.
            batches: of one epoch.
            epochs: of this stage.
            rate: factor of the learning rate.
            decay: factor of the learning rate by the share of the stage that is done.
            callbacks: that see this stage alone, as a training of `part`.
            kept: whether the result is in the owner's weights, which a backup holds.

        Returns:
            Whether the stage was trained, now or before the training was interrupted.
        """
        if self.stopped:
            return False
        first = begin = self._epoch
        self._epoch += epochs
        if kept and self._epoch <= self._restored:
            return True
        if part is self.owner:
            begin = max(first, self._restored)
        descend(
            part,
            batches,
            self._epoch,
            rate,
            decay,
            callbacks=[*callbacks, _Relay(self.owner, self._listening)],
            like=self.owner.optimizer,
            first=first,
            begin=begin,
            verbose=self.verbose,
        )
        return True


def descend(
    part: keras.Model,
    batches: keras.utils.PyDataset,
    end: int,
    rate: float = 1.0,
    decay: Callable[[float], float] = quarter_cosine,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    like: keras.optimizers.Optimizer | None = None,
    first: int = 0,
    begin: int | None = None,
    verbose: str | int = 0,
) -> None:
    """One descent from the present weights, with a fresh optimiser and a rate that decays.

    Args:
        part: the model that is trained.
        batches, rate, decay, callbacks: see `Training.stage`.
        end: number of the epoch that is no longer part of it.
        like: optimiser of whose kind a part gets one that was not compiled.
        first: number of the first epoch.
        begin: the epoch to go on with, whose optimiser has been restored; None is the first.
        verbose: of `keras.Model.fit`.
    """
    if not part.compiled:
        # Off: the search for nearest points runs on the host, and small steps do not repay XLA.
        part.compile(type(like).from_config(like.get_config()), jit_compile=False)
    optimizer, begin = part.optimizer, first if begin is None else begin
    if begin == first:
        _restart(optimizer, part.trainable_variables)
    start, callbacks = _rate(optimizer), list(callbacks)
    if start is not None:
        steps = len(batches)
        done = (begin - first) * steps
        callbacks.append(_Decay(start * rate, decay, (end - first) * steps, done))
    try:
        keras.Model.fit(
            part,
            batches,
            epochs=end,
            initial_epoch=begin,
            callbacks=callbacks,
            shuffle=False,
            verbose=verbose,
        )
    finally:
        _set_rate(optimizer, start)


def _rate(optimizer: keras.optimizers.Optimizer) -> float | None:
    """The learning rate; None of a schedule, which cannot be set and is its own decay."""
    rate = optimizer.get_config()["learning_rate"]
    return float(rate) if np.isscalar(rate) else None


def _set_rate(optimizer: keras.optimizers.Optimizer, rate: float | None) -> None:
    if rate is not None:
        optimizer.learning_rate = rate


def _restart(optimizer: keras.optimizers.Optimizer, variables) -> None:
    """Gives an optimiser the state that it had at first, which need not be zero."""
    fresh = type(optimizer).from_config(optimizer.get_config())
    for each in (optimizer, fresh):
        if not each.built:
            each.build(variables)
    for variable, value in zip(optimizer.variables, fresh.variables, strict=True):
        variable.assign(value)


class _Relay(keras.callbacks.Callback):
    """Tells callbacks of the whole about one stage, but not that training begins or ends."""

    def __init__(self, owner: keras.Model, listening: keras.callbacks.CallbackList):
        super().__init__()
        self.owner, self.listening = owner, listening
        for name in ("epoch_begin", "train_batch_begin", "train_batch_end"):
            setattr(self, f"on_{name}", getattr(listening, f"on_{name}"))

    def set_params(self, params):
        super().set_params(params)
        self.listening.set_params(params)

    def on_epoch_end(self, epoch, logs=None):
        self.listening.on_epoch_end(epoch, logs)
        if self.owner.stop_training:
            self.model.stop_training = True


class _Decay(keras.callbacks.Callback):
    """Sets the learning rate before every step of a stage."""

    def __init__(self, rate: float, decay: Callable[[float], float], steps: int, done: int):
        super().__init__()
        self.rate, self.decay, self.steps, self.done = rate, decay, steps, done

    def on_train_batch_begin(self, batch, logs=None):
        progress = min(self.done / self.steps, 1.0)
        self.model.optimizer.learning_rate = np.float32(self.rate * self.decay(progress))
        self.done += 1
