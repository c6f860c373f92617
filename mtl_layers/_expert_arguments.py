"""The arguments that all layers made of dense networks have in common."""

from mtl_layers._checks import check_activation, check_rate
from mtl_layers._keras import keras


class ExpertArguments(keras.layers.Layer):
    """Base of the layers that are made of dense networks: how those are activated, drawn and regularized.

    Args:
        activation: Activation of every layer, a function or its name. Defaults to `"relu"`.
        dropout: Rate of dropout after every layer, in [0, 1). Defaults to `0.0`.
        use_bias: Whether layers have a bias. Defaults to `True`.
        kernel_initializer: Initializer of each network's kernels. Defaults to `"glorot_uniform"`.
        bias_initializer: Initializer of the biases. Defaults to `"zeros"`.
        kernel_regularizer: Regularizer of the kernels. Defaults to `None`.
        bias_regularizer: Regularizer of the biases. Defaults to `None`.
    """

    def __init__(
        self,
        *,
        activation="relu",
        dropout=0.0,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.activation = check_activation(activation)
        self.dropout = check_rate("dropout", dropout)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)

    def expert_arguments(self):
        """These arguments as they are, for the networks inside this layer."""
        return {name: getattr(self, name) for name in self.expert_config()}

    def expert_config(self):
        """These arguments serialised, for the networks of a frozen layer."""
        return {
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
        }

    def get_config(self):
        return {**super().get_config(), **self.expert_config()}
