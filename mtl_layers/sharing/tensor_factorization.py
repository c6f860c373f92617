"""One network per task, the kernels of all tasks held as one tensor in Tucker form."""

from math import sqrt

from mtl_layers._checks import check_activation, check_hidden_units, check_positive, check_rate, check_reads
from mtl_layers._keras import keras, ops, register
from mtl_layers.sharing._frozen_factorization import FrozenFactorization


@register
class TensorFactorization(keras.layers.Layer):
    """A network per task whose kernels share their factors.

    ```
    W_k[a, b] = sum over i, j, l of S[i, j, l] U1[a, i] U2[b, j] U3[k, l]       kernel of task k, in every layer
    y_k       = activation(x @ W_k + b_k)                                       or x_k @ W_k
    ```

    No kernel is ever made: the input is multiplied by `U1`, then by the task's core `S @ U3[k]`, then by `U2`. With
    full ranks the kernels are free; the lower the third rank, the fewer kernels there are that all tasks mix. Factors
    start orthonormal and the core at the scale that gives kernels Glorot's variance, on average over tasks: with a
    third rank below their number some kernels start smaller than others. Freezing fixes the task cores.

    Args:
        num_tasks: Number of tasks, at least 1.
        ranks: The ranks of input, output and tasks, each at most the dimension: a triple for all layers, or a
            sequence with a triple for each.
        hidden_units: Units of each layer of a network. Defaults to `(64,)`.
        activation: Activation of every layer. Defaults to `"relu"`.
        dropout: Rate of dropout after every layer, in [0, 1). Defaults to `0.0`.
        use_bias: Whether layers have a bias, one per task. Defaults to `True`.
        bias_initializer: Initializer of the biases. Defaults to `"zeros"`.
        factor_regularizer: Regularizer of each factor and of the core. Defaults to `None`.
        bias_regularizer: Regularizer of the biases. Defaults to `None`.

    Input shape: `[batch, dim]`, or `[batch, num_tasks, dim]` with one input per task.
    Output shape: `[batch, num_tasks, hidden_units[-1]]`.

    Raises:
        ValueError: If an argument is out of range, a rank is above its dimension (the input's when the layer is
            built), or the input has another rank or number of tasks.

    Example:
        >>> layer = mtl.TensorFactorization(num_tasks=3, ranks=(8, 8, 2), hidden_units=(64, 32))
        >>> tuple(layer(np.ones((5, 16), "float32")).shape)
        (5, 3, 32)

    Source: Yang and Hospedales, "Deep Multi-task Representation Learning: A Tensor Factorisation Approach", ICLR 2017,
    as a baseline of Ma et al., KDD 2018.
    """

    def __init__(
        self,
        num_tasks,
        ranks,
        hidden_units=(64,),
        *,
        activation="relu",
        dropout=0.0,
        use_bias=True,
        bias_initializer="zeros",
        factor_regularizer=None,
        bias_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_tasks = check_positive("num_tasks", num_tasks)
        self.hidden_units = check_hidden_units("hidden_units", hidden_units)
        self.ranks = _ranks_per_layer(ranks, len(self.hidden_units))
        self.activation = check_activation(activation)
        self.dropout = check_rate("dropout", dropout)
        self.use_bias = use_bias
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.factor_regularizer = keras.regularizers.get(factor_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.dropout_layer = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy) if self.dropout else None
        self._check_ranks(None)

    def _check_ranks(self, dim):
        """The input's dimension is known, and its rank checked, only when the layer is built."""
        for depth, (ranks, units) in enumerate(zip(self.ranks, self.hidden_units, strict=True)):
            if any(rank > size for rank, size in zip(ranks, (dim, units, self.num_tasks), strict=True) if size):
                raise ValueError(
                    "`ranks` must be at most the dimensions of input, output and tasks; "
                    f"received: ranks={ranks} for layer {depth} with dimensions {(dim, units, self.num_tasks)}"
                )
            dim = units

    def build(self, input_shape):
        check_reads(input_shape, "num_tasks", self.num_tasks)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        dim = input_shape[-1]
        self._check_ranks(dim)
        self.input_factors, self.cores, self.output_factors, self.task_factors, self.biases = [], [], [], [], []
        for depth, (ranks, units) in enumerate(zip(self.ranks, self.hidden_units, strict=True)):
            rank_in, rank_out, rank_tasks = ranks
            # Orthonormal factors leave the norm of a kernel to the core: Glorot's 2 / (dim + units) per entry, spread.
            scale = sqrt(2.0 * dim * units * self.num_tasks / ((dim + units) * rank_in * rank_out * rank_tasks))
            self.input_factors.append(self._add_factor(f"input_factor_{depth}", (dim, rank_in)))
            self.cores.append(self._add_factor(f"core_{depth}", ranks, keras.initializers.RandomNormal(stddev=scale)))
            self.output_factors.append(self._add_factor(f"output_factor_{depth}", (units, rank_out)))
            self.task_factors.append(self._add_factor(f"task_factor_{depth}", (self.num_tasks, rank_tasks)))
            if self.use_bias:
                self.biases.append(
                    self.add_weight(
                        name=f"bias_{depth}",
                        shape=(self.num_tasks, 1, units),
                        initializer=self.bias_initializer,
                        regularizer=self.bias_regularizer,
                    )
                )
            dim = units
        self.built = True

    def _add_factor(self, name, shape, initializer="orthogonal"):
        return self.add_weight(name=name, shape=shape, initializer=initializer, regularizer=self.factor_regularizer)

    def call(self, inputs, training=None):
        check_reads(inputs.shape, "num_tasks", self.num_tasks)
        if len(inputs.shape) == 2:
            hidden = ops.expand_dims(inputs, 0)  # [1, batch, dim], broadcast over tasks
        else:
            hidden = ops.transpose(inputs, (1, 0, 2))  # [tasks, batch, dim]
        for depth in range(len(self.hidden_units)):
            hidden = ops.matmul(hidden, self.input_factors[depth])  # [tasks or 1, batch, input rank]
            hidden = ops.matmul(hidden, self.task_cores(depth))  # [tasks, batch, output rank]
            hidden = ops.matmul(hidden, ops.transpose(self.output_factors[depth]))  # [tasks, batch, units]
            if self.use_bias:
                hidden = hidden + self.biases[depth]
            hidden = self.activation(hidden)
            if self.dropout_layer is not None:
                hidden = self.dropout_layer(hidden, training=training)
        return ops.transpose(hidden, (1, 0, 2))  # [batch, tasks, units]

    def task_cores(self, depth):
        """What tells the tasks apart in a layer: `[tasks, input rank, output rank]`."""
        return ops.einsum("ijl,kl->kij", self.cores[depth], self.task_factors[depth])

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_tasks, self.hidden_units[-1])

    def inventory(self):
        """What a report of `freeze` counts."""
        return {"networks": self.num_tasks}

    def freeze(self, tasks=None):
        """Returns a layer that computes the given tasks (all by default, as indexes) and nothing else.

        It gives one tensor `[batch, units]` per task in a list; the cores of its tasks are multiplied out, and the
        regularizers gone with the factors.
        """
        return FrozenFactorization.from_factorization(self, tasks)

    def get_config(self):
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "ranks": [list(ranks) for ranks in self.ranks],
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "factor_regularizer": keras.regularizers.serialize(self.factor_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
        }


def _ranks_per_layer(ranks, num_layers):
    triples = ranks if isinstance(ranks, list | tuple) and ranks else ()
    if not any(isinstance(triple, list | tuple) for triple in triples):
        triples = (triples,) * num_layers
    if len(triples) != num_layers or any(not isinstance(t, list | tuple) or len(t) != 3 for t in triples):
        raise ValueError(
            "`ranks` must be a triple of ranks of input, output and tasks, or a sequence with a triple for each of the "
            f"{num_layers} layers; received: ranks={ranks!r}"
        )
    return tuple(tuple(check_positive("ranks", rank) for rank in triple) for triple in triples)
