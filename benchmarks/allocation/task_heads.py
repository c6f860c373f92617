"""A linear head for each task, where a row belongs to one, and how a model that ends in them is compiled."""

import numpy as np

from mtl_layers._keras import BACKEND, keras, ops


class TaskHeads(keras.layers.Layer):
    """Gives each row the logits of its own task's head; those of classes that its task does not have are -1e9.

    Args:
        classes: The number of classes of each task.

    Input shape: `[batch, dim]`, and `task`, `[batch]` integers.
    Output shape: `[batch, max(classes)]`.
    """

    def __init__(self, classes, **kwargs):
        super().__init__(**kwargs)
        self.classes = list(classes)
        beyond = np.arange(max(self.classes)) >= np.array(self.classes)[:, None]
        self.beyond = np.where(beyond, -1e9, 0.0).astype("float32")

    def build(self, input_shape):
        shape = (len(self.classes), input_shape[-1], max(self.classes))
        limit = (6 / (shape[1] + shape[2])) ** 0.5  # as Glorot's, for each head
        uniform = keras.initializers.RandomUniform(-limit, limit)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=uniform)
        self.bias = self.add_weight(name="bias", shape=(shape[0], shape[2]), initializer="zeros")
        self.built = True

    def call(self, inputs, task):
        bias = self.bias + self.beyond
        logits = ops.matmul(ops.expand_dims(inputs, 1), ops.take(self.kernel, task, axis=0))  # [batch, 1, classes]
        return logits[:, 0] + ops.take(bias, task, axis=0)


def compile_classifier(model, learning_rate, window):
    """Compiles a model of logits; it runs `window` steps at once."""
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=window,
        jit_compile=BACKEND == "jax",
    )
