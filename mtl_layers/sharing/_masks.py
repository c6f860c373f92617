"""Masks of sparse sharing as NumPy arrays: one boolean `[tasks, in, units]` for each layer of the base network."""

import numpy as np

from mtl_layers._checks import check_indexes, not_binary


def check_masks(masks, shapes):
    """Returns masks as booleans; `shapes` are those wanted. A task may leave out layers at the top, and no others."""
    masks = [np.asarray(mask) for mask in masks]
    if [mask.shape for mask in masks] != list(shapes):
        raise ValueError(
            f"`masks` must have one [tasks, in, units] for each layer: {list(shapes)}; "
            f"received: shapes {[mask.shape for mask in masks]}"
        )
    for depth, mask in enumerate(masks):
        if mask.dtype != bool and len(odd := not_binary(mask)):
            raise ValueError(f"`masks` must be 0 or 1; received: {odd[0]!r} in layer {depth}")
    masks = [mask.astype(bool) for mask in masks]
    used = np.stack([mask.any(axis=(1, 2)) for mask in masks], axis=1)  # [tasks, layers]
    for task, layers in enumerate(used):
        if not layers[0] or (layers[1:] & ~layers[:-1]).any():
            raise ValueError(
                "`masks` must leave each task a weight in the first layer and below every layer that it uses; "
                f"received: task {task} with {[int(mask[task].sum()) for mask in masks]} weights in the layers"
            )
    if not used.any(axis=0).all():
        raise ValueError(
            "`masks` must give each layer to some task; "
            f"received: no weight at all in layer {int(np.argmin(used.any(axis=0)))}"
        )
    widths = [shape[2] for shape in shapes]
    for task, depth in enumerate(used.sum(axis=1)):
        if set(widths[depth:]) - {widths[depth - 1]}:
            raise ValueError(
                "`masks` may end a task below layers of the width that it has there; "
                f"received: task {task} ends after {depth} layers, of widths {tuple(widths)}"
            )
    return masks


def kept_fractions(masks):
    """The fraction of all weights that each task uses, `[tasks]`."""
    return sum(mask.sum(axis=(1, 2)) for mask in masks) / sum(mask[0].size for mask in masks)


def overlap_ratio(masks, tasks=None):
    """Weights that all the given tasks use, divided by those that at least one of them uses."""
    tasks = list(check_indexes("tasks", tasks, len(masks[0])))
    common = sum(mask[tasks].all(axis=0).sum() for mask in masks)
    return float(common / sum(mask[tasks].any(axis=0).sum() for mask in masks))


def hierarchical_masks(shapes, depths):
    """Masks of 1 in the first `depths[k]` layers of task k, and of 0 above."""
    num_tasks = shapes[0][0]
    depths = tuple(depths)
    if len(depths) != num_tasks or any(depth not in range(1, len(shapes) + 1) for depth in depths):
        raise ValueError(
            f"`depths` must give each of the {num_tasks} tasks a number of layers from 1 to {len(shapes)}; "
            f"received: depths={depths!r}"
        )
    return [
        np.broadcast_to(np.array([layer < depth for depth in depths])[:, None, None], shape)
        for layer, shape in enumerate(shapes)
    ]
