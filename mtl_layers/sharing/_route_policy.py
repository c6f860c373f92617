"""The policy over routes, in float32 whatever the precision of the model."""

import numpy as np

from mtl_layers._keras import keras, ops


def probabilities_of(alpha):
    """The policy of the logits, both NumPy arrays `[blocks, routes]`."""
    powers = np.exp(alpha - alpha.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


class RoutePolicy(keras.layers.Layer):
    """Holds `alpha`, the logits of every block's routes, and gives the most likely route number of each block.

    A layer of its own, of dtype float32: in a mixed-precision layer Keras casts a float weight when it is read, and in
    bfloat16 the two best routes are soon equal, so that another than the derived route would be computed.
    """

    def __init__(self, num_blocks, num_routes, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.num_blocks, self.num_routes = num_blocks, num_routes
        self.alpha = None

    def build(self, input_shape=None):
        self.alpha = self.add_weight(
            name="alpha",
            shape=(self.num_blocks, self.num_routes),
            initializer="zeros",
            trainable=False,
            dtype="float32",
        )
        self.built = True

    def call(self, inputs):
        # The reshape makes a tensor of a variable, which Keras 2's variables need before some operations.
        alpha = ops.reshape(self.alpha, (self.num_blocks, self.num_routes))
        return ops.cast(ops.argmax(alpha, axis=-1), "int32")  # [blocks]
