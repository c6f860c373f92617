"""The gate of AdaTT: a softmax over all experts, to which a unit's own experts are added once more."""

import numpy as np

from mtl_layers._keras import ops, register
from mtl_layers.gates.softmax_gate import SoftmaxGate


@register
class FusionGate(SoftmaxGate):
    """A softmax over the experts that a gate reads, plus learned weights of its native experts.

    ```
    g(x) = softmax(x @ W) + v          v is 0 but for native experts; for a single native expert it is 1
    ```

    Args:
        num_experts: Number of experts on offer. `None` only in a prototype for a sharing layer. Defaults to `None`.
        num_gates: Number of gates. Defaults to `1`.
        native: For each gate, the indexes of its native experts; may be none. Defaults to none for every gate.
        **kwargs: The other arguments of `SoftmaxGate`.

    Input shape: `[batch, dim]` or `[batch, num_gates, dim]`.
    Output shape: `[batch, num_gates, num_experts]`.

    Example:
        >>> from mtl_layers.gates import FusionGate
        >>> gate = FusionGate(num_experts=4, native=((2, 3),), kernel_initializer="zeros")
        >>> np.ravel(gate(np.ones((1, 8), "float32"))).tolist()
        [0.25, 0.25, 0.75, 0.75]

    Source: Li et al., KDD 2023 (AdaTT).
    """

    weighs_one = True

    def __init__(self, num_experts=None, num_gates=1, *, native=None, **kwargs):
        self.native = None if native is None else tuple(tuple(int(e) for e in experts) for experts in native)
        super().__init__(num_experts, num_gates, **kwargs)

    def _plan(self):
        super()._plan()
        native = self.native or ((),) * self.num_gates
        pairs = zip(native, self.expert_reads, strict=True)
        if len(native) != self.num_gates or not all(set(own) <= set(read) for own, read in pairs):
            raise ValueError(
                "`native` must give each gate experts that it reads; "
                f"received: native={self.native}, reads={self.expert_reads}"
            )
        # Learned weights lie side by side, gate 0's, gate 1's, ...; the place after them stands for 0.
        learned = [own if len(own) > 1 else () for own in native]
        ends = np.cumsum([len(own) for own in learned])
        self._native_columns = [range(end - len(own), end) for own, end in zip(learned, ends, strict=True)]
        self._native_position = np.full((self.num_gates, self.num_experts), ends[-1], "int32")
        self._native_fixed = np.zeros((self.num_gates, self.num_experts), "float32")
        for gate, own in enumerate(native):
            if len(own) == 1:
                self._native_fixed[gate, own[0]] = 1.0
            else:
                self._native_position[gate, list(own)] = self._native_columns[gate]

    def build(self, input_shape):
        super().build(input_shape)
        self.native_weights = None
        start = [1.0 / len(columns) for columns in self._native_columns for _ in columns]  # a gate's native mean
        if start:
            self.native_weights = self.add_weight(
                name="native_weights",
                shape=(len(start),),
                initializer=lambda shape, dtype=None: ops.convert_to_tensor(start, dtype),
                autocast=False,
            )

    def _weights_of(self, scores, parts):
        return super()._weights_of(scores, parts) + self._native(parts)

    def constant_weights(self, parts=None):
        return super().constant_weights(parts) + self._native(parts)

    def _native(self, parts):
        """Weights `[gates, experts]` of native experts, in float32."""
        learned = self._side_by_side("native_weights", parts)
        if learned is None:
            return self._native_fixed
        return self._native_fixed + ops.take(ops.pad(ops.cast(learned, "float32"), ((0, 1),)), self._native_position)

    def by_gate(self, values):
        if self.native_weights is None:
            return super().by_gate(values)
        own = [value for value, columns in zip(values, self._native_columns, strict=True) for _ in columns]
        return [*super().by_gate(values), (self.native_weights, np.array(own))]

    def inherit(self, source, gate):
        super().inherit(source, gate)
        if self.native_weights is not None:
            self.native_weights.assign(ops.take(source.native_weights, list(source._native_columns[gate])))

    def get_config(self):
        return {
            **super().get_config(),
            "native": None if self.native is None else [list(experts) for experts in self.native],
        }
