"""Convolutions that differ in their weights alone run as one, and give what each gives by itself."""

import numpy as np
import pytest
from gradients import gradients
from gumbel_reference import allocate, numbers

import mtl_layers as mtl
from mtl_layers._keras import keras, ops
from mtl_layers.sharing._alike_convolutions import alike
from mtl_layers.sharing._component_stack import ComponentStack

LAYERS = keras.layers


def stack_of(parts, x, **arguments):
    stack = ComponentStack(parts, **arguments)
    stack.build(x.shape)
    return stack


def images(rng, rank=2):
    return rng.normal(size=(3, *(7, 6, 5)[:rank], 4)).astype("float32")


@pytest.mark.parametrize(
    ("rank", "kind", "arguments"),
    [
        (1, LAYERS.Conv1D, {"activation": "relu"}),
        (2, LAYERS.Conv2D, {"activation": "softmax"}),
        (2, LAYERS.Conv2D, {"strides": 2, "padding": "same", "use_bias": False}),
        (2, LAYERS.Conv2D, {"dilation_rate": (1, 2), "kernel_regularizer": "l2"}),
        (3, LAYERS.Conv3D, {"activation": "tanh"}),
    ],
)
def test_alike_convolutions_give_what_each_gives_by_itself(rng, rank, kind, arguments):
    x = images(rng, rank)
    parts = [kind(5, 2, bias_initializer="uniform", **arguments) for _ in range(3)]
    stack = stack_of(parts, x)
    assert alike(parts, "float32") == [[0, 1, 2]]
    expected = np.stack([numbers(part(x)) for part in parts], axis=1)
    np.testing.assert_allclose(numbers(stack(x)), expected, atol=1e-6)
    assert stack.compute_output_shape(x.shape) == expected.shape
    assert len(stack.losses) == 3 * ("kernel_regularizer" in arguments)


def test_each_output_stays_in_its_place_whatever_is_alike(rng):
    x = images(rng)
    small, large, relu = {"kernel_size": 1}, {"kernel_size": 3}, {"kernel_size": 3, "activation": "relu"}
    parts = [LAYERS.Conv2D(4, padding="same", **sizes) for sizes in (small, large, relu, small, relu, large)]
    parts.insert(2, LAYERS.AveragePooling2D(2, 1, "same"))
    stack = stack_of(parts, x)
    assert alike(parts, "float32") == [[0, 4], [1, 6], [2], [3, 5]]
    np.testing.assert_allclose(numbers(stack(x)), np.stack([numbers(part(x)) for part in parts], axis=1), atol=1e-6)


def test_a_convolution_that_does_more_than_its_weights_say_runs_by_itself(rng):
    class Doubled(LAYERS.Conv2D):
        def call(self, inputs):
            return 2.0 * super().call(inputs)

    def own_activation(values):
        return values - ops.mean(values, axis=(1, 2, 3), keepdims=True)

    x = images(rng)
    kinds = [
        lambda: Doubled(4, 3),
        lambda: LAYERS.Conv2D(4, 3, activation=own_activation),
        lambda: LAYERS.Conv2D(4, 3, activity_regularizer="l2"),
        lambda: LAYERS.Conv2D(4, 3, groups=2),
        lambda: LAYERS.Conv2D(4, 3, dtype="bfloat16"),
        lambda: LAYERS.Conv1D(4, 3, padding="causal"),
    ]
    for kind in kinds:
        parts = [kind(), kind()]
        values = x[:, :, 0] if isinstance(parts[0], LAYERS.Conv1D) else x
        stack = stack_of(parts, values)
        assert alike(parts, "float32") == [[0], [1]]
        expected = np.stack([numbers(ops.cast(part(values), "float32")) for part in parts], axis=1)
        np.testing.assert_allclose(numbers(stack(values)), expected, atol=1e-6)


def test_in_mixed_precision_they_are_one_too(rng):
    x = images(rng)
    parts = [LAYERS.Conv2D(4, 3, dtype="mixed_bfloat16") for _ in range(2)]
    stack = stack_of(parts, x, dtype="mixed_bfloat16")
    assert alike(parts, "bfloat16") == [[0, 1]]
    y = stack(x)
    assert "bfloat16" in str(y.dtype)
    expected = np.stack([numbers(ops.cast(part(x), "float32")) for part in parts], axis=1)
    np.testing.assert_allclose(numbers(ops.cast(y, "float32")), expected, rtol=1e-2, atol=1e-2)


def test_gradients_are_those_of_each_by_itself_and_zero_where_no_task_uses_it(rng):
    x = images(rng)
    parts = [LAYERS.Conv2D(2, 3, activation="tanh") for _ in range(3)]
    layer = mtl.GumbelMatrix(2, components=parts)
    layer(x)
    allocate(layer, [np.array([[1, 0, 0], [1, 1, 0]], bool)])
    found = gradients(layer, x, lambda y: ops.sum(y[:, 1] ** 2), [part.kernel for part in parts])
    assert not found[2].any()
    for part, other, gradient in ((*parts[:2], found[0]), (*parts[1::-1], found[1])):
        rest = numbers(other(x))
        (expected,) = gradients(part, x, lambda y, rest=rest: ops.sum(((y + rest) / 2) ** 2), [part.kernel])
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.needs_tensorflow
def test_the_graph_has_one_convolution_for_each_kind(rng):
    import tensorflow as tf

    x = images(rng)
    stack = stack_of([LAYERS.Conv2D(2, 3) for _ in range(4)] + [LAYERS.Conv2D(2, 3, activation="relu")], x)
    operations = tf.function(stack).get_concrete_function(tf.TensorSpec(x.shape)).graph.get_operations()
    assert [each.type for each in operations].count("Conv2D") == 2
