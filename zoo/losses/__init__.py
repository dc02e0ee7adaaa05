"""Losses of images, labels, landmarks, clouds and fields; masks go into `sample_weight`."""

from zoo.losses.clouds import Chamfer, Curvature, DensityDistance, DistanceTransform, Smoothness
from zoo.losses.labels import Dice, one_hot
from zoo.losses.landmarks import LandmarkError
from zoo.losses.mind import MIND
from zoo.losses.mutual_information import MutualInformation
from zoo.losses.shapes import (
    Correspondence,
    FeatureChamfer,
    NormalChamfer,
    Sinkhorn,
    Varifold,
)
from zoo.losses.similarity import LNCC, NCC, MeanSquaredError
from zoo.losses.smoothness import Bending, Diffusion, EndpointError, TotalVariation

__all__ = [
    "LNCC",
    "MIND",
    "NCC",
    "Bending",
    "Chamfer",
    "Correspondence",
    "Curvature",
    "DensityDistance",
    "Dice",
    "Diffusion",
    "DistanceTransform",
    "EndpointError",
    "FeatureChamfer",
    "LandmarkError",
    "MeanSquaredError",
    "MutualInformation",
    "NormalChamfer",
    "Sinkhorn",
    "Smoothness",
    "TotalVariation",
    "Varifold",
    "one_hot",
]
