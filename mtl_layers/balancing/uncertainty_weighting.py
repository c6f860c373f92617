"""Loss weights learned as the noise of each task."""

from mtl_layers._checks import names_of
from mtl_layers._keras import ops, register
from mtl_layers.balancing._balancing import Balancing


@register
class UncertaintyWeighting(Balancing):
    """Learns the variance of each task's noise, and weights its loss by the inverse.

    ```
    L = sum_k w_k L_k + s_k / 2        s_k = log(sigma_k^2), trained with the model
    w_k = exp(-s_k)                    of a classification
    w_k = exp(-s_k) / 2                of a regression, whose loss is the mean squared error
    ```

    Weights may go below 1 and above. At the minimum a regression's exp(s_k) is its mean squared error. The loss has
    log-variances in it and may be negative: to choose an epoch, look at the tasks' own losses. A batch without a row of
    a task (its loss is 0) has no gradient for the task's s_k, though the optimizer's momentum may move it a little.

    Args:
        tasks: Names of the tasks.
        regression: Names of those among them whose loss is a mean squared error. Defaults to `()`.

    Call arguments: `losses`, dict from task name to a scalar. Returns the scalar to train on.

    Raises:
        ValueError: If names repeat, or `regression` names a task that `tasks` does not.

    Example:
        >>> uncertainty = mtl.balancing.UncertaintyWeighting(["click", "watch_time"], regression=["watch_time"])
        >>> float(uncertainty({"click": ops.ones(()), "watch_time": ops.ones(())}))
        1.5
        >>> balanced = mtl.balancing.BalancedModel(model.input, model.output, uncertainty)

    Source: Kendall et al., "Multi-Task Learning Using Uncertainty to Weigh Losses", CVPR 2018.
    """

    def __init__(self, tasks, regression=(), **kwargs):
        super().__init__(tasks, **kwargs)
        self.regression = names_of("regression", regression)
        unknown = [task for task in self.regression if task not in self.tasks]
        if unknown:
            raise ValueError(f"`regression` must name tasks among {list(self.tasks)}; received: {unknown}")

    def build(self, input_shape=None):
        self.log_variances = self.add_weight(name="log_variances", shape=(len(self.tasks),), initializer="zeros")
        super().build(input_shape)

    def call(self, losses, training=None):
        losses = self.stack(losses)
        present = ops.cast(ops.not_equal(losses, 0.0), "float32")
        return ops.sum(self.task_weights() * losses + present * self.log_variances / 2.0)

    def task_weights(self):
        halves = [0.5 if task in self.regression else 1.0 for task in self.tasks]
        return ops.convert_to_tensor(halves, "float32") * ops.exp(-self.log_variances)

    def get_config(self):
        return {**super().get_config(), "regression": list(self.regression)}
