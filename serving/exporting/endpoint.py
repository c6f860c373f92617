"""A signature as a function of its inputs."""

import tensorflow as tf


def predict(model, rows):
    """The predictions of a Keras model for a dict of features, however the model itself takes them."""
    if not isinstance(model.input, dict):
        rows = list(rows.values()) if isinstance(model.input, list) else next(iter(rows.values()))
    return model(rows, training=False)


def traced(run, specs):
    """A `tf.function` of a dict of inputs with the given specs, traced."""
    function = tf.function(run, input_signature=[specs])
    function.get_concrete_function()
    return function
