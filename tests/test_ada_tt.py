"""AdaTT against NumPy, its limits, what a task of a frozen layer needs, and the fusion gate."""

import numpy as np
import pytest
import reference
from gradients import forward, gradients

import mtl_layers as mtl
from mtl_layers._keras import ops
from mtl_layers.gates import FusionGate

DIM = 5


def formula(layer, x, task_counts, shared_counts, activation=reference.relu):
    """[B, T, U]; `task_counts`: per level a list with one count per task; x is [B, D] or [B, T, D]."""
    num_tasks = len(task_counts[0])
    values = [x if x.ndim == 2 else x[:, task] for task in range(num_tasks)] + [x]
    for depth, (experts, gates) in enumerate(zip(layer.expert_levels, layer.gate_levels, strict=True)):
        weights = reference.experts_weights(experts)
        unit_of = [unit for unit, count in enumerate([*task_counts[depth], shared_counts[depth]]) for _ in range(count)]
        assert len(unit_of) == experts.num_experts
        outputs = [reference.expert(weights, e, values[unit], activation) for e, unit in enumerate(unit_of)]
        weights.gate_kernel = None if gates.kernel is None else reference.array(gates.kernel)
        fusion, used = reference.Gates(weights), 0
        native_weights = None if gates.native_weights is None else reference.array(gates.native_weights)
        has_shared_unit = sum(shared_counts[depth + 1 :]) > 0
        fused = []
        for unit in range(num_tasks + has_shared_unit):
            own = [e for e, other in enumerate(unit_of) if other == unit]
            mixed = reference.mixture(fusion(values[unit], len(outputs)), outputs)
            if len(own) == 1:
                mixed = mixed + outputs[own[0]]
            elif own:
                mixed = mixed + sum(native_weights[used + i] * outputs[e] for i, e in enumerate(own))
                used += len(own)
            fused.append(mixed)
        fusion.check_used_up()
        assert used == (0 if native_weights is None else len(native_weights))
        values = fused
    return np.stack(values[:num_tasks], axis=1)


# num_tasks, num_task_experts, num_shared_experts, hidden_units, and the counts written out
CASES = {
    "two levels": (2, 2, 0, (4,), [[2, 2]] * 2, [0, 0]),
    "one expert each": (3, 1, 0, (4,), [[1, 1, 1]] * 2, [0, 0]),
    "a shared unit": (2, 2, (1, 2), (4,), [[2, 2]] * 2, [1, 2]),
    "uneven tasks and levels": (2, ((3, 1), (0, 2)), (2, 1), ((4,), (6, 3)), [[3, 1], [0, 2]], [2, 1]),
    "a shared unit above only": (2, 1, (0, 2), (4,), [[1, 1]] * 2, [0, 2]),
    "a shared unit below only": (2, 1, (2, 0), (4,), [[1, 1]] * 2, [2, 0]),
    "one level": (3, ((2, 1, 3),), (2,), (4, 3), [[2, 1, 3]], [2]),
    "three levels": (2, (1, 2, 1), (2, 0, 1), ((4,), (5,), (3,)), [[1, 1], [2, 2], [1, 1]], [2, 0, 1]),
    "shared experts only": (2, 0, 3, (4,), [[0, 0]] * 2, [3, 3]),
    "one task, one expert": (1, 1, 0, (4,), [[1]] * 2, [0, 0]),
}


def built(name, rng, x, use_bias=True):
    num_tasks, task_experts, shared, hidden_units, task_counts, shared_counts = CASES[name]
    levels = len(task_counts)
    layer = mtl.AdaTT(num_tasks, levels, task_experts, shared, hidden_units, use_bias=use_bias)
    layer.build(x.shape)
    reference.randomise(layer, rng)
    return layer, task_counts, shared_counts


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("name", "use_bias"), [*((name, True) for name in CASES), ("a shared unit", False)])
def test_outputs_are_those_of_the_formula(rng, name, use_bias):
    x = rng.normal(size=(7, DIM)).astype("float32")
    layer, *counts = built(name, rng, x, use_bias)
    expected = formula(layer, x, *counts)
    assert expected.shape == (7, layer.num_tasks, layer.compute_output_shape(x.shape)[-1])
    close(forward(layer, x), expected)


@pytest.mark.parametrize("name", ["two levels", "one expert each"])
def test_tasks_may_have_an_input_each(rng, name):
    x = rng.normal(size=(7, CASES[name][0], DIM)).astype("float32")
    layer, *counts = built(name, rng, x)
    close(forward(layer, x), formula(layer, x, *counts))
    same = np.repeat(x[:, :1], x.shape[1], axis=1)
    again, *_ = built(name, rng, same[:, 0])
    for mine, theirs in zip(again.weights, layer.weights, strict=True):
        mine.assign(theirs)
    np.testing.assert_allclose(forward(again, same[:, 0]), forward(layer, same), rtol=1e-4, atol=1e-5)


def test_native_weights_start_at_the_mean():
    layer = mtl.AdaTT(2, 1, ((3, 2),), 0, (4,))
    layer.build((None, DIM))
    np.testing.assert_allclose(reference.array(layer.gate_levels[0].native_weights), [1 / 3] * 3 + [1 / 2] * 2)


def test_without_native_experts_it_is_mmoe(rng):
    x = rng.normal(size=(7, DIM)).astype("float32")
    layer, mmoe = mtl.AdaTT(2, 1, 0, 3, (4,)), mtl.MMoE(2, 3, (4,))
    layer.build(x.shape)
    reference.randomise(layer, rng)
    mmoe.build(x.shape)
    for mine, theirs in zip(mmoe.weights, layer.weights, strict=True):
        mine.assign(theirs)
    np.testing.assert_allclose(forward(layer, x), forward(mmoe, x), rtol=1e-6, atol=1e-6)


def test_a_task_reaches_all_experts_and_its_own_gates_and_native_weights(rng):
    layer = mtl.AdaTT(2, 1, 2, 0, (4,), activation="tanh")
    x = rng.normal(size=(7, DIM)).astype("float32")
    layer.build(x.shape)
    gates = layer.gate_levels[0]
    wanted = [layer.expert_levels[0].kernels[0], gates.kernel, gates.native_weights]
    kernels, gate, native = gradients(layer, x, lambda y: ops.sum(ops.square(y[:, 0])), wanted)
    assert (np.abs(kernels).max(axis=(1, 2)) > 0).all()
    np.testing.assert_array_equal(np.abs(gate).max(axis=0) > 0, [True] * 4 + [False] * 4)
    np.testing.assert_array_equal(np.abs(native) > 0, [True, True, False, False])
    for gradient in (kernels, gate, native):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["two levels", "a shared unit", "one task, one expert"])
def test_frozen_it_gives_the_same_numbers_without_the_last_gates_of_other_tasks(rng, name):
    x = rng.normal(size=(7, DIM)).astype("float32")
    layer, *counts = built(name, rng, x)
    expected = formula(layer, x, *counts)
    last = layer.gate_levels[-1]
    width = last.num_experts if last.num_experts > 1 else 0
    for task in range(layer.num_tasks):
        frozen = layer.freeze([task])
        for again in (frozen, frozen.freeze()):
            close(ops.convert_to_numpy(again(x)[0]), expected[:, task])
        native = [len(own) if len(own) > 1 else 0 for own in last.native]
        others = [other for other in range(layer.num_tasks) if other != task]
        gone = sum(layer.expert_levels[-1].kernels[0].shape[1] * width + native[other] for other in others)
        assert frozen.count_params() == layer.count_params() - gone


def test_frozen_it_drops_a_unit_below_that_only_experts_of_other_tasks_read(rng):
    x = rng.normal(size=(7, DIM)).astype("float32")
    layer = mtl.AdaTT(2, 2, (2, (0, 1)), 0, (4,))  # above, only task 1 has an expert
    layer.build(x.shape)
    reference.randomise(layer, rng)
    y = forward(layer, x)
    frozen = layer.freeze([1])
    close(ops.convert_to_numpy(frozen(x)[0]), y[:, 1])
    # All experts and task 1's gate below, its expert above: task 0's unit below is not read.
    assert frozen.count_params() == 4 * (DIM + 1) * 4 + DIM * 4 + 2 + (4 + 1) * 4


# --------------------------------------------------------------------------------------------------------- fusion gate


def test_a_fusion_gate_worked_by_hand():
    gate = FusionGate(4, 3, reads=((0, 1), (3, 2), (1, 2, 3)), native=((0,), (2, 3), ()), kernel_initializer="zeros")
    gate.build((None, 6))
    gate.native_weights.assign([0.25, -2.0])
    y = ops.convert_to_numpy(gate(np.ones((2, 6), "float32")))
    expected = [[1.5, 0.5, 0, 0], [0, 0, 0.75, -1.5], [0, 1 / 3, 1 / 3, 1 / 3]]
    np.testing.assert_allclose(y, np.broadcast_to(expected, (2, 3, 4)), rtol=1e-6)


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mtl.AdaTT(0), "`num_tasks` must be an integer of at least 1; received: num_tasks=0"),
        (lambda: mtl.AdaTT(2, 0), "`num_levels` must be an integer of at least 1; received: num_levels=0"),
        (
            lambda: mtl.AdaTT(2, 2, -1),
            "`num_task_experts` must be an integer of at least 0; received: num_task_experts=-1",
        ),
        (
            lambda: mtl.AdaTT(2, 2, ((1, 1, 1), 1)),
            "`num_task_experts` must have an entry for each of the 2 tasks; received: (1, 1, 1)",
        ),
        (
            lambda: mtl.AdaTT(2, 2, (1, 0)),
            "`num_task_experts` and `num_shared_experts` must leave every level at least one expert; "
            "received: level 1 without any",
        ),
        (
            lambda: mtl.AdaTT(2, 2, 1, (1,)),
            "`num_shared_experts` must be a number, or a sequence with an entry for each of the 2 levels; "
            "received: num_shared_experts=(1,)",
        ),
        (
            lambda: mtl.AdaTT(2, gate=mtl.TopKGate(k=1)),
            "`gate` must be left out: AdaTT has gates of its own; received: gate=TopKGate",
        ),
        (
            lambda: mtl.AdaTT(2, 2, 1, (0, 1)).build((None, 2, 5)),
            "`inputs` of AdaTT must be [batch, dim]; received: shape=(None, 2, 5)",
        ),
        (
            lambda: mtl.AdaTT(2, 2).build((None, 3, 5)),
            "`inputs` of AdaTT must be [batch, dim] or [batch, 2, dim]; received: shape=(None, 3, 5)",
        ),
        (
            lambda: FusionGate(3, 2, reads=((0, 1), (2,)), native=((2,), ())),
            "`native` must give each gate experts that it reads; received: native=((2,), ()), reads=((0, 1), (2,))",
        ),
        (
            lambda: FusionGate(2, 2, native=((0,),)),
            "`native` must give each gate experts that it reads; received: native=((0,),), reads=((0, 1), (0, 1))",
        ),
    ],
)
def test_a_bad_argument_is_told_by_name(make, text):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == text
