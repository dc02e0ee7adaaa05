"""Networks of coordinates: a multilayer perceptron that starts as the distance to a sphere."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import initializers, ops

from zoo.ops.arguments import checked, one_of, positive
from zoo.ops.array_arguments import few_enough
from zoo.ops.compiling import in_float32

ACTIVATIONS = ("softplus", "relu", "leaky_relu")
INITIALISATIONS = ("geometric", "he")


@keras.saving.register_keras_serializable(package="zoo")
class CoordinateMLP(keras.layers.Layer):
    """Maps coordinates (after an optional latent code) to a field, `[..., d] -> [..., outputs]`.

    At the layers named in `skips` the input is appended to the hidden features; the layer before
    such a skip is narrowed by `d`, so that every layer sees the same `width`. With the geometric
    initialisation the untrained network is close to `|x| - radius`, negative inside (Atzmon and
    Lipman, SAL, arXiv:1911.10414; Gropp et al., IGR, arXiv:2002.10099).

    The layer always computes in float32, also under a mixed-precision policy: a signed distance
    has to resolve a thousandth of the box, which half precision cannot.

    Args:
        width: hidden units of each layer.
        depth: number of hidden layers.
        skips: indices of the linear layers that receive the input again.
        outputs: components of the field.
        activation: "softplus", "relu" or "leaky_relu" (slope 0.1).
        beta: sharpness of the softplus, `log(1 + exp(beta x)) / beta`.
        centred: subtract `log(2) / beta` from the softplus, so that it vanishes at zero as ReLU
            does; the author network does not.
        initialisation: "geometric" (sphere) or "he".
        radius: radius of the initial sphere.
        scale_skips: divide by sqrt(2) after a concatenation, which keeps the norm.

    Raises:
        ValueError: for an unknown activation or initialisation, a non-positive size, a skip
            outside `1 .. depth`, or a width that leaves no room before a skip.
    """

    @checked(width=(1, 2**16), depth=(1, 1024), outputs=(1, 2**16), beta=positive, radius=positive)
    def __init__(
        self,
        width: int = 512,
        depth: int = 8,
        skips: Sequence[int] = (4,),
        outputs: int = 1,
        activation: str = "softplus",
        beta: float = 100.0,
        centred: bool = False,
        initialisation: str = "geometric",
        radius: float = 1.0,
        scale_skips: bool = True,
        **kwargs,
    ):
        super().__init__(**in_float32(kwargs))
        one_of("activation", activation, ACTIVATIONS)
        one_of("initialisation", initialisation, INITIALISATIONS)
        few_enough("width and depth", (depth, width, width))
        if any(not 1 <= skip <= depth for skip in skips):
            raise ValueError(f"skips must lie between 1 and depth={depth}, not {tuple(skips)}.")
        self.width, self.depth, self.skips, self.outputs = width, depth, tuple(skips), outputs
        self.activation, self.beta, self.centred = activation, beta, centred
        self.initialisation, self.radius = initialisation, radius
        self.scale_skips = scale_skips

    def build(self, input_shape):
        size = input_shape[-1]
        if self.skips and self.width <= size:
            raise ValueError(
                f"width must exceed the {size} input components that a skip re-injects, "
                f"not {self.width}."
            )
        self.linear = []
        for index in range(self.depth + 1):
            last = index == self.depth
            units = self.outputs if last else self.width - size * (index + 1 in self.skips)
            layer = keras.layers.Dense(
                units, name=f"linear_{index}", dtype="float32", **self._initialisers(units, last)
            )
            layer.build((None, size if index == 0 else self.width))
            self.linear.append(layer)
        self.built = True

    def _initialisers(self, units: int, last: bool) -> dict:
        if self.initialisation == "he":
            # Not Keras's "he_normal", which truncates the normal distribution.
            he = initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
            return {"kernel_initializer": "glorot_uniform" if last else he}
        if last:
            return {
                "kernel_initializer": initializers.RandomNormal(
                    math.sqrt(math.pi / self.width), 1e-5
                ),
                "bias_initializer": initializers.Constant(-self.radius),
            }
        return {"kernel_initializer": initializers.RandomNormal(0.0, math.sqrt(2.0 / units))}

    def call(self, inputs):
        hidden = inputs
        for index, linear in enumerate(self.linear):
            if index in self.skips:
                hidden = ops.concatenate([hidden, inputs], axis=-1)
                if self.scale_skips:
                    hidden = hidden / math.sqrt(2.0)
            hidden = linear(hidden)
            if index < self.depth:
                hidden = self._activate(hidden)
        return hidden

    def _activate(self, x):
        if self.activation == "relu":
            return ops.relu(x)
        if self.activation == "leaky_relu":
            return ops.leaky_relu(x, 0.1)
        shift = math.log(2.0) / self.beta if self.centred else 0.0
        return ops.softplus(self.beta * x) / self.beta - shift

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.outputs)

    def get_config(self):
        arguments = (
            "width depth skips outputs activation beta centred initialisation radius scale_skips"
        )
        return super().get_config() | {name: getattr(self, name) for name in arguments.split()}
