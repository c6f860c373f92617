"""The layers of the mixture-of-experts family: each against the NumPy reference, in value and in gradient."""

import numpy as np
import pytest
import reference
from conftest import BACKEND
from gradients import forward, gradients
from hypothesis import given, settings
from hypothesis import strategies as st

import mtl_layers as mtl
from mtl_layers._keras import ops

QUICK = settings(max_examples=3 if BACKEND == "jax" else 8, deadline=None, derandomize=True)
DIM = 5


def built(layer, rng, x):
    layer.build(x.shape)
    reference.randomise(layer, rng)
    return layer


def check(layer, x, expected):
    y = forward(layer, x)
    assert y.shape == (len(x), layer.num_tasks, expected.shape[-1])
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)


@pytest.fixture
def x(rng):
    return rng.normal(size=(7, DIM)).astype("float32")


@pytest.mark.parametrize(
    ("num_tasks", "hidden_units", "use_bias"), [(1, (4,), True), (3, (4, 3), True), (3, (4, 3), False)]
)
def test_shared_bottom_is_one_network_for_all_tasks(rng, x, num_tasks, hidden_units, use_bias):
    layer = built(mtl.SharedBottom(num_tasks, hidden_units, use_bias=use_bias), rng, x)
    assert len(layer.weights) == len(hidden_units) * (1 + use_bias)
    check(layer, x, reference.shared_bottom(reference.weights_of(layer), x, num_tasks))


def gate_of(kind):
    """A gate prototype, or None, and the k of its reference."""
    if isinstance(kind, int):
        return mtl.TopKGate(k=kind, use_bias=True), kind
    return (mtl.SoftmaxGate(use_bias=True) if kind == "bias" else None), None


@pytest.mark.parametrize(
    ("num_tasks", "num_experts", "hidden_units", "gate"),
    [
        (3, 2, (4,), None),
        (2, 5, (4, 3), None),
        (2, 5, (4,), "bias"),
        (3, 2, (4, 3), 1),
        (2, 5, (4,), 2),
        (1, 3, (4,), 2),
    ],
)
@pytest.mark.parametrize("kind", [mtl.OMoE, mtl.MMoE])
def test_mixtures_of_one_level(rng, x, kind, num_tasks, num_experts, hidden_units, gate):
    prototype, k = gate_of(gate)
    layer = built(kind(num_tasks, num_experts, hidden_units, gate=prototype, use_bias=gate != 1), rng, x)
    formula = reference.omoe if kind is mtl.OMoE else reference.mmoe
    check(layer, x, formula(reference.weights_of(layer), x, num_tasks, num_experts, k=k))


@pytest.mark.parametrize(
    ("num_tasks", "counts", "hidden_units", "gate"),
    [
        (3, (4,), (6,), None),
        (2, (4, 3), (6,), None),
        (3, (1, 3), ((4, 2), (6,)), "bias"),
        (1, (3, 1, 2), ((4,), (2,), (3, 6)), None),
        (2, (3, 4), (6,), 2),
    ],
)
def test_multi_layer_mmoe(rng, x, num_tasks, counts, hidden_units, gate):
    prototype, k = gate_of(gate)
    layer = built(mtl.MultiLayerMMoE(num_tasks, len(counts), counts, hidden_units, gate=prototype), rng, x)
    check(layer, x, reference.multi_layer_mmoe(reference.weights_of(layer), x, num_tasks, counts, k=k))


@pytest.mark.parametrize(
    ("num_tasks", "task_experts", "shared", "gate"),
    [
        (2, 2, 1, None),
        (3, (3, 1, 2), 2, None),
        (3, (0, 2, 1), 1, None),
        (2, 2, 0, None),
        (2, 0, 3, None),
        (1, 2, 1, "bias"),
        (2, (2, 4), 1, 2),
    ],
)
def test_cgc(rng, x, num_tasks, task_experts, shared, gate):
    prototype, k = gate_of(gate)
    layer = built(mtl.CGC(num_tasks, task_experts, shared, (4, 3), gate=prototype), rng, x)
    counts = (task_experts,) * num_tasks if isinstance(task_experts, int) else task_experts
    check(layer, x, reference.cgc(reference.weights_of(layer), x, counts, shared, k=k))


# num_tasks, num_task_experts, num_shared_experts, hidden_units, gate, and the counts written out
PLES = {
    "two levels": (2, 2, 1, (4,), None, [[2, 2]] * 2, [1, 1]),
    "uneven tasks and levels": (2, ((3, 1), 2), (1, 2), ((4,), (6, 3)), None, [[3, 1], [2, 2]], [1, 2]),
    "three levels": (
        3, ((1, 2, 3), 1, (2, 1, 1)), (2, 1, 1), ((4,), (5,), (3,)), None, [[1, 2, 3], [1] * 3, [2, 1, 1]], [2, 1, 1]
    ),
    "no shared expert in the middle": (2, 1, (1, 0, 2), (4,), None, [[1, 1]] * 3, [1, 0, 2]),
    "no shared expert at the top": (2, 2, (2, 0), (4,), None, [[2, 2]] * 2, [2, 0]),
    "no shared expert": (2, (2, (1, 3)), 0, (4,), None, [[2, 2], [1, 3]], [0, 0]),
    "no shared expert below": (2, 1, (0, 2), (4,), None, [[1, 1]] * 2, [0, 2]),
    "no task expert": (3, 0, (2, 3), (4,), None, [[0] * 3] * 2, [2, 3]),
    "one task without experts": (2, ((0, 2), (1, 0)), (2, 1), (4,), None, [[0, 2], [1, 0]], [2, 1]),
    "one task": (1, 2, 1, (4,), None, [[2]] * 2, [1, 1]),
    "gates with bias": (2, 1, 2, (4,), "bias", [[1, 1]] * 2, [2, 2]),
    "top 2": (2, ((1, 3), 2), 1, (4,), 2, [[1, 3], [2, 2]], [1, 1]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "use_bias"), [*((name, True) for name in PLES), ("uneven tasks and levels", False), ("top 2", False)]
)
def test_ple(rng, x, name, use_bias):
    num_tasks, task_experts, shared, hidden_units, gate, task_counts, shared_counts = PLES[name]
    prototype, k = gate_of(gate)
    layer = mtl.PLE(
        num_tasks, len(shared_counts), task_experts, shared, hidden_units, gate=prototype, use_bias=use_bias
    )
    built(layer, rng, x)
    check(layer, x, reference.ple(reference.weights_of(layer), x, task_counts, shared_counts, k=k))


def test_gate_weights_are_those_that_the_output_was_mixed_with(rng, x):
    layer = built(mtl.PLE(2, 2, ((3, 1), 2), (1, 2), (4,)), rng, x)
    below, top = (ops.convert_to_numpy(weights) for weights in layer.gate_weights(x))
    assert below.shape == (7, 3, 5)  # two tasks and the shared module over 3 + 1 + 1 experts
    assert top.shape == (7, 2, 6)  # no shared module over 2 + 2 + 2
    np.testing.assert_allclose(below.sum(axis=-1), 1.0, rtol=1e-5)
    assert (below[:, 0, 3] == 0).all()  # task 0 does not read task 1's expert
    assert (below[:, 1, :3] == 0).all()
    assert (below[:, 2] > 0).all()  # the shared module reads all
    assert (top[:, 0, 2:4] == 0).all()
    assert (top[:, 1, :2] == 0).all()


def test_the_gradient_of_ple_is_that_of_finite_differences(rng, x):
    layer = mtl.PLE(2, 2, ((2, 1), 1), (1, 2), ((3,), (2,)), activation="tanh")  # smooth: no kink under a difference
    built(layer, rng, x)
    counts = [[2, 1], [1, 1]], [1, 2]
    pull = rng.normal(size=(7, 2, 2)).astype("float32")
    pairs = zip(layer.expert_levels, layer.gate_levels, strict=True)
    weights = [w for experts, gates in pairs for w in (*experts.kernels, *experts.biases, gates.kernel)]
    found = gradients(layer, x, lambda y: ops.sum(y * pull), weights)

    levels = reference.weights_of(layer)
    arrays = [array for level in levels for array in level.arrays()]
    assert len(arrays) == len(layer.weights) == 6

    def loss():
        return (reference.ple(levels, x.astype("float64"), *counts, activation=np.tanh) * pull).sum()

    # The differences are taken in float64 on the reference: with a step of 1e-5 they err by about 1e-9, so that what
    # is left is the float32 of the layer, some 1e-6 of the largest term.
    for array, gradient in zip(arrays, found, strict=True):
        expected = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + 1e-5
            above = loss()
            array[index] = value - 1e-5
            expected[index] = (above - loss()) / 2e-5
            array[index] = value
        np.testing.assert_allclose(gradient, expected, rtol=2e-4, atol=2e-5)
        assert np.abs(expected).max() > 1e-3  # every weight matters, so the comparison says something


def test_ones_worked_by_hand():
    layer = mtl.MMoE(2, 3, (2,), kernel_initializer="ones", bias_initializer="ones")
    y = ops.convert_to_numpy(layer(np.array([[1.0, 2.0, 3.0]], "float32")))
    np.testing.assert_allclose(y, np.full((1, 2, 2), 7.0), rtol=1e-6)  # 1 + 2 + 3 + 1, whatever the gates


def test_identity_worked_by_hand():
    gate = mtl.SoftmaxGate(kernel_initializer="zeros")  # equal shares
    layer = mtl.CGC(2, (1, 2), 1, (2,), gate=gate, kernel_initializer="identity")
    layer.build((None, 2))
    layer.expert_levels[0].biases[0].assign(np.array([[[0.0, 3.0]], [[3.0, 0.0]], [[6.0, 0.0]], [[0.0, 9.0]]], "f"))
    y = ops.convert_to_numpy(layer(np.array([[1.0, 2.0]], "float32")))
    # experts: (1, 5), (4, 2), (7, 2) and the shared (1, 11); task 0 reads the first and the last, task 1 the others
    np.testing.assert_allclose(y, [[[1.0, 8.0], [4.0, 5.0]]], rtol=1e-6)


@QUICK
@given(st.permutations(range(4)), st.integers(1, 3))
def test_the_order_of_experts_does_not_matter(order, num_tasks):
    rng = np.random.default_rng(num_tasks)
    x = rng.normal(size=(4, DIM)).astype("float32")
    layer = built(mtl.MMoE(num_tasks, 4, (3,)), rng, x)
    before = forward(layer, x)
    experts, gates = layer.expert_levels[0], layer.gate_levels[0]
    for weight in experts.weights:
        weight.assign(reference.array(weight).astype("float32")[list(order)])
    kernel = reference.array(gates.kernel).astype("float32").reshape(DIM, num_tasks, 4)
    gates.kernel.assign(kernel[:, :, list(order)].reshape(DIM, -1))
    np.testing.assert_allclose(forward(layer, x), before, rtol=1e-4, atol=1e-5)


@st.composite
def ple_shapes(draw):
    num_tasks, num_levels = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    counts = st.integers(0, 2)
    shared = [draw(counts) for _ in range(num_levels)]
    tasks = [[draw(counts if some else st.integers(1, 2)) for _ in range(num_tasks)] for some in shared]
    units = [tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))) for _ in range(num_levels)]
    return tasks, shared, units


def ple_parameters(tasks, shared, units, dim):
    """(in + 1) * out per layer of an expert; per gate in * experts, nothing for one expert."""
    total = 0
    for depth, own in enumerate(tasks):
        experts = sum(own) + shared[depth]
        reads = [count + shared[depth] for count in own]
        if any(shared[depth + 1 :]):
            reads.append(experts)
        total += dim * sum(count for count in reads if count > 1)
        for out in units[depth]:
            total += experts * (dim + 1) * out
            dim = out
    return total


@QUICK
@given(ple_shapes())
def test_any_legal_ple_has_the_parameters_of_the_formula_and_independent_rows(shape):
    tasks, shared, units = shape
    layer = mtl.PLE(len(tasks[0]), len(shared), tasks, shared, units)
    x = np.random.default_rng(len(shared)).normal(size=(3, DIM)).astype("float32")
    layer.build(x.shape)
    together = forward(layer, x)
    assert layer.count_params() == ple_parameters(tasks, shared, units, DIM)
    np.testing.assert_allclose(together, reference.ple(reference.weights_of(layer), x, tasks, shared), atol=1e-4)
    np.testing.assert_allclose(together[[1]], forward(layer, x[[1]]), rtol=1e-4, atol=1e-6)
