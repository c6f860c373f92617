from mtl_layers.analysis.gate_utilisation import GateUtilisation, gate_utilisation, plot_gate_utilisation
from mtl_layers.analysis.route_figure import draw_route

__all__ = ["GateUtilisation", "draw_route", "gate_utilisation", "plot_gate_utilisation"]
