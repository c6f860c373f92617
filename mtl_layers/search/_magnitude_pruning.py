"""One step of pruning by magnitude, on NumPy arrays."""

import math

import numpy as np


def prune_smallest(kernels, masks, rate, threshold="global", layer_floor=0.0):
    """Returns masks without the `round(rate * n)` smallest of the n weights that are left.

    The n weights are those of all layers, or, if `threshold` is `"layer"`, of each layer. A layer keeps its largest
    `layer_floor * size` weights, and at least one, whatever the threshold. Of equal weights the first ones go.
    """
    if threshold == "layer":
        pairs = zip(kernels, masks, strict=True)
        return [prune_smallest([kernel], [mask], rate, "global", layer_floor)[0] for kernel, mask in pairs]
    magnitudes, places, start = [], [], 0  # of the weights that may go; places are those in all layers end to end
    for kernel, mask in zip(kernels, masks, strict=True):
        sizes, left = np.abs(kernel).ravel(), np.flatnonzero(mask)
        left = left[np.argsort(sizes[left], kind="stable")]
        left = left[: max(len(left) - max(1, math.ceil(layer_floor * mask.size)), 0)]
        magnitudes.append(sizes[left])
        places.append(start + left)
        start += mask.size
    goal = round(rate * sum(int(mask.sum()) for mask in masks))
    smallest = np.argsort(np.concatenate(magnitudes), kind="stable")[:goal]
    pruned = np.concatenate([mask.ravel() for mask in masks])
    pruned[np.concatenate(places)[smallest]] = False
    ends = np.cumsum([mask.size for mask in masks])[:-1]
    return [each.reshape(mask.shape) for each, mask in zip(np.split(pruned, ends), masks, strict=True)]
