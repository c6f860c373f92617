"""Levels of task experts and shared experts, extracted step by step."""

from mtl_layers._checks import check_hidden_units, check_positive, per_level
from mtl_layers._keras import register
from mtl_layers.sharing._mixture import Mixture
from mtl_layers.sharing._wiring import ROOT, GateWiring, Level, Wiring


@register
class PLE(Mixture):
    """Progressive layered extraction: several levels of task experts and shared experts.

    ```
    g_k^j(.) = softmax(z_k^{j-1} @ W_k^j)       task gate, over [E_k^j, E_s^j]
    g_s^j(.) = softmax(z_s^{j-1} @ W_s^j)       shared gate, over all experts [E_1^j, ..., E_T^j, E_s^j]
    z_k^j    = sum_e g_k,e^j f_e^j(z_module(e)^{j-1}),   z^0 = x,   y_k = z_k^L
    ```

    The experts and the gate of a module read what the module's gate gave one level below, never the raw input again.
    The last level has no shared gate, since nothing would read it. `CGC` is the case of one level.

    Args:
        num_tasks: Number of tasks, at least 1.
        num_levels: Number of levels, at least 1. Defaults to `2`.
        num_task_experts: Number of experts of each task; 0 is legal. One number, or a sequence with an entry per
            level, each a number or a sequence with one per task. Defaults to `2`.
        num_shared_experts: Number of shared experts; 0 is legal. One number, or a sequence with one per level.
            Defaults to `2`.
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
        ValueError: If an argument is out of range, a task has no expert to read, or the input is not `[batch, dim]`.

    Example:
        >>> layer = mtl.PLE(num_tasks=2, num_levels=2, num_task_experts=((3, 1), 2), num_shared_experts=(2, 1))
        >>> tuple(layer(np.ones((8, 16), "float32")).shape)
        (8, 2, 64)

    Source: Tang et al., "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for Personalized
    Recommendations", RecSys 2020.
    """

    def __init__(self, num_tasks, num_levels=2, num_task_experts=2, num_shared_experts=2, hidden_units=(64,), **kwargs):
        super().__init__(num_tasks, **kwargs)
        self.num_levels = check_positive("num_levels", num_levels)
        self.num_task_experts = num_task_experts
        self.num_shared_experts = num_shared_experts
        self.hidden_units = hidden_units
        self._make_levels()

    def wiring(self):
        return extraction_levels(
            self.num_tasks, self.num_levels, self.num_task_experts, self.num_shared_experts, self.hidden_units
        )

    def get_config(self):
        return {
            **super().get_config(),
            "num_levels": self.num_levels,
            "num_task_experts": self.num_task_experts,
            "num_shared_experts": self.num_shared_experts,
            "hidden_units": self.hidden_units,
        }


def units_per_level(hidden_units, num_levels):
    """One tuple of units per level, from one tuple for all levels or a sequence of tuples."""
    nested = isinstance(hidden_units, list | tuple) and any(isinstance(units, list | tuple) for units in hidden_units)
    levels = per_level("hidden_units", hidden_units, num_levels) if nested else (hidden_units,) * num_levels
    return [check_hidden_units("hidden_units", units) for units in levels]


def extraction_levels(num_tasks, num_levels, num_task_experts, num_shared_experts, hidden_units):
    """The `Wiring` of CGC and PLE. Modules are the tasks, then the shared one; experts lie in that order."""
    modules = modules_per_level(num_tasks, num_levels, num_task_experts, num_shared_experts)
    levels = []
    for depth, units in enumerate(units_per_level(hidden_units, num_levels)):
        module_of = modules[depth]
        own_or_shared = [
            tuple(e for e, module in enumerate(module_of) if module in (task, num_tasks)) for task in range(num_tasks)
        ]
        if not all(own_or_shared):
            counts = [module_of.count(task) for task in range(num_tasks)]
            raise ValueError(
                "`num_task_experts` and `num_shared_experts` must leave every task at least one expert to read; "
                f"received: level {depth} with num_task_experts={counts}, num_shared_experts=0"
            )
        gates = [GateWiring(task if depth else ROOT, experts) for task, experts in enumerate(own_or_shared)]
        if any(num_tasks in above for above in modules[depth + 1 :]):  # else nothing above would read the shared module
            gates.append(GateWiring(num_tasks if depth else ROOT, tuple(range(len(module_of)))))
        levels.append(Level(tuple(module if depth else ROOT for module in module_of), tuple(gates), units))
    return Wiring(tuple(levels), tuple(range(num_tasks)))


def modules_per_level(num_tasks, num_levels, num_task_experts, num_shared_experts):
    """For each level the module of each expert: the number of its task, or `num_tasks` for a shared one."""
    shared_counts = [
        check_positive("num_shared_experts", count, minimum=0)
        for count in per_level("num_shared_experts", num_shared_experts, num_levels)
    ]
    task_counts = []
    for counts in per_level("num_task_experts", num_task_experts, num_levels):
        counts = tuple(counts) if isinstance(counts, list | tuple) else (counts,) * num_tasks
        if len(counts) != num_tasks:
            raise ValueError(
                f"`num_task_experts` must have an entry for each of the {num_tasks} tasks; received: {counts!r}"
            )
        task_counts.append([check_positive("num_task_experts", count, minimum=0) for count in counts])

    return [
        [module for module, count in enumerate([*counts, shared]) for _ in range(count)]
        for counts, shared in zip(task_counts, shared_counts, strict=True)
    ]
