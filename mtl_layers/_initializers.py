"""Initializers that draw the parts of one stacked weight separately.

A stacked `[experts, in, out]` kernel handed to Glorot has the wrong fan, and one initializer object (or one seed) used
for every part makes the parts equal, so that a gate over them gets no gradient at the start.
"""

from mtl_layers._keras import keras, ops


def _draw(initializer, part, shape, dtype):
    config = initializer.get_config()
    if isinstance(config.get("seed"), int):
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
