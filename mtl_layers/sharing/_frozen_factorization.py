"""A tensor factorization with a fixed set of tasks."""

from mtl_layers._checks import check_indexes
from mtl_layers._keras import build_part, keras, ops, register
from mtl_layers._trainable import hand_down


@register
class FrozenFactorization(keras.layers.Layer):
    """The final form of a `TensorFactorization` for given tasks: the shared factors, and a core and bias per task.

    Parts are layers of their own, so that `freeze` of a frozen layer shares the variables of those it keeps.

    Made by `freeze` of a `TensorFactorization`; the arguments are its serialised form.

    Args:
        tasks: For each output, the task whose input it reads where all have one each.
        ranks: For each layer, the ranks of input and output.
        hidden_units: Units of each layer.
        activation: Activation of every layer.
        dropout: Rate of dropout after every layer.
        use_bias: Whether layers have a bias.

    Input shape: `[batch, dim]`, or `[batch, tasks, dim]` with the inputs of all tasks.
    Output: a list with one `[batch, units]` per task.
    """

    def __init__(self, tasks, ranks, hidden_units, activation, dropout, use_bias, **kwargs):
        super().__init__(**kwargs)
        self.tasks = tuple(tasks)
        self.ranks = tuple(tuple(pair) for pair in ranks)
        self.hidden_units = tuple(hidden_units)
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.use_bias = use_bias
        self.dropout_layer = keras.layers.Dropout(dropout, dtype=self.dtype_policy) if dropout else None
        self.factors, self.cores = [], []  # per layer, and per layer and task, in flat lists: Keras saves no others
        for depth, (pair, units) in enumerate(zip(self.ranks, self.hidden_units, strict=True)):
            self.factors.append(_Factors(pair, units, name=f"factors_{depth}", dtype=self.dtype_policy))
            for number in range(len(self.tasks)):
                name = f"core_{depth}_{number}"
                self.cores.append(_TaskCore(pair, units, use_bias, name=name, dtype=self.dtype_policy))

    @classmethod
    def from_factorization(cls, source, tasks=None):
        """The frozen form of a built `TensorFactorization`, with its weights."""
        if not source.built:
            raise ValueError(f"`{source.name}` must be built before it is frozen: call it on data or fit it first")
        tasks = check_indexes("tasks", tasks, source.num_tasks)
        frozen = cls(
            tasks,
            [ranks[:2] for ranks in source.ranks],
            source.hidden_units,
            keras.activations.serialize(source.activation),
            source.dropout,
            source.use_bias,
            dtype=source.dtype_policy,
            name=f"{source.name}_frozen",
        )
        frozen.build((None, source.input_factors[0].shape[0]))
        for depth, (factors, cores) in enumerate(frozen._layers_of_parts()):
            # By way of NumPy: JAX would let both variables hold one array, and `fit` delete it.
            factors.input_factor.assign(ops.convert_to_numpy(source.input_factors[depth]))
            factors.output_factor.assign(ops.transpose(ops.convert_to_tensor(source.output_factors[depth])))
            task_cores = source.task_cores(depth)
            for task, part in zip(tasks, cores, strict=True):
                part.core.assign(ops.convert_to_numpy(task_cores[task]))
                if source.use_bias:
                    part.bias.assign(ops.convert_to_tensor(source.biases[depth])[task, 0])
        return frozen

    def freeze(self, tasks=None):
        """Returns the layer for fewer tasks, made of this layer's own parts: the variables are shared, not copied."""
        tasks = check_indexes("tasks", tasks, len(self.tasks))
        config = {**self.get_config(), "tasks": [self.tasks[task] for task in tasks]}
        del config["name"]
        config.update(dtype=self.dtype_policy, dropout=0.0)  # parts that give way to shared ones: no random state
        view = type(self)(**config)
        view.dropout, view.dropout_layer = self.dropout, self.dropout_layer
        view.factors, view.cores = [], []
        for factors, cores in self._layers_of_parts():  # in turn, as `__init__` adds them: the order of the weights
            view.factors.append(factors)
            view.cores.extend(cores[task] for task in tasks)
        view.built = True
        return view

    def _layers_of_parts(self):
        """For each layer the shared factors and the list of its tasks' cores."""
        count = len(self.tasks)
        for depth, factors in enumerate(self.factors):
            yield factors, self.cores[depth * count : (depth + 1) * count]

    def build(self, input_shape):
        shape = (None, input_shape[-1])
        for (factors, cores), units in zip(self._layers_of_parts(), self.hidden_units, strict=True):
            build_part(factors, shape)
            for core in cores:
                build_part(core, shape)
            shape = (None, units)
        hand_down(self)
        self.built = True

    def call(self, inputs, training=None):
        one_each = len(inputs.shape) == 3
        values = [inputs[:, task] if one_each else inputs for task in self.tasks]
        for depth, (factors, cores) in enumerate(self._layers_of_parts()):
            if depth or one_each:
                values = [ops.matmul(value, factors.input_factor) for value in values]
            else:
                values = [ops.matmul(inputs, factors.input_factor)] * len(cores)
            for number, part in enumerate(cores):
                value = ops.matmul(ops.matmul(values[number], part.core), factors.output_factor)  # [batch, units]
                if self.use_bias:
                    value = value + part.bias
                value = self.activation(value)
                if self.dropout_layer is not None:
                    value = self.dropout_layer(value, training=training)
                values[number] = value
        return values

    def compute_output_shape(self, input_shape):
        return [(input_shape[0], self.hidden_units[-1])] * len(self.tasks)

    def inventory(self):
        """What a report of `freeze` counts."""
        return {"networks": len(self.tasks)}

    def get_config(self):
        return {
            **super().get_config(),
            "tasks": list(self.tasks),
            "ranks": [list(pair) for pair in self.ranks],
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "use_bias": self.use_bias,
        }


class _Factors(keras.layers.Layer):
    """The factors of one layer that all tasks share."""

    def __init__(self, ranks, units, **kwargs):
        super().__init__(**kwargs)
        self.ranks, self.units = ranks, units

    def build(self, input_shape):
        self.input_factor = self.add_weight(name="input_factor", shape=(input_shape[-1], self.ranks[0]))
        self.output_factor = self.add_weight(name="output_factor", shape=(self.ranks[1], self.units))
        self.built = True


class _TaskCore(keras.layers.Layer):
    """What one layer has for one task."""

    def __init__(self, ranks, units, use_bias, **kwargs):
        super().__init__(**kwargs)
        self.ranks, self.units, self.use_bias = ranks, units, use_bias

    def build(self, input_shape):
        self.core = self.add_weight(name="core", shape=self.ranks)
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.units,))
        self.built = True
