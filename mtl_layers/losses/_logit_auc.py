"""The AUC of tasks that are rare."""

from mtl_layers._keras import keras, ops, register

LARGEST_LOGIT = 12.0


@register
class LogitAUC(keras.metrics.AUC):
    """`keras.metrics.AUC` with thresholds that are equally spaced in the logit, from -12 to 12.

    Keras' own are equally spaced in the probability: of a task with a rate of .003 nearly all rows lie between two of
    200, and count as ties. Moving the predictions in place of the thresholds leaves Keras its fast way, by buckets.
    """

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_pred = ops.clip(y_pred, 0, 1)  # as Keras takes what is no probability
        logits = ops.log(y_pred) - ops.log1p(-y_pred)
        return super().update_state(y_true, ops.clip(logits / (2 * LARGEST_LOGIT) + 0.5, 0, 1), sample_weight)
