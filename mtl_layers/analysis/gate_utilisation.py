"""Which experts the gates use, over a data set."""

from dataclasses import dataclass

import numpy as np

from mtl_layers._keras import keras, ops
from mtl_layers.freeze import trace


@dataclass(frozen=True)
class GateUtilisation:
    """Mean and standard deviation of every gate weight of one level, each `[gates, experts]`.

    `read` is False where a gate does not read an expert; the gates of the last level are those of the tasks, in order.
    """

    mean: np.ndarray
    std: np.ndarray
    read: np.ndarray


def gate_utilisation(model, data):
    """Mean and standard deviation of each gate weight over a data set, for a model with a mixture-of-experts layer.

    Args:
        model: A functional model whose outputs are those of `mtl.Towers` on a sharing layer with gates.
        data: A `tf.data.Dataset` of batches of features (or of tuples that begin with them), or one batch.

    Returns:
        One `GateUtilisation` per level, from the input to the towers.

    Raises:
        ValueError: If the model cannot be traced, its sharing layer has no gates, or there are no rows.

    Example:
        >>> levels = mtl.analysis.gate_utilisation(model, rows)
        >>> levels[-1].mean.shape                   # [tasks, experts]; rows sum to 1
        (2, 4)

    Source: Tang et al., RecSys 2020, expert utilisation analysis.
    """
    _, sharing = trace(model)
    if not hasattr(sharing, "gate_weights"):
        raise ValueError(f"`model` must have a sharing layer with gates; received: {type(sharing).__name__}")
    below = keras.Model(model.input, sharing.input)
    batches = [data] if isinstance(data, dict | np.ndarray) else data
    rows, totals, squares = 0, None, None
    for batch in batches:
        batch = batch[0] if isinstance(batch, tuple) else batch
        weights = [
            np.asarray(ops.convert_to_numpy(level), "float64")
            for level in sharing.gate_weights(below(batch, training=False))
        ]
        totals = [0.0] * len(weights) if totals is None else totals
        squares = [0.0] * len(weights) if squares is None else squares
        rows += len(weights[0])
        totals = [total + level.sum(axis=0) for total, level in zip(totals, weights, strict=True)]
        squares = [total + (level**2).sum(axis=0) for total, level in zip(squares, weights, strict=True)]
    if not rows:
        raise ValueError("`data` must have at least one row; received: none")
    levels = []
    for total, square, reads in zip(totals, squares, sharing.gate_reads(), strict=True):
        mean = total / rows
        levels.append(GateUtilisation(mean, np.sqrt(np.maximum(square / rows - mean**2, 0.0)), reads))
    return levels


def plot_gate_utilisation(utilisation, gate_names, axes, title=None, expert_names=None):
    """Draws the bars of one level: a group per gate, a bar per expert it reads, the standard deviation as a whisker.

    Args:
        utilisation: A `GateUtilisation`.
        gate_names: A name for each gate; for the last level the names of the tasks.
        axes: The matplotlib axes to draw on.
        title: Defaults to `None`.
        expert_names: A name for each expert. Defaults to `None`, their numbers.
    """
    gates, experts = utilisation.mean.shape
    width = 0.8 / experts
    for expert in range(experts):
        read = utilisation.read[:, expert]
        places = np.arange(gates)[read] + (expert - (experts - 1) / 2) * width
        axes.bar(
            places,
            utilisation.mean[read, expert],
            width * 0.9,
            yerr=utilisation.std[read, expert],
            capsize=2,
            label=f"expert {expert}" if expert_names is None else expert_names[expert],
            color=f"C{expert % 10}",
        )
    axes.set_xticks(range(gates), gate_names)
    axes.set_ylim(0, 1)
    axes.set_ylabel("gate weight, mean ± sd")
    axes.set_title(title or "")
    axes.legend(fontsize="small", ncols=2)
