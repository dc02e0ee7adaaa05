"""Models as ONNX files, which are kept only if they compute what the model does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from keras import ops

from zoo.ops.kernels import plainly

PACKAGES = ("tf2onnx", "onnx", "onnxruntime")
RTOL, ATOL = 1e-3, 1e-4  # the latter as a share of the largest value, as for presets


def write_onnx(write: Callable[[str], None], filepath: str | Path, inputs, outputs) -> None:
    """Writes an ONNX file that has been tried; it appears complete or not at all.

    Within `write`, kernels are operations of the graph around them: ONNX has no calls of compiled
    functions. Converters write what they cannot convert as it is, and nothing says so before
    somebody loads the file; so it is loaded and run here.

    Args:
        write: converts the model to a file at a path.
        filepath: the final file.
        inputs: of the model, to try it with: an array or a dict of arrays.
        outputs: what the model makes of them: a tensor or a dict of tensors.

    Raises:
        ImportError: if a package is missing, with the command that installs it.
        ValueError: if ONNX cannot express the model, or computes something else.
    """
    missing = " ".join(name for name in PACKAGES if find_spec(name) is None)
    if missing:
        raise ImportError(f"format 'onnx' needs {missing}: pip install {missing}")
    filepath = Path(filepath).expanduser()
    filepath.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=filepath.parent, prefix=f".{filepath.name}.") as folder:
        partial = Path(folder) / filepath.name
        with plainly():
            write(str(partial))
        if unknown := _unknown_operations(partial):
            raise ValueError(
                f"format 'onnx' cannot express this model: ONNX has no counterpart of {unknown}."
            )
        _try_out(partial, inputs, outputs)
        os.replace(partial, filepath)


def _unknown_operations(path: Path) -> str:
    """The operations of a file that are none of the standard."""
    import onnx

    def nodes(graph):
        for node in graph.node:
            yield node
            for attribute in node.attribute:
                for inner in [attribute.g, *attribute.graphs]:
                    yield from nodes(inner)

    found = {node.op_type for node in nodes(onnx.load(path).graph) if not node.domain}
    return ", ".join(sorted(name for name in found if not onnx.defs.has(name)))


def _try_out(path: Path, inputs, outputs) -> None:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        given = {name: np.asarray(_of(inputs, name), np.float32) for name in names}
        names = [each.name for each in session.get_outputs()]
        found = dict(zip(names, session.run(None, given), strict=True))
    except Exception as error:  # of classes that are made in C++ and share no other base
        reason = str(error).splitlines()[0][:300]
        raise ValueError(f"format 'onnx' cannot express this model: {reason}") from error
    for name, values in found.items():
        expected = ops.convert_to_numpy(_of(outputs, name))
        atol = ATOL * np.abs(expected).max(initial=0)
        if values.shape != expected.shape or not np.allclose(values, expected, RTOL, atol):
            raise ValueError(
                f"format 'onnx' cannot express this model: its {name} is another than the model's."
            )


def _of(arrays, name: str):
    """The array for a name of the file, which ends in the key of a dict."""
    if not isinstance(arrays, dict):
        return arrays
    return next(array for key, array in arrays.items() if name in (key, f"args_0_{key}"))
