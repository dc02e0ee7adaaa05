"""Losses of images, labels, landmarks, clouds and fields; masks go into `sample_weight`."""

from zoo.losses.clouds import Chamfer, Curvature, DensityDistance, DistanceTransform, Smoothness
from zoo.losses.labels import Dice, one_hot
from zoo.losses.landmarks import LandmarkError
from zoo.losses.mind import MIND
from zoo.losses.mutual_information import MutualInformation
from zoo.losses.similarity import LNCC, NCC, MeanSquaredError
from zoo.losses.smoothness import Bending, Diffusion, EndpointError, TotalVariation

__all__ = [
    "LNCC",
    "MIND",
    "NCC",
    "Bending",
    "Chamfer",
    "Curvature",
    "DensityDistance",
    "Dice",
    "Diffusion",
    "DistanceTransform",
    "EndpointError",
    "LandmarkError",
    "MeanSquaredError",
    "MutualInformation",
    "Smoothness",
    "TotalVariation",
    "one_hot",
]
