"""Which experts the gates use, over a data set."""

from dataclasses import dataclass

import numpy as np

from mtl_layers._keras import ops
from mtl_layers.analysis._sharing_inputs import sharing_inputs


@dataclass(frozen=True)
class GateUtilisation:
    """Mean and standard deviation of every gate weight of one level, each `[gates, experts]`.

    `read` is False where a gate does not read an expert. The gates of the last level are those of the tasks, in order;
    of a layer that gives all tasks the same, such as `OMoE`, it is one gate.
    `entropy` `[gates]` is the mean over rows of the entropy, in nats, of a gate's weights as shares of their sum, which
    is 1 but for `AdaTT`: 0 where it takes a single expert for each row, though it may be another one every time.
    """

    mean: np.ndarray
    std: np.ndarray
    read: np.ndarray
    entropy: np.ndarray | None = None

    @property
    def effective_experts(self):
        """How many experts each gate uses over all rows, `[gates]`: exp of the entropy of its mean weights."""
        return np.exp(_entropy(self.mean))


def gate_utilisation(model, data):
    """Mean and standard deviation of each gate weight over a data set, and the entropy of each gate.

    Args:
        model: A functional model whose outputs are those of `mtl.Towers` on a sharing layer with gates.
        data: A `tf.data.Dataset` or a list of batches of features (or of tuples that begin with them), or one batch.

    Returns:
        One `GateUtilisation` per level, from the input to the towers.

    Raises:
        ValueError: If the model cannot be traced, its sharing layer has no gates, or there are no rows.

    Example:
        >>> levels = mtl.analysis.gate_utilisation(model, rows)
        >>> levels[-1].mean.shape                   # [tasks, experts]; rows sum to 1, but for AdaTT
        (2, 4)
        >>> bool((levels[-1].effective_experts <= 4).all())
        True

    Source: Tang et al., RecSys 2020, expert utilisation analysis.
    """
    sharing, batches = sharing_inputs(model, data, "gate_weights", "gates")
    rows, sums = 0, None
    for inputs in batches:
        weights = [np.asarray(ops.convert_to_numpy(level), "float64") for level in sharing.gate_weights(inputs)]
        rows += len(weights[0])
        found = [[values.sum(axis=0) for values in (level, level**2, _entropy(level))] for level in weights]
        if sums is None:
            sums = [[0.0, 0.0, 0.0] for _ in found]
        sums = [[a + b for a, b in zip(*both, strict=True)] for both in zip(sums, found, strict=True)]
    levels = []
    for (total, square, entropy), reads in zip(sums, sharing.gate_reads(), strict=True):
        mean, std = total / rows, np.sqrt(np.maximum(square / rows - (total / rows) ** 2, 0.0))
        levels.append(GateUtilisation(mean, std, reads, entropy / rows))
    return levels


def _entropy(weights):
    """Of the last axis as shares of its sum, in nats."""
    sizes = np.abs(weights)  # AdaTT's learned ones may be negative
    total = sizes.sum(axis=-1, keepdims=True)
    shares = sizes / np.where(total > 0, total, 1.0)
    return -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=-1)


def plot_gate_utilisation(utilisation, gate_names, axes, title=None, expert_names=None):
    """Draws the bars of one level: a group per gate, a bar per expert it reads, the standard deviation as a whisker.

    Args:
        utilisation: A `GateUtilisation`.
        gate_names: A name for each gate; for the last level the names of the tasks, where each has a gate.
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
    axes.set_ylim(min(0.0, utilisation.mean.min()), max(1.0, (utilisation.mean + utilisation.std).max()))
    axes.set_ylabel("gate weight, mean ± sd")
    axes.set_title(title or "")
    axes.legend(fontsize="small", ncols=2)
