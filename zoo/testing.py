"""The contract of the zoo: `check(name)` proves that a method, built-in or plugin, keeps it."""

from __future__ import annotations

import functools
import inspect
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import ops

import registry
import zoo.api  # declares the built-in entries
from zoo.data.pair import Pair
from zoo.model import Model, by_name
from zoo.registration.found import fingerprint

KERAS_OWN = {"name", "trainable", "dtype"}


def check(name: str) -> list[str]:
    """Runs the contract on a registered method, on the Keras backend in use.

    The method is built from its `example()`, so a check takes seconds.

    Args:
        name: of the entry.

    Returns:
        The clauses that were checked, in order.

    Raises:
        AssertionError: at the first clause that fails; the message names it.
    """
    entry = registry.get(name)
    checked = []
    try:
        for clause in CONTRACT:
            keras.utils.set_random_seed(7)
            title = (clause.__doc__ or "").strip()
            try:
                clause(entry)
            except Exception as error:
                raise AssertionError(f"{name}: {title} {type(error).__name__}: {error}") from error
            checked.append(title)
    finally:
        _fitted.cache_clear()
    return checked


def _example(entry) -> dict:
    return entry.load().example()


def _create(entry, **extra) -> Model:
    return zoo.create(entry.name, **_example(entry)["config"], **extra)


def _one(entry):
    return _example(entry)["inputs"][0]


def _fit(model, entry, **options):
    example = _example(entry)
    return model.fit(example["data"], verbose=0, **example["fit"], **options)


@functools.lru_cache(maxsize=1)
def _fitted(entry) -> tuple[Model, list[np.ndarray], dict]:
    """A model that all clauses look at and none changes, its weights before, and the history."""
    keras.utils.set_random_seed(7)
    model = _create(entry)
    before = [ops.convert_to_numpy(weight) for weight in model.trainable_weights]
    return model, before, _fit(model, entry, epochs=3).history


def _arrays(outputs) -> list[np.ndarray]:
    return [ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


def _same(first, second, tolerance=1e-5):
    for one, other in zip(_arrays(first), _arrays(second), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def _entry(entry):
    """The entry names a zoo.Model and says what it is."""
    assert issubclass(entry.load(), Model), f"{entry.where} is not a zoo.Model"
    assert entry.summary and entry.task and entry.data and entry.dims
    assert inspect.getdoc(entry.load()), "the class has no docstring"


def _repeats(entry):
    """example() gives the same case at every call: what is random in it has a seed of its own."""
    cases = [_example(entry) for _ in range(2)]
    assert cases[0]["config"] == cases[1]["config"], "config differs from call to call"
    pairs = [case["data"] for case in cases]
    if isinstance(pairs[0], Pair):
        assert fingerprint(pairs[0]) == fingerprint(pairs[1]), "data differ from call to call"
    for one, other in zip(*(_arrays(case["inputs"]) for case in cases), strict=True):
        assert np.array_equal(one, other), "inputs differ from call to call"


def _config(entry):
    """get_config returns the constructor's arguments and rebuilds the model."""
    model = _create(entry)
    config = model.get_config()
    parameters = inspect.signature(entry.load().__init__).parameters
    names = {key for key, value in parameters.items() if value.kind is not value.VAR_KEYWORD}
    assert set(config) - KERAS_OWN == names - {"self"}, (
        f"get_config has {sorted(config)}, the constructor {sorted(names)}"
    )
    assert entry.load().from_config(config).get_config() == config


def _call(entry):
    """Calls give finite outputs of the declared shapes at every size of the example."""
    model = _create(entry)
    _, declared = model.signature()
    for inputs in _example(entry)["inputs"]:
        outputs = by_name(model(inputs), declared)
        assert set(outputs) == set(declared), f"{sorted(outputs)}, declared {sorted(declared)}"
        for name, facts in declared.items():
            array = ops.convert_to_numpy(outputs[name])
            assert np.isfinite(array).all(), f"{name} is not finite"
            assert array.ndim == len(facts["shape"]), f"{name} has the shape {array.shape}"
            for size, expected in zip(array.shape, facts["shape"], strict=True):
                assert expected in (None, size), f"{name} has the shape {array.shape}"


def _predict(entry):
    """predict agrees with calling the model."""
    model = _create(entry)
    _same(model.predict(_one(entry), verbose=0), model(_one(entry)), 1e-4)


def _seeded(entry):
    """The same seed gives the same weights."""
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        weights.append(_create(entry).get_weights())
    _same(*weights, tolerance=0)


def _gradients(entry):
    """Training reaches every trainable weight."""
    model, before, _ = _fitted(entry)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert not np.array_equal(ops.convert_to_numpy(weight), old), f"{weight.path} is untouched"


def _learns(entry):
    """Fitting lowers the loss and logs every term."""
    model, _, history = _fitted(entry)
    assert history["loss"][-1] < history["loss"][0], f"losses {history['loss']}"
    assert set(model.loss_weights) <= set(history), f"logged {sorted(history)}"


def _keras_file(entry):
    """A .keras file gives back the model, its outputs and its compilation."""
    model, _, _ = _fitted(entry)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        loaded = zoo.load(path)
    assert loaded.get_config() == model.get_config()
    assert loaded.compiled and loaded.loss_weights == model.loss_weights
    _same(loaded(_one(entry)), model(_one(entry)))


def _preset(entry):
    """A preset folder gives back the model and its outputs."""
    model, _, _ = _fitted(entry)
    with tempfile.TemporaryDirectory() as folder:
        loaded = zoo.load(model.save_preset(Path(folder) / "mine"))
    _same(loaded.predict(_one(entry), verbose=0), model.predict(_one(entry), verbose=0))


def _mixed_precision(entry):
    """Under mixed precision outputs stay finite and training runs."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        with warnings.catch_warnings():
            # A method may say that it stays with float32.
            warnings.simplefilter("ignore", UserWarning)
            model = _create(entry)
        _fit(model, entry)
        for array in _arrays(model(_one(entry))):
            assert np.isfinite(np.asarray(array, dtype=np.float32)).all()
    finally:
        keras.config.set_dtype_policy(before)


def _export(entry):
    """The exported SavedModel computes the same (TensorFlow only)."""
    if keras.backend.backend() != "tensorflow":
        return
    model = _create(entry)
    expected = model(_one(entry))
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        exported = keras.layers.TFSMLayer(folder, call_endpoint="serve")
        given = keras.tree.map_structure(lambda array: ops.cast(array, "float32"), _one(entry))
        _same(exported(given), expected)


CONTRACT: tuple[Callable, ...] = (
    _entry,
    _repeats,
    _config,
    _call,
    _predict,
    _seeded,
    _gradients,
    _learns,
    _keras_file,
    _preset,
    _mixed_precision,
    _export,
)
