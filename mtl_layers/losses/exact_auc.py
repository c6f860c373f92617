"""The exact area under the ROC curve of one batch, in the graph."""

from mtl_layers._keras import BACKEND, ops
from mtl_layers._rows import gather_rows
from mtl_layers.losses._sample_space import vector


def exact_auc(y_true, y_pred, sample_weight=None):
    """The probability that a positive row scores above a negative one; ties count half.

    ```
    AUC = sum_s P_s (N_<s + N_s / 2) / (P N)
    ```

    over the scores s that occur, with P_s and N_s the weights of the positive and the negative rows that score s, N_<s
    that of the negative rows that score less, and P and N those of all. Exact by sorting, where `keras.metrics.AUC`
    interpolates between thresholds. Scores are compared in float32: those that differ beyond it are ties. Weights are
    summed in float64, except on JAX without `jax_enable_x64`: there in float32, whose rounding shows in the sixth digit
    where the rows weigh more than 2**24 together.

    Args:
        y_true: Labels 0 and 1, `[batch]` or `[batch, 1]`; anything where the weight is 0.
        y_pred: Scores, `[batch]` or `[batch, 1]`.
        sample_weight: Weights of rows, `[batch]` or `[batch, 1]`. Defaults to `None`, 1 each.

    Returns:
        A float32 scalar; NaN where one class is missing, since the AUC is then undefined, or where a row of positive
        weight has a NaN score, or a label other than 0 and 1, such as one that stands for "no label".

    Raises:
        ValueError: If labels, scores or weights have another shape, or not the same number of rows.

    Example:
        >>> float(mtl.losses.exact_auc(np.array([0, 1, 1, 0]), np.array([0.1, 0.4, 0.35, 0.35])))
        0.875

    Source: Fawcett, "An introduction to ROC analysis", 2006.
    """
    wide = _wide()
    labels = vector(y_true, wide, None, "`y_true`")
    rows = labels.shape[0]
    scores = vector(y_pred, "float32", rows, "`y_pred`")
    weights = ops.ones_like(labels) if sample_weight is None else vector(sample_weight, wide, rows, "`sample_weight`")
    labels = ops.where(ops.equal(weights, 0), ops.zeros_like(labels), labels)
    unknown = ops.isnan(scores)
    strange = ops.not_equal(labels * (1.0 - labels), 0)  # neither 0 nor 1; NaN, too
    is_broken = ops.any(ops.logical_or(strange, ops.logical_and(unknown, weights > 0)))
    scores = ops.where(unknown, ops.zeros_like(scores), scores)  # those of weight 0, which sorting would trip over
    order = ops.argsort(scores)
    scores = gather_rows(scores, order)
    of_class = gather_rows(ops.stack([weights * labels, weights * (1.0 - labels)], axis=1), order)
    # Rows that score the same have one number; the first row has 0, or 1 if it differs from the last one.
    tie = ops.cumsum(ops.cast(ops.not_equal(scores, ops.roll(scores, 1)), "int32"))
    of_class = ops.segment_sum(of_class, tie, num_segments=ops.shape(scores)[0] + 1)
    positive, negative = of_class[:, 0], of_class[:, 1]
    pairs = ops.sum(positive) * ops.sum(negative)
    is_defined = ops.logical_and(pairs > 0, ops.logical_not(is_broken))
    auc = ops.sum(positive * (ops.cumsum(negative) - negative / 2.0))
    auc = auc / ops.where(is_defined, pairs, ops.ones_like(pairs))
    return ops.cast(ops.where(is_defined, auc, ops.full_like(auc, float("nan"))), "float32")


def _wide():
    """The type to sum in: a running sum in float32 stands still at 2**24, to which adding 1 changes nothing."""
    if BACKEND != "jax":
        return "float64"
    import jax

    return "float64" if jax.config.jax_enable_x64 else "float32"
