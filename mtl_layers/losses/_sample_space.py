"""Which rows belong to a task's sample space, and with what weight. Losses and metrics both ask here."""

import math

from mtl_layers._keras import ops


def sample_space(y_true, y_pred, sample_weight, missing_value, require_weights, name):
    """Returns labels that are safe to compute with, and the weight of each row, `[batch]`, 0 outside the space."""
    y_pred = ops.convert_to_tensor(y_pred)
    y_true = ops.convert_to_tensor(y_true)
    if len(y_pred.shape) != 2:
        raise ValueError(f"predictions of {name} must be [batch, units]; received: shape={tuple(y_pred.shape)}")
    if len(y_true.shape) == len(y_pred.shape) - 1:
        y_true = ops.expand_dims(y_true, -1)  # [batch, 1]
    width = y_true.shape[-1] if len(y_true.shape) == 2 else None
    if width not in (1, y_pred.shape[-1]) or _differ(y_true.shape[0], y_pred.shape[0]):
        raise ValueError(
            f"labels of {name} must be [batch], [batch, 1] or shaped like the prediction "
            f"{tuple(y_pred.shape)}; received: shape={tuple(y_true.shape)}"
        )
    weights = ops.ones_like(y_pred[:, 0])
    if missing_value is not None:
        if math.isnan(missing_value):
            missing = ops.isnan(ops.cast(y_true, "float32"))
        else:
            missing = ops.equal(ops.cast(y_true, "float32"), missing_value)  # -1 is not to be cast to a boolean label
        weights = weights * ops.cast(ops.logical_not(ops.any(missing, axis=-1)), weights.dtype)
    if sample_weight is not None:
        weights = weights * _vector(sample_weight, weights, name)
    elif require_weights:
        raise ValueError(
            f"sample_weight of {name} must be given, since `require_weights=True`; received: None. Pass "
            "sample_weight={task: mask} with an entry for every task"
        )
    # A label outside the space must not reach the loss at all: 0 * NaN is NaN, in the loss and in its gradient.
    y_true = ops.where(ops.expand_dims(weights, -1) == 0, ops.zeros_like(y_true), y_true)
    return y_true, weights


def _vector(sample_weight, weights, name):
    sample_weight = ops.cast(sample_weight, weights.dtype)
    received = tuple(sample_weight.shape)
    if len(received) == 2 and received[-1] == 1:
        sample_weight = sample_weight[:, 0]
    if len(sample_weight.shape) != 1 or _differ(received[0], weights.shape[0]):
        raise ValueError(f"sample_weight of {name} must be [batch] or [batch, 1]; received: shape={received}")
    return sample_weight


def _differ(size, other):
    """Whether two sizes are known and not the same: 1 row against many would be broadcast without a word."""
    return None not in (size, other) and size != other
