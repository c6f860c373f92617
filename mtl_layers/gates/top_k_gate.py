"""A sparse gate: only the k largest weights survive."""

from mtl_layers._checks import check_positive
from mtl_layers._keras import ops, register
from mtl_layers.gates.gate import Gate
from mtl_layers.gates.softmax_gate import UNREAD


@register
class TopKGate(Gate):
    """A softmax gate that keeps the `k` largest weights of each example and renormalises them to sum 1.

    ```
    s = x @ W
    g_i(x) = exp(s_i) / sum of exp(s_j) over the k largest     if s_i is among the k largest, else exactly 0
    ```

    With `k=1` the weight that survives is 1 whatever its score: such a gate learns nothing. Of equal scores the expert
    with the lower index is kept, so there are never more than `k`. All experts are still evaluated: the stack is one
    matmul, and which experts survive differs from row to row.

    Args:
        k: Number of experts that survive, at least 1 and at most the number each gate reads. Defaults to `2`.
        num_experts: Number of experts on offer. `None` only in a prototype for a sharing layer. Defaults to `None`.
        num_gates: Number of gates. Defaults to `1`.
        **kwargs: The other arguments of `SoftmaxGate`.

    Input shape: `[batch, dim]` or `[batch, num_gates, dim]`.
    Output shape: `[batch, num_gates, num_experts]`.

    Raises:
        ValueError: If `k` is larger than the number of experts that a gate reads.

    Example:
        >>> gate = mtl.TopKGate(k=1, num_experts=4)
        >>> sorted(np.ravel(gate(np.ones((1, 8), "float32"))).tolist())
        [0.0, 0.0, 0.0, 1.0]

    Source: Shazeer et al., "Outrageously Large Neural Networks", ICLR 2017, without the noise.
    """

    def __init__(self, k=2, num_experts=None, num_gates=1, **kwargs):
        self.k = check_positive("k", k)
        super().__init__(num_experts, num_gates, **kwargs)

    def _plan(self):
        super()._plan()
        self.check_k(self.k)

    def normalize(self, scores, read):
        if not read.all():
            scores = ops.where(read > 0, scores, UNREAD)
        _, largest = ops.top_k(scores, self.k)  # [batch, gates, k]
        kept = ops.sum(ops.one_hot(largest, self.num_experts, dtype="float32"), axis=-2)
        return ops.softmax(ops.where(kept > 0, scores, UNREAD), axis=-1)

    def get_config(self):
        return {"k": self.k, **super().get_config()}
