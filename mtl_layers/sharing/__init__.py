from mtl_layers.sharing.cgc import CGC
from mtl_layers.sharing.mmoe import MMoE
from mtl_layers.sharing.multi_layer_mmoe import MultiLayerMMoE
from mtl_layers.sharing.omoe import OMoE
from mtl_layers.sharing.ple import PLE
from mtl_layers.sharing.route import Block, Route
from mtl_layers.sharing.route_supernet import RouteSupernet
from mtl_layers.sharing.shared_bottom import SharedBottom
from mtl_layers.sharing.static_route import StaticRoute

__all__ = [
    "CGC",
    "PLE",
    "Block",
    "MMoE",
    "MultiLayerMMoE",
    "OMoE",
    "Route",
    "RouteSupernet",
    "SharedBottom",
    "StaticRoute",
]
