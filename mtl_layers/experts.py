"""A stack of equally shaped networks, evaluated as one batched matmul per layer."""

from mtl_layers._checks import check_hidden_units, check_positive, check_reads
from mtl_layers._expert_arguments import ExpertArguments
from mtl_layers._initializers import Stacked
from mtl_layers._keras import keras, ops, register


@register
class Experts(ExpertArguments):
    """`num_experts` feed-forward networks of one shape, on one input or on one input each.

    ```
    h_e^0 = x                      (or x_e, where every expert has its own input)
    h_e^j = activation(h_e^{j-1} @ W_e^j + b_e^j)
    ```

    Every layer is one batched matmul over all experts. Kernels are drawn per expert, so experts start different and
    at the scale of a single `Dense` layer.

    Args:
        num_experts: Number of networks, at least 1.
        hidden_units: Units of each layer, as a tuple. Defaults to `(64,)`.
        activation: Activation of every layer. Defaults to `"relu"`.
        dropout: Rate of dropout after every layer, in [0, 1). Defaults to `0.0`.
        use_bias: Whether layers have a bias. Defaults to `True`.
        kernel_initializer: Initializer of each expert's kernels. Defaults to `"glorot_uniform"`.
        bias_initializer: Initializer of the biases. Defaults to `"zeros"`.
        kernel_regularizer: Regularizer of the kernels. Defaults to `None`.
        bias_regularizer: Regularizer of the biases. Defaults to `None`.

    Input shape: `[batch, dim]`, or `[batch, num_experts, dim]` with one input per expert.
    Output shape: `[batch, num_experts, hidden_units[-1]]`.

    Raises:
        ValueError: If an argument is out of range, or the input has another rank or number of experts.

    Example:
        >>> experts = mtl.Experts(num_experts=4, hidden_units=(32, 16))
        >>> tuple(experts(np.ones((2, 8), "float32")).shape)
        (2, 4, 16)

    Source: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts",
    KDD 2018.
    """

    def __init__(
        self,
        num_experts,
        hidden_units=(64,),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_experts = check_positive("num_experts", num_experts)
        self.hidden_units = check_hidden_units("hidden_units", hidden_units)
        self.dropout_layer = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy) if self.dropout else None

    def build(self, input_shape):
        check_reads(input_shape, "num_experts", self.num_experts)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        self.kernels, self.biases = [], []
        fan_in = input_shape[-1]
        for depth, units in enumerate(self.hidden_units):
            self.kernels.append(
                self.add_weight(
                    name=f"kernel_{depth}",
                    shape=(self.num_experts, fan_in, units),
                    initializer=Stacked(self.kernel_initializer),
                    regularizer=self.kernel_regularizer,
                )
            )
            if self.use_bias:
                self.biases.append(
                    self.add_weight(
                        name=f"bias_{depth}",
                        shape=(self.num_experts, 1, units),
                        initializer=self.bias_initializer,
                        regularizer=self.bias_regularizer,
                    )
                )
            fan_in = units
        self.built = True

    def call(self, inputs, training=None):
        check_reads(inputs.shape, "num_experts", self.num_experts)
        if len(inputs.shape) == 2:
            hidden = ops.expand_dims(inputs, 0)  # [1, batch, dim], broadcast over experts
        else:
            hidden = ops.transpose(inputs, (1, 0, 2))  # [experts, batch, dim]
        for depth, kernel in enumerate(self.kernels):
            hidden = ops.matmul(hidden, kernel)  # [experts, batch, units]
            if self.use_bias:
                # Not `ops.add`: on TensorFlow it takes a bias [experts, 1, 1] to lie along a batch of as many rows.
                hidden = hidden + self.biases[depth]
            hidden = self.activation(hidden)
            if self.dropout_layer is not None:
                hidden = self.dropout_layer(hidden, training=training)
        return ops.transpose(hidden, (1, 0, 2))  # [batch, experts, units]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_experts, self.hidden_units[-1])

    def inherit(self, source, experts):
        """Takes over the weights of the given experts of `source`, in that order."""
        for mine, theirs in zip(self.weights, source.weights, strict=True):
            mine.assign(ops.take(theirs, list(experts), axis=0))
        self.trainable = source.trainable

    def get_config(self):
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "hidden_units": list(self.hidden_units),
        }
