"""Initializers that draw the parts of one stacked weight separately.

A stacked `[experts, in, out]` kernel handed to Glorot has the wrong fan, and one initializer object (or one seed) used
for every part makes the parts equal, so that a gate over them gets no gradient at the start.
"""

from numbers import Integral

import numpy as np

from mtl_layers._keras import keras, ops


def _draw(initializer, part, shape, dtype):
    if not hasattr(initializer, "get_config"):  # a plain function
        return initializer(shape, dtype=dtype)
    config = initializer.get_config()
    seed = config.get("seed")
    if seed is not None and not isinstance(seed, Integral):
        # A generator: it moves on by itself, and its clones start anew.
        return initializer(shape, dtype=dtype)
    if seed is not None:
        config["seed"] += part
    return type(initializer).from_config(config)(shape, dtype=dtype)


class Stacked(keras.initializers.Initializer):
    """`[parts, ...]`: every part drawn by its own clone of `initializer`."""

    def __init__(self, initializer):
        self.initializer = initializer

    def __call__(self, shape, dtype=None, **kwargs):
        return ops.stack([_draw(self.initializer, part, shape[1:], dtype) for part in range(shape[0])])


class SideBySide(keras.initializers.Initializer):
    """`[rows, sum(widths)]`: a block `[rows, width]` for every part."""

    def __init__(self, initializer, widths):
        self.initializer = initializer
        self.widths = tuple(widths)

    def __call__(self, shape, dtype=None, **kwargs):
        blocks = [_draw(self.initializer, part, (shape[0], width), dtype) for part, width in enumerate(self.widths)]
        return ops.concatenate(blocks, axis=1)


class GlorotRows(keras.initializers.Initializer):
    """Glorot's uniform initializer for many small gates stored as rows.

    A gate over `s` values is `s` rows, each to be drawn at the scale of a `[units, s]` kernel; `sizes` gives the `s` of
    each row, and repeats over the rows.
    """

    def __init__(self, sizes):
        self.sizes = tuple(sizes)

    def __call__(self, shape, dtype=None, **kwargs):
        sizes = np.tile(np.array(self.sizes, "float32"), shape[0] // len(self.sizes))
        limits = np.sqrt(6.0 / (shape[1] + sizes))[:, None]
        return keras.initializers.RandomUniform(-1.0, 1.0)(shape, dtype=dtype) * ops.cast(limits, dtype or "float32")
