"""Which components tasks use, as vectors that can be compared."""

import numpy as np

from mtl_layers._keras import keras
from mtl_layers._walk import layers_of
from mtl_layers.sharing import GumbelMatrix


def task_embeddings(model, probabilities=False):
    """A vector for each task: its rows of all most likely matrices, one behind the other.

    Args:
        model: A built model with one or more `mtl.GumbelMatrix` layers for the same tasks, or such a layer.
        probabilities: Whether to take the probabilities in place of 0 and 1. Defaults to `False`.

    Returns:
        A float64 array `[tasks, components of all levels]`.

    Raises:
        ValueError: If there is no such layer, or they differ in their number of tasks.

    Example:
        >>> layer = mtl.GumbelMatrix(num_tasks=2, num_components=(3, 2))
        >>> layer.build((None, 16))
        >>> mtl.analysis.task_embeddings(layer).tolist()
        [[1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]]

    Source: Maziarz et al., 2019: tasks of one family end with one embedding.
    """
    layers = layers_of(model) if isinstance(model, keras.Model) else [model]
    layers = [layer for layer in layers if isinstance(layer, GumbelMatrix)]
    tasks = [layer.num_tasks for layer in layers]
    if len(set(tasks)) != 1:
        raise ValueError(
            f"`model` must have GumbelMatrix layers for the same number of tasks; received: layers for {tasks} tasks"
        )
    matrices = [each for layer in layers for each in (layer.probabilities() if probabilities else layer.allocation())]
    return np.concatenate(matrices, axis=1).astype("float64")


def cosine_similarity(embeddings):
    """The cosine of the angle between every two tasks' embeddings.

    Args:
        embeddings: `[tasks, dim]`, as from `task_embeddings`.

    Returns:
        A float64 array `[tasks, tasks]`; 0 where an embedding is all zeros.

    Example:
        >>> mtl.analysis.cosine_similarity([[1, 1], [1, 0]]).round(2).tolist()
        [[1.0, 0.71], [0.71, 1.0]]
    """
    embeddings = np.asarray(embeddings, "float64")
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    directions = embeddings / np.where(lengths > 0, lengths, 1.0)
    return directions @ directions.T


def task_clusters(embeddings):
    """Groups of tasks with equal embeddings: those are computed once when frozen.

    Args:
        embeddings: `[tasks, dim]`, as from `task_embeddings`.

    Returns:
        An int array `[tasks]`: the number of each task's cluster. Clusters are numbered as they first occur.

    Example:
        >>> mtl.analysis.task_clusters([[0, 1], [1, 1], [0, 1]]).tolist()
        [0, 1, 0]
    """
    numbers = {}
    return np.array([numbers.setdefault(tuple(each), len(numbers)) for each in np.asarray(embeddings).tolist()])
