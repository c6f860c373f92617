"""Replays the warm-up requests of a version before it takes traffic."""

from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.request_error import RequestError
from serving.warmup_file import MAX_WARMUP_REQUESTS, WARMUP_FILE


def replay_warmup(servable, path):
    """Runs every record of `path/assets.extra/tf_serving_warmup_requests`, if there is one.

    The file is a TFRecord of `PredictionLog`; only `predict_log` records can be replayed.

    Args:
        servable: the `Servable` to warm.
        path: its version directory.

    Returns:
        The number of requests run.

    Raises:
        ValueError: a record cannot be read, is of another kind, or is refused by the model; or there are over 1000.
    """
    file = Path(path) / WARMUP_FILE
    if not file.exists():
        return 0
    count = 0
    try:
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            if count == MAX_WARMUP_REQUESTS:
                raise ValueError(f"at most {MAX_WARMUP_REQUESTS} records are allowed")
            _replay(servable, record)
            count += 1
    except (ValueError, RequestError, tf.errors.OpError) as error:
        raise ValueError(f"warm-up record {count} of {file} failed: {error}") from error
    return count


def _replay(servable, record):
    try:
        log = prediction_log_pb2.PredictionLog.FromString(record)
    except Exception as error:  # protobuf's DecodeError, whose home differs between its implementations
        raise ValueError(f"not a PredictionLog: {error}") from error
    if not log.HasField("predict_log"):
        raise ValueError(f"only predict_log is supported; received: {log.WhichOneof('log_type')}")
    request = log.predict_log.request
    inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
    servable.predict(inputs, request.model_spec.signature_name, list(request.output_filter))
