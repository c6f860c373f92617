"""Rows of a TFRecord file."""

from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from serving.op_text import error_text, op_text
from serving.scoring.column_tensors import check_column
from serving.scoring.row_stream import check_columns, needed_columns


class TFRecordRows:
    """The rows of a TFRecord of `tf.train.Example`s; what it has and raises stands under `open_rows`."""

    num_rows = None

    def __init__(self, path, inputs, keys):
        import tensorflow as tf

        self._tf = tf
        self.paths = [path]
        specs = list(inputs.values())
        whole = len(specs) == 1 and specs[0].shape.rank == 1 and specs[0].dtype == tf.string
        self._whole = next(iter(inputs)) if whole else None
        parsed = {} if whole else inputs
        with self._readable():
            records = list(tf.data.TFRecordDataset(str(path)).take(1).as_numpy_iterator())
            first = tf.train.Example.FromString(records[0]).features.feature if records else None
        types = {name: _example_type(name, spec) for name, spec in parsed.items()}
        if first is not None:
            # An empty list may be left out of an Example, a single value may not.
            single = [name for name in parsed if not pa.types.is_list(types[name])]
            check_columns(path, sorted(first), single, keys)
        for key in set(keys) - set(types):
            kind = first[key].WhichOneof("kind") if first is not None else None
            types[key] = {"int64_list": pa.int64(), "float_list": pa.float32()}.get(kind, pa.binary())
        if whole:
            types[self._whole] = pa.binary()
        self._features = {name: _example_feature(tf, types[name]) for name in needed_columns(parsed, keys)}
        self.schema = pa.schema([(name, types[name]) for name in needed_columns(inputs, keys)])

    def batches(self, start, size):
        tf = self._tf
        with self._readable():
            dataset = tf.data.TFRecordDataset(str(self.paths[0])).skip(start).batch(size).prefetch(1)
            for records in dataset:
                try:
                    columns = tf.io.parse_example(records, self._features) if self._features else {}
                except (tf.errors.OpError, UnicodeDecodeError) as error:
                    rows = f"rows {start} to {start + len(records) - 1}"
                    raise ValueError(f"'{self.paths[0]}' cannot be parsed in {rows}: {error_text(error)}") from error
                if self._whole:
                    columns[self._whole] = records
                arrays = [_from_tensor(columns[field.name], field.type) for field in self.schema]
                yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)
                start += len(records)

    @contextmanager
    def _readable(self):
        from google.protobuf.message import DecodeError

        try:
            yield
        except (self._tf.errors.OpError, DecodeError) as error:
            text = op_text(error.message) if isinstance(error, self._tf.errors.OpError) else error
            raise ValueError(
                f"`input` must be a whole TFRecord file; '{self.paths[0]}' cannot be read: {text}"
            ) from error


def _example_type(name, spec):
    value = {"string": pa.binary(), "float32": pa.float32()}.get(spec.dtype.name)
    if value is None:
        if not spec.dtype.is_integer:
            raise TypeError(
                f"Input '{name}' must be text, an integer or float32 to be read from tf.train.Example; "
                f"received: dtype={spec.dtype.name}"
            )
        value = pa.int64()
    if spec.shape.rank == 2 and spec.shape[1] != 1:
        value = pa.list_(value) if spec.shape[1] is None else pa.list_(value, spec.shape[1])
    check_column(name, value, spec)
    return value


def _example_feature(tf, found):
    value = found.value_type if pa.types.is_nested(found) else found
    dtype = tf.string if pa.types.is_binary(value) else tf.as_dtype(value.to_pandas_dtype())
    if pa.types.is_fixed_size_list(found):
        return tf.io.FixedLenFeature([found.list_size], dtype)
    return tf.io.RaggedFeature(dtype) if pa.types.is_list(found) else tf.io.FixedLenFeature([], dtype)


def _from_tensor(tensor, found):
    if pa.types.is_list(found):
        values = pa.array(tensor.flat_values.numpy(), found.value_type)
        return pa.ListArray.from_arrays(pa.array(tensor.row_splits.numpy().astype(np.int32)), values)
    if pa.types.is_fixed_size_list(found):
        return pa.FixedSizeListArray.from_arrays(pa.array(tensor.numpy().reshape(-1), found.value_type), type=found)
    return pa.array(tensor.numpy(), found)
