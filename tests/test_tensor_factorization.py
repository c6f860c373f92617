"""Tensor factorization against NumPy: kernels from the Tucker form, full ranks are free kernels, scale, freezing."""

import numpy as np
import pytest
import reference
from gradients import forward, gradients

import mtl_layers as mtl
from mtl_layers._keras import keras, ops

DIM = 5


def kernel(layer, depth, task):
    """W_k[a, b] = sum over i, j, l of S[i, j, l] U1[a, i] U2[b, j] U3[k, l], term by term."""
    core = reference.array(layer.cores[depth])
    first = reference.array(layer.input_factors[depth])
    second = reference.array(layer.output_factors[depth])
    third = reference.array(layer.task_factors[depth])
    total = np.zeros((len(first), len(second)))
    for i, j, rank in np.ndindex(core.shape):
        total += core[i, j, rank] * third[task, rank] * np.outer(first[:, i], second[:, j])
    return total


def formula(layer, x, activation=reference.relu):
    """[B, T, U]; x is [B, D] or [B, T, D]."""
    outputs = []
    for task in range(layer.num_tasks):
        hidden = x if x.ndim == 2 else x[:, task]
        for depth in range(len(layer.hidden_units)):
            hidden = hidden @ kernel(layer, depth, task)
            if layer.use_bias:
                hidden = hidden + reference.array(layer.biases[depth])[task, 0]
            hidden = activation(hidden)
        outputs.append(hidden)
    return np.stack(outputs, axis=1)


def inputs(rng, num_tasks, one_each, rows=7):
    return rng.normal(size=(rows, num_tasks, DIM) if one_each else (rows, DIM)).astype("float32")


def built(layer, rng, x):
    layer.build(x.shape)
    reference.randomise(layer, rng)
    return layer


CASES = [
    (1, (2, 3, 1), (4,), True),
    (3, (2, 3, 2), (4,), True),
    (3, ((5, 1, 3), (2, 3, 1)), (4, 6), True),
    (2, (1, 1, 1), (4, 3), False),
]


@pytest.mark.parametrize("one_each", [False, True])
@pytest.mark.parametrize(("num_tasks", "ranks", "hidden_units", "use_bias"), CASES)
def test_outputs_are_those_of_the_formula(rng, num_tasks, ranks, hidden_units, use_bias, one_each):
    x = inputs(rng, num_tasks, one_each)
    layer = built(mtl.TensorFactorization(num_tasks, ranks, hidden_units, use_bias=use_bias), rng, x)
    assert len(layer.weights) == len(hidden_units) * (4 + use_bias)
    expected = formula(layer, x)
    assert expected.shape == (7, num_tasks, hidden_units[-1])
    np.testing.assert_allclose(forward(layer, x), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("basis", ["identity", "random"])
def test_full_ranks_hold_any_free_kernels(rng, basis):
    """Whatever the kernels, and whatever the factors as long as they are bases, there is a core that gives them."""
    tasks, units = 3, 4
    x = inputs(rng, tasks, False)
    layer = built(mtl.TensorFactorization(tasks, (DIM, units, tasks), (units,)), rng, x)
    free = built(mtl.CGC(tasks, 1, 0, (units,)), rng, x)
    wanted = reference.array(free.expert_levels[0].kernels[0])  # [tasks, dim, units]
    factors = [layer.input_factors[0], layer.output_factors[0], layer.task_factors[0]]
    if basis == "identity":
        for factor in factors:
            factor.assign(np.eye(factor.shape[0], dtype="float32"))
    inverse = [np.linalg.inv(reference.array(factor)) for factor in factors]
    layer.cores[0].assign(np.einsum("kab,ia,jb,lk->ijl", wanted, *inverse).astype("float32"))
    layer.biases[0].assign(free.expert_levels[0].biases[0])
    for task in range(tasks):
        np.testing.assert_allclose(kernel(layer, 0, task), wanted[task], atol=1e-4)
    expected = forward(free, x)
    np.testing.assert_allclose(forward(layer, x), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_a_task_rank_of_one_makes_all_kernels_multiples_of_one(rng):
    layer = built(mtl.TensorFactorization(3, (4, 4, 1), (6,)), rng, np.ones((1, DIM)))
    shares = reference.array(layer.task_factors[0])[:, 0]
    for task in range(1, 3):
        np.testing.assert_allclose(
            kernel(layer, 0, task), kernel(layer, 0, 0) * shares[task] / shares[0], rtol=1e-6, atol=1e-9
        )


@pytest.mark.parametrize("ranks", [(30, 20, 4), (6, 5, 2), (3, 20, 1)])
def test_kernels_start_different_and_at_the_scale_of_a_dense_layer(ranks):
    dim, units, tasks, layers = 30, 20, 4, 12
    squares, first = [], None
    for _ in range(layers):
        layer = mtl.TensorFactorization(tasks, ranks, (units,))
        layer.build((None, dim))
        factors = (layer.input_factors[0], layer.output_factors[0], layer.task_factors[0])
        for factor in map(reference.array, factors):
            np.testing.assert_allclose(factor.T @ factor, np.eye(factor.shape[1]), atol=1e-5)
        kernels = np.stack([_kernel_at_once(layer, task) for task in range(tasks)])
        assert min(np.abs(kernels[a] - kernels[b]).max() for a in range(tasks) for b in range(a)) > 1e-6
        assert first is None or np.abs(kernels - first).max() > 0.01
        first = kernels
        squares.append((kernels**2).mean())
    np.testing.assert_allclose(np.mean(squares), 2 / (dim + units), rtol=0.15)  # Glorot's variance


def _kernel_at_once(layer, task):
    core, task_factor = reference.array(layer.cores[0]), reference.array(layer.task_factors[0])
    return (
        reference.array(layer.input_factors[0])
        @ (core @ task_factor[task])
        @ reference.array(layer.output_factors[0]).T
    )


def test_gradients_reach_every_weight_and_only_the_own_rows_of_a_task(rng):
    x = inputs(rng, 3, False)
    layer = built(mtl.TensorFactorization(3, (4, 3, 2), (4, 3), activation="tanh"), rng, x)
    for weight in layer.weights:
        weight.assign(0.3 * weight)  # away from the flat ends of tanh
    own = {id(weight) for weight in (*layer.task_factors, *layer.biases)}
    for task in range(3):
        found = gradients(layer, x, lambda y, task=task: ops.sum(ops.square(y[:, task])), layer.trainable_weights)
        for weight, gradient in zip(layer.trainable_weights, found, strict=True):
            assert np.isfinite(gradient).all()
            assert np.abs(gradient[task] if id(weight) in own else gradient).max() > 0
            if id(weight) in own:
                assert not np.delete(gradient, task, axis=0).any()


@pytest.mark.needs_tensorflow
def test_nothing_of_the_size_of_a_kernel_is_made():
    import tensorflow as tf

    layer = mtl.TensorFactorization(2, (3, 3, 2), (50,))
    layer.build((None, 60))
    for each in (layer, layer.freeze()):
        graph = tf.function(each).get_concrete_function(tf.TensorSpec((4, 60))).graph
        sizes = [
            tensor.shape.num_elements()
            for operation in graph.get_operations()
            for tensor in operation.outputs
            if tensor.shape.rank
        ]
        # The largest is the output, or the input of the frozen layer; a kernel would have 3000 numbers.
        assert max(sizes) == (4 * 2 * 50 if each is layer else 4 * 60)


def test_factor_regularizer_counts_every_factor_and_core(rng):
    layer = built(mtl.TensorFactorization(2, (2, 2, 2), (3,), factor_regularizer="l2"), rng, np.ones((1, DIM)))
    parts = (*layer.input_factors, *layer.cores, *layer.output_factors, *layer.task_factors)
    expected = 0.01 * sum((reference.array(part) ** 2).sum() for part in parts)
    np.testing.assert_allclose(float(sum(layer.losses)), expected, rtol=1e-5)


@pytest.mark.parametrize("one_each", [False, True])
def test_frozen_it_keeps_shared_factors_and_the_cores_of_its_tasks(rng, one_each):
    x = inputs(rng, 3, one_each)
    layer = built(mtl.TensorFactorization(3, ((2, 3, 2), (4, 2, 1)), (4, 6)), rng, x)
    y = formula(layer, x)
    for tasks in ([1], [2, 0], None):
        wanted = list(range(3)) if tasks is None else tasks
        frozen = layer.freeze(tasks)
        shared = DIM * 2 + 4 * 3 + 4 * 4 + 6 * 2
        assert frozen.count_params() == shared + len(wanted) * (2 * 3 + 4 + 4 * 2 + 6)
        for again in (frozen, frozen.freeze()):
            for found, task in zip(again(x), wanted, strict=True):
                np.testing.assert_allclose(ops.convert_to_numpy(found), y[:, task], rtol=1e-4, atol=1e-4)
    assert {id(w) for w in frozen.freeze([1]).weights} < {id(w) for w in frozen.weights}


RANKS = "`ranks` must be at most the dimensions of input, output and tasks; received: ranks="
TRIPLE = "`ranks` must be a triple of ranks of input, output and tasks, or a sequence with a triple for each of the "


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: mtl.TensorFactorization(2, (6, 4, 2), (4,)).build((None, 5)),
            RANKS + "(6, 4, 2) for layer 0 with dimensions (5, 4, 2)",
        ),
        (
            lambda: mtl.TensorFactorization(2, (5, 5, 2), (4,)),
            RANKS + "(5, 5, 2) for layer 0 with dimensions (None, 4, 2)",
        ),
        (
            lambda: mtl.TensorFactorization(2, (5, 4, 3), (4,)),
            RANKS + "(5, 4, 3) for layer 0 with dimensions (None, 4, 2)",
        ),
        (
            lambda: mtl.TensorFactorization(2, (5, 2, 2), (4, 3)),
            RANKS + "(5, 2, 2) for layer 1 with dimensions (4, 3, 2)",
        ),
        *[
            (
                lambda ranks=ranks: mtl.TensorFactorization(2, ranks, (4, 3)),
                f"{TRIPLE}2 layers; received: ranks={ranks!r}",
            )
            for ranks in [(), 3, (1, 2), ((1, 1, 1),), ((1, 1, 1), 2), ((1, 1, 1), (1, 1))]
        ],
        *[
            (
                lambda rank=rank: mtl.TensorFactorization(2, (1, rank, 1), (4,)),
                f"`ranks` must be an integer of at least 1; received: ranks={rank!r}",
            )
            for rank in (0, 1.5, None)
        ],
        (
            lambda: mtl.TensorFactorization(0, (1, 1, 1)),
            "`num_tasks` must be an integer of at least 1; received: num_tasks=0",
        ),
        (lambda: mtl.TensorFactorization(2, (1, 1, 1), dropout=1), "`dropout` must be in [0, 1); received: dropout=1"),
        *[
            (
                lambda shape=shape: mtl.TensorFactorization(2, (1, 1, 1)).build(shape),
                f"`inputs` must be [batch, dim] or [batch, num_tasks, dim]; received: shape={shape}, num_tasks=2",
            )
            for shape in [(None,), (None, 3, 5)]
        ],
        (
            lambda: mtl.TensorFactorization(2, (1, 1, 1), name="tucker").freeze(),
            "`tucker` must be built before it is frozen: call it on data or fit it first",
        ),
    ],
)
def test_a_bad_argument_is_told_by_name(make, text):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == text


def test_an_activation_with_weights_is_refused():
    with pytest.raises(ValueError, match=r"`activation` must be a function or its name; received: activation=<.*PReLU"):
        mtl.TensorFactorization(2, (1, 1, 1), activation=keras.layers.PReLU())
