"""Who reads what in a stack of expert levels, as plain data, and which parts of it given tasks need."""

from dataclasses import dataclass

ROOT = -1
"""The layer's own input, as opposed to a mixture of the previous level."""


@dataclass(frozen=True)
class GateWiring:
    """One mixture: the value that its gate reads (`ROOT` or a mixture of the previous level), and its experts.

    With `own_query` the gate reads an expert of its own level instead.
    """

    query: int
    experts: tuple[int, ...]
    own_query: int | None = None


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
                tuple(GateWiring(gate["query"], tuple(gate["experts"]), gate["own_query"]) for gate in level["gates"]),
                tuple(level["hidden_units"]),
            )
            for level in config["levels"]
        )
        return cls(levels, tuple(config["outputs"]))


@dataclass(frozen=True)
class Pruned:
    """What is left of a wiring: itself renumbered, and for each level where its parts came from.

    Experts are in groups: those of a group read the same value and are needed by the same tasks, so that one batched
    matmul evaluates them and whoever drops a task drops whole groups.
    """

    wiring: Wiring
    groups: tuple[tuple[tuple[int, ...], ...], ...]
    gates: tuple[tuple[int, ...], ...]


def prune(wiring, tasks, groups=None):
    """Keeps what `tasks` (indexes) need; `groups` are the existing groups of experts, or None to form them anew."""
    kept_groups, kept_gates, levels = [], [], []
    gate_number = {ROOT: ROOT}
    for depth, (level, (expert_needs, gate_needs)) in enumerate(zip(wiring.levels, needs(wiring, tasks), strict=True)):
        if groups is None:
            formed = {}
            for expert, who in enumerate(expert_needs):
                formed.setdefault((level.expert_inputs[expert], who), []).append(expert)
            candidates = formed.values()
        else:
            candidates = groups[depth]
        kept = tuple(tuple(group) for group in candidates if expert_needs[group[0]])
        experts = [expert for group in kept for expert in group]
        expert_number = {expert: number for number, expert in enumerate(experts)}
        gates = tuple(gate for gate, who in enumerate(gate_needs) if who)
        levels.append(
            Level(
                expert_inputs=tuple(gate_number[level.expert_inputs[expert]] for expert in experts),
                gates=tuple(
                    GateWiring(
                        gate_number.get(level.gates[gate].query, ROOT),
                        tuple(expert_number[expert] for expert in level.gates[gate].experts),
                        expert_number.get(level.gates[gate].own_query),
                    )
                    for gate in gates
                ),
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
