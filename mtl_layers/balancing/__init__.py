from mtl_layers.balancing.balanced_model import BalancedModel
from mtl_layers.balancing.decaying_weights import DecayingWeights
from mtl_layers.balancing.dynamic_weight_average import DynamicWeightAverage
from mtl_layers.balancing.grad_norm import GradNorm
from mtl_layers.balancing.pc_grad import PCGrad
from mtl_layers.balancing.uncertainty_weighting import UncertaintyWeighting

__all__ = [
    "BalancedModel",
    "DecayingWeights",
    "DynamicWeightAverage",
    "GradNorm",
    "PCGrad",
    "UncertaintyWeighting",
]
