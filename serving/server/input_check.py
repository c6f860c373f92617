"""Refuses a request before the model runs, with a text that names the input, the rule and what came."""

from serving.request_error import RequestError


def check_inputs(signature, inputs):
    """Checks NumPy inputs against a `Signature`.

    Args:
        signature: the `Signature` that was asked for.
        inputs: dict of input name to NumPy array; strings are object arrays of bytes.

    Raises:
        RequestError: INVALID_ARGUMENT for an unknown or a missing input, a wrong dtype, rank or size, a batch
            without rows, or inputs whose numbers of rows differ.
    """
    unknown = sorted(set(inputs) - set(signature.inputs))
    missing = sorted(set(signature.inputs) - set(inputs))
    if unknown or missing:
        _refuse(
            f"inputs of signature '{signature.name}' must be {sorted(signature.inputs)}; "
            f"received: {sorted(inputs)} (missing: {missing}, unknown: {unknown})"
        )
    for name, spec in signature.inputs.items():
        _check_one(spec, inputs[name])
    rows = {name: len(inputs[name]) for name, spec in signature.inputs.items() if spec.is_batched}
    if len(set(rows.values())) > 1:
        _refuse(f"all inputs must have the same number of rows; received: {rows}")


def _check_one(spec, array):
    received = "string" if array.dtype.kind in "OSU" else array.dtype.name
    shape = list(array.shape)
    if received != spec.dtype:
        _refuse(f"input '{spec.name}' must be {spec.dtype}; received: {received} {shape}")
    if spec.is_batched and array.ndim and len(array) == 0:
        _refuse(f"input '{spec.name}' must have at least one row; received: shape {shape}")
    if spec.shape is None:
        return
    if array.ndim != len(spec.shape):
        _refuse(f"input '{spec.name}' must have rank {len(spec.shape)} ({spec}); received: shape {shape}")
    if not spec.takes(array.shape):
        _refuse(f"input '{spec.name}' must be {spec}; received: shape {shape}")


def _refuse(text):
    raise RequestError("INVALID_ARGUMENT", text)
