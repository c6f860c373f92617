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
    h_0         = relu(x @ W + b)                                   the root feature
    h_i^l       = relu(z_i^l @ W_i^l + b_i^l)                       sub-network i of layer l, z^1 = h_0
    z_b         = sum over v in V_b of softmax(q_b @ W_b)_v h_v     block b: values V_b, query q_b
    y_k         = z of the block before tower k
    ```

    A block with one value passes it on and has no gate. Sub-networks of a layer are one batched matmul.

    Args:
        route: A `mtl.Route`, or its JSON text.
        units: Units of the input layer and of every sub-network. Defaults to `64`.
        pooling: `"gate"`, or `"mean"` to average a block's values without a gate. Defaults to `"gate"`.
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
        ValueError: If `route` is no route, or an argument is out of range.

    Example:
        >>> route = mtl.Route(2, 1, 3, [((0, 1), 0), ((2,), 2)])
        >>> tuple(mtl.StaticRoute(route, units=32)(np.ones((8, 16), "float32")).shape)
        (8, 2, 32)

    Source: Chen et al., "Boosting Share Routing for Multi-task Learning", WWW 2021 Companion.
    """

    derived = ("num_tasks", "gate")
    """Arguments of `Mixture` that are none here: the route says how many, and `pooling` which."""

    def __init__(self, route, units=64, pooling="gate", **kwargs):
        route = Route.from_json(route) if isinstance(route, str) else route
        if not isinstance(route, Route):
            raise ValueError(f"`route` must be a mtl.Route or its JSON text; received: route={route!r}")
        if pooling not in ("gate", "mean"):
            raise ValueError(f'`pooling` must be "gate" or "mean"; received: pooling={pooling!r}')
        super().__init__(route.num_tasks, **kwargs)
        self.route = route
        self.units = check_positive("units", units)
        self.pooling = pooling
        self.stem_units = self.units
        self._make_levels()

    def wiring(self):
        route = self.route if self.pooling == "gate" else _without_queries(self.route)
        reached = route.reached()
        levels = []
        for layer in range(1, route.num_layers + 1):
            place = {subnetwork: position for position, subnetwork in enumerate(reached[layer - 1])}
            above = route.layer_blocks(layer + 1)
            readers = above if layer == route.num_layers else [above[subnetwork] for subnetwork in reached[layer]]
            levels.append(
                Level(
                    (ROOT,) * len(place) if layer == 1 else tuple(range(len(place))),
                    tuple(_gate(block, place) for block in readers),
                    (self.units,),
                )
            )
        return Wiring(tuple(levels), tuple(range(route.num_tasks)))

    def gate_prototype(self):
        return SoftmaxGate() if self.pooling == "gate" else MeanGate()

    def get_config(self):
        config = {key: value for key, value in super().get_config().items() if key not in self.derived}
        return {**config, "route": self.route.to_json(), "units": self.units, "pooling": self.pooling}


def _without_queries(route):
    """Nobody asks anything where values are averaged: what is reached as a query only need not exist."""
    return replace(route, blocks=tuple(Block(block.values) for block in route.blocks))


def _gate(block, place):
    experts = tuple(place[value] for value in block.values)
    if len(experts) == 1:
        return GateWiring(ROOT, experts, own_query=experts[0])  # never asked
    return GateWiring(ROOT, experts, None if block.query is None else place[block.query])
