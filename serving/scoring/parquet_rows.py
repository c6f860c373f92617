"""Rows of Parquet files."""

import pyarrow as pa
import pyarrow.parquet as pq

from serving.scoring.column_tensors import check_column, is_list
from serving.scoring.row_stream import check_columns, needed_columns, readable, resized


class ParquetRows:
    """The rows of Parquet files, one after the other; what it has and raises stands under `open_rows`."""

    def __init__(self, paths, inputs, keys):
        self.paths = paths
        first = _schema(self._open(paths[0]))
        check_columns(paths[0], first.names, inputs, keys)
        for name, spec in inputs.items():
            check_column(name, first.field(name).type, spec)
        # Whether a column may have nulls is for `column_tensors` to say, and may differ from file to file.
        self.schema = pa.schema([first.field(name).with_nullable(True) for name in needed_columns(inputs, keys)])
        self.num_rows = 0
        for path in paths:
            file = self._open(path)
            found = _schema(file)
            for field in self.schema:
                if field.name not in found.names or found.field(field.name).type != field.type:
                    raise TypeError(f"'{path}' must have the column {field.name}: {field.type}, as '{paths[0]}' has")
            self.num_rows += file.metadata.num_rows

    def batches(self, start, size):
        return resized(self._read(start, size), self.schema, size)

    def _read(self, start, size):
        for path in self.paths:
            file = self._open(path)
            groups = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
            first = 0
            while first < len(groups) and start >= groups[first]:
                start -= groups[first]
                first += 1
            with readable(path):
                for group in range(first, len(groups)):  # each has dictionaries of its own, which pyarrow may not join
                    for batch in file.iter_batches(size, row_groups=[group], columns=self.schema.names):
                        columns = [batch.column(field.name).cast(field.type) for field in self.schema]
                        yield pa.RecordBatch.from_arrays(columns, schema=self.schema).slice(start)
                        start = max(0, start - len(batch))

    @staticmethod
    def _open(path):
        with readable(path):
            # With a buffer size, pages are read as they are decoded and not a whole row group at once.
            return pq.ParquetFile(path, buffer_size=1 << 20)


def _schema(file):
    """The columns without metadata, and as values where they are dictionaries.

    Dictionaries differ from file to file, and together may have more values than their indexes can count: a `category`
    of pandas counts to 127.
    """
    found = file.schema_arrow.remove_metadata()
    return pa.schema([field.with_type(_without_dictionaries(field.type)) for field in found])


def _without_dictionaries(found):
    if pa.types.is_dictionary(found):
        return found.value_type
    if not is_list(found):
        return found
    values = found.value_field.with_type(_without_dictionaries(found.value_type))
    if pa.types.is_fixed_size_list(found):
        return pa.list_(values, found.list_size)
    return pa.large_list(values) if pa.types.is_large_list(found) else pa.list_(values)
