"""The weights of gates beside the choices of a route: small is not zero."""

import numpy as np

from mtl_layers.analysis._heat_map import draw_heat_map


def plot_gates_beside_route(utilisation, route, axes, names=None, layer=None):
    """Draws the mean weights that gates give their experts, beside what a route selects and what it leaves out.

    Gates of a mixture of experts give every expert some weight, and so pay for it and train it; a route says 0 or 1.

    Args:
        utilisation: A `GateUtilisation`, one level of what `gate_utilisation` gives for an `MMoE` or the like.
        route: A `mtl.Route`.
        axes: Two matplotlib axes.
        names: A name for each reader of that layer, as many as gates and as blocks. Defaults to `None`: "task 0",
            ... for the last layer, and "gate 0", ... beside "sub-network 0", ... for those below it.
        layer: The layer of the route whose outputs are selected, from 1. Defaults to `None`, the last: its readers are
            the tasks. A sub-network that no task reaches selects nothing.

    Raises:
        ValueError: If there is no such layer, or `names` are not as many as the gates and the route's readers.

    Example:
        >>> from matplotlib import pyplot
        >>> figure, axes = pyplot.subplots(1, 2)
        >>> levels = mtl.analysis.gate_utilisation(model, rows)
        >>> mtl.analysis.plot_gates_beside_route(levels[-1], mtl.Route.no_sharing(2, 1, 4), axes, ["click", "watch"])
        >>> pyplot.close(figure)
    """
    layer = route.num_layers if layer is None else layer
    if layer not in range(1, route.num_layers + 1):
        raise ValueError(f"`layer` must be from 1 to {route.num_layers}; received: layer={layer!r}")
    gates, experts = utilisation.mean.shape
    selected = _selected(route, layer)
    last = layer == route.num_layers
    gate_names = [f"{'task' if last else 'gate'} {number}" for number in range(gates)]
    readers = [f"{'task' if last else 'sub-network'} {number}" for number in range(len(selected))]
    weights = np.where(utilisation.read, utilisation.mean, np.nan)
    draw_heat_map(axes[0], weights, names or gate_names, range(experts), "mean gate weight")
    axes[0].set_xlabel("expert")
    draw_heat_map(axes[1], selected, names or readers, range(route.num_subnetworks), "selected by the route")
    axes[1].set_xlabel("sub-network")


def _selected(route, layer):
    """`[readers, subnetworks]`, 1 where a reader that some task reaches selects a sub-network of `layer`."""
    blocks = route.layer_blocks(layer + 1)
    reached = range(route.num_tasks) if layer == route.num_layers else route.reached()[layer]
    selected = np.zeros((len(blocks), route.num_subnetworks))
    for reader in reached:
        selected[reader, list(blocks[reader].values)] = 1.0
    return selected
