"""One base network, of which each task uses the weights that its mask leaves."""

import numpy as np

from mtl_layers._checks import check_hidden_units, check_positive, check_reads
from mtl_layers._expert_arguments import ExpertArguments
from mtl_layers._initializers import SideBySide
from mtl_layers._keras import keras, ops, register
from mtl_layers.sharing._frozen_sparse import FrozenSparse
from mtl_layers.sharing._masks import check_masks, hierarchical_masks, kept_fractions, overlap_ratio


@register
class SparseSharing(ExpertArguments):
    """Every task reads its own sparse part of one network; the parts overlap where tasks have something in common.

    ```
    h_k^0 = x                                                     (or x_k, where every task has its own input)
    h_k^j = activation(h_k^{j-1} @ (M_k^j * W^j) + b^j)           M_k^j in {0, 1}, one mask for each task
    h_k^j = h_k^{j-1}                                             where M_k^j is 0 throughout
    y_k   = h_k^L
    ```

    All tasks are evaluated in one pass over one set of kernels. Masks are 1 throughout at the start, which is hard
    sharing; `mtl.SparseSharingPruner` finds others. A mask that is 0 throughout from some layer on ends its task below
    that layer, which is hierarchical sharing. Biases are not masked: they belong to all tasks.

    A weight that no mask uses keeps its value under any optimizer, to the bit: momentum and weight decay reach whole
    variables, so `kernels` reads such a weight from a second variable that is not trained. Masks may be changed at any
    time; weights keep their values then, too.

    In a batch with labels of one task alone, weights that only other tasks use get no gradient, though momentum, such
    as Adam's, may move them. Mix the rows of all tasks in every batch, or train with plain SGD.

    Args:
        num_tasks: Number of tasks, at least 1.
        hidden_units: Units of each layer of the base network. Defaults to `(64,)`.
        activation: Activation of every layer. Defaults to `"relu"`.
        dropout: Rate of dropout after every layer, in [0, 1). Defaults to `0.0`.
        use_bias: Whether layers have a bias. Defaults to `True`.
        kernel_initializer: Initializer of the kernels. Defaults to `"glorot_uniform"`.
        bias_initializer: Initializer of the biases. Defaults to `"zeros"`.
        kernel_regularizer: Regularizer of the weights that some mask uses. Defaults to `None`.
        bias_regularizer: Regularizer of the biases. Defaults to `None`.

    Input shape: `[batch, dim]`, or `[batch, num_tasks, dim]` with one input per task.
    Output shape: `[batch, num_tasks, hidden_units[-1]]`.

    Raises:
        ValueError: If an argument is out of range, the input has another rank or number of tasks, or masks have another
            shape, are not 0 or 1, or cut a task off from its input.

    Example:
        >>> layer = mtl.SparseSharing(num_tasks=2, hidden_units=(32,))
        >>> x = np.ones((8, 16), "float32")
        >>> tuple(layer(x).shape)
        (8, 2, 32)
        >>> masks = np.zeros((2, 16, 32), bool)
        >>> masks[0, :, :24] = masks[1, :, 16:] = True
        >>> layer.set_masks([masks])
        >>> layer.kept_fractions().tolist(), layer.overlap_ratio()
        ([0.75, 0.5], 0.25)

    Source: Sun et al., "Learning Sparse Sharing Architectures for Multiple Tasks", AAAI 2020.
    """

    def __init__(
        self,
        num_tasks,
        hidden_units=(64,),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_tasks = check_positive("num_tasks", num_tasks)
        self.hidden_units = check_hidden_units("hidden_units", hidden_units)
        self.dropout_layer = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy) if self.dropout else None

    def build(self, input_shape):
        check_reads(input_shape, "num_tasks", self.num_tasks)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        self.masks, self.trained_kernels, self.resting_kernels, self.biases = [], [], [], []
        fan_in = input_shape[-1]
        for depth, units in enumerate(self.hidden_units):
            mask = self.add_weight(
                name=f"mask_{depth}",
                shape=(self.num_tasks, fan_in, units),
                initializer="ones",
                dtype="uint8",  # and not bool, with which TensorFlow's variables cannot reckon
                trainable=False,
            )
            self.masks.append(mask)
            self.trained_kernels.append(
                self.add_weight(
                    name=f"kernel_{depth}",
                    shape=(fan_in, units),
                    initializer=SideBySide(self.kernel_initializer, (units,)),  # a clone draws each
                    regularizer=self.kernel_regularizer and _OfUsedWeights(self.kernel_regularizer, mask),
                )
            )
            self.resting_kernels.append(
                self.add_weight(
                    name=f"resting_kernel_{depth}", shape=(fan_in, units), initializer="zeros", trainable=False
                )
            )
            if self.use_bias:
                self.biases.append(
                    self.add_weight(
                        name=f"bias_{depth}",
                        shape=(units,),
                        initializer=self.bias_initializer,
                        regularizer=self.bias_regularizer,
                    )
                )
            fan_in = units
        self.built = True

    def call(self, inputs, training=None):
        check_reads(inputs.shape, "num_tasks", self.num_tasks)
        if len(inputs.shape) == 2:
            hidden = ops.expand_dims(inputs, 0)  # [1, batch, dim], broadcast over tasks
        else:
            hidden = ops.transpose(inputs, (1, 0, 2))  # [tasks, batch, dim]
        for depth, units in enumerate(self.hidden_units):
            mask = ops.convert_to_tensor(self.masks[depth])
            above = ops.matmul(hidden, self.trained_kernels[depth] * ops.cast(mask, self.compute_dtype))
            if self.use_bias:
                above = above + self.biases[depth]
            above = self.activation(above)  # [tasks, batch, units]
            if self.dropout_layer is not None:
                above = self.dropout_layer(above, training=training)
            if depth and units == self.hidden_units[depth - 1]:  # only here may a task have ended
                above = ops.where(ops.any(mask, axis=(1, 2), keepdims=True), above, hidden)
            hidden = above
        return ops.transpose(hidden, (1, 0, 2))  # [batch, tasks, units]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_tasks, self.hidden_units[-1])

    # -------------------------------------------------------------------------------------------------------- masks

    @property
    def kernels(self):
        """The kernel of each layer as an array `[in, units]`: trained where some mask uses it, elsewhere at rest."""
        return [
            np.where(mask.any(axis=0), trained.numpy(), resting.numpy())
            for mask, trained, resting in zip(self.get_masks(), self.trained_kernels, self.resting_kernels, strict=True)
        ]

    def get_masks(self):
        """The masks, as a list with a boolean array `[tasks, in, units]` for each layer."""
        self._check_built()
        return [mask.numpy().astype(bool) for mask in self.masks]

    def set_masks(self, masks):
        """Puts other masks in force; no weight changes its value. Takes what `get_masks` gives, or 0 and 1."""
        shapes = self._mask_shapes()
        masks, kernels = check_masks(masks, shapes), self.kernels
        for depth, kernel in enumerate(kernels):
            self.trained_kernels[depth].assign(kernel)
            self.resting_kernels[depth].assign(kernel)
            self.masks[depth].assign(masks[depth].astype("uint8"))

    def hard_masks(self):
        """Masks of hard sharing, for `set_masks`: every task uses everything."""
        return self.hierarchical_masks((len(self.hidden_units),) * self.num_tasks)

    def hierarchical_masks(self, depths):
        """Masks of hierarchical sharing, for `set_masks`: task k uses all of the first `depths[k]` layers."""
        return hierarchical_masks(self._mask_shapes(), depths)

    def kept_fractions(self):
        """The fraction of the kernels' weights that each task uses, as an array `[tasks]`."""
        return kept_fractions(self.get_masks())

    def overlap_ratio(self, tasks=None):
        """Weights that all the given tasks (indexes, all by default) use, divided by those that any of them uses."""
        return overlap_ratio(self.get_masks(), tasks)

    def _mask_shapes(self):
        self._check_built()
        return [tuple(mask.shape) for mask in self.masks]

    def _check_built(self):
        if not self.built:
            raise ValueError(f"`{self.name}` must be built before it has masks: call it on data or fit it first")

    # ------------------------------------------------------------------------------------------------------- config

    def freeze(self, tasks=None):
        """Returns a layer of plain dense layers for the given tasks (all by default, as indexes), without masks.

        It gives one tensor `[batch, units]` per task in a list. Tasks with one and the same mask in a layer share its
        weights, and tasks whose masks agree from the input up to some layer are computed once up to there.
        """
        return FrozenSparse.from_sparse(self, tasks)

    def inventory(self):
        """What a report of `freeze` counts: the dense layers that tasks use."""
        return {"dense layers": int(sum(mask.any(axis=(1, 2)).sum() for mask in self.get_masks()))}

    def state_weights(self):
        """Weights that are no parameters of the network, and not counted as such by a report of `freeze`."""
        return [*self.masks, *self.resting_kernels]

    def get_config(self):
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "hidden_units": list(self.hidden_units),
        }


class _OfUsedWeights(keras.regularizers.Regularizer):
    """A regularizer of the weights that some mask uses."""

    def __init__(self, regularizer, mask):
        self.regularizer = regularizer
        self.mask = mask

    def __call__(self, kernel):
        used = ops.any(ops.convert_to_tensor(self.mask), axis=0)
        return self.regularizer(ops.where(used, ops.convert_to_tensor(kernel), 0.0))
