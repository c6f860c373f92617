"""All routes through layers of sub-networks at once: the search space of MTNAS as an ordinary layer."""

from contextlib import contextmanager
from itertools import chain

import numpy as np

from mtl_layers._checks import check_positive, check_rate
from mtl_layers._keras import INTEGER, build_part, keras, ops, register
from mtl_layers._trainable import hand_down
from mtl_layers.experts import Experts
from mtl_layers.sharing._route_gates import RouteGates
from mtl_layers.sharing._route_policy import RoutePolicy, probabilities_of
from mtl_layers.sharing._route_space import RouteSpace
from mtl_layers.sharing.route import Route
from mtl_layers.sharing.static_route import StaticRoute

MAX_SUBNETWORKS = 8
MAX_LAYERS = 4
MAX_DRAWS = 100  # for each candidate that is new


@register
class RouteSupernet(keras.layers.Layer):
    """Layers of sub-networks with every route between them, of which one is in force.

    ```
    h_0     = relu(x @ W + b)                                    the root feature; x without an input layer
    h_i^l   = relu(z_i^l @ W_i^l + b_i^l)                        sub-network i of layer l; z^1 = h_0
    z_b     = sum over v in V_b of softmax(q_b @ w_b,r)_v h_v    route r of block b: values V_b, query q_b
    y_k     = z of the block before tower k
    ```

    A block stands before every sub-network above the first layer and before every tower. Its routes are every non-empty
    subset of the outputs below times every query, each with gate parameters of its own. In training steps the route
    in the variable `route` is in force; in evaluation, prediction and exports the most likely one under `alpha`.
    Changing a route retraces nothing. Without a search both are the full route: all values, query 0.

    Search by `mtl.RouteSearch` in an ordinary `fit`; then `derive()` gives the `Route`, `to_static()` its layer.
    All sub-networks are evaluated whatever the route, until `mtl.freeze` removes what it does not reach. Of the gates,
    `blocks * queries * H 2^(H-1) * units` parameters for H sub-networks (49,152 by default for two tasks, 13.6 million
    for 4 layers of 8), only those of the route in force are read; but Keras' optimizers with momentum move them all in
    every step, since they update whole variables. `mtl.LazyAdam` moves those of the route.

    Args:
        num_tasks: Number of tasks, at least 1.
        num_layers: Number of layers of sub-networks, 1 to 4. Defaults to `2`.
        num_subnetworks: Sub-networks per layer, 1 to 8. Defaults to `4`.
        units: Units of the input layer and of every sub-network. Defaults to `64`.
        query: What a gate reads: `"previous"`, the output of a sub-network below which is searched too; or `"root"`.
            Defaults to `"previous"`.
        pooling: `"gate"`, or `"mean"` to average a block's values without a gate. Defaults to `"gate"`.
        activation: Activation of all layers. Defaults to `"relu"`.
        input_layer: Whether a dense layer that all routes share stands before everything, as in the paper. Without it
            the sub-networks of the first layer read the input, and routes can be truly separate. Defaults to `True`.
        dropout: Rate of dropout after every layer, in [0, 1). Defaults to `0.0`.
        kernel_initializer: Initializer of each kernel of these layers. Defaults to `"glorot_uniform"`.
        kernel_regularizer: Regularizer of these kernels. Defaults to `None`.
        search_optimizer: The optimizer of `alpha`; `mtl.RouteSearch` sets it. Defaults to `None`.

    Input shape: `[batch, dim]`.
    Output shape: `[batch, num_tasks, units]`.

    Raises:
        ValueError: If an argument is out of range, or what `set_route` is given is no route of this shape.

    Example:
        >>> supernet = mtl.RouteSupernet(num_tasks=2, num_layers=1, num_subnetworks=3, units=16)
        >>> tuple(supernet(np.ones((8, 16), "float32")).shape)
        (8, 2, 16)
        >>> print(supernet.derive())
        task 0 <- 0 + 1 + 2 (query 0)
        task 1 <- 0 + 1 + 2 (query 0)

    Source: Chen et al., "Boosting Share Routing for Multi-task Learning", WWW 2021 Companion (MTNAS).
    """

    def __init__(
        self,
        num_tasks,
        num_layers=2,
        num_subnetworks=4,
        units=64,
        query="previous",
        pooling="gate",
        *,
        input_layer=True,
        activation="relu",
        dropout=0.0,
        kernel_initializer="glorot_uniform",
        kernel_regularizer=None,
        search_optimizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_tasks = check_positive("num_tasks", num_tasks)
        self.num_layers = check_positive("num_layers", num_layers, maximum=MAX_LAYERS)
        self.num_subnetworks = check_positive("num_subnetworks", num_subnetworks, maximum=MAX_SUBNETWORKS)
        self.units = check_positive("units", units)
        if query not in ("previous", "root"):
            raise ValueError(f'`query` must be "previous" or "root"; received: query={query!r}')
        if pooling not in ("gate", "mean"):
            raise ValueError(f'`pooling` must be "gate" or "mean"; received: pooling={pooling!r}')
        self.query = query
        self.pooling = pooling
        self.input_layer = input_layer
        self.activation = keras.activations.get(activation)
        self.dropout = check_rate("dropout", dropout)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.stem = self._stack(1, "stem") if input_layer else None
        self.subnetworks = [self._stack(num_subnetworks, f"layer_{layer + 1}") for layer in range(num_layers)]
        self.space = RouteSpace(
            num_tasks,
            num_layers,
            num_subnetworks,
            searches_queries=query == "previous",
            has_gates=pooling == "gate" and num_subnetworks > 1,
        )
        self.num_blocks, self.num_routes = self.space.num_blocks, self.space.num_routes
        self.search_optimizer = None if search_optimizer is None else keras.optimizers.get(search_optimizer)
        self.gates = RouteGates(self.space, query == "previous", dtype=self.dtype_policy, name="gates")
        self.policy = RoutePolicy(self.num_blocks, self.num_routes, name="policy")
        self._given_route = None

    def _stack(self, count, name):
        return Experts(
            count,
            (self.units,),
            activation=self.activation,
            dropout=self.dropout,
            kernel_initializer=self.kernel_initializer,
            kernel_regularizer=self.kernel_regularizer,
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, input_shape):
        if len(input_shape) != 2:
            raise ValueError(f"`inputs` must be [batch, dim]; received: shape={tuple(input_shape)}")
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: input_shape[-1]})
        self._input_dim = root = input_shape[-1]
        if self.stem is not None:
            build_part(self.stem, input_shape)
            root = self.units
        for layer, stack in enumerate(self.subnetworks):
            build_part(stack, (None, root) if layer == 0 else (None, self.num_subnetworks, self.units))
        build_part(self.gates, (None, root if self.query == "root" else self.units))
        build_part(self.policy, None)
        self.route = self.add_weight(
            name="route", shape=(self.num_blocks,), initializer="zeros", trainable=False, dtype=INTEGER
        )
        self._build_search_state()
        hand_down(self)
        self.built = True

    def _build_search_state(self):
        """What a search must find again after a kill: saved with the weights, moved by nobody else.

        Baselines are those of the tasks' rewards, and last that of the cost.
        """
        state = {"initializer": "zeros", "trainable": False, "dtype": "float32"}
        self.search_step = self.add_weight(name="search_step", shape=(), **{**state, "dtype": INTEGER})
        self.search_baseline = self.add_weight(name="search_baseline", shape=(self.num_tasks + 1,), **state)
        self.search_seen = self.add_weight(name="search_seen", shape=(self.num_tasks + 1,), **state)
        self.search_skipped = self.add_weight(name="search_skipped", shape=(), **state)
        if self.search_optimizer is not None:
            self.search_optimizer.build([self.alpha])

    def hold_search_optimizer(self, optimizer):
        """Keeps the optimizer of `alpha`, whose state is then saved with the layer; returns the one that is kept."""
        if self.search_optimizer is None:
            # Not `search_step`, which also counts steps of a training that leaves the search for later.
            if self.built and ops.convert_to_numpy(self.search_seen).any():
                raise ValueError(
                    f"`{self.name}` must have the optimizer of its search before it loads the weights of one, or the "
                    "optimizer's state is lost: call `search.set_model(model)` before `model.load_weights`; "
                    f"received: weights after {int(ops.convert_to_numpy(self.search_step))} steps of a search"
                )
            self.search_optimizer = optimizer
            if self.built:
                optimizer.build([self.alpha])
        return self.search_optimizer

    def call(self, inputs, training=None):
        return self._run(inputs, training)[0]

    def gate_weights(self, inputs):
        """The weights of the most likely route, as a list with `[batch, blocks, subnetworks]` for each layer mixed.

        The blocks of the last entry are those of the tasks; weights of blocks that no task reaches are there, too.
        """
        self._check_built()
        return self._run(inputs, training=False)[1]

    def expert_outputs(self, inputs):
        """The outputs of the sub-networks on the most likely route, as a list with `[batch, subnetworks, units]`."""
        self._check_built()
        return self._run(inputs, training=False)[2]

    def gate_reads(self):
        """Which values each block of the most likely route has, as a list with a boolean `[blocks, subnetworks]`."""
        self._check_built()
        member = self.space.member[np.argmax(self.alpha.numpy(), axis=-1) // self.space.num_queries] > 0
        return np.split(member, [layer * self.num_subnetworks for layer in range(1, self.num_layers)])

    def _run(self, inputs, training):
        routes = ops.cast(ops.reshape(self.route, (self.num_blocks,)), "int32")  # reshaped, it is a tensor in Keras 2
        if self._given_route is not None:
            routes = self._given_route
        elif not training:
            routes = self.policy(routes)
        root = (
            inputs if self.stem is None else ops.squeeze(self.stem(inputs, training=training), axis=1)
        )  # [batch, units]
        values, start, all_weights, all_hidden = root, 0, [], []
        selected = self.gates.select(routes)
        for layer, stack in enumerate(self.subnetworks):
            hidden = stack(values, training=training)  # [batch, subnetworks, units]
            all_hidden.append(hidden)
            stop = self.num_blocks if layer + 1 == self.num_layers else start + self.num_subnetworks
            asked = root if self.query == "root" else hidden
            # [batch, blocks of this layer, subnetworks]
            all_weights.append(self.gates(asked, selected=selected, start=start, stop=stop))
            values = ops.matmul(ops.cast(all_weights[-1], hidden.dtype), hidden)  # [batch, these blocks, units]
            start = stop
        return values, all_weights, all_hidden

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_tasks, self.units)

    def inventory(self):
        """What a report of `freeze` counts: every route of a block has a gate of its own, if it has a choice."""
        choices = sum(len(subset) > 1 for subset in self.space.subsets) * self.space.num_queries
        gates = self.num_blocks * choices if self.space.has_gates else 0
        return {"sub-networks": self.num_layers * self.num_subnetworks, "gates": gates}

    def state_weights(self):
        """Weights that are no parameters of the network, and not counted as such by a report of `freeze`."""
        search = [self.search_step, self.search_baseline, self.search_seen, self.search_skipped]
        return [self.alpha, self.route, *search]

    # ------------------------------------------------------------------------------------------------------- routes

    @contextmanager
    def _at_route(self, numbers):
        """In this context a call takes the route with these numbers, a tensor `[blocks]`, and no other."""
        self._given_route = numbers
        try:
            yield
        finally:
            self._given_route = None

    @property
    def alpha(self):
        """The logits of the routes, `[blocks, routes]`, as a variable; None before the layer is built."""
        return self.policy.alpha

    def derive(self):
        """The most likely `Route`."""
        self._check_built()
        return self.route_of(np.argmax(self.alpha.numpy(), axis=-1))

    def candidates(self, count, seed=0):
        """`count` routes worth training anew: which of them to keep, validation decides.

        `"derived"`, the most likely one; `"full"`, all values everywhere; `"unshared"`, if there are as many
        sub-networks as tasks; and `"drawn 0"` and so on from the probabilities of the routes. None comes twice: what
        is there already is drawn again, and so is what differs in unused sub-networks alone; there are fewer where
        the search is all but certain.

        Args:
            count: Number of routes, at least 1.
            seed: Seed of the draws, as NumPy takes it. Defaults to `0`.

        Returns:
            Dict from name to `Route`.
        """
        check_positive("count", count)
        given = {"derived": self.derive(), "full": self.route_of([0] * self.num_blocks)}
        if self.num_subnetworks >= self.num_tasks:
            given["unshared"] = Route.no_sharing(*self.space.shape)
        policy = probabilities_of(self.alpha.numpy().astype("float64"))
        random = np.random.default_rng(seed)
        draws = ([random.choice(len(block), p=block) for block in policy] for _ in range(MAX_DRAWS * count))
        routes, networks = {}, set()
        for name, route in chain(given.items(), ((None, self.route_of(draw)) for draw in draws)):
            network = route.without_unused()
            if network not in networks:
                networks.add(network)
                routes[name or f"drawn {len(routes.keys() - given)}"] = route
            if len(routes) == count:
                break
        return routes

    def route_of(self, numbers):
        """The `Route` with the given route number in each block."""
        return self.space.route_of(numbers)

    def numbers_of(self, route):
        """The route number of each block of a `Route`, as int32."""
        return self.space.numbers_of(route)

    def set_route(self, route):
        """Puts a `Route` in force, in training steps and, as the most likely one, everywhere else."""
        self._check_built()
        numbers = self.numbers_of(route)
        alpha = np.array(self.alpha.numpy())
        alpha[np.arange(self.num_blocks), numbers] = alpha.max(axis=-1) + 1.0
        self.alpha.assign(alpha)
        self.route.assign(numbers)

    def to_static(self):
        """The `StaticRoute` of the most likely route, with the weights found."""
        route = self.derive()
        numbers = self.numbers_of(route)
        static = StaticRoute(
            route,
            self.units,
            self.pooling,
            self.input_layer,
            activation=self.activation,
            dropout=self.dropout,
            kernel_initializer=self.kernel_initializer,
            kernel_regularizer=self.kernel_regularizer,
            dtype=self.dtype_policy,
            name=f"{self.name}_static",
        )
        static.build((None, self._input_dim))
        if self.stem is not None:
            static.stem.inherit(self.stem, [0])
        reached = route.reached()
        for layer, stack in enumerate(self.subnetworks):
            static.expert_levels[layer].inherit(stack, reached[layer])
            last = layer + 1 == self.num_layers
            readers = range(self.num_tasks) if last else reached[layer + 1]
            blocks = [layer * self.num_subnetworks + reader for reader in readers]
            rows = [row for block in blocks for row in self.space.gate_rows(block, numbers[block])]
            if rows:
                kernel = ops.take(self.gates.kernel, np.array(rows, "int32"), axis=0)
                static.gate_levels[layer].kernel.assign(ops.transpose(kernel))
        return static

    def _check_built(self):
        if not self.built:
            raise ValueError(f"`{self.name}` must be built before it has a route: call it on data or fit it first")

    def freeze(self, tasks=None):
        """Returns a layer that computes the most likely route for the given tasks (indexes), and nothing else."""
        return self.to_static().freeze(tasks)

    def get_config(self):
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "num_layers": self.num_layers,
            "num_subnetworks": self.num_subnetworks,
            "units": self.units,
            "query": self.query,
            "pooling": self.pooling,
            "input_layer": self.input_layer,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "search_optimizer": self.search_optimizer and keras.optimizers.serialize(self.search_optimizer),
        }
