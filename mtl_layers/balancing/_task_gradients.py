"""The gradients of several losses with respect to one variable, side by side. TensorFlow only."""

import tensorflow as tf


class TaskGradients:
    """Gradients of the tasks' losses with respect to one variable; zeros where a task does not depend on it.

    Of an embedding table only the rows that the batch has looked up are held, each once: `rows` are their numbers.
    `shared` says whether the variable may be shared, and is: two tasks depend on it. `entries`, a boolean array that
    can be broadcast to the variable, says of which entries that is so; None of all.
    """

    def __init__(self, gradients, variable, may_share, entries=None):
        given = [each for each in gradients if each is not None]
        self.shared = may_share and len(given) >= min(2, len(gradients)) and (entries is None or entries.any())
        self.entries = None if entries is None or entries.all() else entries
        self.shape = tuple(variable.shape)
        self.rows = self.stacked = None
        if not given:
            return
        if any(isinstance(each, tf.IndexedSlices) for each in given):
            given = [self._as_slices(each) for each in given]
            self.rows, places = tf.unique(tf.concat([tf.cast(each.indices, "int64") for each in given], axis=0))
            places = tf.split(places, [tf.size(each.indices) for each in given])
            given = [
                tf.math.unsorted_segment_sum(each.values, place, tf.size(self.rows))
                for each, place in zip(given, places, strict=True)
            ]
        found = iter(given)
        parts = [tf.zeros_like(given[0]) if each is None else next(found) for each in gradients]
        self.stacked = tf.stack(parts)  # [tasks, ...]

    def products(self):
        """Inner products of the tasks' gradients in the entries that are shared, `[tasks, tasks]`, in float32."""
        stacked = tf.cast(self.stacked, "float32")
        shared = stacked if self.entries is None else tf.where(self.entries, stacked, 0.0)
        flat = tf.reshape(shared, (shared.shape[0], -1))
        return tf.matmul(flat, flat, transpose_b=True)

    def weighted_sum(self, weights, elsewhere=None):
        """The sum of the gradients times `weights` `[tasks]`, as an optimizer takes it.

        With `elsewhere` these are the weights of what is not shared.
        """
        if self.stacked is None:
            return None
        if elsewhere is not None and not self.shared:
            weights = elsewhere
        total = self._sum(weights)
        if elsewhere is not None and self.shared and self.entries is not None:
            total = tf.where(self.entries, total, self._sum(elsewhere))
        return total if self.rows is None else tf.IndexedSlices(total, self.rows, tf.constant(self.shape))

    def _sum(self, weights):
        return tf.tensordot(tf.cast(weights, self.stacked.dtype), self.stacked, 1)

    def _as_slices(self, gradient):
        if isinstance(gradient, tf.IndexedSlices):
            return gradient
        return tf.IndexedSlices(gradient, tf.range(self.shape[0]))
