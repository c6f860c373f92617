"""A mixture of experts with a fixed set of tasks: what other tasks need is gone."""

from dataclasses import asdict, replace
from itertools import islice

from mtl_layers._checks import check_indexes
from mtl_layers._keras import build_part, deserialize, keras, ops, register
from mtl_layers._trainable import hand_down
from mtl_layers.experts import Experts
from mtl_layers.gates import Gate
from mtl_layers.sharing._level_tensors import asked_of, mixtures_of, queries_of, values_of
from mtl_layers.sharing._wiring import ROOT, Wiring, gates_of, prune


@register
class FrozenMixture(keras.layers.Layer):
    """The final form of a `Mixture` for given tasks: one output tensor per task, and nothing that no task needs.

    Experts lie in groups, each with its own weights: those of a group are needed by the same tasks. Each gate has its
    own weights, and none where it has one expert. So a layer for fewer tasks is a choice among these parts: `freeze` of
    a frozen layer shares its variables, and its graph holds fewer operations. The gates of a level that are there are
    evaluated as one, as in the source.

    Made by `freeze` of a sharing layer; the arguments are its serialised form.

    Args:
        wiring: The wiring as a dict, experts numbered group by group.
        groups: For each level the sizes of its groups.
        expert_config: Arguments of the experts.
        gate: The gate prototype.
        stem_units: Units of the dense layer before everything. Defaults to `None`, no such layer.

    Input shape: `[batch, dim]`; or `[batch, tasks, dim]`, all tasks' inputs, if that is what the mixture read.
    Output: a list with one `[batch, units]` per task.
    """

    def __init__(self, wiring, groups, expert_config, gate, stem_units=None, **kwargs):
        super().__init__(**kwargs)
        self.gate = gate
        self.expert_config = expert_config
        self._wiring = Wiring.from_dict(wiring)
        self._groups = [list(sizes) for sizes in groups]
        self.stem_units, self.stem = stem_units, None
        if stem_units is not None:
            self.stem = Experts(1, (stem_units,), name="stem", dtype=self.dtype_policy, **expert_config)
        # Flat lists, in the order of the levels: Keras does not save what lies in nested ones.
        self.experts, self.gates, self.gate_levels = [], [], []
        for depth, (level, sizes) in enumerate(zip(self._wiring.levels, self._groups, strict=True)):
            for number, size in enumerate(sizes):
                self.experts.append(
                    Experts(
                        size,
                        level.hidden_units,
                        name=f"experts_{depth}_{number}",
                        dtype=self.dtype_policy,
                        **expert_config,
                    )
                )
            for number, each in enumerate(level.gates):
                if self._weighs(each):
                    names = {"name": f"gate_{depth}_{number}", "dtype": self.dtype_policy}
                    self.gates.append(gates_of(gate, len(each.experts), [_on_its_own(each)], **names))
            names = {"name": f"gates_{depth}", "dtype": self.dtype_policy}
            gates = gates_of(gate, len(level.expert_inputs), level.gates, **names)
            gates.asked = asked_of(level) if gates.asks else None
            gates.built = True  # it weighs by the gates' weights, and has none
            self.gate_levels.append(gates)

    @classmethod
    def from_mixture(cls, mixture, tasks=None):
        """The frozen form of a built `Mixture`, with its weights."""
        if not mixture.built:
            raise ValueError(f"`{mixture.name}` must be built before it is frozen: call it on data or fit it first")
        tasks = check_indexes("tasks", tasks, mixture.num_tasks)
        for gates in mixture.gate_levels:
            if type(gates).call is not Gate.call or len(gates.weights) > len(gates.by_gate(range(gates.num_gates))):
                raise ValueError(
                    "a gate must have no `call` and no weights of its own, only a `normalize`, to be frozen; "
                    f"received: gate={type(gates).__name__}"
                )
        pruned = prune(_reduced(mixture), tasks)
        frozen = cls(
            asdict(pruned.wiring),
            [[len(group) for group in level] for level in pruned.groups],
            mixture.expert_config(),
            mixture.gate_prototype().frozen(),
            mixture.stem_units,
            dtype=mixture.dtype_policy,
            name=f"{mixture.name}_frozen",
        )
        frozen.build((None, (mixture.stem or mixture.expert_levels[0]).kernels[0].shape[1]))
        if mixture.stem is not None:
            frozen.stem.inherit(mixture.stem, [0])
        experts, gates = iter(frozen.experts), iter(frozen.gates)
        for depth, level in enumerate(pruned.wiring.levels):
            for group in pruned.groups[depth]:
                next(experts).inherit(mixture.expert_levels[depth], group)
            for each, origin in zip(level.gates, pruned.gates[depth], strict=True):
                if frozen._weighs(each):
                    next(gates).inherit(mixture.gate_levels[depth], origin)
        return frozen

    def _weighs(self, gate):
        """Whether there is a gate layer: one expert alone is passed on as it is."""
        return len(gate.experts) > 1 or self.gate.weighs_one

    def freeze(self, tasks=None):
        """Returns the layer for fewer tasks, made of this layer's own parts: the variables are shared, not copied."""
        tasks = check_indexes("tasks", tasks, len(self._wiring.outputs))
        groups = []
        for sizes in self._groups:
            ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
            groups.append([range(end - size, end) for size, end in zip(sizes, ends, strict=True)])
        pruned = prune(self._wiring, tasks, groups)
        view = type(self)(
            asdict(pruned.wiring),
            [[len(group) for group in level] for level in pruned.groups],
            {**self.expert_config, "dropout": 0.0},  # parts that give way to shared ones must leave no random state
            self.gate,
            dtype=self.dtype_policy,
        )
        view.stem_units, view.stem = self.stem_units, self.stem
        view.expert_config = self.expert_config
        experts, gates = iter(self.experts), iter(self.gates)
        view.experts, view.gates = [], []
        for depth, level in enumerate(self._wiring.levels):
            for group in groups[depth]:
                layer = next(experts)
                if tuple(group) in pruned.groups[depth]:
                    view.experts.append(layer)
            for number, each in enumerate(level.gates):
                layer = next(gates) if self._weighs(each) else None
                if layer is not None and number in pruned.gates[depth]:
                    view.gates.append(layer)
        view.built = True
        return view

    def inventory(self):
        """What a report of `freeze` counts: experts, and gates that ask."""
        return {
            "experts": sum(group.num_experts for group in self.experts),
            "gates": sum(gate.num_asking for gate in self.gates),
        }

    def build(self, input_shape):
        experts, gates = iter(self.experts), iter(self.gates)
        if self.stem is not None:
            build_part(self.stem, input_shape)
            input_shape = (input_shape[0], self.stem_units)
        width = input_shape[-1]
        for level, sizes in zip(self._wiring.levels, self._groups, strict=True):
            for _ in sizes:
                build_part(next(experts), (input_shape[0], width))
            for each in level.gates:
                if self._weighs(each):
                    below = input_shape[-1] if each.query == ROOT else width
                    below = below if each.own_query is None else level.hidden_units[-1]
                    build_part(next(gates), (input_shape[0], below))
            width = level.hidden_units[-1]
        hand_down(self)
        self.built = True

    def call(self, inputs, training=None):
        experts, gates = iter(self.experts), iter(self.gates)
        if self.stem is not None:
            inputs = ops.squeeze(self.stem(inputs, training=training), axis=1)
        mixtures = inputs  # below the first level: one input per task, if they have one each
        for level, sizes, gate in zip(self._wiring.levels, self._groups, self.gate_levels, strict=True):
            hidden, sources = [], iter(level.expert_inputs)
            for size in sizes:
                read = values_of(inputs, mixtures, list(islice(sources, size)))
                hidden.append(next(experts)(read, training=training))
            hidden = hidden[0] if len(hidden) == 1 else ops.concatenate(hidden, axis=1)  # [batch, experts, units]
            parts = [next(gates) for each in level.gates if self._weighs(each)]
            values = queries_of(inputs, mixtures, hidden, level) if gate.asks else inputs
            weights = gate.weigh(values, parts)
            mixtures = mixtures_of(weights, hidden, level, gate)
        return [mixtures[:, output] for output in self._wiring.outputs]

    def compute_output_shape(self, input_shape):
        return [(input_shape[0], self._wiring.levels[-1].hidden_units[-1])] * len(self._wiring.outputs)

    def get_config(self):
        return {
            **super().get_config(),
            "wiring": asdict(self._wiring),
            "groups": [list(sizes) for sizes in self._groups],
            "expert_config": dict(self.expert_config),
            "gate": keras.saving.serialize_keras_object(self.gate),
            "stem_units": self.stem_units,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "gate": deserialize(config["gate"])})


def _on_its_own(gate):
    """The gate where no expert exists but those that it reads."""
    native = tuple(gate.experts.index(expert) for expert in gate.native)
    return replace(gate, experts=tuple(range(len(gate.experts))), native=native)


def _reduced(mixture):
    """The wiring of a built mixture, without what its gates do not ask and what they always give the weight 0."""
    levels = []
    for level, gates in zip(mixture._wiring.levels, mixture.gate_levels, strict=True):
        if not gates.asks:
            pairs = zip(level.gates, gates.live_reads(), strict=True)
            level = replace(
                level, gates=tuple(replace(gate, query=ROOT, own_query=None, experts=read) for gate, read in pairs)
            )
        levels.append(level)
    return replace(mixture._wiring, levels=tuple(levels))
