"""Fields of experts: learned filters, functions of their responses, and the exact adjoint."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import initializers, ops

from zoo.layers.activations import PiecewiseLinear, initializer_of
from zoo.ops.arguments import checked, one_of
from zoo.ops.compiling import in_float32
from zoo.ops.correlation import PADDINGS, correlate, correlate_adjoint


@keras.saving.register_keras_serializable(package="zoo")
class FilterConstraint(keras.constraints.Constraint):
    """Projects filters `[*size, channels, filters]` to zero mean, then to unit norm.

    Args:
        zero_mean: subtract the mean over the taps, in every channel.
        unit_norm: divide by the Euclidean norm.
        separate: every channel has filters of its own; otherwise the norm includes the channels.
    """

    @checked()
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
    >>> from zoo.layers.activations import PiecewiseLinear
    >>> from zoo.layers.fields_of_experts import FieldsOfExperts
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

    @checked(filters=(1, 4096), kernel_size=(1, 255))
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
        super().__init__(**in_float32(kwargs))
        whole = isinstance(kernel_size, int)
        taps = (kernel_size,) if whole else kernel_size
        if not whole and len(taps) not in (2, 3):
            raise ValueError(f"kernel_size must be one size, or two or three, not {taps}.")
        if not taps or min(taps) < 1 or (zero_mean and math.prod(taps) == 1):
            least = "at least 1, or 2 for a filter of zero mean"
            raise ValueError(f"kernel_size must be {least}, not {kernel_size}.")
        one_of("padding", padding, PADDINGS)
        self.filters, self.kernel_size = filters, kernel_size if whole else taps
        self.activation = PiecewiseLinear() if activation is None else activation
        self.kernel_initializer = kernel_initializer
        words = ("normal", "dct")
        if not isinstance(kernel_initializer, str) or kernel_initializer not in words:
            self.kernel_initializer = initializer_of(
                "kernel_initializer", kernel_initializer, words
            )
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
        return self._by_bank(correlate, ops.convert_to_tensor(inputs, "float32"))

    def adjoint(self, responses):
        """`K^T z`: `<K x, z> = <x, K^T z>` for all images x and responses z."""
        return self._by_bank(correlate_adjoint, ops.convert_to_tensor(responses, "float32"))

    def _by_bank(self, operator, tensor):
        if self._banks == 1:
            return operator(tensor, self.kernel[...], self.padding)
        parts = ops.split(tensor, self._banks, axis=-1)
        step = self.kernel.shape[-2] // self._banks
        starts = range(0, self.kernel.shape[-2], step)
        filters = [self.kernel[..., start : start + step, :] for start in starts]
        pairs = zip(parts, filters, strict=True)
        return ops.concatenate([operator(*pair, self.padding) for pair in pairs], axis=-1)

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
