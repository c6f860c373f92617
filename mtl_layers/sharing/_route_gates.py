"""The gates of all routes of a supernet, of which a call computes those of the routes in force."""

import numpy as np

from mtl_layers._initializers import GlorotRows
from mtl_layers._keras import keras, ops
from mtl_layers.gates.softmax_gate import UNREAD


class RouteGates(keras.layers.Layer):
    """Weights of the values that blocks mix: a softmax over the chosen ones, or their mean where there are no gates.

    `kernel` `[rows, units of a query]` has the rows of every route of every block as `RouteSpace` numbers them; a call
    gathers those of the routes in force, and no others.
    """

    def __init__(self, space, searches_queries, **kwargs):
        super().__init__(**kwargs)
        self.space = space
        self.searches_queries = searches_queries
        self.kernel = None

    def build(self, input_shape):
        if self.space.has_gates:
            self.kernel = self.add_weight(
                name="kernel",
                shape=(self.space.num_blocks * self.space.num_queries * len(self.space.row_sizes), input_shape[-1]),
                initializer=GlorotRows(self.space.row_sizes),
            )
        self.built = True

    def call(self, inputs, routes, start, stop):
        """Weights `[batch, blocks, subnetworks]` of the blocks from `start` to before `stop`.

        `inputs` are what they may ask: the root feature `[batch, units]`, or all values `[batch, subnetworks, units]`.
        """
        routes = routes[start:stop]
        subsets, queries = routes // self.space.num_queries, routes % self.space.num_queries
        member = ops.take(self.space.member, subsets, axis=0)  # [blocks, subnetworks]
        if self.kernel is None:
            weights = member / ops.sum(member, axis=-1, keepdims=True)
            return ops.broadcast_to(weights, (ops.shape(inputs)[0], *member.shape))
        first = (np.arange(start, stop, dtype="int32") * self.space.num_queries + queries) * len(self.space.row_sizes)
        rows = ops.expand_dims(first, 1) + ops.take(self.space.row, subsets, axis=0)
        kernel = ops.cast(ops.take(self.kernel, rows, axis=0), self.compute_dtype)
        kernel = ops.transpose(kernel, (2, 0, 1))  # [units, blocks, subnetworks]
        if self.searches_queries:
            # Each block's gate stands in the rows of its query and zeros in the rows of the others.
            chosen = ops.transpose(ops.one_hot(queries, inputs.shape[1], dtype=kernel.dtype))
            kernel = ops.expand_dims(ops.expand_dims(chosen, 1), 3) * ops.expand_dims(kernel, 0)
            inputs = ops.reshape(inputs, (-1, inputs.shape[1] * inputs.shape[2]))
        # One matmul for all blocks.
        scores = ops.matmul(inputs, ops.reshape(kernel, (inputs.shape[-1], -1)))
        scores = ops.cast(ops.reshape(scores, (-1, *member.shape)), "float32")
        return ops.softmax(ops.where(member > 0, scores, UNREAD), axis=-1)
