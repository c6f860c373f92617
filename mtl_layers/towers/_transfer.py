"""What one task of a chain hands on to the next."""

import math

from mtl_layers._initializers import SideBySide
from mtl_layers._keras import keras, ops


class Transfer(keras.layers.Layer):
    """Attention over what the task before passes on and what the task itself found.

    ```
    u_1 = activation(before @ W + b)            u_2 = own
    z   = sum_u softmax_u(<u @ Q, u @ K> / sqrt(width)) u @ V
    ```

    Scores are query times key, as in the paper; the authors' code has query times value.

    Inputs: `[batch, any width]` of the task before and `[batch, width]` of the task. Output: `[batch, width]`.
    """

    def __init__(self, activation, dropout, kernel_initializer, kernel_regularizer, **kwargs):
        super().__init__(**kwargs)
        self.activation = activation
        self.dropout_layer = keras.layers.Dropout(dropout, dtype=self.dtype_policy) if dropout else None
        self.kernel_initializer = kernel_initializer
        self.kernel_regularizer = kernel_regularizer

    def build(self, input_shape):
        before, width = (shape[-1] for shape in input_shape)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(before, width),
            initializer=SideBySide(self.kernel_initializer, [width]),
            regularizer=self.kernel_regularizer,
        )
        self.bias = self.add_weight(name="bias", shape=(width,), initializer="zeros")
        self.attention = self.add_weight(  # query, key and value side by side
            name="attention",
            shape=(width, 3 * width),
            initializer=SideBySide(self.kernel_initializer, [width] * 3),
            regularizer=self.kernel_regularizer,
        )
        self.built = True

    def call(self, inputs, training=None):
        before, own = inputs
        passed = self.activation(ops.matmul(before, self.kernel) + self.bias)
        if self.dropout_layer is not None:
            passed = self.dropout_layer(passed, training=training)
        both = ops.matmul(ops.stack([passed, own], axis=1), self.attention)  # [batch, 2, 3 * width]
        query, key, value = ops.split(both, 3, axis=-1)
        query, key = ops.cast(query, "float32"), ops.cast(key, "float32")  # first: float16 ends at 65504
        scores = ops.sum(query * key, axis=-1) / math.sqrt(own.shape[-1])
        weights = ops.cast(ops.softmax(scores, axis=-1), self.compute_dtype)  # [batch, 2]
        return ops.sum(ops.expand_dims(weights, -1) * value, axis=1)  # [batch, width]

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[1])

    def inherit(self, source):
        """Takes over the weights of `source`."""
        for mine, theirs in zip(self.weights, source.weights, strict=True):
            mine.assign(ops.convert_to_numpy(theirs))  # a copy: JAX would let both variables hold one array
