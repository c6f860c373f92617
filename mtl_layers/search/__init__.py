from mtl_layers.search.route_search import RouteSearch
from mtl_layers.search.sparse_sharing_pruner import SparseSharingPruner

__all__ = ["RouteSearch", "SparseSharingPruner"]
