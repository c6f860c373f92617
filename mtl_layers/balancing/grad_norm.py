"""Loss weights that bring the tasks' gradients to one scale."""

from mtl_layers._checks import check_number
from mtl_layers._keras import keras, register
from mtl_layers.balancing._balancing import Balancing, now

MINIMUM = 1e-3  # of a weight: below 0 it would train its task backwards


@register
class GradNorm(Balancing):
    """Learns loss weights so that all tasks train at similar rates.

    ```
    G_k    = |w_k grad L_k|                                      norm over the weights of one shared layer
    r_k    = (L_k / L_k(0)) / mean_j (L_j / L_j(0))              above 1: the task lags behind
    L_grad = sum_k |G_k - mean_j G_j r_k^alpha|                  the second part held constant
    w      <- w - Adam(dL_grad / dw), then scaled to sum to T
    ```

    Weights start at 1 and are kept at 0.001 or above before they are scaled. The model is trained on sum_k w_k L_k. A
    task without a row in a batch (its loss is 0) is left out of that batch's means and does not pull at its own weight,
    though the optimizer's momentum may still move it a little. Ratios of losses need losses of at least 0: with `alpha`
    above 0 a negative one ends the training, except in a step that XLA compiles, which checks nothing and may make the
    weights NaN.

    On the TensorFlow backends only (Keras 3 and tf_keras). A step has a backward pass for each task, and holds all
    their gradients. An embedding row that a batch looks up several times has one gradient, their sum; in a plain model
    Keras 3's Adam squares each look-up on its own, and moves such rows further.

    Args:
        tasks: Names of the tasks.
        alpha: How strongly tasks that lag behind are helped, at least 0. Defaults to `1.5`.
        layer: Name of the layer over whose weights norms are taken, the last one shared in the paper. Defaults to
            `None`, all weights below `Towers` that the losses of two tasks or more depend on. Experts and gates that
            one task has for its own are not among them.
        optimizer: A Keras optimizer for w. Defaults to `None`, Adam with a learning rate of 0.025.

    Raises:
        ValueError: If names repeat or `alpha` is negative; or, by `BalancedModel`, on another backend, or if the model
            has no such layer.
        tf.errors.InvalidArgumentError: In training, if a loss is negative and `alpha` above 0.

    Example:
        >>> norms = mtl.balancing.GradNorm(["click", "watch_time"], alpha=0.5)
        >>> # mtl.balancing.BalancedModel(model.input, model.output, norms), compiled and fitted as always

    Source: Chen et al., "GradNorm", ICML 2018.
    """

    needs_task_gradients = True

    def __init__(self, tasks, alpha=1.5, layer=None, optimizer=None, **kwargs):
        super().__init__(tasks, **kwargs)
        self.alpha = check_number("alpha", alpha)
        self.layer = layer
        self.optimizer = keras.optimizers.get(optimizer or keras.optimizers.Adam(0.025))

    def build(self, input_shape=None):
        self.task_weight = self.add_state("task_weight", 1.0)
        self.first_loss = self.add_state("first_loss")  # 0 as long as no batch has had a row of the task
        self.optimizer.build([self.task_weight])
        super().build(input_shape)

    def task_weights(self):
        return now(self.task_weight)

    def combine(self, losses, gradients):
        """Returns a gradient for each variable, and the weights of the tasks in it; then moves the weights."""
        import tensorflow as tf

        weights = self.task_weights()
        combined = [each.weighted_sum(weights) for each in gradients]
        products = tf.add_n([each.products() for each in gradients if each.shared])
        self._learn(losses, tf.sqrt(tf.linalg.diag_part(products)), weights)
        return combined, weights

    def _learn(self, losses, norms, weights):
        """`norms`: of the gradients of the losses without their weights."""
        import tensorflow as tf

        if self.alpha:
            rule = "`losses` must be at least 0 for GradNorm with `alpha` above 0, which takes their ratios; received:"
            tf.debugging.Assert(~tf.reduce_any(losses < 0.0), [rule, losses])
        present = tf.cast(losses != 0.0, "float32")  # an absent task in the means would pull at all others
        count = tf.maximum(tf.reduce_sum(present), 1.0)
        first = now(self.first_loss)
        first = tf.where(first == 0.0, losses, first)
        self.first_loss.assign(first)
        progress = tf.math.divide_no_nan(losses, first)
        rate = tf.math.divide_no_nan(progress, tf.reduce_sum(progress * present) / count)
        scaled = weights * norms
        target = tf.reduce_sum(scaled * present) / count * rate**self.alpha
        slope = present * tf.sign(scaled - target) * norms  # of L_grad at w
        self.optimizer.apply_gradients([(slope, self.task_weight)])
        moved = tf.maximum(now(self.task_weight), MINIMUM)
        self.task_weight.assign(moved * len(self.tasks) / tf.reduce_sum(moved))

    def get_config(self):
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "layer": self.layer,
            "optimizer": keras.optimizers.serialize(self.optimizer),
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "optimizer": keras.optimizers.deserialize(config["optimizer"])})
