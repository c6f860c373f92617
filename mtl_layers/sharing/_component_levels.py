"""The engine of `GumbelMatrix`: levels of components, evaluated for every task by the matrices of an `Allocation`."""

import warnings
from numbers import Integral

import numpy as np

from mtl_layers._checks import check_indexes
from mtl_layers._keras import INTEGER, build_part, keras, ops
from mtl_layers._trainable import hand_down
from mtl_layers.sharing._frozen_allocation import FrozenAllocation, FrozenLevel


class ComponentLevels(keras.layers.Layer):
    """Builds, calls, reports and freezes what a subclass makes in its `__init__`.

    `num_tasks`, `allow_empty`; `levels`, the `AllocatedLevel` layers; `matrices`, their `Allocation`; `entry_rank`, the
    rank of one task's input, or None for that of the first input.
    """

    def build(self, input_shape):
        if self.entry_rank is None:
            self.entry_rank = len(input_shape)
        self._is_stacked(input_shape)
        self._input_shape = tuple(input_shape)
        entry = {axis: input_shape[axis] for axis in range(1 - self.entry_rank, 0)}
        self.input_spec = keras.layers.InputSpec(min_ndim=self.entry_rank, axes=entry)
        for level, shape in self._levels_and_shapes(input_shape):
            build_part(level, shape)
        build_part(self.matrices, None)
        self.step = self.add_weight(name="step", shape=(), initializer="zeros", trainable=False, dtype=INTEGER)
        hand_down(self)
        self.built = True

    def _is_stacked(self, shape):
        """Whether an input has an entry for each task; one that has neither one nor as many is refused."""
        stacked = len(shape) == self.entry_rank + 1 and shape[1] in (self.num_tasks, None)
        if len(shape) != self.entry_rank and not stacked:
            entry = "dim" if self.entry_rank == 2 else "..."
            raise ValueError(
                f"`inputs` must be [batch, {entry}] or [batch, num_tasks, {entry}]; "
                f"received: shape={tuple(shape)}, num_tasks={self.num_tasks}"
            )
        return stacked

    def _levels_and_shapes(self, input_shape):
        """Each level and the shape of one task's input to it."""
        shape = (input_shape[0], *input_shape[len(input_shape) - self.entry_rank + 1 :])
        for level in self.levels:
            yield level, shape
            shape = level.entry_shape(shape)

    def call(self, inputs, task=None, training=None):
        stacked = self._is_stacked(inputs.shape)  # `build` has seen the first input, and not this one
        if task is not None and stacked:
            raise ValueError(
                f"`inputs` must be [batch, ...] where `task` is given; received: shape={tuple(inputs.shape)}"
            )
        if isinstance(task, Integral) and not 0 <= task < self.num_tasks:
            raise ValueError(f"`task` must be an index below {self.num_tasks}; received: task={task}")
        step = ops.reshape(self.step, ())  # a tensor: Keras 2's variables lack some operations
        values = inputs
        for level, weights in zip(self.levels, self.matrices(ops.cast(step, "int32"), training=training), strict=True):
            values = level(values, weights, task=task, stacked=stacked, training=training)
            stacked = task is None
        if training:
            self.step.assign(step + 1)
        if task is None or isinstance(task, Integral):
            return values
        # Backends take the last task for -1, and some take anything for an index that is too large.
        known = ops.logical_and(ops.greater_equal(task, 0), ops.less(task, self.num_tasks))
        return ops.where(ops.reshape(known, (-1,) + (1,) * (len(values.shape) - 1)), values, float("nan"))

    def compute_output_shape(self, input_shape):
        *_, (level, shape) = self._levels_and_shapes(input_shape)
        return (input_shape[0], self.num_tasks, *level.entry_shape(shape)[1:])

    def compute_output_spec(self, inputs, task=None, training=None):
        """Keras 3 asks this in place of the shape, which does not know of `task`."""
        shape = self.compute_output_shape(inputs.shape)
        return keras.KerasTensor(shape if task is None else (shape[0], *shape[2:]), dtype=self.compute_dtype)

    def probabilities(self):
        """How probable it is that a task uses a component: for each level an array `[tasks, components]`."""
        self._check_built()
        return [np.exp(-np.logaddexp(0.0, -logits)) for logits in self.matrices.logits()]  # overflows for no logit

    def set_probabilities(self, probabilities):
        """Sets them, from an array `[tasks, components]` for each level with entries above 0 and below 1."""
        self._check_built()
        arrays = [np.asarray(each, "float64") for each in probabilities]
        shapes = [each.shape for each in self.probabilities()]
        if [each.shape for each in arrays] != shapes or not all(((each > 0) & (each < 1)).all() for each in arrays):
            raise ValueError(
                f"`probabilities` must be arrays of the shapes {shapes} with entries above 0 and below 1; "
                f"received: probabilities={probabilities!r}"
            )
        self.matrices.assign([np.log(each) - np.log1p(-each) for each in arrays])

    def allocation(self):
        """The most likely matrix of each level, a boolean `[tasks, components]`; warns of tasks without components."""
        empty = self.empty_tasks()
        if empty and not self.allow_empty:
            warnings.warn(self._empty_text(empty), stacklevel=2)
        return [logits >= 0.0 for logits in self.matrices.logits()]

    def empty_tasks(self):
        """Which tasks have no component in the most likely matrix: pairs of level and task."""
        self._check_built()
        matrices = [logits >= 0.0 for logits in self.matrices.logits()]
        return [(depth, int(task)) for depth, each in enumerate(matrices) for task in np.flatnonzero(~each.any(axis=1))]

    def inventory(self):
        """What a report of `freeze` counts."""
        return {"components": sum(components for _, components in self.matrices.shapes)}

    def state_weights(self):
        """Weights that are no parameters of the network, and not counted as such by a report of `freeze`."""
        return [self.step, *self.matrices.state_weights()]

    def freeze(self, tasks=None):
        """Returns a layer with the most likely allocation for the given tasks (all by default, as indexes).

        It gives one tensor per task in a list. Components that none of these tasks uses are gone, and tasks with the
        same components up to a level are computed once up to there.
        """
        tasks = check_indexes("tasks", tasks, self.num_tasks)
        empty = [(depth, task) for depth, task in self.empty_tasks() if task in tasks]
        if empty and not self.allow_empty:
            raise ValueError(self._empty_text(empty))
        matrices = [(logits >= 0.0)[list(tasks)] for logits in self.matrices.logits()]
        for depth in range(len(matrices)):
            # A task that has nothing at some level needs nothing below it.
            matrices[depth] &= np.all([above.any(axis=1, keepdims=True) for above in matrices[depth:]], axis=0)
        levels = zip(self._levels_and_shapes(self._input_shape), matrices, strict=True)
        frozen = FrozenAllocation(
            tasks,
            [FrozenLevel.from_level(level, matrix, shape) for (level, shape), matrix in levels],
            self.entry_rank,
            name=f"{self.name}_frozen",
            dtype=self.dtype_policy,
        )
        frozen.build(self._input_shape)
        return frozen

    def _empty_text(self, empty):
        found = ", ".join(f"task {task} at level {depth}" for depth, task in empty)
        return (
            f"`{self.name}` has tasks without any component, whose output is 0 for every input: {found}. Train longer, "
            "with a higher p_init or budget; or set its allow_empty to True"
        )

    def _check_built(self):
        if not self.built:
            raise ValueError(
                f"`{self.name}` must be built before it has an allocation: call it on data or fit it first"
            )
