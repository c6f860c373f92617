"""One network for all tasks."""

from mtl_layers._checks import check_hidden_units
from mtl_layers._keras import register
from mtl_layers.sharing._mixture import Mixture
from mtl_layers.sharing._wiring import ROOT, GateWiring, Level, Wiring


@register
class SharedBottom(Mixture):
    """Every task reads the output of one shared network.

    ```
    y_k = f(x)
    ```

    Args:
        num_tasks: Number of tasks, at least 1.
        hidden_units: Units of each layer of the network. Defaults to `(64,)`.
        activation: Activation of the experts. Defaults to `"relu"`.
        dropout: Rate of dropout after every layer of the experts, in [0, 1). Defaults to `0.0`.
        use_bias: Whether the experts have biases. Defaults to `True`.
        kernel_initializer: Initializer of each layer's kernels. Defaults to `"glorot_uniform"`.
        bias_initializer: Initializer of the biases. Defaults to `"zeros"`.
        kernel_regularizer: Regularizer of the kernels. Defaults to `None`.
        bias_regularizer: Regularizer of the biases. Defaults to `None`.

    Input shape: `[batch, dim]`.
    Output shape: `[batch, num_tasks, hidden_units[-1]]`.

    Raises:
        ValueError: If an argument is out of range or the input is not `[batch, dim]`.

    Example:
        >>> tuple(mtl.SharedBottom(num_tasks=2, hidden_units=(64, 32))(np.ones((8, 16), "float32")).shape)
        (8, 2, 32)

    Source: Caruana, "Multitask Learning", 1997.
    """

    def __init__(self, num_tasks, hidden_units=(64,), **kwargs):
        super().__init__(num_tasks, **kwargs)
        self.hidden_units = check_hidden_units("hidden_units", hidden_units)
        self._make_levels()

    def wiring(self):
        return Wiring((Level((ROOT,), (GateWiring(ROOT, (0,)),), self.hidden_units),), (0,) * self.num_tasks)

    def get_config(self):
        return {**super().get_config(), "hidden_units": list(self.hidden_units)}
