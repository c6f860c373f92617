from mtl_layers.sharing.ada_tt import AdaTT
from mtl_layers.sharing.cgc import CGC
from mtl_layers.sharing.cross_stitch import CrossStitch
from mtl_layers.sharing.gumbel_matrix import GumbelMatrix
from mtl_layers.sharing.l2_constrained import L2Constrained
from mtl_layers.sharing.mmoe import MMoE
from mtl_layers.sharing.multi_layer_mmoe import MultiLayerMMoE
from mtl_layers.sharing.omoe import OMoE
from mtl_layers.sharing.ple import PLE
from mtl_layers.sharing.route import Block, Route
from mtl_layers.sharing.route_supernet import RouteSupernet
from mtl_layers.sharing.shared_bottom import SharedBottom
from mtl_layers.sharing.sparse_sharing import SparseSharing
from mtl_layers.sharing.static_route import StaticRoute
from mtl_layers.sharing.tensor_factorization import TensorFactorization

__all__ = [
    "CGC",
    "PLE",
    "AdaTT",
    "Block",
    "CrossStitch",
    "GumbelMatrix",
    "L2Constrained",
    "MMoE",
    "MultiLayerMMoE",
    "OMoE",
    "Route",
    "RouteSupernet",
    "SharedBottom",
    "SparseSharing",
    "StaticRoute",
    "TensorFactorization",
]
