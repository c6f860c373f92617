"""No gate at all: the mean of the experts."""

from mtl_layers._keras import register
from mtl_layers.gates.gate import Gate


@register
class MeanGate(Gate):
    """Equal weights for all experts that a gate reads: mean pooling, with nothing to learn.

    ```
    g_i(x) = 1 / n          for each of the n experts that the gate reads
    ```

    Args:
        num_experts: Number of experts on offer. `None` only in a prototype for a sharing layer. Defaults to `None`.
        num_gates: Number of gates. Defaults to `1`.
        reads: For each gate, the indexes of the experts it reads. Defaults to all experts for every gate.

    Input shape: `[batch, dim]` or `[batch, num_gates, dim]`; only the batch size matters.
    Output shape: `[batch, num_gates, num_experts]`.

    Example:
        >>> from mtl_layers.gates import MeanGate
        >>> np.ravel(MeanGate(num_experts=4)(np.ones((1, 8), "float32"))).tolist()
        [0.25, 0.25, 0.25, 0.25]
    """

    def num_scores(self, num_read):
        return 0
