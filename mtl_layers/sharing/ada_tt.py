"""Levels of task units that each fuse all experts, and add their own."""

from mtl_layers._checks import check_positive
from mtl_layers._keras import register
from mtl_layers.gates import FusionGate
from mtl_layers.sharing._mixture import Mixture
from mtl_layers.sharing._wiring import ROOT, GateWiring, Level, Wiring
from mtl_layers.sharing.ple import modules_per_level, units_per_level


@register
class AdaTT(Mixture):
    """Adaptive task-to-task fusion: a unit per task mixes the experts of all units, and adds its own as a residual.

    ```
    h_e^j = f_e^j(z_unit(e)^{j-1})                                         z^0 = x, or x_k for task k
    z_u^j = sum over all e of softmax(z_u^{j-1} @ W_u^j)_e h_e^j           fusion
          + sum over the unit's own e of v_u,e^j h_e^j                     its native experts
    y_k   = z_k^L
    ```

    Beside the tasks' units there may be a shared unit; the last level has none, since nothing would read it. The
    weights v are learned and start at the mean; the only expert of a unit is added as it is.

    Args:
        num_tasks: Number of tasks, at least 1.
        num_levels: Number of levels, at least 1. Defaults to `2`.
        num_task_experts: Number of experts of each task; 0 is legal. One number, or a sequence with an entry per
            level, each a number or a sequence with one per task. Defaults to `2`.
        num_shared_experts: Number of experts of the shared unit. One number, or a sequence with one per level.
            Defaults to `0`.
        hidden_units: Units of each layer of an expert, for every level; or a sequence of such tuples, one per level.
            Defaults to `(64,)`.
        activation: Activation of the experts. Defaults to `"relu"`.
        dropout: Rate of dropout after every layer of the experts, in [0, 1). Defaults to `0.0`.
        use_bias: Whether the experts have biases. Defaults to `True`.
        kernel_initializer: Initializer of each expert's kernels. Defaults to `"glorot_uniform"`.
        bias_initializer: Initializer of the biases. Defaults to `"zeros"`.
        kernel_regularizer: Regularizer of the kernels. Defaults to `None`.
        bias_regularizer: Regularizer of the biases. Defaults to `None`.

    Input shape: `[batch, dim]`; or, without shared experts, `[batch, num_tasks, dim]`.
    Output shape: `[batch, num_tasks, units]`, with the last of the last level's `hidden_units`.

    Raises:
        ValueError: If an argument is out of range, a level has no expert, or the input has another shape.

    Example:
        >>> layer = mtl.AdaTT(num_tasks=2, num_levels=2, num_task_experts=2, num_shared_experts=1, hidden_units=(32,))
        >>> tuple(layer(np.ones((8, 16), "float32")).shape)
        (8, 2, 32)

    Source: Li et al., "AdaTT: Adaptive Task-to-Task Fusion Network for Multitask Learning in Recommendations",
    KDD 2023.
    """

    derived = ("gate",)

    def __init__(self, num_tasks, num_levels=2, num_task_experts=2, num_shared_experts=0, hidden_units=(64,), **kwargs):
        super().__init__(num_tasks, **kwargs)
        self.num_levels = check_positive("num_levels", num_levels)
        self.num_task_experts = num_task_experts
        self.num_shared_experts = num_shared_experts
        self.hidden_units = hidden_units
        self._make_levels()

    def wiring(self):
        shared = self.num_tasks
        units_of = modules_per_level(self.num_tasks, self.num_levels, self.num_task_experts, self.num_shared_experts)
        levels = []
        for depth, hidden_units in enumerate(units_per_level(self.hidden_units, self.num_levels)):
            unit_of = units_of[depth]
            if not unit_of:
                raise ValueError(
                    "`num_task_experts` and `num_shared_experts` must leave every level at least one expert; "
                    f"received: level {depth} without any"
                )
            everything = tuple(range(len(unit_of)))
            units = [*range(self.num_tasks)]
            if any(shared in above for above in units_of[depth + 1 :]):  # else nothing above would read the shared unit
                units.append(shared)
            # Where there is a shared unit, there must be one input: it would have none of its own.
            one_input = not depth and any(shared in level for level in units_of)
            source = {unit: ROOT if one_input else unit for unit in range(shared + 1)}
            gates = [
                GateWiring(source[unit], everything, native=tuple(e for e in everything if unit_of[e] == unit))
                for unit in units
            ]
            levels.append(Level(tuple(source[unit] for unit in unit_of), tuple(gates), hidden_units))
        return Wiring(tuple(levels), tuple(range(self.num_tasks)))

    def gate_prototype(self):
        return FusionGate()

    def get_config(self):
        return {
            **super().get_config(),
            "num_levels": self.num_levels,
            "num_task_experts": self.num_task_experts,
            "num_shared_experts": self.num_shared_experts,
            "hidden_units": self.hidden_units,
        }
