"""Convolutions that differ in their weights alone, as one: a few wide calls run faster than many narrow ones."""

from mtl_layers._checks import is_keras_activation
from mtl_layers._keras import keras, ops

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


def alike(parts, dtype):
    """Groups built layers of which `convolved` makes one call each: lists of their numbers; any other is alone."""
    groups = {}
    for number, part in enumerate(parts):
        groups.setdefault(_kind(part, dtype) or number, []).append(number)
    return list(groups.values())


def _kind(part, dtype):
    joinable = (
        type(part) in CONVOLUTIONS  # of a subclass one does not know what it does
        and part.groups == 1
        and part.padding in ("same", "valid")
        and part.data_format == "channels_last"
        and is_keras_activation(part.activation)
        and part.activity_regularizer is None
        and part.compute_dtype == dtype
    )
    if not joinable:
        return None
    sizes = map(tuple, (part.kernel.shape, part.strides, part.dilation_rate))
    return (*sizes, part.padding, part.use_bias, part.activation)


def convolved(parts, inputs, dtype):
    """The outputs of convolutions that are `alike`, stacked: `[batch, parts, ..., filters]`."""
    first = parts[0]
    kernels = ops.concatenate([ops.cast(part.kernel, dtype) for part in parts], axis=-1)
    outputs = ops.conv(inputs, kernels, first.strides, first.padding, first.data_format, first.dilation_rate)
    if first.use_bias:
        outputs = outputs + ops.concatenate([ops.cast(part.bias, dtype) for part in parts], axis=-1)
    outputs = ops.reshape(outputs, (-1, *outputs.shape[1:-1], len(parts), first.filters))
    return ops.moveaxis(first.activation(outputs), -2, 1)  # an activation of Keras works on entries or the last axis
