"""Layers that treat all tasks alike, between a frozen sharing layer and frozen towers."""

import numpy as np

from mtl_layers._checks import is_keras_activation
from mtl_layers._keras import build_part, deserialize, keras, ops, register
from mtl_layers.towers.towers import shapes_of

KINDS = (
    "Activation",
    "BatchNormalization",
    "Dense",
    "Dropout",
    "ELU",
    "GaussianDropout",
    "GaussianNoise",
    "LayerNormalization",
    "LeakyReLU",
    "ReLU",
    "Rescaling",
    "RMSNormalization",
    "UnitNormalization",
)


def treats_tasks_alike(layer):
    """Whether a layer does the same to every task of `[batch, tasks, units]`, however many there are."""
    axis = getattr(layer, "axis", -1)
    return (
        type(layer) in [getattr(keras.layers, kind, None) for kind in KINDS]  # of a subclass one does not know
        and list(axis if isinstance(axis, list | tuple) else [axis]) in ([-1], [2])
        and is_keras_activation(getattr(layer, "activation", keras.activations.linear))
        and getattr(layer, "noise_shape", None) is None
        # A Rescaling may have another number for each task.
        and max(np.ndim(getattr(layer, name, 0)) for name in ("scale", "offset")) <= 1
    )


@register
class TaskWise(keras.layers.Layer):
    """Applies layers to the tensors of all tasks as to one stack. Made by `mtl.freeze`.

    Args:
        layers: Layers that treat all tasks alike.

    Input: a list with one `[batch, units]` per task. Output: such a list.
    """

    def __init__(self, layers, **kwargs):
        super().__init__(**kwargs)
        self.layers = list(layers)

    def build(self, input_shape):
        shape = self._stacked(input_shape)
        for layer in self.layers:
            if not layer.built:
                build_part(layer, shape)
            shape = tuple(layer.compute_output_shape(shape))
        self.built = True

    def call(self, inputs):
        values = inputs if isinstance(inputs, list | tuple) else [inputs]  # Keras unwraps a list of one
        stack = ops.stack(values, axis=1)
        for layer in self.layers:  # `training` reaches them through Keras' call context
            stack = layer(stack)
        return [stack[:, number] for number in range(len(values))]

    def compute_output_shape(self, input_shape):
        shape = self._stacked(input_shape)
        for layer in self.layers:
            shape = tuple(layer.compute_output_shape(shape))
        return [(shape[0], *shape[2:])] * shape[1]

    def _stacked(self, input_shape):
        shapes = shapes_of(input_shape)
        return (shapes[0][0], len(shapes), *shapes[0][1:])

    def get_config(self):
        return {**super().get_config(), "layers": [keras.saving.serialize_keras_object(layer) for layer in self.layers]}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "layers": [deserialize(each) for each in config["layers"]]})
