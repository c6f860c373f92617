"""One level of components, of which every task gets its own average."""

import math

from mtl_layers._keras import build_part, keras, ops


class AllocatedLevel(keras.layers.Layer):
    """Components (`Experts` or a `ComponentStack`), their average for each task by given weights, a layer `after` that.

    Input: `[batch, ...]`; with `stacked` one entry per task, `[batch, tasks, ...]`, which the components see in one
    call, as `batch * tasks` rows.
    Output: `[batch, tasks, ...]`; with `task` each row's own task alone, `[batch, ...]`.
    """

    def __init__(self, components, after=None, **kwargs):
        super().__init__(**kwargs)
        self.components = components
        self.after = after

    def build(self, input_shape):
        build_part(self.components, input_shape)
        if self.after is not None and not self.after.built:
            build_part(self.after, self.average_shape(input_shape))
        self.built = True

    def call(self, inputs, weights, task=None, stacked=False, training=None):
        num_tasks, num_components = weights.shape
        weights = ops.cast(weights, self.compute_dtype)  # Keras 2 casts the first argument only
        if stacked:
            inputs = ops.reshape(inputs, (-1, *inputs.shape[2:]))  # [batch * tasks, ...]
        hidden = self.components(inputs, training=training)  # [rows, components, ...]
        shape = tuple(hidden.shape[2:])
        hidden = ops.reshape(hidden, (-1, num_components, math.prod(shape)))
        if task is not None:
            weights = ops.expand_dims(ops.take(weights, ops.reshape(task, (-1,)), axis=0), 1)  # [rows, 1, components]
        elif stacked:
            hidden = ops.reshape(hidden, (-1, num_tasks, *hidden.shape[1:]))  # [batch, tasks, components, features]
            weights = ops.expand_dims(weights, 1)  # [tasks, 1, components]
        average = ops.reshape(ops.matmul(weights, hidden), (-1, *shape))  # [batch * tasks, ...] or [batch, ...]
        if self.after is not None:
            average = ops.cast(self.after(average), self.compute_dtype)
        return average if task is not None else ops.reshape(average, (-1, num_tasks, *average.shape[1:]))

    def entry_shape(self, input_shape):
        """The shape of one task's output, from that of its input."""
        shape = self.average_shape(input_shape)
        return shape if self.after is None else tuple(self.after.compute_output_shape(shape))

    def average_shape(self, input_shape):
        """The shape of one task's average, from that of its input."""
        shape = self.components.compute_output_shape(input_shape)  # [batch, components, ...]
        return (shape[0], *shape[2:])
