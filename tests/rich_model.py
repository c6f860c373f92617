"""A small model with a feature of every kind and a task of every kind, for the tests of export and serving."""

import numpy as np
import tensorflow as tf

import mtl_layers as mtl
from mtl_layers._keras import keras

ROWS = 2000
# One name is the beginning of another, and the order is not that of the alphabet.
TASKS = ("like", "watch_time", "like_comment", "device")


def rich_rows(rows=ROWS, seed=0):
    """Raw features with a value of every kind."""
    rng = np.random.default_rng(seed)
    return {
        "country": rng.choice(["fr", "de", "us", "zz"], rows).astype(object),
        "item": rng.integers(0, 5000, rows),
        "age": rng.normal(40, 10, rows).astype("float32"),
        "price": np.where(rng.random(rows) < 0.7, 0, rng.gamma(2.0, 10.0, rows)).astype("float32"),
        "genres": rng.choice(["a", "b", "c", ""], (rows, 3)).astype(object),
        "seen": rng.integers(-1, 40, (rows, 4)),
    }


def rich_embedding(rows=None):
    """The embedding of `rich_rows`, adapted."""
    kinds = mtl.features
    embedding = mtl.FeatureEmbedding(
        {
            "country": kinds.Categorical(max_size=3),
            "item": kinds.Categorical(hash_buckets=100, dtype="int64", width=4),
            "age": kinds.Numeric(),
            "price": kinds.Bucketized(8),
            "genres": kinds.MultiValued(),
            "seen": kinds.MultiValued(kinds.Categorical(dtype="int64"), pooling="sum"),
        },
        width=5,
    )
    embedding.adapt(rich_rows() if rows is None else rows)
    return embedding


def rich_model(sharing=None):
    """An untrained model with random biases, so that no part of it is silent."""
    embedding = rich_embedding()
    inputs = embedding.inputs()
    sharing = sharing or mtl.PLE(len(TASKS), 2, ((2, 1, 1, 3), 1), (2, 1), (16,))
    towers = mtl.Towers(
        {
            "like": (8,),
            "watch_time": mtl.towers.Regression((8, 4)),
            "like_comment": (8,),
            "device": mtl.towers.MultiClass(3, ()),
        }
    )
    model = keras.Model(inputs, towers(sharing(embedding(inputs))))
    rng = np.random.default_rng(1)
    model.set_weights(
        [weight + rng.normal(0, 0.1, weight.shape).astype(weight.dtype) for weight in model.get_weights()]
    )
    return model


def batches(rows, size=256):
    """The rows as a dataset of batches: Keras takes strings from nowhere else."""
    return tf.data.Dataset.from_tensor_slices(rows).batch(size)


def head(rows, size):
    """The first rows, shaped as a signature wants them: `[size, 1]` for single values."""
    return {name: values[:size] if values.ndim == 2 else values[:size, None] for name, values in rows.items()}
