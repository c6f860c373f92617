"""One network per task, drawn towards each other."""

from mtl_layers._checks import check_hidden_units, check_number
from mtl_layers._keras import keras, ops, register
from mtl_layers.sharing._mixture import Mixture
from mtl_layers.sharing._wiring import ROOT, GateWiring, Level, Wiring


@register
class L2Constrained(Mixture):
    """A network per task, with a penalty on the distance between every two of them.

    ```
    y_k     = f(x; theta_k)                                            or f(x_k; theta_k)
    penalty = strength * sum over pairs a < b of |theta_a - theta_b|^2     all kernels and biases
    ```

    The penalty is part of the loss of `fit`, like that of any regularizer. With strength 0 this is the single-task
    model; as the strength grows it becomes `SharedBottom`.

    Args:
        num_tasks: Number of tasks, at least 1.
        hidden_units: Units of each layer of a network. Defaults to `(64,)`.
        strength: Factor of the penalty, at least 0. Defaults to `1e-3`.
        activation: Activation of every layer. Defaults to `"relu"`.
        dropout: Rate of dropout after every layer, in [0, 1). Defaults to `0.0`.
        use_bias: Whether layers have a bias. Defaults to `True`.
        kernel_initializer: Initializer of each task's kernels. Defaults to `"glorot_uniform"`.
        bias_initializer: Initializer of the biases. Defaults to `"zeros"`.
        kernel_regularizer: Regularizer of the kernels, beside the penalty. Defaults to `None`.
        bias_regularizer: Regularizer of the biases, beside the penalty. Defaults to `None`.

    Input shape: `[batch, dim]`, or `[batch, num_tasks, dim]` with one input per task.
    Output shape: `[batch, num_tasks, hidden_units[-1]]`.

    Raises:
        ValueError: If an argument is out of range, or the input has another rank or number of tasks.

    Example:
        >>> layer = mtl.L2Constrained(num_tasks=2, hidden_units=(64, 32), strength=1e-2)
        >>> tuple(layer(np.ones((8, 16), "float32")).shape)
        (8, 2, 32)

    Source: Duong et al., "Low Resource Dependency Parsing", ACL 2015, as a baseline of Ma et al., KDD 2018.
    """

    derived = ("gate",)

    def __init__(self, num_tasks, hidden_units=(64,), strength=1e-3, **kwargs):
        super().__init__(num_tasks, **kwargs)
        self.hidden_units = check_hidden_units("hidden_units", hidden_units)
        self.strength = check_number("strength", strength)
        self._make_levels()

    def wiring(self):
        tasks = tuple(range(self.num_tasks))
        return Wiring((Level(tasks, tuple(GateWiring(ROOT, (task,)) for task in tasks), self.hidden_units),), tasks)

    def expert_arguments(self):
        arguments = super().expert_arguments()
        if self.strength:
            for name in ("kernel_regularizer", "bias_regularizer"):
                arguments[name] = PairwiseDistance(self.strength, arguments[name])
        return arguments

    def get_config(self):
        return {**super().get_config(), "hidden_units": list(self.hidden_units), "strength": self.strength}


@register
class PairwiseDistance(keras.regularizers.Regularizer):
    """`strength` times the sum of squared distances between the parts of a `[parts, ...]` weight, pair by pair.

    `others` is a regularizer of the whole weight whose value is added, or None.
    """

    def __init__(self, strength, others=None):
        self.strength = strength
        self.others = keras.regularizers.get(others)

    def __call__(self, stack):
        # The sum over pairs of |a - b|^2 is the number of parts times the sum of |a - mean|^2.
        pairs = stack.shape[0] * ops.sum(ops.square(stack - ops.mean(stack, axis=0, keepdims=True)))
        return self.strength * pairs + (0.0 if self.others is None else self.others(stack))

    def get_config(self):
        return {"strength": self.strength, "others": keras.regularizers.serialize(self.others)}
