"""Turns the features a caller has at hand (lists, arrays, Series) into what a signature takes. NumPy only."""

import numpy as np


def feature_arrays(features, signature):
    """Returns `features` as NumPy arrays of the signature's dtypes.

    A 1-D value becomes [batch, 1] where the signature says [batch, 1], and only there: a [batch] input, such as the
    serialized examples, stays [batch]. Integers become floats, and integers of any kind that holds them; floats are
    never cut to integers. Strings become object arrays of str or bytes. A name that the signature does not know is
    passed on, for the server to refuse.

    Args:
        features: dict of input name to list, array or scalar.
        signature: the `Signature` that is asked.

    Raises:
        TypeError: a value whose dtype cannot become the signature's.
        ValueError: rows of unequal length, or a number too large for the dtype.

    Example:

    >>> feature_arrays({"age": [31, 45]}, signature)
    {'age': array([[31.], [45.]], dtype=float32)}
    """
    return {name: _feature_array(name, value, signature.inputs.get(name)) for name, value in features.items()}


def _feature_array(name, value, spec):
    is_string = spec is not None and spec.dtype == "string"
    try:
        # through object: NumPy's own byte strings lose trailing zero bytes
        array = np.asarray(value, dtype=object if is_string and not hasattr(value, "dtype") else None)
        if array.dtype.kind == "O" and any(isinstance(item, (list, tuple, np.ndarray)) for item in array.flat):
            raise ValueError("a list among values")
    except ValueError as error:
        raise ValueError(
            f"`features['{name}']` must have rows of one length (pad them); received: {_show(value)}"
        ) from error
    if spec is not None:
        array = _strings(name, array) if is_string else _cast(name, array, spec.dtype)
        if spec.is_column and array.ndim == 1:
            array = array.reshape(-1, 1)
    return array


def _strings(name, array):
    array = array.astype(object)
    for item in array.flat:
        if not isinstance(item, (str, bytes)):
            raise TypeError(f"`features['{name}']` must hold str or bytes; received: {_show(item)}")
    return array


def _cast(name, array, dtype):
    if dtype == "bfloat16":  # float32 is the nearest that NumPy has
        dtype = "float32"
    target = np.dtype(dtype)
    # an integer may become any other and a float: whether it does is told below, by its value
    is_whole = array.dtype.kind in "iu" and target.kind in "iuf"
    if array.size and not is_whole and not np.can_cast(array.dtype, target, "same_kind"):
        raise TypeError(
            f"`features['{name}']` must hold {dtype}; received: dtype {array.dtype}, {_show(array.tolist())}"
        )
    with np.errstate(over="ignore"):
        cast = array.astype(target)
    if array.size and not _fits(array, cast):
        raise ValueError(f"`features['{name}']` must fit {dtype}; received: {_show(array.tolist())}")
    return cast


def _fits(array, cast):
    if cast.dtype.kind in "iu":
        return np.array_equal(cast, array)
    # what was finite must not have become infinite
    return cast.dtype.kind != "f" or np.array_equal(np.isinf(cast), np.isinf(array))


def _show(value):
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."
