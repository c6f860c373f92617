"""Multi-task layers for Keras recommenders."""

from mtl_layers import analysis, balancing, features, losses, optimizers, towers
from mtl_layers.embedding import FeatureEmbedding
from mtl_layers.experts import Experts
from mtl_layers.freeze import freeze
from mtl_layers.gates import DSelectKGate, SoftmaxGate, TopKGate
from mtl_layers.optimizers import LazyAdam
from mtl_layers.search import RouteSearch, SparseSharingPruner
from mtl_layers.sharing import (
    CGC,
    PLE,
    AdaTT,
    CrossStitch,
    GumbelMatrix,
    L2Constrained,
    MMoE,
    MultiLayerMMoE,
    OMoE,
    Route,
    RouteSupernet,
    SharedBottom,
    SparseSharing,
    StaticRoute,
    TensorFactorization,
)
from mtl_layers.towers import AITM, ESMM, ScoreFusion, Towers

__all__ = [
    "AITM",
    "CGC",
    "ESMM",
    "PLE",
    "AdaTT",
    "CrossStitch",
    "DSelectKGate",
    "Experts",
    "FeatureEmbedding",
    "GumbelMatrix",
    "L2Constrained",
    "LazyAdam",
    "MMoE",
    "MultiLayerMMoE",
    "OMoE",
    "Route",
    "RouteSearch",
    "RouteSupernet",
    "ScoreFusion",
    "SharedBottom",
    "SoftmaxGate",
    "SparseSharing",
    "SparseSharingPruner",
    "StaticRoute",
    "TensorFactorization",
    "TopKGate",
    "Towers",
    "analysis",
    "balancing",
    "features",
    "freeze",
    "losses",
    "optimizers",
    "towers",
]
__version__ = "0.1.0"
