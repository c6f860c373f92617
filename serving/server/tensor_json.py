"""The JSON of TensorFlow Serving's REST predict: row format (`instances`) and column format (`inputs`).

A row is a value, or an object of values by input name; a column holds all rows of one input. Bytes are
`{"b64": "..."}`.
As in TensorFlow Serving, NaN and the infinities are written and read as the bare words NaN, Infinity, -Infinity, and a
[batch, 1] input takes `[1.0]` for a row and not `1.0`.
"""

import base64
import binascii
import json

import numpy as np

from serving.request_error import RequestError
from serving.signature import JSON_TYPES

_SHOWN = 80  # characters of an offending value that an error repeats


def read_predict_request(body, get_signature):
    """Reads the body of a `:predict` request.

    Args:
        body: JSON text.
        get_signature: function from a signature's name ("" when the request has none) to its `Signature`.

    Returns:
        (signature, dict of input name to NumPy array, True for row format).

    Raises:
        RequestError: INVALID_ARGUMENT, with what is wrong and where.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"JSON Parse error: {error}") from error
    if not isinstance(request, dict):
        raise _invalid(f"request must be a JSON object; received: {_show(request)}")
    name = request.get("signature_name", "")
    if not isinstance(name, str):
        raise _invalid(f"'signature_name' key must be a string value; received: {_show(name)}")
    signature = get_signature(name)
    if ("instances" in request) == ("inputs" in request):
        raise _invalid(
            "request must have one of the keys 'instances' (row format) and 'inputs' (column format); "
            f"received: {sorted(request)}"
        )
    is_row = "instances" in request
    columns = _columns_of_rows(request["instances"], signature) if is_row else _columns(request["inputs"], signature)
    specs = signature.inputs
    arrays = {name: _read_tensor(value, specs[name]) if name in specs else value for name, value in columns.items()}
    return signature, arrays, is_row


def write_predict_response(outputs, is_row):
    """Writes NumPy outputs as the JSON text of a response: `predictions` in row format, `outputs` in column format.

    A single output is not named. Strings are text, or `{"b64": ...}` where the output's name ends in `_bytes` or the
    bytes are no UTF-8.

    Raises:
        RequestError: INVALID_ARGUMENT where row format is asked for and the outputs do not have one row for each.
    """
    lists = {name: _write_tensor(name, array) for name, array in outputs.items()}
    if not is_row:
        return json.dumps({"outputs": next(iter(lists.values())) if len(lists) == 1 else lists})
    counts = {name: len(array) if array.ndim else None for name, array in outputs.items()}
    if len(set(counts.values())) != 1 or None in counts.values():
        shapes = {name: list(array.shape) for name, array in outputs.items()}
        raise _invalid(
            f"outputs must have equal numbers of rows in row format; received: {shapes}. Use 'inputs' instead"
        )
    if len(lists) == 1:
        return json.dumps({"predictions": next(iter(lists.values()))})
    return json.dumps(
        {"predictions": [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]}
    )


def _columns_of_rows(rows, signature):
    if not isinstance(rows, list):
        raise _invalid(f"'instances' must be a list; received: {_show(rows)}")
    if not rows:
        raise _invalid("'instances' must have at least one row; received: []")
    if not _is_named(rows[0]):
        if any(_is_named(row) for row in rows):
            raise _invalid("'instances' must be all values or all objects; received: both")
        return {_only_input(signature, "instances"): rows}
    names = rows[0].keys()
    for index, row in enumerate(rows):
        if not _is_named(row) or row.keys() != names:
            keys = sorted(row) if _is_named(row) else _show(row)
            raise _invalid(f"'instances' must have the same keys in every row; received: {keys} in row {index}")
    return {name: [row[name] for row in rows] for name in names}


def _columns(value, signature):
    return value if _is_named(value) else {_only_input(signature, "inputs"): value}


def _only_input(signature, key):
    if len(signature.inputs) != 1:
        raise _invalid(f"'{key}' must name its values: signature '{signature.name}' takes {sorted(signature.inputs)}")
    return next(iter(signature.inputs))


def _is_named(value):
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value):
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _read_tensor(value, spec):
    try:
        leaves = np.array(value, dtype=object)  # object keeps JSON's own types: true is no number, "1" no float
        if any(isinstance(leaf, list) for leaf in leaves.flat):
            raise ValueError("a list among values")
    except (RuntimeError, ValueError) as error:  # a RuntimeError of NumPy's where there are more than 32 lists in lists
        raise _invalid(f"input '{spec.name}' must have rows of one length; received: {_show(value)}") from error
    if spec.is_column and leaves.ndim == 1 and leaves.size:
        row = leaves[0]
        raise _invalid(f"input '{spec.name}' must be {spec}: {_show([row])} for a row; received: {_show(row)}")
    if spec.dtype == "string":
        return _map(leaves, lambda leaf: _read_bytes(leaf, spec))
    return _cast(leaves, spec)


def _cast(leaves, spec):
    # bfloat16 is unknown to NumPy alone; TensorFlow, which this server runs on, registers it
    dtype = np.dtype(spec.dtype)
    allowed = JSON_TYPES.get(dtype.kind, {int, float})
    if not set(map(type, leaves.flat)) <= allowed:
        wrong = next(leaf for leaf in leaves.flat if type(leaf) not in allowed)
        raise _invalid(f"input '{spec.name}' must be {spec.dtype}; received: {_show(wrong)}")
    try:
        with np.errstate(over="ignore"):
            array = leaves.astype(dtype)
            if dtype.kind not in "iub" and (np.isinf(array) & ~np.isinf(leaves.astype(np.float64))).any():
                raise OverflowError("a finite number became infinite")
    except OverflowError as error:
        raise _invalid(f"input '{spec.name}' must fit {spec.dtype}; received: {_show(leaves.tolist())}") from error
    return array


def _read_bytes(leaf, spec):
    if isinstance(leaf, str):
        try:
            return leaf.encode()
        except UnicodeEncodeError as error:  # JSON can write half of a pair, "\ud83d", and UTF-8 cannot
            raise _invalid(f"input '{spec.name}' must be whole characters; received: {_show(leaf)}") from error
    if not _is_base64(leaf):
        raise _invalid(f"input '{spec.name}' must be string; received: {_show(leaf)}")
    try:
        return base64.b64decode(leaf["b64"], validate=True)
    except binascii.Error as error:
        raise _invalid(f"input '{spec.name}' must hold base64 under 'b64'; received: {_show(leaf)}") from error


def _write_tensor(name, array):
    if array.dtype.kind == "O":
        as_base64 = name.endswith("_bytes")
        return _map(array, lambda value: _write_bytes(value, as_base64)).tolist()
    if array.dtype.itemsize < 8 and array.dtype.kind not in "iub":
        # the shortest text that gives the same float32 back: 0.1, not 0.10000000149011612
        array = array.astype(np.float32).astype(str).astype(np.float64)
    return array.tolist()


def _write_bytes(value, as_base64):
    if not as_base64:
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(value).decode()}


def _map(array, function):
    mapped = np.empty(array.shape, dtype=object)
    mapped.flat = [function(value) for value in array.flat]
    return mapped


def _show(value):
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _invalid(text):
    return RequestError("INVALID_ARGUMENT", text)
