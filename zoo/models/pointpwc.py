"""PointPWC-Net: the flow of a cloud from coarse to fine, by cost volumes of learned features.

Features of both clouds are made on five levels of farthest points by convolutions over nearest
points. From the second coarsest level to the finest the fixed cloud is warped back by the flow so
far, a cost volume compares features where the clouds then are, and two further convolutions turn
features, costs and the flow so far into the flow of this level.

After Wu et al., "PointPWC-Net: cost volume on point clouds for (self-)supervised scene flow
estimation", ECCV 2020, arXiv:1911.12408, in the form in which Heinrich et al., "Chasing clouds",
ICCV 2023, and Falta et al., "Lung250M-4B", NeurIPS 2023, register lungs with it; the common frame,
the averaged draws and the smooth map are the zoo's own.
"""

from __future__ import annotations

import keras
from keras import ops

from zoo.layers.point_conv import LEAK, CostVolume, PointConv, dense_layers
from zoo.ops.arguments import checked, one_of
from zoo.ops.compiling import in_float32
from zoo.ops.neighbours import gathered
from zoo.ops.point_sets import farthest_points, interpolated, neighbourhoods
from zoo.registration.flow_network import FlowNetwork

FEATURES = ("ones", "coordinates")
OUTPUTS = ("linear", "tanh")
DOWN, COST, HEAD, UP = 16, 32, 9, 3  # neighbours of downsampling, costs, flow heads, upsampling
LARGEST = 200.0  # component of a flow
LEVELS = (4, 16, 32, 128)  # how many times fewer points each level has

PAPER = {"width": 32, "points": 8192, "draws": 8, "increments": False}
"""Constructor arguments of the published network, 7,717,292 parameters."""
AUTHORS = {**PAPER, "frame": "none", "features": "ones", "output": "tanh"}
"""The same as `divroc_ppwc_selftrain.pth` wants it: in coordinates that are normalised already."""


@keras.saving.register_keras_serializable(package="zoo")
class PointPWCNet(keras.layers.Layer):
    """The network itself, in the frame of its coordinates.

    Args:
        dims: 2 or 3.
        width: channels of the finest level; 32 in the paper.
        features: of the points at the beginning, "ones" or their "coordinates".
        output: "linear", or "tanh" of the finest flow.
        increments: the heads give what is added to the flow so far, instead of the flow.
        search: of neighbours, see `zoo.ops.neighbours.nearest_neighbours`.
    """

    @checked(width=(1, 4096))
    def __init__(
        self,
        dims: int = 3,
        width: int = 32,
        features: str = "ones",
        output: str = "linear",
        increments: bool = False,
        search: str = "auto",
        **kwargs,
    ):
        super().__init__(**in_float32(kwargs))
        self.dims, self.width, self.increments, self.search = dims, width, increments, search
        self.features = one_of("features", features, FEATURES)
        self.output_form = one_of("output", output, OUTPUTS)

    def build(self, input_shape=None):
        dims, w = self.dims, self.width
        # Channels of each level: what it has, and what feeds the next one.
        own, feeding = (w, 2 * w, 4 * w, 8 * w, 8 * w), (2 * w, 4 * w, 8 * w, 16 * w)
        self.start = dense_layers(dims, (w, w), "start")
        self.feeds, self.downs, self.contexts = [], [], []
        self.costs, self.heads = [], []
        for level in range(4):
            widths = (feeding[0],) if level == 0 else (own[level], feeding[level])
            self.feeds.append(dense_layers(own[level], widths, f"feed_{level}"))
            down = PointConv(own[level + 1], DOWN, name=f"down_{level + 1}")
            down.build((None, None, dims), (None, None, feeding[level]))
            self.downs.append(down)
            # Of the coarser level's features, beside the level's own.
            context = (w, w, 2 * w, 2 * w)[level]
            self.contexts += dense_layers(own[level + 1], (context,), f"context_{level}")
            seen, cost = (None, None, own[level] + context), own[level]
            volume = CostVolume(cost, COST, name=f"cost_{level}")
            volume.build((None, None, dims), seen, (None, None, dims), seen)
            self.costs.append(volume)
            entering = own[level] + cost + (0 if level == 3 else 2 * w + dims)
            self.heads.append(FlowHead(4 * w, 2 * w, HEAD, name=f"head_{level}"))
            self.heads[-1].build((None, None, dims), (None, None, entering))
        self.built = True

    def call(self, moving, fixed, moving_valid=None, fixed_valid=None):
        """The flow of the moving cloud.

        Args:
            moving: `[b, m, dims]`.
            fixed: `[b, n, dims]`.
            moving_valid, fixed_valid: `[b, m]` and `[b, n]`, or None.

        Returns:
            Dict of lists, from the finest level to the coarsest: `flows` `[b, k, dims]`, `chosen`
            and `targets`, int32 `[b, k]`, which points of the moving and of the fixed cloud the
            levels have; None for all of them.
        """
        clouds = [self._encoded(moving, moving_valid), self._encoded(fixed, fixed_valid)]
        flow = hidden = None
        flows = []
        for level in (3, 2, 1, 0):
            (here, below), (there, _) = (cloud[level : level + 2] for cloud in clouds)
            entering, warped = [here["features"]], there["points"]
            if flow is not None:
                flow, hidden = (
                    interpolated(here["points"], below["points"], each, found=here["below"])
                    for each in (flow, hidden)
                )
                # The fixed cloud goes back by the flow of what has come to it.
                warped = warped - interpolated(
                    warped, here["points"] + flow, flow, UP, here["mask"], self.search
                )
                entering += [hidden]
            across = neighbourhoods(here["points"], warped, COST, there["mask"], self.search)
            cost = self.costs[level](
                here["points"],
                here["seen"],
                warped,
                there["seen"],
                found=here["around"],
                across=across,
            )
            entering += [cost] if flow is None else [cost, flow]
            entering = ops.concatenate(entering, axis=-1)
            found, hidden = self.heads[level](here["points"], entering, here["around"])
            flow = found if flow is None or not self.increments else flow + found
            flows.append(flow)
        if self.output_form == "tanh":
            flows[-1] = ops.tanh(flows[-1])
        chosen, targets = ([level["chosen"] for level in cloud[:4]] for cloud in clouds)
        return {"flows": flows[::-1], "chosen": chosen, "targets": targets}

    def _encoded(self, points, mask) -> list[dict]:
        """The levels of a cloud: points, features, what cost volumes see, neighbourhoods."""
        way = "loop" if self.search == "blocks" else "auto"
        features = ops.ones_like(points) if self.features == "ones" else points
        for layer in self.start:
            features = ops.leaky_relu(layer(features), LEAK)
        levels = [{"points": points, "features": features, "mask": mask, "chosen": None}]
        for level in range(4):
            here = levels[-1]
            size = here["points"].shape[1]
            size = ops.shape(here["points"])[1] if size is None else size
            share = LEVELS[level] // (1 if level == 0 else LEVELS[level - 1])
            count = (size + share - 1) // share  # ONNX rounds quotients towards zero
            index = farthest_points(here["points"], count, here["mask"], way)
            centres = gathered(here["points"], index[..., None])[:, :, 0]
            features = here["features"]
            for layer in self.feeds[level]:
                features = ops.leaky_relu(layer(features), LEAK)
            found = neighbourhoods(centres, here["points"], DOWN, here["mask"], self.search)
            features = self.downs[level](here["points"], features, centres, found=found)
            before = here["chosen"]
            chosen = index if before is None else ops.take_along_axis(before, index, axis=1)
            levels.append({"points": centres, "features": features, "mask": None, "chosen": chosen})
        for level, (here, below) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
            here["around"] = neighbourhoods(
                here["points"], here["points"], COST, here["mask"], self.search
            )
            here["below"] = neighbourhoods(here["points"], below["points"], UP, None, self.search)
            raised = interpolated(
                here["points"], below["points"], below["features"], found=here["below"]
            )
            context = ops.leaky_relu(self.contexts[level](raised), LEAK)
            here["seen"] = ops.concatenate([here["features"], context], axis=-1)
        return levels

    def get_config(self):
        names = ("dims", "width", "features", "increments", "search")
        own = {name: getattr(self, name) for name in names}
        return super().get_config() | own | {"output": self.output_form}


@keras.saving.register_keras_serializable(package="zoo")
class FlowHead(keras.layers.Layer):
    """The flow of a level from its features, costs and the flow so far.

    Args:
        wide: filters of two convolutions over points and of a dense layer.
        narrow: units of a further one, which the next level sees.
        neighbours: of the convolutions.
    """

    def __init__(self, wide: int, narrow: int, neighbours: int = HEAD, **kwargs):
        super().__init__(**in_float32(kwargs))
        self.wide, self.narrow, self.neighbours = wide, narrow, neighbours

    def build(self, points_shape, features_shape):
        self.convs, shape = [], features_shape
        for number in range(2):
            self.convs.append(PointConv(self.wide, self.neighbours, name=f"conv_{number}"))
            self.convs[-1].build(points_shape, shape)
            shape = (*shape[:-1], self.wide)
        self.units = dense_layers(self.wide, (self.wide, self.narrow), "unit")
        (self.last,) = dense_layers(self.narrow, (points_shape[-1],), "flow")
        self.built = True

    def call(self, points, features, found):
        """`(flow, features)`, `[b, n, dims]` and `[b, n, narrow]`, of features `[b, n, c]`."""
        for conv in self.convs:
            features = conv(points, features, found=found)
        for unit in self.units:
            features = ops.leaky_relu(unit(features), LEAK)
        return ops.clip(self.last(features), -LARGEST, LARGEST), features

    def get_config(self):
        names = ("wide", "narrow", "neighbours")
        return super().get_config() | {name: getattr(self, name) for name in names}


class PointPWC(FlowNetwork):
    """Registers clouds in one pass of a PointPWC-Net, which is trained on many pairs.

    See `zoo.registration.flow_network.FlowNetwork` for what training minimises; `PAPER` and
    `AUTHORS` are the published configurations. A chain with "divroc" refines the result.

    Args:
        dims: 2 or 3.
        width: channels of the finest level; 32 in the paper, which no CPU trains.
        features: of the points at the beginning, "ones" or their "coordinates".
        output: "linear", or "tanh" of the finest flow.
        increments: the levels give what is added to the flow so far, instead of the flow.
        points, draws, frame, data, teacher, search, seed: see `FlowNetwork`.

    Raises:
        ValueError: for arguments out of range.
    """

    def __init__(
        self,
        dims: int = 3,
        width: int = 16,
        features: str = "coordinates",
        output: str = "linear",
        increments: bool = True,
        points: int = 8192,
        draws: int = 4,
        frame: str = "moments",
        data: str = "chamfer",
        teacher: float | None = None,
        search: str = "auto",
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(dims, points, draws, frame, data, teacher, search, seed, **kwargs)
        self.width, self.features, self.output_form = width, features, output
        self.increments = increments
        self.network = PointPWCNet(
            dims, width, features, output, increments, search, name="network"
        )
        self.network.build()
        self.ready()

    def get_config(self):
        own = {name: getattr(self, name) for name in ("width", "features", "increments")}
        return super().get_config() | own | {"output": self.output_form}

    @classmethod
    def example(cls):
        example = super().example()
        example["config"] |= {"width": 4}
        return example
