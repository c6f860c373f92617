"""Outputs and gradients on whichever backend runs, as NumPy arrays."""

from conftest import BACKEND, LEGACY

from mtl_layers._keras import ops


def forward(layer, inputs):
    """`layer(inputs)` for a built layer; compiled on JAX, where every new shape of every single operation costs."""
    if BACKEND == "jax":
        import jax

        values = [w.value for w in layer.trainable_variables], [w.value for w in layer.non_trainable_variables]
        outputs, _ = jax.jit(layer.stateless_call)(*values, inputs)
        return ops.convert_to_numpy(outputs)
    return ops.convert_to_numpy(layer(inputs))


def gradients(layer, inputs, loss, wanted=None):
    """Gradients of `loss(layer(inputs))` by the `wanted` weights; None where there is no path at all.

    By default by all trainable weights, whose order differs between Keras 2 and Keras 3.
    """
    weights = layer.trainable_weights
    if BACKEND == "jax":
        import jax

        def of_values(values):
            outputs, _ = layer.stateless_call(values, [w.value for w in layer.non_trainable_variables], inputs)
            return loss(outputs)

        found = jax.jit(jax.grad(of_values))([w.value for w in weights])
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss(layer(inputs))
        found = tape.gradient(value, weights if LEGACY else [w.value for w in weights])
    found = {
        id(weight): None if each is None else ops.convert_to_numpy(each)
        for weight, each in zip(weights, found, strict=True)
    }
    return [found[id(weight)] for weight in wanted or weights]


def gradient_by_input(function, inputs):
    """Gradient of the scalar `function(inputs)` by its input."""
    if BACKEND == "jax":
        import jax

        return ops.convert_to_numpy(jax.grad(function)(ops.convert_to_tensor(inputs)))
    import tensorflow as tf

    inputs = tf.convert_to_tensor(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = function(inputs)
    return tape.gradient(value, inputs).numpy()
