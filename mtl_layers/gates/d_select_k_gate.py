"""A sparse gate that is smooth: k selectors, each of which learns the binary code of an expert."""

import numpy as np

from mtl_layers._checks import check_number, check_positive
from mtl_layers._keras import keras, ops, register
from mtl_layers._rows import mean_over_rows
from mtl_layers.gates.constant_gate import ConstantGate
from mtl_layers.gates.gate import Gate

EPSILON = 1e-6  # inside the logarithm of the entropy


@register
class DSelectKGate(Gate):
    """DSelect-k: at most `k` experts in the end, by a continuously differentiable way there.

    ```
    z^i, a    = linear in x, or parameters if the gate is static       i = 1..k selectors, z^i a number per bit
    S(z)      = 0 below -gamma/2, 1 above gamma/2, (z/gamma + 1/2)^2 (2 - 2z/gamma) between       smooth step
    r^i_e     = product over the bits of e's code of S(z^i) where it is 1, and 1 - S(z^i) where it is 0
    g_e(x)    = sum_i softmax(a)_i r^i_e
    penalty   = entropy * mean over rows of sum over gates and i of -sum_e r^i_e log(r^i_e)
    ```

    Selectors start between all experts and settle on one each, once their bits are at 0 or 1; then there are `k`
    weights other than 0, or fewer if selectors agree. The penalty, a part of the loss of `fit`, sees to it that they
    settle. Experts have truncated binary codes: where their number is not a power of two some are one bit shorter, so
    that every code is an expert's and weights always sum to 1.

    A static gate gives all rows the same weights. Frozen, it is plain numbers, and experts that no gate of the wanted
    tasks selects are gone.

    Args:
        k: Number of selectors, at least 1 and at most the number of experts each gate reads. Defaults to `2`.
        num_experts: Number of experts on offer. `None` only in a prototype for a sharing layer. Defaults to `None`.
        num_gates: Number of gates. Defaults to `1`.
        kernel_initializer: Initializer of scores, or of their kernel. Defaults to `None`: uniform within a
            hundredth of `gamma`, so that selectors start between all experts.
        static: Whether weights are the same for all rows, rather than a function of the query. Defaults to `False`.
        gamma: Width of the smooth step, at least 1e-6. Defaults to `1.0`.
        entropy: Factor of the penalty, at least 0. Defaults to `0.0`.
        **kwargs: `reads`, `use_bias` (not for a static gate) and `kernel_regularizer`, as those of `SoftmaxGate`.

    Input shape: `[batch, dim]` or `[batch, num_gates, dim]`.
    Output shape: `[batch, num_gates, num_experts]`, non-negative, with sum 1 over the last axis.

    Raises:
        ValueError: If `k` is larger than the number of experts that a gate reads, or an argument is out of range.

    Example:
        >>> layer = mtl.MMoE(num_tasks=2, num_experts=6, gate=mtl.DSelectKGate(k=2, entropy=1e-3))
        >>> tuple(layer(np.ones((8, 16), "float32")).shape)
        (8, 2, 64)

    Source: Hazimeh et al., "DSelect-k: Differentiable Selection in the Mixture of Experts with Applications to
    Multi-Task Learning", NeurIPS 2021.
    """

    def __init__(
        self,
        k=2,
        num_experts=None,
        num_gates=1,
        *,
        kernel_initializer=None,
        static=False,
        gamma=1.0,
        entropy=0.0,
        **kwargs,
    ):
        self.k = check_positive("k", k)
        self.static = static
        self.gamma = check_number("gamma", gamma, minimum=1e-6)
        self.entropy = check_number("entropy", entropy)
        if kernel_initializer is None:
            kernel_initializer = keras.initializers.RandomUniform(-self.gamma / 100, self.gamma / 100)
        super().__init__(num_experts, num_gates, kernel_initializer=kernel_initializer, **kwargs)
        if static and self.use_bias:
            raise ValueError("`use_bias` must be False if the gate is static; received: use_bias=True, static=True")

    def _plan(self):
        super()._plan()
        self.check_k(self.k)
        self.asks = self.asks and not self.static
        # A bit enters an expert's product as slope * S(z) + start: S where it is 1, 1 - S where it is 0, else 1.
        self._slope = np.zeros((self.num_gates, self.num_experts, self._bits), "float32")
        self._start = np.ones((self.num_gates, self.num_experts, self._bits), "float32")
        for gate, experts in enumerate(self.expert_reads):
            for expert, code in zip(experts, codes(len(experts)), strict=True):
                for place, bit in enumerate(code):
                    self._slope[gate, expert, place] = 1.0 if bit else -1.0
                    self._start[gate, expert, place] = 0.0 if bit else 1.0

    @property
    def _bits(self):
        return max(num_bits(len(experts)) for experts in self.expert_reads)

    @property
    def _num_mixed(self):
        """How many selectors have a weight to learn: a single one has all the weight."""
        return self.k if self.k > 1 else 0

    def num_scores(self, num_read):
        return self.k * num_bits(num_read) + self._num_mixed

    @property
    def num_slots(self):
        return self.k * self._bits + self._num_mixed

    def slots(self, experts):
        used = range(num_bits(len(experts)))
        bits = [selector * self._bits + place for selector in range(self.k) for place in used]
        return bits + [self.k * self._bits + selector for selector in range(self._num_mixed)]

    def build(self, input_shape):
        if not self.static:
            super().build(input_shape)
            return
        self._check_input_shape(input_shape)
        self._add_kernel(1, autocast=False)  # scores of the query 1, in float32
        self.built = True

    def weigh(self, inputs, parts=None):
        if not self._width:
            return super().weigh(inputs, parts)
        scores = self._constant_scores(parts) if self.static else self._scores(inputs, parts)
        scores = ops.cast(scores, "float32")
        selectors = self.selectors(scores)
        if self.entropy:
            entropies = -ops.sum(selectors * ops.log(selectors + EPSILON), axis=(1, 2, 3))
            self.add_loss(ops.cast(self.entropy * mean_over_rows(entropies), keras.backend.floatx()))
        weights = self._mixed(scores, selectors)
        return self._for_every_row(weights, inputs) if self.static else ops.cast(weights, self.compute_dtype)

    def _constant_scores(self, parts):
        return self._scores(ops.ones((1, 1), "float32"), parts=parts)

    def selectors(self, scores):
        """What each selector gives each expert, `[batch, gates, k, experts]`, from float32 scores."""
        scores = scores[..., : self.k * self._bits]
        scores = ops.reshape(scores, (-1, self.num_gates, self.k, 1, self._bits))
        position = ops.clip(scores / self.gamma + 0.5, 0.0, 1.0)
        steps = position * position * (3.0 - 2.0 * position)
        chosen = self.read[:, None]  # [gates, 1, experts]
        for place in range(self._bits):
            slope, start = self._slope[:, None, :, place], self._start[:, None, :, place]
            chosen = chosen * (slope * steps[..., place] + start)  # [batch, gates, k, experts]
        return chosen

    def _mixed(self, scores, selectors):
        if self.k == 1:
            return selectors[:, :, 0]
        shares = ops.softmax(scores[..., self.k * self._bits :], axis=-1)  # [batch, gates, k]
        return ops.sum(ops.expand_dims(shares, -1) * selectors, axis=2)

    def constant_weights(self, parts=None):
        if not self._width:
            return super().constant_weights(parts)
        scores = self._constant_scores(parts)
        return self._mixed(scores, self.selectors(scores))[0]

    def frozen(self):
        return ConstantGate() if self.static else self

    def get_config(self):
        return {
            "k": self.k,
            **super().get_config(),
            "static": self.static,
            "gamma": self.gamma,
            "entropy": self.entropy,
        }


def num_bits(count):
    """Length of the longest code of so many experts."""
    return (count - 1).bit_length()


def codes(count):
    """The truncated binary code of each expert, as a tuple of bits; none is the beginning of another."""
    longest = num_bits(count)
    short = 2**longest - count
    widths = [(expert, longest - 1) if expert < short else (expert + short, longest) for expert in range(count)]
    return [tuple(number >> place & 1 for place in reversed(range(width))) for number, width in widths]
