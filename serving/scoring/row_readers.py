"""Rows of Parquet, CSV and TFRecord files as a stream of record batches, from any row on."""

import csv
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from serving.op_text import op_text
from serving.scoring.column_tensors import check_column

SUFFIXES = (".parquet", ".csv", ".tfrecord", ".tfrecords")


def open_rows(path, inputs, keys=()):
    """Opens a table for scoring, with the columns that a signature and the keys need.

    Args:
        path: A .parquet, .csv, .tfrecord or .tfrecords file, or a directory of .parquet files, read in order of name.
        inputs: Input name -> `tf.TensorSpec`. Each takes the column of its name; a single string input of shape [batch]
            takes, from TFRecord, the whole serialized `tf.train.Example`.
        keys: Names of further columns to read. In CSV they stay text, in TFRecord they take the type of the first row.

    Returns:
        An object with `schema` (of the columns read), `num_rows` (None where only reading would tell), `paths` and
        `batches(start, size)`: an iterator of `pyarrow.RecordBatch`es of exactly `size` rows (the last may be shorter)
        from row `start` on.

    Raises:
        ValueError: If the file cannot be read as what its suffix says, or lacks a column.
        TypeError: If a column cannot feed its input.

    Example:
        >>> rows = open_rows("rows.parquet", signature.inputs, keys=["id"])
        >>> for batch in rows.batches(start=0, size=4096): ...
    """
    path = Path(path)
    if path.is_dir():
        parts = sorted(file for file in path.glob("*.parquet") if not file.name.startswith(("_", ".")))
        if not parts:
            raise ValueError(f"`input` must hold .parquet files if it is a directory; received: input='{path}'")
        return _ParquetRows(parts, inputs, keys)
    if path.suffix == ".parquet":
        return _ParquetRows([path], inputs, keys)
    if path.suffix == ".csv":
        return _CsvRows(path, inputs, keys)
    if path.suffix in (".tfrecord", ".tfrecords"):
        return _TFRecordRows(path, inputs, keys)
    raise ValueError(f"`input` must end in one of {', '.join(SUFFIXES)}; received: input='{path}'")


class _ParquetRows:
    def __init__(self, paths, inputs, keys):
        self.paths = paths
        first = self._open(paths[0]).schema_arrow.remove_metadata()
        _check_columns(paths[0], first.names, inputs, keys)
        for name, spec in inputs.items():
            check_column(name, first.field(name).type, spec)
        # Whether a column may have nulls is for `column_tensors` to say, and may differ from file to file.
        self.schema = pa.schema([first.field(name).with_nullable(True) for name in _columns(inputs, keys)])
        self.num_rows = 0
        for path in paths:
            file = self._open(path)
            found = file.schema_arrow.remove_metadata()
            for field in self.schema:
                if field.name not in found.names or found.field(field.name).type != field.type:
                    raise TypeError(f"'{path}' must have the column {field.name}: {field.type}, as '{paths[0]}' has")
            self.num_rows += file.metadata.num_rows

    def batches(self, start, size):
        return _resized(self._read(start, size), self.schema, size)

    def _read(self, start, size):
        for path in self.paths:
            file = self._open(path)
            groups = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
            first = 0
            while first < len(groups) and start >= groups[first]:
                start -= groups[first]
                first += 1
            if first == len(groups):
                continue
            left = list(range(first, len(groups)))
            with _readable(path):
                for batch in file.iter_batches(size, row_groups=left, columns=self.schema.names):
                    columns = batch.select(self.schema.names).columns
                    yield pa.RecordBatch.from_arrays(columns, schema=self.schema).slice(start)
                    start = max(0, start - len(batch))

    @staticmethod
    def _open(path):
        with _readable(path):
            # With a buffer size, pages are read as they are decoded and not a whole row group at once.
            return pq.ParquetFile(path, buffer_size=1 << 20)


class _CsvRows:
    num_rows = None

    def __init__(self, path, inputs, keys):
        self.paths = [path]
        with _readable(path), path.open(newline="", encoding="utf-8-sig") as stream:
            names = next(csv.reader(stream), None)
        if names is None:
            raise ValueError(f"`input` must have a header row; received: input='{path}', which is empty")
        self._one_column = len(names) == 1
        _check_columns(path, names, inputs, keys)
        types = {name: _arrow_type(spec) for name, spec in inputs.items()}
        for name, spec in inputs.items():
            check_column(name, types[name], spec)
        # What is no feature stays text: guessed types would turn a key "007" into 7.
        self.schema = pa.schema([(name, types.get(name, pa.string())) for name in _columns(inputs, keys)])

    def batches(self, start, size):
        return _resized(_dropped(self._read(), start), self.schema, size)

    def _read(self):
        batches, rows = self._blocks(), 0
        while True:
            with _readable(self.paths[0], f" from row {rows} on"):
                batch = next(batches, None)
            if batch is None:
                return
            rows += len(batch)
            yield batch

    def _blocks(self):
        options = pa_csv.ConvertOptions(
            column_types=self.schema,
            include_columns=self.schema.names,
            null_values=[],  # "NA" and "" are values like any other
            strings_can_be_null=False,
        )
        # Of one column, an empty line is a row with the value "".
        parsing = pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=not self._one_column)
        yield from pa_csv.open_csv(self.paths[0], parse_options=parsing, convert_options=options)


class _TFRecordRows:
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
            _check_columns(path, sorted(first), single, keys)
        for key in set(keys) - set(types):
            kind = first[key].WhichOneof("kind") if first is not None else None
            types[key] = {"int64_list": pa.int64(), "float_list": pa.float32()}.get(kind, pa.binary())
        if whole:
            types[self._whole] = pa.binary()
        self._features = {name: _example_feature(tf, types[name]) for name in _columns(parsed, keys)}
        self.schema = pa.schema([(name, types[name]) for name in _columns(inputs, keys)])

    def batches(self, start, size):
        tf = self._tf
        with self._readable():
            dataset = tf.data.TFRecordDataset(str(self.paths[0])).skip(start).batch(size).prefetch(1)
            for records in dataset:
                try:
                    columns = tf.io.parse_example(records, self._features) if self._features else {}
                except tf.errors.OpError as error:
                    rows = f"rows {start} to {start + len(records) - 1}"
                    raise ValueError(
                        f"'{self.paths[0]}' cannot be parsed in {rows}: {op_text(error.message)}"
                    ) from error
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


@contextmanager
def _readable(path, where=""):
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        kind = "CSV" if path.suffix == ".csv" else "Parquet"
        raise ValueError(f"`input` must be a whole {kind} file; '{path}' cannot be read{where}: {error}") from error


def _columns(inputs, keys):
    return list(dict.fromkeys([*inputs, *keys]))


def _check_columns(path, names, inputs, keys):
    for wanted, role in ((inputs, "input of the signature"), (keys, "key")):
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ValueError(
                f"`input` must have a column for each {role}; missing: {missing}; '{path}' has: {list(names)}"
            )
    twice = [name for name in _columns(inputs, keys) if list(names).count(name) > 1]
    if twice:
        raise ValueError(f"`input` must have each column once; '{path}' has more than one of: {twice}")


def _dropped(batches, start):
    for batch in batches:
        if start < len(batch):
            yield batch.slice(start)
        start = max(0, start - len(batch))


def _resized(batches, schema, size):
    """Batches of exactly `size` rows, so that a resumed run computes the very batches that it would have computed."""
    waiting, rows = [], 0
    for batch in batches:
        waiting.append(batch)
        rows += len(batch)
        while rows >= size:
            table = pa.Table.from_batches(waiting, schema)
            yield _one_batch(table.slice(0, size))
            waiting, rows = table.slice(size).to_batches(), rows - size
    if rows:
        yield _one_batch(pa.Table.from_batches(waiting, schema))


def _one_batch(table):
    arrays = [column.combine_chunks() for column in table.unify_dictionaries().columns]
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)


def _arrow_type(spec):
    return pa.string() if spec.dtype.name == "string" else pa.from_numpy_dtype(spec.dtype.as_numpy_dtype)


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
