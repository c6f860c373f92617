"""The AUC within groups of rows, such as those shown to one user."""

import numpy as np

from mtl_layers._checks import not_binary


def gauc(labels, scores, groups, sample_weight=None):
    """The mean of the groups' AUCs, weighted by their rows (grouped AUC); ties count half.

    ```
    GAUC = sum_g n_g AUC_g / sum_g n_g        over the groups that have both classes; n_g: rows (impressions) of group g
    ```

    Unlike the AUC it says how well the rows of each group are ranked among themselves: a score that depends on the
    group alone has a GAUC of 0.5.

    Args:
        labels: Labels 0 and 1, one per row.
        scores: Scores, one per row.
        groups: Group of each row, numbers or strings.
        sample_weight: Weight of each row, in a group's AUC and in n_g; a row of weight 0 does not exist. Defaults to
            `None`, 1 each.

    Returns:
        A number; NaN if no group has both classes.

    Raises:
        ValueError: If the arguments have different numbers of rows, a label is not 0 or 1, or a score or a weight is no
            finite number or a weight is negative.

    Example:
        >>> mtl.analysis.gauc([0, 1, 1, 0, 1], [0.1, 0.2, 0.9, 0.9, 0.3], ["ann", "ann", "bob", "bob", "eve"])
        0.75

    Source: Zhu et al., "Optimized Cost per Click in Taobao Display Advertising", KDD 2017.
    """
    labels, scores = np.ravel(np.asarray(labels)), np.ravel(np.asarray(scores)).astype("float64")
    groups = np.ravel(np.asarray(groups))
    weights = np.ones(len(labels)) if sample_weight is None else np.ravel(np.asarray(sample_weight)).astype("float64")
    rows = {"labels": len(labels), "scores": len(scores), "groups": len(groups), "sample_weight": len(weights)}
    if len(set(rows.values())) != 1:
        raise ValueError(f"`groups` must have one entry for each row of `labels` and `scores`; received: {rows} rows")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("`sample_weight` must be finite and at least 0; received: other values")
    inside = weights > 0
    labels, scores, groups, weights = labels[inside], scores[inside], groups[inside], weights[inside]
    if len(odd := not_binary(labels)):
        raise ValueError(f"`labels` must be 0 or 1 where the weight is not 0; received: {odd[0]}")
    if not np.isfinite(scores).all():
        raise ValueError("`scores` must be finite; received: NaN or infinity")
    if not len(labels):
        return float("nan")

    groups = np.unique(groups, return_inverse=True)[1].ravel()
    order = np.lexsort((scores, groups))
    groups, scores, positive = groups[order], scores[order], (weights * (labels == 1))[order]
    negative = weights[order] - positive
    # Rows of one group and one score are a tie; each is compared with the negative rows of its group below it.
    of_group = np.flatnonzero(np.diff(groups, prepend=-1))
    of_tie = np.flatnonzero((np.diff(groups, prepend=-1) != 0) | (np.diff(scores, prepend=np.nan) != 0))
    tied_positive, tied_negative = np.add.reduceat(positive, of_tie), np.add.reduceat(negative, of_tie)
    group_of_tie = groups[of_tie]
    sums = np.add.reduceat(np.stack([positive, negative]), of_group, axis=1)  # [2, groups]
    before = np.cumsum(tied_negative) - tied_negative - (np.cumsum(sums[1]) - sums[1])[group_of_tie]
    wins = np.bincount(group_of_tie, tied_positive * (before + tied_negative / 2))
    pairs, size = sums.prod(axis=0), sums.sum(axis=0)
    both = pairs > 0
    return float((size[both] * wins[both] / pairs[both]).sum() / size[both].sum()) if both.any() else float("nan")
