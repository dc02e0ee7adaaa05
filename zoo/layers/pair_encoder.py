"""What a network makes of two images: one code for the whole, and a coarse grid of local ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import initializers, ops

from zoo.ops.arguments import checked, one_of
from zoo.ops.compiling import in_float32
from zoo.ops.convolution import strided_convolution

NORMALISATIONS = ("batch", "group", "none")
STAGES = 6  # at least; one more for each doubling beyond 128 voxels
WIDEST = 32  # times the width: filters of the last stages
LEAK = 0.2
COARSEST = 4  # the local codes lie on about 2 ** 4 cells along the longest axis
GROUPS = 8


@keras.saving.register_keras_serializable(package="zoo")
class PairEncoder(keras.layers.Layer):
    """Encodes images into a vector and a grid of vectors, by one chain of strided convolutions.

    Every stage halves the number of voxels and has a convolution of three taps, a normalisation
    and a leaky rectifier; filters double from `width` to 32 times that. The grid branches off where
    it has 12 to 22 cells along the longest axis, whatever the size of the images; the vector comes
    from the last stage through two dense layers.

    After the encoder of NePhi (Tian et al., ECCV 2024, arXiv:2309.07322, and its code), with the
    same numbers of parameters: 2,986,136 for two channels of 175^3 voxels.

    Args:
        size: voxels along each axis of the images.
        width: filters of the first stage.
        global_codes: components of the vector.
        local_codes: components of the vector in every cell.
        normalisation: "batch" as in the source, which wants batches of several pairs; "group", of
            eight groups, for batches of one; or "none".

    Raises:
        ValueError: for numbers out of range, or a size of neither 2 nor 3 axes.
    """

    @checked(size=(2, 2**14), width=(1, 1024), global_codes=(1, 2**12), local_codes=(1, 2**12))
    def __init__(
        self,
        size: Sequence[int] = (64, 64, 64),
        width: int = 8,
        global_codes: int = 32,
        local_codes: int = 32,
        normalisation: str = "batch",
        **kwargs,
    ):
        super().__init__(**in_float32(kwargs))
        if len(size) not in (2, 3):
            raise ValueError(f"size must have 2 or 3 axes, not {tuple(size)}.")
        one_of("normalisation", normalisation, NORMALISATIONS)
        self.size, self.width, self.normalisation = tuple(size), width, normalisation
        self.global_codes, self.local_codes = global_codes, local_codes
        octaves = round(math.log2(max(size)))
        stages = STAGES + max(0, octaves - 7)
        self.filters = [width * min(2**stage, WIDEST) for stage in range(stages)]
        self.branch = max(octaves - COARSEST - 1, 0)

    @property
    def cells(self) -> tuple[int, ...]:
        """Of the grid, along each axis."""
        return self._after(self.branch + 1)

    def _after(self, stages: int) -> tuple[int, ...]:
        size = self.size
        for _ in range(stages):
            size = tuple((each - 1) // 2 + 1 for each in size)
        return size

    def build(self, input_shape):
        entering = input_shape[-1]
        self.stages = []
        for number, filters in enumerate(self.filters):
            self.stages.append(self._stage(f"stage_{number}", entering, filters, 2))
            entering = filters
        self.local = self._stage("local", self.filters[self.branch], self.local_codes, 1)
        flat = math.prod(self._after(len(self.filters))) * self.filters[-1]
        hidden = WIDEST * self.width
        self.hidden = keras.layers.Dense(hidden, name="hidden", dtype="float32", **_uniform(flat))
        self.hidden.build((None, flat))
        self.last = keras.layers.Dense(
            self.global_codes, name="global", dtype="float32", **_uniform(hidden)
        )
        self.last.build((None, hidden))
        self.built = True

    def _stage(self, name: str, entering: int, filters: int, stride: int):
        rank = len(self.size)
        kind = keras.layers.Conv2D if rank == 2 else keras.layers.Conv3D
        conv = kind(
            filters, 3, stride, name=f"{name}_conv", dtype="float32", **_uniform(entering * 3**rank)
        )
        conv.build((None, *(None,) * rank, entering))
        norm = None
        if self.normalisation == "batch":
            norm = keras.layers.BatchNormalization(
                momentum=0.9, epsilon=1e-5, name=f"{name}_norm", dtype="float32"
            )
        elif self.normalisation == "group":
            norm = keras.layers.GroupNormalization(
                math.gcd(GROUPS, filters), epsilon=1e-5, name=f"{name}_norm", dtype="float32"
            )
        if norm is not None:
            norm.build((None, *(None,) * rank, filters))
        return [conv] if norm is None else [conv, norm]

    def call(self, images, training=False):
        """Encodes a batch.

        Args:
            images: `[batch, *size, channels]`.
            training: normalise by the batch instead of what was seen so far.

        Returns:
            `(global, local)`: `[batch, global_codes]` and `[batch, *cells, local_codes]`.
        """
        hidden, local = images, None
        for number, stage in enumerate(self.stages):
            hidden = self._applied(stage, hidden, training)
            if number == self.branch:
                local = self._applied(self.local, hidden, training)
        flat = ops.reshape(hidden, (-1, math.prod(hidden.shape[1:])))
        return self.last(ops.leaky_relu(self.hidden(flat), LEAK)), local

    def _applied(self, stage: list, values, training: bool):
        conv = stage[0]
        values = strided_convolution(values, conv.kernel, conv.strides[0]) + conv.bias
        if len(stage) > 1:
            batch = self.normalisation == "batch"
            values = stage[1](values, training=training) if batch else stage[1](values)
        return ops.leaky_relu(values, LEAK)

    def get_config(self):
        names = ("size", "width", "global_codes", "local_codes", "normalisation")
        return super().get_config() | {name: getattr(self, name) for name in names}


def _uniform(entering: int) -> dict:
    """The initialisation of the source: kernels and biases within `1 / sqrt(n)` of n inputs."""
    limit = 1.0 / math.sqrt(entering)
    return {
        "kernel_initializer": initializers.RandomUniform(-limit, limit),
        "bias_initializer": initializers.RandomUniform(-limit, limit),
    }
