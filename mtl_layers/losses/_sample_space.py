"""Which rows belong to a task's sample space, and with what weight. Losses and metrics both ask here."""

import math
from numbers import Real

from mtl_layers._keras import ops
from mtl_layers._rows import gather_rows


def sample_space(y_true, y_pred, sample_weight, missing_value, require_weights, name):
    """Returns labels that are safe to compute with, and the weight of each row, `[batch]`, 0 outside the space."""
    y_true, weights = weighed(y_true, y_pred, sample_weight, missing_value, require_weights, name)
    if "int" not in str(y_true.dtype):  # numbers of classes stay integers
        y_true = ops.cast(y_true, weights.dtype)
    return fill_outside(y_true, weights), weights


def weighed(y_true, y_pred, sample_weight, missing_value, require_weights, name):
    """Returns the labels as they are, `[batch, units]`, and the weight of each row, `[batch]`, 0 outside the space."""
    y_pred = ops.convert_to_tensor(y_pred)
    y_true = ops.convert_to_tensor(y_true)
    if len(y_pred.shape) != 2:
        raise ValueError(f"predictions of {name} must be [batch, units]; received: shape={tuple(y_pred.shape)}")
    if len(y_true.shape) == len(y_pred.shape) - 1:
        y_true = ops.expand_dims(y_true, -1)  # [batch, 1]
    legal = len(y_true.shape) == 2 and y_true.shape[-1] in (1, None, y_pred.shape[-1])  # None: only running will tell
    if not legal or differ(y_true.shape[0], y_pred.shape[0]):
        raise ValueError(
            f"labels of {name} must be [batch], [batch, 1] or shaped like the prediction "
            f"{tuple(y_pred.shape)}; received: shape={tuple(y_true.shape)}"
        )
    weights = ops.ones_like(y_pred[:, 0], dtype=wide(y_pred))
    if missing_value is not None:
        if math.isnan(missing_value):
            missing = ops.isnan(ops.cast(y_true, "float32"))
        else:
            missing = ops.equal(ops.cast(y_true, "float32"), missing_value)  # -1 is not to be cast to a boolean label
        weights = weights * ops.cast(ops.logical_not(ops.any(missing, axis=-1)), weights.dtype)
    if sample_weight is not None:
        weights = weights * vector(sample_weight, weights.dtype, y_pred.shape[0], f"sample_weight of {name}")
    elif require_weights:
        raise ValueError(
            f"sample_weight of {name} must be given, since `require_weights=True`; received: None. Pass "
            "sample_weight={task: mask} with an entry for every task"
        )
    return y_true, weights


def fill_outside(values, weights):
    """Gives every row of weight 0 the values of some row inside, or zeros where there is none.

    What is outside must not reach the loss at all, since 0 * NaN is NaN, in the loss and in its gradient; and a number
    that is made up, such as 0, need not be legal for the loss, while a row inside must be.
    """
    inside = ops.not_equal(weights, 0)
    # The row of zeros in front is found where no row is inside, even in a batch without rows.
    found = ops.argmax(ops.pad(ops.cast(inside, "float32"), ((1, 0),), constant_values=0.5))
    row = gather_rows(ops.pad(values, ((1, 0), (0, 0))), found)
    return ops.where(ops.expand_dims(inside, -1), values, ops.stop_gradient(row))


def wide(y_pred):
    """The type to compute in: weights of rows soon add up to more than 65504, which float16 calls infinite."""
    return "float64" if y_pred.dtype == "float64" else "float32"


def vector(values, dtype, rows, what):
    """Returns one number for each row, `[batch]`."""
    values = ops.cast(values, dtype)
    received = tuple(values.shape)
    if not received or received[1:] not in ((), (1,), (None,)) or differ(received[0], rows):
        raise ValueError(f"{what} must be [batch] or [batch, 1]; received: shape={received}")
    return ops.reshape(values, (-1,))


def check_columns(y_true, y_pred, kind, namespace, name, argument):
    """Refuses labels of one column where a loss or metric of Keras compares columns: some broadcast it over all."""
    own = getattr(kind, "__name__", "")
    compares = kind is getattr(namespace, own, None) and not any(word in own.lower() for word in ("sparse", "iou"))
    if compares and differ(y_true.shape[-1], y_pred.shape[-1]):
        raise ValueError(
            f"labels of {name} must be shaped like the prediction {tuple(y_pred.shape)}, since its `{argument}` is "
            f"not sparse; received: shape={tuple(y_true.shape)}"
        )


def differ(size, other):
    """Whether two sizes are known and not the same: 1 row against many would be broadcast without a word."""
    return None not in (size, other) and size != other


def check_missing_value(value):
    """Returns the label that stands for "no label" as a float, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
        raise ValueError(f"`missing_value` must be a number or None; received: missing_value={value!r}")
    return None if value is None else float(value)
