"""One level of task experts and shared experts."""

from mtl_layers._checks import check_hidden_units
from mtl_layers._keras import register
from mtl_layers.sharing._mixture import Mixture
from mtl_layers.sharing.ple import extraction_levels


@register
class CGC(Mixture):
    """Customised gate control: every task mixes its own experts with the shared ones.

    ```
    g_k(x) = softmax(x @ W_k)                            over [E_k, E_s]
    y_k    = sum over e in [E_k, E_s] of g_k,e(x) f_e(x)
    ```

    With no shared experts and one per task this is the single-task model; it is `PLE` with one level.

    Args:
        num_tasks: Number of tasks, at least 1.
        num_task_experts: Number of experts of each task: one number, or a sequence with one per task; 0 is legal.
            Defaults to `2`.
        num_shared_experts: Number of shared experts; 0 is legal. Defaults to `2`.
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
        ValueError: If an argument is out of range, a task has no expert to read, or the input is not `[batch, dim]`.

    Example:
        >>> layer = mtl.CGC(num_tasks=2, num_task_experts=(3, 1), num_shared_experts=2, hidden_units=(32,))
        >>> tuple(layer(np.ones((8, 16), "float32")).shape)
        (8, 2, 32)

    Source: Tang et al., "Progressive Layered Extraction", RecSys 2020.
    """

    def __init__(self, num_tasks, num_task_experts=2, num_shared_experts=2, hidden_units=(64,), **kwargs):
        super().__init__(num_tasks, **kwargs)
        self.num_task_experts = num_task_experts
        self.num_shared_experts = num_shared_experts
        self.hidden_units = check_hidden_units("hidden_units", hidden_units)
        self._make_levels()

    def wiring(self):
        return extraction_levels(
            self.num_tasks, 1, (self.num_task_experts,), self.num_shared_experts, self.hidden_units
        )

    def get_config(self):
        return {
            **super().get_config(),
            "num_task_experts": self.num_task_experts,
            "num_shared_experts": self.num_shared_experts,
            "hidden_units": list(self.hidden_units),
        }
