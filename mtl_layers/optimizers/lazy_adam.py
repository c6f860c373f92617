"""Adam that moves the rows of a table that a batch has looked up, and no others."""

import tensorflow as tf

from mtl_layers._checks import check_tensorflow
from mtl_layers._keras import keras, register
from mtl_layers._rows import resource_of


@register
class LazyAdam(keras.optimizers.Adam):
    """Adam whose cost for an embedding table depends on the batch and not on the table.

    ```
    for each row r that the batch has looked up, g_r the sum of the gradients of its look-ups:
    m_r <- beta_1 m_r + (1 - beta_1) g_r
    v_r <- beta_2 v_r + (1 - beta_2) g_r^2
    w_r <- w_r - learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m_r / (sqrt(v_r) + epsilon)
    ```

    t counts the steps of all. Keras' Adam also lets the moments of all other rows decay and moves these rows by what is
    left of them: with a table of millions of rows that is nearly all of a training step. Variables whose gradient is
    dense are treated as by Adam. All arguments are those of `keras.optimizers.Adam`, with the same defaults; as there,
    `clipvalue`, `clipnorm` and `global_clipnorm` clip before the look-ups of a row are summed.

    Gradients are sparse where rows are gathered: in `mtl.FeatureEmbedding`, in the gates of `mtl.RouteSupernet`, and in
    Keras' `Embedding` (on Keras 3 that reads the whole table in each step, which costs a copy of it). What looks at
    whole tables makes them dense again or takes as long: a regularizer of the embeddings, `weight_decay`, `use_ema`,
    `gradient_accumulation_steps`. It needs the TensorFlow backend.

    Raises:
        ValueError: On another backend than TensorFlow.

    Example:
        >>> model.compile(mtl.LazyAdam(1e-3), **mtl.losses.per_task({
        ...     "click": "binary_crossentropy", "watch_time": "mean_squared_error"}))

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, with the lazy update of TensorFlow's
    former `contrib.opt.LazyAdamOptimizer`.
    """

    def __init__(self, *args, **kwargs):
        check_tensorflow("LazyAdam")
        super().__init__(*args, **kwargs)

    def _clip_gradients(self, grads):
        if self.clipnorm or not self.global_clipnorm:
            return super()._clip_gradients(grads)
        return tf.clip_by_global_norm(grads, self.global_clipnorm)[0]  # Keras 3's own makes whole tables of them

    def update_step(self, gradient, variable, *learning_rate):
        if not isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, *learning_rate)
            return
        dtype = variable.dtype
        (rate,) = learning_rate or (self.learning_rate,)  # Keras 2 hands none out
        step = tf.cast(self.iterations + 1, dtype)
        correction = tf.sqrt(1 - tf.cast(self.beta_2, dtype) ** step) / (1 - tf.cast(self.beta_1, dtype) ** step)
        # A row that was looked up several times has one gradient, the sum, and is then written as often, each time the
        # same: XLA, where the rows themselves come from a `tf.unique`, would make distinct ones of its padding.
        rows = gradient.indices
        _, places = tf.unique(rows)
        sums = tf.math.unsorted_segment_sum(tf.cast(gradient.values, dtype), places, tf.size(rows))
        gradients = tf.gather(sums, places)

        m = self._moved(self._momentums, variable, rows, gradients, self.beta_1)
        v = self._moved(self._velocities, variable, rows, tf.square(gradients), self.beta_2)
        if self.amsgrad:
            largest = self._slot(self._velocity_hats, variable)
            v = tf.maximum(tf.gather(largest, rows), v)
            largest.scatter_update(tf.IndexedSlices(v, rows))
        change = tf.cast(rate, dtype) * correction * m / (tf.sqrt(v) + self.epsilon)
        variable.scatter_update(tf.IndexedSlices(tf.gather(variable, rows) - change, rows))

    def _deduplicate_sparse_grad(self, gradients):
        return gradients  # Keras 2 would sum them before `update_step` does, and XLA gets that wrong

    def _moved(self, slots, variable, rows, values, decay):
        """Moves rows of a moving average towards values, and returns them."""
        slot = self._slot(slots, variable)
        past = tf.gather(slot, rows)
        present = past + (values - past) * (1 - decay)
        slot.scatter_update(tf.IndexedSlices(present, rows))
        return present

    def _slot(self, slots, variable):
        places = getattr(self, "_trainable_variables_indices", None) or self._index_dict  # Keras 3, Keras 2
        return resource_of(slots[places[self._var_key(variable)]])
