"""Loss weights after the speed at which losses fall."""

from mtl_layers._checks import check_number, check_positive
from mtl_layers._keras import INTEGER, ops, register
from mtl_layers.balancing._balancing import Balancing, now


@register
class DynamicWeightAverage(Balancing):
    """Gives more weight to tasks whose loss falls slowly (DWA).

    ```
    L = sum_k w_k(t) L_k        w(t) = T softmax(r(t) / temperature)        r_k(t) = L_k(t-1) / L_k(t-2)
    ```

    L_k(t) is the mean loss of task k over window t of `steps` training steps; T the number of tasks. In the first two
    windows all weights are 1. Batches without a row of a task (its loss is 0) do not count in the task's mean, and a
    window without any gives the mean of the window before.

    Args:
        tasks: Names of the tasks.
        steps: Training steps of a window: the steps of an epoch, in the paper.
        temperature: The higher, the more equal the weights; above 0. Defaults to `2.0`.

    Call arguments: `losses`, dict from task name to a scalar; `training`. Returns the scalar to train on.

    Raises:
        ValueError: If names repeat, or a number is out of range.

    Example:
        >>> average = mtl.balancing.DynamicWeightAverage(["click", "watch_time"], steps=1, temperature=1.0)
        >>> for loss in (4.0, 2.0):
        ...     _ = average({"click": ops.ones(()), "watch_time": ops.full((), loss)}, training=True)
        >>> [round(float(weight), 3) for weight in average.task_weights()]           # 2 softmax([1, 1/2])
        [1.245, 0.755]
        >>> balanced = mtl.balancing.BalancedModel(model.input, model.output, average)

    Source: Liu et al., "End-to-End Multi-Task Learning with Attention", CVPR 2019.
    """

    def __init__(self, tasks, steps, temperature=2.0, **kwargs):
        super().__init__(tasks, **kwargs)
        self.steps = check_positive("steps", steps)
        if check_number("temperature", temperature) == 0:
            raise ValueError(f"`temperature` must be above 0; received: temperature={temperature!r}")
        self.temperature = float(temperature)

    def build(self, input_shape=None):
        self.task_weight = self.add_state("task_weight", 1.0)
        self.step = self.add_state("step", 0, INTEGER, shape=())
        self.loss_sum = self.add_state("loss_sum")  # of the window that runs
        self.loss_count = self.add_state("loss_count")
        self.last_loss = self.add_state("last_loss")  # means of the two windows before; 0 where there is none
        self.loss_before = self.add_state("loss_before")
        super().build(input_shape)

    def task_weights(self):
        return now(self.task_weight)

    def update(self, losses):
        state = (self.loss_sum, self.loss_count, self.last_loss, self.loss_before, self.task_weight)
        total, count, last, before, weights = (now(each) for each in state)
        step = now(self.step) + 1
        total = total + losses
        count = count + ops.cast(ops.not_equal(losses, 0.0), "float32")
        mean = ops.where(count > 0, total / ops.maximum(count, 1.0), last)
        window = (ops.zeros_like(total), ops.zeros_like(count), mean, last, self._weights(mean, last))
        ends = ops.equal(ops.mod(step, self.steps), 0)
        for variable, new, old in zip(state, window, (total, count, last, before, weights), strict=True):
            variable.assign(ops.where(ends, new, old))
        self.step.assign(step)

    def _weights(self, last, before):
        known = ops.not_equal(before, 0.0)
        ratio = ops.where(known, last / ops.where(known, before, ops.ones_like(before)), ops.ones_like(before))
        return len(self.tasks) * ops.softmax(ratio / self.temperature)

    def get_config(self):
        return {**super().get_config(), "steps": self.steps, "temperature": self.temperature}
