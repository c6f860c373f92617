"""Entries of 0 and 1 drawn from their logits, with a gradient: the straight-through Gumbel-softmax of two outcomes.

The difference of two Gumbel variables is logistic, so one logit and one draw stand for a pair of each.
"""

from mtl_layers._keras import BACKEND, ops


def logistic_noise(shape, seed, step):
    """Logistic noise, fixed by `seed` and `step` (a tensor): no random state, and a resumed run draws the same."""
    uniform = ops.maximum(_uniform(shape, seed, step), 1e-7)  # in [0, 1), and 0 has no logarithm
    return ops.log(uniform) - ops.log1p(-uniform)


def _uniform(shape, seed, step):
    if BACKEND == "jax":
        import jax

        return jax.random.uniform(jax.random.fold_in(jax.random.key(seed), step), shape)
    import tensorflow as tf

    return tf.random.stateless_uniform(shape, [seed, step])


def published_temperature(step):
    """The temperature that the authors' code gives a training step."""
    return ops.maximum(0.5, 50.0 / ops.sqrt(ops.cast(step, "float32") + 1.0))


def sampled(logits, noise, temperature):
    """1 with probability sigmoid(logit), else 0; the gradient is that of the softmax at the temperature."""
    scores = logits + noise
    soft = ops.sigmoid(scores / temperature)
    return most_likely(scores) + (soft - ops.stop_gradient(soft))  # in this order it is 0 or 1 to the bit


def most_likely(logits):
    """1 where the probability is at least one half, else 0."""
    return ops.cast(logits >= 0.0, "float32")


def averaging(matrix):
    """Rows of 0 and 1 as the weights of an average; a row without a 1 stays 0."""
    count = ops.sum(matrix, axis=-1, keepdims=True)
    return matrix / (count + ops.cast(count == 0.0, "float32"))


def entropy(logits):
    """Entropy of each entry, in nats."""
    return ops.softplus(logits) - logits * ops.sigmoid(logits)
