"""Requests that TensorFlow Serving replays before it serves a version, so that the first user does not wait."""

from numbers import Integral

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving.exporting.parsing import stored_dtype
from serving.op_text import op_text
from serving.warmup_file import MAX_WARMUP_REQUESTS, WARMUP_FILE


def check_batch_sizes(batch_sizes):
    """Returns them as a tuple."""
    sizes = tuple(batch_sizes) if np.iterable(batch_sizes) else (0,)
    if not all(isinstance(size, Integral) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise ValueError(
            f"`batch_sizes` must be positive integers, such as (1, 8, 64); received: batch_sizes={batch_sizes!r}"
        )
    return sizes


def write_warmup_requests(path, functions, rows, batch_sizes):
    """Writes one request per signature and batch size, filled with `rows` (None: empty strings and zeros).

    Each is run before: a server that fails at one never serves the version.
    """
    if len(functions) * len(batch_sizes) > MAX_WARMUP_REQUESTS:
        raise ValueError(
            f"`batch_sizes` must give at most {MAX_WARMUP_REQUESTS} warm-up requests; "
            f"received: {len(batch_sizes)} sizes for {len(functions)} signatures"
        )
    file = path / WARMUP_FILE
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for name, function in functions.items():
            specs = function.input_signature[0]
            for size in batch_sizes:
                request = predict_pb2.PredictRequest()
                request.model_spec.signature_name = name
                batch = _batch(specs, functions["serving_default"].input_signature[0], rows, size)
                _run(name, function, batch, size)
                for key, tensor in batch.items():
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(tensor))
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
                writer.write(log.SerializeToString())


def _run(name, function, batch, size):
    try:
        function({key: tf.constant(array) for key, array in batch.items()})
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise ValueError(
            "`warmup` must hold rows that the model accepts, or a server would never serve the version; "
            f"received: signature {name!r} failed at batch size {size}: {_first_line(error)}"
        ) from error


def _first_line(error):
    """What was said first, without the program lines that TensorFlow may put before it."""
    lines = getattr(error, "message", str(error)).splitlines()
    said = (op_text(line) for line in lines if not line.startswith("  "))
    return next(filter(None, said), repr(error))


def _batch(specs, features, rows, size):
    batch = {name: _column(spec, rows, size) for name, spec in features.items()}
    if set(features) <= set(specs):
        return batch | {name: _column(spec, None, size) for name, spec in specs.items() if name not in features}
    examples = [
        tf.train.Example(
            features=tf.train.Features(feature={name: _feature(column[row]) for name, column in batch.items()})
        ).SerializeToString()
        for row in range(size)
    ]
    return {"examples": np.array(examples, object)}


def _column(spec, rows, size):
    shape = [size, *(1 if dim is None else dim for dim in spec.shape[1:])]
    if rows is None:
        return np.full(shape, "" if spec.dtype == tf.string else 0, spec.dtype.as_numpy_dtype)
    if spec.name not in rows:
        raise ValueError(f"`warmup` must have every feature; missing: {spec.name!r}; received: {sorted(rows)}")
    try:
        with np.errstate(invalid="raise"):  # NaN would become an integer
            values = np.atleast_1d(rows[spec.name])[:size].astype(spec.dtype.as_numpy_dtype)
    except (FloatingPointError, TypeError, ValueError) as error:
        raise ValueError(f"`warmup` must hold {spec.dtype.name} in {spec.name!r}; received: {error}") from error
    if not len(values):
        raise ValueError(f"`warmup` must have at least one row; received: 0 rows of {spec.name!r}")
    if values.ndim == 1 and spec.shape.rank == 2:
        values = values[:, None]
    values = np.resize(values, (size, *values.shape[1:]))
    if not spec.shape.is_compatible_with(values.shape):
        raise ValueError(
            f"`warmup` must fit the features; received: shape {values.shape} in {spec.name!r}, which takes {spec.shape}"
        )
    return values


def _feature(values):
    values = np.ravel(values)
    kind = stored_dtype(tf.as_dtype(values.dtype))
    if kind == tf.string:
        encoded = [value.encode() if isinstance(value, str) else value for value in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))
    if kind == tf.float32:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value) for value in values]))
