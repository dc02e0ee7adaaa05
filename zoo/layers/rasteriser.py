"""Density images of point clouds as a layer."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from zoo.ops.arguments import checked, not_negative
from zoo.ops.compiling import in_float32
from zoo.ops.splatting import check_shape, check_squash, density


@keras.saving.register_keras_serializable(package="zoo")
class Rasteriser(keras.layers.Layer):
    """Differentiable density image of a cloud: splat, blur, squash.

    Called with points `[batch, n, rank]`, normalised to [-1, 1] with components in the order of the
    axes of the image, and optionally weights `[batch, n]`, how many points each stands for. Returns
    float32 `[batch, *shape, 1]`, whatever the dtype policy. Points and weights receive gradients.
    See `zoo.ops.splatting.density` for the formulas.

    Source: Heinrich et al., "Chasing clouds", ICCV 2023.

    Args:
        shape: two or three sizes of the image, each at least 2.
        sigma: of the Gaussian, in voxels; 0 does not blur.
        squash: "tanh", "sigmoid", "scaled" or None.
        gain: factor inside of the squash; when None 0.25, 1 and 0.2 for the three.

    Raises:
        ValueError: for a bad argument, and when called with tensors that do not fit.

    Example:
        >>> points = np.random.default_rng(0).uniform(-0.6, 0.6, (1, 100, 2))
        >>> image = zoo.layers.Rasteriser((16, 16), squash=None)(points)
        >>> round(float(np.sum(image)), 3)  # every point counts once
        100.0
    """

    @checked(sigma=(0, 1000))
    def __init__(
        self,
        shape: Sequence[int],
        sigma: float = 0.7,
        squash: str | None = "tanh",
        gain: float | None = None,
        **kwargs,
    ):
        super().__init__(**in_float32(kwargs))
        self.shape = check_shape(shape)
        not_negative("sigma", sigma)
        check_squash(squash, gain)
        self.sigma, self.squash, self.gain = float(sigma), squash, gain

    def call(self, points, weights=None):
        return density(points, self.shape, weights, self.sigma, self.squash, self.gain)

    def compute_output_shape(self, points_shape, weights_shape=None):
        return (points_shape[0], *self.shape, 1)

    def get_config(self):
        arguments = ("shape", "sigma", "squash", "gain")
        return super().get_config() | {name: getattr(self, name) for name in arguments}
