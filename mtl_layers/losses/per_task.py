"""What `compile` needs for several tasks, with the rule for missing labels in one place."""

import math

import numpy as np

from mtl_layers._keras import keras
from mtl_layers.losses._sample_space import check_missing_value
from mtl_layers.losses.masked_loss import MaskedLoss
from mtl_layers.losses.masked_metric import MaskedMetric


def per_task(losses, metrics=None, *, missing_value=None, require_weights=False):
    """The `loss` and `weighted_metrics` arguments of `compile`, each task over its own sample space.

    A row is outside a task's sample space if its label is `missing_value`, or if its sample weight for the task is 0.
    The rule is given once and holds for losses and metrics alike.

    Args:
        losses: Dict from task name to a Keras loss or its name; `None` for a task that is trained through others, such
            as a conditional probability of `mtl.ESMM`.
        metrics: Dict from task name to a Keras metric, its name, or a list of them. Defaults to `None`, no metrics.
            `"AUC"` by its name has thresholds for rare tasks, too: see `MaskedMetric`.
        missing_value: The label that stands for "no label": `float("nan")` or a number. Defaults to `None`.
        require_weights: Whether every task must come with a sample weight (its mask). Defaults to `False`.

    Labels and sample weights of `fit` and `evaluate` must be dicts from task name: Keras 3 hands a list out in the
    order of sorted names, whatever the order of the tasks.

    Logs have metrics as `click_auc` and `val_click_auc`, or as `auc` where there is one task. tf_keras has the name of
    the layer instead of the task's, `towers_auc`, `towers_1_auc`, in the order of sorted names; there set
    `model.output_names = sorted(model.output)` before `compile`, as `mtl.balancing.BalancedModel` does.

    Returns:
        Dict with `loss` and `weighted_metrics`, to be spread into `compile`.

    Raises:
        ValueError: If `losses` or `metrics` is no dict, `metrics` names a task that `losses` does not, or one metric
            object is given twice; or as `MaskedLoss` and `MaskedMetric`.

    Example:
        >>> model.compile("adam", **mtl.losses.per_task(
        ...     {"click": "binary_crossentropy", "watch_time": keras.losses.Huber()},
        ...     metrics={"click": ["AUC"]}, missing_value=float("nan")))
    """
    rule = {"missing_value": missing_value, "require_weights": require_weights}
    metrics = {} if metrics is None else metrics
    for argument, given in (("losses", losses), ("metrics", metrics)):
        if not isinstance(given, dict):
            raise ValueError(f"`{argument}` must be a dict from task name; received: {argument}={given!r}")
    unknown = sorted(set(metrics) - set(losses))
    if unknown:
        raise ValueError(f"`metrics` must name tasks among {list(losses)}; received: {unknown}")
    metrics = {task: each if isinstance(each, list | tuple) else [each] for task, each in metrics.items()}
    seen = set()
    for metric in (metric for each in metrics.values() for metric in each if isinstance(metric, keras.metrics.Metric)):
        if id(metric) in seen:
            raise ValueError(
                "`metrics` must have an object of its own for each task, since it counts the rows of all updates; "
                f"received: {metric.name!r} twice. Give its name, or make one object for each task"
            )
        seen.add(id(metric))
    return {
        "loss": {
            task: MaskedLoss(loss, name=f"{task}_loss", **rule) for task, loss in losses.items() if loss is not None
        },
        "weighted_metrics": {
            task: [MaskedMetric(metric, **rule) for metric in metrics.get(task, ())] for task in losses
        },
    }


def check_labels(tasks, labels, sample_weight=None, missing_value=None):
    """Checks labels (and masks) of a whole data set before training; Keras itself overlooks some of this.

    Args:
        tasks: Names of the tasks, such as `towers.task_names`.
        labels: Dict from task name to an array `[rows]` or `[rows, units]`.
        sample_weight: Dict from task name to an array `[rows]` or `[rows, 1]`. Defaults to `None`.
        missing_value: As in `per_task`. Defaults to `None`.

    Returns:
        Dict from task name to the number of rows in its sample space.

    Raises:
        ValueError: If labels or weights are no dict, a task has no labels or no mask, a name is unknown, row counts
            differ, a label is not finite, a weight is negative or not finite, a task's mask is zero everywhere, or
            `missing_value` is no number.

    Example:
        >>> mtl.losses.check_labels(["click"], {"click": np.array([1.0, np.nan])}, missing_value=float("nan"))
        {'click': 1}
    """
    missing_value = check_missing_value(missing_value)
    _check_names("labels", labels, tasks)
    if sample_weight is not None:
        _check_names("sample_weight", sample_weight, tasks)
    rows = {task: len(labels[task]) for task in tasks}
    if len(set(rows.values())) != 1:
        raise ValueError(f"`labels` must have one number of rows; received: {rows}")
    sizes = {}
    for task in tasks:  # in float32, as the loss does
        values = np.asarray(labels[task], "float32").reshape(rows[task], -1)
        inside = np.ones(rows[task], bool)
        if missing_value is not None:
            missing = np.isnan(values) if math.isnan(missing_value) else values == np.float32(missing_value)
            inside &= ~missing.any(axis=1)
        if sample_weight is not None:
            weights = np.asarray(sample_weight[task], "float32")
            if weights.shape not in ((rows[task],), (rows[task], 1)):
                raise ValueError(
                    f"`sample_weight` of task {task!r} must be [{rows[task]}] or [{rows[task]}, 1]; "
                    f"received: shape={weights.shape}"
                )
            weights = weights.reshape(-1)
            bad = np.flatnonzero(~np.isfinite(weights) | (weights < 0))
            if bad.size:
                raise ValueError(
                    f"`sample_weight` of task {task!r} must be finite and not negative; "
                    f"received: {weights[bad[0]]} in row {bad[0]}"
                )
            inside &= weights != 0
        bad = np.flatnonzero(inside & ~np.isfinite(values).all(axis=1))
        if bad.size:
            raise ValueError(
                f"`labels` of task {task!r} must be finite; received: {values[bad[0]].tolist()} in row {bad[0]}. "
                'If it stands for "no label", say so with missing_value'
            )
        sizes[task] = int(inside.sum())
        if not sizes[task]:
            raise ValueError(
                f"the mask of task {task!r} must leave at least one row; received: 0 of {rows[task]} rows in its "
                "sample space"
            )
    return sizes


def _check_names(argument, given, tasks):
    if not isinstance(given, dict):
        raise ValueError(
            f"`{argument}` must be a dict from task name to an array of all rows; received: {type(given).__name__}"
        )
    unknown, absent = sorted(set(given) - set(tasks)), [task for task in tasks if task not in given]
    if unknown or absent:
        raise ValueError(
            f"`{argument}` must have exactly the tasks {list(tasks)}; received: unknown {unknown}, missing {absent}"
        )
