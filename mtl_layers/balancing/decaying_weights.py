"""Loss weights that decay, as PLE is trained."""

from mtl_layers._checks import check_number, check_positive
from mtl_layers._keras import INTEGER, ops, register
from mtl_layers.balancing._balancing import Balancing, now


@register
class DecayingWeights(Balancing):
    """Loss weights that decay exponentially, each task's at its own rate.

    ```
    L = sum_k w_k(t) L_k        w_k(t) = w_k(0) gamma_k^t        t = floor(training steps so far / steps)
    ```

    Args:
        weights: Dict from task name to w_k(0), each at least 0.
        decay: gamma, a number of at least 0 for all tasks or a dict from task name to numbers. Above 1 a weight grows.
            Defaults to `1.0`, constant weights.
        steps: Training steps after which t grows by 1; the steps of an epoch, for decay by epochs. Defaults to `1`.

    Call arguments: `losses`, dict from task name to a scalar; `training`. Returns the scalar to train on.

    Raises:
        ValueError: If a number is out of range, or `decay` has other tasks than `weights`.

    Example:
        >>> decay = {"click": 1.0, "watch_time": 0.5}
        >>> decaying = mtl.balancing.DecayingWeights({"click": 1.0, "watch_time": 2.0}, decay)
        >>> losses = {"click": ops.ones(()), "watch_time": ops.ones(())}
        >>> [float(decaying(losses, training=True)) for _ in range(3)]
        [3.0, 2.0, 1.5]
        >>> balanced = mtl.balancing.BalancedModel(model.input, model.output, decaying)

    Source: Tang et al., "Progressive Layered Extraction", RecSys 2020, section 4.3.
    """

    def __init__(self, weights, decay=1.0, steps=1, **kwargs):
        if not isinstance(weights, dict):
            raise ValueError(f"`weights` must be a dict from task names to numbers; received: weights={weights!r}")
        super().__init__(weights, **kwargs)
        decay = decay if isinstance(decay, dict) else dict.fromkeys(self.tasks, decay)
        if set(decay) != set(self.tasks):
            raise ValueError(f"`decay` must have exactly the tasks {list(self.tasks)}; received: decay={decay!r}")
        self.weights_at_start = tuple(check_number("weights", weights[task]) for task in self.tasks)
        self.decay = tuple(check_number("decay", decay[task]) for task in self.tasks)
        self.steps = check_positive("steps", steps)

    def build(self, input_shape=None):
        self.step = self.add_state("step", 0, INTEGER, shape=())
        super().build(input_shape)

    def task_weights(self):
        t = ops.cast(ops.floor_divide(now(self.step), self.steps), "float32")
        return ops.convert_to_tensor(self.weights_at_start, "float32") * ops.power(
            ops.convert_to_tensor(self.decay, "float32"), t
        )

    def update(self, losses):
        self.step.assign(now(self.step) + 1)

    def get_config(self):
        config = super().get_config()
        tasks = config.pop("tasks")
        return {
            **config,
            "weights": list(zip(tasks, self.weights_at_start, strict=True)),  # a store may sort the keys of a dict
            "decay": list(zip(tasks, self.decay, strict=True)),
            "steps": self.steps,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "weights": dict(config["weights"]), "decay": dict(config["decay"])})
