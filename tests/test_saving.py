"""What Keras finds by `import zoo` alone, and what a model says of other settings of Keras."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import zoo
from zoo import saving
from zoo.data import shapes

ROOT = Path(zoo.__file__).parents[1]


def in_new_process(code, folder, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A method, and a model of Keras with a layer and a loss of the zoo, as `.keras` files."""
    folder = tmp_path_factory.mktemp("keras")
    model = zoo.create("igr", width=8, depth=2, skips=(), neighbours=5)
    model.fit(shapes.sphere(50), steps_per_epoch=1, epochs=1, verbose=0)
    model.save(folder / "method.keras")
    np.save(folder / "method.npy", model(np.eye(3, dtype=np.float32)))
    fixed = keras.Input((8, 8, 1))
    field = keras.layers.Conv2D(2, 3, padding="same")(fixed)
    moved = zoo.layers.SpatialTransformer()([fixed, field])
    plain = keras.Model(fixed, moved)
    plain.compile("adam", zoo.losses.NCC())
    plain.save(folder / "layer.keras")
    return folder


@pytest.mark.parametrize("order", ["import zoo, keras", "import keras, zoo"])
def test_keras_loads_files_after_import_zoo(files, order):
    code = f"""
import importlib.util
{order}
importlib.util.find_spec("keras")
import numpy as np
method = keras.saving.load_model("method.keras")
print(type(method).__module__, type(method).__name__, int(method.optimizer.iterations))
print(np.abs(method(np.eye(3, dtype="float32")) - np.load("method.npy")).max() < 1e-6)
layer = keras.saving.load_model("layer.keras")
print([type(each).__name__ for each in layer.layers][-1], type(layer.loss).__name__)
"""
    done = in_new_process(code, files)
    assert done.stdout.splitlines() == [
        "zoo.models.igr IGR 1",
        "True",
        "SpatialTransformer NCC",
    ], done.stderr


def test_all_that_is_registered_is_declared():
    import zoo.layers
    import zoo.losses
    import zoo.metrics.keras_metrics

    for entry in zoo.catalogue.ENTRIES:
        entry.load()
    rooms = tuple(f"zoo.{room}" for room in saving.ROOMS)
    written = {
        name: f"{found.__module__}:{found.__qualname__}"
        for name, found in keras.saving.get_custom_objects().items()
        if getattr(found, "__module__", "").startswith(rooms)
    }
    declared = {name: f"{at}:{what}" for name, (at, what, _) in saving.declared().items()}
    assert written.items() <= declared.items()


def test_another_backend_is_told_in_one_sentence(tmp_path):
    done = in_new_process("import zoo", tmp_path, KERAS_BACKEND="torch")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: KERAS_BACKEND is 'torch', and the zoo runs on tensorflow or jax: set the "
        "environment variable to one of them, or unset it."
    )


def test_another_precision_is_told():
    model = zoo.create("igr", width=8, depth=2, skips=())
    before = keras.config.floatx()
    try:
        keras.config.set_floatx("float64")
        for use in (lambda: zoo.create("affine"), lambda: model(np.zeros((1, 3)))):
            with pytest.raises(ValueError, match=r"floatx\(\) is 'float64', and the zoo"):
                use()
    finally:
        keras.config.set_floatx(before)


def test_a_policy_that_is_not_applied_is_told():
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_float16")
        with pytest.warns(UserWarning, match="computes in float32.*'mixed_float16' is not"):
            zoo.create("affine")
    finally:
        keras.config.set_dtype_policy(before)


def test_an_option_of_none_is_left_out():
    model = zoo.create("igr", width=8, depth=2, skips=(), neighbours=5)
    given = {"steps_per_epoch": None, "points_per_step": 10, "seed": None}
    model.fit(shapes.sphere(50), epochs=1, verbose=0, **given)
    assert int(model.optimizer.iterations) == 100
    image = zoo.Image.from_array(np.random.default_rng(0).random((12, 14)))
    config = {"levels": 1, "units": 1, "filters": 2, "data_kernel": 1, "smoothness_kernel": 3}
    model = zoo.create("dirvnet", dims=2, **config)
    given = {"steps_per_epoch": None, "batch_size": None}
    history = model.fit(zoo.Pair(image, image), epochs=2, verbose=0, **given).history
    assert len(history["loss"]) == 2
    with pytest.raises(TypeError, match=r"does not take \['steps'\]"):
        model.fit(zoo.Pair(image, image), steps=None)


def test_a_list_of_pairs_is_trained_on(capsys):
    random = np.random.default_rng(0)
    images = [zoo.Image.from_array(random.random((12, 14))) for _ in range(3)]
    pairs = [zoo.Pair(images[0], images[1]), zoo.Pair(images[1], images[2])]
    config = {"levels": 1, "units": 1, "filters": 2, "data_kernel": 1, "smoothness_kernel": 3}
    model = zoo.create("dirvnet", dims=2, **config)
    history = model.fit(pairs, validation_data=pairs[:1], epochs=1, verbose=0).history
    assert int(model.optimizer.iterations) == 2 and "val_loss" in history
    assert capsys.readouterr() == ("", "")
    with pytest.raises(TypeError, match=r"x\[1\] must be a zoo.Pair as the others, not int"):
        model.fit([pairs[0], 3])
    with pytest.raises(ValueError, match="x must be .* of registrations a list of pairs"):
        model.fit([])


STRATEGY = """
import sys, time
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import zoo
from zoo.data import shapes
from zoo.data.pairs import PairDataset
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
tiny = {"levels": 1, "units": 1, "filters": 2, "data_kernel": 1, "smoothness_kernel": 3}
with strategy.scope():
    net = zoo.create("dirvnet", dims=2, **tiny)
    surface = zoo.create("igr", width=8, depth=2, skips=(), neighbours=5)
random = np.random.default_rng(0)
images = [zoo.Image.from_array(random.random((12, 14))) for _ in range(4)]
pairs = [zoo.Pair(images[i], images[j]) for i in range(4) for j in range(i)]
losses = net.fit(PairDataset(pairs, batch_size=2), epochs=2, verbose=0).history["loss"]
losses += surface.fit(shapes.sphere(50), steps_per_epoch=2, epochs=1, verbose=0).history["loss"]
print(np.isfinite(losses).all(), len(losses))
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a strategy of TensorFlow")
def test_two_replicas_on_one_processor_train(tmp_path):
    # Without an end before the time-out of a process it would be the stall that XLA is here.
    done = in_new_process(STRATEGY, tmp_path)
    assert done.stdout.split() == ["True", "3"], done.stderr
