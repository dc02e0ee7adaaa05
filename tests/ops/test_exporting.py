"""ONNX files compute what the models do; what is none, or computes something else, is not kept."""

import sys

import keras
import numpy as np
import pytest

import registry
import zoo
import zoo.catalogue
from zoo.ops.exporting import write_onnx

onnx = pytest.importorskip("onnx", reason="needs the extra: pip install -e '.[onnx]'")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra: pip install -e '.[onnx]'")
pytest.importorskip("tf2onnx", reason="needs the extra: pip install -e '.[onnx]'")
pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="tf2onnx converts its graphs"
    ),
    # Of Keras and tf2onnx, reading names that NumPy has dropped.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def computed(path, inputs) -> dict:
    session = runtime.InferenceSession(str(path))
    if not isinstance(inputs, dict):
        inputs = {"": inputs}
    given = {
        f"args_0_{key}".rstrip("_"): np.asarray(each, np.float32) for key, each in inputs.items()
    }
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, given), strict=True))


@pytest.mark.parametrize("name", ["affine", "divroc", "igr", "resnet_lddmm"])
def test_exported_methods_compute_what_the_models_do(tmp_path, name):
    cls = registry.get(name).load()
    example = cls.example()
    model = cls(**example["config"])
    model.fit(example["data"], verbose=0, **example.get("fit", {}))
    model.export(tmp_path / "new/model.onnx", format="onnx", verbose=False)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.onnx"]
    for inputs in example["inputs"]:
        expected = model(inputs)
        if not isinstance(expected, dict):
            expected = dict.fromkeys(computed(tmp_path / "new/model.onnx", inputs), expected)
        for key, values in computed(tmp_path / "new/model.onnx", inputs).items():
            wanted = np.asarray(expected[key])
            np.testing.assert_allclose(values, wanted, 1e-4, 1e-5 * np.abs(wanted).max())


def test_a_distance_is_exported(tmp_path):
    keras.utils.set_random_seed(0)
    surface = zoo.create("igr", width=64, depth=3, skips=(2,))
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    surface.build(points.shape)
    surface.export(tmp_path / "sphere.onnx", format="onnx", verbose=False)
    (distance,) = computed(tmp_path / "sphere.onnx", points).values()
    np.testing.assert_allclose(distance, np.asarray(surface(points)), atol=1e-5)


def writes(operation: str):
    """A function that writes a file which applies one operation to `args_0_a`."""
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3])
        for name in ("args_0_a", "b")
    ]
    node = onnx.helper.make_node(operation, ["args_0_a"], ["b"])
    graph = onnx.helper.make_graph([node], "graph", ends[:1], ends[1:])
    version = [onnx.helper.make_opsetid("", 15)]
    return lambda path: onnx.save(
        onnx.helper.make_model(graph, opset_imports=version, ir_version=8), path
    )


def test_only_what_is_right_is_kept(tmp_path):
    path, inputs = tmp_path / "model.onnx", {"a": np.array([1.0, -2.0, 3.0], np.float32)}
    outputs = {"b": keras.ops.convert_to_tensor(-inputs["a"])}
    with pytest.raises(ValueError, match="no counterpart of PartitionedCall"):
        write_onnx(writes("PartitionedCall"), path, inputs, outputs)
    with pytest.raises(ValueError, match="its b is another than the model's"):
        write_onnx(writes("Abs"), path, inputs, outputs)
    with pytest.raises(ValueError, match="cannot express this model"):
        write_onnx(writes("Not"), path, inputs, outputs)  # of booleans
    assert not list(tmp_path.iterdir())
    write_onnx(writes("Neg"), path, inputs, outputs)
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.ops.exporting.PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(ImportError, match="pip install no_such_package"):
        write_onnx(sys.exit, tmp_path / "model.onnx", None, None)
