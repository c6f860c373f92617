"""How alike tasks are, and how much a route lets them share."""

import numpy as np

from mtl_layers.analysis._heat_map import draw_heat_map
from mtl_layers.sharing import Route


def label_correlation(labels):
    """Pearson's correlation of every two tasks' labels, over the rows where both have one.

    Args:
        labels: Dict from task name to an array of numbers, `[rows]` or `[rows, 1]`; NaN is a missing label.

    Returns:
        A float64 array `[tasks, tasks]`, in the order of the dict; NaN where a label has one value only on the rows
        that two tasks share.

    Raises:
        ValueError: If `labels` is no dict of arrays of one length, or a label is infinite.

    Example:
        >>> mtl.analysis.label_correlation({"click": [1, 1, 0, 0], "buy": [1, 0, 0, np.nan]}).round(2).tolist()
        [[1.0, 0.5], [0.5, 1.0]]
    """
    if not isinstance(labels, dict) or not labels:
        raise ValueError(f"`labels` must be a dict from task names to arrays; received: labels={labels!r}")
    columns = {}
    for task, values in labels.items():
        values = np.asarray(values, "float64")
        if values.ndim not in (1, 2) or values.shape[1:] not in ((), (1,)):
            raise ValueError(f"`labels` must be [rows] or [rows, 1]; received: {task!r} with shape={values.shape}")
        if np.isinf(values).any():
            raise ValueError(f"`labels` must be finite, or NaN where one is missing; received: {task!r} with infinity")
        columns[task] = values.ravel()
    rows = {task: len(values) for task, values in columns.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"`labels` must have as many rows for each task; received: {rows}")
    return np.array([[_pearson(one, other) for other in columns.values()] for one in columns.values()])


def _pearson(one, other):
    both = ~(np.isnan(one) | np.isnan(other))
    one, other = one[both], other[both]
    if any(len(np.unique(values)) < 2 for values in (one, other)):
        return np.nan
    return np.corrcoef(one, other)[0, 1]


def sharing_overlap(route):
    """How much of what two tasks reach they share: sub-networks in common over sub-networks in all (Jaccard).

    Args:
        route: A `mtl.Route`.

    Returns:
        A float64 array `[tasks, tasks]`: 0 for tasks on disjoint paths, 1 for tasks that reach the same sub-networks.

    Raises:
        ValueError: If `route` is no route.

    Example:
        >>> mtl.analysis.sharing_overlap(mtl.Route(2, 1, 3, [((0, 1), None), ((1, 2), None)])).round(2).tolist()
        [[1.0, 0.33], [0.33, 1.0]]
    """
    if not isinstance(route, Route):
        raise ValueError(f"`route` must be a mtl.Route; received: route={route!r}")
    reached = [
        {(layer, own) for layer, subnetworks in enumerate(route.reached([task])) for own in subnetworks}
        for task in range(route.num_tasks)
    ]
    return np.array([[len(one & other) / len(one | other) for other in reached] for one in reached])


def plot_task_relations(labels, route, axes):
    """Draws the correlation of the tasks' labels beside the share of sub-networks that the route lets them share.

    Args:
        labels: As in `label_correlation`, one entry for each task of the route, in its order.
        route: A `mtl.Route`.
        axes: Two matplotlib axes.

    Raises:
        ValueError: If `labels` have another number of tasks than `route`.

    Example:
        >>> from matplotlib import pyplot
        >>> figure, axes = pyplot.subplots(1, 2)
        >>> labels = {"click": [1, 1, 0, 0], "buy": [1, 0, 0, 0]}
        >>> mtl.analysis.plot_task_relations(labels, mtl.Route.no_sharing(2, 1, 3), axes)
        >>> pyplot.close(figure)
    """
    correlation, overlap = label_correlation(labels), sharing_overlap(route)
    if len(correlation) != len(overlap):
        raise ValueError(f"`labels` must have one entry for each of {len(overlap)} tasks; received: {list(labels)}")
    names = list(labels)
    draw_heat_map(axes[0], correlation, names, names, "label correlation", limits=(-1.0, 1.0), cmap="RdBu_r")
    draw_heat_map(axes[1], overlap, names, names, "sub-networks shared")
