"""One gate per task over shared experts."""

from mtl_layers._checks import check_hidden_units, check_positive
from mtl_layers._keras import register
from mtl_layers.sharing._mixture import Mixture
from mtl_layers.sharing._wiring import ROOT, GateWiring, Level, Wiring


@register
class MMoE(Mixture):
    """Multi-gate mixture of experts: every task mixes the same experts by a gate of its own.

    ```
    g_k(x) = softmax(x @ W_k)
    y_k    = sum_e g_k,e(x) f_e(x)
    ```

    Args:
        num_tasks: Number of tasks, at least 1.
        num_experts: Number of experts, at least 1. Defaults to `8`.
        hidden_units: Units of each layer of an expert. Defaults to `(64,)`.
        gate: Gate prototype, such as `mtl.TopKGate(k=2)`. Defaults to `None`, a `SoftmaxGate`.
        activation: Activation of the experts. Defaults to `"relu"`.
        dropout: Rate of dropout after every layer of the experts, in [0, 1). Defaults to `0.0`.
        use_bias: Whether the experts have biases. Defaults to `True`.
        kernel_initializer: Initializer of each expert's kernels. Defaults to `"glorot_uniform"`.
        bias_initializer: Initializer of the biases. Defaults to `"zeros"`.
        kernel_regularizer: Regularizer of the kernels. Defaults to `None`.
        bias_regularizer: Regularizer of the biases. Defaults to `None`.

    Input shape: `[batch, dim]`.
    Output shape: `[batch, num_tasks, hidden_units[-1]]`.

    Raises:
        ValueError: If an argument is out of range or the input is not `[batch, dim]`.

    Example:
        >>> tuple(mtl.MMoE(num_tasks=2, num_experts=4, hidden_units=(32,))(np.ones((8, 16), "float32")).shape)
        (8, 2, 32)

    Source: Ma et al., KDD 2018.
    """

    def __init__(self, num_tasks, num_experts=8, hidden_units=(64,), **kwargs):
        super().__init__(num_tasks, **kwargs)
        self.num_experts = check_positive("num_experts", num_experts)
        self.hidden_units = check_hidden_units("hidden_units", hidden_units)
        self._make_levels()

    def wiring(self):
        gates = (GateWiring(ROOT, tuple(range(self.num_experts))),) * self.num_tasks
        level = Level((ROOT,) * self.num_experts, gates, self.hidden_units)
        return Wiring((level,), tuple(range(self.num_tasks)))

    def get_config(self):
        return {**super().get_config(), "num_experts": self.num_experts, "hidden_units": list(self.hidden_units)}
