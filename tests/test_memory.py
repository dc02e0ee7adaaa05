"""Nothing is left of a model that was trained and dropped: no graph, no variable, no data."""

import gc
import weakref

import keras
import numpy as np
import pytest
from keras import ops

import registry
import zoo
import zoo.api  # declares the built-in entries
from zoo.losses import MutualInformation
from zoo.ops import kernels
from zoo.ops.compiling import compiled
from zoo.ops.sampling import sample
from zoo.ops.training import Released, Transient


def graphs_and_tensors():
    """How many of TensorFlow's graphs and tensors there are; none on other backends."""
    gc.collect()
    names = [type(each).__name__ for each in gc.get_objects()]
    return names.count("FuncGraph"), names.count("EagerTensor")


def mutual_information(value):
    return MutualInformation(8)(ops.sin(value), value)


def sampled(value):
    positions = ops.reshape(ops.arange(6, dtype="float32"), (1, 3, 2))
    return ops.sum(sample(value, positions))


TERMS = {"sum": ops.sum, "custom gradient": sampled, "scan": mutual_information}


def trained(kind, term):
    class Small(kind):
        def __init__(self):
            super().__init__()
            self.image = self.add_weight(shape=(1, 5, 6, 1))
            self.built = True

        def call(self, x):
            return x * term(self.image[...])

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return ops.mean(y_pred)

    model = Small()
    model.compile("adam")
    model.fit(np.ones((1, 3)), verbose=0)
    return weakref.ref(model)


@pytest.mark.parametrize("kind", [Released, Transient])
@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_a_trained_model_is_freed(kind, term):
    trained(kind, term)  # Kernels are kept, once.
    before = graphs_and_tensors()
    dropped = [trained(kind, term) for _ in range(2)]
    assert graphs_and_tensors() == before
    assert not any(model() for model in dropped)


def test_a_compiled_function_is_freed_with_its_layer():
    def used():
        layer = keras.layers.Dense(3)
        layer.build((None, 2))
        function = compiled(layer, layer)
        function(ops.ones((4, 2)))
        return weakref.ref(layer)

    used()
    before = graphs_and_tensors()
    dropped = used()
    assert graphs_and_tensors() == before
    assert dropped() is None


def test_a_shared_graph_is_traced_once():
    traced = []

    def double(x):
        traced.append(1)
        return 2 * x

    function = kernels.shared_graph(double)
    for value in (1.0, 2.0):
        assert ops.convert_to_numpy(function(ops.full((3,), value))).tolist() == [2 * value] * 3
    assert len(traced) == 1


@pytest.mark.parametrize("name", ["affine", "igr", "dirvnet", "divroc", "nephi"])
def test_a_trained_method_is_freed(name):
    cls = registry.get(name).load()

    def train():
        example = cls.example()
        model = zoo.create(name, **example["config"])
        model.fit(example["data"], verbose=0, **example["fit"])
        return weakref.ref(model)

    train()
    before = graphs_and_tensors()
    dropped = train()
    assert graphs_and_tensors() == before
    assert dropped() is None
