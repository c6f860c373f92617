"""Checks of arguments that several layers share. Each error names the argument, the rule and what came."""

from collections.abc import Iterable
from numbers import Integral, Real

import numpy as np

from mtl_layers._keras import BACKEND, keras


def check_positive(name, value, minimum=1, maximum=None):
    """Returns an integer that is at least `minimum`, and at most `maximum` where there is one."""
    legal = isinstance(value, Integral) and not isinstance(value, bool) and value >= minimum
    if not legal or (maximum is not None and value > maximum):
        rule = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ValueError(f"`{name}` must be an integer {rule}; received: {name}={value!r}")
    return int(value)


def check_hidden_units(name, value, allow_empty=False):
    """Returns a tuple of positive integers."""
    units = tuple(value) if isinstance(value, list | tuple) else None
    legal = units is not None and (units or allow_empty)
    if not legal or any(isinstance(u, bool) or not isinstance(u, Integral) or u < 1 for u in units):
        rule = "a tuple of positive integers" if allow_empty else "a non-empty tuple of positive integers"
        raise ValueError(f"`{name}` must be {rule}; received: {name}={value!r}")
    return tuple(int(u) for u in units)


def check_rate(name, value):
    """Returns a rate in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be in [0, 1); received: {name}={value!r}")
    return float(value)


def check_number(name, value, minimum=0.0, maximum=None):
    """Returns a finite number that is at least `minimum`, and at most `maximum` where there is one."""
    legal = isinstance(value, Real) and not isinstance(value, bool) and minimum <= value < float("inf")
    if not legal or (maximum is not None and value > maximum):
        rule = f"a number of at least {minimum:g}" if maximum is None else f"in [{minimum:g}, {maximum:g}]"
        raise ValueError(f"`{name}` must be {rule}; received: {name}={value!r}")
    return float(value)


def check_finite(name, value):
    """Returns a number that is finite in float32."""
    legal = isinstance(value, Real) and not isinstance(value, bool)
    if not legal or not abs(value) <= float(np.finfo("float32").max):  # nor is NaN
        raise ValueError(f"`{name}` must be a number that is finite in float32; received: {name}={value!r}")
    return float(value)


def check_indexes(name, value, size):
    """Returns distinct indexes below `size` as a tuple; None stands for all of them."""
    if value is None:
        return tuple(range(size))
    indexes = tuple(value) if isinstance(value, Iterable) else ()
    if not indexes or len(set(indexes)) != len(indexes) or any(i not in range(size) for i in indexes):
        raise ValueError(f"`{name}` must be distinct indexes below {size}, or None for all; received: {name}={value!r}")
    return indexes


def check_repeatable(name, data):
    """Returns data that can be iterated over again and again; a generator would be used up after one epoch."""
    if not isinstance(data, Iterable) or iter(data) is data:
        raise ValueError(
            f"`{name}` must be iterable again and again, such as a tf.data.Dataset or a list of batches; "
            f"received: {data!r}"
        )
    return data


def check_reads(shape, name, count):
    """Checks the shape of what `count` readers get, the argument `name` of their layer: one input, or one each."""
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[1] not in (count, None)):
        raise ValueError(
            f"`inputs` must be [batch, dim] or [batch, {name}, dim]; received: shape={tuple(shape)}, {name}={count}"
        )


def per_level(name, value, num_levels):
    """Returns one entry per level: a single number stands for every level, a sequence must have one entry each."""
    if not isinstance(value, list | tuple):
        return (value,) * num_levels
    if len(value) != num_levels:
        raise ValueError(
            f"`{name}` must be a number, or a sequence with an entry for each of the {num_levels} levels; "
            f"received: {name}={value!r}"
        )
    return tuple(value)


def check_tensorflow(name):
    """Refuses every other backend, for what is made of TensorFlow itself."""
    if BACKEND != "tensorflow":
        raise ValueError(f"{name} must run on the TensorFlow backend; received: backend={BACKEND!r}")


def check_activation(value):
    """Returns the function; not a layer, whose weights would fit the tensor that it is first called on."""
    function = keras.activations.get(value)
    if isinstance(function, keras.layers.Layer):
        raise ValueError(f"`activation` must be a function or its name; received: activation={value!r}")
    return function


def is_keras_activation(function):
    """Whether a function is an activation of Keras, each of which works on single entries or along the last axis."""
    return function is getattr(keras.activations, getattr(function, "__name__", ""), None)


def not_binary(values):
    """Those of an array's values that are neither 0 nor 1."""
    return values[~np.isin(values, (0, 1))]


def names_of(argument, names):
    """Names of tasks as a tuple; a name alone stands for itself."""
    if not isinstance(names, Iterable):
        raise ValueError(f"`{argument}` must be a list of names of tasks; received: {argument}={names!r}")
    return (names,) if isinstance(names, str) else tuple(names)
