"""The base of every method: a keras.Model with default training, containers and presets."""

from __future__ import annotations

import math
import shutil
import types
import warnings
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from zoo.ops.arguments import checked
from zoo.ops.compiling import replicas, require_float32, tensorflow_on_cpu
from zoo.ops.exporting import write_onnx
from zoo.ops.stored import check_archive, check_weights
from zoo.ops.training import Released
from zoo.ops.training_arguments import check_compile, check_fit, check_inputs
from zoo.ops.waiting import Compiling

MANIFEST_FACTS = frozenset(
    ("summary", "metrics", "training", "licence", "paper", "notes", "default", "files")
)
SPARE = 2**20  # bytes of a preset beside its weights, at least
MOST_GOLDEN = 2**28  # bytes of its stored input and output


class Model(Released):
    """A `keras.Model` that knows its paper's training and reads the zoo's containers.

    A method is a subclass with a constructor whose arguments `get_config` returns, a `call`, and:

    * `default_loss_weights`: the named terms of its loss with their weights;
    * `default_optimizer()`: the paper's optimiser;
    * `loss_terms(x, y, y_pred)`: the unweighted terms, each of which is logged under its name;
    * `prepare(data)`: turns a container into a `keras.utils.PyDataset` of batches, which depend
      on a seed, the attribute `epoch` and the index only; `prepare_options` names its options;
    * `signature()` and `example()`: see there.

    Subclasses register themselves with Keras under the name of their package, so `.keras` files
    and presets find them.
    """

    default_loss_weights: ClassVar[dict[str, float]] = {}
    prepare_options: ClassVar[tuple[str, ...]] = ()
    xla_on_cpu: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        package = cls.__module__.partition(".")[0]
        keras.saving.register_keras_serializable(package=package)(cls)

    @checked()
    def __init__(self, **kwargs):
        require_float32()
        super().__init__(**kwargs)
        policy = keras.config.dtype_policy()
        if policy.compute_dtype != self.compute_dtype:
            warnings.warn(
                f"{type(self).__name__} computes in {self.compute_dtype}, since coordinates need "
                f"its digits: the global policy {policy.name!r} is not applied.",
                UserWarning,
                stacklevel=2,
            )
        # In a namespace, because Keras would write metrics it finds in attributes to weight files.
        self._terms = types.SimpleNamespace(
            weights=dict(self.default_loss_weights),
            trackers={name: keras.metrics.Mean(name=name) for name in self.default_loss_weights},
        )

    # What a method provides

    def default_optimizer(self) -> keras.optimizers.Optimizer:
        """The optimiser of the paper; Adam with a learning rate of 1e-3 unless overridden."""
        return keras.optimizers.Adam(1e-3)

    def loss_terms(self, x, y, y_pred) -> dict[str, Any]:
        """Unweighted loss terms as scalars; the names are those of `default_loss_weights`."""
        raise NotImplementedError(f"{type(self).__name__} does not define loss_terms.")

    def prepare(self, data, validation: bool = False, **options):
        """A container as a `keras.utils.PyDataset`; anything else is returned as it came.

        The data set yields what Keras takes: `(x,)` where the loss needs no more than the inputs,
        else `(x, y)`; x is what `call` takes, and `loss_terms` gets x, y and what `call` returned.

        Args:
            data: what `fit` was given.
            validation: `data` is only measured, so the model must not adapt to it.
            **options: those that `prepare_options` names.
        """
        return data

    def signature(self) -> tuple[dict, dict]:
        """What `predict` of arrays takes and returns, for presets, cards and export.

        Returns:
            `(inputs, outputs)`, two dicts `{name: {"shape", "dtype", "unit"}}`. Shapes are lists
            that begin with the batch; None is any size. Where there is one input (or output), it
            may be the array itself instead of a dict of one.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define signature.")

    @classmethod
    def example(cls) -> dict[str, Any]:
        """A tiny case that `zoo.testing.check` builds, fits and stores in seconds.

        It is made anew, and the same, at every call: whatever is random in it comes from a
        generator with a seed of its own, such as `np.random.default_rng(0)`.

        Returns:
            A dict of `config` (arguments of the constructor), `data` (what `fit` is given: a
            container, arrays or a data set), `fit` (further arguments of `fit`, such as `y`), and
            `inputs`, a list of what `call` takes, of several sizes where these are free; the first
            one is also predicted and exported.
        """
        raise NotImplementedError(f"{cls.__name__} does not define example.")

    def golden_inputs(self) -> np.ndarray:
        """A small input of `predict`, the same at every call, whose output a preset stores."""
        raise NotImplementedError(f"{type(self).__name__} does not define golden_inputs.")

    # Training

    def compile(self, optimizer=None, loss_weights=None, jit_compile="auto", **kwargs):
        """Configures training; without arguments as in the paper.

        Args:
            optimizer: a Keras optimiser or its name; None is the paper's.
            loss_weights: weights that replace the default ones, by term.
            jit_compile: whether XLA compiles whole training steps; "auto" does, except under
                TensorFlow on a CPU for methods that do not set `xla_on_cpu`: convolutions are
                faster in oneDNN, multilayer perceptrons in XLA. Several replicas have none.
            **kwargs: further arguments of `keras.Model.compile`.

        Raises:
            ValueError: for a term that this model does not have, a weight that is negative or not
                finite, a `loss`, or what is no optimiser.
        """
        check_compile(optimizer, loss_weights, jit_compile, self.default_loss_weights, kwargs)
        unknown = set(loss_weights or {}) - set(self.default_loss_weights)
        if unknown:
            raise ValueError(
                f"loss_weights: unknown terms {sorted(unknown)}; "
                f"{type(self).__name__} has {sorted(self.default_loss_weights)}."
            )
        self._terms.weights = {**self.default_loss_weights, **(loss_weights or {})}
        if jit_compile == "auto" and replicas() > 1:
            jit_compile = False  # XLA cannot reach the variables of another replica
        elif jit_compile == "auto" and tensorflow_on_cpu():
            jit_compile = self.xla_on_cpu
        if optimizer is None:
            optimizer = self.default_optimizer()
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    def get_compile_config(self):
        """What `compile` needs to compile a loaded model alike."""
        if not self.compiled:
            return {}
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "loss_weights": dict(self._terms.weights),
        }

    def compile_from_config(self, config):
        """Compiles with what `get_compile_config` returned."""
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"])
        self.compile(optimizer=optimizer, loss_weights=config["loss_weights"])
        if self.built:
            self.optimizer.build(self.trainable_variables)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weights of the loss terms in use."""
        return dict(self._terms.weights)

    @property
    def metrics(self):
        return super().metrics + list(self._terms.trackers.values())

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The weighted sum of the loss terms; each term is tracked under its own name."""
        total = sum(self.losses, ops.zeros(()))
        for name, value in self.loss_terms(x, y, y_pred).items():
            self._terms.trackers[name].update_state(value)
            total = total + self._terms.weights[name] * value
        return total

    def __call__(self, *args, **kwargs):
        require_float32()
        return super().__call__(*args, **kwargs)

    def fit(self, x=None, y=None, *, callbacks=None, **kwargs):
        """Trains on a container of the zoo, or on anything that `keras.Model.fit` takes.

        Options of `prepare` (such as `steps_per_epoch` and `seed`) may be given here when x is a
        container. A model that was not compiled is compiled with the paper's defaults.

        Returns:
            The Keras `History`.
        """
        if not self.compiled:
            self.compile()
        if x is None or isinstance(x, str | Path | list):
            raise ValueError(
                "x must be a container such as zoo.Scan or zoo.Pair (their `read` takes paths), of "
                "registrations a list of pairs (zoo.data.pairs.PairDataset), an array or a data "
                f"set, not {x!r:.60}."
            )
        given = {name: kwargs.get(name) for name in self.prepare_options}
        # None is what Keras takes for an option that is left out.
        options = {name: value for name, value in given.items() if value is not None}
        check_fit(kwargs)
        dataset = self.prepare(x, **options)
        if dataset is x:
            check_inputs("x", x)
        if kwargs.get("validation_data") is not None:
            validation = self.prepare(kwargs["validation_data"], validation=True, **options)
            kwargs["validation_data"] = validation
        if dataset is not x:
            kwargs = {name: value for name, value in kwargs.items() if name not in given}
        if hasattr(dataset, "epoch"):
            # The zoo's data sets shuffle by seed and epoch. Keras would shuffle them once more,
            # from a generator whose state a resumed run does not have.
            kwargs.setdefault("shuffle", False)
            callbacks = [*_as_list(callbacks), TellEpoch(dataset)]
        if self.train_function is None and kwargs.get("verbose", "auto"):
            callbacks = [*_as_list(callbacks), Compiling()]
        return super().fit(dataset, y, callbacks=callbacks, **kwargs)

    def export(self, filepath, format="tf_saved_model", input_signature=None, **kwargs):
        """Exports `call` as `keras.Model.export` does; the input signature is known here.

        With format "onnx" the file is written only if ONNX Runtime computes with it what the model
        does, for `golden_inputs()`; not every method can be expressed so. Inputs that are a dict
        are named `args_0_` and their key.

        Raises:
            ImportError: if a package that the format needs is missing.
            ValueError: for a model that ONNX cannot express.
        """
        if input_signature is None:
            inputs, _ = self.signature()
            specs = {
                name: keras.InputSpec(shape=facts["shape"], dtype=facts["dtype"])
                for name, facts in inputs.items()
            }
            input_signature = [specs if len(specs) > 1 else next(iter(specs.values()))]
        options = {"format": format, "input_signature": input_signature, **kwargs}
        if format != "onnx":
            super().export(filepath, **options)
            return
        # The first version with bitwise operations, by which hash grids find their entries.
        options.setdefault("opset_version", 18)
        given = self.golden_inputs()
        write_onnx(partial(super().export, **options), filepath, given, self(given))

    # Presets

    def save_preset(self, folder: str | Path, *, overwrite: bool = False, **facts) -> Path:
        """Writes the model as a preset folder that `zoo.load` reads.

        Args:
            folder: where; its name is the preset's tag. It appears complete or not at all.
            overwrite: replace an existing preset.
            **facts: further keys of the manifest (`summary`, `metrics`, `training`, `licence`,
                `paper`, `notes`, `default`) and `files`, a dict of further files to store.

        Returns:
            The folder.

        Raises:
            FileExistsError: if the folder exists and `overwrite` is False.
            TypeError: for a fact that a manifest does not have.
            ValueError: if this model's class is not registered, its weights are not finite, or
                the name of the folder can be no tag.
            OSError: if another process is writing the folder, or the disk does not take it.
        """
        import pretrained

        files = {
            "model.weights.h5": self._save_weights_alone,
            "golden.npz": self._save_golden,
            **facts.pop("files", {}),
        }
        self._check_finite()
        manifest = self._manifest(folder, facts)
        return pretrained.write(folder, manifest, files, overwrite=overwrite).folder

    def check_preset(self, folder: str | Path, *, overwrite: bool = False, **facts) -> None:
        """Checks all of `save_preset` that can be known before the model is trained.

        Args:
            folder: as for `save_preset`.
            overwrite: as for `save_preset`.
            **facts: as for `save_preset`.

        Raises:
            OSError: also if the disk has no room for the weights.
            FileExistsError, TypeError, ValueError: as for `save_preset`.
        """
        import pretrained

        files = facts.pop("files", {})
        manifest = self._manifest(folder, facts)
        pretrained.check(folder, manifest, ["model.weights.h5", "golden.npz", *files], overwrite)
        place = Path(folder).expanduser().absolute()
        while not place.is_dir():
            place = place.parent
        needed = 4 * sum(math.prod(variable.shape) for variable in self.variables) + SPARE
        if (free := shutil.disk_usage(place).free) < needed:
            raise OSError(
                f"the disk of {place} has {free} bytes left; this preset needs about {needed}."
            )

    def _manifest(self, folder: str | Path, facts: dict) -> dict:
        unknown = set(facts) - MANIFEST_FACTS
        if unknown:
            raise TypeError(
                f"save_preset got {sorted(unknown)}; the facts are {sorted(MANIFEST_FACTS)}."
            )
        entry = self.entry()
        inputs, outputs = self.signature()
        return {
            "model": entry.name,
            "tag": Path(folder).expanduser().name,
            "config": self.get_preset_config(),
            "loss_weights": self.loss_weights,
            "files": {"golden.npz": {"rtol": 1e-3, "atol": 1e-4}},
            "inputs": inputs,
            "outputs": outputs,
            "licence": {"weights": "unspecified", "data": "unspecified"},
            "paper": entry.paper,
        } | facts

    def load_checked(self, path: str | Path) -> None:
        """Loads weights that come from anywhere, as `load_weights`.

        Raises:
            ValueError: if they are of other types than the model's, no finite numbers, or do not
                fit it.
            OSError: if it is no weight file.
        """
        check_weights(path, {keras.backend.standardize_dtype(v.dtype) for v in self.variables})
        self.load_weights(path)

    def check_golden(self, preset) -> None:
        """Compares the output that a preset stores with what the model computes.

        Args:
            preset: the `pretrained.Preset` that the model was loaded from; one without a stored
                output passes.

        Raises:
            pretrained.IntegrityError: if they differ by more than the preset's tolerances: rtol,
                and atol as a share of the largest value.
        """
        import pretrained

        facts = preset.manifest["files"].get("golden.npz")
        if facts is None:
            return
        path = preset.path("golden.npz")
        check_archive(path, MOST_GOLDEN, "golden")
        sides: dict[str, dict] = {"input": {}, "output": {}}
        with np.load(path, allow_pickle=False) as golden:
            for key in golden:
                side, _, name = key.partition(".")
                sides.setdefault(side, {})[name] = golden[key]
        given = sides["input"]
        computed = self.predict(given if len(given) > 1 else next(iter(given.values())), verbose=0)
        for name, values in by_name(computed, sides["output"]).items():
            stored = sides["output"].get(name)
            same = stored is not None and stored.shape == np.shape(values)
            if same:
                atol = facts.get("atol", 1e-4) * np.abs(stored).max(initial=0)
                same = np.allclose(values, stored, facts.get("rtol", 1e-3), atol)
            if not same:
                far = np.abs(values - stored).max() if np.shape(stored) == np.shape(values) else "?"
                raise pretrained.IntegrityError(
                    f"preset {preset.name}: {name} is not what golden.npz stores; the largest "
                    f"difference is {far}"
                )

    @classmethod
    def entry(cls):
        """The catalogue's entry of this class.

        Raises:
            ValueError: if it has none.
        """
        import registry
        import zoo.catalogue  # noqa: F401  (declares the built-in entries)

        where = f"{cls.__module__}:{cls.__qualname__}"
        entry = next((entry for entry in registry.find() if entry.where == where), None)
        if entry is None:
            raise ValueError(
                f"{cls.__name__} is not registered; give it a name with zoo.add_method first."
            )
        return entry

    def get_preset_config(self) -> dict:
        """The constructor arguments without Keras's own (`name`, `trainable`, `dtype`)."""
        own = {"name", "trainable", "dtype"}
        return {key: value for key, value in self.get_config().items() if key not in own}

    def _check_finite(self):
        for variable in self.variables:
            values = ops.convert_to_numpy(variable)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(
                    f"{variable.path} holds values that are NaN or infinite: the training has "
                    "diverged, and no preset is written; try a smaller learning rate."
                )

    def _save_golden(self, path: Path):
        inputs, outputs = self.signature()
        given = self.golden_inputs()
        computed = self.predict(given, verbose=0)
        golden = {f"input.{name}": array for name, array in by_name(given, inputs).items()}
        golden |= {f"output.{name}": array for name, array in by_name(computed, outputs).items()}
        np.savez_compressed(path, **golden)

    def _save_weights_alone(self, path: Path):
        # Keras stores the optimiser's moments beside the weights; a preset does not need them, nor
        # those of the parts of a chain.
        trained = [each for each in self._flatten_layers() if getattr(each, "optimizer", None)]
        optimizers = [each.optimizer for each in trained]
        for each in trained:
            each.optimizer = None
        try:
            self.save_weights(path)
        finally:
            for each, optimizer in zip(trained, optimizers, strict=True):
                each.optimizer = optimizer


def _as_list(callbacks) -> list:
    given = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    return [each for each in given if each is not None]


def by_name(values, declared: dict) -> dict:
    """Inputs or outputs as a dict; a single array goes by the one declared name."""
    return values if isinstance(values, dict) else {next(iter(declared)): values}


class TellEpoch(keras.callbacks.Callback):
    """Tells a sampler the epoch, so that resumed training draws what unbroken training draws.

    One with `epochs` is also told of how many.
    """

    def __init__(self, dataset):
        super().__init__()
        self.dataset = dataset

    def on_train_begin(self, logs=None):
        if hasattr(self.dataset, "epochs"):
            self.dataset.epochs = self.params["epochs"]

    def on_epoch_begin(self, epoch, logs=None):
        self.dataset.epoch = epoch
