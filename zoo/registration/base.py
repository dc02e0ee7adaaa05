"""What every registration method shares: transforms out, measures on pairs."""

from __future__ import annotations

from typing import ClassVar

from zoo.data.pair import Pair
from zoo.model import Model
from zoo.registration.measure import measure
from zoo.transform import Transform


class Registration(Model):
    """A model that maps a fixed to a moving image, or moves a cloud onto another.

    A method provides `transform(pair)`; `predict(pair)` and `evaluate(pair)` follow from it.
    """

    needs_fit: ClassVar[bool] = False

    def transform(self, pair: Pair) -> Transform:
        """The transform that this model finds (or has been fitted to find) for a pair."""
        raise NotImplementedError(f"{type(self).__name__} does not define transform.")

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
            return super().predict(x, **kwargs)
        transform = self.transform(x)
        if not x.is_images:
            return {"moved": transform.move(x.moving.points)}
        moved = transform.warp(x.moving, x.fixed.grid)
        return {"moved": moved.array, "displacement": transform.displacement(x.fixed.grid)}

    def evaluate(self, x=None, *args, **kwargs):
        """Measures the registration of a pair, see `measure`; other data as Keras does."""
        if not isinstance(x, Pair):
            return super().evaluate(x, *args, **kwargs)
        return measure(self.transform(x), x)
