"""Which task uses which component: the learned probabilities of all levels."""

import math
import random

from mtl_layers._keras import INTEGER, keras, ops
from mtl_layers.sharing._gumbel import averaging, entropy, logistic_noise, most_likely, published_temperature, sampled


class Allocation(keras.layers.Layer):
    """Gives each level's weights of components, `[tasks, components]`, and adds the penalties on the probabilities.

    A layer of its own, of dtype float32: a layer of mixed precision reads its float weights in 8 bits.

    The variables are the logits divided by `speed`, with the gradients of the logits themselves: so under any optimizer
    logits move `speed` times as far as they would at the learning rate of the other weights.

    Without a `seed` one is drawn for each layer and kept among its weights: a loaded layer goes on with it.
    """

    def __init__(self, shapes, p_init, *, speed, temperature, seed, budget, budget_weight, entropy_weight, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.shapes = tuple(shapes)
        self.start = math.log(p_init) - math.log1p(-p_init)
        self.speed = speed
        self.temperature = temperature
        self.draws_seed = seed is None
        self.seed = random.randrange(2**31) if seed is None else seed
        self.budget, self.budget_weight = budget, budget_weight
        self.entropy_weight = entropy_weight

    def build(self, input_shape=None):
        self.slow_logits = [
            self.add_weight(
                name=f"slow_logits_{depth}",
                shape=shape,
                initializer=keras.initializers.Constant(self.start / self.speed),
                dtype="float32",
            )
            for depth, shape in enumerate(self.shapes)
        ]
        if self.draws_seed:
            drawn = keras.initializers.Constant(self.seed)
            self.seed = self.add_weight(name="seed", shape=(), initializer=drawn, trainable=False, dtype=INTEGER)
        self.built = True

    def call(self, step, training=None):
        """`step`: how many batches of training there have been. The weights of a task's active components sum to 1."""
        slow = [ops.reshape(variable, shape) for variable, shape in zip(self.slow_logits, self.shapes, strict=True)]
        logits = [each + ops.stop_gradient((self.speed - 1.0) * each) for each in slow]
        self._penalise(ops.concatenate([ops.reshape(each, (-1,)) for each in logits]))
        return [averaging(matrix) for matrix in (self._draw(logits, step) if training else map(most_likely, logits))]

    def _draw(self, logits, step):
        temperature = self.temperature_at(step)
        counts = [components for _, components in self.shapes]
        noise = logistic_noise((self.shapes[0][0], sum(counts)), ops.cast(self.seed, "int32"), step)
        matrices, start = [], 0
        for each, count in zip(logits, counts, strict=True):
            matrices.append(sampled(each, noise[:, start : start + count], temperature))
            start += count
        return matrices

    def temperature_at(self, step):
        """The temperature after so many batches of training."""
        if self.temperature is None:
            return published_temperature(step)
        return self.temperature(step) if callable(self.temperature) else self.temperature

    def _penalise(self, logits):
        if self.budget is not None:
            self.add_loss(self.budget_weight * ops.relu(ops.mean(ops.sigmoid(logits)) - self.budget))
        if self.entropy_weight:
            self.add_loss(self.entropy_weight * ops.mean(entropy(logits)))

    def state_weights(self):
        """Weights that are no parameters."""
        return [self.seed] if self.draws_seed else []

    def logits(self):
        """The logits of each level as an array."""
        return [self.speed * ops.convert_to_numpy(variable + 0.0) for variable in self.slow_logits]

    def assign(self, logits):
        """Sets the logits of each level."""
        for variable, each in zip(self.slow_logits, logits, strict=True):
            variable.assign((each / self.speed).astype("float32"))
