"""A gate that asks nothing: its weights are parameters, the same for every example."""

import numpy as np

from mtl_layers._keras import ops, register
from mtl_layers.gates.gate import Gate


@register
class ConstantGate(Gate):
    """Weights that do not depend on the example: plain numbers, which need not sum to 1.

    ```
    g_i(x) = w_i
    ```

    The gate of `CrossStitch`, and what gates without a query become in a frozen layer, which then does without the
    experts whose number is 0.

    Args:
        num_experts: Number of experts on offer. `None` only in a prototype for a sharing layer. Defaults to `None`.
        num_gates: Number of gates. Defaults to `1`.
        learned: Whether training changes the numbers. Defaults to `True`.
        kernel_initializer: Initializer of all numbers, `[num_gates, num_experts]`. Defaults to `"ones"`.
        **kwargs: `reads` and `kernel_regularizer`, as those of `SoftmaxGate`.

    Input shape: `[batch, dim]` or `[batch, num_gates, dim]`; only the batch size matters.
    Output shape: `[batch, num_gates, num_experts]`.

    Example:
        >>> from mtl_layers.gates import ConstantGate
        >>> np.ravel(ConstantGate(num_experts=3)(np.ones((1, 8), "float32"))).tolist()
        [1.0, 1.0, 1.0]
    """

    weighs_one = True

    def __init__(self, num_experts=None, num_gates=1, *, learned=True, kernel_initializer="ones", **kwargs):
        self.learned = learned
        super().__init__(num_experts, num_gates, kernel_initializer=kernel_initializer, **kwargs)

    def _plan(self):
        super()._plan()
        # Where the number of each pair lies if gates that read only what they have are side by side; then a 0.
        pairs = [(gate, expert) for gate, experts in enumerate(self.expert_reads) for expert in experts]
        self._place = np.full((self.num_gates, self.num_experts), len(pairs), "int32")
        for place, pair in enumerate(pairs):
            self._place[pair] = place

    def num_scores(self, num_read):
        return 0

    def build(self, input_shape):
        self._check_input_shape(input_shape)
        self.numbers = self.add_weight(
            name="numbers",
            shape=(self.num_gates, self.num_experts),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            trainable=self.learned,
            autocast=False,
        )
        self.built = True

    def constant_weights(self, parts=None):
        if parts is None:
            return self.numbers * self.read
        numbers = ops.concatenate([ops.reshape(part.numbers, (-1,)) for part in parts])
        return ops.take(ops.pad(numbers, ((0, 1),)), self._place)

    def by_gate(self, values):
        return [(self.numbers, np.array(values)[:, None])]

    def frozen(self):
        return ConstantGate(learned=self.learned)

    def inherit(self, source, gate):
        weights = ops.convert_to_numpy(source.constant_weights())[gate]
        self.numbers.assign(weights[None, list(source.live_reads()[gate])])

    def get_config(self):
        return {**super().get_config(), "learned": self.learned}
