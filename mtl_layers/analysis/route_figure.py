"""A route as a picture."""

import numpy as np


def draw_route(route, axes, task_names=None, title=None, queries=True):
    """Draws a `Route` from the root feature below to the towers above, each task's paths in its colour.

    Sub-networks are circles, black where some task reaches them and grey where none does. A line runs from
    a value to whoever mixes it, once for every task whose path it is on; a square on a circle's rim, or above the root
    feature, marks the query of a gate, joined to its block by a dotted line.

    Args:
        route: A `mtl.Route`.
        axes: The matplotlib axes to draw on.
        task_names: A name for each task. Defaults to `None`, "task 0", "task 1", ...
        title: Defaults to `None`.
        queries: Whether to draw what gates ask; give False for `pooling="mean"`, which has none. Defaults to `True`.

    Example:
        >>> from matplotlib import pyplot
        >>> figure, axes = pyplot.subplots()
        >>> mtl.analysis.draw_route(mtl.Route.no_sharing(2, 2, 3), axes, ["click", "purchase"])
        >>> pyplot.close(figure)
    """
    names = [f"task {task}" for task in range(route.num_tasks)] if task_names is None else list(task_names)
    if len(names) != route.num_tasks:
        raise ValueError(f"`task_names` must have {route.num_tasks} names; received: {names}")
    colors = _colors(route.num_tasks)
    reached = [route.reached([task]) for task in range(route.num_tasks)]  # per task, per layer
    _draw_subnetworks(route, axes)
    middle = (route.num_subnetworks - 1) / 2
    axes.text(middle, 0, "root", ha="center", va="center", bbox={"boxstyle": "round", "fc": "white"}, zorder=3)
    spread = route.num_subnetworks / route.num_tasks
    towers = [(task + 0.5) * spread - 0.5 for task in range(route.num_tasks)]
    for task, (place, name) in enumerate(zip(towers, names, strict=True)):
        box = {"boxstyle": "round", "fc": colors[task], "ec": "none"}
        axes.text(place, route.num_layers + 1, name, ha="center", va="center", color="white", bbox=box, zorder=3)

    for layer in range(1, route.num_layers + 2):
        blocks = route.layer_blocks(layer) if layer > 1 else ()
        for task in range(route.num_tasks):
            offset = 0.05 * (task - (route.num_tasks - 1) / 2)  # paths of several tasks lie side by side
            line = {"color": colors[task], "lw": 1.6, "alpha": 0.8, "zorder": 1}
            if layer == 1:
                for own in reached[task][0]:
                    axes.plot([middle + offset, own + offset], [0, 1], **line)
                continue
            last = layer > route.num_layers
            for reader in [task] if last else reached[task][layer - 1]:
                block = blocks[reader]
                top = towers[reader] if last else reader
                for value in block.values:
                    axes.plot([value + offset, top + offset], [layer - 1, layer], **line)
                if queries and len(block.values) > 1:
                    asked = (middle, 0.14) if block.query is None else (block.query, layer - 0.86)
                    asked = (asked[0] + offset, asked[1])
                    axes.plot(
                        [asked[0], top + offset], [asked[1], layer - 0.14], ":", color=colors[task], lw=1, zorder=1
                    )
                    axes.plot(*asked, "s", color=colors[task], ms=4, zorder=4)
    axes.set_xlim(-0.8, route.num_subnetworks - 0.2)
    axes.set_ylim(-0.4, route.num_layers + 1.4)
    axes.set_yticks(range(1, route.num_layers + 1), [f"layer {layer}" for layer in range(1, route.num_layers + 1)])
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(title or "")


def _colors(count):
    """A colour for each task: matplotlib's own, which come again after ten, or as many from a colour map."""
    if count <= 10:
        return [f"C{task}" for task in range(count)]
    import matplotlib

    return list(matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count)))


def _draw_subnetworks(route, axes):
    used = route.reached()
    for layer in range(1, route.num_layers + 1):
        for own in range(route.num_subnetworks):
            reached = own in used[layer - 1]
            color = "black" if reached else "lightgrey"
            axes.plot(own, layer, "o", ms=20, mfc="white", mec=color, mew=1.2, zorder=2)
            axes.text(own, layer, str(own), ha="center", va="center", color=color, zorder=3)
