"""What readers of rows share: the columns that are needed, batches of one size, errors that name the file."""

import csv
from contextlib import contextmanager

import pyarrow as pa


def needed_columns(inputs, keys):
    """The names of the inputs, then those of the keys, each once."""
    return list(dict.fromkeys([*inputs, *keys]))


def check_columns(path, names, inputs, keys):
    """Refuses a file that lacks a needed column or has it twice."""
    for wanted, role in ((inputs, "input of the signature"), (keys, "key")):
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ValueError(
                f"`input` must have a column for each {role}; missing: {missing}; '{path}' has: {list(names)}"
            )
    twice = [name for name in needed_columns(inputs, keys) if list(names).count(name) > 1]
    if twice:
        raise ValueError(f"`input` must have each column once; '{path}' has more than one of: {twice}")


def resized(batches, schema, size):
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
    return pa.RecordBatch.from_arrays([column.combine_chunks() for column in table.columns], schema=table.schema)


@contextmanager
def readable(path, where=""):
    """Turns what pyarrow raises on a damaged Parquet or CSV file into an error of the argument `input`."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        kind = "CSV file with values of the inputs' types" if path.suffix == ".csv" else "Parquet file"
        raise ValueError(f"`input` must be a whole {kind}; '{path}' cannot be read{where}: {error}") from error
