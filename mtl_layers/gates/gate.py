"""What all gates share: a linear score for every pair of a gate and an expert that it reads."""

import numpy as np

from mtl_layers._checks import check_positive, check_reads
from mtl_layers._initializers import SideBySide
from mtl_layers._keras import keras, ops


class Gate(keras.layers.Layer):
    """Base of the gates: from queries to scores, from scores to weights that sum to 1 over the experts read.

    A subclass says what becomes of the scores, in `normalize(scores, read)`; with a `call` or weights of its own it
    cannot be frozen. It may be handed to a sharing layer unbuilt and without `num_experts`, as a prototype: the layer
    then makes its own gates from it with `wire`.

    Args:
        num_experts: Number of experts on offer. `None` in a prototype. Defaults to `None`.
        num_gates: Number of gates. Defaults to `1`.
        reads: For each gate, the indexes of the experts it reads. Defaults to all experts for every gate.
        use_bias: Whether scores have a bias (the papers have none). Defaults to `False`.
        kernel_initializer: Initializer of the kernel. Defaults to `"glorot_uniform"`.
        kernel_regularizer: Regularizer of the kernel. Defaults to `None`.

    Input shape: `[batch, dim]`, one query for all gates, or `[batch, num_gates, dim]`, one each.
    Output shape: `[batch, num_gates, num_experts]`; 0 for an expert that a gate does not read.
    """

    weighs_one = False
    """Whether a gate over a single expert gives it a weight of its own, and not always 1."""

    asked = None
    """Which value of an input `[batch, values, dim]` each gate asks; by default gate i the value i. A sharing layer
    says it, so that a value which many gates ask is there once."""

    def __init__(
        self,
        num_experts=None,
        num_gates=1,
        *,
        reads=None,
        use_bias=False,
        kernel_initializer="glorot_uniform",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_experts = None if num_experts is None else check_positive("num_experts", num_experts)
        self.num_gates = check_positive("num_gates", num_gates)
        self.reads = None if reads is None else tuple(tuple(int(e) for e in experts) for experts in reads)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        if self.num_experts is not None:
            self._plan()

    def _plan(self):
        reads = self.reads or (tuple(range(self.num_experts)),) * self.num_gates
        legal = len(reads) == self.num_gates and all(
            experts and len(set(experts)) == len(experts) and all(0 <= e < self.num_experts for e in experts)
            for experts in reads
        )
        if not legal:
            raise ValueError(
                "`reads` must give each gate at least one expert, each once and below num_experts; "
                f"received: reads={self.reads}, num_gates={self.num_gates}, num_experts={self.num_experts}"
            )
        self.expert_reads = reads
        # Scores lie side by side in one kernel: gate 0's, gate 1's, ... A gate over one expert has nothing to learn.
        self._columns, width = [], 0
        for experts in reads:
            size = self.num_scores(len(experts)) if len(experts) > 1 else 0
            self._columns.append(tuple(range(width, width + size)))
            width += size
        self._width = width
        self.asks = width > 0  # whether weights depend on the query
        self.read = np.zeros((self.num_gates, self.num_experts), "float32")
        self._position = np.full((self.num_gates, self.num_slots), width, "int32")  # `width` is a column of zeros
        for gate, experts in enumerate(reads):
            self.read[gate, list(experts)] = 1.0
            if self._columns[gate]:
                self._position[gate, self.slots(experts)] = self._columns[gate]

    def check_k(self, k):
        """Refuses a number of experts to keep that is larger than the number that some gate reads."""
        fewest = min(len(experts) for experts in self.expert_reads)
        if k > fewest:
            raise ValueError(
                f"`k` must be at most the number of experts that each gate reads ({fewest}); received: k={k}"
            )

    def num_scores(self, num_read):
        """How many scores a gate has that reads so many experts."""
        return num_read

    @property
    def num_slots(self):
        """Number of places for the scores of a gate, as `normalize` gets them."""
        return self.num_experts

    def slots(self, experts):
        """The places of the scores of a gate that reads these experts; scores of other places are 0."""
        return list(experts)

    def build(self, input_shape):
        self._check_input_shape(input_shape)
        if self._width:  # else it reads nothing
            self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        self._add_kernel(input_shape[-1])
        self.built = True

    def _add_kernel(self, dim, **kwargs):
        self.kernel = self.bias = None
        if self._width:
            self.kernel = self.add_weight(
                name="kernel",
                shape=(dim, self._width),
                initializer=SideBySide(self.kernel_initializer, [len(c) for c in self._columns if c]),
                regularizer=self.kernel_regularizer,
                **kwargs,
            )
            if self.use_bias:
                self.bias = self.add_weight(name="bias", shape=(self._width,), initializer="zeros")

    def _check_input_shape(self, input_shape):
        if self.num_experts is None:
            raise ValueError("`num_experts` must be given before a gate is used; received: num_experts=None")
        check_reads(input_shape, "num_gates", self.num_gates)

    def call(self, inputs):
        return self.weigh(inputs)

    def weigh(self, inputs, parts=None):
        """The output, by this layer's weights or, for the gates that have weights in turn, by those of `parts`.

        Parts are layers of one gate each. A layer that is given them need not have been built.
        """
        if not self.asks:
            return self._for_every_row(self.constant_weights(parts), inputs)
        # Softmax in float32: bfloat16 has 8 bits, and gates live on small differences.
        scores = ops.cast(self._scores(inputs, parts), "float32")  # [batch, gates, slots]
        return ops.cast(self._weights_of(scores, parts), self.compute_dtype)

    def _weights_of(self, scores, parts):
        return self.normalize(scores, self.read)

    def _side_by_side(self, name, parts):
        """A weight as a tensor, the columns of gates in turn; None if there is none."""
        found = [getattr(part, name) for part in parts or (self,)]
        found = [ops.convert_to_tensor(weight) for weight in found if weight is not None]
        return ops.concatenate(found, axis=-1) if len(found) > 1 else found[0] if found else None

    def _for_every_row(self, weights, inputs):
        shape = (ops.shape(inputs)[0], self.num_gates, self.num_experts)
        return ops.broadcast_to(ops.cast(weights, self.compute_dtype), shape)

    def _scores(self, inputs, parts=None):
        kernel, bias = self._side_by_side("kernel", parts), self._side_by_side("bias", parts)
        if len(inputs.shape) == 3:
            # One matmul: a gate's kernel beside the value it asks, and zeros beside the others.
            values, dim = inputs.shape[1:]
            asked = range(self.num_gates) if self.asked is None else self.asked
            owner = [asked[gate] for gate, columns in enumerate(self._columns) for _ in columns]
            beside = ops.cast(np.eye(values, dtype="float32")[:, owner], kernel.dtype)  # [values, width]
            kernel = ops.reshape(ops.expand_dims(beside, 1) * kernel, (values * dim, self._width))
            inputs = ops.reshape(inputs, (-1, values * dim))
        scores = ops.matmul(inputs, ops.cast(kernel, inputs.dtype))  # [batch, width]
        if bias is not None:
            scores = scores + bias
        if self._width == self.num_gates * self.num_slots and self.reads is None:
            return ops.reshape(scores, (-1, self.num_gates, self.num_slots))
        return ops.take(ops.pad(scores, ((0, 0), (0, 1))), self._position, axis=1)

    def normalize(self, scores, read):
        """Weights from float32 scores `[batch, gates, slots]`; `read` is 1 where a gate reads an expert."""
        raise NotImplementedError

    def constant_weights(self, parts=None):
        """The weights `[gates, experts]` of gates that ask nothing, in float32; `parts` as for `weigh`."""
        return self.read / self.read.sum(axis=1, keepdims=True)

    def live_reads(self):
        """For each gate, the experts that it reads and does not always give the weight 0 (or one of those)."""
        if self.asks:
            return self.expert_reads
        weights = ops.convert_to_numpy(self.constant_weights())
        return tuple(
            tuple(expert for expert in experts if row[expert] != 0) or experts[:1]
            for experts, row in zip(self.expert_reads, weights, strict=True)
        )

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_gates, self.num_experts)

    @property
    def num_asking(self):
        """How many of the gates give weights that depend on the query."""
        return sum(1 for columns in self._columns if columns) if self.asks else 0

    def by_gate(self, values):
        """Each weight, and an array to broadcast to it with `values[gate]` for every column of a gate."""
        of_columns = np.array([value for value, columns in zip(values, self._columns, strict=True) for _ in columns])
        return [(weight, of_columns) for weight in (self.kernel, self.bias) if weight is not None]

    def wire(self, num_experts, reads, **kwargs):
        """Returns an unbuilt gate of the same kind over `num_experts` experts, one gate per entry of `reads`."""
        config = self.get_config()
        del config["name"]
        full = all(list(experts) == list(range(num_experts)) for experts in reads)
        config.update(num_experts=num_experts, num_gates=len(reads), reads=None if full else reads)
        config.update({"dtype": self.dtype_policy, **kwargs})
        return type(self)(**config)  # `from_config` would wrap an error of ours into Keras' own

    def frozen(self):
        """The prototype of the gates that take this gate's place in a frozen layer, over its live experts only."""
        return self

    def inherit(self, source, gate):
        """Takes over the weights of one gate of `source`, for a layer that consists of that gate alone."""
        for mine, theirs in ((self.kernel, source.kernel), (self.bias, source.bias)):
            if mine is not None:
                mine.assign(ops.take(theirs, list(source._columns[gate]), axis=-1))
        self.trainable = source.trainable

    def get_config(self):
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "num_gates": self.num_gates,
            "reads": None if self.reads is None else [list(experts) for experts in self.reads],
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }
