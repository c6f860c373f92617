"""The features of a model: the inputs of its signatures."""

import keyword
import re

import tensorflow as tf

EXAMPLES = "examples"


def feature_specs(model):
    """Returns `{name: tf.TensorSpec}` for a functional Keras model; its inputs must have names that signatures can."""
    given = model.input if isinstance(model.input, dict) else {tensor.name: tensor for tensor in model.inputs}
    for name, tensor in given.items():
        _check_name(name)
        if not hasattr(tensor, "shape"):
            raise ValueError(
                f"`model` must take a flat dict or list of features; received: a {type(tensor).__name__} under {name!r}"
            )
    check_distinct(given)
    return {name: tf.TensorSpec(tensor.shape, tf.as_dtype(tensor.dtype), name=name) for name, tensor in given.items()}


def _check_name(name):
    """Refuses what no signature can have as an input, before TensorFlow does in other words."""
    legal = re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.>-]*", name) and not keyword.iskeyword(name)
    if not legal or name in ("self", EXAMPLES):
        raise ValueError(
            "`model` must have features with names of letters, digits and _.- that begin with a letter or digit, "
            f"other than Python's keywords, 'self' and '{EXAMPLES}'; received: {name!r}"
        )


def check_distinct(names):
    """TensorFlow makes Python names of them, in which all but letters and digits is `_`."""
    seen = {}
    for name in names:
        plain = "".join(letter if letter.isalnum() else "_" for letter in name)
        plain = plain if plain[0].isalpha() else f"arg_{plain}"
        if plain in seen:
            raise ValueError(
                "`model` must have features (a score's weights are some, too) whose names differ in letters and "
                f"digits, since TensorFlow takes all else for `_`; received: {seen[plain]!r} and {name!r}"
            )
        seen[plain] = name
