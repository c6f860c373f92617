"""Who reads what in a stack of expert levels, as plain data, and which parts of it given tasks need."""

from dataclasses import dataclass, replace

ROOT = -1
"""The layer's own input, as opposed to a mixture of the previous level."""

# The first level has no level below: there, a value other than `ROOT` is the input of the task of that number.


@dataclass(frozen=True)
class GateWiring:
    """One mixture: the value that its gate reads (`ROOT` or a mixture of the previous level), and its experts.

    With `own_query` the gate reads an expert of its own level instead. `native` experts are among those read; a gate
    that knows of them adds them once more.
    """

    query: int
    experts: tuple[int, ...]
    own_query: int | None = None
    native: tuple[int, ...] = ()


@dataclass(frozen=True)
class Level:
    """One level: for each expert the value it reads (`ROOT` or a mixture of the previous level), then its gates."""

    expert_inputs: tuple[int, ...]
    gates: tuple[GateWiring, ...]
    hidden_units: tuple[int, ...]


@dataclass(frozen=True)
class Wiring:
    """All levels, and for each task the mixture of the last level that is its output."""

    levels: tuple[Level, ...]
    outputs: tuple[int, ...]

    @classmethod
    def from_dict(cls, config):
        """The wiring whose `dataclasses.asdict` is `config`, be its tuples lists (as in JSON) or not."""
        levels = tuple(
            Level(
                tuple(level["expert_inputs"]),
                tuple(
                    GateWiring(gate["query"], tuple(gate["experts"]), gate["own_query"], tuple(gate["native"]))
                    for gate in level["gates"]
                ),
                tuple(level["hidden_units"]),
            )
            for level in config["levels"]
        )
        return cls(levels, tuple(config["outputs"]))

    def task_inputs(self):
        """Whether the first level reads one input per task."""
        return ROOT not in self.levels[0].expert_inputs

    def on_one_input(self):
        """The wiring where all tasks have the same input."""
        first = self.levels[0]
        gates = tuple(replace(gate, query=ROOT) for gate in first.gates)
        first = replace(first, expert_inputs=(ROOT,) * len(first.expert_inputs), gates=gates)
        return replace(self, levels=(first, *self.levels[1:]))


def gates_of(prototype, num_experts, gates, **kwargs):
    """The gate layer, made from a prototype, of several gates of one level."""
    if any(gate.native for gate in gates):
        kwargs["native"] = [gate.native for gate in gates]
    return prototype.wire(num_experts, [gate.experts for gate in gates], **kwargs)


@dataclass(frozen=True)
class Pruned:
    """What is left of a wiring: itself renumbered, and for each level where its parts came from.

    Experts are in groups: those of a group read the root, or mixtures, and are needed by the same tasks, so that one
    batched matmul evaluates them and whoever drops a task drops whole groups.
    """

    wiring: Wiring
    groups: tuple[tuple[tuple[int, ...], ...], ...]
    gates: tuple[tuple[int, ...], ...]


def prune(wiring, tasks, groups=None):
    """Keeps what `tasks` (indexes) need; `groups` are the existing groups of experts, or None to form them anew."""
    kept_groups, kept_gates, levels = [], [], []
    first = wiring.levels[0]
    gate_number = {source: source for source in (ROOT, *first.expert_inputs, *(gate.query for gate in first.gates))}
    for depth, (level, (expert_needs, gate_needs)) in enumerate(zip(wiring.levels, needs(wiring, tasks), strict=True)):
        if groups is None:
            formed = {}
            for expert, who in enumerate(expert_needs):
                formed.setdefault((level.expert_inputs[expert] == ROOT, who), []).append(expert)
            candidates = formed.values()
        else:
            candidates = groups[depth]
        kept = tuple(tuple(group) for group in candidates if expert_needs[group[0]])
        experts = [expert for group in kept for expert in group]
        expert_number = {expert: number for number, expert in enumerate(experts)}
        gates = tuple(gate for gate, who in enumerate(gate_needs) if who)
        rewired = [
            GateWiring(
                gate_number.get(level.gates[gate].query, ROOT),
                tuple(expert_number[expert] for expert in level.gates[gate].experts),
                expert_number.get(level.gates[gate].own_query),
                tuple(expert_number[expert] for expert in level.gates[gate].native),
            )
            for gate in gates
        ]
        # A gate over one expert asks nothing: it goes with one that does, for queries must be of one kind.
        asking = next((gate for gate in rewired if len(gate.experts) > 1), GateWiring(ROOT, ()))
        silent = {"query": asking.query, "own_query": asking.own_query}
        levels.append(
            Level(
                expert_inputs=tuple(gate_number[level.expert_inputs[expert]] for expert in experts),
                gates=tuple(gate if len(gate.experts) > 1 else replace(gate, **silent) for gate in rewired),
                hidden_units=level.hidden_units,
            )
        )
        kept_groups.append(kept)
        kept_gates.append(gates)
        gate_number = {ROOT: ROOT, **{gate: number for number, gate in enumerate(gates)}}
    outputs = tuple(gate_number[wiring.outputs[task]] for task in tasks)
    return Pruned(Wiring(tuple(levels), outputs), tuple(kept_groups), tuple(kept_gates))


def needs(wiring, tasks):
    """Walks from the outputs of `tasks` back to the input.

    Returns for each level two tuples: for each expert, and for each gate, the frozenset of tasks that need it.
    """
    found = []
    wanted = [set() for _ in wiring.levels[-1].gates]  # of each mixture of the level at hand: who wants it
    for task in tasks:
        wanted[wiring.outputs[task]].add(task)
    for depth in reversed(range(len(wiring.levels))):
        level = wiring.levels[depth]
        experts = [set() for _ in level.expert_inputs]
        below = {}
        for gate, who in zip(level.gates, wanted, strict=True):
            for expert in gate.experts:
                experts[expert] |= who
            if len(gate.experts) > 1:  # a gate over one expert asks nothing
                if gate.own_query is None:
                    below.setdefault(gate.query, set()).update(who)
                else:
                    experts[gate.own_query] |= who
        for source, who in zip(level.expert_inputs, experts, strict=True):
            below.setdefault(source, set()).update(who)
        found.append((tuple(map(frozenset, experts)), tuple(map(frozenset, wanted))))
        if depth:
            wanted = [below.get(mixture, set()) for mixture in range(len(wiring.levels[depth - 1].gates))]
    return tuple(reversed(found))
