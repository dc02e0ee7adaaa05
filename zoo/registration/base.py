"""The base of every registration: a pair in, a transform out."""

from __future__ import annotations

import inspect
import types
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import keras
import numpy as np
from keras import ops
from scipy.spatial import cKDTree

from zoo.data.chessboard import ChessboardPairs
from zoo.data.image import Image
from zoo.data.pair import LazyPairs, Pair
from zoo.data.pairs import PairDataset, RepeatedBatch
from zoo.losses.tables import SIMILARITIES
from zoo.model import Model
from zoo.ops.arguments import MOST, between, checked, one_of, positive
from zoo.ops.compiling import in_float32, tensorflow_on_cpu
from zoo.ops.training_arguments import check_fit, check_inputs
from zoo.registration.fitting import Training
from zoo.registration.found import Found
from zoo.registration.measure import Measured
from zoo.registration.quality import Quality
from zoo.transform import Dense, Transform

KINDS = ("images", "clouds")
KERAS_FIT = tuple(inspect.signature(keras.Model.fit).parameters)
FEW = 32  # images, which Keras would predict as one batch
OP_BY_OP = 16  # pairs of one size, before a graph for it repays the time it takes to compile


class Registration(Model):
    """A model that maps a fixed to a moving image, or moves a cloud onto another.

    On a pair of images a method has nothing to add to its `call`: a dict of `fixed` and `moving`
    `[batch, *spatial, channels]` in, a dict of `moved` and `displacement` (in voxels) out.
    `transform`, `predict` and `evaluate` of a pair follow; so do, for a method with `needs_fit`,
    stages, callbacks and resumed training in `fit(pair)`. Methods that go another way override

    * `fit_pair(pair, training, epochs)`: the stages of a fit, see `zoo.registration.fitting`;
    * `map_of(pair)`: the transform of the present weights.

    Computation is in float32 under any precision policy: coordinates need it.

    Args:
        dims: 2 or 3.
        **kwargs: of `keras.Model`.

    Attributes:
        takes: the kinds of pairs, "images", "clouds" or both.
        needs_fit: whether `fit(pair)` comes before `transform(pair)`; else the method has learned
            from other pairs, or computes the answer directly.
        pair_epochs: of `fit(pair)`, unless it is told.
        pair_options: further arguments of `fit(pair)`, which `fit_pair` gets.
        channels: of the images, where only one number will do.
        found: what `fit(pair)` found that the weights do not hold, by pair.
        fitted: whether there is something in the weights, by a fit or from a file.
        doubts: why the last fit, or the last transform, is not to be trusted, a sentence each.

    Raises:
        ValueError: for a `dims` out of range.
    """

    takes: ClassVar[tuple[str, ...]] = KINDS
    needs_fit: ClassVar[bool] = False
    pair_epochs: ClassVar[int | None] = 10
    pair_options: ClassVar[tuple[str, ...]] = ("steps_per_epoch",)
    prepare_options = ("batch_size", "shape", "align", "shuffle", "seed", "steps_per_epoch")
    channels: int | None = None

    @checked()
    def __init__(self, dims: int = 3, **kwargs):
        super().__init__(autocast=False, **in_float32(kwargs))
        self.dims = one_of("dims", dims, (2, 3))
        self.found = Found()
        self.fitted = False
        self.doubts: list[str] = []
        self._warned = False
        # In a namespace, because Keras would make a dict of it.
        self._asked = types.SimpleNamespace(times=Counter())

    def get_config(self):
        return super().get_config() | {"dims": self.dims}

    def build(self, input_shape=None):
        """Nothing to do where the constructor has made all weights."""

    def check_pair(self, pair, argument: str = "pair") -> None:
        """Checks that this method can register a pair.

        Raises:
            TypeError: for anything but a pair.
            ValueError: for a pair of the wrong kind, rank or number of channels.
        """
        kinds = f" of {self.takes[0]}" if len(self.takes) == 1 else ""
        if not isinstance(pair, Pair):
            raise TypeError(f"{argument} must be a zoo.Pair{kinds}, not {type(pair).__name__}.")
        kind = "images" if pair.is_images else "clouds"
        if kind not in self.takes:
            raise ValueError(f"{argument} must be a pair{kinds}, not of {kind}.")
        if pair.is_images and self.channels is not None:
            channels = pair.fixed.channels
            if (pair.rank, channels) != (self.dims, self.channels):
                raise ValueError(
                    f"{argument}: the images have {pair.rank} dimensions and {channels} channels, "
                    f"this model dims={self.dims} and channels={self.channels}."
                )
        if pair.rank != self.dims:
            raise ValueError(
                f"{argument}: the pair has {pair.rank} dimensions, this model dims={self.dims}."
            )

    def check_training(self, x) -> None:
        """Checks data other than a single pair that `fit` is given, beyond what Keras checks."""

    def check_arrays(self, x) -> None:
        """Checks arrays that `fit` or `predict` is given; what is no dict of them passes.

        Raises:
            ValueError: for arrays that are not real and finite, or are no images or points of this
                model's dimension and channels.
        """
        # Of a data set the shape is that of its images, or None.
        is_array = hasattr(x, "shape") and hasattr(x, "dtype")
        if is_array and ("clouds" not in self.takes or len(x.shape) != 3):
            raise ValueError(
                f"x must be a zoo.Pair, a dict of 'fixed' and 'moving' arrays or a data set, not "
                f"an array of the shape {tuple(x.shape)}."
            )
        if not isinstance(x, Mapping):
            return
        check_inputs("x", x)
        sides = ("fixed", "moving") if "fixed" in x or "images" in self.takes else ("moving",)
        for side in sides:
            if side not in x:
                raise ValueError(f"x must have the arrays {' and '.join(sides)}, not {sorted(x)}.")
            shape = tuple(x[side].shape)
            images = len(shape) == self.dims + 2 and self.channels in (None, shape[-1])
            if not images and not (len(shape) == 3 and shape[-1] == self.dims):
                raise ValueError(
                    f"x[{side!r}] must have {self.dims} spatial axes, [batch, *spatial, "
                    f"{self.channels or 'channels'}], or be points [batch, n, {self.dims}], not "
                    f"the shape {shape}."
                )
        if len({x[side].shape[0] for side in sides}) > 1:
            raise ValueError(
                f"x must hold as many fixed as moving, not {[x[side].shape[0] for side in sides]}."
            )
        for key, values in x.items():
            if key.endswith("_mask") and isinstance(values, np.ndarray) and values.min() < 0:
                raise ValueError(f"x[{key!r}] must not be negative.")

    # Fitting

    def fit(self, x=None, y=None, *, epochs=None, callbacks=None, verbose="auto", **kwargs):
        """Registers a single `zoo.Pair`; trains on other data as `zoo.Model.fit` does.

        Args:
            x: a `zoo.Pair`; or a list of pairs, a data set or arrays as Keras takes them.
            y: with arrays, what Keras makes of it; a pair brings all it needs.
            epochs: of a pair `pair_epochs` by default, else 1.
            callbacks: of Keras, one or several. A fit in stages is one training to them: epochs
                are counted on, and one that stops the training stops all of it.
            verbose: of Keras.
            **kwargs: of a pair those that `pair_options` names, else of `zoo.Model.fit`.

        Returns:
            The Keras `History`.

        Raises:
            TypeError: for other arguments with a pair.
            ValueError: for a pair that does not suit the model.
        """
        if not isinstance(x, Pair):
            self.check_training(x)
            x = _listed("x", x)
            if kwargs.get("validation_data") is not None:
                validation = _listed("validation_data", kwargs["validation_data"])
                kwargs["validation_data"] = validation
            self.check_arrays(x)
            given = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else callbacks
            epochs = 1 if epochs is None else epochs
            history = super().fit(x, y, epochs=epochs, callbacks=given, verbose=verbose, **kwargs)
            self.fitted = True
            return history
        self.check_pair(x, "x")
        if y is not None:
            raise TypeError("y must be None: a pair brings all that is known about it.")
        first = kwargs.pop("initial_epoch", 0)
        # None is what Keras takes for an option that is left out.
        left_out = {name for name in KERAS_FIT if kwargs.get(name, ...) is None}
        kwargs = {name: value for name, value in kwargs.items() if name not in left_out}
        unknown = sorted(set(kwargs) - set(self.pair_options))
        if unknown:
            known = ", ".join(("epochs", "callbacks", "verbose", *self.pair_options))
            raise TypeError(f"fit of a pair does not take {unknown}; it takes {known}.")
        between("initial_epoch", first, 0, MOST)
        check_fit({"epochs": epochs, "verbose": verbose, **kwargs})
        if "learning_rate" in kwargs:
            positive("learning_rate", kwargs["learning_rate"])
        self.get_ready()
        self.doubts = []
        training = Training(self, callbacks, verbose, first)
        self.fit_pair(x, training, self.pair_epochs if epochs is None else epochs, **kwargs)
        self.fitted = True
        return training.history

    def get_ready(self) -> None:
        """Compiles the model, unless it was, and gives the optimiser its variables."""
        if not self.compiled:
            self.compile()
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def fit_pair(self, pair: Pair, training: Training, epochs, steps_per_epoch=None) -> None:
        """Fits the weights to a pair, in a single stage on images or clouds as they are.

        Args:
            pair: a pair that this method takes.
            training: runs stages as one training; to be entered.
            epochs: as `fit` was given, or `pair_epochs`.
            steps_per_epoch: of the stage; 15 by default.
        """
        with training:
            training.stage(self, RepeatedBatch(pair.arrays(), steps_per_epoch or 15), epochs)

    def forget(self) -> None:
        """Drops what `fit(pair)` has found outside of the weights."""
        self.found.clear()

    def load_own_variables(self, store):
        """As in Keras; what fits found from other weights is dropped."""
        own = [*self._trainable_variables, *self._non_trainable_variables]
        before = [ops.convert_to_numpy(weight) for weight in own]
        super().load_own_variables(store)
        after = (ops.convert_to_numpy(weight) for weight in own)
        # Layers within load theirs for themselves, of which nothing is heard here.
        self.fitted |= bool(self._layers) or not all(map(np.array_equal, before, after))
        self.found.clear()

    # What comes out

    def transform(self, pair: Pair) -> Transform:
        """The transform from fixed to moving space that is found, or has been fitted, for a pair.

        A method that `needs_fit` and was neither fitted nor loaded warns of that once.

        Raises:
            TypeError: for anything but a pair.
            ValueError: for a pair that does not suit the model.
        """
        self.check_pair(pair)
        found = self.found.get(pair)
        if found is not None:
            return found
        if self.needs_fit and not self.fitted and not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self).__name__} has not been fitted: its transform is the identity. Call "
                "fit(pair) first.",
                UserWarning,
                stacklevel=2,
            )
        return self.map_of(pair)

    def map_of(self, pair: Pair) -> Transform:
        """The transform by the present weights; of images the `displacement` that `call` gives."""
        if not pair.is_images:
            raise NotImplementedError(f"{type(self).__name__} does not define map_of for clouds.")
        arrays = {key: value for key, value in pair.arrays().items() if key in ("fixed", "moving")}
        return Dense(self.at_once(arrays)["displacement"][0], pair.fixed.grid)

    def at_once(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What `call` makes of a batch, the first times of its size without compiling anything.

        Args:
            arrays: what `call` takes, as `predict` does.
        """
        shapes = tuple(array.shape for array in arrays.values())
        self._asked.times[shapes] += 1
        if tensorflow_on_cpu() and self._asked.times[shapes] <= OP_BY_OP:
            outputs = self(arrays, training=False)
            return {key: ops.convert_to_numpy(value) for key, value in outputs.items()}
        return Model.predict(self, arrays, verbose=0)

    def predict(self, x, **kwargs):
        """Registers a pair, or predicts batches as `keras.Model.predict` does.

        Args:
            x: a `zoo.Pair`, or arrays.
            **kwargs: of `keras.Model.predict`, for arrays.

        Returns:
            For a pair of images a dict of `moved` `[*spatial, channels]` and `displacement`
            `[*spatial, rank]` in voxels of the fixed grid; for clouds a dict of `moved` `[n, rank]`
            in world units.
        """
        if not isinstance(x, Pair):
            check_inputs("x", x)
            self.check_arrays(x)
            images = isinstance(x, Mapping) and "fixed" in x and set(kwargs) <= {"verbose"}
            if images and len(x["fixed"]) <= FEW:
                return self.at_once(dict(x))
            return super().predict(x, **kwargs)
        transform = self.transform(x)
        if not x.is_images:
            return {"moved": transform.move(x.moving.points)}
        sampled = transform.sampled(x.fixed.grid, x.moving.grid)
        return {"moved": sampled.warp(x.moving).array, "displacement": sampled.displacement}

    def evaluate(self, x=None, *args, **kwargs):
        """Measures the registration of a pair, see `measure`; other data as Keras does.

        Warns where the pair itself shows that the result is not to be trusted, see `quality`.
        """
        if not isinstance(x, Pair):
            self.check_arrays(x)
            check_inputs("x", x)
            return super().evaluate(x, *args, **kwargs)
        measured = Measured(self.transform(x), x)
        doubts = self.quality(measured).doubts
        if doubts:
            warnings.warn(f"{x.name!r}: {'; '.join(doubts)}.", UserWarning, stacklevel=2)
        return measured.results()

    def quality(self, measured: Measured) -> Quality:
        """What the registration of a pair says about itself.

        Args:
            measured: `Measured(model.transform(pair), pair)`.
        """
        return Quality(measured, getattr(self, "similarity", "ncc"), self.doubts)

    def discrepancies(self, pair: Pair, transforms: Sequence[Transform]) -> list[float]:
        """How unlike the pair is after each of some transforms, by this method's own measure.

        Of images the loss that its `similarity` names (correlation without one), where all of the
        transforms bring some of the moving image; of clouds the mean distance to the nearest point
        of the other one, in both directions, in world units.

        Args:
            pair: a pair that this method takes.
            transforms: that are to be compared.
        """
        if not pair.is_images:
            (fixed, _), (moving, weights) = pair.counting("fixed"), pair.counting("moving")
            tree, values = cKDTree(fixed), []
            for transform in transforms:
                moved = transform.move(moving)
                there = np.average(tree.query(moved, workers=-1)[0], weights=weights)
                values.append(float(there + cKDTree(moved).query(fixed, workers=-1)[0].mean()) / 2)
            return values
        grids = pair.fixed.grid, pair.moving.grid
        inside = np.ones(pair.fixed.shape, bool) if pair.fixed_mask is None else pair.fixed_mask
        fixed, moving = (getattr(pair, side).normalised((0, 100)) for side in ("fixed", "moving"))
        moved = []
        for transform in transforms:
            sampled = transform.sampled(*grids)
            moved.append(sampled.warp(moving).array[None])
            inside = inside & sampled.inside
            if pair.moving_mask is not None:
                mask = Image(pair.moving_mask[..., None].astype(np.float32), grids[1])
                inside = inside & (sampled.warp(mask, order="nearest").array[..., 0] > 0)
        loss = SIMILARITIES[getattr(self, "similarity", "ncc")]()
        mask = inside[None].astype(np.float32)
        return [float(loss(fixed.array[None], each, mask)) for each in moved]

    def prepare(self, data, validation: bool = False, **options):
        """Pairs as batches; options are those of `zoo.data.pairs.PairDataset`.

        `steps_per_epoch` is its `steps`.
        """
        if not isinstance(data, Pair | LazyPairs):
            return data
        self.check_pair(data[0] if isinstance(data, LazyPairs) else data)
        steps = options.pop("steps_per_epoch", None)
        if validation:
            steps, options = None, options | {"shuffle": False}
        return PairDataset(data, steps=steps, **options)

    # What the zoo asks of a method

    def signature(self):
        """That of images, or of clouds for a method that takes nothing else; see `zoo.Model`."""
        if "images" not in self.takes:
            cloud = {"shape": [None, None, self.dims], "dtype": "float32", "unit": "world"}
            return {"moving": cloud}, {"moved": cloud}
        axes = [None, *[None] * self.dims]
        image = {"shape": [*axes, self.channels or 1], "dtype": "float32", "unit": "any"}
        field = {"shape": [*axes, self.dims], "dtype": "float32", "unit": "voxels"}
        return {"fixed": image, "moving": image}, {"moved": image, "displacement": field}

    @classmethod
    def example(cls):
        """A tiny case in the plane: boards that move, or outlines; see `zoo.Model.example`.

        A method with other arguments, or that trains on other data, gives its own.
        """
        random = np.random.default_rng(0)
        if "images" not in cls.takes:
            angle = random.uniform(0, 2 * np.pi, 400)
            radius = 1 + 0.3 * np.cos(3 * angle)
            moving = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
            fixed = moving[:300] * (1.1, 0.9) + 0.1 * np.sin(2 * moving[:300, ::-1])
            clouds = [random.normal(size=(k, n, 2)).astype(np.float32) for k, n in ((1, 9), (2, 5))]
            inputs = [moving[None].astype(np.float32), *clouds]
            return {"config": {"dims": 2}, "data": Pair(fixed, moving), "fit": {}, "inputs": inputs}
        images, _ = ChessboardPairs((16, 20), 1, 1, magnitude=1.0)[0]
        inputs = [
            {name: np.ones((1, *shape, 1), np.float32) for name in ("fixed", "moving")}
            for shape in ((17, 9), (5, 33))
        ]
        pair = Pair(images["fixed"][0], images["moving"][0])
        return {"config": {"dims": 2}, "data": pair, "fit": {}, "inputs": [images, *inputs]}

    def golden_inputs(self):
        """Boards that move, or a cloud: an input of `predict` whose output a preset stores."""
        if "images" not in self.takes:
            return np.random.default_rng(0).normal(size=(1, 16, self.dims)).astype(np.float32)
        images, _ = ChessboardPairs((24,) * self.dims, 1, 1, magnitude=1.0)[0]
        return {side: np.repeat(each, self.channels or 1, -1) for side, each in images.items()}


def _listed(argument: str, data):
    """Pairs that came as a list, as a sequence of pairs; whatever else as it came."""
    if not isinstance(data, list | tuple) or not any(isinstance(each, Pair) for each in data):
        return data
    for number, each in enumerate(data):
        if not isinstance(each, Pair):
            raise TypeError(
                f"{argument}[{number}] must be a zoo.Pair as the others, not {type(each).__name__}."
            )
    return LazyPairs([partial(data.__getitem__, number) for number in range(len(data))])
