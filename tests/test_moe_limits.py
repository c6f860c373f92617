"""Where two layers must coincide, what a task may touch, dropout, and every error of the family by its text."""

import numpy as np
import pytest
import reference
from gradients import forward, gradients

import mtl_layers as mtl
from mtl_layers._keras import keras, ops


@pytest.fixture
def x(rng):
    return rng.normal(size=(6, 5)).astype("float32")


def check_same(first, second, x, rng):
    """The two layers agree once they hold the same weights."""
    first.build(x.shape)
    reference.randomise(first, rng)
    second.build(x.shape)
    assert [tuple(w.shape) for w in first.weights] == [tuple(w.shape) for w in second.weights]
    for mine, theirs in zip(first.weights, second.weights, strict=True):
        theirs.assign(mine)
    np.testing.assert_allclose(forward(first, x), forward(second, x), rtol=1e-5, atol=1e-6)


LIMITS = {
    "PLE with one level is CGC": (
        lambda: mtl.PLE(3, 1, ((2, 1, 0),), 2, (4, 3)),
        lambda: mtl.CGC(3, (2, 1, 0), 2, (4, 3)),
    ),
    "MultiLayerMMoE with one level is MMoE": (
        lambda: mtl.MultiLayerMMoE(3, 1, 4, (4, 3)),
        lambda: mtl.MMoE(3, 4, (4, 3)),
    ),
    "CGC with shared experts only is MMoE": (lambda: mtl.CGC(3, 0, 4, (4,)), lambda: mtl.MMoE(3, 4, (4,))),
    "TopKGate of all experts is SoftmaxGate": (
        lambda: mtl.MMoE(2, 3, (4,), gate=mtl.TopKGate(k=3)),
        lambda: mtl.MMoE(2, 3, (4,)),
    ),
    "a mixture of one expert is SharedBottom": (lambda: mtl.MMoE(3, 1, (4, 3)), lambda: mtl.SharedBottom(3, (4, 3))),
    "OMoE with one task is MMoE": (lambda: mtl.OMoE(1, 3, (4,)), lambda: mtl.MMoE(1, 3, (4,))),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limit(rng, x, name):
    first, second = (make() for make in LIMITS[name])
    check_same(first, second, x, rng)


def test_omoe_is_mmoe_with_equal_gates(rng, x):
    one, many = mtl.OMoE(3, 4, (2,)), mtl.MMoE(3, 4, (2,))
    one.build(x.shape)
    reference.randomise(one, rng)
    many.build(x.shape)
    for mine, theirs in zip(one.expert_levels[0].weights, many.expert_levels[0].weights, strict=True):
        theirs.assign(mine)
    many.gate_levels[0].kernel.assign(np.tile(reference.array(one.gate_levels[0].kernel), (1, 3)).astype("float32"))
    np.testing.assert_allclose(ops.convert_to_numpy(one(x)), ops.convert_to_numpy(many(x)), rtol=1e-5, atol=1e-6)


def test_shared_bottom_is_a_dense_layer_for_every_task(x):
    layer, dense = mtl.SharedBottom(2, (3,)), keras.layers.Dense(3, activation="relu")
    layer.build(x.shape)
    dense.build(x.shape)
    dense.kernel.assign(reference.array(layer.weights[0])[0].astype("float32"))
    y = ops.convert_to_numpy(layer(x))
    for task in range(2):
        np.testing.assert_allclose(y[:, task], ops.convert_to_numpy(dense(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [lambda: mtl.CGC(3, 1, 0, (4,)), lambda: mtl.PLE(3, 2, 1, 0, (4,))])
def test_without_shared_experts_a_task_touches_its_own_experts_only(x, make):
    layer = make()
    layer.build(x.shape)
    assert all(gates.weights == [] for gates in layer.gate_levels)
    for task in range(3):
        found = gradients(layer, x, lambda y, task=task: ops.sum(y[:, task]))
        assert all((each[other] == 0).all() for each in found for other in range(3) if other != task)
        assert all(np.abs(each[task]).max() > 0 for each in found)


def test_a_task_of_ple_touches_other_tasks_experts_only_through_the_shared_gate_below(x):
    layer = mtl.PLE(2, 2, 1, 1, (4,), activation="tanh")
    layer.build(x.shape)
    kernels = [experts.kernels[0] for experts in layer.expert_levels]
    gates = [gates.kernel for gates in layer.gate_levels]
    found = [np.abs(each) > 0 for each in gradients(layer, x, lambda y: ops.sum(y[:, 0]), kernels + gates)]
    np.testing.assert_array_equal(found[0].any(axis=(1, 2)), [1, 1, 1])  # all experts below feed the shared module
    np.testing.assert_array_equal(found[1].any(axis=(1, 2)), [1, 0, 1])
    # gates below: task 0 (2 columns), task 1 (2), shared (3); above: task 0 (2), task 1 (2)
    np.testing.assert_array_equal(found[2].any(axis=0), [1, 1, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(found[3].any(axis=0), [1, 1, 0, 0])


@pytest.mark.parametrize(
    "make",
    [
        lambda rate: mtl.SharedBottom(2, (30,), dropout=rate),
        lambda rate: mtl.MMoE(2, 3, (30,), dropout=rate),
        lambda rate: mtl.PLE(2, 2, 1, 1, (30,), dropout=rate),
    ],
)
def test_dropout_acts_in_training_only(x, make):
    layer, plain = make(0.5), make(0.0)
    layer.build(x.shape)
    plain.build(x.shape)
    for mine, theirs in zip(layer.trainable_weights, plain.weights, strict=True):
        theirs.assign(mine)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), ops.convert_to_numpy(plain(x)))
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x, training=False)), ops.convert_to_numpy(plain(x)))
    assert (ops.convert_to_numpy(layer(x, training=True)) != ops.convert_to_numpy(plain(x))).mean() > 0.2


def integer(name, value, minimum=1):
    return f"`{name}` must be an integer of at least {minimum}; received: {name}={value!r}"


UNITS = "`hidden_units` must be a non-empty tuple of positive integers; received: hidden_units="
PER_LEVEL = "must be a number, or a sequence with an entry for each of the 2 levels; received: "
NOTHING_TO_READ = "`num_task_experts` and `num_shared_experts` must leave every task at least one expert to read; "

ERRORS = [
    *[
        (lambda kind=kind: kind(0), integer("num_tasks", 0))
        for kind in (mtl.SharedBottom, mtl.OMoE, mtl.MMoE, mtl.MultiLayerMMoE, mtl.CGC, mtl.PLE)
    ],
    *[
        (lambda kind=kind: kind(2, hidden_units=()), UNITS + "()")
        for kind in (mtl.SharedBottom, mtl.OMoE, mtl.MMoE, mtl.MultiLayerMMoE, mtl.CGC, mtl.PLE)
    ],
    (lambda: mtl.OMoE(2, 0), integer("num_experts", 0)),
    (lambda: mtl.MMoE(2, 1.5), integer("num_experts", 1.5)),
    (lambda: mtl.MMoE("2"), integer("num_tasks", "2")),
    (lambda: mtl.MMoE(2, dropout=1), "`dropout` must be in [0, 1); received: dropout=1"),
    (
        lambda: mtl.MMoE(2, gate="softmax"),
        "`gate` must be a gate layer such as mtl.TopKGate(k=2), or None; received: gate='softmax'",
    ),
    (
        lambda: mtl.MMoE(2, 8, gate=mtl.TopKGate(2, num_experts=4, reads=((0, 1),))),
        "`gate` must come without `num_experts`, `num_gates` and `reads`, which the layer knows; "
        "received: num_experts=4, num_gates=1, reads=((0, 1),)",
    ),
    (
        lambda: mtl.MMoE(2, 3, gate=mtl.TopKGate(k=4)),
        "`k` must be at most the number of experts that each gate reads (3); received: k=4",
    ),
    (
        lambda: mtl.PLE(2, 2, 1, 1, gate=mtl.TopKGate(k=3)),
        "`k` must be at most the number of experts that each gate reads (2); received: k=3",
    ),
    (lambda: mtl.MultiLayerMMoE(2, 0), integer("num_levels", 0)),
    (lambda: mtl.MultiLayerMMoE(2, 2, (3, 0)), integer("num_experts", 0)),
    (lambda: mtl.MultiLayerMMoE(2, 2, (3, 3, 3)), f"`num_experts` {PER_LEVEL}num_experts=(3, 3, 3)"),
    (lambda: mtl.MultiLayerMMoE(2, 2, 3, ((4,),)), f"`hidden_units` {PER_LEVEL}hidden_units=((4,),)"),
    (lambda: mtl.PLE(2, 0), integer("num_levels", 0)),
    (lambda: mtl.PLE(2, 2, -1), integer("num_task_experts", -1, 0)),
    (lambda: mtl.PLE(2, 2, 1, -1), integer("num_shared_experts", -1, 0)),
    (lambda: mtl.PLE(2, 2, (1, 1, 1)), f"`num_task_experts` {PER_LEVEL}num_task_experts=(1, 1, 1)"),
    (lambda: mtl.PLE(2, 2, 1, (1,)), f"`num_shared_experts` {PER_LEVEL}num_shared_experts=(1,)"),
    (
        lambda: mtl.PLE(2, 2, ((1, 1, 1), 1)),
        "`num_task_experts` must have an entry for each of the 2 tasks; received: (1, 1, 1)",
    ),
    (
        lambda: mtl.PLE(2, 2, (1, (1, 0)), (1, 0)),
        NOTHING_TO_READ + "received: level 1 with num_task_experts=[1, 0], num_shared_experts=0",
    ),
    (
        lambda: mtl.CGC(2, 0, 0),
        NOTHING_TO_READ + "received: level 0 with num_task_experts=[0, 0], num_shared_experts=0",
    ),
    (
        lambda: mtl.CGC(2, (1, 1, 1)),
        "`num_task_experts` must have an entry for each of the 2 tasks; received: (1, 1, 1)",
    ),
    (lambda: mtl.CGC(2, 1, -1), integer("num_shared_experts", -1, 0)),
    (
        lambda: mtl.PLE(2).build((4, 2, 5)),
        "`inputs` of PLE must be [batch, dim]; received: shape=(4, 2, 5)",
    ),
    (
        lambda: mtl.MMoE(2, name="mix").freeze(),
        "`mix` must be built before it is frozen: call it on data or fit it first",
    ),
]


@pytest.mark.parametrize(("make", "text"), ERRORS)
def test_a_bad_argument_is_told_by_name(make, text):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == text


def test_a_built_layer_takes_no_input_of_each_task(x):
    layer = mtl.MMoE(2, 4, (3,))
    layer(x)
    with pytest.raises(ValueError) as caught:
        layer(np.ones((7, 4, x.shape[1]), "float32"))  # as many as experts: each took one
    assert f"`inputs` of MMoE must be [batch, dim]; received: shape=(7, 4, {x.shape[1]})" in str(caught.value)


@pytest.mark.parametrize("tasks", [[], [2], [0, 0], [-1], ["ctr"]])
def test_freezing_for_tasks_that_do_not_exist_is_refused(x, tasks):
    layer = mtl.MMoE(2, 2, (3,))
    layer.build(x.shape)
    with pytest.raises(ValueError) as caught:
        layer.freeze(tasks)
    assert str(caught.value) == (f"`tasks` must be distinct indexes below 2, or None for all; received: tasks={tasks}")
