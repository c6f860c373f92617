"""Any Keras layers side by side, to be used as `Experts` are."""

import numpy as np

from mtl_layers._keras import build_part, deserialize, keras, ops, register
from mtl_layers._trainable import hand_down
from mtl_layers.sharing._alike_convolutions import alike, convolved


@register
class ComponentStack(keras.layers.Layer):
    """Layers that read the same input and give outputs of one shape, stacked; convolutions that are alike run as one.

    Args:
        parts: The layers.

    Input shape: `[batch, ...]`.
    Output shape: `[batch, parts, ...]`.
    """

    def __init__(self, parts, **kwargs):
        super().__init__(**kwargs)
        self.parts = list(parts)

    def build(self, input_shape):
        for part in self.parts:
            if not part.built:
                build_part(part, input_shape)
        shapes = {tuple(part.compute_output_shape(input_shape)): part.name for part in self.parts}
        if len(shapes) > 1 or None in next(iter(shapes))[1:]:
            raise ValueError(
                "`components` must have outputs of one known shape; "
                f"received: {', '.join(f'{shape[1:]} of {name}' for shape, name in shapes.items())}"
            )
        hand_down(self)
        self.built = True

    def call(self, inputs, training=None):
        groups = alike(self.parts, self.compute_dtype)
        stacks = [self._group([self.parts[number] for number in group], inputs) for group in groups]
        outputs = ops.concatenate(stacks, axis=1) if len(stacks) > 1 else stacks[0]
        order = [number for group in groups for number in group]
        return outputs if order == sorted(order) else ops.take(outputs, np.argsort(order), axis=1)

    def _group(self, parts, inputs):
        if len(parts) > 1:
            return convolved(parts, inputs, self.compute_dtype)
        # `training` reaches a part through Keras' call context: not every layer takes it as an argument.
        return ops.expand_dims(ops.cast(parts[0](inputs), self.compute_dtype), 1)

    def compute_output_shape(self, input_shape):
        shape = self.parts[0].compute_output_shape(input_shape)
        return (input_shape[0], len(self.parts), *shape[1:])

    def inherit(self, source, parts):
        """Takes over the weights of the given parts of `source`, in that order."""
        for mine, number in zip(self.parts, parts, strict=True):
            mine.set_weights(source.parts[number].get_weights())

    def get_config(self):
        return {**super().get_config(), "parts": [keras.saving.serialize_keras_object(part) for part in self.parts]}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "parts": [deserialize(part) for part in config["parts"]]})


def lists_of_layers(components):
    """Returns for each level the list of its components; a list of layers stands for one level."""
    flat = isinstance(components, list | tuple) and any(isinstance(each, keras.layers.Layer) for each in components)
    levels = [components] if flat else components
    if not _is_full_list(levels) or not all(_is_full_list(level) and all(map(_is_layer, level)) for level in levels):
        raise ValueError(
            "`components` must be a list of Keras layers, or such a list for each level; "
            f"received: components={components!r}"
        )
    return levels


def layers_after(after, num_levels):
    """Returns for each level the layer after it, or None; a layer alone stands for one level."""
    layers = [None] * num_levels if after is None else after if isinstance(after, list | tuple) else [after]
    if len(layers) != num_levels or not all(each is None or _is_layer(each) for each in layers):
        raise ValueError(
            f"`after` must have a Keras layer or None for each of the {num_levels} levels; received: after={after!r}"
        )
    return layers


def check_distinct(layers):
    """A layer in two places would have its weights in one of them after it has been saved and loaded."""
    twice = {layer.name for number, layer in enumerate(layers) if any(layer is other for other in layers[:number])}
    if twice:
        raise ValueError(f"`components` and `after` must be distinct layers; received more than once: {sorted(twice)}")


def _is_full_list(value):
    return isinstance(value, list | tuple) and len(value) > 0


def _is_layer(value):
    return isinstance(value, keras.layers.Layer)
