from mtl_layers.gates.constant_gate import ConstantGate
from mtl_layers.gates.d_select_k_gate import DSelectKGate
from mtl_layers.gates.fusion_gate import FusionGate
from mtl_layers.gates.gate import Gate
from mtl_layers.gates.mean_gate import MeanGate
from mtl_layers.gates.softmax_gate import SoftmaxGate
from mtl_layers.gates.top_k_gate import TopKGate

__all__ = ["ConstantGate", "DSelectKGate", "FusionGate", "Gate", "MeanGate", "SoftmaxGate", "TopKGate"]
