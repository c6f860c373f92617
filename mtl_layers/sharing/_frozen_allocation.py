"""Components of which every task uses given ones: the unused are gone, and equal tasks are computed once."""

import numpy as np

from mtl_layers._checks import check_indexes
from mtl_layers._keras import build_part, deserialize, keras, ops, register
from mtl_layers._trainable import hand_down
from mtl_layers.experts import Experts


@register
class FrozenLevel(keras.layers.Layer):
    """One level of a `FrozenAllocation`.

    Args:
        allocation: For each task the numbers of its components, in ascending order.
        groups: For each part the numbers of the components in it. Tasks use all components of a part or none.
        parts: `Experts` or `ComponentStack` layers.
        shape: The shape of a component's output, without the batch.
        after: The layer applied to each average. Defaults to `None`.
    """

    def __init__(self, allocation, groups, parts, shape, after=None, **kwargs):
        super().__init__(**kwargs)
        self.allocation = tuple(tuple(components) for components in allocation)
        self.groups = tuple(tuple(group) for group in groups)
        self.parts = list(parts)
        self.shape = tuple(shape)
        self.after = after

    @classmethod
    def from_level(cls, level, matrix, input_shape):
        """The frozen form of an `AllocatedLevel` for the tasks in the rows of a boolean matrix, with its weights."""
        kept = np.flatnonzero(matrix.any(axis=0))
        groups = {}  # components with equal columns: one batched matmul, and who drops a task drops whole groups
        for number, component in enumerate(kept):
            groups.setdefault(tuple(matrix[:, component]), []).append(number)
        after = None
        if level.after is not None:
            after = type(level.after).from_config(level.after.get_config())
            build_part(after, level.average_shape(input_shape))
            after.set_weights(level.after.get_weights())
        return cls(
            [np.flatnonzero(row).tolist() for row in matrix[:, kept]],
            list(groups.values()),
            [_copy(level.components, [int(c) for c in kept[group]], input_shape) for group in groups.values()],
            level.average_shape(input_shape)[1:],
            after,
            dtype=level.dtype_policy,
        )

    def view(self, tasks):
        """The level for fewer tasks, made of this level's own parts."""
        allocation = [self.allocation[task] for task in tasks]
        number = {old: new for new, old in enumerate(sorted({c for components in allocation for c in components}))}
        kept = [(group, part) for group, part in zip(self.groups, self.parts, strict=True) if group[0] in number]
        view = type(self)(
            [[number[component] for component in components] for components in allocation],
            [[number[component] for component in group] for group, _ in kept],
            [part for _, part in kept],
            self.shape,
            self.after,
            dtype=self.dtype_policy,
        )
        view.built = True
        return view

    def build(self, input_shape):
        for part in self.parts:
            if not part.built:
                build_part(part, input_shape)
        if self.after is not None and not self.after.built:
            build_part(self.after, (input_shape[0], *self.shape))
        hand_down(self)
        self.built = True

    def mix(self, values, reads, batch, training):
        """Each task's output, from values and the number of the one that each task reads; given as the same pair."""
        outputs, numbers, found, hidden = [], [], {}, {}
        for read, components in zip(reads, self.allocation, strict=True):
            key = (read, components) if components else None
            if key not in found:
                found[key] = len(outputs)
                outputs.append(self._average(values[read], components, batch, hidden.setdefault(read, {}), training))
            numbers.append(found[key])
        return outputs, numbers

    def _average(self, value, components, batch, hidden, training):
        """`hidden` keeps what the parts have made of this value."""
        total = None
        for component in components:  # one after the other, so that the sum is the same however they are grouped
            part = next(number for number, group in enumerate(self.groups) if component in group)
            if part not in hidden:
                hidden[part] = self.parts[part](value, training=training)  # [batch, group, ...]
            output = hidden[part][:, self.groups[part].index(component)]
            total = output if total is None else total + output
        if total is None:
            total = ops.zeros((batch, *self.shape), dtype=self.compute_dtype)
        average = total / max(1, len(components))  # [batch, ...]
        return average if self.after is None else ops.cast(self.after(average), self.compute_dtype)

    def entry_shape(self, batch):
        """The shape of one task's output."""
        shape = (batch, *self.shape)
        return shape if self.after is None else tuple(self.after.compute_output_shape(shape))

    def get_config(self):
        return {
            **super().get_config(),
            "allocation": [list(components) for components in self.allocation],
            "groups": [list(group) for group in self.groups],
            "parts": [keras.saving.serialize_keras_object(part) for part in self.parts],
            "shape": list(self.shape),
            "after": self.after and keras.saving.serialize_keras_object(self.after),
        }

    @classmethod
    def from_config(cls, config):
        parts = [deserialize(part) for part in config["parts"]]
        after = config["after"] and deserialize(config["after"])
        return cls(**{**config, "parts": parts, "after": after})


@register
class FrozenAllocation(keras.layers.Layer):
    """Levels of components with a fixed allocation to tasks. Made by `freeze` of `GumbelMatrix`.

    Tasks with the same components up to a level share what is computed up to there: they get the same tensor.

    Args:
        tasks: For each task its entry in an input that has one for each task.
        levels: `FrozenLevel` layers.
        entry_rank: Rank of the input of one task.

    Input shape: `[batch, ...]`, or `[batch, num_tasks, ...]` as the layer it was made from.
    Output: a list with one `[batch, ...]` per task.
    """

    def __init__(self, tasks, levels, entry_rank, **kwargs):
        super().__init__(**kwargs)
        self.tasks = tuple(tasks)
        self.levels = list(levels)
        self.entry_rank = entry_rank

    def freeze(self, tasks=None):
        """Returns the layer for fewer tasks, made of this layer's own parts: the variables are shared, not copied."""
        tasks = check_indexes("tasks", tasks, len(self.tasks))
        view = type(self)(
            [self.tasks[task] for task in tasks],
            [level.view(tasks) for level in self.levels],
            self.entry_rank,
            dtype=self.dtype_policy,
        )
        view.built = True
        return view

    def inventory(self):
        """What a report of `freeze` counts."""
        return {"components": sum(len(group) for level in self.levels for group in level.groups)}

    def build(self, input_shape):
        shape = (input_shape[0], *input_shape[len(input_shape) - self.entry_rank + 1 :])
        for level in self.levels:
            build_part(level, shape)
            shape = level.entry_shape(shape[0])
        hand_down(self)
        self.built = True

    def call(self, inputs, training=None):
        if len(inputs.shape) > self.entry_rank:
            values, reads = [inputs[:, task] for task in self.tasks], range(len(self.tasks))
        else:
            values, reads = [inputs], [0] * len(self.tasks)
        for level in self.levels:
            values, reads = level.mix(values, reads, ops.shape(inputs)[0], training)
        return [values[read] for read in reads]

    def compute_output_shape(self, input_shape):
        return [self.levels[-1].entry_shape(input_shape[0])] * len(self.tasks)

    def get_config(self):
        return {
            **super().get_config(),
            "tasks": list(self.tasks),
            "levels": [keras.saving.serialize_keras_object(level) for level in self.levels],
            "entry_rank": self.entry_rank,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "levels": [deserialize(level) for level in config["levels"]]})


def _copy(components, numbers, input_shape):
    """A layer of some components of an `Experts` or a `ComponentStack`, with their weights."""
    config = {key: value for key, value in components.get_config().items() if key not in ("name", "dtype")}
    if isinstance(components, Experts):
        config["num_experts"] = len(numbers)
    else:
        config["parts"] = [config["parts"][number] for number in numbers]
    copy = type(components).from_config({**config, "dtype": components.dtype_policy})
    build_part(copy, input_shape)
    copy.inherit(components, numbers)
    return copy
