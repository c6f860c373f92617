"""Scores as Parquet, or as TFRecord of tf.train.Example."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving.scoring.column_tensors import is_list, is_text


def write_parquet(path, schema, tables):
    """Writes tables of one schema to a Parquet file, one row group each."""
    with pa.OSFile(str(path), "wb") as sink, pq.ParquetWriter(sink, schema) as writer:
        for table in tables:
            writer.write_table(table)


def write_tfrecord(path, schema, tables):
    """Writes tables of one schema to a TFRecord file, one `tf.train.Example` a row; a null is a feature left out.

    Raises:
        TypeError: If a column's type has no lossless place in an Example: it knows bytes, int64 and float32.
    """
    import tensorflow as tf

    check_tfrecord_schema(schema)
    try:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for table in tables:
                columns = [(field.name, _feature_maker(tf, field.type), table[field.name]) for field in schema]
                for row in zip(*(column.to_pylist() for _, _, column in columns), strict=True):
                    features = {
                        name: make(value)
                        for (name, make, _), value in zip(columns, row, strict=True)
                        if value is not None
                    }
                    example = tf.train.Example(features=tf.train.Features(feature=features))
                    writer.write(example.SerializeToString())
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


def check_tfrecord_schema(schema):
    """Refuses a schema that `write_tfrecord` could not write, before the first row is scored."""
    for field in schema:
        if _kind(field.type) is None:
            raise TypeError(
                f"Column '{field.name}' must be text, bytes, integers of int64, booleans or float32 to be written as "
                f"tf.train.Example; received: type={field.type}; write Parquet instead"
            )


def check_tfrecord_batch(batch, first_row):
    """Refuses rows that `write_tfrecord` could not write: an Example has no place for a null in a list."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_nested(column.type) and pc.any(pc.is_null(column.flatten())).as_py():
            row = next(row for row, values in enumerate(column.to_pylist()) if values and None in values)
            raise ValueError(
                f"Column '{name}' must have no nulls in its lists to be written as tf.train.Example; "
                f"received: one in row {first_row + row}; write Parquet instead"
            )


def _kind(found):
    if is_list(found):
        found = found.value_type
    if pa.types.is_uint64(found):
        return None
    if pa.types.is_integer(found) or pa.types.is_boolean(found):
        return "int64"
    if pa.types.is_float32(found) or pa.types.is_float16(found):
        return "float"
    return "bytes" if is_text(found) else None


def _feature_maker(tf, found):
    kind = _kind(found)
    makers = {
        "int64": lambda values: tf.train.Feature(int64_list=tf.train.Int64List(value=values)),
        "float": lambda values: tf.train.Feature(float_list=tf.train.FloatList(value=values)),
        "bytes": lambda values: tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[v.encode() if isinstance(v, str) else v for v in values])
        ),
    }
    return lambda value: makers[kind](value if isinstance(value, list) else [value])
