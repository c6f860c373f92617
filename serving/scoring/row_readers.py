"""Rows of Parquet, CSV and TFRecord files as a stream of record batches, from any row on."""

from pathlib import Path

from serving.scoring.csv_rows import CsvRows
from serving.scoring.output_file import TFRECORD
from serving.scoring.parquet_rows import ParquetRows
from serving.scoring.tfrecord_rows import TFRecordRows

SUFFIXES = (".parquet", ".csv", *TFRECORD)


def open_rows(path, inputs, keys=()):
    """Opens a table for scoring, with the columns that a signature and the keys need.

    Args:
        path: A .parquet, .csv, .tfrecord or .tfrecords file, or a directory of .parquet files and nothing else, read in
            order of name; in it, names that begin with `_` or `.` are passed over.
        inputs: Input name -> `tf.TensorSpec`. Each takes the column of its name; a single string input of shape [batch]
            takes, from TFRecord, the whole serialized `tf.train.Example`.
        keys: Names of further columns to read. In CSV they are text, also where they feed an input; in TFRecord they
            take the type of the first row.

    Returns:
        An object with `schema` (of the columns read, without dictionaries), `num_rows` (None where only reading would
        tell), `paths` and `batches(start, size)`: an iterator of `pyarrow.RecordBatch`es of exactly `size` rows (the
        last may be shorter) from row `start` on.

    Raises:
        ValueError: If the file cannot be read as what its suffix says, or lacks a column; if a CSV file opens a quote
            that does not close at the end of its value; if a directory holds anything else than .parquet files.
        TypeError: If a column cannot feed its input.

    Example:
        >>> rows = open_rows("rows.parquet", signature.inputs, keys=["id"])
        >>> for batch in rows.batches(start=0, size=4096): ...
    """
    path = Path(path)
    if path.is_dir():
        return ParquetRows(_parquet_files(path), inputs, keys)
    if path.suffix == ".parquet":
        return ParquetRows([path], inputs, keys)
    if path.suffix == ".csv":
        return CsvRows(path, inputs, keys)
    if path.suffix in TFRECORD:
        return TFRecordRows(path, inputs, keys)
    raise ValueError(f"`input` must end in one of {', '.join(SUFFIXES)}; received: input='{path}'")


def _parquet_files(directory):
    entries = sorted(entry for entry in directory.iterdir() if not entry.name.startswith(("_", ".")))
    others = [entry.name for entry in entries if entry.is_dir() or entry.suffix != ".parquet"]
    if others:  # passed over, they would leave rows without a score
        raise ValueError(
            "`input` must hold .parquet files and nothing else if it is a directory; "
            f"received: input='{directory}', which also holds: {', '.join(others[:10] + ['...'] * (len(others) > 10))}"
        )
    if not entries:
        raise ValueError(f"`input` must hold .parquet files if it is a directory; received: input='{directory}'")
    return entries
