"""NePhi: a registration of images as a continuous function of coordinates.

Two maps lead from the fixed to the moving image and back,

    phi(x) = x + f_1(x, z(x)),    psi(x) = x + f_2(x, z(x)),    z(x) = [z_global, z_local(x)]

with networks of coordinates f_1 and f_2 of their own weights and a common code: a vector and a
coarse grid of vectors that an encoder makes of the pair, or that are free for a single pair. What
is minimised is

    1/2 [S(m o phi, f) + S(f o psi, m)] + lambda/2 [R(phi, psi) + R(psi, phi)] + codes,
    R(a, b) = mean of (grad(b o a) - I)^2

at coordinates that are drawn anew in every step: memory does not grow with the images, and R, which
keeps the maps inverse to each other and so from folding, has exact derivatives.

After Tian, Greer, San Jose Estepar, Sengupta and Niethammer, "NePhi: Neural Deformation Fields for
Approximately Diffeomorphic Medical Image Registration", ECCV 2024, arXiv:2309.07322, whose sizes
are `PAPER`.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import keras
import numpy as np
from keras import ops

from zoo.data.chessboard import ChessboardPairs
from zoo.data.pair import Pair
from zoo.data.pairs import RepeatedBatch
from zoo.layers.coded_map import NETWORK, TwoWayMaps, voxels_at
from zoo.layers.pair_encoder import NORMALISATIONS, PairEncoder
from zoo.losses.tables import SIMILARITIES
from zoo.ops.arguments import MOST, checked, not_negative, one_of
from zoo.ops.array_arguments import few_enough
from zoo.ops.compiling import compiled_for
from zoo.ops.gradients import norm
from zoo.ops.resizing import resized
from zoo.ops.sampling import sample
from zoo.registration import Registration
from zoo.registration.continuous import Continuous
from zoo.registration.drawn import Draws, batch_of_pair, scaled
from zoo.registration.fitting import Training, half_cosine
from zoo.registration.found import Found
from zoo.transform import Affine

STEPS = 10  # of an epoch of `fit(pair)`
FROM_NOTHING, REFINEMENT = 40, 5  # epochs of it without and with an encoder
ALONE = 4096  # points, at least, of its steps with an encoder: a batch of one pair is noisy
# Learning rates of a fit that starts from what the network finds; codes alone bear longer steps.
REFINING = {"codes": 5e-3, "maps": 1e-3, "both": 1e-3}

PAPER = {
    "size": 175,
    "global_codes": 32,
    "local_codes": 32,
    "width": 128,
    "features": 128,
    "features_scale": 1.0,
    "frequency": 30.0,
    "points": 100_000,
    "probes": 500,
}
"""Constructor arguments of the published network, 3,266,974 parameters, which no CPU can train."""
PAPER_WEIGHTS = {"similarity": 1.0, "consistency": 10.0, "codes": 0.01}
"""Loss weights of the same, which is trained with `keras.optimizers.Adam(1e-4)`."""


def paper_counts(shape: Sequence[int]) -> dict[str, int]:
    """The numbers of `points` and `probes` that the paper's code draws for images of a shape."""
    voxels = float(np.prod(np.asarray(shape, np.float64)))
    points = min(100_000, int(0.02 * voxels))
    return {"points": points, "probes": min(500, max(10, int(1e-4 * voxels)))}


class NePhi(Registration):
    """Registers images by two networks of coordinates that a code of the pair steers.

    With an encoder it is trained on many pairs, and `fit(pair)` sharpens what it finds for one:
    a copy of the maps, the code or both, starting from what the network says; the network stays
    as it is. Without, `fit(pair)` finds maps and code for a single pair, from nothing.
    `transform(pair)` can be asked at any coordinate, see `zoo.registration.continuous.Continuous`:
    it has exact Jacobians, and the learned map of the other direction beside the numerical inverse.

    The defaults are a small network that a CPU trains; `PAPER` has the arguments of the published
    one. Images are compared where they are drawn, on a scale of 0 to 1 by their ranges.

    Args:
        dims: 2 or 3.
        channels: of the images.
        encoder: whether there is one.
        size: voxels along every axis, or along each one, that the encoder sees; images of other
            sizes are resampled for it, and only for it.
        cells: of the grid of local codes along every axis, or along each; with an encoder it has
            its own.
        steps: maps one after the other, each for what the one before has left; from the second one
            on the encoder sees the moving image as it was moved so far.
        encoder_width: filters of its first stage.
        normalisation: of the encoder, see `zoo.layers.pair_encoder.PairEncoder`.
        global_codes, local_codes: components of the two parts of the code.
        width, depth, activation, frequency, first_frequency: of the networks of coordinates, see
            `zoo.layers.CoordinateMLP`.
        features, features_scale, conditioning: likewise; of the second None is 1 in the plane and
            0.5 in space.
        similarity: "ncc", "mse" or "mi" of drawn points; "lncc" or "mind" of drawn patches, of 9^2
            or 7^3 voxels each.
        points: drawn in every step and direction for the similarity; with an encoder `fit(pair)`
            draws 4,096 at least.
        probes: drawn for the consistency.
        blurs: standard deviations in voxels by which images are smoothed in the stages of
            `fit(pair)`, one after the other.
        seed: of what is drawn in training.

    Attributes:
        doubts: of the last `fit(pair)`, a sentence each, of which it has also warned.

    Raises:
        ValueError: for arguments out of range.
    """

    takes = ("images",)
    default_loss_weights = {"similarity": 1.0, "consistency": 1.0, "codes": 0.01}
    pair_epochs = None
    pair_options = ("steps_per_epoch", "learning_rate", "refine")

    @checked(
        channels=(1, 1024),
        size=(4, 1024),
        cells=(1, 1024),
        steps=(1, 8),
        encoder_width=(1, 1024),
        points=(16, 10**7),
        probes=(1, 10**6),
        blurs=not_negative,
    )
    def __init__(
        self,
        dims: int = 3,
        channels: int = 1,
        encoder: bool = True,
        size: int | Sequence[int] = 64,
        cells: int | Sequence[int] = 8,
        steps: int = 1,
        encoder_width: int = 8,
        normalisation: str = "batch",
        global_codes: int = 16,
        local_codes: int = 16,
        width: int = 64,
        depth: int = 3,
        activation: str = "sin",
        frequency: float = 10.0,
        first_frequency: float | None = 1.0,
        features: int = 32,
        features_scale: float | None = None,
        conditioning: str = "modulation",
        similarity: str = "ncc",
        points: int = 4096,
        probes: int = 256,
        blurs: Sequence[float] = (0.0,),
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(dims, **kwargs)
        self.channels, self.encoder, self.steps = channels, encoder, steps
        self.size, self.cells = size, cells
        self.similarity = one_of("similarity", similarity, SIMILARITIES)
        self.points, self.probes, self.seed = points, probes, seed
        if not len(blurs):
            raise ValueError("blurs must hold at least one number; (0,) smooths nothing.")
        self.blurs, self.features_scale = tuple(blurs), features_scale
        self.encoder_width = encoder_width
        self.normalisation = one_of("normalisation", normalisation, NORMALISATIONS)
        self.needs_fit = not encoder
        # On the device, so that no points travel there; Keras keeps its state.
        self.random = keras.random.SeedGenerator(seed)
        usual = 0.5 if dims == 3 else 1.0
        codes = {"global_codes": global_codes, "local_codes": local_codes}
        self.maps = TwoWayMaps(
            dims,
            steps,
            **codes,
            width=width,
            depth=depth,
            activation=activation,
            frequency=frequency,
            first_frequency=first_frequency,
            features=features,
            features_scale=usual if features_scale is None else features_scale,
            conditioning=conditioning,
            name="maps",
        )
        self.maps.build()
        lattice, grid = self._per_axis("size", size), self._per_axis("cells", cells)
        self.encoders, self.codes = [], []
        if encoder:
            for k in range(steps):
                made = PairEncoder(
                    lattice,
                    encoder_width,
                    **codes,
                    normalisation=normalisation,
                    name=f"encoder_{k}",
                )
                made.build((None, *lattice, 2 * channels))
                self.encoders.append(made)
        else:
            few_enough("cells", (*grid, local_codes))
            for k in range(steps):
                for kind, shape in (("global", ()), ("local", grid)):
                    count = codes[f"{kind}_codes"]
                    deviation = keras.initializers.RandomNormal(0.0, count**-0.5)
                    self.codes.append(
                        self.add_weight(
                            shape=(1, *shape, count), initializer=deviation, name=f"{kind}_{k}"
                        )
                    )
        # In a namespace, because Keras would track what it finds in attributes.
        self._tools = types.SimpleNamespace(
            draws=Draws(dims, similarity, points, probes, self.random),
            parts=Found(),
            workers={},
            ways=[],
            fresh=None,
        )
        if not encoder:
            self._tools.fresh = self.get_weights()
        self.built = True

    def _per_axis(self, name: str, value) -> tuple[int, ...]:
        values = (value,) * self.dims if isinstance(value, int) else tuple(value)
        if len(values) != self.dims:
            raise ValueError(f"{name} must be a number or {self.dims} of them, not {value!r}.")
        return values

    def get_config(self):
        first = self.maps.forwards[0]
        network = {name: getattr(first.network, name) for name in NETWORK.split()}
        codes = {name: getattr(first, name) for name in ("global_codes", "local_codes")}
        own = (
            "channels encoder size cells steps encoder_width normalisation features_scale "
            "similarity points probes blurs seed"
        )
        own = {name: getattr(self, name) for name in own.split()}
        return super().get_config() | network | codes | own

    # The maps

    def call(self, inputs, training=False):
        """Registers a batch.

        Args:
            inputs: dict of `fixed` and `moving`, `[batch, *spatial, channels]`, on one grid, and
                perhaps their masks.
            training: give out what the losses need, at drawn coordinates, instead.

        Returns:
            Dict of float32 `moved` `[batch, *spatial, channels]` and `displacement`
            `[batch, *spatial, rank]` in voxels, which is computed chunk by chunk.
        """
        images, masks = self._read(inputs)
        codes = self.codes_of(images, masks, training)
        if training:
            return self._drawn(images, masks, codes)
        moving = ops.cast(inputs["moving"], "float32")
        shape = ops.shape(moving)[1:-1]
        places, displacement = self.maps.dense(codes, shape)
        return {"moved": sample(moving, voxels_at(places, moving)), "displacement": displacement}

    def _read(self, inputs) -> tuple[dict, dict]:
        """The images on a scale of 0 to 1, and the masks of those that have one."""
        images, masks = {}, {}
        for side in ("fixed", "moving"):
            mask = inputs.get(f"{side}_mask")
            if mask is not None:
                masks[side] = ops.cast(mask, "float32")
            images[side] = scaled(ops.cast(inputs[side], "float32"), masks.get(side))
        return images, masks

    def codes_of(self, images: dict, masks: dict, training=False) -> list[tuple]:
        """The code of every step, `(global, local)` of a batch; see `CodedMap`."""
        if not self.encoder:
            batch, parts = ops.shape(images["fixed"])[0], []
            for code in self.codes:
                parts.append(ops.broadcast_to(code[...], (batch, *code.shape[1:])))
            return list(zip(parts[0::2], parts[1::2], strict=True))
        lattice, seen = self._per_axis("size", self.size), {}
        for side, image in images.items():
            seen[side] = resized(image if side not in masks else image * masks[side], lattice)
        codes, moved = [], seen["moving"]
        for number, encoder in enumerate(self.encoders):
            if number:
                places, _ = self.maps.dense(codes, lattice)
                moved = sample(seen["moving"], voxels_at(places, seen["moving"]))
            both = ops.concatenate([ops.stop_gradient(moved), seen["fixed"]], axis=-1)
            codes.append(encoder(both, training=training))
        return codes

    # What training minimises

    def _drawn(self, images: dict, masks: dict, codes: list[tuple]) -> dict:
        """What the losses compare, at drawn coordinates."""
        draws = self._tools.draws
        return {
            "codes": codes,
            "compared": draws.compared(
                images, masks, lambda points, back: self.maps(points, codes, back=back)
            ),
            "turns": draws.turns(
                lambda points, tangents, back: self.maps.trace(points, tangents, codes, back)
            ),
        }

    def loss_terms(self, x, y, y_pred):
        """The terms of the module's docstring; when evaluated, at newly drawn coordinates too.

        `similarity` is the mean of both directions, `consistency` the mean square of all components
        of the Jacobians of both compositions minus one, and `codes` the mean length of the codes.
        """
        if "compared" not in y_pred:
            images, masks = self._read(x)
            y_pred = self._drawn(images, masks, self.codes_of(images, masks))
        draws = self._tools.draws
        return {
            "similarity": draws.unlike(y_pred["compared"]),
            "consistency": draws.inconsistency(y_pred["turns"]),
            "codes": sum(ops.mean(norm(part)) for code in y_pred["codes"] for part in code),
        }

    def default_optimizer(self):
        return keras.optimizers.Adam(1e-3, global_clipnorm=1.0)

    def check_arrays(self, x) -> None:
        """Refuses arrays that are not on one grid, too; see `Registration.check_arrays`."""
        super().check_arrays(x)
        if isinstance(x, dict) and {"fixed", "moving"} <= set(x):
            shapes = [tuple(x[side].shape[1:-1]) for side in ("fixed", "moving")]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"x must hold fixed and moving of one size, not {shapes[0]} and {shapes[1]}; "
                    "a zoo.Pair may have two grids."
                )

    def check_training(self, x) -> None:
        """Refuses what is no pair where there is no encoder.

        Raises:
            TypeError: naming what came.
        """
        if not self.encoder:
            raise TypeError(
                f"x must be a zoo.Pair, not {type(x).__name__}: without an encoder there is a code "
                "for one pair only."
            )

    # One pair

    def transform(self, pair: Pair):
        """What is known of a pair, see `Registration.transform`; a `Continuous`.

        An encoder that was not trained warns of that once: its maps are the identity.
        """
        self.check_pair(pair)
        known = self.encoder and (self.fitted or self.found.get(pair) is not None)
        if self.encoder and not known and not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self).__name__} has not been trained: its transform is the identity. Train "
                "it on pairs, load a preset, or call fit(pair) with encoder=False.",
                UserWarning,
                stacklevel=2,
            )
        return super().transform(pair)

    def fit(self, x=None, y=None, **kwargs):
        """Trains on data, or registers a single pair, see `Registration.fit` and `fit_pair`."""
        trained = self.fitted
        history = super().fit(x, y, **kwargs)
        if self.encoder and isinstance(x, Pair):
            self.fitted = trained  # the network is what it was
        return history

    @checked(steps_per_epoch=(1, MOST))
    def fit_pair(
        self,
        pair: Pair,
        training: Training,
        epochs: int | None,
        steps_per_epoch: int | None = None,
        learning_rate: float | None = None,
        refine: str = "both",
    ):
        """Sharpens what the network finds for a pair; without an encoder registers it, anew.

        With an encoder the network stays as it is, and the result is used for this pair by
        `transform`, `predict` and `evaluate` until `forget()`, other weights, or four more pairs.
        A result that makes the pair no more alike is dropped, with a warning.

        Args:
            pair: of images.
            training: has a stage for each of `blurs`.
            epochs: in all; None is 40, with an encoder 5.
            steps_per_epoch: 10 by default.
            learning_rate: at the start of each stage, from where it falls to a tenth along a
                cosine; None is that of the optimiser, with an encoder 1e-3 (of codes alone 5e-3).
            refine: with an encoder, "codes", "maps" or "both".
        """
        one_of("refine", refine, REFINING)
        epochs = epochs or (REFINEMENT if self.encoder else FROM_NOTHING)
        if self.encoder:
            start, part = self.map_of(pair), self._worker(pair, refine)
            rate = 1.0 if learning_rate is None else learning_rate / REFINING[refine]
        else:
            start, part = Affine.identity(self.dims, pair.fixed.grid), self
            self._begin()
            usual = float(ops.convert_to_numpy(self.optimizer.learning_rate))
            rate = 1.0 if learning_rate is None else learning_rate / usual
        ends = np.linspace(0, epochs, len(self.blurs) + 1).astype(int)
        with training:
            for deviation, count in zip(self.blurs, np.diff(ends), strict=True):
                if count:
                    batch = batch_of_pair(pair, deviation)
                    steps = RepeatedBatch(batch, steps_per_epoch or STEPS)
                    kept = not self.encoder
                    training.stage(part, steps, int(count), rate, half_cosine(0.1), kept=kept)
        self._judge(pair, part, start)

    def _begin(self) -> None:
        """Goes back to how the model was made, where its maps are the identity."""
        self.set_weights(self._tools.fresh)
        self.random.state.assign(np.array([self.seed, 0], np.uint32))

    def _judge(self, pair: Pair, part: NePhi, start) -> None:
        """Keeps what was found where it makes the pair more alike than the start does."""
        found = part.map_of(pair)
        before, after = self.discrepancies(pair, [start, found])
        if after < before:
            if self.encoder:
                self.found.keep(pair, found)
                self._tools.parts.keep(pair, part.alone(pair))
            return
        if not self.encoder:
            self._begin()
        self.doubts.append(
            f"the fit made the images no more alike ({self.similarity} {after:.4g}, {before:.4g} "
            "before) and was dropped"
        )
        warnings.warn(f"{pair.name!r}: {self.doubts[-1]}.", UserWarning, stacklevel=4)

    def _worker(self, pair: Pair, refine: str) -> NePhi:
        """A copy for a pair of which only a part is trained; the same one for many pairs.

        Its graph is traced once for images of one size, which takes longer than some fits.
        """
        known, part = self.alone(pair), self._tools.workers.get(refine)
        if part is not None:
            part.set_weights(known.get_weights())
            part.random.state.assign(known.random.state)
            return part
        known.maps.trainable = refine != "codes"
        for code in known.codes:
            code.trainable = refine != "maps"
        own = self.optimizer.get_config() | {"learning_rate": REFINING[refine]}
        optimizer = type(self.optimizer).from_config(own)
        known.compile(optimizer, self.loss_weights, False, run_eagerly=self.run_eagerly)
        self._tools.workers[refine] = known
        return known

    def compile(self, *args, **kwargs):
        """As `zoo.Model.compile`; fits of pairs follow it."""
        super().compile(*args, **kwargs)
        self._tools.workers.clear()

    def alone(self, pair: Pair) -> NePhi:
        """A model without an encoder whose maps are those that are known for a pair.

        It is a copy, which nothing that happens to this model changes.
        """
        known = self._tools.parts.get(pair) if self.found.get(pair) is not None else None
        if known is not None:
            return known.alone(pair)
        grid = self.encoders[0].cells if self.encoder else self.cells
        config = self.get_preset_config() | {"encoder": False, "cells": grid}
        if self.encoder:
            config["points"] = max(self.points, ALONE)
        part = NePhi(**config)
        part.maps.set_weights(self.maps.get_weights())
        images, masks = self._read(batch_of_pair(pair))
        codes = self.codes_of(images, masks)
        for variable, value in zip(
            part.codes, (each for code in codes for each in code), strict=True
        ):
            variable.assign(value)
        part.fitted = True
        part._tools.ways = self._tools.ways  # one compilation for the maps of all pairs
        return part

    def map_of(self, pair: Pair) -> Continuous:
        """The maps as they are now, in world coordinates; see `Continuous`."""
        (there, back), grid = self.alone(pair).box_maps(), pair.fixed.grid
        return Continuous(*there, grid, back)

    def box_maps(self) -> list[tuple[Callable, Callable]]:
        """Maps of points `[n, rank]` of the box, there and back, and Jacobians: `Continuous`."""
        variables = [*self.maps.weights, *self.codes]
        if not self._tools.ways:
            for back in (False, True):
                both = (partial(each, back) for each in (self._ends, self._turns))
                self._tools.ways.append([compiled_for(each, lambda: variables) for each in both])
        values = [ops.copy(variable.value) for variable in variables]
        return [tuple(partial(run, values) for run in way) for way in self._tools.ways]

    def _ends(self, back: bool, points) -> tuple:
        return (self.maps(points[None], self._own_codes, back=back)[0],)

    def _turns(self, back: bool, points) -> tuple:
        identity = np.eye(self.dims, dtype=np.float32)
        tangents = ops.broadcast_to(identity, (1, ops.shape(points)[0], *identity.shape))
        _, turned = self.maps.trace(points[None], tangents, self._own_codes, back)
        return (ops.swapaxes(turned[0], 1, 2),)

    @property
    def _own_codes(self) -> list[tuple]:
        """Without an encoder the code of every step, `(global, local)`."""
        return list(zip(self.codes[0::2], self.codes[1::2], strict=True))

    # What the zoo asks of a method

    @classmethod
    def example(cls):
        images, _ = ChessboardPairs((16, 24), 4, 1, magnitude=1.0)[0]
        inputs = [
            {name: np.ones((1, *shape, 1), np.float32) for name in ("fixed", "moving")}
            for shape in ((17, 9), (5, 33))
        ]
        config = {
            "dims": 2,
            "size": 16,
            "encoder_width": 2,
            "normalisation": "group",
            "global_codes": 4,
            "local_codes": 4,
            "width": 16,
            "features": 8,
            "points": 1024,
            "probes": 32,
        }
        return {
            "config": config,
            "data": images,
            "fit": {"batch_size": 2},
            "inputs": [images, *inputs],
        }
