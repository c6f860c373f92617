"""The tensors of one `Level`: what its experts and gates get, and what comes of them."""

from mtl_layers._keras import ops
from mtl_layers.sharing._wiring import ROOT


def shape_of(batch, sources, below):
    width = below[sources[0]]
    return (batch, width) if set(sources) == {sources[0]} else (batch, len(sources), width)


def values_of(inputs, mixtures, sources):
    """What the readers get: one `[batch, dim]` if all read the same value, else `[batch, readers, dim]`."""
    if set(sources) == {ROOT}:
        return inputs
    if set(sources) == {sources[0]}:
        return mixtures[:, sources[0]]
    _check_one_kind(sources)
    if list(sources) == list(range(mixtures.shape[1])):
        return mixtures
    return ops.take(mixtures, list(sources), axis=1)


def query_shape(batch, level, below):
    if all(gate.own_query is None for gate in level.gates):
        return shape_of(batch, [gate.query for gate in level.gates], below)
    return (batch, len(level.gates), level.hidden_units[-1])


def asked_of(level):
    """Which of the values of `queries_of` each gate asks; None if all ask the same, so that there is one value.

    The values are those from below, or the experts of the gates' own level, after which the root may stand.
    """
    asked = _places(level)
    if set(asked) == {asked[0]}:
        return None
    _check_one_kind(asked)
    return asked


def _places(level):
    if all(gate.own_query is None for gate in level.gates):
        return tuple(gate.query for gate in level.gates)
    root = len(level.expert_inputs)
    return tuple(root if gate.own_query is None else gate.own_query for gate in level.gates)


def queries_of(inputs, mixtures, hidden, level):
    """What the gates of a level ask: `[batch, dim]`, or `[batch, values, dim]` where they ask several values."""
    own = [gate.own_query for gate in level.gates]
    values = mixtures
    if any(query is not None for query in own):
        values = ops.concatenate([hidden, ops.expand_dims(inputs, 1)], axis=1) if None in own else hidden
    return values_of(inputs, values, _places(level)) if asked_of(level) is None else values


def _check_one_kind(sources):
    if ROOT in sources:
        raise ValueError("a level must read the root alone or mixtures alone; received: both")


def mixtures_of(weights, hidden, level, gate):
    """`[batch, gates, units]`: experts by their weights; where each gate has one expert, and weight 1, that expert."""
    if gate.weighs_one or any(len(each.experts) > 1 for each in level.gates):
        return ops.matmul(weights, hidden)
    lone = [each.experts[0] for each in level.gates]
    return hidden if lone == list(range(hidden.shape[1])) else ops.take(hidden, lone, axis=1)
