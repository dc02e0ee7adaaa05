"""Chain: one registration after another, as one model.

The first aligns, the second registers what is left, and the maps are composed:
`first.transform(pair) @ second.transform(pair.aligned(first.transform(pair)))`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from zoo.data.pair import Pair
from zoo.ops.sampling import compose
from zoo.registration.base import KINDS, Registration
from zoo.registration.fitting import Training
from zoo.transform import Transform


class Chain(Registration):
    """A registration, then another one for the rest: align, fit what is left, compose.

    `fit(pair)` fits the parts that need it, `transform(pair)` composes. The second is accepted
    only where, by its own measure (`discrepancies`), the pair is not less alike with it than
    without; else the transform is that of the first, with a warning. Chains are parts of chains.

    A fit that was interrupted begins anew.

    Args:
        first: a registration, the name of one ("affine"), or a dict of `method`, its name, and
            `config`, the arguments of its constructor.
        second: likewise.

    Raises:
        TypeError: for what is no registration.
        ValueError: for parts of other dimensions, or that take no pair in common.

    Example:
        >>> points = np.random.default_rng(0).uniform(size=(200, 2))
        >>> pair = zoo.Pair(points + [0.02, 0.0], points)
        >>> affine = {"method": "affine", "config": {"dims": 2, "kind": "rigid"}}
        >>> chain = zoo.create("chain", first=affine, second=affine)
        >>> history = chain.fit(pair, verbose=0)
        >>> chain.transform(pair).move([[1.0, 1.0]]).round(4)
        array([[1.02, 1.  ]])
    """

    needs_fit = True
    pair_epochs = None
    pair_options = ()

    def __init__(
        self,
        first: Registration | str | Mapping = "affine",
        second: Registration | str | Mapping = "affine",
        **kwargs,
    ):
        first, second = as_registration(first, "first"), as_registration(second, "second")
        super().__init__(first.dims, **kwargs)
        self.takes = tuple(kind for kind in KINDS if kind in first.takes and kind in second.takes)
        if first.dims != second.dims or not self.takes:
            raise ValueError(
                f"first and second must register the same pairs, not {' or '.join(first.takes)} of "
                f"{first.dims} and {' or '.join(second.takes)} of {second.dims} dimensions."
            )
        self.first, self.second = first, second
        self.channels = first.channels or second.channels
        self.similarity = getattr(second, "similarity", getattr(first, "similarity", "ncc"))
        self.needs_fit = first.needs_fit or second.needs_fit
        self.built = True

    def get_config(self):
        config = super().get_config() | {"first": _spec(self.first), "second": _spec(self.second)}
        del config["dims"]  # of the parts
        return config

    def call(self, inputs):
        """What the second makes of what the first has moved; the second is not judged here.

        Args:
            inputs: a dict of `fixed` and `moving` `[b, *spatial, channels]`; or points
                `[b, n, dims]`, or a dict that holds them as `moving`, and as `fixed` those of the
                other cloud where a part is a network that has to see it.

        Returns:
            A dict of `moved` and, for images, the composed `displacement` in voxels.
        """
        if "images" not in self.takes or not isinstance(inputs, dict) or "fixed" not in inputs:
            points = inputs if isinstance(inputs, dict) else {"moving": inputs}
            return self.second({**points, "moving": self.first(points)["moved"]})
        first = self.first(inputs)
        rest = self.second({"fixed": inputs["fixed"], "moving": first["moved"]})
        displacement = compose(first["displacement"], rest["displacement"])
        return {"moved": rest["moved"], "displacement": displacement}

    def check_training(self, x):
        """Refuses everything: a chain is fitted to a single pair, its parts are trained alone."""
        self.check_pair(x, "x")

    def fit_pair(self, pair: Pair, training: Training, epochs):
        """Fits the first to the pair and the second to the rest.

        Args:
            pair: that both parts take.
            training: has the stages of both.
            epochs: of the second, which is then fitted even if it need not be; None leaves a
                trained network as it is.
        """
        with training:
            if self.first.needs_fit:
                self._fit_part(self.first, pair, training, None)
            start = self.first.transform(pair)
            rest = pair.aligned(start)
            if self.second.needs_fit or epochs:
                self._fit_part(self.second, rest, training, epochs)
        self.found.keep(pair, self._composed(pair, start, rest))

    def map_of(self, pair: Pair) -> Transform:
        """The composition, or the first transform where the second makes things worse."""
        start = self.first.transform(pair)
        return self._composed(pair, start, pair.aligned(start))

    def _fit_part(self, part: Registration, pair: Pair, training: Training, epochs):
        part.get_ready()
        with_part = training.within(part)
        part.fit_pair(pair, with_part, part.pair_epochs if epochs is None else epochs)
        part.fitted = True
        training.go_on_from(with_part)

    def _composed(self, pair: Pair, start: Transform, rest: Pair) -> Transform:
        whole = start @ self.second.transform(rest)
        before, after = self.second.discrepancies(pair, (start, whole))
        if after <= before:
            self.doubts = [*self.first.doubts, *self.second.doubts]
            return whole
        left_out = (
            f"{type(self.second).__name__} makes {pair.name!r} less alike, by its own measure "
            f"from {before:.4g} to {after:.4g}; the transform is that of "
            f"{type(self.first).__name__} alone"
        )
        self.doubts = [*self.first.doubts, left_out]
        warnings.warn(f"{left_out}.", UserWarning, stacklevel=4)
        return start

    @classmethod
    def example(cls):
        config = {"dims": 2, "kind": "rigid", "levels": 1, "voxels": 500, "start": "identity"}
        part = {"method": "affine", "config": config}
        further = {"method": "affine", "config": config | {"kind": "affine"}}
        return super().example() | {"config": {"first": part, "second": further}}


def as_registration(given: Registration | str | Mapping, argument: str) -> Registration:
    """A registration from itself, a name, or a dict of `method` and `config`.

    Raises:
        TypeError: for anything else, or a method that is no registration.
        registry.UnknownName: for a name that there is not.
    """
    import registry
    import zoo.catalogue  # noqa: F401  (declares the built-in entries)

    if isinstance(given, str):
        given = {"method": given, "config": {}}
    if isinstance(given, Mapping) and set(given) == {"method", "config"}:
        try:
            entry = registry.get(given["method"])
        except registry.UnknownName as error:
            raise registry.UnknownName(f"{argument}: {error}") from error
        given = entry.load()(**given["config"])
    if not isinstance(given, Registration):
        raise TypeError(
            f"{argument} must be a registration, its name, or a dict of method and config, not "
            f"{type(given).__name__}."
        )
    return given


def _spec(part: Registration) -> dict:
    return {"method": part.entry().name, "config": part.get_preset_config()}
