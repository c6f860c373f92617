"""An allocation of components to tasks as pictures."""

import numpy as np

from mtl_layers.analysis.task_embeddings import cosine_similarity, task_clusters


def plot_allocation(matrices, task_names, axes, title=None):
    """Draws which task uses which component: a row for each task, a column for each component, levels side by side.

    Args:
        matrices: An array `[tasks, components]` for each level, as from `probabilities()` or `allocation()` of a
            `mtl.GumbelMatrix`.
        task_names: A name for each task.
        axes: The matplotlib axes to draw on.
        title: Defaults to `None`.

    Example:
        >>> from matplotlib import pyplot
        >>> figure, axes = pyplot.subplots()
        >>> mtl.analysis.plot_allocation([np.eye(2), np.ones((2, 3))], ["click", "buy"], axes)
        >>> pyplot.close(figure)
    """
    _draw(np.concatenate([np.asarray(each, "float64") for each in matrices], axis=1), task_names, axes, title)
    ends = np.cumsum([np.shape(each)[1] for each in matrices])
    for end in ends[:-1]:
        axes.axvline(end - 0.5, color="black", lw=1.5)
    axes.set_xticks(range(ends[-1]), [component for each in matrices for component in range(np.shape(each)[1])])
    axes.set_xlabel("component" if len(matrices) == 1 else "component of each level")


def plot_task_clusters(embeddings, task_names, axes, title=None):
    """Draws the cosine similarity of the tasks' embeddings, tasks of one cluster beside each other and framed.

    Args:
        embeddings: `[tasks, dim]`, as from `task_embeddings`.
        task_names: A name for each task.
        axes: The matplotlib axes to draw on.
        title: Defaults to `None`.

    Example:
        >>> from matplotlib import pyplot
        >>> figure, axes = pyplot.subplots()
        >>> mtl.analysis.plot_task_clusters([[0, 1], [1, 1], [0, 1]], ["click", "buy", "like"], axes)
        >>> pyplot.close(figure)
    """
    similarity, clusters = cosine_similarity(embeddings), task_clusters(embeddings)
    order = np.argsort(clusters, kind="stable")
    _draw(similarity[np.ix_(order, order)], [task_names[task] for task in order], axes, title)
    axes.set_xticks(range(len(order)), [task_names[task] for task in order], rotation=90)
    for start, size in zip(*np.unique(clusters[order], return_index=True, return_counts=True)[1:], strict=True):
        square = [start - 0.5, start + size - 0.5]
        axes.plot(np.take(square, [0, 1, 1, 0, 0]), np.take(square, [0, 0, 1, 1, 0]), color="black", lw=1.5)


def _draw(values, task_names, axes, title):
    if len(task_names) != len(values):
        raise ValueError(f"`task_names` must have {len(values)} names; received: {list(task_names)}")
    axes.imshow(values, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_yticks(range(len(values)), task_names)
    axes.set_title(title or "")
