from mtl_layers.search.route_search import RouteSearch

__all__ = ["RouteSearch"]
