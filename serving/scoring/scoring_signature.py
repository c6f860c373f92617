"""One signature of a SavedModel as a function from columns to columns."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from serving.op_text import error_text
from serving.scoring.column_tensors import column_array
from serving.versions import find_versions


class ScoringSignature:
    """Loads a SavedModel and runs one of its signatures on record batches.

    Args:
        directory: A SavedModel, or a directory of numeric versions, of which the newest is taken.
        signature: Name of the signature. Defaults to `"examples"` if `from_examples` and the model has it, otherwise
            to `"serving_default"`.
        from_examples: Whether the rows are serialized `tf.train.Example`s.

    Attributes:
        path: The SavedModel's directory.
        version: Its number, None if the directory's name is not a number.
        name: The signature's name.
        inputs: Input name -> `tf.TensorSpec`.
        fields: A `pyarrow.Field` for each task: in the manifest's order, or sorted where there is no manifest.

    Raises:
        ValueError: If `directory` holds no SavedModel, or the signature is not among its signatures.

    Example:
        >>> signature = ScoringSignature("build/model", "ctr")
        >>> signature(pa.RecordBatch.from_pydict({"price": [1.5]}), first_row=0)
    """

    def __init__(self, directory, signature=None, from_examples=False):
        self.path, self.version = _newest_version(directory)
        import tensorflow as tf  # here, so that `mtl-score --help` does not wait for it

        self._tf = tf
        try:
            self._model = tf.saved_model.load(str(self.path))
        except Exception as error:  # damage shows as anything from OSError to IndexError
            raise ValueError(
                f"`model` must be a SavedModel that TensorFlow can load; received: model='{self.path}': {error}"
            ) from error
        known = self._model.signatures
        if signature is None:
            signature = "examples" if from_examples and "examples" in known else "serving_default"
        if signature not in known:
            raise ValueError(f"`signature` must be one of {sorted(known)}; received: signature='{signature}'")
        self.name = signature
        self._function = known[signature]
        # By the specs' own names: the keys are Python's, `C_1` for a feature `C-1`.
        specs = self._function.structured_input_signature[1].values()
        self.inputs = {spec.name: spec for spec in sorted(specs, key=lambda spec: spec.name)}
        specs = self._function.structured_outputs
        self.fields = [pa.field(task, _arrow_type(task, specs[task])) for task in _task_order(self.path, specs)]

    def __call__(self, batch, first_row):
        """The tasks' columns for a `pyarrow.RecordBatch` whose first row is row `first_row` of the input."""
        feeds = {}
        for name, spec in self.inputs.items():
            array = column_array(name, batch.column(name), spec, first_row)
            feeds[name] = self._tf.constant(array, spec.dtype)
        rows = f"rows {first_row} to {first_row + len(batch) - 1}"
        try:
            outputs = {name: tensor.numpy() for name, tensor in self._function(**feeds).items()}
        except (self._tf.errors.OpError, UnicodeDecodeError) as error:
            raise RuntimeError(f"Signature '{self.name}' failed on {rows}: {error_text(error)}") from error
        return [_column(field, outputs[field.name], len(batch), first_row) for field in self.fields]

    def fingerprint(self):
        """A checksum of the graph, the weights and the vocabularies."""
        # The index holds a checksum of every weight, so the weights themselves need not be read.
        files = [self.path / "saved_model.pb", *(self.path / "variables").glob("*.index")]
        files += [file for file in (self.path / "assets").rglob("*") if file.is_file()]
        digest = hashlib.sha256()
        for file in sorted(files):
            digest.update(str(file.relative_to(self.path)).encode() + b"\0")
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def _newest_version(directory):
    path = Path(directory)
    if (path / "saved_model.pb").is_file():
        return path, int(path.name) if path.name.isdecimal() else None
    versions = {number: found for number, found in find_versions(path).items() if (found / "saved_model.pb").is_file()}
    if not versions:
        raise ValueError(
            "`model` must be a SavedModel (a directory with saved_model.pb) or a directory of numeric versions of one; "
            f"received: model='{directory}'"
        )
    newest = max(versions)
    return versions[newest], newest


def _task_order(path, outputs):
    try:
        tasks = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["tasks"]
    except FileNotFoundError:
        tasks = []
    except (ValueError, KeyError) as error:
        raise ValueError(f"'{path / 'manifest.json'}' must be a manifest with `tasks`: {error!r}") from error
    return [task for task in tasks if task in outputs] + sorted(set(outputs) - set(tasks))


def _arrow_type(task, spec):
    shape = spec.shape
    if shape.rank not in (1, 2):
        raise ValueError(f"Output '{task}' must be [batch] or [batch, classes]; received: shape={shape}")
    if spec.dtype.name == "string":
        value = pa.binary()
    else:
        value = pa.from_numpy_dtype(np.float32 if spec.dtype.name == "bfloat16" else spec.dtype.as_numpy_dtype)
    if shape.rank == 1 or shape[1] == 1:
        return value
    return pa.list_(value) if shape[1] is None else pa.list_(value, shape[1])


def _column(field, values, rows, first_row):
    if len(values) != rows:
        raise RuntimeError(
            f"Output '{field.name}' must have one row for each row of the input; "
            f"received: {len(values)} for the {rows} rows from row {first_row}"
        )
    if values.dtype.name == "bfloat16":  # Arrow has no such type
        values = values.astype(np.float32)
    if values.dtype.kind == "f" and np.isnan(values).any():
        row = int(np.argmax(np.isnan(values).reshape(rows, -1).any(axis=1)))
        raise RuntimeError(
            f"Output '{field.name}' is NaN in row {first_row + row}; look for NaN in that row's features"
        )
    if not pa.types.is_nested(field.type):
        return pa.array(values.reshape(rows), field.type)
    flat = pa.array(values.reshape(-1), field.type.value_type)
    if pa.types.is_fixed_size_list(field.type):
        return pa.FixedSizeListArray.from_arrays(flat, type=field.type)
    offsets = np.arange(rows + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=field.type)
