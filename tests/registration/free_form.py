"""Free-form deformation: a whole registration method in one short file, as a user would add it."""

from keras import ops

from zoo.losses.tables import PENALTIES, SIMILARITIES
from zoo.ops.arguments import at_least
from zoo.ops.sampling import identity_coordinates, sample, warp
from zoo.registration import Registration
from zoo.registration.frame import stored


class FreeForm(Registration):
    """Registers a pair of images by a displacement on a coarse lattice, by descent.

    Args:
        dims: 2 or 3.
        lattice: its points along each axis.
    """

    takes = ("images",)
    needs_fit = True
    default_loss_weights = {"similarity": 1.0, "smoothness": 0.01}

    def __init__(self, dims: int = 2, lattice: int = 6, **kwargs):
        super().__init__(dims, **kwargs)
        self.lattice = at_least("lattice", lattice, 2)
        shape = (1, *[lattice] * dims, dims)
        self.control = stored(self, "control", shape, trainable=True)
        self.built = True

    def get_config(self):
        return super().get_config() | {"lattice": self.lattice}

    def call(self, inputs):
        moving = ops.cast(inputs["moving"], "float32")
        shape = ops.shape(moving)[1:-1]
        last = ops.stack([ops.cast(ops.maximum(size - 1, 1), "float32") for size in shape])
        places = identity_coordinates(shape) * ((self.lattice - 1) / last)
        displacement = sample(self.control[...], places[None])
        displacement = ops.repeat(displacement, ops.shape(moving)[0], axis=0)
        return {"moved": warp(moving, displacement), "displacement": displacement}

    def loss_terms(self, x, y, y_pred):
        return {
            "similarity": SIMILARITIES["mse"]()(x["fixed"], y_pred["moved"]),
            "smoothness": PENALTIES["diffusion"]()(y_pred["displacement"]),
        }
