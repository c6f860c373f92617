"""Experts: each against an MLP written out in NumPy, and what is special about a stack of them."""

import numpy as np
import pytest
import reference
from conftest import LEGACY
from hypothesis import given, settings
from hypothesis import strategies as st

import mtl_layers as mtl
from mtl_layers._keras import keras, ops

QUICK = settings(max_examples=8, deadline=None, derandomize=True)


@pytest.mark.parametrize("one_input_each", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(("num_experts", "hidden_units"), [(1, (3,)), (3, (5,)), (4, (6, 2)), (2, (3, 5, 4))])
def test_every_expert_is_the_mlp_of_its_own_weights(rng, num_experts, hidden_units, use_bias, one_input_each):
    layer = mtl.Experts(num_experts, hidden_units, use_bias=use_bias)
    x = rng.normal(size=(7, num_experts, 4) if one_input_each else (7, 4)).astype("float32")
    layer.build(x.shape)
    reference.randomise(layer, rng)
    y = ops.convert_to_numpy(layer(x))
    assert y.shape == (7, num_experts, hidden_units[-1])
    assert len(layer.weights) == len(hidden_units) * (1 + use_bias)
    weights = reference.experts_weights(layer)
    for number in range(num_experts):
        expected = reference.expert(weights, number, x[:, number] if one_input_each else x)
        np.testing.assert_allclose(y[:, number], expected, rtol=1e-5, atol=1e-5)


def test_ones_worked_by_hand():
    layer = mtl.Experts(2, (3, 1), kernel_initializer="ones", bias_initializer="ones")
    # (1 + 2) + 1 = 4 in each of three units, then 4 + 4 + 4 + 1
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(np.array([[1.0, 2.0]], "float32"))), [[[13.0], [13.0]]])


@pytest.mark.skipif(not LEGACY, reason="Keras 3 refuses other seeds than Python's integers")
def test_a_seed_of_numpys_gives_every_expert_another_start():
    drawn = []
    for seed in (3, np.int64(3)):
        layer = mtl.Experts(3, (4,), kernel_initializer=keras.initializers.GlorotUniform(seed=seed))
        layer.build((None, 5))
        drawn.append(reference.array(layer.kernels[0]))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(np.diff(drawn[0], axis=0)).max(axis=(1, 2)).min() > 0.1


def test_a_function_may_be_the_initializer():
    layer = mtl.Experts(2, (3,), kernel_initializer=lambda shape, dtype=None: ops.ones(shape, dtype) * shape[0])
    layer.build((None, 5))
    np.testing.assert_array_equal(reference.array(layer.kernels[0]), np.full((2, 5, 3), 5.0))


def test_identity_is_drawn_for_each_expert_and_gives_the_relu_of_the_input():
    layer = mtl.Experts(3, (2,), kernel_initializer="identity")
    y = ops.convert_to_numpy(layer(np.array([[1.5, -2.0]], "float32")))
    np.testing.assert_array_equal(y, [[[1.5, 0.0]] * 3])


def test_one_expert_is_a_dense_layer(rng):
    x = rng.normal(size=(5, 4)).astype("float32")
    layer, dense = mtl.Experts(1, (3,), activation="tanh"), keras.layers.Dense(3, activation="tanh")
    layer.build(x.shape)
    reference.randomise(layer, rng)
    dense.build(x.shape)
    dense.set_weights([reference.array(layer.kernels[0])[0], reference.array(layer.biases[0])[0, 0]])
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer(x))[:, 0], ops.convert_to_numpy(dense(x)), rtol=1e-5, atol=1e-6
    )


def test_regularizers_see_every_expert_once(rng):
    layer = mtl.Experts(3, (2,), kernel_regularizer=keras.regularizers.L2(0.5), bias_regularizer="l1")
    layer.build((None, 4))
    reference.randomise(layer, rng)
    layer(np.ones((2, 4), "float32"))
    kernel, bias = reference.array(layer.kernels[0]), reference.array(layer.biases[0])
    penalties = [float(reference.array(loss)) for loss in layer.losses]
    assert sorted(penalties) == pytest.approx(sorted([0.5 * (kernel**2).sum(), 0.01 * np.abs(bias).sum()]), rel=1e-5)


def test_dropout_acts_in_training_only_and_keeps_the_scale(rng):
    x = rng.normal(size=(200, 4)).astype("float32")
    layer = mtl.Experts(3, (5,), dropout=0.25, activation="softplus")  # never 0 by itself
    still = ops.convert_to_numpy(layer(x, training=False))
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), still)
    dropped = ops.convert_to_numpy(layer(x, training=True))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], (still / 0.75)[kept], rtol=1e-5)
    assert 0.70 < kept.mean() < 0.80  # 3000 draws: five standard deviations are 0.04
    again = ops.convert_to_numpy(layer(x, training=True))
    assert (again != dropped).any()


@QUICK
@given(
    batch=st.integers(1, 4), num_experts=st.integers(1, 4), units=st.lists(st.integers(1, 5), min_size=1, max_size=3)
)
def test_rows_of_a_batch_are_independent(batch, num_experts, units):
    x = np.random.default_rng(batch).normal(size=(batch, 3)).astype("float32")
    layer = mtl.Experts(num_experts, tuple(units))
    together = ops.convert_to_numpy(layer(x))
    apart = [ops.convert_to_numpy(layer(x[[row]])) for row in range(batch)]
    np.testing.assert_allclose(together, np.concatenate(apart), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_experts": 0}, "`num_experts` must be an integer of at least 1; received: num_experts=0"),
        ({"num_experts": 2.0}, "`num_experts` must be an integer of at least 1; received: num_experts=2.0"),
        ({"num_experts": True}, "`num_experts` must be an integer of at least 1; received: num_experts=True"),
        (
            {"hidden_units": ()},
            "`hidden_units` must be a non-empty tuple of positive integers; received: hidden_units=()",
        ),
        (
            {"hidden_units": 64},
            "`hidden_units` must be a non-empty tuple of positive integers; received: hidden_units=64",
        ),
        (
            {"hidden_units": (8, 0)},
            "`hidden_units` must be a non-empty tuple of positive integers; received: hidden_units=(8, 0)",
        ),
        ({"dropout": 1.0}, "`dropout` must be in [0, 1); received: dropout=1.0"),
        ({"dropout": -0.1}, "`dropout` must be in [0, 1); received: dropout=-0.1"),
    ],
)
def test_a_bad_argument_is_told_by_name(arguments, text):
    with pytest.raises(ValueError) as caught:
        mtl.Experts(**{"num_experts": 2, **arguments})
    assert str(caught.value) == text


@pytest.mark.parametrize("form", [lambda layer: layer, keras.saving.serialize_keras_object])
@pytest.mark.parametrize(
    "make",
    [
        lambda **kw: mtl.Experts(2, **kw),
        lambda **kw: mtl.MMoE(2, 2, **kw),
        lambda **kw: mtl.GumbelMatrix(2, 2, **kw),
        lambda **kw: mtl.Towers({"a": ()}, **kw),
        lambda **kw: mtl.AITM({"a": (), "b": ()}, **kw),
    ],
)
def test_a_layer_is_no_activation(make, form):
    """PReLU would have a slope for every row of the batch that it was built on."""
    given = form(keras.layers.PReLU())
    with pytest.raises(ValueError) as caught:
        make(activation=given)
    assert str(caught.value) == f"`activation` must be a function or its name; received: activation={given!r}"


@pytest.mark.parametrize("shape", [(4,), (4, 3, 5), (4, 2, 5, 5)])
def test_an_input_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError) as caught:
        mtl.Experts(2).build(shape)
    assert str(caught.value) == (
        f"`inputs` must be [batch, dim] or [batch, num_experts, dim]; received: shape={shape}, num_experts=2"
    )
