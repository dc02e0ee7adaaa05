"""The flow of points along velocities that small networks give, one after the other in time."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import ops

from zoo.ops.arguments import checked, one_of
from zoo.ops.array_arguments import few_enough
from zoo.ops.compiling import in_float32

ACTIVATIONS = {
    "relu": (ops.relu, lambda x: ops.cast(x > 0, x.dtype)),
    "softplus": (ops.softplus, ops.sigmoid),
    "tanh": (ops.tanh, lambda x: 1.0 - ops.square(ops.tanh(x))),
    "sin": (ops.sin, ops.cos),
}
"""Each with its derivative; the slope of none exceeds one."""
INTEGRATORS = {
    # Of every stage the share of the stage before that it starts with, and its weight at the end.
    "euler": ((0.0,), (1.0,)),
    "midpoint": ((0.0, 0.5), (0.0, 1.0)),
    "rk4": ((0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
SQUARINGS = 5  # of the Gram matrix: its bound is then at most 1.16 times the norm for 128 columns
FIXED_POINT_STEPS, NEWTON_STEPS = 4, 12


@keras.saving.register_keras_serializable(package="zoo")
class ResidualFlow(keras.layers.Layer):
    """Moves points along the flow of `blocks` velocities, each for an equal part of unit time.

    The velocity of block l is `f_l(x) = W3 a(W2 a(W1 x + b1) + b2)`, or with a single nonlinearity
    `W3 (W2 a(W1 x + b1) + b2)`; the last product has no bias. A step of Euler's rule is the
    residual block `x + h f_l(x)` with `h = 1 / (blocks substeps)`. With the rectifier, velocities
    are continuous and piecewise affine, and the flow is a bi-Lipschitz homeomorphism; with a smooth
    activation it is a diffeomorphism. A new layer is the identity, because W3 is zero.

    The map is invertible where the steps are; `invert` solves for their exact inverse.
    Coordinates should lie in the box [-1, 1], over which the first kinks of the network are
    spread. The layer computes in float32, also under a mixed-precision policy.

    Source: Ben Amor, Arguillere and Shao, "ResNet-LDDMM", TPAMI 2023, arXiv:2102.07951.

    Args:
        dims: 2 or 3.
        blocks: velocities, one after the other.
        width: hidden units of each.
        nonlinearities: 1 as in the sources, where W3 W2 is one matrix, or 2, strictly richer.
        activation: "relu", "softplus", "tanh" or "sin".
        integrator: "euler", "midpoint" or "rk4"; the velocity of a block does not change in time.
        substeps: integration steps for each block; more refine a flow without new weights.
        lipschitz: bound below 1 on `h` times the Lipschitz number of every velocity, kept by
            scaling the weights by their spectral norms, so that every step is invertible; None
            for none.
        codes: components of a code that shifts the first layer, so that one flow serves many
            shapes; 0 for none.

    Raises:
        ValueError: for an argument out of range.

    Example:
        >>> points = np.random.default_rng(0).uniform(-1, 1, (1, 100, 3)).astype("float32")
        >>> flow = zoo.layers.ResidualFlow()
        >>> bool(np.all(flow(points) == points))  # a new one is the identity
        True
    """

    @checked(blocks=(1, 1024), width=(1, 2**14), substeps=(1, 1024), codes=(0, 2**14))
    def __init__(
        self,
        dims: int = 3,
        blocks: int = 10,
        width: int = 128,
        nonlinearities: int = 2,
        activation: str = "relu",
        integrator: str = "euler",
        substeps: int = 1,
        lipschitz: float | None = None,
        codes: int = 0,
        **kwargs,
    ):
        super().__init__(autocast=False, **in_float32(kwargs))
        self.dims = one_of("dims", dims, (2, 3))
        few_enough("blocks and width", (blocks, width, width))
        self.blocks, self.width, self.substeps = blocks, width, substeps
        self.nonlinearities = one_of("nonlinearities", nonlinearities, (1, 2))
        self.activation = one_of("activation", activation, ACTIVATIONS)
        self.integrator = one_of("integrator", integrator, INTEGRATORS)
        if lipschitz is not None and not 0 < lipschitz < 1:
            raise ValueError(f"lipschitz must lie between 0 and 1 or be None, not {lipschitz!r}.")
        self.lipschitz, self.codes = lipschitz, codes
        self._act, self._slope = ACTIVATIONS[activation]

    def build(self, input_shape=None):
        blocks, width, dims = self.blocks, self.width, self.dims

        def weight(name, shape):
            return self.add_weight(shape=(blocks, *shape), initializer="zeros", name=name)

        self.first = weight("first", (dims, width))
        self.first_bias = weight("first_bias", (width,))
        self.second = weight("second", (width, width))
        self.second_bias = weight("second_bias", (width,))
        self.third = weight("third", (width, dims))
        if self.codes:
            self.code = weight("code", (self.codes, width))
        self.restart()
        self.built = True

    def restart(self, seed: int | None = None) -> None:
        """Makes the flow the identity again, with other random weights behind it.

        Args:
            seed: of the weights; None draws from Keras's global generator.
        """
        random = keras.random.SeedGenerator(seed) if seed is not None else None
        for weight, deviation in (
            (self.first, math.sqrt(2 / self.dims)),
            (self.second, math.sqrt(2 / self.width)),
        ):
            weight.assign(keras.random.normal(weight.shape, 0.0, deviation, seed=random))
        # The planes along which the first layer bends cut the box, not only its middle.
        through = keras.random.uniform(self.first.shape, -1.0, 1.0, seed=random)
        self.first_bias.assign(-ops.sum(self.first[...] * through, axis=1))
        for weight in (self.second_bias, self.third):
            weight.assign(ops.zeros(weight.shape))
        if self.codes:
            deviation = math.sqrt(1 / self.codes)
            self.code.assign(keras.random.normal(self.code.shape, 0.0, deviation, seed=random))

    @property
    def step(self) -> float:
        """The time of one integration step."""
        return 1.0 / (self.blocks * self.substeps)

    def matrices(self, block: int):
        """The three matrices of a block, as they are used: scaled where there is a bound."""
        kernels = [weight[block] for weight in (self.first, self.second, self.third)]
        if self.lipschitz is None:
            return kernels
        bounds = [spectral_bound(kernel) for kernel in kernels]
        excess = self.step * bounds[0] * bounds[1] * bounds[2] / self.lipschitz
        kernels[2] = kernels[2] / ops.maximum(excess, 1.0)
        return kernels

    def velocity(self, points, block: int, tangents=None, code=None, matrices=None):
        """The velocity of a block at points, and how it changes along directions.

        Args:
            points: `[..., n, dims]`.
            block: its number.
            tangents: None, or directions `[..., n, k, dims]`.
            code: None, or `[..., codes]`.
            matrices: those of the block where they are known.

        Returns:
            The velocity, of the shape of points, and `Df tangents`, of the shape of tangents (None
            without any).
        """
        first, second, third = self.matrices(block) if matrices is None else matrices
        shift = self.first_bias[block]
        if code is not None:
            shift = (shift + ops.matmul(code, self.code[block]))[..., None, :]
        inner = ops.matmul(points, first) + shift
        outer = ops.matmul(self._act(inner), second) + self.second_bias[block]
        last = self._act(outer) if self.nonlinearities == 2 else outer
        velocity = ops.matmul(last, third)
        if tangents is None:
            return velocity, None
        change = ops.matmul(tangents, first) * self._slope(inner)[..., None, :]
        change = ops.matmul(change, second)
        if self.nonlinearities == 2:
            change = change * self._slope(outer)[..., None, :]
        return velocity, ops.matmul(change, third)

    def increment(self, points, block: int, tangents=None, code=None, matrices=None):
        """What one integration step adds to points, and to tangents that travel with them.

        Args:
            points, block, tangents, code, matrices: see `velocity`.

        Returns:
            Tensors of the shapes of points and of tangents (None without any).
        """
        starts, shares = INTEGRATORS[self.integrator]
        matrices = self.matrices(block) if matrices is None else matrices
        moved, turned = 0.0, None if tangents is None else 0.0
        velocity = change = None
        for start, share in zip(starts, shares, strict=True):
            at, along = points, tangents
            if start:
                at = at + (start * self.step) * velocity
                along = None if tangents is None else along + (start * self.step) * change
            velocity, change = self.velocity(at, block, along, code, matrices)
            moved = moved + (share * self.step) * velocity
            if tangents is not None:
                turned = turned + (share * self.step) * change
        return moved, turned

    def trace(self, points, tangents=None, code=None):
        """The whole path of points: where they are after every block.

        Args:
            points, tangents, code: see `velocity`.

        Returns:
            Two lists of `blocks + 1`: positions, the first ones the points themselves, and the
            directions that travel with them (None without any).
        """
        path, turns = [points], [tangents]
        for block in range(self.blocks):
            matrices = self.matrices(block)
            for _ in range(self.substeps):
                moved, turned = self.increment(points, block, tangents, code, matrices)
                points = points + moved
                tangents = None if tangents is None else tangents + turned
            path.append(points)
            turns.append(tangents)
        return path, None if tangents is None else turns

    def call(self, points, code=None):
        """Where points end.

        Args:
            points: `[batch, n, dims]`.
            code: `[batch, codes]`; None is a code of zeros.

        Returns:
            Tensor of the shape of points.
        """
        return self.trace(points, code=code)[0][-1]

    def jacobian(self, points, code=None):
        """Where points `[..., n, dims]` end, and the Jacobian of the map there.

        Returns:
            `(moved, jacobian)`, `[..., n, dims]` and `[..., n, dims, dims]` with the derivative by
            component k of the point in `[..., k]`.
        """
        identity = ops.eye(self.dims, dtype=points.dtype)
        tangents = ops.broadcast_to(identity, (*ops.shape(points), self.dims))
        path, turns = self.trace(points, tangents, code)
        return path[-1], ops.swapaxes(turns[-1], -1, -2)

    def sampled_lipschitz(self, points):
        """The step times the largest spectral norm of a velocity's derivative at moving points.

        Below 1 it certifies that every Euler step is invertible around the points.

        Args:
            points: `[n, dims]`.

        Returns:
            Tensor `[blocks]`.
        """
        identity = ops.broadcast_to(ops.eye(self.dims, dtype=points.dtype), (1, *[self.dims] * 2))
        path, _ = self.trace(points)
        largest = []
        for block, at in enumerate(path[:-1]):
            tangents = ops.broadcast_to(identity, (*ops.shape(at), self.dims))
            _, change = self.velocity(at, block, tangents)
            largest.append(ops.max(ops.svd(change, compute_uv=False)))
        return self.step * ops.stack(largest)

    def product_lipschitz(self):
        """The step times the product of the spectral norms of each block's matrices, `[blocks]`.

        An upper bound of the Lipschitz number of the velocity anywhere in space, usually loose:
        above 1 it is a reason to look at determinants, not a proof of folds.
        """
        norms = [
            ops.stack([spectral_bound(each) for each in self.matrices(block)])
            for block in range(self.blocks)
        ]
        return self.step * ops.prod(ops.stack(norms), axis=-1)

    def invert(self, points, code=None, steps=None):
        """The exact inverse of the discrete flow, step by step in reverse, by iteration.

        Each step solves `x + increment(x) = y`, first by fixed-point iteration, then by Newton
        steps, which a point takes only where they bring it closer.

        Args:
            points: where points ended, `[n, dims]`.
            code: `[codes]`; None is a code of zeros.
            steps: `(fixed-point, Newton)` steps; None for 4 and 12.

        Returns:
            Tensor `[n, dims]`: where they began.
        """
        fixed_point, newton = steps or (FIXED_POINT_STEPS, NEWTON_STEPS)
        identity = ops.broadcast_to(
            ops.eye(self.dims, dtype=points.dtype), (*ops.shape(points), self.dims)
        )
        for block in reversed(range(self.blocks)):
            matrices = self.matrices(block)
            for _ in range(self.substeps):
                points = self._undone(points, block, code, matrices, identity, fixed_point, newton)
        return points

    def _undone(self, goal, block, code, matrices, identity, fixed_point, newton):
        def distance(error):
            return ops.sum(ops.square(error), axis=-1, keepdims=True)

        guess = goal
        for _ in range(fixed_point):
            guess = goal - self.increment(guess, block, None, code, matrices)[0]
        for _ in range(newton):
            moved, turned = self.increment(guess, block, identity, code, matrices)
            error = goal - guess - moved
            jacobian = ops.swapaxes(identity + turned, -1, -2)
            leap = _solved(jacobian, error)
            trials = []
            for trial in (guess + leap, goal - moved):
                left = goal - trial - self.increment(trial, block, None, code, matrices)[0]
                trials.append((trial, distance(left)))
            now = distance(error)
            for trial, left in trials:
                guess = ops.where(left < now, trial, guess)
                now = ops.minimum(left, now)
        return guess

    def compute_output_shape(self, input_shape, *_):
        return tuple(input_shape)

    def get_config(self):
        arguments = (
            "dims blocks width nonlinearities activation integrator substeps lipschitz codes"
        )
        return super().get_config() | {name: getattr(self, name) for name in arguments.split()}


def kinetic_energy(path, weights=None):
    """Half the integral of the mean squared speed along a path, in squared units of length.

    For a path of equal speed it is half the squared length, whatever the number of steps or points.

    Args:
        path: positions `[batch, n, dims]` at equal times, of which the last is at time 1.
        weights: None, or of the points, `[batch, n]`, that sum to 1.

    Returns:
        Tensor `[batch]`.
    """
    steps = len(path) - 1
    total = 0.0
    for start, end in zip(path[:-1], path[1:], strict=True):
        squares = ops.sum(ops.square(end - start), axis=-1)
        total = total + (
            ops.mean(squares, axis=-1) if weights is None else ops.sum(weights * squares, axis=-1)
        )
    return 0.5 * steps * total


def spectral_bound(matrix, squarings: int = SQUARINGS):
    """An upper bound of the spectral norm that can be differentiated and never lies below it.

    `|M|^(2^(k+1)) <= |(M' M)^(2^k)|_F`; with 5 squarings the bound of a matrix with 128 columns is
    at most 1.08 times the norm. Source: Delattre et al., "Efficient bound of Lipschitz constant for
    convolutional layers by Gram iteration", ICML 2023.

    Args:
        matrix: `[n, m]`.
        squarings: k.

    Returns:
        A scalar.
    """
    if matrix.shape[0] < matrix.shape[1]:
        matrix = ops.transpose(matrix)
    power = ops.matmul(ops.transpose(matrix), matrix)
    logarithm = 0.0  # of the factors that were taken out, as the powers would overflow
    for number in range(squarings + 1):
        power = power if number == 0 else ops.matmul(power, power)
        size = ops.sqrt(ops.sum(ops.square(power)) + 1e-30)
        logarithm = logarithm + ops.log(size) / 2**number
        power = power / size
    return ops.exp(0.5 * logarithm)


def _solved(matrix, vector):
    """`matrix^-1 vector` of 2 x 2 or 3 x 3 matrices by cofactors; no step where it is singular."""
    columns = [matrix[..., k] for k in range(matrix.shape[-1])]
    if len(columns) == 2:
        (a, b) = columns
        determinant = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
        parts = [
            vector[..., 0] * b[..., 1] - vector[..., 1] * b[..., 0],
            a[..., 0] * vector[..., 1] - a[..., 1] * vector[..., 0],
        ]
    else:
        a, b, c = columns
        determinant = ops.sum(a * ops.cross(b, c), axis=-1)
        parts = [
            ops.sum(vector * ops.cross(b, c), axis=-1),
            ops.sum(a * ops.cross(vector, c), axis=-1),
            ops.sum(a * ops.cross(b, vector), axis=-1),
        ]
    safe = ops.where(ops.abs(determinant) > 1e-6, determinant, np.inf)
    return ops.stack(parts, axis=-1) / safe[..., None]
