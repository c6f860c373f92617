"""What comes into the sharing layer of a model, over a data set."""

from mtl_layers._keras import keras
from mtl_layers.towers.trace import trace


def sharing_inputs(model, data, method, parts):
    """The sharing layer of a model, and an iterator over what it is given, batch by batch.

    A model is refused whose sharing layer has no `method`, the one that shows its `parts`; so are data without rows.
    """
    traced = trace(model)
    sharing = traced.sharing
    if not hasattr(sharing, method):
        raise ValueError(f"`model` must have a sharing layer with {parts}; received: {type(sharing).__name__}")
    return sharing, _inputs(keras.Model(model.input, traced.sharing_reads), data)


def _inputs(below, data):
    # An array or a tensor is one batch, and so is a tuple, which begins with features: only a list holds several.
    is_batch = isinstance(data, dict | tuple) or hasattr(data, "shape")
    empty = True
    for batch in [data] if is_batch else data:
        features = batch[0] if isinstance(batch, tuple) else batch
        one = next(iter(features.values())) if isinstance(features, dict) else features
        one = one[0] if isinstance(one, list | tuple) else one  # of several inputs
        if one.shape[0] != 0:
            empty = False
            yield below(features, training=False)
    if empty:
        raise ValueError("`data` must have at least one row; received: none")
