"""A space of shapes: one network for many scans, of which a code says which one is meant.

Gropp, Yariv, Haim, Atzmon, Lipman: Implicit Geometric Regularization for Learning Shapes,
ICML 2020 (arXiv:2002.10099), section on shape spaces; the auto-decoder is that of DeepSDF, Park et
al., CVPR 2019 (arXiv:1901.05103).

A network f(x, z) and a code z_i for each scan i are trained together by the terms of a single scan
(see `zoo.losses.signed_distance`), means over the scans of a step, and

    0.001 mean over i of |z_i|,

with all codes zero at the start. A further scan, or part of one, is fitted by its code alone: the
network, frozen, says what belongs to the shape where the scan shows nothing.

All scans lie in one frame, in which the longest side of the box around all of them is [-1, 1].
Nothing is turned or scaled to fit: scans have to be posed alike.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from zoo.data.scan import Scan
from zoo.data.shapes import sphere
from zoo.data.surface_batches import ManySurfaces, SurfaceSampler
from zoo.layers.coordinate_mlp import CoordinateMLP
from zoo.losses.signed_distance import signed_distance_terms
from zoo.model import TellEpoch
from zoo.ops.arguments import MOST, between, checked, positive, shown
from zoo.ops.array_arguments import real_array
from zoo.ops.compiling import replicas
from zoo.ops.falling_rate import fit_falling
from zoo.ops.gradients import norm, value_and_gradient
from zoo.ops.training import Released
from zoo.ops.training_arguments import check_fit
from zoo.registration.frame import exact, stored
from zoo.surface import MESH_BOX, Surface, scan_from, scan_or_none, warn_of

NETWORK = "codes width depth skips activation beta centred radius scale_skips"
"""What of `CoordinateMLP` the constructor takes."""
OWN = "members points_per_step shapes_per_step neighbours box"
STEPS = 100  # of an epoch
EPOCHS, SEARCH_EPOCHS = 30, 4  # of a training and of a fit to one scan
RATE, SEARCH_RATE = 2e-3, 1e-2
SEEN = 1024  # points of a scan whose distances tell which code comes close
SEARCHED = ("surface", "normals", "eikonal", "codes")  # terms of a fit to one scan
POOR = 3.0  # times the residual of the worst training scan: a code that does not fit


class IGRSpace(Surface):
    """Signed distances to the shapes of a family, each of which is a short code.

    `fit([scan, scan, ...])` learns the family; the model is then its mean shape. `fit(scan)` finds
    the code of another scan, which may be partial; `predict`, `mesh` and `evaluate` are then of
    that one, and `doubts` says, as a warning does, where it is no member of the family.
    `decode(code)` is the shape of a code, `interpolate(first, second)` what lies between two.

    Args:
        dims: 3 for surfaces, 2 for planar curves.
        members: scans that the family is learned from.
        codes: components of a code.
        width: hidden units of each layer.
        depth: number of hidden layers.
        skips: linear layers that receive coordinates and code again.
        activation: "softplus", "relu" or "leaky_relu".
        beta: sharpness of the softplus.
        centred: shift the softplus to vanish at zero.
        radius: of the sphere that all shapes are at first, in the frame.
        scale_skips: divide by sqrt(2) after a concatenation.
        points_per_step: surface points of one training step, of all its scans together.
        shapes_per_step: scans of one training step; no more than `members` are taken.
        neighbours: which neighbour's distance is the width of the local samples.
        box: half side of the cube of the uniform samples.

    Attributes:
        doubts: why the last fit to a scan is not to be trusted, a sentence each.

    Raises:
        ValueError: for arguments out of range.
    """

    default_loss_weights = {
        "surface": 1.0,
        "normals": 1.0,
        "eikonal": 0.1,
        "far": 1.0,
        "codes": 1e-3,
    }
    xla_on_cpu = True
    usual_epochs = SEARCH_EPOCHS  # from the shell, where one scan is given
    prepare_options = ("steps_per_epoch", "seed")

    @checked(
        members=(1, 10**6),
        codes=(1, 2**14),
        points_per_step=(1, MOST),
        shapes_per_step=(1, MOST),
        neighbours=(1, MOST),
        box=positive,
    )
    def __init__(
        self,
        dims: int = 3,
        members: int = 24,
        codes: int = 32,
        width: int = 128,
        depth: int = 4,
        skips: Sequence[int] = (2,),
        activation: str = "softplus",
        beta: float = 100.0,
        centred: bool = True,
        radius: float = 0.5,
        scale_skips: bool = True,
        points_per_step: int = 2048,
        shapes_per_step: int = 4,
        neighbours: int = 50,
        box: float = 1.2,
        **kwargs,
    ):
        super().__init__(dims=dims, **kwargs)
        self.members, self.codes, self.neighbours, self.box = members, codes, neighbours, box
        self.points_per_step, self.shapes_per_step = points_per_step, shapes_per_step
        self.network = CoordinateMLP(
            width=width,
            depth=depth,
            skips=skips,
            activation=activation,
            beta=beta,
            centred=centred,
            radius=radius,
            scale_skips=scale_skips,
            codes=codes,
            name="network",
        )
        self.network.build((None, dims))
        self.table = stored(self, "table", (members, codes), trainable=True)
        self.code = stored(self, "code", (codes,))
        # Of the training scan that is fitted worst, see `residual_of`.
        self.residual = stored(self, "residual", ())
        self.doubts: list[str] = []
        # In a namespace, because Keras would count what it finds in attributes as layers.
        self._kept = types.SimpleNamespace(search=None)

    def get_config(self):
        network = {name: getattr(self.network, name) for name in NETWORK.split()}
        own = {name: getattr(self, name) for name in OWN.split()}
        return network | super().get_config() | own

    def count_params(self):
        """Parameters of the network and the codes of the training scans."""
        return super().count_params() - (self.codes + 1)

    @property
    def frame(self) -> tuple[np.ndarray, float]:
        """Centre `[dims]` and scale of the frame that all scans share, in their units."""
        return self._centre, self._scale

    # The field and its training

    def field(self, points):
        """The current shape's signed distance `[n]` at points `[n, dims]`, both in the frame."""
        return self.network(points, self.code[None])[:, 0]

    def call(self, inputs):
        """Signed distance at points, or what the loss needs of a training batch.

        Args:
            inputs: points `[n, dims]` in the units of the scans; or a training batch, a dict of
                `member` `[s]`, `surface` `[s, n, dims]` and `off_surface` `[s, m, dims]` in the
                frame; see `zoo.data.surface_batches.ManySurfaces`.

        Returns:
            Distances `[n, 1]` of the current shape; or a dict of `surface_value` `[s, n]`,
            `surface_gradient` `[s, n, dims]`, the same `off_surface`, and `code` `[s, codes]`.
        """
        if not isinstance(inputs, dict):
            return super().call(inputs)
        code = ops.take(self.table, inputs["member"], axis=0)
        return values_of_batch(self.network, inputs, code)

    def loss_terms(self, x, y, y_pred):
        """The terms of the module's docstring."""
        return signed_distance_terms(x, y_pred) | {"codes": ops.mean(norm(y_pred["code"]))}

    def default_optimizer(self):
        return keras.optimizers.Adam(RATE)

    def fit(self, x=None, y=None, **kwargs):
        """Learns the family, or finds the code of one scan with the network as it is.

        The learning rate falls to a hundredth along half a cosine over all epochs, unless it is a
        schedule. A fit to one scan begins with the code of that training scan whose surface is
        closest; it has an optimiser of its own, and callbacks see a model that has the code alone.

        Args:
            x: a list of `members` scans (meshes, arrays, dicts), or one scan; they have to be posed
                alike. Anything else goes to `zoo.Model.fit`.
            y: None.
            **kwargs: of `zoo.Model.fit`, besides `steps_per_epoch` (100) and `seed`; there are 30
                epochs by default, for one scan 4.

        Returns:
            The Keras `History`.

        Raises:
            ValueError: for another number of scans, scans that are too small or of another
                dimension, or one scan before a family was learned.
        """
        scan = None if isinstance(x, list | tuple) else scan_or_none(x, "x")
        if scan is not None:
            code, history = self._search(scan, y, **kwargs)
            self.code.assign(code)
            self._doubt(scan)
            return history
        if not isinstance(x, list | tuple):
            return super().fit(x, y, **kwargs)
        if not self.compiled:
            self.compile()
        scans = self._scans(x)
        history = fit_falling(super().fit, self.optimizer, EPOCHS, tuple(scans), y, kwargs)
        table = exact(self.table)
        self.code.assign(table.mean(axis=0))
        self.residual.assign(
            max(self.residual_of(*pair) for pair in zip(scans, table, strict=True))
        )
        self.doubts = []
        return history

    def prepare(self, data, validation: bool = False, **options):
        """A list of scans as batches; their common box becomes the frame of the model.

        Args:
            data: the scans; a data set of batches is returned as it came.
            validation: the scans, other points of the same shapes in the same order, are not
                trained on.
            **options: of `batches`.

        Raises:
            ValueError: as `fit`.
        """
        if not isinstance(data, list | tuple):
            if scan_or_none(data, "validation_data") is not None:
                raise ValueError(
                    f"validation_data must be a list of the {self.members} scans that are trained "
                    "on, or of other points of them, for only these have codes."
                )
            return data
        scans = self._scans(data)
        for scan in () if validation else scans:
            warn_of(scan, stacklevel=6)
        frame = self.frame if validation else common_frame(scans)
        batches = self.batches(scans, frame, **options)
        # Only after the scans were accepted: a refused fit leaves the model as it was.
        self.centre.assign(frame[0])
        self.scale.assign(frame[1])
        return batches

    @checked(steps_per_epoch=(1, MOST))
    def batches(self, scans, frame, steps_per_epoch: int | None = STEPS, seed: int = 0):
        """Batches of `ManySurfaces`.

        Args:
            scans: of the model's dimension.
            frame: centre and scale.
            steps_per_epoch: batches that count as an epoch; None is 100.
            seed: of the samples.

        Raises:
            ValueError: for a scan with too few points.
        """
        shapes = min(self.shapes_per_step, self.members)
        points = max(self.points_per_step // shapes, 1)
        points = min(points, *(len(scan) for scan in scans), MOST)
        samplers = [self._sampler(scan, frame, points, 1, seed) for scan in scans]
        return ManySurfaces(samplers, shapes, steps_per_epoch or STEPS, seed)

    def _sampler(self, scan, frame, points: int, steps: int, seed: int) -> SurfaceSampler:
        return SurfaceSampler(
            scan, frame, steps, points, self.neighbours, self.box, seed, guided=True
        )

    def _scans(self, data) -> list[Scan]:
        scans = []
        for number, each in enumerate(data):
            scan = scan_from(each, f"x[{number}]")
            self._check_dims(scan)
            scans.append(scan.without_unused())
        if len(scans) != self.members:
            raise ValueError(
                f"x must hold the {self.members} scans that members says, not {len(scans)}."
            )
        return scans

    # One scan

    @checked(epochs=(1, MOST), steps_per_epoch=(1, MOST))
    def encode(
        self, scan, epochs: int = SEARCH_EPOCHS, steps_per_epoch: int = STEPS, seed: int = 0
    ) -> np.ndarray:
        """The code of a scan, as `fit(scan)` finds it; the model stays as it is.

        Args:
            scan: a scan, mesh or array of points, perhaps a part, posed as those of the training.
            epochs, steps_per_epoch: of the search.
            seed: of the samples.

        Returns:
            float64 array `[codes]`.

        Raises:
            ValueError: as `fit`.
        """
        options = {"epochs": epochs, "steps_per_epoch": steps_per_epoch, "verbose": 0}
        return self._search(scan_from(scan, "scan"), seed=seed, **options)[0]

    @checked(steps_per_epoch=(1, MOST))
    def _search(
        self,
        scan: Scan,
        y=None,
        steps_per_epoch: int | None = STEPS,
        seed: int | None = 0,
        **kwargs,
    ) -> tuple[np.ndarray, keras.callbacks.History]:
        """The code of a scan, and the history of the search for it."""
        self._check_dims(scan)
        self._check_learned()
        if kwargs.get("validation_data") is not None:
            raise ValueError("validation_data must be None for one scan, which evaluate measures.")
        scan = scan.without_unused()
        warn_of(scan, stacklevel=5)
        points = min(self.points_per_step, len(scan))
        batches = self._sampler(scan, self.frame, points, steps_per_epoch or STEPS, seed or 0)
        if self._kept.search is None:
            self._kept.search = CodeSearch(self.network)
        search = self._kept.search
        weights = {name: self.loss_weights[name] for name in SEARCHED}
        search.start(self._closest(batches.points), weights)
        history = search.find(batches, y, kwargs)
        return exact(search.code), history

    def _closest(self, points: np.ndarray) -> np.ndarray:
        """The code of that training scan, or the mean of all, whose surface is closest to points.

        Args:
            points: in the frame.
        """
        table = exact(self.table).astype(np.float32)
        known = np.concatenate([table, table.mean(axis=0, keepdims=True)])
        some = points[np.random.default_rng(0).permutation(len(points))[:SEEN]]
        left = [np.abs(ops.convert_to_numpy(self.network(some, z[None]))).mean() for z in known]
        return known[int(np.argmin(left))]

    def residual_of(self, scan: Scan, code) -> float:
        """How far the points of a scan lie from the surface of a code: mean |f|, in the frame.

        Args:
            scan: the points.
            code: `[codes]`, or the number of a training scan.
        """
        points = self._into_frame(scan.points)
        points = points[np.random.default_rng(0).permutation(len(points))[:SEEN]]
        code = self._code("code", code).astype(np.float32)[None]
        return float(np.abs(ops.convert_to_numpy(self.network(points, code))).mean())

    def _doubt(self, scan: Scan) -> None:
        """Warns of a scan that the family does not explain."""
        self.doubts = []
        outside = (np.abs(self._into_frame(scan.points)).max(axis=1) > MESH_BOX).mean()
        if outside > 0:
            self.doubts.append(
                f"{100 * outside:.0f} % of its points lie outside of the box of the training "
                "scans, which it has to be posed like"
            )
        left, usual = self.residual_of(scan, exact(self.code)), float(exact(self.residual))
        if left > POOR * usual:
            self.doubts.append(
                f"its points lie {left * self._scale:.2g} from the surface that was found, and "
                f"those of the worst training scan {usual * self._scale:.2g}: it is posed "
                "otherwise, or no member of the family"
            )
        if self.doubts:
            warnings.warn(f"{scan.name!r}: {'; '.join(self.doubts)}.", UserWarning, stacklevel=3)

    # Shapes of codes

    def decode(self, code) -> IGRSpace:
        """The shape of a code, as a model of the same family.

        Args:
            code: `[codes]`, or the number of a training scan.

        Returns:
            A copy of the model, whose `mesh`, `predict` and `evaluate` are of that shape.

        Raises:
            ValueError: for a code of another length, or a number that no training scan has.
        """
        code = self._code("code", code)
        copy = type(self)(**self.get_preset_config())
        copy.set_weights(self.get_weights())
        copy.code.assign(code)
        return copy

    @checked(count=(2, 10_000), resolution=(2, 4096))
    def interpolate(self, first, second, count: int = 5, resolution: int = 128) -> list:
        """Shapes on the straight line between two codes.

        Args:
            first, second: codes `[codes]`, numbers of training scans, or scans, whose codes are
                then found.
            count: shapes, both ends among them.
            resolution: of the meshes.

        Returns:
            Meshes, see `mesh`; of planar models what `contours` returns.

        Raises:
            ValueError: for what is no code, or a scan that `fit` refuses.
            zoo.ops.isosurface.NoSurface: where the line leads through a field without a zero.
        """
        ends = [self._code(name, end) for name, end in (("first", first), ("second", second))]
        before = exact(self.code)
        extract = self.mesh if self.dims == 3 else self.contours
        shapes = []
        try:
            for share in np.linspace(0, 1, count):
                self.code.assign((1 - share) * ends[0] + share * ends[1])
                shapes.append(extract(resolution))
        finally:
            self.code.assign(before)
        return shapes

    def _code(self, name: str, value) -> np.ndarray:
        self._check_learned()
        if isinstance(value, int | np.integer) and not isinstance(value, bool):
            return exact(self.table)[between(name, value, 0, self.members - 1)]
        if isinstance(value, Scan) or (hasattr(value, "vertices") and hasattr(value, "faces")):
            return self.encode(value)
        code = real_array(name, value, booleans=False)
        if code.shape != (self.codes,):
            raise ValueError(
                f"{name} must be a code of {self.codes} numbers, the number of a training scan "
                f"or a scan, not {shown(value)}."
            )
        return code.astype(np.float64)

    def _check_learned(self) -> None:
        if not exact(self.table).any():
            raise ValueError(
                f"no family of shapes was learned yet: fit a list of {self.members} scans first, "
                "or load a preset."
            )

    @classmethod
    def example(cls):
        config = {
            "members": 3,
            "codes": 4,
            "width": 16,
            "depth": 2,
            "skips": (),
            "points_per_step": 200,
            "shapes_per_step": 3,
            "neighbours": 10,
        }
        scans = [sphere(200, radius=radius, seed=1) for radius in (0.5, 0.7, 0.9)]
        points = scans[1].points
        inputs = [points[:37], points[:1], points]
        return {"config": config, "data": scans, "fit": {"steps_per_epoch": 10}, "inputs": inputs}


class CodeSearch(Released):
    """Finds the code of one scan by gradient descent; the network is not its own.

    Args:
        network: a `CoordinateMLP` with codes.
    """

    def __init__(self, network: CoordinateMLP):
        super().__init__(autocast=False, dtype="float32")
        self.network = network
        self.code = stored(self, "code", (network.codes,), trainable=True)
        self.built = True
        self.loss_weights: dict[str, float] = {}
        self.terms = {name: keras.metrics.Mean(name=name) for name in SEARCHED}

    def start(self, code: np.ndarray, weights: dict[str, float]) -> None:
        """Begins anew at a code; the compiled step is kept where the weights are as before."""
        if self.loss_weights != weights:
            self.loss_weights = dict(weights)
            self.compile(keras.optimizers.Adam(SEARCH_RATE), jit_compile=replicas() == 1)
        self.code.assign(code)
        for variable in self.optimizer.variables:
            if variable is not self.optimizer.learning_rate:
                variable.assign(np.zeros(variable.shape))

    def find(self, batches: SurfaceSampler, y, options: dict) -> keras.callbacks.History:
        """Descends along batches, the network frozen; options are those of `keras.Model.fit`."""
        check_fit(options)
        trainable, self.network.trainable = self.network.trainable, False
        given = options.pop("callbacks", None)
        given = given if isinstance(given, list | tuple) else [given]
        options = {"shuffle": False, **options, "callbacks": [*given, TellEpoch(batches)]}
        try:
            return fit_falling(super().fit, self.optimizer, SEARCH_EPOCHS, batches, y, options)
        finally:
            self.network.trainable = trainable

    def call(self, inputs):
        """As `IGRSpace.call` of a batch, of the one scan: arrays without the axis of scans."""
        return values_of_batch(self.network, inputs, self.code[None])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The terms of a family but for `far`: a part of a scan does not tell what is inside."""
        known = {name: x[name] for name in ("normals", "trust")}
        terms = signed_distance_terms(known, y_pred) | {"codes": norm(self.code)}
        for name, value in terms.items():
            self.terms[name].update_state(value)
        return sum(self.loss_weights[name] * value for name, value in terms.items())


def values_of_batch(network: CoordinateMLP, inputs: dict, code) -> dict:
    """The field and its gradient at the points of a batch.

    Args:
        network: of points and codes.
        inputs: `surface` `[..., n, d]` and `off_surface` `[..., m, d]`.
        code: `[..., codes]`, with an axis of size one where there is none of scans.

    Returns:
        A dict of `surface_value`, `surface_gradient`, `off_surface_value`, `off_surface_gradient`
        and `code`.
    """
    # One pass over both kinds of points: larger products are faster.
    count = ops.shape(inputs["surface"])[-2]
    points = ops.concatenate([inputs["surface"], inputs["off_surface"]], axis=-2)
    each = code[:, None] if len(points.shape) == 3 else code
    value, gradient = value_and_gradient(lambda x: network(x, each)[..., 0], points)
    return {
        "surface_value": value[..., :count],
        "surface_gradient": gradient[..., :count, :],
        "off_surface_value": value[..., count:],
        "off_surface_gradient": gradient[..., count:, :],
        "code": code,
    }


def common_frame(scans: Sequence[Scan]) -> tuple[np.ndarray, float]:
    """Centre `[dims]` and half the longest side of the box around all scans."""
    corners = [corner(scan.points, axis=0) for scan in scans for corner in (np.min, np.max)]
    return Scan(np.array(corners)).frame
