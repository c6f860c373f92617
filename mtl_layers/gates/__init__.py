from mtl_layers.gates.gate import Gate
from mtl_layers.gates.mean_gate import MeanGate
from mtl_layers.gates.softmax_gate import SoftmaxGate
from mtl_layers.gates.top_k_gate import TopKGate

__all__ = ["Gate", "MeanGate", "SoftmaxGate", "TopKGate"]
