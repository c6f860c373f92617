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

        Returns a `[blocks, subnetworks]` that is added to scores, 0 for a value of a block and `UNREAD` for another;
        without gates these are the weights. And the gates' kernels, `[blocks * subnetworks, inputs]`, or None: a block
        that asks one of several values has its gate in the places of that value, and zeros in those of the others.
        """
        subset_of, query_of = np.divmod(np.arange(self.space.num_routes, dtype="int32"), self.space.num_queries)
        member = self.space.member[subset_of]
        if self.kernel is None:
            return gather_rows(member / member.sum(axis=-1, keepdims=True), routes), None
        blocks, size, units = self.space.num_blocks, len(self.space.row_sizes), self.kernel.shape[-1]
        first = np.arange(blocks, dtype="int32")[:, None] * (self.space.num_queries * size)
        rows = first + gather_rows(query_of[:, None] * size + self.space.row[subset_of], routes)
        kernel = ops.cast(gather_rows(self.kernel, rows), self.compute_dtype)  # [blocks, subnetworks, units]
        if self.searches_queries:
            asked = np.eye(member.shape[1], dtype="float32")[query_of]
            asked = ops.cast(gather_rows(asked, routes), kernel.dtype)
            kernel = ops.reshape(asked, (blocks, 1, -1, 1)) * ops.expand_dims(kernel, 2)
            units *= member.shape[1]
        bias = np.where(member > 0, 0.0, UNREAD).astype("float32")
        return gather_rows(bias, routes), ops.reshape(kernel, (-1, units))

    def call(self, inputs, selected, start, stop):
        """Weights `[batch, blocks, subnetworks]` of the blocks from `start` to before `stop`, as `selected`.

        `inputs` are what they may ask: the root feature `[batch, units]`, or all values `[batch, subnetworks, units]`.
        """
        each, kernel = selected
        each = each[start:stop]
        if kernel is None:
            return ops.broadcast_to(each, (ops.shape(inputs)[0], *each.shape))
        count = each.shape[1]
        kernel = kernel[start * count : stop * count]
        # One matmul for all blocks: [batch, blocks * subnetworks].
        scores = ops.matmul(ops.reshape(inputs, (-1, kernel.shape[1])), ops.transpose(kernel))
        # Both are in the precision of the layer: Keras casts what a layer is called with.
        scores, each = (ops.cast(tensor, "float32") for tensor in (ops.reshape(scores, (-1, *each.shape)), each))
        return ops.softmax(scores + each, axis=-1)
