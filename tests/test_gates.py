"""Gates: the softmax of each, written out in NumPy; what they must always hold; ties and limits."""

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import mtl_layers as mtl
from mtl_layers._keras import ops

QUICK = settings(max_examples=12, deadline=None, derandomize=True)


def numpy_gate(layer, x, num_experts, reads, k=None):
    """[B, gates, experts] from the formula, gate by gate."""
    weights = reference.LevelWeights([], [], reference.array(layer.kernel))
    weights.gate_bias = None if layer.bias is None else reference.array(layer.bias)
    gates = reference.Gates(weights, k)
    expected = np.zeros((len(x), len(reads), num_experts))
    for number, experts in enumerate(reads):
        query = x if x.ndim == 2 else x[:, number]
        expected[:, number, list(experts)] = gates(query, len(experts))
    gates.check_used_up()
    return expected


ALL = ((0, 1, 2, 3),)


@pytest.mark.parametrize("one_query_each", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(
    ("reads", "k"),
    [
        (None, None),
        (None, 2),
        (None, 4),
        (((0, 1), (3, 0, 2)), None),
        (((1,), (0, 2)), None),
        (((0, 3), (3, 1, 2)), 2),
        (((2,), (0, 1, 2, 3)), 1),
    ],
)
def test_weights_are_those_of_the_formula(rng, reads, k, use_bias, one_query_each):
    arguments = {"num_experts": 4, "num_gates": 2, "reads": reads, "use_bias": use_bias}
    layer = mtl.SoftmaxGate(**arguments) if k is None else mtl.TopKGate(k=k, **arguments)
    x = rng.normal(size=(6, 2, 5) if one_query_each else (6, 5)).astype("float32")
    layer.build(x.shape)
    reference.randomise(layer, rng)
    assert len(layer.weights) == 1 + use_bias
    expected = numpy_gate(layer, x, 4, reads or ALL * 2, k)
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), expected, rtol=1e-4, atol=1e-6)


def test_softmax_worked_by_hand():
    layer = mtl.SoftmaxGate(num_experts=3, kernel_initializer="zeros")
    layer.build((None, 1))
    layer.kernel.assign(np.log([[1.0, 2.0, 5.0]]).astype("float32"))
    y = ops.convert_to_numpy(layer(np.array([[1.0], [0.0]], "float32")))
    np.testing.assert_allclose(y[:, 0], [[1 / 8, 2 / 8, 5 / 8], [1 / 3] * 3], rtol=1e-6)


def test_top_k_worked_by_hand():
    layer = mtl.TopKGate(k=2, num_experts=3, kernel_initializer="zeros")
    layer.build((None, 1))
    layer.kernel.assign(np.log([[1.0, 2.0, 6.0]]).astype("float32"))
    y = ops.convert_to_numpy(layer(np.array([[1.0], [-1.0]], "float32")))
    np.testing.assert_allclose(y[:, 0], [[0, 1 / 4, 3 / 4], [2 / 3, 1 / 3, 0]], rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_equal_scores_leave_exactly_k_weights_the_lowest_indexes(k):
    layer = mtl.TopKGate(k=k, num_experts=4, num_gates=2, kernel_initializer="zeros")
    y = ops.convert_to_numpy(layer(np.ones((3, 5), "float32")))
    expected = [1.0 / k] * k + [0.0] * (4 - k)
    np.testing.assert_allclose(y, np.broadcast_to(expected, (3, 2, 4)), rtol=1e-6)


def test_a_tie_at_the_edge_of_the_kept_leaves_k_too():
    layer = mtl.TopKGate(k=2, num_experts=4, kernel_initializer="zeros")
    layer.build((None, 1))
    layer.kernel.assign(np.array([[0.0, 1.0, 0.0, 0.0]], "float32"))
    y = ops.convert_to_numpy(layer(np.ones((1, 1), "float32")))[0, 0]
    np.testing.assert_allclose(y, [1 / (1 + np.e), np.e / (1 + np.e), 0, 0], rtol=1e-6)


def test_top_k_of_all_experts_is_the_softmax_gate(rng):
    x = rng.normal(size=(6, 5)).astype("float32")
    sparse, dense = mtl.TopKGate(k=4, num_experts=4, num_gates=3), mtl.SoftmaxGate(num_experts=4, num_gates=3)
    sparse.build(x.shape)
    dense.build(x.shape)
    dense.kernel.assign(sparse.kernel)
    np.testing.assert_allclose(ops.convert_to_numpy(sparse(x)), ops.convert_to_numpy(dense(x)), rtol=1e-6)


def test_a_gate_over_one_expert_is_one_and_has_nothing_to_learn():
    layer = mtl.SoftmaxGate(num_experts=3, num_gates=2, reads=((2,), (0,)), use_bias=True)
    y = ops.convert_to_numpy(layer(np.ones((4, 5), "float32")))
    np.testing.assert_array_equal(y, np.broadcast_to([[0, 0, 1], [1, 0, 0]], (4, 2, 3)))
    assert layer.weights == []


def test_scores_too_large_for_exp_give_no_nan():
    layer = mtl.SoftmaxGate(num_experts=3, reads=((0, 2),), kernel_initializer="ones")
    y = ops.convert_to_numpy(layer(np.array([[1e6], [-1e6]], "float32")))
    np.testing.assert_array_equal(y[:, 0], [[0.5, 0.0, 0.5]] * 2)


@st.composite
def gates(draw):
    num_experts = draw(st.integers(1, 5))
    reading = st.lists(st.integers(0, num_experts - 1), min_size=1, max_size=num_experts, unique=True)
    reads = draw(st.none() | st.lists(reading, min_size=1, max_size=3))
    num_gates = draw(st.integers(1, 3)) if reads is None else len(reads)
    fewest = num_experts if reads is None else min(map(len, reads))
    k = draw(st.none() | st.integers(1, fewest))
    return num_experts, num_gates, reads, k, draw(st.booleans())


@QUICK
@given(gates(), st.floats(0.01, 100.0))
def test_weights_are_shares_of_the_experts_read_and_zero_elsewhere(shape, scale):
    num_experts, num_gates, reads, k, one_query_each = shape
    arguments = {"num_experts": num_experts, "num_gates": num_gates, "reads": reads, "kernel_initializer": "normal"}
    layer = mtl.SoftmaxGate(**arguments) if k is None else mtl.TopKGate(k=k, **arguments)
    rng = np.random.default_rng(num_experts)
    x = scale * rng.normal(size=(4, num_gates, 3) if one_query_each else (4, 3)).astype("float32")
    y = ops.convert_to_numpy(layer(x.astype("float32")))
    assert y.shape == (4, num_gates, num_experts)
    assert (y >= 0).all()
    np.testing.assert_allclose(y.sum(axis=-1), 1.0, rtol=1e-5)
    for number, experts in enumerate(reads or [range(num_experts)] * num_gates):
        assert (np.delete(y[:, number], list(experts), axis=-1) == 0).all()
    if k is not None:
        assert ((y > 0).sum(axis=-1) <= k).all()  # fewer only where exp() underflows


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mtl.SoftmaxGate(0), "`num_experts` must be an integer of at least 1; received: num_experts=0"),
        (lambda: mtl.SoftmaxGate(2, 0), "`num_gates` must be an integer of at least 1; received: num_gates=0"),
        (lambda: mtl.TopKGate(k=0), "`k` must be an integer of at least 1; received: k=0"),
        (
            lambda: mtl.TopKGate(k=3, num_experts=2),
            "`k` must be at most the number of experts that each gate reads (2); received: k=3",
        ),
        (
            lambda: mtl.TopKGate(k=2, num_experts=3, num_gates=2, reads=((0, 1, 2), (1,))),
            "`k` must be at most the number of experts that each gate reads (1); received: k=2",
        ),
        *[
            (
                lambda reads=reads: mtl.SoftmaxGate(3, 2, reads=reads),
                "`reads` must give each gate at least one expert, each once and below num_experts; "
                f"received: reads={reads}, num_gates=2, num_experts=3",
            )
            for reads in [((0,), ()), ((0, 0), (1,)), ((0,), (3,)), ((0,), (-1,)), ((0,),)]
        ],
        (
            lambda: mtl.SoftmaxGate().build((None, 4)),
            "`num_experts` must be given before a gate is used; received: num_experts=None",
        ),
        *[
            (
                lambda shape=shape: mtl.SoftmaxGate(3, 2).build(shape),
                f"`inputs` must be [batch, dim] or [batch, num_gates, dim]; received: shape={shape}, num_gates=2",
            )
            for shape in [(4,), (4, 3, 5), (4, 2, 5, 1)]
        ],
    ],
)
def test_a_bad_argument_is_told_by_name(make, text):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == text
