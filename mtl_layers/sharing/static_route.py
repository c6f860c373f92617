"""The layer of one route: what no task reaches does not exist."""

from dataclasses import replace

from mtl_layers._checks import check_positive
from mtl_layers._keras import register
from mtl_layers.gates import MeanGate, SoftmaxGate
from mtl_layers.sharing._mixture import Mixture
from mtl_layers.sharing._wiring import ROOT, GateWiring, Level, Wiring
from mtl_layers.sharing.route import Block, Route


@register
class StaticRoute(Mixture):
    """A fixed `Route` through layers of sub-networks, with only the parts that some task reaches.

    ```
    h_0         = relu(x @ W + b)                                   the root feature; x without an input layer
    h_i^l       = relu(z_i^l @ W_i^l + b_i^l)                       sub-network i of layer l, z^1 = h_0
    z_b         = sum over v in V_b of softmax(q_b @ W_b)_v h_v     block b: values V_b, query q_b
    y_k         = z of the block before tower k
    ```

    A block with one value passes it on and has no gate. Sub-networks of a layer are one batched matmul.

    Args:
        route: A `mtl.Route`, or its JSON text.
        units: Units of the input layer and of every sub-network. Defaults to `64`.
        pooling: `"gate"`, or `"mean"` to average a block's values without a gate. Defaults to `"gate"`.
        input_layer: Whether a dense layer stands before everything. Defaults to `True`.
        activation: Activation of all layers. Defaults to `"relu"`.
        dropout: Rate of dropout after every layer, in [0, 1). Defaults to `0.0`.
        use_bias: Whether layers have a bias. Defaults to `True`.
        kernel_initializer: Initializer of each sub-network's kernel. Defaults to `"glorot_uniform"`.
        bias_initializer: Initializer of the biases. Defaults to `"zeros"`.
        kernel_regularizer: Regularizer of the kernels. Defaults to `None`.
        bias_regularizer: Regularizer of the biases. Defaults to `None`.

    Input shape: `[batch, dim]`.
    Output shape: `[batch, num_tasks, units]`.

    Raises:
        ValueError: If `route` is no route, an argument is out of range, or, without an input layer, some gates of a
            layer read the root feature and others a sub-network.

    Example:
        >>> route = mtl.Route(2, 1, 3, [((0, 1), 0), ((2,), 2)])
        >>> tuple(mtl.StaticRoute(route, units=32)(np.ones((8, 16), "float32")).shape)
        (8, 2, 32)

    Source: Chen et al., "Boosting Share Routing for Multi-task Learning", WWW 2021 Companion.
    """

    derived = ("num_tasks", "gate")  # the route says how many, and `pooling` which

    def __init__(self, route, units=64, pooling="gate", input_layer=True, **kwargs):
        route = Route.from_json(route) if isinstance(route, str) else route
        if not isinstance(route, Route):
            raise ValueError(f"`route` must be a mtl.Route or its JSON text; received: route={route!r}")
        if pooling not in ("gate", "mean"):
            raise ValueError(f'`pooling` must be "gate" or "mean"; received: pooling={pooling!r}')
        super().__init__(route.num_tasks, **kwargs)
        self.route = route
        self.units = check_positive("units", units)
        self.pooling = pooling
        self.input_layer = input_layer
        self.stem_units = self.units if input_layer else None
        self._make_levels()

    def wiring(self):
        route = self.route if self.pooling == "gate" else _without_queries(self.route)
        reached = route.reached()
        levels = []
        for layer in range(1, route.num_layers + 1):
            place = {subnetwork: position for position, subnetwork in enumerate(reached[layer - 1])}
            above = route.layer_blocks(layer + 1)
            readers = above if layer == route.num_layers else [above[subnetwork] for subnetwork in reached[layer]]
            inputs = (ROOT,) * len(place) if layer == 1 else tuple(range(len(place)))
            levels.append(Level(inputs, self._gates(readers, place), (self.units,)))
        return Wiring(tuple(levels), tuple(range(route.num_tasks)))

    def _gates(self, blocks, place):
        asking = [block.query is None for block in blocks if len(block.values) > 1]
        if not self.input_layer and len(set(asking)) > 1:
            raise ValueError(
                "`route` must have gates that all read the root feature, or all a sub-network, in each layer, if there "
                f"is no input layer; received:\n{self.route}"
            )
        gates = []
        for block in blocks:
            experts = tuple(place[value] for value in block.values)
            # A gate over one value is never asked: it says what the others say.
            query = block.query if len(experts) > 1 else None if all(asking) else block.values[0]
            gates.append(GateWiring(ROOT, experts, None if query is None else place[query]))
        return tuple(gates)

    def gate_prototype(self):
        return SoftmaxGate() if self.pooling == "gate" else MeanGate()

    def inventory(self):
        experts, gates = super().inventory().values()
        return {"sub-networks": experts, "gates": gates}

    def get_config(self):
        return {
            **super().get_config(),
            "route": self.route.to_json(),
            "units": self.units,
            "pooling": self.pooling,
            "input_layer": self.input_layer,
        }


def _without_queries(route):
    """Nobody asks anything where values are averaged: what is reached as a query only need not exist."""
    return replace(route, blocks=tuple(Block(block.values) for block in route.blocks))
