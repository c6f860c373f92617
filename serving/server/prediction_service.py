"""gRPC PredictionService of the local server."""

import asyncio

import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from serving.request_error import RequestError
from serving.server.grpc_errors import aborting_on_error, target_of, unimplemented


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers Predict and GetModelMetadata; Classify, Regress and MultiInference are unimplemented.

    Args:
        versions: the `ModelVersions` to serve.
        pool: the executor in which requests run.

    Example:

    >>> prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(versions, pool), server)
    """

    Classify = unimplemented("Classify is not served here; use Predict")
    Regress = unimplemented("Regress is not served here; use Predict")
    MultiInference = unimplemented("MultiInference is not served here; use Predict")

    def __init__(self, versions, pool):
        self._versions = versions
        self._pool = pool

    async def Predict(self, request, context):
        return await self._run(self._predict, request, context)

    async def GetModelMetadata(self, request, context):
        return await self._run(self._metadata, request, context)

    async def _run(self, function, request, context):
        async with aborting_on_error(context):
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, request)

    def _predict(self, request):
        name, wanted = target_of(request)
        with self._versions.lease(name, wanted) as (version, servable):
            signature = servable.signature(request.model_spec.signature_name)
            inputs = {key: _to_array(key, tensor) for key, tensor in request.inputs.items()}
            outputs = servable.predict(inputs, signature.name, list(request.output_filter))
        response = predict_pb2.PredictResponse(
            outputs={key: tf.make_tensor_proto(array) for key, array in outputs.items()}
        )
        _fill(response.model_spec, name, version, signature.name)
        return response

    def _metadata(self, request):
        name, wanted = target_of(request)
        if list(request.metadata_field) != ["signature_def"]:
            raise RequestError(
                "INVALID_ARGUMENT",
                f"`metadata_field` must be ['signature_def']; received: {list(request.metadata_field)}",
            )
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with self._versions.lease(name, wanted) as (version, servable):
            signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signature_defs)
        response.metadata["signature_def"].Pack(signatures)
        _fill(response.model_spec, name, version)
        return response


def _to_array(name, tensor):
    try:
        return tf.make_ndarray(tensor)
    except (TypeError, ValueError) as error:  # contents that do not fill the shape, or no dtype at all
        raise RequestError("INVALID_ARGUMENT", f"input '{name}' must be a whole TensorProto: {error}") from error


def _fill(spec, name, version, signature_name=""):
    spec.name = name
    spec.version.value = version
    spec.signature_name = signature_name
