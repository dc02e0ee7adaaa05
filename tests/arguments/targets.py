"""What the public API offers to call, each with arguments that are good and small."""

from __future__ import annotations

import functools
import inspect

import keras
import numpy as np
from campaign import Target

import zoo
from zoo import layers, losses
from zoo.data import fields, keypoints, lungs, outlines, pairs, phantoms, shapes, vessels
from zoo.data.augmentation import Augmented
from zoo.data.chessboard import Chessboard, ChessboardPairs
from zoo.data.surface_batches import ManySurfaces, SurfaceSampler
from zoo.layers.hash_grid import HashGrid
from zoo.layers.intensities import locally_normalised
from zoo.layers.pyramid import downsample, image_pyramid
from zoo.losses.levels import Temperature
from zoo.metrics import diffeomorphism, keras_metrics, learn2reg, units
from zoo.metrics import registration as measures
from zoo.metrics import surface as surfaces
from zoo.models.affine import AffineRegistration
from zoo.models.dirvnet import DIRVNet
from zoo.models.divroc import DiVRoC
from zoo.models.igr import IGR, HalvingDecay
from zoo.models.igr_space import IGRSpace
from zoo.models.nephi import NePhi
from zoo.models.resnet_lddmm import ResNetLDDMM
from zoo.registration.chain import Chain
from zoo.registration.stages import Stage
from zoo.transform import Affine, Composed, Dense, Mapped, Velocity, scattered
from zoo.view import html

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.random((1, 8, 8, 1)).astype(np.float32)
FIELD = np.zeros((1, 8, 8, 2), np.float32)
CLOUD = RANDOM.normal(size=(1, 24, 3)).astype(np.float32)
WIDE = repr(np.zeros((2, 5)))  # points of five coordinates, which some take
POINTS = RANDOM.normal(size=(60, 3))
TINY_NET = {"levels": 1, "units": 1, "filters": 2, "data_kernel": 3, "smoothness_kernel": 3}
COUNTS = {"epochs": "whole?", "initial_epoch": "whole", "verbose": "thing", "callbacks": None}
LOADERS = {"workers": "whole", "use_multiprocessing": "flag", "max_queue_size": "whole"}
# What Keras takes for all layers; zero and one are none of its flags.
KERAS = {"name": "name", "trainable": "flag", "dtype": "dtype"}


def constructors() -> list[Target]:
    """Methods, layers, losses, metrics, data sets and transforms."""
    grid = zoo.Grid((8, 8))
    some = {
        layers.FieldsOfExperts: {
            "kinds": {"kernel_initializer": "word", "kernel_size": "sizes", "activation": "thing?"},
            "fine": {"kernel_initializer": ["'nothing'"]},
        },
        layers.Rasteriser: {"valid": {"shape": (8, 8)}},
    }
    made = []
    for name in layers.__all__:
        cls = getattr(layers, name)
        facts = some.get(cls, {})
        kinds = {"initializer": None, "slope": "number", "limits": "numbers"}
        own = inspect.signature(cls.__init__).parameters
        kinds = {k: v for k, v in kinds.items() if k in own} | facts.get("kinds", {})
        if "kwargs" in own:
            kinds |= KERAS
        made.append(Target(f"layers.{name}", cls, facts.get("valid", {}), kinds))
    for name in losses.__all__:
        if name != "one_hot":
            made.append(
                Target(f"losses.{name}", getattr(losses, name), kinds=LOSS_KINDS.get(name, {}))
            )
    for cls in vars(keras_metrics).values():
        public = inspect.isclass(cls) and cls.__module__ == keras_metrics.__name__
        if public and not cls.__name__.startswith("_"):
            made.append(Target(f"metrics.{cls.__name__}", cls))
    made += [
        Target("losses.Temperature", Temperature, fine={"start": ["-0.5"]}),
        Target("models.affine", AffineRegistration, {"dims": 2}, KERAS),
        Target(
            "models.dirvnet",
            functools.partial(DIRVNet),
            TINY_NET,
            KERAS | {"labels": "sizes?"},
            also={"levels": [10**6], "units": [10**6], "filters": [10**7], "passes": [10**6]},
        ),
        Target("models.resnet_lddmm", ResNetLDDMM, {}, KERAS),
        Target(
            "models.nephi",
            NePhi,
            {"dims": 2, "size": 16, "encoder_width": 1},
            KERAS,
            also={"size": [(16, 16, 16), 10**6], "cells": [10**6], "blurs": [()]},
        ),
        Target(
            "models.divroc", DiVRoC, {"dims": 2}, KERAS, also={"stages": [[], [{"lattice": 10**6}]]}
        ),
        Target(
            "models.igr",
            IGR,
            {"width": 8, "depth": 2, "skips": (2,)},
            KERAS,
            also={"depth": [10**6], "width": [10**8]},
        ),
        Target("layers.hash_grid", HashGrid, {"levels": 2, "finest": 16, "entries": 2**8}),
        Target("models.igr_sampler", SurfaceSampler, {"scan": shapes.sphere(100), "neighbours": 5}),
        Target("models.igr_decay", HalvingDecay),
        Target(
            "models.igr_space",
            IGRSpace,
            {"width": 8, "depth": 2, "skips": (), "codes": 2, "members": 2},
            KERAS,
            also={"depth": [10**6], "width": [10**8], "codes": [0, 10**6], "members": [0]},
        ),
        Target(
            "models.igr_space_batches",
            ManySurfaces,
            {"samplers": [SurfaceSampler(shapes.sphere(100), neighbours=5)], "shapes": 1},
            {"samplers": None},
            also={"shapes": [2]},
        ),
        Target(
            "registration.chain",
            Chain,
            {
                "first": {"method": "affine", "config": {"dims": 2}},
                "second": {"method": "affine", "config": {"dims": 2}},
            },
        ),
        Target("registration.stage", Stage),
        Target("surface", zoo.Surface),
        Target("registration.base", zoo.Registration),
        Target(
            "transform.Affine",
            Affine,
            {"matrix": np.eye(2), "offset": np.zeros(2)},
            {"matrix": "points", "offset": "points"},
        ),
        Target(
            "transform.Dense",
            Dense,
            {"displacement": FIELD[0], "grid": grid},
            {"displacement": "points"},
        ),
        Target(
            "transform.Velocity",
            Velocity,
            {"velocity": FIELD[0], "grid": grid},
            {"velocity": "points"},
        ),
        Target("transform.Composed", Composed, {"parts": [Affine.identity(2)]}),
        Target("transform.Mapped", Mapped, {"pull": lambda points: points, "rank": 2}),
    ]
    return made


LOSS_KINDS = {
    "MutualInformation": {"value_range": "numbers?"},
    "LNCC": {"window": "sizes"},
    "DensityDistance": {"shapes": "sizes"},
}


def data() -> list[Target]:
    """Containers, data sets and generators."""
    pair, _, _ = phantoms.phantom_pair((10, 10))
    oriented = shapes.sphere(20)
    image = zoo.Image.from_array(IMAGE[0, ..., 0])
    clouds = {"fixed": POINTS, "moving": POINTS}
    images = {"fixed": IMAGE[0, ..., 0], "moving": IMAGE[0, ..., 0]}
    maps = [
        np.ones((3, 3), int),
        np.full((8, 8), -1),
        np.full((8, 8), 0.5),
        np.full((8, 8), 1j),
        np.full((8, 8), "a"),
        np.full((8, 8), np.nan),
    ]
    made = [
        Target(
            "data.Pair",
            zoo.Pair,
            images,
            {k: "thing?" for k in ("fixed_labels", "moving_labels")}
            | {k: "array" for k in ("fixed_mask", "moving_mask")},
            also={"fixed_mask": maps, "moving_mask": maps, "fixed_labels": maps[2:]},
        ),
        Target(
            "data.Pair of clouds",
            zoo.Pair,
            clouds,
            {k: "points" for k in ("fixed", "moving")} | {"weights": "points"},
            also={"weights": [-np.ones(60), np.ones(59), np.ones(60, complex)]},
        ),
        Target(
            "data.Scan",
            zoo.Scan,
            {"points": oriented.points},
            {"faces": "points", "weights": "points"},
            also={
                "weights": [-np.ones(20), np.ones(19), np.zeros(20)],
                "faces": [
                    np.array([[0, 1, 20]]),
                    np.array([[0, 1, -1]]),
                    np.array([[0, 1]]),
                    np.array([[0.5, 1, 2]]),
                ],
            },
        ),
        Target(
            "data.Grid",
            zoo.Grid,
            {"shape": (8, 8)},
            {"shape": "sizes", "spacing": "numbers", "origin": "numbers?", "direction": "points?"},
            also={"shape": [(True, 3), [8, True]], "spacing": [(True, 2.0), 0.0, -1.0]},
            fine={"shape": ["(1000000, 1000000)"]},
        ),
        Target("data.Scan.split", oriented.split),
        Target(
            "data.Image",
            zoo.Image,
            {"array": IMAGE[0, ..., 0], "grid": zoo.Grid((8, 8))},
            {"array": "points"},
        ),
        Target(
            "data.Image.from_array",
            zoo.Image.from_array,
            {"array": IMAGE[0, ..., 0]},
            {"array": "points", "spacing": "numbers"},
            fine={"array": [WIDE, repr(np.ones((4, 3), bool))]},
        ),
        Target(
            "data.PairDataset", pairs.PairDataset, {"pairs": pair}, LOADERS | {"shape": "sizes?"}
        ),
        Target(
            "data.all_pairs",
            pairs.all_pairs,
            {"images": [image, image]},
            {"labels": "thing?", "masks": "thing?"},
        ),
        Target(
            "data.to_atlas",
            pairs.to_atlas,
            {"images": [image], "atlas": image},
            {"labels": "thing?", "atlas_labels": None, "atlas_mask": None},
        ),
        Target(
            "data.RepeatedBatch",
            pairs.RepeatedBatch,
            {"batch": {"x": IMAGE}},
            fine={"batch": ["{'a': 1}"]},
        ),
        Target("data.Augmented", Augmented, {"pairs": pairs.PairDataset(pair)}, LOADERS),
        Target("data.Chessboard", Chessboard, {"shape": (8, 8)}),
        Target("data.ChessboardPairs", ChessboardPairs, {"shape": (8, 8)}, LOADERS),
        Target("data.ShapePairs", outlines.ShapePairs, {"size": 8, "shapes": 4}, LOADERS),
        Target("data.shape_pairs", outlines.shape_pairs, {"count": 1, "size": 8}),
        Target("data.lung_pair", lungs.lung_case, {"size": 8}),
        Target(
            "data.LungPairs",
            lungs.LungPairs,
            {"cases": (1,), "size": 8},
            LOADERS,
            fine={"cases": ["(0, 4)"]},  # two seeds
        ),
        Target("data.VesselPairs", vessels.VesselPairs, {}, LOADERS),
        Target("data.vessel_pair", vessels.vessel_pair, {"seed": 0}, {"seed": "seed"}),
        Target(
            "data.phantom_pair",
            phantoms.phantom_pair,
            {"shape": (8, 8)},
            fine={"stretch": ["-0.5"]},
        ),
        Target("data.circle", shapes.circle, {"count": 9}, {"centre": "numbers"}),
        Target("data.sphere", shapes.sphere, {"count": 9}, {"centre": "numbers"}),
        Target("data.torus", shapes.torus, {"count": 9}),
        Target("data.torus_knot", shapes.torus_knot, {"count": 9}),
        Target("data.torus_distance", shapes.torus_distance, {"points": POINTS}),
        Target("data.random_field", fields.random_field, {"shape": (8, 8)}),
        Target("data.random_affine", fields.random_affine, {"shape": (8, 8)}),
        Target("data.smooth_field", fields.smooth_field, {"shape": (8, 8)}),
        Target("data.noise_field", fields.noise_field, {"shape": (8, 8)}),
        Target("data.inverse_field", fields.inverse_field, {"displacement": FIELD[0]}),
        Target(
            "data.density_keypoints",
            keypoints.density_keypoints,
            {"points": POINTS, "count": 3, "neighbours": 5, "rivals": 3},
        ),
        Target(
            "data.farthest_points",
            keypoints.farthest_points,
            {"points": POINTS, "count": 2},
            fine={"points": [WIDE]},
        ),
        Target(
            "data.voxel_means",
            keypoints.voxel_means,
            {"points": POINTS, "spacing": 1.0},
            fine={"points": [WIDE]},
        ),
        Target("data.match_moments", keypoints.match_moments, {"moving": POINTS, "fixed": POINTS}),
        Target(
            "data.gaussian_mean",
            keypoints.gaussian_mean,
            {"points": POINTS, "controls": POINTS, "values": POINTS, "width": 1.0},
        ),
        Target("data.deform_cloud", keypoints.deform_cloud, {"points": POINTS}),
        Target(
            "data.synthetic_pair",
            keypoints.synthetic_pair,
            {"first": POINTS, "second": POINTS, "count": 5},
        ),
        Target(
            "data.jolt_pair",
            keypoints.jolt_pair,
            {"fixed": POINTS, "moving": POINTS, "flow": POINTS},
        ),
    ]
    return made


def functions() -> list[Target]:
    """Calls of layers, losses, metrics and functions with arrays."""
    made = []

    def called(loss):
        def call(y_true, y_pred, sample_weight=None):
            return loss(y_true, y_pred, sample_weight)

        return call

    def on(layer):
        def call(**tensors):
            several = list(tensors.values())
            return layer(several if len(several) > 1 else several[0])

        return call

    same = {"y_true": "array", "y_pred": "array", "sample_weight": "array?"}
    weights = {
        "sample_weight": [
            -np.ones((1, 8, 8)),
            np.full((1, 8, 8), np.nan),
            np.ones((1, 8, 5)),
            np.ones((1, 8, 8), complex),
        ]
    }
    empty = {"y_pred": [IMAGE[:0], IMAGE[:, :5], np.ones((1, 8, 8, 2))]}
    for name in ("MeanSquaredError", "NCC", "LNCC", "MIND", "MutualInformation"):
        loss = getattr(losses, name)()
        made.append(
            Target(
                f"calls.{name}",
                called(loss),
                {"y_true": IMAGE, "y_pred": IMAGE},
                same,
                weights | empty,
            )
        )
    for name in ("Chamfer", "DensityDistance", "LandmarkError"):
        loss = getattr(losses, name)()
        cloud_weights = {
            "sample_weight": [-np.ones((1, 24)), np.ones((1, 7)), np.full((1, 24), np.nan)]
        }
        made.append(
            Target(
                f"calls.{name}",
                called(loss),
                {"y_true": CLOUD, "y_pred": CLOUD},
                same,
                cloud_weights | {"y_pred": [CLOUD[:0], CLOUD[:, :0], CLOUD[..., :1]]},
            )
        )
    for name in ("Diffusion", "Bending", "TotalVariation"):
        made.append(
            Target(
                f"calls.{name}",
                called(getattr(losses, name)()),
                {"y_true": FIELD, "y_pred": FIELD},
                same | {"y_true": None},
                {"y_pred": [FIELD[:0], FIELD[..., :1]]},
                {"y_pred": ["None"]},
            )
        )
    made += [
        Target(
            "calls.one_hot",
            losses.one_hot,
            {"labels": np.ones((1, 8, 8), int), "values": 3},
            {"labels": "points", "values": "sizes"},
            fine={"values": ["(0, 4)", "(-1, 4)"]},
        ),
        Target(
            "calls.dice_scores",
            measures.dice_scores,
            {"fixed_labels": np.ones((4, 4), int), "moved_labels": np.ones((4, 4), int)},
            {"fixed_labels": "points", "moved_labels": "points", "labels": "sizes?"},
        ),
        Target(
            "calls.hausdorff95",
            measures.hausdorff95,
            {
                "fixed_labels": np.ones((4, 4), int),
                "moved_labels": np.ones((4, 4), int),
                "spacing": (1.0, 1.0),
            },
            {"fixed_labels": "points", "moved_labels": "points", "labels": "sizes?"},
        ),
        Target(
            "calls.target_registration_error",
            measures.target_registration_error,
            {"fixed": POINTS, "moved": POINTS},
            {"fixed": "points", "moved": "points"},
        ),
        Target(
            "calls.relative_tre",
            measures.relative_tre,
            {"fixed": POINTS, "moved": POINTS, "image_diagonal": 2.0},
            {"fixed": "points", "moved": "points", "initial": "points"},
        ),
        Target(
            "calls.fold_percentage",
            measures.fold_percentage,
            {"determinant": np.ones((4, 4))},
            {"determinant": "array", "mask": "array"},
            fine={"determinant": [repr(np.zeros((2, 5, 5, 5, 5, 5))), repr(np.zeros(4))]},
        ),
        Target(
            "calls.sd_log_jacobian",
            measures.sd_log_jacobian,
            {"determinant": np.ones((4, 4))},
            {"determinant": "array", "mask": "array"},
            fine={"determinant": [repr(np.zeros((2, 5, 5, 5, 5, 5))), repr(np.zeros(4))]},
        ),
        Target(
            "calls.endpoint_error",
            measures.endpoint_error,
            {"u": FIELD, "v": FIELD},
            {"u": "points", "v": "points", "mask": "array"},
        ),
        Target(
            "calls.cloud_distances", surfaces.cloud_distances, {"first": POINTS, "second": POINTS}
        ),
        Target(
            "calls.non_diffeomorphic_volume",
            diffeomorphism.non_diffeomorphic_volume,
            {"displacement": FIELD[0]},
            {"displacement": "array", "mask": "array"},
        ),
        Target(
            "calls.learn2reg_scores",
            learn2reg.learn2reg_scores,
            {
                "displacement": np.zeros((6, 6, 6, 3)),
                "fixed_landmarks": POINTS,
                "moving_landmarks": POINTS,
                "fixed_labels": np.ones((6, 6, 6), int),
                "moving_labels": np.ones((6, 6, 6), int),
            },
            {
                "displacement": "array",
                "fixed_landmarks": "points",
                "moving_landmarks": "points",
                "fixed_labels": "points",
                "moving_labels": "points",
                "labels": "sizes?",
                "mask": "array",
            },
        ),
        Target("calls.unit_of", units.unit_of, {"metric": "dice", "task": "registration"}),
        Target(
            "calls.image_pyramid", image_pyramid, {"image": IMAGE, "levels": 2}, {"image": "array"}
        ),
        Target("calls.downsample", downsample, {"image": IMAGE}, {"image": "array"}),
        Target(
            "calls.locally_normalised",
            locally_normalised,
            {"image": IMAGE},
            {"image": "array", "mask": None},
        ),
        Target(
            "calls.scattered",
            scattered,
            {"points": POINTS, "vectors": 0.01 * POINTS},
            {"points": "points", "vectors": "points", "weights": "points"},
            {"weights": [-np.ones(60), np.ones(7)]},
        ),
    ]
    nothing = repr(np.zeros((0, 8, 8, 2)))
    called_with = {
        layers.SpatialTransformer(): {"moving": IMAGE, "displacement": FIELD},
        layers.Compose(): {"first": FIELD, "second": FIELD},
        layers.UpsampleDisplacement(): {"displacement": FIELD[:, :4, :4], "reference": IMAGE},
        layers.BSplineExpand(4, order=1): {"control": FIELD[:, :3, :3], "reference": IMAGE},
        layers.BSplineAdjoint(4): {"field": FIELD},
        layers.ScalingAndSquaring(): {"velocity": FIELD},
        layers.ImagePyramid(2): {"image": IMAGE},
    }
    for layer, valid in called_with.items():
        kinds = dict.fromkeys(valid, "tensor")
        # Nothing comes of nothing; of a reference only the sizes count.
        fine = {name: [nothing] for name in ("reference", "field", "image")}
        made.append(Target(f"calls.{type(layer).__name__}", on(layer), valid, kinds, fine=fine))
    return made


def methods() -> list[Target]:
    """Options of `fit`, `predict`, `evaluate`, `mesh`, `compile` and of transforms."""
    scan = shapes.sphere(60)
    surface = zoo.create(
        "igr", encoding=None, width=8, depth=2, skips=(2,), neighbours=5, points_per_step=20
    )
    surface.fit(scan, steps_per_epoch=1, verbose=0)
    space = zoo.create("igr_space", **IGRSpace.example()["config"] | {"codes": 3})
    space.table.assign(np.eye(*space.table.shape))  # codes of a family, as if it had been learned
    plane = zoo.create("igr", dims=2, encoding=None, width=8, depth=2, skips=(2,))
    pair, _, _ = phantoms.phantom_pair((16, 16))
    align = zoo.create("affine", dims=2, levels=1, voxels=200)
    net = zoo.create("dirvnet", dims=2, **TINY_NET)
    clouds = zoo.Pair(POINTS, POINTS + 0.01)
    divroc = zoo.create("divroc", stages=[{"lattice": 4, "pool": 1, "steps": 1}])
    affine = Affine.identity(2, pair.fixed.grid)
    batch = {side: np.repeat(IMAGE, 2, 0) for side in ("fixed", "moving")}
    nan = batch | {"moving": np.full_like(batch["moving"], np.nan)}
    other = [
        nan, batch | {"fixed": IMAGE[:0], "moving": IMAGE[:0]}, {"fixed": batch["fixed"]},
        {side: np.ones((2, 8, 8, 3), np.float32) for side in batch},
        {side: np.ones((2, 8, 8), np.float32) for side in batch},
        batch | {"moving": batch["moving"].astype(complex)},
        batch | {"moving": batch["moving"].astype(object)},
        batch | {"moving": batch["moving"][:1]}, batch | {"moving_mask": -batch["moving"]},
    ]  # fmt: skip
    steps = {"steps_per_epoch": "whole?"}
    # None leaves an option out.
    sampling = {
        "batch_size": "whole?",
        "shuffle": "flag?",
        "seed": "seed?",
        "align": "word?",
        "shape": "sizes?",
    }
    compiling = {
        "optimizer": "thing?",
        "loss_weights": "thing?",
        "jit_compile": "thing",
        "loss": "thing?",
        "metrics": None,
    }
    fine = {"jit_compile": ["True"], "verbose": ["True"], "x": ["None"]}
    many = pairs.LazyPairs([lambda: pair, lambda: pair])
    return [
        Target(
            "fit.igr",
            surface.fit,
            {"x": scan, "steps_per_epoch": 1, "verbose": 0},
            COUNTS
            | steps
            | {"seed": "seed?", "points_per_step": "whole?", "x": "thing", "y": None},
            {"epochs": [0, -1]},
        ),
        Target(
            "fit.igr_space",
            space.fit,
            {"x": [scan] * 3, "steps_per_epoch": 1, "verbose": 0},
            COUNTS | steps | {"seed": "seed?", "x": "thing", "y": None},
            {"epochs": [0, -1], "x": [[scan], [scan] * 4, [scan, scan, None], []]},
        ),
        Target(
            "fit.igr_space scan",
            space.fit,
            {"x": scan, "steps_per_epoch": 1, "verbose": 0},
            COUNTS | steps | {"seed": "seed?", "x": None, "y": None},
            {"epochs": [0, -1]},
        ),
        Target("encode", space.encode, {"scan": scan}, {"scan": "thing"}),
        Target("decode", space.decode, {"code": 0}, {"code": "points"}, {"code": [-1, 3, 0.5]}),
        Target(
            "interpolate",
            space.interpolate,
            {"first": 0, "second": 1, "resolution": 8},
            {"first": "points", "second": "points"},
            {"first": [3], "count": [1], "resolution": [1]},
        ),
        Target(
            "fit.affine",
            align.fit,
            {"x": pair, "epochs": 1, "verbose": 0},
            COUNTS | steps | {"y": "thing?"},
            {"epochs": [0, -1]},
        ),
        Target(
            "fit.dirvnet pair",
            net.fit,
            {"x": pair, "epochs": 1, "verbose": 0},
            COUNTS | {"learning_rate": "number"},
            {"epochs": [0]},
            {"y": ["None"]},
        ),
        Target(
            "fit.dirvnet arrays",
            net.fit,
            {"x": batch, "verbose": 0},
            COUNTS | {"batch_size": "whole?", "x": "thing", "y": None},
            {"x": other, "epochs": [0]},
        ),
        Target(
            "fit.dirvnet pairs",
            net.fit,
            {"x": many, "verbose": 0},
            COUNTS | steps | sampling | {"x": None, "y": None},
            {"steps_per_epoch": [0]},
        ),
        Target(
            "fit.divroc",
            divroc.fit,
            {"x": clouds, "verbose": 0},
            COUNTS | {"flow": "points?", "y": None},
            {"epochs": [0]},
        ),
        Target(
            "mesh",
            surface.mesh,
            {"resolution": 8},
            also={"trim_distance": [0], "resolution": [1, 10**5]},
        ),
        Target("contours", plane.contours, {"resolution": 8}, also={"resolution": [1, 10**6]}),
        Target(
            "evaluate.igr",
            surface.evaluate,
            {"x": scan, "resolution": 8, "samples": 10},
            {"x": None, "seed": "seed"},
        ),
        Target(
            "predict.igr",
            surface.predict,
            {"x": POINTS},
            {"x": "points", "batch_size": "whole"},
            fine={"x": [repr(np.zeros((0, 3)))]},
        ),
        Target(
            "predict.dirvnet",
            net.predict,
            {"x": batch},
            {"x": None},
        ),
        Target(
            "predict.dirvnet arrays",
            lambda x: net.predict(x),
            {"x": batch},
            {"x": None},
            {"x": other[:-1]},
        ),
        Target("predict.divroc", lambda x: divroc.predict(x), {"x": CLOUD}, {"x": "points"}),
        Target("evaluate.affine", lambda x: align.evaluate(x), {"x": pair}, {"x": "thing"}),
        Target("transform.affine", align.transform, {"pair": pair}),
        Target(
            "compile.igr",
            surface.compile,
            {},
            compiling,
            {
                "loss": ["mse"],
                "loss_weights": [
                    {"surface": "1"},
                    {"surface": np.nan},
                    {"surface": -1.0},
                    {"surface": None},
                ],
            },
            fine,
        ),
        Target(
            "compile.dirvnet",
            net.compile,
            {},
            compiling,
            {"loss": ["mse", keras.losses.MeanSquaredError()]},
            fine,
        ),
        Target("transform.move", affine.move, {"points": POINTS[:, :2]}, {"points": "points"}),
        Target("transform.pull", affine.pull, {"points": POINTS[:, :2]}, {"points": "points"}),
        Target(
            "transform.move by iteration",
            Mapped(lambda x: x, rank=3).move,
            {"points": POINTS},
            {"points": "points"},
            fine={"points": [repr(np.zeros((0, 3)))]},
        ),
        Target(
            "transform.inverse_error",
            affine.inverse_error,
            {"points": POINTS[:, :2]},
            {"points": "points"},
        ),
        Target("transform.displacement", affine.displacement),
        Target("transform.jacobian_determinant", affine.jacobian_determinant),
        Target("transform.warp", affine.warp, {"image": pair.moving}),
        Target("transform.sampled", affine.sampled),
        Target("transform.compose", lambda other: affine @ other, {"other": affine}),
        Target("transform.identity", Affine.identity, {"rank": 2}),
    ]


def pages() -> list[Target]:
    """Interactive pages."""
    clouds, images = zoo.Pair(POINTS, POINTS + 1), zoo.Pair(IMAGE[0], IMAGE[0] ** 2)
    path = np.stack([POINTS, POINTS + 1])
    return [
        Target("view.surface_page", html.surface_page, {"meshes": {}, "points": POINTS}),
        Target("view.cloud_page", html.cloud_page, {"pair": clouds}),
        Target("view.image_page", html.image_page, {"pair": images}, fine={"slice_axis": ["-1"]}),
        Target("view.pair_page", html.pair_page, {"pair": images}),
        Target(
            "view.path_page",
            html.path_page,
            {"path": path, "target": POINTS},
            fine={"title": ["''", "'nothing'"]},
        ),
    ]


def all_targets() -> list[Target]:
    """Everything, in an order that is the same at every call."""
    return [*constructors(), *data(), *functions(), *methods(), *pages()]
