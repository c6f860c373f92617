"""Columns of a table as the arrays that a signature takes."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def check_column(name, found, spec):
    """Refuses a column whose type cannot be fed to an input, before the first row is read.

    Text feeds string inputs; integers and booleans feed integer and float inputs; floats feed float inputs. Numbers for
    a float input are rounded to its precision, as NumPy rounds. A list column feeds `[None, None]` and `[None, k]`
    inputs, any other feeds `[None]`, `[None, 1]` and `[None, None]`.

    Args:
        name: Name of the column and of the input.
        found: The column's Arrow type; no dictionary.
        spec: The input's `tf.TensorSpec`.

    Raises:
        TypeError: With the column, the type wanted and the type found.
    """
    rank = spec.shape.rank
    if rank not in (1, 2) or spec.shape[0] is not None:
        raise TypeError(
            f"Input '{name}' of the signature must be [batch] or [batch, values] to be fed from a column; "
            f"received: shape={spec.shape}"
        )
    value_type = found.value_type if is_list(found) else found
    fits = rank == 2 if is_list(found) else rank == 1 or spec.shape[1] in (1, None)
    if not (fits and _accepts(spec.dtype, value_type)):
        wanted = f"a list of {spec.dtype.name}" if rank == 2 and spec.shape[1] != 1 else spec.dtype.name
        raise TypeError(f"Column '{name}' must be {wanted} (input of shape {spec.shape}); received: type={found}")


def column_array(name, column, spec, first_row):
    """One column of a batch, as the array to feed.

    A scalar column becomes `[batch, 1]` (`[batch]` for an input of rank 1), a list column `[batch, longest]`, filled up
    with "" for strings, -1 for integers and 0.0 for floats. A null among the numbers for a float input is NaN, as it is
    for whoever trains on the same file: what NaN means is the model's to say.

    Args:
        name: Name of the column and of the input.
        column: The `pyarrow.Array`, of a type that `check_column` let pass, or the text of numbers: a key of a CSV.
        spec: The input's `tf.TensorSpec`.
        first_row: Number of the batch's first row in the input, counted from 0, for error messages.

    Raises:
        ValueError: On a null where an integer, a string or a list must be, a number that the input's type cannot hold,
            or a list of the wrong length.
    """
    nulls_are_nan = spec.dtype.is_floating
    if column.null_count and (is_list(column.type) or not nulls_are_nan):
        raise ValueError(
            f"Column '{name}' must not hold nulls; received: null in row {first_row + _first_null(column)}"
        )
    if not is_list(column.type):
        array = _values(name, column, spec.dtype, first_row)
        return array if spec.shape.rank == 1 else array[:, None]  # [batch, 1]

    lengths = pc.list_value_length(column).to_numpy()
    width = spec.shape[1]
    if width is None:
        width = max(1, int(lengths.max(initial=0)))
    elif (lengths != width).any():
        row = int(np.argmax(lengths != width))
        raise ValueError(
            f"Column '{name}' must hold lists of {width} values; "
            f"received: {lengths[row]} values in row {first_row + row}"
        )
    flat = column.flatten()
    if flat.null_count and not nulls_are_nan:
        row = pc.list_parent_indices(column)[_first_null(flat)].as_py()
        raise ValueError(f"Column '{name}' must not hold nulls; received: null in the list of row {first_row + row}")
    values = _values(name, flat, spec.dtype, first_row)
    dense = np.full((len(column), width), _padding(spec.dtype), values.dtype)
    dense[np.arange(width) < lengths[:, None]] = values  # [batch, width]
    return dense


def _values(name, column, dtype, first_row):
    if dtype.name == "string":
        # Through binary: bytes objects convert to a string tensor without an encoding step.
        return column.cast(pa.large_binary()).to_numpy(zero_copy_only=False)
    wanted = dtype.as_numpy_dtype
    try:
        if is_text(column.type):  # as pyarrow reads the numbers of a CSV
            column = pc.ascii_trim_whitespace(column)
            column = column.cast(pa.float64()) if dtype.is_floating else column
        if not dtype.is_floating:
            return column.cast(pa.from_numpy_dtype(wanted)).to_numpy(zero_copy_only=False)
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.float32())  # a null among booleans would become None and not NaN
        # NumPy rounds, also an integer that the float cannot hold; a cast of Arrow would refuse that.
        with np.errstate(over="raise"):
            return column.to_numpy(zero_copy_only=False).astype(wanted, copy=False)
    except (pa.ArrowInvalid, FloatingPointError) as error:
        raise ValueError(
            f"Column '{name}' must fit {dtype.name}; "
            f"received: type={column.type} in the batch from row {first_row}: {error}"
        ) from error


def _accepts(dtype, found):
    if dtype.name == "string":
        return is_text(found)
    if dtype.is_bool:
        return pa.types.is_boolean(found)
    whole = pa.types.is_integer(found) or pa.types.is_boolean(found)
    return whole if dtype.is_integer else dtype.is_floating and (whole or pa.types.is_floating(found))


def _padding(dtype):
    if dtype.name == "string":
        return b""
    return -1 if dtype.is_integer else 0


def is_list(found):
    """Whether an Arrow type is a list of any kind that feeds an input."""
    return pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)


def _first_null(column):
    return pc.index(column.is_null(), True).as_py()


def is_text(found):
    """Whether an Arrow type is that of strings or bytes, of any kind."""
    return any(check(found) for check in _TEXT)


_TEXT = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)
