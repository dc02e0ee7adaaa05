"""What a user sees while the first step is compiled: seconds that go on, instead of a bar at 0."""

from __future__ import annotations

import sys
import threading
import time

import keras

PATIENCE = 2.0  # seconds before there is anything to say
TICK = 1.0


class Compiling(keras.callbacks.Callback):
    """Says on standard error that the first step is compiled, and for how long it has been.

    Steps are compiled once for each size of the data; the bar of Keras stands still meanwhile.
    """

    def __init__(self):
        super().__init__()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_batch_begin(self, batch, logs=None):
        if self._thread is None:
            self._thread = threading.Thread(target=self._tick, daemon=True)
            self._thread.start()

    def on_train_batch_end(self, batch, logs=None):
        self._done.set()

    def on_train_end(self, logs=None):
        self._done.set()

    def _tick(self):
        started, moves = time.monotonic(), sys.stderr.isatty()
        if self._done.wait(PATIENCE):
            return
        text = "compiling the training step, once for each size of the data"
        print(f"\n{text}", end="" if moves else "\n", file=sys.stderr, flush=True)
        while not self._done.wait(TICK):
            if moves:
                seconds = time.monotonic() - started
                print(f"\r{text}: {seconds:.0f} s", end="", file=sys.stderr, flush=True)
        if moves:
            print(file=sys.stderr, flush=True)
