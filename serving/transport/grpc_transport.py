"""gRPC calls of the client."""

import grpc
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.signature import read_signatures
from serving.transport.serving_error import ServingError, ServingTimeoutError

_OPTIONS = [
    # gRPC's default is 4 MB; what remains is protobuf's own 2 GB
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),
    # after an outage gRPC would wait ever longer, up to 120 s, before it looks whether the server is back
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class GrpcTransport:
    """Calls TensorFlow Serving's PredictionService and ModelService over one channel.

    Args:
        address: `"host:port"`, or any target that gRPC resolves.
        model_name: the model.

    Example:

    >>> GrpcTransport("127.0.0.1:8500", "ctr").status(Deadline(5.0))
    """

    def __init__(self, address, model_name):
        self._address = address
        self._model_name = model_name
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._model = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def status(self, deadline):
        request = get_model_status_pb2.GetModelStatusRequest()
        answer = self._call(self._model.GetModelStatus, request, None, deadline)
        return _to_dict(answer).get("model_version_status", [])

    def metadata(self, version, deadline):
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        answer = self._call(self._prediction.GetModelMetadata, request, version, deadline)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(signatures)
        return read_signatures(_to_dict(signatures).get("signature_def", {}))

    def predict(self, arrays, signature, version, deadline):
        request = predict_pb2.PredictRequest()
        for name, array in arrays.items():
            if name in signature.inputs and signature.inputs[name].dtype == "bfloat16":
                array = array.astype(tf.bfloat16.as_numpy_dtype)
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        request.model_spec.signature_name = signature.name
        answer = self._call(self._prediction.Predict, request, version, deadline)
        return {name: tf.make_ndarray(tensor) for name, tensor in answer.outputs.items()}

    def close(self):
        self._channel.close()

    def _call(self, method, request, version, deadline):
        request.model_spec.name = self._model_name
        if version is not None:
            request.model_spec.version.value = version
        try:
            return method(request, timeout=deadline.remaining())
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise ServingTimeoutError(self._address, deadline.seconds) from error
            raise ServingError(error.code().name, error.details(), self._address) from error


def _to_dict(message):
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
