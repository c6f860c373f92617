"""The gate of MMoE, CGC and PLE: a softmax over linear scores."""

from mtl_layers._keras import ops, register
from mtl_layers.gates.gate import Gate

# exp(UNREAD - max) is exactly 0 in float32, and unlike -inf it gives no NaN in a gradient.
UNREAD = -1e9


@register
class SoftmaxGate(Gate):
    """Weights of experts, as a softmax over a linear function of the query.

    ```
    g(x) = softmax(x @ W)           over the experts that the gate reads
    ```

    Args:
        num_experts: Number of experts on offer. `None` only in a prototype for a sharing layer. Defaults to `None`.
        num_gates: Number of gates. Defaults to `1`.
        reads: For each gate, the indexes of the experts it reads. Defaults to all experts for every gate.
        use_bias: Whether scores have a bias (the papers have none). Defaults to `False`.
        kernel_initializer: Initializer of each gate's kernel. Defaults to `"glorot_uniform"`.
        kernel_regularizer: Regularizer of the kernel. Defaults to `None`.

    Input shape: `[batch, dim]`, one query for all gates, or `[batch, num_gates, dim]`, one each.
    Output shape: `[batch, num_gates, num_experts]`, non-negative, with sum 1 over the last axis.

    Raises:
        ValueError: If `reads` names no expert for a gate, one twice, or one that does not exist.

    Example:
        >>> experts, gate = mtl.Experts(num_experts=4), mtl.SoftmaxGate(num_experts=4, num_gates=2)
        >>> x = np.ones((8, 16), "float32")
        >>> tuple(ops.matmul(gate(x), experts(x)).shape)
        (8, 2, 64)

    Source: Ma et al., KDD 2018 (MMoE).
    """

    def normalize(self, scores, read):
        if not read.all():
            scores = ops.where(read > 0, scores, UNREAD)
        return ops.softmax(scores, axis=-1)
