"""tensorflow-graphics behind one door, because it is old and not installable everywhere.

Its metrics, interpolation and mesh functions are independent references in the tests. Nothing in
the zoo needs it to run. Never import `tensorflow_graphics.image.transformer`: it fails under
Keras 3.
"""

from __future__ import annotations

import importlib
import types

FUNCTIONS = {
    "chamfer": "nn.loss.chamfer_distance:evaluate",
    "hausdorff": "nn.loss.hausdorff_distance:evaluate",
    "trilinear": "math.interpolation.trilinear:interpolate",
    "vertex_normals": "geometry.representation.mesh.normals:vertex_normals",
}


def graphics() -> types.SimpleNamespace:
    """The functions of tensorflow-graphics that the zoo refers to.

    Returns:
        A namespace of `chamfer` and `hausdorff` (of squared and plain distances, one-sided as that
        library defines them), `trilinear` interpolation and `vertex_normals`.

    Raises:
        ImportError: where the package is missing, with the reason and the command.
    """
    loaded = {}
    for name, target in FUNCTIONS.items():
        module, _, function = target.partition(":")
        try:
            loaded[name] = getattr(
                importlib.import_module(f"tensorflow_graphics.{module}"), function
            )
        except ImportError as error:
            raise ImportError(
                "tensorflow-graphics is not installed or cannot be imported here. It needs the "
                "TensorFlow backend and Python 3.11 (its tensorflow-addons has no later wheel): "
                f"pip install tensorflow-graphics. The import said: {error}"
            ) from error
    return types.SimpleNamespace(**loaded)
