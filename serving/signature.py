"""What a signature of a SavedModel takes and gives, as plain Python: neither TensorFlow nor protobuf is needed."""

from dataclasses import dataclass

_DTYPES = {
    "DT_FLOAT": "float32",
    "DT_DOUBLE": "float64",
    "DT_HALF": "float16",
    "DT_BFLOAT16": "bfloat16",
    "DT_BOOL": "bool",
    "DT_STRING": "string",
    **{f"DT_{kind}{bits}": f"{kind.lower()}{bits}" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)},
}

JSON_TYPES = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}}
"""What JSON makes of numbers, by the kind of their dtype."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype (`"float32"`, `"int64"`, `"string"`, ...) and shape of a tensor.

    `shape` holds None for an open dimension, and is None itself when the rank is open.
    """

    name: str
    dtype: str
    shape: tuple | None

    @property
    def is_batched(self):
        return bool(self.shape) and self.shape[0] is None

    @property
    def is_column(self):
        """True for [batch, 1]: one value a row."""
        return self.shape == (None, 1)

    def takes(self, shape):
        """True if an array of this shape fits."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            d in (None, size) for d, size in zip(self.shape, shape, strict=True)
        )

    def __str__(self):
        shape = "any shape" if self.shape is None else "[" + ", ".join(str(d or "batch") for d in self.shape[:1])
        if self.shape is not None:
            shape += "".join(f", {'any' if d is None else d}" for d in self.shape[1:]) + "]"
        return f"{self.dtype} {shape}"


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one signature, each a dict of name to `TensorSpec`.

    Example:

    >>> client.metadata()["serving_default"].inputs["age"].dtype
    'float32'
    """

    name: str
    inputs: dict
    outputs: dict


def read_signatures(signature_defs):
    """Reads the JSON form of SignatureDefs, as REST `/metadata` prints it, into a dict of name to `Signature`.

    The signature with which the loader initialises a model (`__saved_model_init_op`) is left out: nobody can ask it.
    """
    return {
        name: Signature(name, _read_specs(signature.get("inputs")), _read_specs(signature.get("outputs")))
        for name, signature in sorted(signature_defs.items())
        if name != "__saved_model_init_op"
    }


def _read_specs(tensor_infos):
    return {name: _read_spec(name, info) for name, info in sorted((tensor_infos or {}).items())}


def _read_spec(name, info):
    shape = info.get("tensor_shape", {"unknown_rank": True})  # that of a scalar is there, without dimensions
    sizes = tuple(int(dim.get("size", 0)) for dim in shape.get("dim", ()))
    dims = None if shape.get("unknown_rank") else tuple(None if size < 0 else size for size in sizes)
    return TensorSpec(name, _DTYPES.get(info.get("dtype"), info.get("dtype", "unknown")), dims)
