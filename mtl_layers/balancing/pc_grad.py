"""Gradient surgery: conflicting gradients are projected."""

from mtl_layers._checks import check_positive
from mtl_layers._keras import INTEGER, register
from mtl_layers.balancing._balancing import Balancing, now


@register
class PCGrad(Balancing):
    """Takes off each task's gradient what conflicts with the other tasks' (projecting conflicting gradients).

    ```
    for every task i:   h_i = g_i
        for every other task j in random order:
            if h_i . g_j < 0:   h_i = h_i - (h_i . g_j) / |g_j|^2  g_j
    step along sum_i h_i
    ```

    g_i is the gradient of task i with respect to the shared weights: those below `Towers` that the losses of two tasks
    or more depend on, and so not the experts and gates that one task has for its own. All other weights move along
    their own gradients. The result is always a sum of the tasks' gradients with weights of at least 1, which is how it
    is computed, and these weights are in the logs.

    On the TensorFlow backends only (Keras 3 and tf_keras). A step has a backward pass for each task, and holds all
    their gradients. An embedding row that a batch looks up several times has one gradient, their sum; in a plain model
    Keras 3's Adam squares each look-up on its own, and moves such rows further.

    Args:
        tasks: Names of the tasks.
        seed: Seed of the order, which depends on it and on the number of training steps alone. Defaults to `0`.

    Raises:
        ValueError: If names repeat; or, by `BalancedModel`, on another backend.

    Example:
        >>> surgery = mtl.balancing.PCGrad(["click", "watch_time"])
        >>> # mtl.balancing.BalancedModel(model.input, model.output, surgery), compiled and fitted as always

    Source: Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020.
    """

    needs_task_gradients = True

    def __init__(self, tasks, seed=0, **kwargs):
        super().__init__(tasks, **kwargs)
        self.seed = check_positive("seed", seed, minimum=0, maximum=2**31 - 1)

    def build(self, input_shape=None):
        self.step = self.add_state("step", 0, INTEGER, shape=())
        super().build(input_shape)

    def orders(self, step):
        """For each task the order in which it meets all others, `[tasks, tasks]`; its own place is passed over."""
        import tensorflow as tf

        count = len(self.tasks)
        seed = tf.stack([self.seed, tf.cast(step, tf.int32)])
        return tf.argsort(tf.random.stateless_uniform((count, count), seed=seed))

    def combine(self, losses, gradients):
        """Returns a gradient for each variable and the weights of the tasks in those of shared variables."""
        import tensorflow as tf

        weights = self._weights(tf.add_n([each.products() for each in gradients if each.shared]))
        ones = tf.ones_like(weights)
        return [each.weighted_sum(weights, elsewhere=ones) for each in gradients], weights

    def _weights(self, products):
        """Everything stays in the span of the gradients: row i of `parts` is h_i as a sum of them."""
        import tensorflow as tf

        count = len(self.tasks)
        step = now(self.step)
        orders = self.orders(step)
        parts = tf.eye(count)
        for place in range(count):
            other = orders[:, place]
            dots = tf.reduce_sum(parts * tf.gather(products, other), axis=1)
            conflict = (dots < 0) & (other != tf.range(count))
            taken = tf.math.divide_no_nan(dots, tf.gather(tf.linalg.diag_part(products), other))
            parts -= tf.where(conflict, taken, 0.0)[:, None] * tf.one_hot(other, count)
        self.step.assign(step + 1)
        return tf.reduce_sum(parts, axis=0)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}
