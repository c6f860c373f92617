"""The forward pass of a route in NumPy, from the formulas of MTNAS: loops over layers, sub-networks and values."""

from itertools import combinations

import numpy as np
from reference import array, mixture, relu, softmax

import mtl_layers as mtl


def random_route(rng, num_tasks, num_layers, num_subnetworks, queries=True):
    """A route with random non-empty values in each block; without `queries` every gate reads the root feature."""
    blocks = []
    for _ in range((num_layers - 1) * num_subnetworks + num_tasks):
        size = rng.integers(1, num_subnetworks + 1)
        values = sorted(rng.choice(num_subnetworks, size, replace=False).tolist())
        blocks.append((values, int(rng.integers(num_subnetworks)) if queries else None))
    return mtl.Route(num_tasks, num_layers, num_subnetworks, blocks)


def randomise(layer, rng):
    """Random trainable weights, biases too, at a scale that keeps the outputs of all layers near 1."""
    for weight in layer.trainable_weights:
        weight.assign((rng.normal(size=tuple(weight.shape)) / np.sqrt(weight.shape[-1])).astype("float32"))


def gate(layer, block, values, query):
    """The parameters [s, units] that belong to one route of one block of a `RouteSupernet`, and to no other.

    They lie block by block, in it query by query, in it subset by subset: the large ones first, then in the order
    of `itertools.combinations`; a subset of s values has s rows.
    """
    everything = range(layer.num_subnetworks)
    subsets = [s for size in range(layer.num_subnetworks, 0, -1) for s in combinations(everything, size)]
    rows_per_query = sum(len(subset) for subset in subsets)
    queries = layer.num_subnetworks if layer.query == "previous" else 1
    first = (block * queries + (query or 0)) * rows_per_query
    for subset in subsets:
        if subset == tuple(values):
            return array(layer.gates.kernel)[first : first + len(subset)]
        first += len(subset)
    raise ValueError(f"no such subset: {values}")


def supernet(layer, route, x, activation=relu):
    """What `layer`, a `RouteSupernet`, has to give for a route: [B, T, U]."""
    root = x
    if layer.stem is not None:
        root = activation(x @ array(layer.stem.kernels[0])[0] + array(layer.stem.biases[0])[0, 0])
    inputs, block = [root] * route.num_subnetworks, 0
    for depth in range(route.num_layers):
        kernels, biases = array(layer.subnetworks[depth].kernels[0]), array(layer.subnetworks[depth].biases[0])
        outputs = [
            activation(inputs[i] @ kernels[i] + biases[i, 0]) for i in range(route.num_subnetworks)
        ]  # fmt: skip
        readers = route.num_tasks if depth + 1 == route.num_layers else route.num_subnetworks
        inputs = []
        for _ in range(readers):
            chosen = route.blocks[block]
            values = [outputs[v] for v in chosen.values]
            if layer.pooling == "mean":
                inputs.append(sum(values) / len(values))
            elif len(values) == 1:
                inputs.append(values[0])
            else:
                query = root if layer.query == "root" else outputs[chosen.query]
                weights = softmax(query @ gate(layer, block, chosen.values, chosen.query).T)
                inputs.append(mixture(weights, values))
            block += 1
    return np.stack(inputs, axis=1)


def gate_multiply_adds(route, tasks, units, pooling="gate"):
    """The multiplications in the gates and mixtures of a frozen route: [units] per value, query and weight."""
    reached, total = route.reached(tasks), 0
    for depth, values in enumerate(map(len, reached), start=2):
        readers = reached[depth - 1] if depth <= route.num_layers else tasks
        blocks = [route.layer_blocks(depth)[reader] for reader in readers]
        asking = [block for block in blocks if len(block.values) > 1]
        asked = len({block.query for block in asking})  # several queries are one matmul over all values
        if pooling == "gate":
            total += sum(len(block.values) for block in asking) * units * (values if asked > 1 else 1)
        total += len(blocks) * values * units if asking else 0  # the mixtures, with 0 for what is not read
    return total
