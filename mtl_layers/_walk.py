"""Layers of models within models."""

from mtl_layers._keras import keras


def layers_of(model):
    """Every layer of a model and of the models that are layers of it."""
    for layer in model.layers:
        yield layer
        yield from layers_of(layer) if isinstance(layer, keras.Model) else ()
