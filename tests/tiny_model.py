"""A SavedModel with strings, a lookup table and two tasks, made without Keras and without mtl_layers.

The tests of serving stand on it: what serves a model must not care what built it.

    click    = scale * (price + code(country))        code: fr 0, de 1, anything else -1
    purchase = click / 2
"""

from pathlib import Path

import tensorflow as tf


class TinyModule(tf.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = tf.Variable(scale, dtype=tf.float32)
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(["fr", "de"], [0.0, 1.0]), default_value=-1.0
        )

    def click(self, country, price):
        return self.scale * (price + self.table.lookup(country))


def write_tiny_model(directory, version=1, scale=1.0):
    """Writes directory/<version>/ and returns that path."""
    module = TinyModule(scale)
    rows = {
        "country": tf.TensorSpec([None, 1], tf.string, name="country"),
        "price": tf.TensorSpec([None, 1], tf.float32, name="price"),
    }
    parsing = {
        "country": tf.io.FixedLenFeature([1], tf.string),
        "price": tf.io.FixedLenFeature([1], tf.float32),
    }

    def both(country, price):
        click = module.click(country, price)
        return {"click": click, "purchase": click / 2.0}

    def examples(examples):
        return both(**tf.io.parse_example(examples, parsing))

    signatures = {
        "serving_default": tf.function(both).get_concrete_function(**rows),
        "click": tf.function(lambda country, price: {"click": module.click(country, price)}).get_concrete_function(
            **rows
        ),
        "purchase": tf.function(
            lambda country, price: {"purchase": module.click(country, price) / 2.0}
        ).get_concrete_function(**rows),
        "examples": tf.function(examples).get_concrete_function(
            examples=tf.TensorSpec([None], tf.string, name="examples")
        ),
    }
    path = Path(directory) / str(version)
    tf.saved_model.save(module, str(path), signatures=signatures)
    return path
