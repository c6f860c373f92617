"""Cross-stitch networks against NumPy, the single-task limit, what zeros in a stitch leave out; the constant gate."""

import numpy as np
import pytest
import reference
from gradients import forward, gradients

import mtl_layers as mtl
from mtl_layers._keras import keras, ops
from mtl_layers.gates import ConstantGate

DIM = 5


def formula(layer, x, activation=reference.relu):
    """[B, T, U]; x is [B, D] or [B, T, D]."""
    tasks = range(layer.num_tasks)
    values = [x if x.ndim == 2 else x[:, task] for task in tasks]
    for experts, stitch in zip(layer.expert_levels, layer.stitches, strict=True):
        weights, stitch = reference.experts_weights(experts), reference.array(stitch)
        hidden = [reference.expert(weights, task, values[task], activation) for task in tasks]
        values = [sum(stitch[task, other] * hidden[other] for other in tasks) for task in tasks]
    return np.stack(values, axis=1)


def inputs(rng, num_tasks, one_each, rows=7):
    return rng.normal(size=(rows, num_tasks, DIM) if one_each else (rows, DIM)).astype("float32")


@pytest.mark.parametrize("one_each", [False, True])
@pytest.mark.parametrize(
    ("num_tasks", "hidden_units", "use_bias"),
    [(1, (4,), True), (2, (4, 3), True), (3, (4, 6, 2), True), (3, (4, 4), False)],
)
def test_outputs_are_those_of_the_formula(rng, num_tasks, hidden_units, use_bias, one_each):
    layer = mtl.CrossStitch(num_tasks, hidden_units, use_bias=use_bias)
    x = inputs(rng, num_tasks, one_each)
    layer.build(x.shape)
    reference.randomise(layer, rng)
    assert len(layer.weights) == len(hidden_units) * (2 + use_bias)
    expected = formula(layer, x)
    assert expected.shape == (7, num_tasks, hidden_units[-1])
    np.testing.assert_allclose(forward(layer, x), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_two_tasks_worked_by_hand():
    layer = mtl.CrossStitch(2, (1,), activation="linear", use_bias=False, kernel_initializer="ones")
    layer.build((None, 2, 1))
    layer.stitches[0].assign([[0.75, 0.25], [-1.0, 2.0]])
    y = ops.convert_to_numpy(layer(np.array([[[4.0], [8.0]]], "float32")))
    np.testing.assert_array_equal(y, [[[0.75 * 4 + 0.25 * 8], [-4.0 + 2 * 8.0]]])


@pytest.mark.parametrize(
    ("num_tasks", "self_weight", "expected"),
    [
        (2, 0.9, [[0.9, 0.1], [0.1, 0.9]]),
        (3, 0.8, [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]),
        (3, 1.0, np.eye(3)),
        (2, 0.0, [[0.0, 1.0], [1.0, 0.0]]),
        (1, 0.9, [[1.0]]),
    ],
)
def test_stitches_start_as_convex_combinations_that_lean_to_the_task(num_tasks, self_weight, expected):
    layer = mtl.CrossStitch(num_tasks, (4, 3), self_weight)
    layer.build((None, DIM))
    for stitch in layer.stitches:
        np.testing.assert_allclose(reference.array(stitch), expected, atol=1e-7)


def test_with_fixed_identities_it_is_the_single_task_model(rng):
    layer = mtl.CrossStitch(3, (4, 3), self_weight=1.0, learn_stitches=False)
    single = mtl.CGC(3, 1, 0, (4, 3))
    x = inputs(rng, 3, False)
    layer.build(x.shape)
    single.build(x.shape)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(size=tuple(weight.shape)))
    theirs = [
        weight
        for pair in zip(single.expert_levels[0].kernels, single.expert_levels[0].biases, strict=True)
        for weight in pair
    ]
    mine = [weight for experts in layer.expert_levels for weight in (*experts.kernels, *experts.biases)]
    assert len(layer.trainable_weights) == len(mine) == len(theirs) == 4
    for weight, other in zip(mine, theirs, strict=True):
        other.assign(weight)
    np.testing.assert_array_equal(forward(layer, x), forward(single, x))
    for task in range(3):
        found = gradients(layer, x, lambda y, task=task: ops.sum(y[:, task]), mine)
        expected = gradients(single, x, lambda y, task=task: ops.sum(y[:, task]), theirs)
        for gradient, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(gradient, other, rtol=1e-6)


def test_what_is_fixed_stays_fixed_in_training_and_what_is_learned_moves(rng):
    x = inputs(rng, 2, False)
    for learned in (True, False):
        layer = mtl.CrossStitch(2, (4, 3), learn_stitches=learned, activation="tanh")
        model = keras.Sequential([keras.Input((DIM,)), layer])
        before = [reference.array(stitch) for stitch in layer.stitches]
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(x, rng.normal(size=(7, 2, 3)), verbose=0)
        moved = [(reference.array(stitch) != old).any() for stitch, old in zip(layer.stitches, before, strict=True)]
        assert moved == [learned, learned]


def test_gradients_reach_every_weight_and_are_finite(rng):
    layer = mtl.CrossStitch(3, (4, 3), activation="tanh")
    x = inputs(rng, 3, True)
    layer.build(x.shape)
    for task in range(3):
        for gradient in gradients(layer, x, lambda y, task=task: ops.sum(ops.square(y[:, task]))):
            assert np.isfinite(gradient).all()
            assert np.abs(gradient).max() > 0


# -------------------------------------------------------------------------------------------------------------- frozen


def frozen_parts(layer):
    """How many networks a frozen layer has at each depth."""
    counts = {}
    for experts in layer.experts:
        depth = experts.kernels[0].shape[-1]  # the tests below give every depth a width of its own
        counts[depth] = counts.get(depth, 0) + experts.num_experts
    return counts


@pytest.mark.parametrize("one_each", [False, True])
def test_frozen_it_keeps_what_reaches_its_tasks_through_weights_other_than_zero(rng, one_each):
    layer = mtl.CrossStitch(3, (4, 6, 2))
    x = inputs(rng, 3, one_each)
    layer.build(x.shape)
    reference.randomise(layer, rng)
    # Task 0 is on its own above, and mixes 0 and 2 below; task 1 reads 2 alone, with a weight other than 1.
    layer.stitches[2].assign([[1.5, 0.0, 0.0], [0.0, 0.0, -0.5], [0.2, 0.0, 1.0]])
    layer.stitches[1].assign([[1.0, 0.0, 0.0], [0.3, 0.7, 0.0], [0.0, 0.0, 2.0]])
    layer.stitches[0].assign([[0.5, 0.0, 0.5], [0.1, 0.9, 0.0], [0.0, 0.0, 1.0]])
    y = formula(layer, x)
    for tasks, networks in [
        ([0], {4: 2, 6: 1, 2: 1}),
        ([1], {4: 1, 6: 1, 2: 1}),
        ([2, 0], {4: 2, 6: 2, 2: 2}),
        (None, {4: 2, 6: 2, 2: 2}),
    ]:
        frozen = layer.freeze(tasks)
        assert frozen_parts(frozen) == networks
        for again in (frozen, frozen.freeze()):
            for found, task in zip(again(x), range(3) if tasks is None else tasks, strict=True):
                np.testing.assert_allclose(ops.convert_to_numpy(found), y[:, task], rtol=1e-5, atol=1e-5)


def test_a_task_whose_stitch_is_all_zeros_is_zero_when_frozen_too(rng):
    layer = mtl.CrossStitch(2, (3,))
    x = inputs(rng, 2, False)
    layer.build(x.shape)
    layer.stitches[0].assign([[0.0, 0.0], [0.5, 0.5]])
    (zero,) = layer.freeze([0])(x)
    np.testing.assert_array_equal(ops.convert_to_numpy(zero), np.zeros((7, 3)))


def test_fixed_stitches_are_fixed_in_the_frozen_layer(rng):
    x = inputs(rng, 2, False)
    for learned in (True, False):
        layer = mtl.CrossStitch(2, (3,), learn_stitches=learned)
        layer.build(x.shape)
        frozen = layer.freeze()
        names = [weight.name.split("/")[-1].split(":")[0] for weight in frozen.trainable_weights]
        assert names.count("numbers") == (2 if learned else 0)


# ------------------------------------------------------------------------------------------------------- constant gate


def test_a_constant_gate_gives_its_numbers_to_the_experts_that_it_reads():
    gate = ConstantGate(3, 2, reads=((0, 2), (1,)))
    gate.build((None, 4))
    gate.numbers.assign([[1.0, 2.0, -3.0], [4.0, 0.5, 6.0]])
    for x in (np.ones((5, 4), "float32"), np.zeros((5, 2, 4), "float32")):
        y = ops.convert_to_numpy(gate(x))
        np.testing.assert_array_equal(y, np.broadcast_to([[1.0, 0.0, -3.0], [0.0, 0.5, 0.0]], (5, 2, 3)))


def test_a_constant_gate_makes_a_mixture_whose_shares_do_not_depend_on_the_row(rng):
    layer = mtl.CGC(2, 1, 1, (4,), gate=ConstantGate())
    x = inputs(rng, 2, False)
    layer.build(x.shape)
    reference.randomise(layer, rng)
    numbers = reference.array(layer.gate_levels[0].numbers)
    weights = reference.experts_weights(layer.expert_levels[0])
    own = [reference.expert(weights, number, x) for number in range(3)]
    for task in range(2):
        expected = numbers[task, task] * own[task] + numbers[task, 2] * own[2]
        np.testing.assert_allclose(forward(layer, x)[:, task], expected, rtol=1e-5, atol=1e-6)


def test_numbers_are_read_in_float32_under_mixed_precision():
    gate = ConstantGate(1, dtype="mixed_bfloat16")
    gate.build((None, 4))
    gate.numbers.assign([[1.0 + 2.0**-20]])
    assert reference.array(ops.cast(gate.constant_weights(), "float32"))[0, 0] == 1.0 + 2.0**-20


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mtl.CrossStitch(0), "`num_tasks` must be an integer of at least 1; received: num_tasks=0"),
        (
            lambda: mtl.CrossStitch(2, ()),
            "`hidden_units` must be a non-empty tuple of positive integers; received: hidden_units=()",
        ),
        *[
            (
                lambda value=value: mtl.CrossStitch(2, (4,), value),
                f"`self_weight` must be in [0, 1]; received: self_weight={value!r}",
            )
            for value in (-0.1, 1.1, float("nan"), "1", True)
        ],
        (
            lambda: mtl.CrossStitch(2, gate=mtl.TopKGate(k=1, name="gate")),
            "`gate` must be left out: CrossStitch has gates of its own; received: gate=TopKGate",
        ),
        *[
            (
                lambda shape=shape: mtl.CrossStitch(2).build(shape),
                f"`inputs` of CrossStitch must be [batch, dim] or [batch, 2, dim]; received: shape={shape}",
            )
            for shape in [(None,), (None, 3, 5), (None, 2, 5, 1)]
        ],
        (
            lambda: mtl.CrossStitch(2, name="stitched").freeze(),
            "`stitched` must be built before it is frozen: call it on data or fit it first",
        ),
    ],
)
def test_a_bad_argument_is_told_by_name(make, text):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == text


@pytest.mark.parametrize("tasks", [[], [2], [0, 0], [-1]])
def test_freezing_for_tasks_that_do_not_exist_is_refused(tasks):
    layer = mtl.CrossStitch(2, (3,))
    layer.build((None, DIM))
    with pytest.raises(ValueError) as caught:
        layer.freeze(tasks)
    assert str(caught.value) == f"`tasks` must be distinct indexes below 2, or None for all; received: tasks={tasks}"


@pytest.mark.parametrize(
    ("built_on", "given", "legal"),
    [
        ((4, DIM), (4, 2, DIM), "[batch, dim]"),
        *(((4, 2, DIM), (4, *rest, DIM), "[batch, 2, dim]") for rest in ((), (3,))),
    ],
)
def test_a_built_layer_takes_what_it_was_built_on(built_on, given, legal):
    """It took the first rows for those of the tasks, or left out the third."""
    layer = mtl.CrossStitch(2, (3,))
    layer(np.ones(built_on, "float32"))
    for call in (layer, layer.gate_weights, layer.expert_outputs):
        with pytest.raises(ValueError) as caught:
            call(np.ones(given, "float32"))
        assert f"`inputs` of CrossStitch must be {legal}; received: shape={given}" in str(caught.value)
