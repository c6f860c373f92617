"""The networks of L2Constrained against NumPy, the penalty against its formula, and both limits of its strength."""

import itertools

import numpy as np
import pytest
import reference
from gradients import forward, gradient_by_input, gradients

import mtl_layers as mtl
from mtl_layers._keras import keras, ops
from mtl_layers.sharing.l2_constrained import PairwiseDistance

DIM = 5


def inputs(rng, num_tasks, one_each, rows=7):
    return rng.normal(size=(rows, num_tasks, DIM) if one_each else (rows, DIM)).astype("float32")


def built(layer, rng, x):
    layer.build(x.shape)
    reference.randomise(layer, rng)
    return layer


@pytest.mark.parametrize("one_each", [False, True])
@pytest.mark.parametrize("strength", [0.0, 0.5])
@pytest.mark.parametrize(("num_tasks", "hidden_units"), [(1, (4,)), (3, (4, 3))])
def test_outputs_are_those_of_a_network_per_task(rng, num_tasks, hidden_units, strength, one_each):
    x = inputs(rng, num_tasks, one_each)
    layer = built(mtl.L2Constrained(num_tasks, hidden_units, strength), rng, x)
    weights = reference.experts_weights(layer.expert_levels[0])
    expected = np.stack(
        [reference.expert(weights, task, x[:, task] if one_each else x) for task in range(num_tasks)], axis=1
    )
    np.testing.assert_allclose(forward(layer, x), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def distance(arrays):
    """The sum over all pairs of parts of |a - b|^2."""
    return sum(
        ((each[a] - each[b]) ** 2).sum() for each in arrays for a, b in itertools.combinations(range(len(each)), 2)
    )


@pytest.mark.parametrize("num_tasks", [1, 2, 5])
@pytest.mark.parametrize("use_bias", [True, False])
def test_the_penalty_is_over_all_pairs_of_tasks(rng, num_tasks, use_bias):
    layer = built(mtl.L2Constrained(num_tasks, (4, 3), 0.25, use_bias=use_bias), rng, np.ones((1, DIM)))
    expected = 0.25 * distance([reference.array(weight) for weight in layer.weights])
    np.testing.assert_allclose(float(sum(layer.losses)), expected, rtol=1e-5, atol=1e-12)


def test_the_penalty_comes_beside_the_users_regularizers(rng):
    arguments = {"kernel_regularizer": keras.regularizers.L1(0.5), "bias_regularizer": keras.regularizers.L2(0.25)}
    layer = built(mtl.L2Constrained(3, (4,), 2.0, **arguments), rng, np.ones((1, DIM)))
    kernel, bias = (reference.array(w[0]) for w in (layer.expert_levels[0].kernels, layer.expert_levels[0].biases))
    expected = 2.0 * distance([kernel, bias]) + 0.5 * np.abs(kernel).sum() + 0.25 * (bias**2).sum()
    np.testing.assert_allclose(float(sum(layer.losses)), expected, rtol=1e-5)
    assert layer.get_config()["kernel_regularizer"] == keras.regularizers.serialize(arguments["kernel_regularizer"])


def test_the_penalty_is_part_of_the_loss_in_fit_at_full_precision(rng):
    layer = mtl.L2Constrained(2, (4,), 0.5, dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((DIM,)), layer])
    reference.randomise(layer, rng)
    model.compile("sgd", lambda y, p: 0.0 * ops.mean(p))
    x = inputs(rng, 2, False)
    loss = model.evaluate(x, np.zeros((7, 2, 4)), verbose=0)
    np.testing.assert_allclose(loss, 0.5 * distance([reference.array(w) for w in layer.weights]), rtol=1e-5)


def test_the_gradient_of_the_penalty_pulls_every_task_to_the_mean_of_all(rng):
    array = rng.normal(size=(3, DIM, 4)).astype("float32")
    found = gradient_by_input(PairwiseDistance(0.5), array)
    # d/d theta_a of the sum over pairs of |theta_a - theta_b|^2 is 2 T (theta_a - mean).
    expected = 0.5 * 2 * 3 * (array - array.mean(axis=0))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_strength_it_is_the_single_task_model(rng):
    x = inputs(rng, 3, False)
    layer = built(mtl.L2Constrained(3, (4, 3), 0.0), rng, x)
    single = mtl.CGC(3, 1, 0, (4, 3))
    single.build(x.shape)
    assert layer.losses == []
    for mine, theirs in zip(layer.weights, single.weights, strict=True):
        theirs.assign(mine)
    np.testing.assert_array_equal(forward(layer, x), forward(single, x))
    for task in range(3):  # a task's loss moves its own network only
        for gradient in gradients(layer, x, lambda y, task=task: ops.sum(y[:, task])):
            assert not np.delete(gradient, task, axis=0).any()


def test_with_a_large_strength_training_is_that_of_the_shared_bottom(rng):
    """Held together, T networks take the mean of the tasks' steps: Shared-Bottom's at a T-th of the learning rate."""
    tasks, strength, rate = 3, 300.0, 5e-4
    x = rng.normal(size=(64, DIM)).astype("float32")
    y = np.tanh(x @ rng.normal(size=(tasks, DIM, 2))).transpose(1, 0, 2).astype("float32")
    layer = mtl.L2Constrained(tasks, (4, 2), strength, activation="tanh")
    shared = mtl.SharedBottom(tasks, (4, 2), activation="tanh")
    models = [keras.Sequential([keras.Input((DIM,)), each]) for each in (layer, shared)]
    for mine, theirs in zip(layer.weights, shared.weights, strict=True):
        theirs.assign(reference.array(mine).mean(axis=0, keepdims=True).astype("float32"))
    before = [reference.array(weight) for weight in layer.weights]
    for model, slower in zip(models, (1, tasks), strict=True):
        # The loss is large, to get somewhere at this rate; 1200 steps, each on all rows.
        model.compile(keras.optimizers.SGD(rate / slower), lambda y, p: 30.0 * ops.mean(ops.square(y - p)))
        model.fit(np.tile(x, (1200, 1)), np.tile(y, (1200, 1, 1)), batch_size=64, shuffle=False, verbose=0)
    moved = []
    for mine, theirs, start in zip(layer.weights, shared.weights, before, strict=True):
        mine = reference.array(mine)
        assert np.ptp(mine, axis=0).max() < 0.02
        np.testing.assert_allclose(mine, np.broadcast_to(reference.array(theirs), mine.shape), atol=0.02)
        moved.append(np.abs(mine.mean(axis=0) - start.mean(axis=0)).max())
    assert max(moved) > 0.1


@pytest.mark.parametrize("one_each", [False, True])
def test_frozen_it_keeps_the_networks_of_its_tasks_and_no_penalty(rng, one_each):
    x = inputs(rng, 3, one_each)
    layer = built(mtl.L2Constrained(3, (4, 3), 0.5), rng, x)
    y = forward(layer, x)
    for tasks in ([1], [2, 0], None):
        frozen = layer.freeze(tasks)
        wanted = list(range(3)) if tasks is None else tasks
        assert frozen.losses == []
        assert frozen.count_params() == len(wanted) * ((DIM + 1) * 4 + (4 + 1) * 3)
        for found, task in zip(frozen(x), wanted, strict=True):
            np.testing.assert_allclose(ops.convert_to_numpy(found), y[:, task], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        *[
            (
                lambda value=value: mtl.L2Constrained(2, (4,), value),
                f"`strength` must be a number of at least 0; received: strength={value!r}",
            )
            for value in (-1e-3, float("nan"), float("inf"), "1", True)
        ],
        (
            lambda: mtl.L2Constrained(2, gate=mtl.SoftmaxGate()),
            "`gate` must be left out: L2Constrained has gates of its own; received: gate=SoftmaxGate",
        ),
        (lambda: mtl.L2Constrained(0), "`num_tasks` must be an integer of at least 1; received: num_tasks=0"),
        (
            lambda: mtl.L2Constrained(2, (0,)),
            "`hidden_units` must be a non-empty tuple of positive integers; received: hidden_units=(0,)",
        ),
        (
            lambda: mtl.L2Constrained(2).build((None, 3, 5)),
            "`inputs` of L2Constrained must be [batch, dim] or [batch, 2, dim]; received: shape=(None, 3, 5)",
        ),
    ],
)
def test_a_bad_argument_is_told_by_name(make, text):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == text
