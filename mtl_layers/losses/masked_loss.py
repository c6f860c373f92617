"""A loss over a task's own sample space."""

from mtl_layers._keras import keras, ops, register
from mtl_layers.losses._sample_space import (
    check_columns,
    check_missing_value,
    fill_outside,
    sample_space,
    vector,
    wide,
)


@register
class MaskedLoss(keras.losses.Loss):
    """The mean of a loss over the rows that belong to the task, and not over the batch.

    ```
    L = sum_i w_i loss(y_i, p_i) / sum_i w_i         w_i = 0 where the label is missing
    ```

    Keras divides by the batch: a task with labels for 4 % of the rows is then trained 25 times too slowly. A batch
    without any row of the task gives 0 and zero gradients. Where a `tf.distribute` strategy splits a batch, every
    replica takes the mean over its own rows, as with all Keras losses.

    It is computed in float32 where predictions are narrower, as under mixed precision.

    Args:
        loss: Name of a Keras loss, or a `keras.losses.Loss`, with one number for each row; its own reduction is not
            used.
        missing_value: The label that stands for "no label": `float("nan")` or a number. Defaults to `None`, no label
            is missing.
        require_weights: Whether a call without `sample_weight` is an error: then a forgotten mask cannot pass
            unnoticed. Defaults to `False`.
        name: Defaults to `"masked_loss"`.
        **kwargs: `dtype` of `keras.losses.Loss`, on Keras 3 alone.

    Call arguments: labels `[batch]`, `[batch, 1]` or as the prediction; prediction `[batch, units]`; `sample_weight`
    `[batch]` or `[batch, 1]`, 0 for rows outside the sample space. Labels of one column go with several units where the
    loss is sparse or your own.

    Raises:
        ValueError: If `loss` is None or a `MaskedLoss`, or does not give one number for each row; if `missing_value` is
            no number, another `reduction` is asked for, labels or weights have another shape, or weights are required
            and missing.

    Example:
        >>> loss = mtl.losses.MaskedLoss("mse", missing_value=float("nan"))
        >>> float(loss(np.array([[1.0], [np.nan]]), np.array([[3.0], [5.0]])))
        4.0

    Source: Tang et al., RecSys 2020 (PLE), joint loss over task-specific sample spaces.
    """

    def __init__(self, loss, missing_value=None, require_weights=False, name="masked_loss", **kwargs):
        reduction = kwargs.pop("reduction", "auto")  # "auto" is how Keras 2 calls it
        if reduction not in ("auto", "sum_over_batch_size"):
            raise ValueError(
                '`reduction` must be "sum_over_batch_size", since the mean is over the rows of the task; '
                f"received: reduction={reduction!r}"
            )
        super().__init__(name=name, **kwargs)
        self.loss = keras.losses.get(loss)
        if self.loss is None or isinstance(self.loss, MaskedLoss):
            raise ValueError(f"`loss` must be a Keras loss or its name, and no MaskedLoss; received: loss={loss!r}")
        self._name_of_loss = loss if isinstance(loss, str) else None
        self._has_dtype = "dtype" in kwargs
        self.missing_value = check_missing_value(missing_value)
        self.require_weights = require_weights

    def __call__(self, y_true, y_pred, sample_weight=None):
        y_true, weights = sample_space(
            y_true, y_pred, sample_weight, self.missing_value, self.require_weights, self.name
        )
        y_pred = fill_outside(ops.convert_to_tensor(y_pred), weights)
        total = ops.sum(weights)
        scale = ops.cast(ops.shape(weights)[0], weights.dtype) / ops.where(total > 0, total, ops.ones_like(total))
        # Keras divides by the batch, and by the number of replicas where a strategy splits it: it must be asked.
        loss = super().__call__(y_true, y_pred, weights * scale)
        return ops.where(ops.any(ops.not_equal(weights, 0)), loss, ops.zeros_like(loss))

    def call(self, y_true, y_pred):
        """The loss of each row, `[batch]`."""
        y_pred = ops.cast(y_pred, wide(y_pred))
        kind = type(self.loss) if isinstance(self.loss, keras.losses.Loss) else self.loss
        check_columns(y_true, y_pred, kind, keras.losses, self.name, "loss")
        loss = self.loss.call if isinstance(self.loss, keras.losses.Loss) else self.loss  # unreduced
        return vector(loss(y_true, y_pred), y_pred.dtype, y_pred.shape[0], f"what the `loss` of {self.name} gives")

    def get_config(self):
        config = {
            "name": self.name,
            "loss": self._name_of_loss or keras.losses.serialize(self.loss),
            "missing_value": self.missing_value,
            "require_weights": self.require_weights,
        }
        return config | ({"dtype": self.dtype} if self._has_dtype else {})

    @classmethod
    def from_config(cls, config):
        loss = config["loss"]
        return cls(**{**config, "loss": loss if isinstance(loss, str) else keras.losses.deserialize(loss)})
