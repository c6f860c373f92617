"""Multi-task layers for Keras recommenders."""

from mtl_layers import analysis, features, losses, towers
from mtl_layers.embedding import FeatureEmbedding
from mtl_layers.experts import Experts
from mtl_layers.freeze import freeze
from mtl_layers.gates import SoftmaxGate, TopKGate
from mtl_layers.search import RouteSearch
from mtl_layers.sharing import (
    CGC,
    PLE,
    MMoE,
    MultiLayerMMoE,
    OMoE,
    Route,
    RouteSupernet,
    SharedBottom,
    StaticRoute,
)
from mtl_layers.towers import Towers

__all__ = [
    "CGC",
    "PLE",
    "Experts",
    "FeatureEmbedding",
    "MMoE",
    "MultiLayerMMoE",
    "OMoE",
    "Route",
    "RouteSearch",
    "RouteSupernet",
    "SharedBottom",
    "SoftmaxGate",
    "StaticRoute",
    "TopKGate",
    "Towers",
    "analysis",
    "features",
    "freeze",
    "losses",
    "towers",
]
__version__ = "0.1.0"
