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

import types
import warnings
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from zoo.data.chessboard import ChessboardPairs
from zoo.data.padding import with_room, without_padding
from zoo.data.pair import Pair
from zoo.layers.integration import ScalingAndSquaring
from zoo.layers.intensities import NEIGHBOURHOODS, comparable, locally_normalised
from zoo.layers.unrolled import better, descend
from zoo.layers.variational_unit import unrolled_units
from zoo.losses.levels import LevelLosses, label_loss
from zoo.losses.tables import PENALTIES, SIMILARITIES
from zoo.ops.arguments import checked
from zoo.ops.sampling import compose, warp
from zoo.registration import Registration
from zoo.registration.acceptance import judged
from zoo.registration.fitting import Training
from zoo.registration.found import Found
from zoo.registration.refinement import refine
from zoo.registration.variational_options import LIMITS, check_options
from zoo.transform import Dense, Transform, Velocity

SQUARINGS = 6
# The arguments with which a network is the one that the authors train by default.
AUTHORS = dict.fromkeys(("momentum", "damping", "step"), None) | {
    "levels": 1,
    "units": 7,
    "data_kernel": 7,
    "start": "random",
    "smoothness_limits": (-1.0, 1.0),
    "extrapolation": "constant",
    "padding": "zero",
    "zero_mean": False,
    "intensities": "none",
}
TOGETHER = 2**18  # voxels up to which both directions of a pair are one batch
_OTHER = {"fixed": "moving", "moving": "fixed"}
_OTHER |= {f"{side}_mask": f"{other}_mask" for side, other in _OTHER.items()}
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
        levels: of the image pyramid, the image itself included. With intensities="robust" those
            whose longest side is below 12 voxels do nothing.
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
        intensities: "robust" maps two percentiles of the foreground of each image to 0..1 and then
            does as "local"; "pair" maps the common range of both images to 0..1, "image" that of
            each, "standard" subtracts the mean of each and divides by its standard deviation,
            "local" does so around every voxel of every level; "none". With "robust" the descent
            is careful as well: forces come from the gradients of both images, masks count, and of
            what a level finds that share is kept, perhaps nothing, which lowers an energy of both
            spaces, see `zoo.layers.unrolled.energy` (not while training, which has to learn).
        passes: how often the network is applied to its own result, by composition. A pass counts
            for an image where it lowers that energy, or else the standard deviation of the
            residual.
        similarity: "mse", "ncc", "lncc", "mi" or "mind".
        penalty: "diffusion", "bending" or "tv" (total variation) of the displacement.
        labels: label values that count, for the term `labels`.
        mixed: use similarity and smoothness also where the displacement is known.
        level_weights: of the loss of each level, coarse to fine; None weights all alike.
        unit_loss: which units of a level the loss sees: the "last", or all with "exponential"
            weights `exp(-(units - 1 - t) T)`; see `zoo.losses.levels.Temperature`.

    Raises:
        ValueError: for arguments out of range.
    """

    takes = ("images",)
    pair_epochs = 80  # of one step each
    pair_options = ("learning_rate",)
    default_loss_weights = {
        "displacement": 1.0,
        "similarity": 1.0,
        "smoothness": 0.3,
        "labels": 0.0,
    }

    @checked(**LIMITS)
    def __init__(
        self,
        dims: int = 2,
        channels: int = 1,
        levels: int = 4,
        units: int = 10,
        filters: int = 16,
        data_kernel: int = 5,
        smoothness_kernel: int = 5,
        spacing: int = 4,
        share_units: int = 1,
        share_levels: bool = False,
        momentum: float | None = 0.7,
        damping: float | None = 0.05,
        step: float | None = 1.0,
        smoothness: float = 0.1,
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
        intensities: str = "robust",
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
        super().__init__(dims, **kwargs)
        check_options(given)
        for name in ("data_limits", "smoothness_limits", "labels", "level_weights"):
            given[name] = None if given[name] is None else tuple(given[name])
        self.options = types.SimpleNamespace(**given)
        self.channels, self.similarity = channels, similarity
        # The models of old, which name other intensities, stay as they were.
        self._doubted = Found()
        self.careful = intensities == "robust"
        self.local = NEIGHBOURHOODS.get((intensities, dims))
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
        self.units = unrolled_units(**vars(self.options))
        self.integrate = ScalingAndSquaring(SQUARINGS)
        self.temperature = None
        if unit_loss == "exponential":
            self.temperature = self.add_weight(
                name="temperature", shape=(), initializer="zeros", trainable=False
            )
        self.build()

    def get_config(self):
        return super().get_config() | vars(self.options)

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
        images, masks = self._read(inputs)
        trace = self._descend(images, masks, judged=not training)
        field = trace[-1]["fields"][-1]
        displacement = trace[-1]["displacements"][-1]
        for _ in range(1, self.options.passes):
            displacement = self._once_more(images, masks, displacement, judged=not training)
        moved = warp(ops.cast(inputs["moving"], "float32"), displacement)
        outputs = {"moved": moved, "displacement": displacement}
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
        return self._descend(*self._read(inputs), judged=True)

    def _read(self, inputs) -> tuple:
        """The images as they are compared, and their masks."""
        images = (ops.cast(inputs[side], "float32") for side in ("fixed", "moving"))
        masks = (None, None)
        if self.careful:
            given = (inputs.get(f"{side}_mask") for side in ("fixed", "moving"))
            masks = tuple(None if mask is None else ops.cast(mask, "float32") for mask in given)
        return self._matched(*images, masks), masks

    def _descend(self, images, masks, judged: bool) -> list[dict]:
        options = self.options
        return descend(
            self.units,
            *images,
            masks,
            spacing=options.spacing,
            integrate=self.integrate if options.velocity else None,
            local=self.local,
            careful=self.careful,
            judged=judged and self.careful,
        )

    def _once_more(self, images, masks, displacement, judged: bool):
        fixed, moving = images
        mask = None if masks[1] is None else warp(masks[1], displacement)
        rest = self._descend((fixed, warp(moving, displacement)), (masks[0], mask), judged)
        both = compose(displacement, rest[-1]["displacements"][-1])
        fixed, moving = self._normalised(images, masks)
        if self.careful:
            return better(fixed, moving, displacement, both, masks)
        axes = tuple(range(1, self.options.dims + 2))
        before, after = (
            ops.std(fixed - warp(moving, field), axis=axes, keepdims=True)
            for field in (displacement, both)
        )
        return ops.where(after < before, both, displacement)

    def _matched(self, fixed, moving, masks=(None, None)) -> tuple:
        """The images as they are compared: normalised, with their features."""
        images = comparable(fixed, moving, self.options.intensities, masks)
        if self.extractor is not None:
            images = [ops.concatenate([image, self.extractor(image)], -1) for image in images]
        return tuple(images)

    def _compared(self, inputs) -> tuple:
        """The images at full resolution as the finest level sees them."""
        return self._normalised(*self._read(inputs))

    def _normalised(self, images, masks) -> tuple:
        if self.local is None:
            return images
        pairs = zip(images, masks, strict=True)
        return tuple(locally_normalised(*each, self.local) for each in pairs)

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
            fixed, moving = self._compared(x)
            displacement = y_pred["displacement"]
            moved = warp(moving, displacement)
            trace = [{"fixed": fixed, "moved": [moved], "displacements": [displacement]}]
        levels = LevelLosses(
            trace,
            x.get("fixed_mask"),
            x.get("moving_mask"),
            options.level_weights if len(trace) > 1 else None,
            self.temperature,
        )
        terms = {}
        if y is not None and weights["displacement"]:
            terms["displacement"] = levels.displacement(ops.cast(y, "float32"))
        if y is None or options.mixed:
            if weights["similarity"]:
                loss = SIMILARITIES[options.similarity]()
                terms["similarity"] = levels.similarity(loss, options.channels)
            if weights["smoothness"]:
                terms["smoothness"] = levels.smoothness(PENALTIES[options.penalty]())
        if weights["labels"] and {"fixed_labels", "moving_labels"} <= set(x):
            terms["labels"] = label_loss(x, y_pred["displacement"], options.labels)
        if not terms:
            raise ValueError(
                "the loss has no terms: the data bring neither displacements nor labels with a "
                f"weight, and the weights are {weights}."
            )
        return terms

    # One pair

    def transform(self, pair: Pair) -> Transform:
        """What is found for a pair: a `Dense`, or with `velocity` a `Velocity`, on the fixed grid.

        The moving image is sampled on the fixed grid, so images of different frames need an
        alignment first, see `zoo.Pair.aligned`. Padding of CT and masks do not count. What is
        found is kept where it makes the pair more alike and leads there and back again, see
        `zoo.registration.acceptance`; else the transform is the identity, a warning says why, and
        `doubts` keeps the reasons until the next call.
        """
        self.doubts = []
        transform = super().transform(pair)
        self.doubts = list(self._doubted.get(pair) or ())
        for doubt in self.doubts:
            warnings.warn(f"{pair.name!r}: {doubt}.", UserWarning, stacklevel=2)
        return transform

    def fit_pair(self, pair: Pair, training: Training, epochs, learning_rate: float = 0.1):
        """Refines what the network finds for a pair, and leaves the network as it is.

        The refinement starts from the network's displacement, or from what an earlier call has
        found for this pair, and changes control points by Adam, half of the steps on the level of
        half the size and half at full size, to minimise the `similarity` and the weighted
        `smoothness`. `transform`, `predict` and `evaluate` then use the result for this pair,
        until `forget()`, other weights, or refinements of four more pairs. It is not stored with
        the model; `Transform.save` keeps it. A refinement that makes things worse is dropped.

        Args:
            pair: of images.
            training: has a stage for either level.
            epochs: steps in all.
            learning_rate: of the control points, in voxels.
        """
        options, arrays = self.options, self._arrays(pair)
        images = self._alike(arrays)
        start = self.transform(pair).displacement(pair.fixed.grid)
        with training:
            displacement = refine(
                training,
                images,
                start[None],
                options.spacing,
                SIMILARITIES[options.similarity](),
                PENALTIES[options.penalty](),
                self.loss_weights["smoothness"],
                epochs,
                learning_rate,
                self.jit_compile,
            )
        loss = SIMILARITIES[options.similarity]()
        displacement, doubts = judged(images, displacement[0], loss, start=start)
        self.found.keep(pair, Dense(displacement, pair.fixed.grid))
        self._doubted.keep(pair, self.doubts + doubts)
        self.doubts = self.doubts + doubts

    def map_of(self, pair: Pair) -> Transform:
        """What the network finds and is kept, see `transform`."""
        arrays = self._arrays(pair)
        large, inner = with_room(arrays) if self.careful else (arrays, ...)
        there, back = self._both_ways(large)
        found, returned = (each["displacement"][inner][0] for each in (there, back))
        loss = SIMILARITIES[self.options.similarity]()
        kept, doubts = judged(self._alike(arrays), found, loss, returned)
        self._doubted.keep(pair, doubts)
        if not self.options.velocity:
            return Dense(kept, pair.fixed.grid)
        # A velocity has no folds to mend; of a part of it the displacement is no such part.
        velocity = there["velocity"][inner][0] if kept.any() else np.zeros_like(kept)
        return Velocity(velocity, pair.fixed.grid, steps=SQUARINGS)

    def _both_ways(self, arrays: dict) -> list[dict]:
        """What `call` makes of a pair, and of the same with its sides exchanged."""
        swapped = {_OTHER[key]: values for key, values in arrays.items()}
        if arrays["fixed"].size > TOGETHER or swapped.keys() != arrays.keys():
            return [self.at_once(each) for each in (arrays, swapped)]
        both = {key: np.concatenate([arrays[key], swapped[key]]) for key in arrays}
        found = self.at_once(both)
        return [{key: values[k : k + 1] for key, values in found.items()} for k in (0, 1)]

    def _arrays(self, pair: Pair) -> dict:
        """The pair as the network takes it: images, and masks if it knows of them."""
        arrays = without_padding(pair).arrays()
        return {key: arrays[key] for key in _OTHER if key in arrays}

    def _alike(self, arrays: dict) -> dict:
        """The images as they are compared, without features, and the masks."""
        images = (image[..., : self.options.channels] for image in self._compared(arrays))
        return arrays | dict(zip(("fixed", "moving"), images, strict=True))

    # What the zoo asks of a method

    def default_optimizer(self):
        return keras.optimizers.Adam(1e-3, global_clipnorm=1.0)

    def signature(self):
        inputs, outputs = super().signature()
        if self.options.velocity:
            outputs["velocity"] = outputs["displacement"]
        return inputs, outputs

    @classmethod
    def example(cls):
        images, displacement = ChessboardPairs((16, 24), 4, 1, magnitude=1.0)[0]
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
