"""Layers that methods share; each serialises, and each works in the plane and in space."""

from zoo.layers.activations import PiecewiseLinear, RadialBasis
from zoo.layers.bspline import BSplineAdjoint, BSplineExpand
from zoo.layers.coordinate_mlp import CoordinateMLP
from zoo.layers.edge_conv import EdgeConv, GraphDescriptors
from zoo.layers.fields_of_experts import FieldsOfExperts, FilterConstraint
from zoo.layers.hash_grid import HashGrid
from zoo.layers.integration import Compose, ScalingAndSquaring
from zoo.layers.point_conv import (
    CostVolume,
    FarthestPointSampling,
    InverseDistanceUpsampling,
    NearestGrouping,
    PointConv,
    WeightNet,
)
from zoo.layers.pyramid import ImagePyramid, UpsampleDisplacement
from zoo.layers.rasteriser import Rasteriser
from zoo.layers.residual_flow import ResidualFlow
from zoo.layers.spatial_transformer import SpatialTransformer

__all__ = [
    "BSplineAdjoint",
    "BSplineExpand",
    "Compose",
    "CoordinateMLP",
    "CostVolume",
    "EdgeConv",
    "FarthestPointSampling",
    "FieldsOfExperts",
    "FilterConstraint",
    "GraphDescriptors",
    "HashGrid",
    "ImagePyramid",
    "InverseDistanceUpsampling",
    "NearestGrouping",
    "PiecewiseLinear",
    "PointConv",
    "RadialBasis",
    "Rasteriser",
    "ResidualFlow",
    "ScalingAndSquaring",
    "SpatialTransformer",
    "UpsampleDisplacement",
    "WeightNet",
]
