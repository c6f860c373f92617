"""Batches of a `tf.data.Dataset`, for whatever backend."""

import numpy as np

from mtl_layers._keras import BACKEND


def native(batch):
    """The same nest of arrays, without TensorFlow's tensors where JAX runs, which takes none."""
    if BACKEND != "jax":
        return batch
    import jax

    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf), batch)
