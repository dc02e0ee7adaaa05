"""Fields of experts: learned filters, learned activation functions, and the exact adjoint."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import initializers, ops

from zoo.ops import kernels
from zoo.ops.gradients import value_and_gradient

EXTRAPOLATIONS = ("constant", "linear")
PADDINGS = ("symmetric", "zero")


class _Activation(keras.layers.Layer):
    """One function `phi_k` per filter: weights on uniform nodes times a basis of local support."""

    extrapolations = EXTRAPOLATIONS
    margin = 0  # how many nodes beyond the two of its cell a point feels, on either side

    def __init__(
        self,
        nodes: int = 24,
        limits: Sequence[float] = (-1.0, 1.0),
        initializer="linear",
        slope: float = 0.1,
        extrapolation: str = "constant",
        **kwargs,
    ):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        if nodes < 2:
            raise ValueError(f"nodes must be at least 2, not {nodes}.")
        limits = tuple(float(limit) for limit in limits)
        if len(limits) != 2 or not -math.inf < limits[0] < limits[1] < math.inf:
            raise ValueError(f"limits must be two finite increasing numbers, not {limits}.")
        if extrapolation not in self.extrapolations:
            raise ValueError(
                f"extrapolation must be one of {self.extrapolations}, not {extrapolation!r}."
            )
        self.nodes, self.limits, self.slope = nodes, limits, slope
        self.initializer = initializer
        if initializer != "linear":
            self.initializer = initializers.get(initializer)
        self.extrapolation = extrapolation

    @property
    def spacing(self) -> float:
        """Distance between nodes, in units of the input."""
        return (self.limits[1] - self.limits[0]) / (self.nodes - 1)

    @property
    def positions(self) -> np.ndarray:
        """The nodes, float32 `[nodes]`."""
        return np.linspace(*self.limits, self.nodes, dtype="float32")

    def build(self, input_shape):
        if input_shape[-1] is None:
            raise ValueError(f"{self.name} needs a known last axis, not {tuple(input_shape)}.")
        initial = self.initializer
        if initial == "linear":
            values = self._weights_of(self.slope * self.positions.astype("float64"))
            initial = initializers.Constant(
                np.repeat(values[:, None], input_shape[-1], axis=1).astype("float32")
            )
        self.knots = self.add_weight(
            name="knots", shape=(self.nodes, input_shape[-1]), initializer=initial
        )
        self.input_spec = keras.layers.InputSpec(min_ndim=1, axes={-1: input_shape[-1]})
        self.built = True

    def call(self, inputs):
        function = _evaluator(type(self), self.limits[0], self.spacing, self.extrapolation)
        # A slice is a tensor, where TensorFlow would hand over the variable itself.
        return function(ops.convert_to_tensor(inputs, "float32"), self.knots[:])

    def potential(self, inputs):
        """The integral of every function, in closed form, zero at zero.

        Args:
            inputs: float tensor `[..., filters]`.

        Returns:
            float32 tensor of the same shape, whose derivative is this layer's output.
        """
        inputs = ops.convert_to_tensor(inputs, "float32")
        return self._from_start(inputs) - self._from_start(ops.zeros(ops.shape(inputs)[-1:]))

    def _from_start(self, x):
        value = self(x)
        if self.extrapolation == "decay":
            return self._integral(x)
        near = ops.clip(x, *self.limits)
        # Beyond the limits the function is a line, which trapezoids integrate exactly.
        return self._integral(near) + (x - near) * (self(near) + value) / 2

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        initial = self.initializer
        return super().get_config() | {
            "nodes": self.nodes,
            "limits": self.limits,
            "initializer": initial if initial == "linear" else initializers.serialize(initial),
            "slope": self.slope,
            "extrapolation": self.extrapolation,
        }


@keras.saving.register_keras_serializable(package="zoo")
class PiecewiseLinear(_Activation):
    """Learned functions `[..., filters] -> [..., filters]`, linear between values on nodes.

    The weights `[nodes, filters]` are the values. The derivative at a node is that of the cell
    above it. Outside of the limits a function keeps its last value, or its last slope. The
    defaults are those of DIRV-Net (github.com/TMS-Namespace/DIRV-Net), except for the start: the
    author's is `initializer=keras.initializers.TruncatedNormal(stddev=0.01)`, so that the first
    step goes up as often as down.

    Args:
        nodes: number of nodes, spread evenly over the limits.
        limits: first and last node, in units of the input.
        initializer: "linear", the function `slope * x`, or a Keras initialiser of the weights.
        slope: see `initializer`.
        extrapolation: "constant" or "linear".

    Raises:
        ValueError: for less than two nodes, limits that do not increase, or an unknown
            extrapolation.
    """

    @staticmethod
    def basis(t, m):
        """Value and slope of the hat on node `m` of the cell at `t`, which runs from 0 to 1."""
        return (t, 1.0) if m else (1.0 - t, -1.0)

    def _weights_of(self, values: np.ndarray) -> np.ndarray:
        return values

    def _integral(self, x):
        values, features = self.knots[:], self.knots.shape[1]
        areas = self.spacing * (values[1:] + values[:-1]) / 2
        index, t, _ = _locate(x, self.nodes, self.limits[0], self.spacing, self.extrapolation)
        place = index * features + ops.arange(features)
        start = kernels.take_rows(ops.reshape(ops.cumsum(areas, axis=0) - areas, [-1]), place)
        low = kernels.take_rows(ops.reshape(values, [-1]), place)
        return start + self.spacing * t * (low + self(x)) / 2


@keras.saving.register_keras_serializable(package="zoo")
class RadialBasis(_Activation):
    """Learned functions `[..., filters] -> [..., filters]`, sums of Gaussians on nodes.

    `phi(x) = sum_j w_j exp(-(x - c_j)^2 / (2 s^2))`, where `s` is the distance between the nodes
    `c_j`; the weights are `[nodes, filters]`. Chen and Pock (Trainable nonlinear reaction
    diffusion, PAMI 2017, arXiv:1508.02848) use 63 nodes, variational networks 31, both with
    "decay". Gaussians farther than five nodes from a cell are below rounding and left out.

    Args:
        nodes: number of Gaussians, spread evenly over the limits.
        limits: first and last centre, in units of the input.
        initializer: "linear", the function that is `slope * x` on all nodes, or a Keras
            initialiser of the weights.
        slope: see `initializer`.
        extrapolation: "constant" or "linear" beyond the limits, or "decay": the sum as it is.

    Raises:
        ValueError: for less than two nodes, limits that do not increase, or an unknown
            extrapolation.
    """

    extrapolations = (*EXTRAPOLATIONS, "decay")
    margin = 5

    @staticmethod
    def basis(t, m):
        """Value and slope of the Gaussian on node `m` of the cell at `t`, from 0 to 1."""
        value = ops.exp(-0.5 * ops.square(t - m))
        return value, (m - t) * value

    def _weights_of(self, values: np.ndarray) -> np.ndarray:
        index = np.arange(self.nodes)
        return np.linalg.solve(np.exp(-0.5 * (index[:, None] - index) ** 2), values)

    def _integral(self, x):
        position, total = (x - self.limits[0]) / self.spacing, 0.0
        for node in range(self.nodes):
            total = total + self.knots[node] * ops.erf((position - node) / math.sqrt(2.0))
        return self.spacing * math.sqrt(math.pi / 2.0) * total


@keras.saving.register_keras_serializable(package="zoo")
class FilterConstraint(keras.constraints.Constraint):
    """Projects filters `[*size, channels, filters]` to zero mean, then to unit norm.

    Args:
        zero_mean: subtract the mean over the taps, in every channel.
        unit_norm: divide by the Euclidean norm.
        separate: every channel has filters of its own; otherwise the norm includes the channels.
    """

    def __init__(self, zero_mean: bool = True, unit_norm: bool = True, separate: bool = False):
        self.zero_mean, self.unit_norm, self.separate = zero_mean, unit_norm, separate

    def __call__(self, kernel):
        axes = tuple(range(len(kernel.shape) - 2))
        if self.zero_mean:
            kernel = kernel - ops.mean(kernel, axis=axes, keepdims=True)
        if self.unit_norm:
            axes = axes if self.separate else (*axes, len(axes))
            squared = ops.sum(ops.square(kernel), axis=axes, keepdims=True)
            kernel = kernel / ops.maximum(ops.sqrt(squared), 1e-12)
        return kernel

    def get_config(self):
        return {name: getattr(self, name) for name in ("zero_mean", "unit_norm", "separate")}


@keras.saving.register_keras_serializable(package="zoo")
class FieldsOfExperts(keras.layers.Layer):
    """Gradient of a learned energy: `y = sum_k K_k^T phi_k(K_k x)`, `[batch, *spatial, channels]`.

    `K_k` correlates the extended image with a filter, `K_k^T` is its exact adjoint, border
    included, and `phi_k` is the derivative of a potential `rho_k`. So `y` is the gradient of
    `energy(x) = sum_k sum_p rho_k((K_k x)(p))` for any weights: Roth and Black, Fields of experts,
    IJCV 2009; Chen and Pock, PAMI 2017; as regulariser and data term of a registration network,
    DIRV-Net. Any rank 2 or 3, any size of the image, however small; always in float32.

    A denoiser is one descent step, or a few with the same layer:

    >>> import keras, numpy as np
    >>> from zoo.layers.fields_of_experts import FieldsOfExperts, PiecewiseLinear
    >>> random = np.random.default_rng(0)
    >>> clean = np.kron(random.uniform(size=(24, 4, 4, 1)), np.ones((1, 8, 8, 1)))
    >>> noisy = clean + random.normal(0, 0.1, clean.shape)
    >>> experts = FieldsOfExperts(8, 3, PiecewiseLinear(slope=0.05), "dct", zero_mean=True)
    >>> inputs = keras.Input((None, None, 1))
    >>> once = inputs - experts(inputs)
    >>> model = keras.Model(inputs, once - experts(once))
    >>> model.compile(keras.optimizers.Adam(0.01), "mse")
    >>> history = model.fit(noisy[:20], clean[:20], batch_size=4, epochs=25, verbose=0)
    >>> float(model.evaluate(noisy[20:], clean[20:], verbose=0)) < 0.002  # from 0.01
    True

    Args:
        filters: number of filters.
        kernel_size: taps of a filter along every axis, one integer or one per axis.
        activation: a layer `phi` that maps `[..., filters]` and has a `potential`;
            `PiecewiseLinear()` when not given.
        kernel_initializer: "normal", with DIRV-Net's standard deviation
            `(rank / filters)^(1 / rank) / kernel_size`; "dct", the cosine basis of lowest frequency
            without the constant, of unit norm; or a Keras initialiser.
        padding: what lies outside: "symmetric" mirrors the image at its edge, "zero" is zero (and
            biases what is near the border).
        zero_mean: keep every filter's mean zero in each channel: constants cost no energy.
        unit_norm: keep every filter's Euclidean norm at one.
        separate: every channel has a bank of filters and functions of its own, and channels do not
            interact (DIRV-Net's displacements); otherwise a filter spans all channels.

    Raises:
        ValueError: for counts or sizes below one, an unknown padding, more "dct" filters than
            there are, a zero mean of a single tap, an activation that is no layer, or an input of
            another rank.
    """

    def __init__(
        self,
        filters: int = 16,
        kernel_size: int | Sequence[int] = 5,
        activation: keras.layers.Layer | None = None,
        kernel_initializer="normal",
        padding: str = "symmetric",
        zero_mean: bool = False,
        unit_norm: bool = False,
        separate: bool = False,
        **kwargs,
    ):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        if filters < 1:
            raise ValueError(f"filters must be at least 1, not {filters}.")
        whole = isinstance(kernel_size, int)
        taps = (kernel_size,) if whole else tuple(kernel_size)
        if not taps or min(taps) < 1 or (zero_mean and math.prod(taps) == 1):
            least = "at least 1, or 2 for a filter of zero mean"
            raise ValueError(f"kernel_size must be {least}, not {kernel_size}.")
        if padding not in PADDINGS:
            raise ValueError(f"padding must be one of {PADDINGS}, not {padding!r}.")
        self.filters, self.kernel_size = filters, kernel_size if whole else taps
        self.activation = PiecewiseLinear() if activation is None else activation
        self.kernel_initializer = kernel_initializer
        if kernel_initializer not in ("normal", "dct"):
            self.kernel_initializer = initializers.get(kernel_initializer)
        if not isinstance(self.activation, keras.layers.Layer):
            raise ValueError(f"activation must be a layer, not {activation!r}.")
        self.padding, self.separate = padding, separate
        self.zero_mean, self.unit_norm = zero_mean, unit_norm

    def build(self, input_shape):
        rank, channels = len(input_shape) - 2, input_shape[-1]
        if rank not in (2, 3) or channels is None:
            raise ValueError(
                f"{self.name} needs [batch, *spatial, channels] with 2 or 3 spatial axes and a "
                f"known number of channels, not {tuple(input_shape)}."
            )
        taps = self.kernel_size
        taps = (taps,) * rank if isinstance(taps, int) else taps
        if len(taps) != rank:
            raise ValueError(f"kernel_size must hold 1 or {rank} sizes for {rank}D, not {taps}.")
        constraint = None
        if self.zero_mean or self.unit_norm:
            constraint = FilterConstraint(self.zero_mean, self.unit_norm, self.separate)

        def initial(shape, dtype=None):
            kernel = self._initial(shape, dtype)
            return kernel if constraint is None else constraint(kernel)

        self.kernel = self.add_weight(
            name="kernel",
            shape=(*taps, channels, self.filters),
            initializer=initial,
            constraint=constraint,
        )
        self._banks = channels if self.separate else 1
        if not self.activation.built:
            self.activation.build((*input_shape[:-1], self._banks * self.filters))
        self.input_spec = keras.layers.InputSpec(ndim=rank + 2, axes={-1: channels})
        self.built = True

    def _initial(self, shape, dtype=None):
        *taps, channels, filters = shape
        count = math.prod(taps)
        if self.kernel_initializer == "normal":
            spread = (len(taps) / filters / count) ** (1 / len(taps))
            return initializers.RandomNormal(0.0, spread)(shape, dtype)
        if self.kernel_initializer != "dct":
            return self.kernel_initializer(shape, dtype)
        turns = 1 if self.separate else channels
        if filters > (count - 1) * turns:
            raise ValueError(
                f"filters must be at most {(count - 1) * turns} for the 'dct' basis of "
                f"{tuple(taps)} taps and {channels} channels, not {filters}."
            )
        tables = [np.cos(np.pi * np.outer(range(n), np.arange(n) + 0.5) / n) for n in taps]
        by_frequency = sorted(
            np.ndindex(*taps), key=lambda one: (np.sum(np.square(np.divide(one, taps))), one)
        )
        kernel = np.zeros(shape, "float32")
        for number in range(filters):
            frequency = by_frequency[1 + number // turns]
            axes = [table[f] for table, f in zip(tables, frequency, strict=True)]
            wave = functools.reduce(np.multiply.outer, axes)[..., None]
            # Filters that span all channels look at one after the other.
            first = number % turns
            last = channels if self.separate else first + 1
            kernel[..., first:last, number] = wave / np.linalg.norm(wave)
        return ops.convert_to_tensor(kernel, dtype)

    def call(self, inputs):
        return self.adjoint(self.activation(self.responses(inputs)))

    def responses(self, inputs):
        """`K x`: an image `[batch, *spatial, channels]` seen by the filters.

        Returns:
            float32 tensor `[batch, *spatial, filters]`; with `separate` `channels * filters`
            responses, those of the first channel first.
        """
        if not self.built:
            self.build(inputs.shape)
        correlate, _ = _operators(self.padding)
        return self._by_bank(correlate, ops.convert_to_tensor(inputs, "float32"))

    def adjoint(self, responses):
        """`K^T z`: `<K x, z> = <x, K^T z>` for all images x and responses z."""
        _, adjoint = _operators(self.padding)
        return self._by_bank(adjoint, ops.convert_to_tensor(responses, "float32"))

    def _by_bank(self, operator, tensor):
        parts = ops.split(tensor, self._banks, axis=-1)
        step = self.kernel.shape[-2] // self._banks
        starts = range(0, self.kernel.shape[-2], step)
        filters = [self.kernel[..., start : start + step, :] for start in starts]
        return ops.concatenate(list(map(operator, parts, filters)), axis=-1)

    def energy(self, inputs):
        """Sum of all potentials, `[batch]`; its gradient is this layer's output."""
        potentials = self.activation.potential(self.responses(inputs))
        return ops.sum(potentials, axis=tuple(range(1, len(potentials.shape))))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        initial = self.kernel_initializer
        if not isinstance(initial, str):
            initial = initializers.serialize(initial)
        own = "filters kernel_size padding zero_mean unit_norm separate"
        return super().get_config() | {
            **{name: getattr(self, name) for name in own.split()},
            "activation": keras.saving.serialize_keras_object(self.activation),
            "kernel_initializer": initial,
        }

    @classmethod
    def from_config(cls, config):
        activation = keras.saving.deserialize_keras_object(config["activation"])
        return cls(**(config | {"activation": activation}))


def _locate(x, nodes: int, low: float, spacing: float, extrapolation: str) -> tuple:
    """Cell of every value, the place `t` in it from 0 to 1, and the way beyond the limits."""
    position = (x - low) / spacing
    near = ops.clip(position, 0.0, nodes - 1.0)
    # A NaN converts to anything; the index has to stay inside all the same.
    index = ops.clip(ops.cast(ops.floor(near), "int32"), 0, nodes - 2)
    place = position if extrapolation == "decay" else near
    return index, place - ops.cast(index, "float32"), position - near


@functools.cache
def _evaluator(kind, low: float, spacing: float, extrapolation: str):
    """`phi(x, weights)` for x `[..., filters]` and weights `[nodes, filters]`.

    Gathers and scatters, compiled, instead of a sum over all nodes. Under TensorFlow on two cores,
    1.3 million values of 16 hat functions with 24 nodes take 1.7 ms, the gradients 1.8 ms (x) and
    3.4 ms (weights); a plain graph of gathers 16 and 120 ms. Gaussians take 10, 11 and 27 ms.
    """

    def window(x, weights):
        """For each node that is felt: its place in the padded weights, its value, its slope."""
        nodes, features = weights.shape
        index, t, beyond = _locate(x, nodes, low, spacing, extrapolation)
        place = index * features + ops.arange(features)
        parts = []
        for number, m in enumerate(range(-kind.margin, kind.margin + 2)):
            value, slope = kind.basis(t, m)
            if extrapolation == "linear":
                value = value + beyond * slope
            if extrapolation == "constant":
                slope = ops.where(beyond == 0.0, slope, 0.0)
            parts.append((place + number * features, value, slope))
        return parts

    def padded(weights):
        return ops.pad(weights, [(kind.margin, kind.margin), (0, 0)])

    def forward(x, weights):
        flat = ops.reshape(padded(weights), [-1])
        return sum(kernels.take_rows(flat, place) * value for place, value, _ in window(x, weights))

    def to_x(x, weights, gradient):
        flat = ops.reshape(padded(weights), [-1])
        parts = window(x, weights)
        slope = sum(kernels.take_rows(flat, place) * slope for place, _, slope in parts)
        return slope * gradient / spacing

    def to_weights(x, weights, gradient):
        nodes, features = weights.shape
        total = 0.0
        # One scatter for each part of a window is up to four times faster than one of all parts.
        for place, value, _ in window(x, weights):
            rows = ops.reshape(value * gradient, [-1, 1])
            size = (nodes + 2 * kind.margin) * features
            total = total + kernels.add_rows(ops.reshape(place, [-1]), rows, size)
        return ops.reshape(total, [-1, features])[kind.margin : kind.margin + nodes]

    return kernels.with_gradient(*map(kernels.kernel, (forward, to_x, to_weights)))


@functools.cache
def _operators(padding: str) -> tuple:
    """`K x` and `K^T z` as functions of the image or the responses, and of the kernel.

    Each is the other's derivative, and both have the same derivative with respect to the kernel.
    """

    def correlate(x, kernel):
        x = _extender(tuple(kernel.shape[:-2]), padding)(x)
        return ops.conv(x, kernel, 1, "valid", data_format="channels_last")

    def adjoint(z, kernel):
        return _gatherer(tuple(kernel.shape[:-2]), padding)(_spread(z, kernel))

    def to_kernel(x, kernel, z):
        return value_and_gradient(lambda one: ops.sum(correlate(x, one) * z), kernel)[1]

    return (
        kernels.with_gradient(correlate, lambda x, kernel, z: adjoint(z, kernel), to_kernel),
        kernels.with_gradient(
            adjoint,
            lambda z, kernel, x: correlate(x, kernel),
            lambda z, kernel, x: to_kernel(x, kernel, z),
        ),
    )


def _spread(z, kernel):
    """Every response times its filter, not yet added up along the first axis.

    The taps along the first axis become output channels, because a convolution with one output
    channel, as the transposed one is, wastes a CPU's vector units: 16 filters of 7 x 7 on 20 images
    of 64 x 64 take 4.3 instead of 20 ms, of 5 x 5 x 5 on 64 x 64 x 64 voxels 22 instead of 110.
    """
    first, *taps, channels, filters = kernel.shape
    rank = len(taps) + 1
    kernel = ops.flip(kernel, axis=tuple(range(1, rank)))
    kernel = ops.transpose(kernel, [*range(1, rank), rank + 1, 0, rank])
    kernel = ops.reshape(kernel, [1, *taps, filters, first * channels])
    z = ops.pad(z, [(0, 0), (0, 0), *((size - 1, size - 1) for size in taps), (0, 0)])
    return ops.conv(z, kernel, 1, "valid", data_format="channels_last")


@functools.cache
def _gatherer(taps: tuple[int, ...], padding: str):
    """Adds up what `_spread` gives, then returns the border to the voxels that it came from."""

    def function(pieces):
        first, rest = taps[0], [(0, 0)] * (len(pieces.shape) - 2)
        channels = pieces.shape[-1] // first
        y = sum(
            ops.pad(
                pieces[..., tap * channels : (tap + 1) * channels],
                [(0, 0), (tap, first - 1 - tap), *rest],
            )
            for tap in range(first)
        )
        for axis, size in enumerate(taps, start=1):
            low, count = (size - 1) // 2, ops.shape(y)[axis] - size + 1
            core = _cut(y, axis, low, low + count)
            if padding == "symmetric":
                border = [_cut(y, axis, 0, low), _cut(y, axis, low + count, None)]
                border = ops.concatenate(border, axis)
                core = core + _along(border, ops.transpose(_mirror(count, size)), axis)
            y = core
        return y

    return kernels.kernel(function)


@functools.cache
def _extender(taps: tuple[int, ...], padding: str):
    """Gives an image a border, so that a filter fits on every voxel of it."""

    def function(x):
        if padding == "zero":
            return ops.pad(x, [(0, 0), *(((size - 1) // 2, size // 2) for size in taps), (0, 0)])
        for axis, size in enumerate(taps, start=1):
            low = (size - 1) // 2
            border = _along(x, _mirror(ops.shape(x)[axis], size), axis)
            x = [_cut(border, axis, 0, low), x, _cut(border, axis, low, None)]
            x = ops.concatenate(x, axis)
        return x

    return kernels.kernel(function)


def _mirror(count, size: int):
    """Matrix `[size - 1, count]` that copies voxels into the border, however often it mirrors."""
    low = (size - 1) // 2
    index = ops.concatenate([ops.arange(-low, 0), count + ops.arange(size - 1 - low)])
    index = ops.mod(index, 2 * count)
    index = ops.minimum(index, 2 * count - 1 - index)
    return ops.cast(index[:, None] == ops.arange(count), "float32")


def _along(tensor, matrix, axis: int):
    letters = "bxyz"[: len(tensor.shape) - 1] + "c"
    old = letters[axis]
    return ops.einsum(f"{letters},n{old}->{letters.replace(old, 'n')}", tensor, matrix)


def _cut(tensor, axis: int, start, stop):
    return tensor[(slice(None),) * axis + (slice(start, stop),)]
