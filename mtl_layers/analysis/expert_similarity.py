"""Which experts are dead, and which are one and the same."""

from dataclasses import dataclass

import numpy as np

from mtl_layers._keras import ops
from mtl_layers.analysis._sharing_inputs import sharing_inputs


@dataclass(frozen=True)
class ExpertSimilarity:
    """How alike the outputs of the experts of one level are.

    `similarity` `[experts, experts]` is 1 for experts whose outputs are the same up to a rotation and a scale, 0 for
    uncorrelated ones, and NaN for dead ones. `scale` `[experts]` is the standard deviation of an output over rows, the
    root of its mean square over units.
    """

    similarity: np.ndarray
    scale: np.ndarray

    @property
    def dead(self):
        """The numbers of the experts whose output is the same for every row."""
        return np.flatnonzero(self.scale == 0).tolist()

    @property
    def effective_experts(self):
        """How many different experts there are: exp of the entropy of the eigenvalues of `similarity`, without dead."""
        alive = self.scale > 0
        if not alive.any():
            return 0.0
        values = np.maximum(np.linalg.eigvalsh(self.similarity[np.ix_(alive, alive)]), 0.0)
        shares = values[values > 0] / values.sum()
        return float(np.exp(-(shares * np.log(shares)).sum()))

    def duplicates(self, threshold=0.99):
        """The pairs of experts with a similarity of at least `threshold`."""
        above = np.triu(self.similarity >= threshold, k=1)  # NaN is not
        return [tuple(pair) for pair in np.argwhere(above).tolist()]


def expert_similarity(model, data):
    """The correlation of the outputs of every two experts over a data set, level by level (linear CKA).

    ```
    similarity(i, j) = |C_ij|^2 / (|C_ii| |C_jj|)         C_ij = covariance of the outputs of i and j, [units, units]
    ```

    Units need not correspond: experts that have learned the same in another order of units are found, too.

    Args:
        model: A functional model whose outputs are those of `mtl.Towers` on a mixture of experts.
        data: A `tf.data.Dataset` or a list of batches of features (or of tuples that begin with them), or one batch.

    Returns:
        An `ExpertSimilarity` per level, from the input to the towers.

    Raises:
        ValueError: If the model cannot be traced, its sharing layer has no experts, or there are no rows.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(50, 6)).astype("float32")
        >>> (level,) = mtl.analysis.expert_similarity(model, rows)
        >>> level.similarity.shape, level.duplicates()
        ((4, 4), [])

    Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019.
    """
    sharing, batches = sharing_inputs(model, data, "expert_outputs", "experts")
    sums = None
    for inputs in batches:
        hidden = [np.asarray(ops.convert_to_numpy(level), "float64") for level in sharing.expert_outputs(inputs)]
        if sums is None:
            sums = [_Covariance(level[0]) for level in hidden]
        for level, outputs in zip(sums, hidden, strict=True):
            level.add(outputs)
    return [level.similarity() for level in sums]


class _Covariance:
    """Covariances of all units of all experts of a level, summed over batches about the first row."""

    def __init__(self, first):
        self.origin = first  # [experts, units]; near the outputs, so that little is lost to rounding
        self.rows, self.total, self.products = 0, 0.0, 0.0

    def add(self, outputs):
        flat = (outputs - self.origin).reshape(len(outputs), -1)  # [batch, experts * units]
        self.rows += len(flat)
        self.total = self.total + flat.sum(axis=0)
        self.products = self.products + flat.T @ flat

    def similarity(self):
        experts, units = self.origin.shape
        mean = self.total / self.rows
        covariance = (self.products / self.rows - np.outer(mean, mean)).reshape(experts, units, experts, units)
        squares = (covariance**2).sum(axis=(1, 3))  # [experts, experts]
        lengths = np.sqrt(np.diag(squares))
        scale = np.sqrt(np.maximum(np.einsum("iuiu->iu", covariance), 0.0).mean(axis=1))
        known = np.where(scale > 0, lengths, np.nan)
        return ExpertSimilarity(squares / np.outer(known, known), scale)
