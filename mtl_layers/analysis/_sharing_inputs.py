"""What comes into the sharing layer of a model, over a data set."""

import numpy as np

from mtl_layers._keras import keras
from mtl_layers.freeze import trace


def sharing_inputs(model, data, method, parts):
    """The sharing layer of a model, and an iterator over what it is given, batch by batch.

    A model is refused whose sharing layer has no `method`, the one that shows its `parts`; so are data without rows.
    """
    _, sharing = trace(model)
    if not hasattr(sharing, method):
        raise ValueError(f"`model` must have a sharing layer with {parts}; received: {type(sharing).__name__}")
    return sharing, _inputs(keras.Model(model.input, sharing.input), data)


def _inputs(below, data):
    batches = [data] if isinstance(data, dict | np.ndarray) else data
    empty = True
    for batch in batches:
        empty = False
        yield below(batch[0] if isinstance(batch, tuple) else batch, training=False)
    if empty:
        raise ValueError("`data` must have at least one row; received: none")
