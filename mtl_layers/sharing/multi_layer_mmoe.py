"""Several layers of experts, mixed anew for every expert of the next."""

from mtl_layers._checks import check_positive, per_level
from mtl_layers._keras import register
from mtl_layers.sharing._mixture import Mixture
from mtl_layers.sharing._wiring import ROOT, GateWiring, Level, Wiring
from mtl_layers.sharing.ple import units_per_level


@register
class MultiLayerMMoE(Mixture):
    """Multi-layer MMoE: one mixture per expert of the next layer, and per task at the last.

    ```
    g_i^l(x) = softmax(x @ W_i^l)                  one gate per expert i of layer l + 1; per task at the last layer
    z_i^l    = sum_e g_i,e^l(x) f_e^l(z_e^{l-1})   z^0 = x
    y_k      = z_k^L
    ```

    All gates read the layer's input, as those of MMoE do; with one layer this is `MMoE`.

    Args:
        num_tasks: Number of tasks, at least 1.
        num_levels: Number of expert layers, at least 1. Defaults to `2`.
        num_experts: Number of experts: one number, or a sequence with one per level. Defaults to `4`.
        hidden_units: Units of each layer of an expert, for every level; or a sequence of such tuples, one per level.
            Defaults to `(64,)`.
        gate: Gate prototype, such as `mtl.TopKGate(k=2)`. Defaults to `None`, a `SoftmaxGate`.
        activation: Activation of the experts. Defaults to `"relu"`.
        dropout: Rate of dropout after every layer of the experts, in [0, 1). Defaults to `0.0`.
        use_bias: Whether the experts have biases. Defaults to `True`.
        kernel_initializer: Initializer of each expert's kernels. Defaults to `"glorot_uniform"`.
        bias_initializer: Initializer of the biases. Defaults to `"zeros"`.
        kernel_regularizer: Regularizer of the kernels. Defaults to `None`.
        bias_regularizer: Regularizer of the biases. Defaults to `None`.

    Input shape: `[batch, dim]`.
    Output shape: `[batch, num_tasks, units]`, with the last of the last level's `hidden_units`.

    Raises:
        ValueError: If an argument is out of range or the input is not `[batch, dim]`.

    Example:
        >>> layer = mtl.MultiLayerMMoE(num_tasks=2, num_levels=2, num_experts=(4, 3), hidden_units=(32,))
        >>> tuple(layer(np.ones((8, 16), "float32")).shape)
        (8, 2, 32)

    Source: the baseline "ML-MMoE" of Chen et al., "Boosting Share Routing for Multi-task Learning", WWW 2021 Companion.
    """

    def __init__(self, num_tasks, num_levels=2, num_experts=4, hidden_units=(64,), **kwargs):
        super().__init__(num_tasks, **kwargs)
        self.num_levels = check_positive("num_levels", num_levels)
        self.num_experts = num_experts
        self.hidden_units = hidden_units
        self._make_levels()

    def wiring(self):
        counts = per_level("num_experts", self.num_experts, self.num_levels)
        counts = [check_positive("num_experts", count) for count in counts]
        readers = [*counts[1:], self.num_tasks]
        levels = tuple(
            Level(
                expert_inputs=tuple(range(count)) if depth else (ROOT,) * count,
                gates=(GateWiring(ROOT, tuple(range(count))),) * readers[depth],
                hidden_units=units,
            )
            for depth, (count, units) in enumerate(
                zip(counts, units_per_level(self.hidden_units, self.num_levels), strict=True)
            )
        )
        return Wiring(levels, tuple(range(self.num_tasks)))

    def get_config(self):
        return {
            **super().get_config(),
            "num_levels": self.num_levels,
            "num_experts": self.num_experts,
            "hidden_units": self.hidden_units,
        }
