"""Sparse sharing with its masks applied for good: plain dense layers, each distinct one once."""

import numpy as np

from mtl_layers._checks import check_indexes
from mtl_layers._keras import build_part, keras, ops, register
from mtl_layers._trainable import hand_down
from mtl_layers.experts import Experts


@register
class FrozenSparse(keras.layers.Layer):
    """The final form of a `SparseSharing` for given tasks: one output tensor per task, and no masks.

    Masked kernels are stored and not masked anew in each call: at a batch of one that would cost as much as the
    matmul itself. Made by `freeze` of `SparseSharing`; the arguments are its serialised form.

    Args:
        routes: For each task, the number of the dense layer that it uses in each layer of the network.
        sources: For each task, its place in an input `[batch, tasks, dim]`.
        hidden_units: Units of each layer of the network.
        expert_config: Arguments of the dense layers.

    Input shape: `[batch, dim]`, or `[batch, tasks, dim]` if the source has one input per task.
    Output: a list with one `[batch, units]` per task.
    """

    def __init__(self, routes, sources, hidden_units, expert_config, **kwargs):
        super().__init__(**kwargs)
        self.routes = tuple(tuple(route) for route in routes)
        self.sources = tuple(sources)
        self.hidden_units = tuple(hidden_units)
        self.expert_config = expert_config
        # A flat list, layer by layer, found again by position: Keras does not save what lies in nested ones.
        self.dense = [
            Experts(1, (hidden_units[depth],), name=f"dense_{depth}_{number}", dtype=self.dtype_policy, **expert_config)
            for depth, number in self._places()
        ]

    def _places(self):
        """The layer and the number in it of each entry of `dense`."""
        return sorted({place for route in self.routes for place in enumerate(route)})

    @classmethod
    def from_sparse(cls, sparse, tasks=None):
        """The frozen form of a built `SparseSharing`, with its weights."""
        if not sparse.built:
            raise ValueError(f"`{sparse.name}` must be built before it is frozen: call it on data or fit it first")
        tasks = check_indexes("tasks", tasks, sparse.num_tasks)
        routes, owners = [[] for _ in tasks], {}  # who owns a dense layer: the first task with this mask
        for depth, masks in enumerate(sparse.get_masks()):
            numbers = {}
            for route, task in zip(routes, tasks, strict=True):
                if masks[task].any():
                    number = numbers.setdefault(masks[task].tobytes(), len(numbers))
                    owners.setdefault((depth, number), task)
                    route.append(number)
        frozen = cls(
            routes,
            tasks,
            sparse.hidden_units,
            sparse.expert_config(),
            dtype=sparse.dtype_policy,
            name=f"{sparse.name}_frozen",
        )
        frozen.build((None, sparse.masks[0].shape[1]))
        kernels, masks = sparse.kernels, sparse.get_masks()
        for (depth, number), dense in zip(frozen._places(), frozen.dense, strict=True):
            dense.kernels[0].assign(np.where(masks[depth][owners[depth, number]], kernels[depth], 0.0)[None])
            if sparse.use_bias:
                dense.biases[0].assign(ops.reshape(sparse.biases[depth], (1, 1, -1)))
        return frozen

    def freeze(self, tasks=None):
        """Returns the layer for fewer tasks, made of this layer's own parts: the variables are shared, not copied."""
        tasks = check_indexes("tasks", tasks, len(self.routes))
        kept = sorted({place for task in tasks for place in enumerate(self.routes[task])})
        number = {}  # of each kept place among those of its layer
        for depth, old in kept:
            number[depth, old] = sum(other == depth for other, _ in number)
        view = type(self)(
            [[number[place] for place in enumerate(self.routes[task])] for task in tasks],
            [self.sources[task] for task in tasks],
            self.hidden_units,
            {**self.expert_config, "dropout": 0.0},  # parts that give way to shared ones must leave no random state
            dtype=self.dtype_policy,
        )
        view.expert_config = self.expert_config
        mine = dict(zip(self._places(), self.dense, strict=True))
        view.dense = [mine[place] for place in kept]
        view.built = True
        return view

    def inventory(self):
        """What a report of `freeze` counts: the dense layers, each once."""
        return {"dense layers": len(self.dense)}

    def build(self, input_shape):
        for (depth, _), dense in zip(self._places(), self.dense, strict=True):
            build_part(dense, (input_shape[0], self.hidden_units[depth - 1] if depth else input_shape[-1]))
        hand_down(self)
        self.built = True

    def call(self, inputs, training=None):
        dense = dict(zip(self._places(), self.dense, strict=True))
        values, outputs = {}, []
        for source, route in zip(self.sources, self.routes, strict=True):
            path, hidden = (), inputs
            if len(inputs.shape) == 3:
                path, hidden = (source,), inputs[:, source]
            for place in enumerate(route):
                path = (*path, place)
                if path not in values:  # tasks on one path up to here are computed once
                    values[path] = dense[place](hidden, training=training)[:, 0]  # [batch, units]
                hidden = values[path]
            outputs.append(hidden)
        return outputs

    def compute_output_shape(self, input_shape):
        return [(input_shape[0], self.hidden_units[-1])] * len(self.routes)

    def get_config(self):
        return {
            **super().get_config(),
            "routes": [list(route) for route in self.routes],
            "sources": list(self.sources),
            "hidden_units": list(self.hidden_units),
            "expert_config": dict(self.expert_config),
        }
