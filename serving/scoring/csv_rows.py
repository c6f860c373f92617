"""Rows of a CSV file."""

import csv
import mmap
import re

import pyarrow as pa
import pyarrow.csv as pa_csv

from serving.scoring.column_tensors import check_column
from serving.scoring.row_stream import check_columns, needed_columns, readable, resized

# A value in quotes, as pyarrow reads it: from a quote at its beginning to the next single one. The group is the quote
# that closes it, which ends the value. (The first quote comes before the look behind it: Python searches for it fast.)
_QUOTED = re.compile(rb'"(?<![^,\r\n]")[^"]*+(?:""[^"]*+)*+("(?=[,\r\n]|\Z))?+')


class CsvRows:
    """The rows of a CSV file; what it has and raises stands under `open_rows`."""

    num_rows = None

    def __init__(self, path, inputs, keys):
        self.paths = [path]
        with readable(path), path.open(newline="", encoding="utf-8-sig") as stream:
            names = next(csv.reader(stream), None)
            self._has_rows = bool(stream.read(1))
        if names is None:
            raise ValueError(f"`input` must have a header row; received: input='{path}', which is empty")
        _check_quotes(path)
        self._one_column = len(names) == 1
        check_columns(path, names, inputs, keys)
        types = {name: _arrow_type(spec) for name, spec in inputs.items()}
        for name, spec in inputs.items():
            check_column(name, types[name], spec)
        # Keys stay text, features or not: as a number "007" would become 7.
        types.update(dict.fromkeys(keys, pa.string()))
        self.schema = pa.schema([(name, types[name]) for name in needed_columns(inputs, keys)])

    def batches(self, start, size):
        return resized(_dropped(self._read(), start), self.schema, size)

    def _read(self):
        if not self._has_rows:  # pyarrow refuses a header without the end of its line
            return
        batches, rows = self._blocks(), 0
        while True:
            with readable(self.paths[0], f" from row {rows} on"):
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


def _check_quotes(path):
    """Refuses what would make one value of all rows down to the next quote, or to the end, without a word."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for value in _QUOTED.finditer(text):
            if value[1] is None:
                line = text[: value.start()].count(b"\n") + 1
                raise ValueError(
                    "`input` must close each quote at the end of its value; "
                    f"'{path}' has one in line {line} that is not"
                )


def _dropped(batches, start):
    for batch in batches:
        if start < len(batch):
            yield batch.slice(start)
        start = max(0, start - len(batch))


def _arrow_type(spec):
    if spec.dtype.name == "string":
        return pa.string()
    # In float64 a number is as large as it was written, up to 1e308: what float32 cannot hold is refused, not infinite.
    return pa.float64() if spec.dtype.is_floating else pa.from_numpy_dtype(spec.dtype.as_numpy_dtype)
