"""Layers that methods share; each serialises, and each works in the plane and in space."""

from zoo.layers.bspline import BSplineAdjoint, BSplineExpand
from zoo.layers.coordinate_mlp import CoordinateMLP
from zoo.layers.integration import Compose, ScalingAndSquaring
from zoo.layers.pyramid import ImagePyramid, UpsampleDisplacement
from zoo.layers.spatial_transformer import SpatialTransformer

__all__ = [
    "BSplineAdjoint",
    "BSplineExpand",
    "Compose",
    "CoordinateMLP",
    "ImagePyramid",
    "ScalingAndSquaring",
    "SpatialTransformer",
    "UpsampleDisplacement",
]
