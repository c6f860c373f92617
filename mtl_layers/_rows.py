"""Rows of a variable or a tensor, read without touching the others."""

from mtl_layers._keras import BACKEND, keras, ops


def gather_rows(values, rows):
    """`values[rows]`, on TensorFlow without reading the others.

    `ops.take` reads a whole variable first, and while that is alive, an optimizer that updates rows has to copy it. It
    also counts negative numbers from the end, which for a few rows takes longer than the rows.
    """
    if BACKEND == "tensorflow":
        import tensorflow as tf

        resource = resource_of(values)
        if isinstance(resource, tf.Variable):  # and not what a mixed-precision layer or LoRA make of it
            return tf.nn.embedding_lookup(resource, rows)
        return tf.gather(values, rows)
    return ops.take(values, rows, axis=0)


def resource_of(variable):
    """TensorFlow's variable behind one of Keras 3; Keras 2 has no other."""
    return variable.value if isinstance(variable, getattr(keras, "Variable", ())) else variable


def mean_over_rows(values):
    """The mean of `[batch]` or `[batch, 1]`; 0 where a strategy leaves a replica without rows, and not NaN."""
    return ops.sum(values) / ops.cast(ops.maximum(ops.shape(values)[0], 1), values.dtype)
