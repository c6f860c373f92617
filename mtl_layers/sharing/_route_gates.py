"""The gates of all routes of a supernet, of which a call computes those of the routes in force."""

import numpy as np

from mtl_layers._initializers import GlorotRows
from mtl_layers._keras import keras, ops
from mtl_layers._rows import gather_rows
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

    def select(self, routes):
        """What the blocks have in these routes, a tensor `[blocks]`: gathered once for all layers.

        Returns `member` `[blocks, subnetworks]`, 1 where a block has a value, and, if there are gates, which value each
        block asks, one-hot `[blocks, subnetworks]`, and the gates' kernels `[blocks, subnetworks, units]`.
        """
        queries = self.space.num_queries
        subset_of, query_of = np.divmod(np.arange(self.space.num_routes, dtype="int32"), queries)
        member = gather_rows(self.space.member[subset_of], routes)
        if self.kernel is None:
            return member, None, None
        size = len(self.space.row_sizes)
        block = np.arange(self.space.num_blocks, dtype="int32")[:, None] * (queries * size)
        rows = block + gather_rows(query_of[:, None] * size + self.space.row[subset_of], routes)
        kernel = ops.cast(gather_rows(self.kernel, rows), self.compute_dtype)
        asked = np.eye(self.space.member.shape[1], dtype="float32")[query_of]
        return member, ops.cast(gather_rows(asked, routes), kernel.dtype), kernel

    def call(self, inputs, selected, start, stop):
        """Weights `[batch, blocks, subnetworks]` of the blocks from `start` to before `stop`, as `selected`.

        `inputs` are what they may ask: the root feature `[batch, units]`, or all values `[batch, subnetworks, units]`.
        """
        member, asked, kernel = (found if found is None else found[start:stop] for found in selected)
        if kernel is None:
            weights = member / ops.sum(member, axis=-1, keepdims=True)
            return ops.broadcast_to(weights, (ops.shape(inputs)[0], *member.shape))
        if self.searches_queries:
            # Each block's gate stands in the columns of the value it asks and zeros in those of the others.
            kernel = ops.expand_dims(ops.expand_dims(asked, 1), 3) * ops.expand_dims(kernel, 2)
            inputs = ops.reshape(inputs, (-1, inputs.shape[1] * inputs.shape[2]))
        # One matmul for all blocks: [batch, blocks * subnetworks].
        scores = ops.matmul(inputs, ops.transpose(ops.reshape(kernel, (-1, inputs.shape[-1]))))
        scores = ops.cast(ops.reshape(scores, (-1, *member.shape)), "float32")
        return ops.softmax(ops.where(member > 0, scores, UNREAD), axis=-1)
