"""How the `examples` signature reads a tf.train.Example."""

import tensorflow as tf

# What fills up short rows of a feature with any number of values; mtl.features.MultiValued masks these.
PADDING = {tf.string: "", tf.int64: -1, tf.float32: 0.0}


def parsing_spec(features):
    """For features given as `{name: tf.TensorSpec}`: what `tf.io.parse_example` needs, and a function that casts."""
    spec = {}
    for name, feature in features.items():
        stored = stored_dtype(feature.dtype)
        shape = feature.shape[1:]
        if shape.rank == 1 and shape[0] is None:
            spec[name] = tf.io.FixedLenSequenceFeature([], stored, allow_missing=True, default_value=PADDING[stored])
        elif shape.is_fully_defined():
            spec[name] = tf.io.FixedLenFeature(shape, stored)
        else:
            raise ValueError(
                f"feature {name!r} must be [batch, n] or [batch, None] to be read from tf.train.Example; "
                f"received: shape={feature.shape}"
            )

    def finish(parsed):
        return {name: tf.cast(parsed[name], feature.dtype) for name, feature in features.items()}

    return spec, finish


def stored_dtype(dtype):
    """The one of tf.train.Example's three types that holds `dtype`."""
    if dtype == tf.string:
        return tf.string
    return tf.float32 if dtype.is_floating else tf.int64
