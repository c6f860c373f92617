"""One network per task, whose layers exchange their outputs."""

from mtl_layers._checks import check_hidden_units, check_number
from mtl_layers._keras import keras, ops, register
from mtl_layers.gates import ConstantGate
from mtl_layers.sharing._mixture import Mixture
from mtl_layers.sharing._wiring import ROOT, GateWiring, Level, Wiring


@register
class CrossStitch(Mixture):
    """A network per task, with a learned linear combination of all tasks after every layer.

    ```
    h_k^l = activation(z_k^{l-1} @ W_k^l + b_k^l)          z_k^0 = x, or x_k
    z_k^l = sum_j A^l[k, j] h_j^l                          the stitch of layer l, a [tasks, tasks] matrix
    y_k   = z_k^L
    ```

    Stitches start as convex combinations that lean to the task itself: `self_weight` on the diagonal, and what is left
    to 1 in equal parts beside it. With `self_weight=1.0` and `learn_stitches=False` this is the single-task model.
    Frozen for some tasks, it keeps the layers that reach them through stitch weights other than 0.

    Args:
        num_tasks: Number of tasks, at least 1.
        hidden_units: Units of each layer; a stitch follows each. Defaults to `(64,)`.
        self_weight: Weight that a task starts with in its own stitch, in [0, 1]. Defaults to `0.9`.
        learn_stitches: Whether training changes the stitches. Defaults to `True`.
        activation: Activation of every layer. Defaults to `"relu"`.
        dropout: Rate of dropout after every layer, before its stitch, in [0, 1). Defaults to `0.0`.
        use_bias: Whether layers have a bias. Defaults to `True`.
        kernel_initializer: Initializer of each task's kernels. Defaults to `"glorot_uniform"`.
        bias_initializer: Initializer of the biases. Defaults to `"zeros"`.
        kernel_regularizer: Regularizer of the kernels. Defaults to `None`.
        bias_regularizer: Regularizer of the biases. Defaults to `None`.

    Input shape: `[batch, dim]`, or `[batch, num_tasks, dim]` with one input per task.
    Output shape: `[batch, num_tasks, hidden_units[-1]]`.

    Raises:
        ValueError: If an argument is out of range, or the input has another rank or number of tasks.

    Example:
        >>> layer = mtl.CrossStitch(num_tasks=2, hidden_units=(64, 32))
        >>> tuple(layer(np.ones((8, 16), "float32")).shape)
        (8, 2, 32)
        >>> print(ops.convert_to_numpy(layer.stitches[0] + 0).round(1))
        [[0.9 0.1]
         [0.1 0.9]]

    Source: Misra et al., "Cross-stitch Networks for Multi-task Learning", CVPR 2016, with one number per pair of tasks.
    """

    derived = ("gate",)

    def __init__(self, num_tasks, hidden_units=(64,), self_weight=0.9, learn_stitches=True, **kwargs):
        super().__init__(num_tasks, **kwargs)
        self.hidden_units = check_hidden_units("hidden_units", hidden_units)
        self.self_weight = check_number("self_weight", self_weight, maximum=1.0)
        self.learn_stitches = learn_stitches
        self._make_levels()

    def wiring(self):
        tasks = tuple(range(self.num_tasks))
        stitches = (GateWiring(ROOT, tasks),) * self.num_tasks
        return Wiring(tuple(Level(tasks, stitches, (units,)) for units in self.hidden_units), tasks)

    def gate_prototype(self):
        return ConstantGate(kernel_initializer=SelfBiased(self.self_weight), learned=self.learn_stitches)

    @property
    def stitches(self):
        """The variables `[tasks, tasks]` of a built layer, one per layer of the networks."""
        return [gates.numbers for gates in self.gate_levels]

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": list(self.hidden_units),
            "self_weight": self.self_weight,
            "learn_stitches": self.learn_stitches,
        }


@register
class SelfBiased(keras.initializers.Initializer):
    """`[tasks, tasks]` with `self_weight` on the diagonal and rows that sum to 1."""

    def __init__(self, self_weight):
        self.self_weight = self_weight

    def __call__(self, shape, dtype=None, **kwargs):
        own = ops.eye(shape[0], dtype=dtype)
        if shape[0] == 1:
            return own
        return self.self_weight * own + (1.0 - self.self_weight) / (shape[0] - 1) * (1.0 - own)

    def get_config(self):
        return {"self_weight": self.self_weight}
