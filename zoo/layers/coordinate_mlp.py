"""Networks of coordinates: multilayer perceptrons of points, with codes and exact derivatives."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import initializers, ops

from zoo.ops.arguments import checked, not_negative, one_of, positive
from zoo.ops.array_arguments import few_enough
from zoo.ops.compiling import in_float32

ACTIVATIONS = ("softplus", "relu", "leaky_relu", "sin")
INITIALISATIONS = ("geometric", "he", "siren")
CONDITIONINGS = ("concatenation", "modulation")
LEAK = 0.1  # slope of the leaky rectifier below zero
OPTIONS = (
    "width depth skips outputs activation beta centred initialisation radius scale_skips frequency "
    "first_frequency features features_scale codes conditioning zero_start"
)


@keras.saving.register_keras_serializable(package="zoo")
class CoordinateMLP(keras.layers.Layer):
    """Maps coordinates, and a latent code beside them, to a field, `[..., d] -> [..., outputs]`.

    At the layers named in `skips` the input is appended to the hidden features; the layer before
    such a skip is narrowed by as much, so that every layer sees the same `width`. With the
    geometric initialisation the untrained network is close to `|x| - radius`, negative inside
    (Atzmon and Lipman, SAL, arXiv:1911.10414; Gropp et al., IGR, arXiv:2002.10099).

    With `features`, what the network sees of a point are random Fourier features (Tancik et al.,
    arXiv:2006.10739): `[sin(2 pi x B), cos(2 pi x B)]` with a normal matrix `B` that is drawn once,
    stored with the weights and not trained.

    A code is joined to the input ("concatenation"), or steers the hidden layers ("modulation",
    Mehta et al., arXiv:2104.03960): a second perceptron of code and input, whose hidden layers
    `m_0 = a(W_0 [code, x])`, `m_k = a(W_k m_(k-1)) + m_0` multiply the hidden layers `k >= 1` of
    the one that sees the points alone.

    The layer always computes in float32, also under a mixed-precision policy: a signed distance
    has to resolve a thousandth of the box, which half precision cannot, and a sine its phase.

    Args:
        width: hidden units of each layer.
        depth: number of hidden layers.
        skips: indices of the linear layers that receive the input again.
        outputs: components of the field.
        activation: "softplus", "relu", "leaky_relu" (slope 0.1) or "sin",
            `sin(frequency (W x + b))`.
        beta: sharpness of the softplus, `log(1 + exp(beta x)) / beta`.
        centred: subtract `log(2) / beta` from the softplus, so that it vanishes at zero as ReLU
            does; the author network does not.
        initialisation: "geometric" (sphere), "he", or "siren", uniform as in Sitzmann et al.,
            arXiv:2006.09661: within `1 / n` for the first of n inputs, `sqrt(6 / n) / frequency`
            for the others; biases within `1 / sqrt(n)`.
        radius: radius of the initial sphere.
        scale_skips: divide by sqrt(2) after a concatenation, which keeps the norm.
        frequency: of the sine.
        first_frequency: of the sine in the first layer; None is the same. The first layer of a
            modulation always has `frequency`.
        features: random Fourier features, of which each has a sine and a cosine; 0 for none.
        features_scale: standard deviation of their matrix, in periods per unit of the coordinates.
        codes: components of the code; 0 for none.
        conditioning: "concatenation" or "modulation".
        zero_start: the last layer begins as zeros, the field with it.

    Raises:
        ValueError: for an unknown activation, initialisation or conditioning, a size out of range,
            a skip outside `1 .. depth` or together with a modulation, or a width that leaves no
            room before a skip.

    Example:
        >>> import keras
        >>> keras.utils.set_random_seed(0)
        >>> untrained = zoo.layers.CoordinateMLP(radius=1.0)
        >>> distance = untrained(np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]))
        >>> np.asarray(distance)[:, 0].round()
        array([-1.,  1.], dtype=float32)
    """

    @checked(
        width=(1, 2**16),
        depth=(1, 1024),
        outputs=(1, 2**16),
        beta=positive,
        radius=positive,
        frequency=positive,
        first_frequency=positive,
        features=(0, 2**14),
        features_scale=not_negative,
        codes=(0, 2**14),
    )
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
        frequency: float = 30.0,
        first_frequency: float | None = None,
        features: int = 0,
        features_scale: float = 1.0,
        codes: int = 0,
        conditioning: str = "concatenation",
        zero_start: bool = False,
        **kwargs,
    ):
        super().__init__(**in_float32(kwargs))
        one_of("activation", activation, ACTIVATIONS)
        one_of("initialisation", initialisation, INITIALISATIONS)
        one_of("conditioning", conditioning, CONDITIONINGS)
        few_enough("width and depth", (depth, width, width))
        few_enough("width, features and codes", (width, 2 * features + codes + 1))
        if any(not 1 <= skip <= depth for skip in skips):
            raise ValueError(f"skips must lie between 1 and depth={depth}, not {tuple(skips)}.")
        self.modulated = conditioning == "modulation" and codes > 0
        if self.modulated and len(skips):
            raise ValueError(
                f"skips must be empty with conditioning='modulation', not {tuple(skips)}."
            )
        self.width, self.depth, self.skips, self.outputs = width, depth, tuple(skips), outputs
        self.activation, self.beta, self.centred = activation, beta, centred
        self.initialisation, self.radius = initialisation, radius
        self.scale_skips, self.zero_start = scale_skips, zero_start
        self.frequency, self.first_frequency = frequency, first_frequency
        self.features, self.features_scale = features, features_scale
        self.codes, self.conditioning = codes, conditioning

    def build(self, input_shape):
        seen = 2 * self.features or input_shape[-1]
        if self.features:
            self.matrix = self.add_weight(
                shape=(input_shape[-1], self.features),
                initializer=initializers.RandomNormal(0.0, self.features_scale),
                trainable=False,
                name="fourier",
            )
        size = seen + (0 if self.modulated else self.codes)
        if self.skips and self.width <= size:
            raise ValueError(
                f"width must exceed the {size} input components that a skip re-injects, "
                f"not {self.width}."
            )
        self.linear = []
        for index in range(self.depth + 1):
            last = index == self.depth
            units = self.outputs if last else self.width - size * (index + 1 in self.skips)
            entering = size if index == 0 else self.width
            self.linear.append(self._dense(f"linear_{index}", entering, units, index == 0, last))
        self.modulation = []
        if self.modulated:
            self.modulation = [
                self._dense(
                    f"modulation_{index}",
                    self.width if index else self.codes + seen,
                    self.width,
                    index == 0,
                )
                for index in range(self.depth)
            ]
        self.built = True

    def _dense(self, name: str, entering: int, units: int, first: bool, last: bool = False):
        chosen = self._initialisers(entering, units, first, last)
        layer = keras.layers.Dense(units, name=name, dtype="float32", **chosen)
        layer.build((None, entering))
        return layer

    def _initialisers(self, entering: int, units: int, first: bool, last: bool) -> dict:
        if last and self.zero_start:
            return {"kernel_initializer": "zeros"}
        if self.initialisation == "siren":
            limit = 1.0 / entering if first else math.sqrt(6.0 / entering) / self.frequency
            bias = 1.0 / math.sqrt(entering)
            return {
                "kernel_initializer": initializers.RandomUniform(-limit, limit),
                "bias_initializer": initializers.RandomUniform(-bias, bias),
            }
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

    def call(self, inputs, code=None):
        """The field.

        Args:
            inputs: points `[..., d]`.
            code: with `codes`, a tensor `[..., codes]`, or a list of its parts, one after the
                other; their leading axes are broadcast against those of the points. What is the
                same for many points is best left as an axis of size one.

        Returns:
            Tensor `[..., outputs]`.

        Raises:
            ValueError: for a code that is not as long as `codes` says.
        """
        return self.trace(inputs, None, code)[0]

    def trace(self, inputs, tangents=None, code=None, code_tangents=None):
        """The field, and its derivatives along directions, which are exact.

        They are carried forward with the values, so a loss of derivatives needs no second pass of
        automatic differentiation. The rectifiers have their one-sided slopes.

        Args:
            inputs: points `[..., d]`.
            tangents: None, or `[..., k, d]`: directions at the points.
            code: see `call`.
            code_tangents: None, or how the code changes along the directions: `[..., k, codes]`;
                for a list of parts a list, None for those that do not change.

        Returns:
            The field `[..., outputs]`, and the derivatives `[..., k, outputs]`, None without
            tangents.

        Raises:
            ValueError: for a code that is not as long as `codes` says.
        """
        seen = self._seen(inputs, tangents)
        parts = self._code_parts(code, code_tangents if tangents is not None else None)
        entering = [seen] if self.modulated else [seen, *parts]
        hidden, gates, base = None, None, None
        for index, linear in enumerate(self.linear):
            if hidden is None:
                hidden = _affine(linear, entering)
            else:
                if index in self.skips:
                    hidden = self._rejoined(hidden, entering)
                hidden = _affine(linear, [hidden])
            if index == self.depth:
                break
            hidden = self._activate(hidden, index == 0)
            if self.modulated:
                if gates is None:
                    gates = base = self._activate(_affine(self.modulation[0], [*parts, seen]))
                    continue
                further = self._activate(_affine(self.modulation[index], [gates]))
                gates = further[0] + base[0], _sum(further[1], base[1])
                change = _sum(_scaled(hidden[1], gates[0]), _scaled(gates[1], hidden[0]))
                hidden = gates[0] * hidden[0], change
        return hidden

    def _seen(self, inputs, tangents) -> tuple:
        """What the network sees of points, and how that changes along the tangents."""
        if not self.features:
            return inputs, tangents
        phase = 2.0 * math.pi * _product(inputs, self.matrix)
        sine, cosine = ops.sin(phase), ops.cos(phase)
        seen = ops.concatenate([sine, cosine], axis=-1)
        if tangents is None:
            return seen, None
        speed = 2.0 * math.pi * _product(tangents, self.matrix)
        turn = ops.concatenate([cosine, -sine], axis=-1)
        return seen, ops.concatenate([speed, speed], axis=-1) * turn[..., None, :]

    def _code_parts(self, code, tangents) -> list[tuple]:
        parts = [] if code is None else list(code) if isinstance(code, list | tuple) else [code]
        if sum(part.shape[-1] for part in parts) != self.codes:
            raise ValueError(
                f"code must have codes={self.codes} components, not "
                f"{[part.shape[-1] for part in parts]}."
            )
        if not isinstance(tangents, list | tuple):
            tangents = [tangents] * len(parts)
        return list(zip(parts, tangents, strict=True))

    def _rejoined(self, hidden, entering) -> tuple:
        """Hidden features with the input appended."""
        parts, leading = [hidden, *entering], None
        if len(parts) > 2:
            leading = _common([ops.shape(value)[:-1] for value, _ in parts])
        joined = ops.concatenate([_spread(value, leading) for value, _ in parts], axis=-1)
        change, known = None, [turn for _, turn in parts if turn is not None]
        if known:
            count = known[0].shape[-2]
            turns = [
                ops.zeros((*ops.shape(joined)[:-1], count, value.shape[-1]))
                if turn is None
                else _spread(turn, leading and (*leading, count))
                for value, turn in parts
            ]
            change = ops.concatenate(turns, axis=-1)
        if self.scale_skips:
            joined = joined / math.sqrt(2.0)
            change = None if change is None else change / math.sqrt(2.0)
        return joined, change

    def _activate(self, pair, first: bool = False) -> tuple:
        x, change = pair
        frequency = self.frequency
        if first and self.first_frequency is not None:
            frequency = self.first_frequency
        if self.activation == "sin":
            value = ops.sin(frequency * x)
        elif self.activation == "relu":
            value = ops.relu(x)
        elif self.activation == "leaky_relu":
            value = ops.leaky_relu(x, LEAK)
        else:
            shift = math.log(2.0) / self.beta if self.centred else 0.0
            value = ops.softplus(self.beta * x) / self.beta - shift
        if change is None:
            return value, None
        if self.activation == "sin":
            slope = frequency * ops.cos(frequency * x)
        elif self.activation == "softplus":
            slope = ops.sigmoid(self.beta * x)
        else:
            slope = ops.where(x > 0, 1.0, 0.0 if self.activation == "relu" else LEAK)
        return value, slope[..., None, :] * change

    def compute_output_shape(self, input_shape, *_):
        return (*input_shape[:-1], self.outputs)

    def get_config(self):
        return super().get_config() | {name: getattr(self, name) for name in OPTIONS.split()}


def _affine(layer: keras.layers.Dense, parts: Sequence[tuple]) -> tuple:
    """A dense layer of parts joined along the last axis, which broadcast, and the derivative."""
    if len(parts) == 1 and len(parts[0][0].shape) == 2:
        value, change = parts[0]
        return layer(value), None if change is None else _product(change, layer.kernel)
    # Part by part: what is the same for many points is multiplied once.
    total, change, first = layer.bias, None, 0
    for value, turn in parts:
        kernel = layer.kernel
        if len(parts) > 1:
            kernel = kernel[first : first + value.shape[-1]]
        first += value.shape[-1]
        total = total + _product(value, kernel)
        change = _sum(change, None if turn is None else _product(turn, kernel))
    return total, change


def _product(values, matrix):
    """`values @ matrix` of the last axis, as one product of matrices, which makes small graphs."""
    leading = values.shape[:-1]
    if len(leading) < 2 or sum(size is None for size in leading) > 1:
        return ops.matmul(values, matrix)
    flat = ops.matmul(ops.reshape(values, (-1, values.shape[-1])), matrix)
    sizes = [-1 if size is None else size for size in leading]
    return ops.reshape(flat, (*sizes, matrix.shape[-1]))


def _sum(first, second):
    """The sum of two changes, of which None is none."""
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _scaled(change, factor):
    return None if change is None else change * factor[..., None, :]


def _common(shapes: Sequence[Sequence]) -> tuple:
    """The leading axes that tensors have in common; those of size one give way."""
    longest = max(len(shape) for shape in shapes)
    padded = [(1,) * (longest - len(shape)) + tuple(shape) for shape in shapes]

    def known_as_one(size) -> bool:
        return isinstance(size, int) and size == 1

    return tuple(
        next((size for size in sizes if not known_as_one(size)), 1)
        for sizes in zip(*padded, strict=True)
    )


def _spread(value, leading: Sequence | None):
    """A tensor with other leading axes; None leaves it as it is."""
    return value if leading is None else ops.broadcast_to(value, (*leading, value.shape[-1]))
