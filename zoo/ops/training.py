"""A `keras.Model` of which nothing is left once it is dropped."""

from __future__ import annotations

from collections.abc import Callable

import keras


class Released(keras.Model):
    """A `keras.Model` whose training graphs are freed with it.

    Under TensorFlow, Keras's optimisers add the gradients of all replicas, and TensorFlow puts the
    gradient of every such sum into a table that it never clears. With it the graph of the training
    step and all that it holds stay for good: some 15 MiB for each model that was ever trained. Of a
    single replica there is nothing to add.
    """

    def make_train_function(self, *args, **kwargs):
        # An optimiser that makes its variables within the first step has it traced twice.
        if self.built and self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        return super().make_train_function(*args, **kwargs)

    def train_step(self, *args):
        return _beyond_replicas(super().train_step, *args)


class Transient(Released):
    """A model of which many are made, to be trained once each.

    Under TensorFlow it traces no graph for its steps, which takes a second and leaves megabytes
    behind wherever a graph calls a kernel; what is worth a graph it calls as a
    `zoo.ops.kernels.shared_graph`.
    """

    def compile(self, *args, **kwargs):
        kwargs.setdefault("run_eagerly", keras.backend.backend() == "tensorflow")
        super().compile(*args, **kwargs)


def _beyond_replicas(function: Callable, *args):
    """Calls a function where Keras adds nothing over replicas, unless there are several."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is not None and not tf.distribute.has_strategy():
            return context.merge_call(lambda _: function(*args))
    return function(*args)
