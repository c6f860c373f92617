"""The engine of the mixture-of-experts family: levels of experts and gates, evaluated from a `Wiring`."""

import numpy as np

from mtl_layers._checks import check_positive
from mtl_layers._expert_arguments import ExpertArguments
from mtl_layers._keras import build_part, deserialize, keras, ops
from mtl_layers._trainable import hand_down
from mtl_layers.experts import Experts
from mtl_layers.gates import Gate, SoftmaxGate
from mtl_layers.sharing._frozen_mixture import FrozenMixture
from mtl_layers.sharing._level_tensors import asked_of, mixtures_of, queries_of, query_shape, shape_of, values_of
from mtl_layers.sharing._wiring import ROOT, gates_of, needs


class Mixture(ExpertArguments):
    """Base of the sharing layers that mix experts by gates.

    A subclass names its arguments and says in `wiring()` who reads what; building, calling, gate weights and freezing
    are here. All experts of a level are one batched matmul per layer, all its gates one matmul. With `stem_units` a
    dense layer of that size stands before everything, and `ROOT` is its output.
    """

    stem_units = None
    derived = ()
    """Arguments of `Mixture` that a subclass does not have, since it knows them."""

    def __init__(
        self,
        num_tasks,
        *,
        gate=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_tasks = check_positive("num_tasks", num_tasks)
        if gate is not None and "gate" in self.derived:
            raise ValueError(
                f"`gate` must be left out: {type(self).__name__} has gates of its own; "
                f"received: gate={type(gate).__name__}"
            )
        if gate is not None and not isinstance(gate, Gate):
            raise ValueError(f"`gate` must be a gate layer such as mtl.TopKGate(k=2), or None; received: gate={gate!r}")
        if gate is not None and (gate.num_experts is not None or gate.reads is not None or gate.num_gates > 1):
            raise ValueError(
                "`gate` must come without `num_experts`, `num_gates` and `reads`, which the layer knows; "
                f"received: num_experts={gate.num_experts}, num_gates={gate.num_gates}, reads={gate.reads}"
            )
        self.gate = gate

    def _make_levels(self):
        """Called by subclasses at the end of `__init__`: errors of arguments come there and not in `build`."""
        self._wiring = self.wiring()
        arguments = self.expert_arguments()
        self.stem = None
        if self.stem_units is not None:
            self.stem = Experts(1, (self.stem_units,), name="stem", dtype=self.dtype_policy, **arguments)
        self.expert_levels, self.gate_levels = [], []
        for depth, level in enumerate(self._wiring.levels):
            self.expert_levels.append(
                Experts(
                    len(level.expert_inputs),
                    level.hidden_units,
                    name=f"experts_{depth}",
                    dtype=self.dtype_policy,
                    **arguments,
                )
            )
            count, names = len(level.expert_inputs), {"name": f"gates_{depth}", "dtype": self.dtype_policy}
            self.gate_levels.append(gates_of(self.gate_prototype(), count, level.gates, **names))

    def gate_prototype(self):
        """The gate that this layer's gates are made from."""
        return self.gate or SoftmaxGate()

    def wiring(self):
        """The `Wiring` of this layer."""
        raise NotImplementedError

    def build(self, input_shape):
        self._check_shape(input_shape, ranks=(2, 3) if self._wiring.task_inputs() else (2,))
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        if len(input_shape) == 2:
            self._wiring = self._wiring.on_one_input()
        if self.stem is not None:
            build_part(self.stem, input_shape)
            input_shape = (input_shape[0], self.stem_units)
        below = dict.fromkeys((ROOT, *range(self.num_tasks)), input_shape[-1])
        for level, experts, gates in zip(self._wiring.levels, self.expert_levels, self.gate_levels, strict=True):
            build_part(experts, shape_of(input_shape[0], level.expert_inputs, below))
            gates.asked = asked_of(level) if gates.asks else None
            build_part(gates, query_shape(input_shape[0], level, below))
            below = {ROOT: input_shape[-1], **dict.fromkeys(range(len(level.gates)), level.hidden_units[-1])}
        hand_down(self)
        self.built = True

    def _check_shape(self, shape, ranks):
        if len(shape) not in ranks or (len(shape) == 3 and shape[1] != self.num_tasks):
            legal = " or ".join({2: "[batch, dim]", 3: f"[batch, {self.num_tasks}, dim]"}[rank] for rank in ranks)
            raise ValueError(f"`inputs` of {type(self).__name__} must be {legal}; received: shape={tuple(shape)}")

    def call(self, inputs, training=None):
        mixtures, _, _ = self._run(inputs, training)
        if self._wiring.outputs == tuple(range(self.num_tasks)):
            return mixtures
        return ops.take(mixtures, self._wiring.outputs, axis=1)  # [batch, tasks, units]

    def gate_weights(self, inputs):
        """The weights that the gates give their experts, as a list with `[batch, gates, experts]` for each level."""
        return self._run(inputs, training=False)[1]

    def expert_outputs(self, inputs):
        """The outputs of the experts, as a list with `[batch, experts, units]` for each level."""
        return self._run(inputs, training=False)[2]

    def gate_reads(self):
        """Which experts each gate reads, as a list with a boolean `[gates, experts]` for each level."""
        return [gates.read.astype(bool) for gates in self.gate_levels]

    def shared_entries(self):
        """Each weight of experts and gates, and an array to broadcast to it: whether two tasks need an entry."""
        found = []
        levels = zip(needs(self._wiring, range(self.num_tasks)), self.expert_levels, self.gate_levels, strict=True)
        for (of_experts, of_gates), experts, gates in levels:
            shared = np.array([len(tasks) > 1 for tasks in of_experts])[:, None, None]
            found += [(weight, shared) for weight in experts.weights]
            found += gates.by_gate([len(tasks) > 1 for tasks in of_gates])
        return found

    def inventory(self):
        """What a report of `freeze` counts: experts, and gates that ask."""
        return {
            "experts": sum(level.num_experts for level in self.expert_levels),
            "gates": sum(level.num_asking for level in self.gate_levels),
        }

    def _run(self, inputs, training):
        # `build` has seen the first input, and not this one.
        self._check_shape(inputs.shape, ranks=(3,) if self._wiring.task_inputs() else (2,))
        if self.stem is not None:
            inputs = ops.squeeze(self.stem(inputs, training=training), axis=1)  # the root feature, [batch, units]
        mixtures = inputs  # below the first level: one input per task, if they have one each
        all_weights, all_hidden = [], []
        for level, experts, gates in zip(self._wiring.levels, self.expert_levels, self.gate_levels, strict=True):
            hidden = experts(values_of(inputs, mixtures, level.expert_inputs), training=training)
            # Gates that ask nothing want the batch size and no more.
            weights = gates(queries_of(inputs, mixtures, hidden, level) if gates.asks else inputs)
            all_weights.append(weights)
            all_hidden.append(hidden)
            mixtures = mixtures_of(weights, hidden, level, gates)
        return mixtures, all_weights, all_hidden

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_tasks, self._wiring.levels[-1].hidden_units[-1])

    def freeze(self, tasks=None):
        """Returns a layer that computes the given tasks (all by default, as indexes) and nothing else.

        It gives one tensor `[batch, units]` per task in a list, holds only the experts and gates that these tasks
        need, starts with this layer's weights, and agrees with this layer's output.
        """
        return FrozenMixture.from_mixture(self, tasks)

    def get_config(self):
        config = {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "gate": None if self.gate is None else keras.saving.serialize_keras_object(self.gate),
        }
        return {name: value for name, value in config.items() if name not in self.derived}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config.get("gate"), dict):
            config["gate"] = deserialize(config["gate"])
        return cls(**config)
