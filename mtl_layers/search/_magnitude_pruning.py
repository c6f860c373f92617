"""One step of pruning by magnitude, on NumPy arrays."""

import math

import numpy as np


def prune_smallest(kernels, masks, rate, threshold="global", layer_floor=0.0):
    """Returns masks without the `round(rate * n)` smallest of the n weights that are left.

    The n weights are those of all layers, or, if `threshold` is `"layer"`, of each layer. A layer keeps its largest
    `layer_floor * size` weights, and at least one, whatever the threshold.
    """
    if threshold == "layer":
        pairs = zip(kernels, masks, strict=True)
        return [prune_smallest([kernel], [mask], rate, "global", layer_floor)[0] for kernel, mask in pairs]
    magnitudes, places = [], []  # of the weights that may go
    for layer, (kernel, mask) in enumerate(zip(kernels, masks, strict=True)):
        sizes, left = np.abs(kernel).ravel(), np.flatnonzero(mask)
        left = left[np.argsort(sizes[left], kind="stable")]
        left = left[: max(len(left) - max(1, math.ceil(layer_floor * mask.size)), 0)]
        magnitudes.append(sizes[left])
        places += [(layer, place) for place in left]
    goal = round(rate * sum(int(mask.sum()) for mask in masks))
    pruned = [mask.copy() for mask in masks]
    for number in np.argsort(np.concatenate(magnitudes), kind="stable")[:goal]:
        layer, place = places[number]
        pruned[layer].flat[place] = False
    return pruned
