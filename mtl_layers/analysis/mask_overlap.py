"""How much of a sparsely shared network the tasks have in common."""

import numpy as np

from mtl_layers.sharing import SparseSharing


def mask_overlap(layer):
    """The mask overlap ratio of every two tasks of a `SparseSharing` layer.

    ```
    OR(a, b) = |M_a and M_b| / |M_a or M_b|          numbers of weights, over all layers of the base network
    ```

    Args:
        layer: A built `mtl.SparseSharing`; its `overlap_ratio()` is the ratio of all tasks together.

    Returns:
        A float64 array `[tasks, tasks]`: 1 on the diagonal, 0 for tasks without a weight in common.

    Raises:
        ValueError: If `layer` is another layer, or not built.

    Example:
        >>> layer = mtl.SparseSharing(num_tasks=2)
        >>> layer.build((None, 16))
        >>> mtl.analysis.mask_overlap(layer).tolist()
        [[1.0, 1.0], [1.0, 1.0]]

    Source: Sun et al., AAAI 2020: a low overlap goes with a large gain over hard sharing.
    """
    if not isinstance(layer, SparseSharing):
        raise ValueError(f"`layer` must be a mtl.SparseSharing; received: layer={layer!r}")
    tasks = range(layer.num_tasks)
    # A ratio is that of a set of tasks, so that one task alone is not named twice.
    return np.array([[layer.overlap_ratio(sorted({one, other})) for other in tasks] for one in tasks])
