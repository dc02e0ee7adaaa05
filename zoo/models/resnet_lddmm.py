"""ResNet-LDDMM: meshes, clouds and contours carried onto each other by a flow of residual blocks.

The moving shape flows along velocities `f_1 ... f_L` of small networks, each for a part of unit
time (`zoo.layers.ResidualFlow`), and what is minimised is

    D(phi(moving), fixed) / (2 sigma^2) + 1/2 integral mean |f|^2 dt

over points that are drawn anew, evenly over both surfaces, in every step, in a frame that both
shapes share. Who is whose partner in D is told by position and, at first, by intrinsic features of
the surface (`zoo.data.features`): with positions alone points slide along limbs, and limbs may
change places.

After Ben Amor, Arguillere and Shao, "ResNet-LDDMM: advancing the LDDMM framework using deep
residual networks", TPAMI 2023, arXiv:2102.07951; the features and their fading, the drawn points
and the exact inverse are the zoo's own.
"""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Sequence
from functools import partial

import keras
import numpy as np
from keras import ops
from scipy.spatial import cKDTree

from zoo.data.draws import CohortDraws, Shape, ShapeDraws
from zoo.data.features import spectral_likeness, standardised, wave_kernel_signatures
from zoo.data.pair import LazyPairs, Pair
from zoo.data.scan import Scan
from zoo.geometry import Grid
from zoo.layers.residual_flow import ResidualFlow, kinetic_energy
from zoo.losses import Correspondence, FeatureChamfer, NormalChamfer, Sinkhorn, Varifold
from zoo.model import TellEpoch
from zoo.ops.arguments import checked, not_negative, one_of
from zoo.ops.compiling import compiled, in_chunks
from zoo.ops.tangents import conformal_distortion, surface_elements
from zoo.registration import Registration
from zoo.registration.cohort import FlowCohort
from zoo.registration.fitting import Training, half_cosine
from zoo.registration.frame import exact, position, set_position, stored
from zoo.transform import Mapped

DATA = ("features", "chamfer", "normals", "sinkhorn", "varifold", "correspondence")
EPOCH = 10  # steps
CHUNK = 4096  # points that flow at a time
DOUBTFUL = 0.2  # likeness of two spectra, from which features have next to no say
FADED = 0.6  # of the training, after which features have no say any more
WIDE, NARROW = 0.25, 0.08  # kernel of varifolds at first and at last, in half sides of the box
MARGIN = 1.1  # of the frame around both shapes
JUDGED = 5000  # points that suffice to tell whether a registration helps
QUICK, SETTLED = (12, 0), 3e-6  # steps of the inverse for most points, and what they may leave
REPAYS_XLA = 3e7  # units of the network that all drawn points meet
LATTICE = 48  # voxels along each axis of the field that is written for other tools


class ResNetLDDMM(Registration):
    """Diffeomorphic registration of one pair of meshes, clouds or contours, by optimisation.

    `fit(pair)` registers, `transform(pair)` carries any points along: `move` is the flow itself,
    `pull` its exact inverse. `trajectory` gives the shapes on the way. Faces of either shape are
    used where they are there, to draw points evenly and for features; vertices keep number and
    order.

    With `members`, `fit([pair, pair, ...])` learns one flow for a cohort, steered by a code of each
    pair, and `fit(pair)` begins there: at the code of that member whose flow brings the new pair
    closest.

    Args:
        dims: 2 or 3.
        data: how unlike the shapes are: "features" (distances to the nearest points, told by
            position and fading intrinsic features; in the plane, where there are none, as
            "chamfer"), "chamfer", "normals" (with the angle of the surfaces), "sinkhorn"
            (transport), "varifold", or "correspondence" (the shapes correspond row by row).
        blocks, width, nonlinearities, activation, integrator, substeps, lipschitz: of the flow, see
            `zoo.layers.ResidualFlow`.
        sigma: of the data term at first and at last, in halves of the frame's longest side.
        steps: of the optimisation.
        points: of each shape that are drawn in every step.
        features: components of the intrinsic features.
        feature_weight: of squared differences of features, beside those of positions, at first.
        members: pairs of a cohort; 0 for a model of single pairs.
        codes: components of the code of a member.
        seed: of weights and draws of a fit.

    Attributes:
        doubts: of the last fit, a sentence each, of which `fit` has also warned.

    Raises:
        ValueError: for arguments out of range.
    """

    needs_fit = True
    default_loss_weights = {
        "data": 1.0,
        "kinetic": 1.0,
        "landmarks": 1.0,
        "gradient": 0.0,
        "conformal": 0.0,
        "codes": 1e-3,
    }
    takes = ("clouds",)
    pair_epochs = None
    pair_options = ()
    prepare_options = ("batch_size", "steps_per_epoch", "seed")

    @checked(
        steps=(1, 10**6),
        points=(8, 10**6),
        features=(1, 1024),
        feature_weight=not_negative,
        members=(0, 10**5),
        codes=(1, 2**14),
    )
    def __init__(
        self,
        dims: int = 3,
        data: str = "features",
        blocks: int = 10,
        width: int = 128,
        nonlinearities: int = 2,
        activation: str = "relu",
        integrator: str = "euler",
        substeps: int = 1,
        lipschitz: float | None = None,
        sigma: Sequence[float] = (0.1, 0.012),
        steps: int = 700,
        points: int = 1500,
        features: int = 16,
        feature_weight: float = 0.5,
        members: int = 0,
        codes: int = 32,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(dims, **kwargs)
        self.data = one_of("data", data, DATA)
        if len(sigma) != 2 or not min(sigma) > 0:
            raise ValueError(
                f"sigma must be two positive numbers, at first and at last, not {sigma!r}."
            )
        self.sigma, self.steps, self.points = tuple(map(float, sigma)), steps, points
        self.features, self.feature_weight, self.seed = features, feature_weight, seed
        self.members, self.codes = members, codes
        # XLA takes ten seconds to compile, and then a quarter off every step.
        self.xla_on_cpu = steps * points * width > REPAYS_XLA
        # Positions are carried in halves of the longest side of the box around both shapes.
        self.centre = stored(self, "centre", (2, dims))
        self.half = stored(self, "half", (), "ones")
        self.flow = ResidualFlow(
            dims=dims,
            blocks=blocks,
            width=width,
            nonlinearities=nonlinearities,
            activation=activation,
            integrator=integrator,
            substeps=substeps,
            lipschitz=lipschitz,
            codes=codes if members else 0,
        )
        self.flow.build()
        self.cohort = FlowCohort(self.flow, members) if members else None
        # In a namespace, because Keras would track what it finds in attributes.
        self._tools = types.SimpleNamespace(
            loss={
                "features": FeatureChamfer,
                "chamfer": FeatureChamfer,
                "normals": NormalChamfer,
                # Its positions come in widths of the kernel.
                "varifold": lambda rank: Varifold(rank, sigma=1.0),
            }.get(data, lambda rank: Sinkhorn() if data == "sinkhorn" else Correspondence())(dims),
            trace=compiled(lambda x: tuple(self.flow.trace(x, code=self._code())[0][1:]), self),
            invert=compiled(lambda x: (self.flow.invert(x, self._code(), QUICK),), self),
            invert_surely=compiled(lambda x: (self.flow.invert(x, self._code()),), self),
            jacobian=compiled(lambda x: self.flow.jacobian(x, self._code()), self),
        )
        self.built = True

    def get_config(self):
        flow = "blocks width nonlinearities activation integrator substeps lipschitz"
        own = "data sigma steps points features feature_weight members codes seed"
        config = {name: getattr(self.flow, name) for name in flow.split()}
        return super().get_config() | config | {name: getattr(self, name) for name in own.split()}

    # The map and its objective

    def call(self, inputs):
        """Moves clouds along the flow; in training, draws of both shapes.

        Args:
            inputs: points `[b, n, dims]` in world units, or a dict that holds them as `moving`; or
                a batch of `zoo.data.draws.ShapeDraws`, in the frame.

        Returns:
            A dict of `moved` `[b, n, dims]`; of draws with `path` and `turns`, see
            `ResidualFlow.trace`.
        """
        if isinstance(inputs, dict) and "moving_points" in inputs:
            return self._trained(inputs)
        points = ops.cast(inputs["moving"] if isinstance(inputs, dict) else inputs, "float32")
        placed = ((points - self.centre[0]) - self.centre[1]) / self.half
        moved = points + self.half * (self.flow(placed, self._code()) - placed)
        return {"moved": moved}

    def _code(self):
        """That of the single pair; a flow without a cohort has none."""
        return self.cohort.single if self.cohort is not None else None

    def _trained(self, batch):
        points, tangents, outputs, code = batch["moving_points"], None, {}, None
        if self.cohort is not None:
            code = outputs["code"] = self.cohort(batch["member"])
        wanted = self.data in ("normals", "varifold") or self.loss_weights["conformal"] > 0
        if wanted and "moving_frames" in batch:
            tangents = batch["moving_frames"][:, :, : self.dims - 1]
        if self.loss_weights["gradient"] > 0:
            probe = batch["probe"][:, :, None]
            tangents = probe if tangents is None else ops.concatenate([tangents, probe], axis=2)
        path, turns = self.flow.trace(points, tangents, code)
        outputs |= {"moved": path[-1], "path": path}
        if turns is not None:
            outputs["turns"] = turns
        if "moving_landmarks" in batch:
            outputs["landmarks"] = self.flow(batch["moving_landmarks"], code)
        return outputs

    def loss_terms(self, x, y, y_pred):
        # As sigma falls the data term grows, and the loss with it. Adam's steps do so too, which
        # serves the end: a loss that is scaled back leaves 1.7 cm of a body instead of 1.3.
        tightness = x["tightness"][0, 0]  # the same for all pairs of a batch
        terms = {name: ops.zeros(()) for name in self.default_loss_weights}
        terms["data"] = tightness * self._unlike(x, y_pred)
        terms["kinetic"] = ops.mean(kinetic_energy(y_pred["path"]))
        if "landmarks" in y_pred:
            off = Correspondence()(x["fixed_landmarks"], y_pred["landmarks"])
            terms["landmarks"] = tightness * off
        turns = y_pred.get("turns")
        if self.loss_weights["gradient"] > 0:
            # A direction that travels with its point changes as the velocity does along it.
            changes = kinetic_energy([each[:, :, -1] for each in turns])
            terms["gradient"] = ops.mean(changes)
        if self.loss_weights["conformal"] > 0 and self.dims == 3 and "moving_frames" in x:
            terms["conformal"] = ops.mean(conformal_distortion(turns[-1]))
        if "code" in y_pred:
            terms["codes"] = ops.mean(ops.sum(ops.square(y_pred["code"]), axis=-1))
        return terms

    def _unlike(self, x, y_pred):
        moved, fixed, loss = y_pred["moved"], x["fixed_points"], self._tools.loss
        if self.data == "correspondence":
            return loss(x["moving_features"], moved)
        if self.data == "features":
            scale = x["feature_scale"][:, None]
            moved = ops.concatenate([moved, scale * x["moving_features"]], axis=-1)
            return loss(ops.concatenate([fixed, scale * x["fixed_features"]], axis=-1), moved)
        if self.data in ("normals", "varifold"):
            facing = surface_elements(y_pred["turns"][-1][:, :, : self.dims - 1])
            # Every draw keeps its share of the area: a shape that may lose it would rather vanish.
            length = ops.sqrt(ops.sum(ops.square(facing), axis=-1, keepdims=True) + 1e-20)
            facing = facing / length
            normal = x["fixed_frames"][:, :, -1]
            if self.data == "varifold":
                # Positions in widths of the kernel.
                width = x["width"][:, None]
                moved, fixed = moved / width, fixed / width
                facing, normal = facing / self.points, normal / self.points
            fixed = ops.concatenate([fixed, normal], axis=-1)
            unlike = loss(fixed, ops.concatenate([moved, facing], axis=-1))
            if self.data == "normals":
                return unlike
            # Relative to the target's own square, and in squared units of length.
            nothing = ops.concatenate([fixed[..., : self.dims], ops.zeros_like(normal)], axis=-1)
            return WIDE**2 * unlike / loss(fixed, nothing)
        return loss(fixed, moved)

    def default_optimizer(self):
        return keras.optimizers.Adam(1e-3)

    # Fitting

    def check_training(self, x) -> None:
        """Refuses all but the pairs of a cohort, in the number of `members`."""
        pairs = isinstance(x, list | tuple | LazyPairs) and len(x) > 0
        if not pairs or not self.cohort:
            self.check_pair(x, "x")
        if pairs and len(x) != self.members:
            raise ValueError(
                f"x must hold the {self.members} pairs that members says, not {len(x)}."
            )

    def fit(self, x=None, y=None, **kwargs):
        """Registers a `zoo.Pair`, see `Registration.fit`; or learns what a cohort has in common.

        Args:
            x: a pair; or a list of `members` pairs, with the options `batch_size` (4 pairs a step),
                `steps_per_epoch` (20) and `seed`. Sigma and the weight of features are then drawn
                at random for every step, so that losses jump.
            y: None.
            **kwargs: of `Registration.fit`.
        """
        if self.cohort is None or isinstance(x, Pair):
            return super().fit(x, y, **kwargs)
        self.cohort.give(self.flow)
        try:
            return super().fit(x, y, **kwargs)
        finally:
            # What was learned until an interruption, too.
            self.cohort.keep(self.flow)

    def prepare(self, data, validation=False, batch_size=4, steps_per_epoch=20, seed=0):
        """Pairs of a cohort as draws; see `fit`."""
        if not isinstance(data, LazyPairs):
            return data

        def shapes_of(number: int):
            pair = data[number]
            self.check_pair(pair, f"x[{number}]")
            return self._shapes(pair, *frame_around(pair))

        pairs = [partial(shapes_of, number) for number in range(len(data))]
        return CohortDraws(pairs, self.points, batch_size, steps_per_epoch, self._schedule, seed)

    def fit_pair(self, pair: Pair, training: Training, epochs):
        """Registers a pair of shapes, anew.

        Points outside of their mask do not count, those of the moving shape count by the pair's
        `weights`; its landmarks attract each other. The learning rate decays to a twentieth along
        a cosine, sigma falls geometrically, and features fade. A result that is no closer than the
        start is dropped, with a warning.

        Args:
            pair: of meshes or clouds.
            training: has the one stage of the fit.
            epochs: of ten steps each; None makes `steps` of them.

        Raises:
            ValueError: for shapes that the data term cannot compare.
        """
        self.doubts = []
        batches = self._batches(pair, epochs or math.ceil(self.steps / EPOCH))
        # Before it begins: what an interrupted training left is restored as it does.
        self._start(batches)
        with training:
            count, told = batches.total // EPOCH, [TellEpoch(batches)]
            training.stage(self, batches, count, decay=half_cosine(0.05), callbacks=told)
        self._judge(pair)
        for doubt in self.doubts:
            warnings.warn(f"{pair.name!r}: {doubt}.", UserWarning, stacklevel=4)

    def _batches(self, pair: Pair, epochs: int) -> ShapeDraws:
        """Sets the frame, and gives the draws of the fit in it."""
        centre, half = frame_around(pair)
        set_position(self.centre, centre)
        self.half.assign(half)
        moving, fixed, constants = self._shapes(pair, position(self.centre), exact(self.half))
        if self.cohort is not None:
            constants["member"] = np.array([[self.members]], np.int32)
        return ShapeDraws(
            moving, fixed, self.points, EPOCH, EPOCH * epochs, constants, self._schedule, self.seed
        )

    def _start(self, batches: ShapeDraws) -> None:
        """Begins at the identity, or with the member of the cohort that brings the pair closest."""
        if self.cohort is None:
            self.flow.restart(self.seed)
            return
        self.cohort.give(self.flow)
        (batch,) = batches[0]
        codes = self.cohort(np.arange(self.members, dtype=np.int32)[:, None])
        points = ops.repeat(ops.convert_to_tensor(batch["moving_points"]), self.members, axis=0)
        ends = ops.convert_to_numpy(self.flow(points, codes))

        def seen(points, side):
            if self.data != "features":
                return points
            # A member whose legs are elsewhere may be close by positions alone.
            return np.hstack([points, batch["feature_scale"] * batch[f"{side}_features"][0]])

        target = seen(batch["fixed_points"][0], "fixed")
        left = [_apart(seen(end, "moving"), target) for end in ends]
        self.cohort.set_single(codes[int(np.argmin(left))])

    def _shapes(self, pair: Pair, centre, half) -> tuple[Shape, Shape, dict[str, np.ndarray]]:
        """Both shapes in a frame, with what the data term needs, and constants of the batches."""

        def placed(points):
            return ((points - centre) / half).astype(np.float32)

        shapes = {}
        for side in ("moving", "fixed"):
            scan, weights = getattr(pair, side), pair.counting_mask(side).astype(np.float64)
            if side == "moving" and pair.weights is not None:
                weights *= pair.weights
            shapes[side] = Shape(placed(scan.points), scan.faces, weights, normals=scan.normals)
        moving, fixed = shapes.values()
        if self.data == "correspondence":
            if len(pair.moving) != len(pair.fixed):
                raise ValueError(
                    "data='correspondence' needs as many fixed as moving points, not "
                    f"{len(pair.fixed)} and {len(pair.moving)}."
                )
            moving.features = placed(pair.fixed.points)
        elif self.data == "features" and self.dims == 3:
            trust = math.sqrt(self._trust(pair))
            signatures = [
                wave_kernel_signatures(scan, self.features, as_cloud=_bare(pair))
                for scan in (pair.moving, pair.fixed)
            ]
            moving.features, fixed.features = (trust * each for each in standardised(*signatures))
        elif self.data in ("normals", "varifold"):
            for side, shape in shapes.items():
                if not shape.oriented:
                    raise ValueError(
                        f"data={self.data!r} needs faces or normals; {side} has neither."
                    )
        constants = {}
        if pair.moving_landmarks is not None:
            for side in shapes:
                constants[f"{side}_landmarks"] = placed(getattr(pair, f"{side}_landmarks"))[None]
        if self.loss_weights["gradient"] > 0:
            probe = np.random.default_rng(self.seed).normal(size=(1, self.points, self.dims))
            probe /= np.linalg.norm(probe, axis=-1, keepdims=True)
            constants["probe"] = probe.astype(np.float32)
        return moving, fixed, constants

    def _trust(self, pair: Pair) -> float:
        """How far the features of both shapes may be compared, from 0 to 1."""
        return spectral_likeness(pair.moving, pair.fixed, self.features, _bare(pair))

    def _schedule(self, progress: float) -> dict[str, np.ndarray]:
        def falling(first, last):
            return first * (last / first) ** progress

        alpha = self.feature_weight * max(0.0, 1.0 - progress / FADED)
        values = {
            "tightness": 0.5 / falling(*self.sigma) ** 2,
            "feature_scale": math.sqrt(alpha),
            "width": falling(WIDE, NARROW),
        }
        return {name: np.full((1, 1), value, np.float32) for name, value in values.items()}

    def _judge(self, pair: Pair) -> None:
        """Drops a flow that brings nothing closer; says what is doubtful about another one."""
        moving, fixed = (pair.counting(side)[0] for side in ("moving", "fixed"))
        random = np.random.default_rng(self.seed)
        moving, fixed = (each[random.permutation(len(each))[:JUDGED]] for each in (moving, fixed))
        moved = self._moved(moving)
        before, after = (_apart(each, fixed) for each in (moving, moved))
        if not after < before:
            self.flow.restart(self.seed)  # the identity, whatever the code
            self.doubts.append(
                f"the flow brought the shapes no closer (mean distance {after:.4g}, {before:.4g} "
                "before) and was dropped; the result is the identity"
            )
            return
        if self.data == "features" and self.dims == 3 and self._trust(pair) < DOUBTFUL:
            self.doubts.append(
                "the shapes are not alike, or parts of them touch, so partners were sought by "
                "position alone: limbs may have changed places"
            )
        least = float(np.linalg.det(self.jacobian(moving)).min())
        if not least > 0:
            self.doubts.append(f"the flow folds: its smallest determinant is {least:.3g}")

    # What was fitted

    def _placed(self, points: np.ndarray) -> np.ndarray:
        return ((points - position(self.centre)) / float(exact(self.half))).astype(np.float32)

    def _moved(self, points: np.ndarray) -> np.ndarray:
        placed = self._placed(points)
        return self._back(points, placed, in_chunks(self._tools.trace, placed, CHUNK)[-1])

    def _pulled(self, points: np.ndarray) -> np.ndarray:
        placed = self._placed(points)
        (found,) = in_chunks(self._tools.invert, placed, CHUNK)
        ends = in_chunks(self._tools.trace, found, CHUNK)[-1]
        unsettled = np.abs(ends - placed).max(axis=1) > SETTLED
        if unsettled.any():
            (found[unsettled],) = in_chunks(self._tools.invert_surely, placed[unsettled], CHUNK)
        return self._back(points, placed, found)

    def _back(self, points: np.ndarray, placed: np.ndarray, carried: np.ndarray) -> np.ndarray:
        """World coordinates; only what was added is scaled, so that no digits are lost."""
        return points + float(exact(self.half)) * (carried.astype(np.float64) - placed)

    def map_of(self, pair: Pair):
        """The flow as a map of world coordinates; `pull` is its exact inverse.

        Its `fixed_grid` covers the frame, for the field that `save` writes for other tools; a saved
        model keeps the flow itself.
        """
        side = 2 * float(exact(self.half)) / LATTICE
        origin = position(self.centre) - side * (LATTICE - 1) / 2
        grid = Grid((LATTICE,) * self.dims, (side,) * self.dims, origin)
        return Mapped(self._pulled, self._moved, grid)

    def trajectory(self, points) -> np.ndarray:
        """Where points are after every block, from where they are given to where they end.

        Args:
            points: `[n, dims]` in the moving space, world units, or a `Scan`.

        Returns:
            float64 `[blocks + 1, n, dims]`, the first one the points as they are.
        """
        points = np.asarray(points.points if isinstance(points, Scan) else points, np.float64)
        placed = self._placed(points)
        steps = in_chunks(self._tools.trace, placed, CHUNK)
        return np.stack([points, *(self._back(points, placed, each) for each in steps)])

    def jacobian(self, points) -> np.ndarray:
        """The Jacobian of the flow at points `[n, dims]` of the moving space, `[n, dims, dims]`."""
        return in_chunks(self._tools.jacobian, self._placed(np.asarray(points)), CHUNK)[1]

    @classmethod
    def example(cls):
        example = super().example()
        config = {"dims": 2, "blocks": 3, "width": 16, "steps": 20, "points": 64}
        config["sigma"] = (0.1, 0.1)  # a falling one lets the loss rise
        return example | {"config": config}


def frame_around(pair: Pair) -> tuple[np.ndarray, float]:
    """The centre of the box around both shapes, and a little more than half its longest side."""
    both = np.concatenate([pair.counting(side)[0] for side in ("moving", "fixed")])
    low, high = both.min(axis=0), both.max(axis=0)
    return (low + high) / 2, MARGIN * float((high - low).max()) / 2


def _bare(pair: Pair) -> bool:
    """Whether features are those of clouds: those of a mesh and of a bare cloud do not compare."""
    return pair.moving.faces is None or pair.fixed.faces is None


def _apart(first: np.ndarray, second: np.ndarray) -> float:
    """The mean distance to the nearest point of the other cloud, in both directions."""
    there = cKDTree(second).query(first, workers=-1)[0].mean()
    return float(there + cKDTree(first).query(second, workers=-1)[0].mean()) / 2
