"""A metric over a task's own sample space."""

import re

from mtl_layers._keras import keras, ops, register
from mtl_layers.losses._logit_auc import LogitAUC
from mtl_layers.losses._sample_space import check_columns, check_missing_value, fill_outside, sample_space


@register
class MaskedMetric(keras.metrics.Metric):
    """Any Keras metric, over the rows that belong to the task: the same rows and weights as `MaskedLoss`.

    Args:
        metric: Name of a Keras metric, or a `keras.metrics.Metric`. `"AUC"` by its name has 1,000 thresholds that are
            equally spaced in the logit; those of `keras.metrics.AUC()` are equally spaced in the probability, where
            nearly all rows of a rare task lie between two of them. Exact is `exact_auc`, on all rows at once.
        missing_value: The label that stands for "no label": `float("nan")` or a number. Defaults to `None`.
        require_weights: Whether an update without `sample_weight` is an error. Defaults to `False`.
        name: Defaults to the metric's own name; of a metric given by its name without the number that Keras appends
            to the second of a kind, so that logs have `click_auc` and `buy_auc` (of which `per_task` says more),
            whichever was made first.

    Raises:
        ValueError: For labels, weights and `missing_value` as `MaskedLoss`; or if `metric` is unknown, or a name such
            as `"accuracy"` that stands for several.

    Example:
        >>> metric = mtl.losses.MaskedMetric(keras.metrics.MeanSquaredError(), missing_value=-1.0)
        >>> _ = metric.update_state(np.array([[1.0], [-1.0]]), np.array([[3.0], [5.0]]))
        >>> float(metric.result())
        4.0
    """

    def __init__(self, metric, missing_value=None, require_weights=False, name=None):
        named = metric if isinstance(metric, str) else None
        if named in ("accuracy", "acc", "crossentropy", "ce"):
            raise ValueError(
                "`metric` must say which one of its kind is meant, since only `compile` can guess it from shapes; "
                f'received: metric={metric!r}. Name "binary_accuracy" or "sparse_categorical_accuracy", for example'
            )
        metric = keras.metrics.get(metric)
        if not callable(metric):
            raise ValueError(f"`metric` must be a Keras metric or a name of one; received: metric={named or metric!r}")
        self._kind = type(metric) if isinstance(metric, keras.metrics.Metric) else metric
        if named and type(metric) is keras.metrics.AUC:
            metric = LogitAUC(num_thresholds=1000, name="auc")
        if not isinstance(metric, keras.metrics.Metric):  # a function, as Keras 2 gives for names of losses
            metric = keras.metrics.MeanMetricWrapper(metric, name=named or metric.__name__)
        super().__init__(name=name or (re.sub(r"_\d+$", "", metric.name) if named else metric.name))
        # `compile` of Keras 2 puts that of the output before it, once more in a loaded model.
        self._own_name = self.name
        self.metric = metric
        self.missing_value = check_missing_value(missing_value)
        self.require_weights = require_weights

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, weights = sample_space(
            y_true, y_pred, sample_weight, self.missing_value, self.require_weights, self.name
        )
        check_columns(y_true, y_pred, self._kind, keras.metrics, self.name, "metric")
        y_pred = fill_outside(ops.convert_to_tensor(y_pred), weights)
        return self.metric.update_state(y_true, ops.cast(y_pred, weights.dtype), sample_weight=weights)

    def result(self):
        return self.metric.result()

    def reset_state(self):
        self.metric.reset_state()

    def get_config(self):
        return {
            "name": self._own_name,
            "metric": keras.metrics.serialize(self.metric),
            "missing_value": self.missing_value,
            "require_weights": self.require_weights,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "metric": keras.metrics.deserialize(config["metric"])})
