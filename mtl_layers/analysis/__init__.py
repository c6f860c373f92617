from mtl_layers.analysis.gate_utilisation import GateUtilisation, gate_utilisation, plot_gate_utilisation

__all__ = ["GateUtilisation", "gate_utilisation", "plot_gate_utilisation"]
