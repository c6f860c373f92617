"""The towers of all tasks: where tasks get their names."""

import numpy as np

from mtl_layers._checks import check_activation, check_indexes, check_rate
from mtl_layers._keras import build_part, keras, ops, register
from mtl_layers._trainable import hand_down
from mtl_layers.experts import Experts
from mtl_layers.towers.tasks import Body, deserialize, serialize


@register
class Towers(keras.layers.Layer):
    """One tower per task, and a dict of named predictions.

    ```
    p_k = activation_k(mlp_k(h_k) @ w_k + b_k)       the last matmul and activation in float32
    ```

    Towers of one shape are evaluated together, as one batched matmul per layer.

    Args:
        tasks: Dict from task name to a tuple of hidden units (a binary task), or to `mtl.towers.Binary(...)`,
            `mtl.towers.Regression(...)` or `mtl.towers.MultiClass(...)`. Its order is the order of the tasks.
        activation: Activation of hidden layers, a function or its name. Defaults to `"relu"`.
        dropout: Rate of dropout after every hidden layer, in [0, 1). Defaults to `0.0`.
        kernel_initializer: Initializer of each tower's kernels. Defaults to `"glorot_uniform"`.
        kernel_regularizer: Regularizer of the kernels. Defaults to `None`.

    Input shape: `[batch, tasks, units]`, the output of a sharing layer.
    Output: dict from task name to `[batch, 1]`, or `[batch, num_classes]` for a multi-class task; always float32.
        Labels and sample weights must be dicts, too: Keras 3 hands a list out in the order of sorted names.

    Raises:
        ValueError: If there is no task, a name is empty, a task is none of the above, or the input holds another
            number of tasks.

    Example:
        >>> towers = mtl.Towers({"click": (64,), "watch_time": mtl.towers.Regression((32,))})
        >>> {name: tuple(p.shape) for name, p in towers(np.ones((8, 2, 16), "float32")).items()}
        {'click': (8, 1), 'watch_time': (8, 1)}
    """

    def __init__(
        self,
        tasks,
        *,
        activation="relu",
        dropout=0.0,
        kernel_initializer="glorot_uniform",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(tasks, dict) or not tasks or any(not isinstance(t, str) or not t for t in tasks):
            raise ValueError(f"`tasks` must be a dict from task names to hidden units; received: tasks={tasks!r}")
        # A tuple of pairs, since Keras 2 replaces dict attributes by its own kind of dict.
        self.tasks = tuple((name, deserialize(name, task)) for name, task in tasks.items())
        self.task_names = tuple(tasks)
        self.activation = check_activation(activation)
        self.dropout = check_rate("dropout", dropout)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self._groups = self._partition()
        self.hidden, self.heads = [], []
        for number, group in enumerate(self._groups):
            task = self.tasks[group[0]][1]
            hidden_units, units = task.hidden_units, task.units
            if hidden_units:
                self.hidden.append(
                    self._stack(
                        group, hidden_units, f"hidden_{number}", self.activation, self.dropout, self.dtype_policy
                    )
                )
            if units:
                # Not in bfloat16, whose three digits would tie most of the rows that are to be ranked.
                precision = "float64" if self.compute_dtype == "float64" else "float32"
                starts = np.array([self.tasks[index][1].start for index in group])[:, None, None]  # as the biases
                start = keras.initializers.Constant(starts) if starts.any() else "zeros"
                self.heads.append(self._stack(group, (units,), f"heads_{number}", "linear", 0.0, precision, start))

    @property
    def output_names(self):
        """Names of the predictions, in their order."""
        return tuple(name for name, task in self.tasks if task.units)

    def reads(self, outputs):
        """Indexes of the tasks whose inputs the given predictions (as indexes) need, in the order of a frozen list."""
        return tuple(outputs)

    def _partition(self):
        """Groups of task indexes; the towers of a group have one shape."""
        shapes = {}
        for index, (_, task) in enumerate(self.tasks):
            shapes.setdefault((task.hidden_units, task.units), []).append(index)
        return list(shapes.values())

    def _stack(self, group, units, name, activation, dropout, dtype, bias_initializer="zeros"):
        return Experts(
            len(group),
            units,
            activation=activation,
            dropout=dropout,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=self.kernel_regularizer,
            dtype=dtype,
            name=name,
        )

    def build(self, input_shape):
        self._check_shape(input_shape)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        self._build_stacks(input_shape[-1])

    def _check_shape(self, shape):
        if len(shape) != 3 or shape[1] not in (len(self.tasks), None):
            raise ValueError(
                "`inputs` must be [batch, tasks, units] with one entry per task; "
                f"received: shape={tuple(shape)}, tasks={list(self.task_names)}"
            )

    def _build_stacks(self, width):
        for group, hidden, head in self._parts():
            units = self.tasks[group[0]][1].hidden_units
            if hidden is not None:
                build_part(hidden, (None, len(group), width))
            if head is not None:
                build_part(head, (None, len(group), units[-1] if units else width))
        hand_down(self)
        self.built = True

    def _parts(self):
        """For each group: its task indexes, its hidden layers, its heads; None where it has none of them."""
        hidden, heads = iter(self.hidden), iter(self.heads)
        for group in self._groups:
            task = self.tasks[group[0]][1]
            yield group, next(hidden) if task.hidden_units else None, next(heads) if task.units else None

    def call(self, inputs, training=None):
        return self._predictions(self._hidden_values(inputs, training))

    def _hidden_values(self, inputs, training):
        """What the heads read: `[batch, group, units]` for each group."""
        stacks = []
        for group, hidden, _ in self._parts():
            values = self._inputs_of(group, inputs)  # [batch, group, units]
            stacks.append(values if hidden is None else hidden(values, training=training))
        return stacks

    def _predictions(self, stacks):
        scores = {}
        for (group, _, head), values in zip(self._parts(), stacks, strict=True):
            if head is not None:
                values = head(values)
                scores.update({index: values[:, position] for position, index in enumerate(group)})
        return {
            name: keras.activations.get(task.activation)(ops.cast(scores[index], "float32"))
            for index, (name, task) in enumerate(self.tasks)
            if task.units
        }

    def _inputs_of(self, group, inputs):
        self._check_shape(inputs.shape)  # `build` has seen the first input, and not this one
        if len(group) == len(self.tasks):
            return inputs
        return ops.take(inputs, group, axis=1)

    def compute_output_shape(self, input_shape):
        batch = input_shape[0]
        return {name: (batch, task.units) for name, task in self.tasks if task.units}

    def inventory(self):
        """What a report of `freeze` counts."""
        return {"towers": len(self.tasks)}

    def freeze(self, tasks=None):
        """Returns the towers of the given tasks (all by default, as indexes), each with weights of its own.

        They take a list with one `[batch, units]` for each of `reads(tasks)` and start with these towers' weights.
        """
        return FrozenTowers.from_towers(self, check_indexes("tasks", tasks, len(self.tasks)))

    def get_config(self):
        return {
            **super().get_config(),
            "tasks": [[name, serialize(task)] for name, task in self.tasks],  # a store may sort the keys of a dict
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "tasks": dict(config["tasks"])})


@register
class FrozenTowers(Towers):
    """Towers with weights of their own each, so that a model for fewer tasks shares them and runs only those.

    Made by `freeze` of `Towers`. Input: a list with one `[batch, units]` per task, as frozen sharing layers give.
    """

    @classmethod
    def from_towers(cls, towers, tasks, headless=(), **arguments):
        """The towers of the given tasks; of those in `headless`, which others read, the hidden layers only."""
        if not towers.built:
            raise ValueError(f"`{towers.name}` must be built before it is frozen: call it on data or fit it first")
        shares = isinstance(towers, FrozenTowers)
        config = Towers.get_config(towers)  # what a subclass adds comes in `arguments`
        config = {key: value for key, value in config.items() if key not in ("name", "dtype", "tasks")} | arguments
        if not shares:
            config["name"] = f"{towers.name}_frozen"
        if shares:
            config["dropout"] = 0.0  # its own parts give way to shared ones, and must leave no random state behind
        kept = dict(towers.tasks[task] for task in tasks)
        for name in (towers.task_names[task] for task in headless):
            kept[name] = Body(kept[name].hidden_units)
        frozen = cls(kept, dtype=towers.dtype_policy, **config)
        origins = {
            index: (position, hidden, head)
            for group, hidden, head in towers._parts()
            for position, index in enumerate(group)
        }
        if shares:
            frozen.dropout = towers.dropout
            frozen.hidden, frozen.heads = [], []
            for task in tasks:  # in turn, as `__init__` adds them: Keras 3 has weights in the order of adding
                _, hidden, head = origins[task]
                if hidden is not None:
                    frozen.hidden.append(hidden)
                if task not in headless:
                    frozen.heads.append(head)
            frozen.built = True
            return frozen
        first = origins[tasks[0]]
        frozen._build_stacks((first[1] or first[2]).kernels[0].shape[1])
        for task, (_, hidden, head) in zip(tasks, frozen._parts(), strict=True):
            position, old_hidden, old_head = origins[task]
            if hidden is not None:
                hidden.inherit(old_hidden, [position])
            if head is not None:
                head.inherit(old_head, [position])
        return frozen

    def _partition(self):
        return [[index] for index in range(len(self.tasks))]

    # Keras unwraps a list of one, so that a single task may come without its list.
    def build(self, input_shape):
        self._build_stacks(shapes_of(input_shape)[0][-1])

    def _inputs_of(self, group, inputs):
        inputs = inputs if isinstance(inputs, list | tuple) else [inputs]
        if len(inputs) != len(self.tasks):
            raise ValueError(
                f"`inputs` of {self.name!r} must be a list of one tensor for each of {self.task_names}; "
                f"received: {len(inputs)}"
            )
        return ops.expand_dims(inputs[group[0]], 1)

    def compute_output_shape(self, input_shape):
        return super().compute_output_shape(shapes_of(input_shape)[0])


def shapes_of(input_shape):
    """The shapes of a list of tensors, of which Keras hands out one alone without its list."""
    nested = isinstance(input_shape, list) or isinstance(input_shape[0], list | tuple)
    return [tuple(shape) for shape in input_shape] if nested else [tuple(input_shape)]
