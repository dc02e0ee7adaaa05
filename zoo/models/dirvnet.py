"""DIRV-Net: registration of images by unrolled descent with learned fields of experts.

On every level of an image pyramid a displacement `u` lives on control points, `s` voxels apart,
and `A u` is its linear interpolation. A *variational unit* takes one step against the gradient of
an energy whose two terms are fields of experts,

    E(u) = sum rho_data(K_data * (W - f)) + sum rho_smooth(K_smooth * u),  W(x) = m(x + (A u)(x))

    g = A^T (G_data(W - f) . grad W) + G_smooth(u),   G(x) = K^T phi(K x),   phi = rho'

    u <- u - |tau| P g + |beta| (u - u_previous)

The filters `K` and the functions `phi` are learned, as are the step `tau` and the momentum `beta`
(Polyak's heavy ball). `P` divides by the diagonal of the Gauss-Newton matrix, so that a step does
not depend on the contrast. After a few units the displacement is carried to the next finer level.

After DIRV-Net (github.com/TMS-Namespace/DIRV-Net), whose component order, adjoint, momentum and
composition are put right here (`AUTHORS` holds their default arguments), the variational networks
of Hammernik et al. (MRM 2018, arXiv:1704.00447) and Vishnevskiy et al. (arXiv:1906.05528).
"""

from __future__ import annotations

import hashlib
import math
import types
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from zoo.data.chessboard import ChessboardPairs
from zoo.data.pair import LazyPairs, Pair
from zoo.data.pairs import PairDataset
from zoo.layers.activations import EXTRAPOLATIONS, PiecewiseLinear, RadialBasis
from zoo.layers.bspline import bspline_expand, control_shape
from zoo.layers.fields_of_experts import FieldsOfExperts
from zoo.layers.integration import ScalingAndSquaring
from zoo.layers.pyramid import downsample_displacement, image_pyramid, upsample_displacement
from zoo.layers.variational_unit import VariationalUnit, descent_filters
from zoo.losses import (
    LNCC,
    MIND,
    NCC,
    Bending,
    Dice,
    Diffusion,
    EndpointError,
    MeanSquaredError,
    MutualInformation,
    TotalVariation,
    one_hot,
)
from zoo.ops.correlation import PADDINGS
from zoo.ops.sampling import compose, warp
from zoo.ops.splatting import blur
from zoo.registration import Registration
from zoo.registration.refinement import refine
from zoo.transform import Dense, Transform, Velocity

SIMILARITIES = {
    "mse": MeanSquaredError,
    "ncc": NCC,
    "lncc": LNCC,
    "mi": MutualInformation,
    "mind": MIND,
}
PENALTIES = {"diffusion": Diffusion, "bending": Bending, "tv": TotalVariation}
ACTIVATIONS = {"linear": PiecewiseLinear, "rbf": RadialBasis}
CHOICES = {
    "dims": (2, 3),
    "start": ("descent", "random"),
    "activation": tuple(ACTIVATIONS),
    "extrapolation": EXTRAPOLATIONS,
    "padding": PADDINGS,
    "intensities": ("pair", "image", "standard", "local", "none"),
    "similarity": tuple(SIMILARITIES),
    "penalty": tuple(PENALTIES),
    "unit_loss": ("last", "exponential"),
}
LEAST = {
    "channels": 1,
    "levels": 1,
    "units": 1,
    "filters": 1,
    "data_kernel": 1,
    "smoothness_kernel": 2,  # differences need two taps
    "spacing": 1,
    "share_units": 1,
    "knots": 2,
    "features": 0,
    "passes": 1,
}
SQUARINGS = 6
KEPT = 4  # pairs whose refinement is remembered
NEIGHBOURHOOD = 3.0  # standard deviation, in voxels of a level
# The arguments with which a network is the one that the authors train by default.
AUTHORS = {
    "levels": 1,
    "momentum": None,
    "damping": None,
    "step": None,
    "start": "random",
    "smoothness_limits": (-1.0, 1.0),
    "extrapolation": "constant",
    "padding": "zero",
    "zero_mean": False,
    "intensities": "none",
}
NOT_OPTIONS = ("self", "kwargs", "__class__")


class DIRVNet(Registration):
    """Registers images of any size by a few learned steps of descent on every pyramid level.

    With `start="descent"` the untrained network is a method of its own: preconditioned descent on
    the squared difference with a quadratic smoothness. Training improves on it.

    What is learned from follows from the data. With a known displacement (a data set that yields
    it as y, such as `zoo.data.chessboard.ChessboardPairs`) that is the loss; else `similarity` and
    `smoothness`; and `labels` wherever a pair has them and the term has a weight. `fit(pair)` on
    one pair adapts the network to it, see `fit`.

    Args:
        dims: 2 or 3.
        channels: of the images.
        levels: of the image pyramid, the image itself included.
        units: steps on every level.
        filters: of each field of experts.
        data_kernel: taps along each axis of the filters on the residual.
        smoothness_kernel: taps along each axis of the filters on the displacement.
        spacing: voxels of a level between control points.
        share_units: so many consecutive units of a level have the same parameters.
        share_levels: all levels have the same parameters.
        momentum: first momentum, learned; None is plain descent, as the authors' default.
        damping: first damping of the preconditioner beyond what the smoothness needs, learned;
            None is no preconditioner.
        step: first step length, learned; None draws it from 0 to 0.1.
        smoothness: first weight of the smoothness, relative to the data.
        start: "descent", or "random" filters and functions as the authors have them.
        activation: "linear" (piecewise) or "rbf" functions.
        knots: nodes of every function.
        data_limits: first and last node of the functions on the residual.
        smoothness_limits: the same for those on the displacement, in voxels.
        extrapolation: of the functions beyond their limits, "linear" or "constant".
        padding: of the filters, "symmetric" or "zero".
        zero_mean: keep the mean of the smoothness filters at zero: no cost for translations.
        unit_norm: keep the norm of all filters at one.
        velocity: the control points carry a stationary velocity that is integrated, which makes
            the map diffeomorphic.
        features: learned feature channels (two convolutions, the same for both images) that are
            matched beside the intensities.
        intensities: "pair" maps the common range of both images to 0..1, "image" that of each,
            "standard" subtracts the mean of each and divides by its standard deviation, "local"
            does so around every voxel of every level, for other stains and biased intensities;
            "none".
        passes: how often the network is applied to its own result, by composition. A pass counts
            for an image where it lowers the standard deviation of the residual.
        similarity: "mse", "ncc", "lncc", "mi" or "mind".
        penalty: "diffusion", "bending" or "tv" (total variation) of the displacement.
        labels: label values that count, for the term `labels`.
        mixed: use similarity and smoothness also where the displacement is known.
        level_weights: of the loss of each level, coarse to fine; None weights all alike.
        unit_loss: which units of a level the loss sees: the "last", or all with "exponential"
            weights `exp(-(units - 1 - t) T)`; see `Temperature`.

    Raises:
        ValueError: for arguments out of range.
    """

    prepare_options = ("batch_size", "shape", "align", "shuffle", "seed", "steps_per_epoch")
    default_loss_weights = {
        "displacement": 1.0,
        "similarity": 1.0,
        "smoothness": 0.3,
        "labels": 0.0,
    }

    def __init__(
        self,
        dims: int = 2,
        channels: int = 1,
        levels: int = 3,
        units: int = 7,
        filters: int = 16,
        data_kernel: int = 7,
        smoothness_kernel: int = 5,
        spacing: int = 4,
        share_units: int = 1,
        share_levels: bool = False,
        momentum: float | None = 0.5,
        damping: float | None = 0.05,
        step: float | None = 1.0,
        smoothness: float = 0.02,
        start: str = "descent",
        activation: str = "linear",
        knots: int = 24,
        data_limits: Sequence[float] = (-1.0, 1.0),
        smoothness_limits: Sequence[float] = (-2.0, 2.0),
        extrapolation: str = "linear",
        padding: str = "symmetric",
        zero_mean: bool = True,
        unit_norm: bool = False,
        velocity: bool = False,
        features: int = 0,
        intensities: str = "pair",
        passes: int = 1,
        similarity: str = "lncc",
        penalty: str = "diffusion",
        labels: Sequence[int] | None = None,
        mixed: bool = False,
        level_weights: Sequence[float] | None = None,
        unit_loss: str = "last",
        **kwargs,
    ):
        given = {key: value for key, value in locals().items() if key not in NOT_OPTIONS}
        # Coordinates and small differences need float32 under any precision policy.
        super().__init__(autocast=False, **{**kwargs, "dtype": "float32"})
        _check(given)
        for name in ("data_limits", "smoothness_limits", "labels", "level_weights"):
            given[name] = None if given[name] is None else tuple(given[name])
        self.options = types.SimpleNamespace(**given)
        self.extractor = None
        if features:
            conv = keras.layers.Conv2D if dims == 2 else keras.layers.Conv3D
            self.extractor = keras.Sequential(
                [
                    conv(features, 3, padding="same", dtype="float32"),
                    keras.layers.LeakyReLU(0.2, dtype="float32"),
                    # A constant in both images has no effect.
                    conv(features, 3, padding="same", use_bias=False, dtype="float32"),
                ],
                name="extractor",
            )
        self.units = self._units()
        self.integrate = ScalingAndSquaring(SQUARINGS)
        self.temperature = None
        if unit_loss == "exponential":
            self.temperature = self.add_weight(
                name="temperature", shape=(), initializer="zeros", trainable=False
            )
        self._refined: dict[bytes, np.ndarray] = {}
        self.build()

    def get_config(self):
        return super().get_config() | vars(self.options)

    def _units(self) -> list[list[VariationalUnit]]:
        """The units of each level, coarse to fine; those that share are the same object."""
        options, levels, damping = self.options, [], self.options.damping
        if damping is not None:
            # Differences of `dims` components to two neighbours each: else steps overshoot.
            damping += 4 * options.dims * options.smoothness
        for level in range(options.levels):
            if level and options.share_levels:
                levels.append(levels[0])
                continue
            units = []
            for number in range(options.units):
                if number % options.share_units:
                    units.append(units[-1])
                    continue
                # The first step of a level has no step before it.
                alone = number == 0 and (options.share_units == 1 or options.units == 1)
                units.append(
                    VariationalUnit(
                        self._experts(options.data_kernel, options.data_limits, True),
                        self._experts(options.smoothness_kernel, options.smoothness_limits, False),
                        options.spacing,
                        options.step,
                        None if alone else options.momentum,
                        damping,
                        name=f"level{level}_unit{number}",
                    )
                )
            levels.append(units)
        return levels

    def _experts(self, size: int, limits: tuple, data: bool) -> FieldsOfExperts:
        options = self.options
        # The first filters copy the residual, or take differences of the displacement.
        first = options.channels + options.features if data else options.dims
        slopes = np.zeros(options.filters)
        slopes[:first] = 1.0 if data else options.smoothness
        descent = options.start == "descent"
        banks = 1 if data else options.dims
        functions = ACTIVATIONS[options.activation](
            options.knots,
            limits,
            "linear" if descent else keras.initializers.TruncatedNormal(stddev=0.01),
            slope=tuple(np.tile(slopes, banks).tolist()),
            extrapolation=options.extrapolation,
        )
        return FieldsOfExperts(
            options.filters,
            size,
            functions,
            descent_filters(not data) if descent else "normal",
            options.padding,
            zero_mean=options.zero_mean and not data,
            unit_norm=options.unit_norm,
            separate=not data,
            name="data" if data else "smoothness",
        )

    def build(self, input_shape=None):
        """Builds the units; the size of the images does not matter."""
        options = self.options
        image = (None, *(None,) * options.dims, options.channels + options.features)
        control = (None, *(None,) * options.dims, options.dims)
        if self.extractor is not None:
            self.extractor.build((*image[:-1], options.channels))
        for units in self.units:
            for unit in units:
                if not unit.built:
                    unit.build(control, control, image, image)
        self.built = True

    # From a pair to a displacement

    def call(self, inputs, training=False):
        """Registers a batch.

        Args:
            inputs: dict of `fixed` and `moving`, `[batch, *spatial, channels]`, on one grid.
            training: give out what the losses need, too.

        Returns:
            Dict of float32: `moved` `[batch, *spatial, channels]` in the intensities of the moving
            image, and `displacement` `[batch, *spatial, rank]` in voxels; with the option
            `velocity` also that, likewise. For training also `trace`, see `trace`.
        """
        given = [ops.cast(inputs[side], "float32") for side in ("fixed", "moving")]
        fixed, moving = self._matched(*given)
        trace = self._descend(fixed, moving)
        field = trace[-1]["fields"][-1]
        displacement = trace[-1]["displacements"][-1]
        for _ in range(1, self.options.passes):
            displacement = self._once_more(fixed, moving, displacement)
        outputs = {"moved": warp(given[1], displacement), "displacement": displacement}
        if self.options.velocity:
            outputs["velocity"] = field
        return outputs | {"trace": trace} if training else outputs

    def trace(self, inputs) -> list[dict]:
        """What happens inside, for reports.

        Args:
            inputs: as for `call`.

        Returns:
            For each level, coarse to fine, a dict of its `fixed` image and, for each unit, the
            image `moved`, the `displacements` after it, in voxels of the level, and the `fields`
            that the control points interpolate to (velocities with the option `velocity`). Images
            are those that are matched (in 0..1, say), with the features as further channels.
        """
        given = (ops.cast(inputs[side], "float32") for side in ("fixed", "moving"))
        return self._descend(*self._matched(*given))

    def _descend(self, fixed, moving) -> list[dict]:
        options, trace, control = self.options, [], None
        pyramids = [image_pyramid(image, options.levels) for image in (fixed, moving)]
        if options.intensities == "local":
            pyramids = [[_locally_normalised(image) for image in levels] for levels in pyramids]
        for units, fixed, moving in zip(self.units, *map(reversed, pyramids), strict=True):
            shape = ops.shape(fixed)[1:-1]
            points = control_shape(shape, options.spacing, order=1)
            if control is None:
                control = ops.zeros((ops.shape(fixed)[0], *points, options.dims))
            else:
                control = _finer(control, points)
            previous = control
            _, displacement = self._dense(control, shape)
            moved = warp(moving, displacement)
            level = {"fixed": fixed, "moved": [], "fields": [], "displacements": []}
            for unit in units:
                control, previous = unit(control, previous, moved, fixed), control
                field, displacement = self._dense(control, shape)
                moved = warp(moving, displacement)
                for key, value in (
                    ("moved", moved),
                    ("fields", field),
                    ("displacements", displacement),
                ):
                    level[key].append(value)
            trace.append(level)
        return trace

    def _dense(self, control, shape) -> tuple:
        """What the control points interpolate to, and the displacement that this makes."""
        field = bspline_expand(control, shape, self.options.spacing, order=1)
        return field, self.integrate(field) if self.options.velocity else field

    def _once_more(self, fixed, moving, displacement):
        moved = warp(moving, displacement)
        further = self._descend(fixed, moved)[-1]["displacements"][-1]
        both = compose(displacement, further)
        axes = tuple(range(1, self.options.dims + 2))
        if self.options.intensities == "local":
            fixed, moving = _locally_normalised(fixed), _locally_normalised(moving)
        before, after = (
            ops.std(fixed - warp(moving, field), axis=axes, keepdims=True)
            for field in (displacement, both)
        )
        return ops.where(after < before, both, displacement)

    def _matched(self, fixed, moving) -> tuple:
        """The images as they are compared: normalised, with their features."""
        axes, mode = tuple(range(1, self.options.dims + 2)), self.options.intensities
        images = [fixed, moving]
        if mode in ("standard", "local"):
            images = [
                (image - ops.mean(image, axes, keepdims=True))
                / ops.maximum(ops.std(image, axes, keepdims=True), 1e-8)
                for image in images
            ]
        elif mode != "none":
            low = [ops.min(image, axes, keepdims=True) for image in images]
            high = [ops.max(image, axes, keepdims=True) for image in images]
            if mode == "pair":
                low, high = [ops.minimum(*low)] * 2, [ops.maximum(*high)] * 2
            images = [
                (image - least) / ops.maximum(most - least, 1e-8)
                for image, least, most in zip(images, low, high, strict=True)
            ]
        if self.extractor is not None:
            images = [ops.concatenate([image, self.extractor(image)], -1) for image in images]
        return tuple(images)

    def _compared(self, fixed, moving) -> tuple:
        """The images at full resolution as the finest level sees them."""
        images = self._matched(fixed, moving)
        if self.options.intensities == "local":
            images = tuple(map(_locally_normalised, images))
        return images

    # What training minimises

    def loss_terms(self, x, y, y_pred):
        """The terms for which there are data and weights; in training means over levels.

        `displacement`: root mean square of the components of the error at a voxel, averaged, in
        voxels of the full resolution. `similarity`: between the images as they are matched.
        `smoothness`: of the displacement, in voxels of the level. `labels`: one minus Dice of the
        warped labels at full resolution. When evaluated, of the result alone.
        """
        weights, options = self.loss_weights, self.options
        trace = y_pred.get("trace")
        if trace is None:
            # As in training: matched first, warped then.
            fixed, moving = self._compared(
                *(ops.cast(x[side], "float32") for side in ("fixed", "moving"))
            )
            displacement = y_pred["displacement"]
            moved = warp(moving, displacement)
            trace = [{"fixed": fixed, "moved": [moved], "displacements": [displacement]}]
        masks = [None] * len(trace)
        if "fixed_mask" in x:
            masks = [mask[..., 0] for mask in image_pyramid(x["fixed_mask"], len(trace))]
        inside = None
        if "moving_mask" in x:
            inside = image_pyramid(x["moving_mask"], len(trace))

        def counts(level, k, t):
            """The weights of the similarity: both masks, where there are any."""
            if inside is None:
                return masks[k]
            there = ops.stop_gradient(warp(inside[k], level["displacements"][t]))[..., 0]
            return there if masks[k] is None else masks[k] * there

        terms = {}
        if y is not None and weights["displacement"]:
            known = [ops.cast(y, "float32")]
            for _ in trace[1:]:
                known.append(downsample_displacement(known[-1]))
            error, root = EndpointError(), math.sqrt(options.dims)
            terms["displacement"] = self._over_levels(
                trace,
                lambda level, k, t: (
                    2**k / root * error(known[k], level["displacements"][t], masks[k])
                ),
            )
        if y is None or options.mixed:
            if weights["similarity"]:
                similar, kept = SIMILARITIES[options.similarity](), options.channels
                terms["similarity"] = self._over_levels(
                    trace,
                    lambda level, k, t: similar(
                        level["fixed"][..., :kept],
                        level["moved"][t][..., :kept],
                        counts(level, k, t),
                    ),
                )
            if weights["smoothness"]:
                rough = PENALTIES[options.penalty]()
                terms["smoothness"] = self._over_levels(
                    trace, lambda level, k, t: rough(level["displacements"][t])
                )
        if weights["labels"] and {"fixed_labels", "moving_labels"} <= set(x):
            if options.labels is None:
                raise ValueError("labels must name the label values that count to learn from them.")
            fixed, moving = (
                one_hot(ops.cast(x[f"{side}_labels"], "int32"), options.labels)
                for side in ("fixed", "moving")
            )
            moved = warp(moving, y_pred["displacement"])
            terms["labels"] = Dice(background=True)(fixed, moved)
        if not terms:
            raise ValueError(
                "the loss has no terms: the data bring neither displacements nor labels with a "
                f"weight, and the weights are {weights}."
            )
        return terms

    def _over_levels(self, trace, measure):
        """Weighted mean of `measure(level, halvings, unit)` over levels and units."""
        weights = self.options.level_weights if len(trace) > 1 else None
        weights = weights or (1.0,) * len(trace)
        total = 0.0
        for k, (level, weight) in enumerate(zip(trace[::-1], weights[::-1], strict=True)):
            count = len(level["displacements"])
            if self.temperature is None:
                value = measure(level, k, -1)
            else:
                shares = unit_weights(count, self.temperature)
                values = ops.stack([measure(level, k, t) for t in range(count)])
                value = ops.sum(shares * values) / ops.sum(shares)
            total = total + weight * value
        return total / sum(weights)

    # One pair

    def fit(self, x=None, y=None, *, epochs: int | None = None, callbacks=None, **kwargs):
        """Trains as Keras does; given a single pair, refines what the network finds for it.

        The refinement leaves the network as it is. It starts from the network's displacement, or
        from what an earlier call has found for this pair, and changes control points by Adam, half
        of the steps on the level of half the size and half at full size, to minimise the
        `similarity` and the weighted `smoothness`. `transform`, `predict` and `evaluate` then use
        the result for this pair, until `forget()`, other weights, or refinements of four more
        pairs. It is not stored with the model; `Transform.save` keeps it.

        Args:
            x: pairs, a data set or arrays as Keras takes them; or a single `zoo.Pair`.
            y: the displacements, with arrays.
            epochs: by default 1; for a pair 80, one step each.
            callbacks: of Keras; for a pair they see two trainings one after the other.
            **kwargs: of `zoo.Model.fit`; for a pair `learning_rate` (of the control points, 0.1
                voxels by default) and `verbose`.

        Returns:
            The Keras `History`.

        Raises:
            TypeError: for other arguments with a pair.
            ValueError: for a pair that does not fit the model.
        """
        if not isinstance(x, Pair):
            return super().fit(
                x, y, epochs=1 if epochs is None else epochs, callbacks=callbacks, **kwargs
            )
        if y is not None:
            raise TypeError("y must be left out with a pair, which brings all it needs.")
        self._check_pair(x)
        if epochs is not None and epochs < 1:
            raise ValueError(f"epochs must be at least 1, not {epochs}.")
        if not self.compiled:
            self.compile()
        return self._refine(x, 80 if epochs is None else epochs, callbacks, **kwargs)

    def _refine(self, pair, epochs, callbacks, **kwargs):
        options, arrays = self.options, pair.arrays()
        images = self._compared(arrays["fixed"], arrays["moving"])
        batch = {
            side: image[..., : options.channels]
            for side, image in zip(("fixed", "moving"), images, strict=True)
        }
        batch |= {key: arrays[key] for key in ("fixed_mask", "moving_mask") if key in arrays}
        displacement, history = refine(
            batch,
            self.transform(pair).displacement()[None],
            options.spacing,
            SIMILARITIES[options.similarity](),
            PENALTIES[options.penalty](),
            self.loss_weights["smoothness"],
            epochs,
            callbacks=callbacks,
            jit_compile=self.jit_compile,
            **kwargs,
        )
        key = _fingerprint(pair)
        self._refined.pop(key, None)
        if len(self._refined) == KEPT:
            del self._refined[next(iter(self._refined))]
        self._refined[key] = displacement[0]
        return history

    def forget(self):
        """Drops what `fit(pair)` has found; `transform` is the network's own again."""
        self._refined.clear()

    def load_weights(self, *args, **kwargs):
        """As in Keras; what `fit(pair)` found from other weights is dropped."""
        super().load_weights(*args, **kwargs)
        self._refined.clear()

    # What the zoo asks of a method

    def default_optimizer(self):
        return keras.optimizers.Adam(1e-3, global_clipnorm=1.0)

    def prepare(self, data, validation: bool = False, **options):
        """Pairs as batches; options are those of `zoo.data.pairs.PairDataset`.

        `steps_per_epoch` is its `steps`.
        """
        if not isinstance(data, Pair | LazyPairs):
            return data
        self._check_pair(data[0] if isinstance(data, LazyPairs) else data)
        steps = options.pop("steps_per_epoch", None)
        if validation:
            steps, options = None, options | {"shuffle": False}
        return PairDataset(data, steps=steps, **options)

    def transform(self, pair: Pair) -> Transform:
        """The transform from fixed to moving space, by the network or by what `fit(pair)` found.

        Args:
            pair: of images with this model's rank and channels. The moving image is sampled on
                the fixed grid, so images of different frames need an alignment first, see
                `zoo.Pair.aligned`.

        Returns:
            A `zoo.transform.Dense` on the fixed grid; for a network with `velocity` that was not
            fitted to the pair a `zoo.transform.Velocity`, whose inverse integrates backwards.

        Raises:
            TypeError: for anything but a pair.
            ValueError: for clouds, or a pair of another rank or other channels.
        """
        self._check_pair(pair)
        grid = pair.fixed.grid
        found = self._refined.get(_fingerprint(pair))
        if found is not None:
            return Dense(found, grid)
        arrays = pair.arrays()
        outputs = super().predict({side: arrays[side] for side in ("fixed", "moving")}, verbose=0)
        if self.options.velocity:
            return Velocity(outputs["velocity"][0], grid, steps=SQUARINGS)
        return Dense(outputs["displacement"][0], grid)

    def _check_pair(self, pair):
        options = self.options
        if not isinstance(pair, Pair):
            raise TypeError(f"pair must be a zoo.Pair, not {type(pair).__name__}.")
        if not pair.is_images:
            raise ValueError("pair: DIRV-Net registers images, and these are clouds.")
        if (pair.rank, pair.fixed.channels) != (options.dims, options.channels):
            raise ValueError(
                f"pair: the images have {pair.rank} dimensions and {pair.fixed.channels} channels, "
                f"this model dims={options.dims} and channels={options.channels}."
            )

    def signature(self):
        options = self.options
        axes = [None, *[None] * options.dims]
        image = {"shape": [*axes, options.channels], "dtype": "float32", "unit": "any"}
        field = {"shape": [*axes, options.dims], "dtype": "float32", "unit": "voxels"}
        outputs = {"moved": image, "displacement": field}
        if options.velocity:
            outputs["velocity"] = field
        return {"fixed": image, "moving": image}, outputs

    @classmethod
    def example(cls):
        images, displacement = ChessboardPairs((16, 20), 4, 1, magnitude=1.0)[0]
        inputs = [
            {name: np.ones((1, *shape, 1), np.float32) for name in ("fixed", "moving")}
            for shape in ((17, 9), (5, 33))
        ]
        config = {"levels": 2, "units": 2, "filters": 3, "data_kernel": 3, "smoothness_kernel": 3}
        return {
            "config": config,
            "data": images,
            "fit": {"y": displacement, "batch_size": 2},
            "inputs": [images, *inputs],
        }

    def golden_inputs(self):
        options = self.options
        data = ChessboardPairs((24,) * options.dims, batch_size=1, steps=1, magnitude=1.0)
        images, _ = data[0]
        return {side: np.repeat(array, options.channels, axis=-1) for side, array in images.items()}


def unit_weights(units: int, temperature):
    """`exp(-(units - 1 - t) T)` of each unit t, `[units]`: 0 weights all alike, 2 the last."""
    return ops.exp(-ops.arange(units - 1, -1, -1, dtype="float32") * temperature)


class Temperature(keras.callbacks.Callback):
    """Raises the temperature of `unit_loss="exponential"` with the steps of the optimiser.

    All units count alike at first and the last most in the end (Vishnevskiy et al.,
    arXiv:1906.05528).

    Args:
        start: temperature of the first step.
        increment: added after every step.
        maximum: where it stays.
    """

    def __init__(self, start: float = 0.0, increment: float = 1e-4, maximum: float = 2.0):
        super().__init__()
        self.start, self.increment, self.maximum = start, increment, maximum

    def on_train_begin(self, logs=None):
        if getattr(self.model, "temperature", None) is None:
            raise ValueError("Temperature needs a model with unit_loss='exponential'.")

    def on_train_batch_begin(self, batch, logs=None):
        # Counted by the optimiser, so that resumed training goes on where it stopped.
        steps = float(ops.convert_to_numpy(self.model.optimizer.iterations))
        self.model.temperature.assign(min(self.start + self.increment * steps, self.maximum))


def _check(given: dict):
    for name, known in CHOICES.items():
        if given[name] not in known:
            raise ValueError(f"{name} must be one of {known}, not {given[name]!r}.")
    for name, least in LEAST.items():
        value = given[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    least = max(given["dims"], given["channels"] + given["features"])
    if given["filters"] < least:
        raise ValueError(
            f"filters must be at least {least}, one for each axis, channel and feature, not "
            f"{given['filters']}."
        )
    for name in ("momentum", "damping", "step"):
        if given[name] is not None and not given[name] > 0:
            raise ValueError(f"{name} must be positive, or None to go without, not {given[name]}.")
    if given["smoothness"] < 0:
        raise ValueError(f"smoothness must not be negative, but is {given['smoothness']}.")
    for name in ("data_limits", "smoothness_limits"):
        low_high = given[name]
        if not isinstance(low_high, Sequence) or len(low_high) != 2 or low_high[0] >= low_high[1]:
            raise ValueError(f"{name} must be two increasing numbers, not {low_high!r}.")
    labels = given["labels"]
    if labels is not None:
        if np.ndim(labels) != 1 or not np.size(labels) or np.asarray(labels).dtype.kind not in "iu":
            raise ValueError(f"labels must list at least one label value, not {labels!r}.")
        given["labels"] = tuple(int(label) for label in labels)
    weights = given["level_weights"]
    if weights is not None and (
        not isinstance(weights, Sequence)
        or len(weights) != given["levels"]
        or min(weights) < 0
        or not any(weights)
    ):
        raise ValueError(
            f"level_weights must hold {given['levels']} numbers, coarse to fine, none negative and "
            f"not all zero, not {weights!r}."
        )
    if given["velocity"] and given["passes"] > 1:
        raise ValueError("passes must be 1 with velocity=True: a composition has no velocity.")


def _locally_normalised(image):
    """Deviation from the mean around each voxel, over the standard deviation there."""
    deviation = image - blur(image, NEIGHBOURHOOD)
    variance = blur(ops.square(deviation), NEIGHBOURHOOD)
    axes = tuple(range(1, len(image.shape)))
    # Noise of flat regions must not count like structure.
    floor = 0.1 * ops.mean(variance, axis=axes, keepdims=True) + 1e-8
    return deviation / ops.sqrt(variance + floor)


def _finer(control, points):
    """Control points of the next level: the old ones and their midpoints, twice as many voxels."""
    twice = upsample_displacement(control, tuple(2 * n for n in ops.shape(control)[1:-1]))
    return twice[(slice(None), *(slice(0, n) for n in points))]


def _fingerprint(pair: Pair) -> bytes:
    """Tells pairs apart by what is registered: intensities and where they are."""
    digest = hashlib.blake2b(digest_size=16)
    for image in (pair.fixed, pair.moving):
        digest.update(repr(image.array.shape).encode())
        digest.update(np.ascontiguousarray(image.array))
        digest.update(image.grid.matrix.tobytes())
    return digest.digest()
