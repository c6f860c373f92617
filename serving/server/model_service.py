"""gRPC ModelService of the local server: which versions there are, and in which state."""

from google.protobuf import json_format
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from serving.request_error import RequestError
from serving.server.grpc_errors import aborting_on_error, target_of, unimplemented


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Answers GetModelStatus; HandleReloadConfigRequest is unimplemented.

    Args:
        versions: the `ModelVersions` to tell about.

    Example:

    >>> model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(versions), server)
    """

    def __init__(self, versions):
        self._versions = versions

    HandleReloadConfigRequest = unimplemented("HandleReloadConfigRequest is not served here; start the server anew")

    async def GetModelStatus(self, request, context):
        async with aborting_on_error(context):
            return status_response(self._versions, *target_of(request))


def status_response(versions, name, version=None):
    """Returns the GetModelStatusResponse for a model, or for one version of it.

    Raises:
        RequestError: NOT_FOUND for an unknown model or version.
    """
    known = versions.statuses() if name == versions.name else []
    chosen = [status for status in known if version in (None, status.version)]
    if not chosen:
        missing = "any versions" if version is None else f"version {version}"
        raise RequestError("NOT_FOUND", f"Could not find {missing} of model {name}; this server has: {versions.name}")
    lines = [
        {
            "version": status.version,
            "state": status.state,
            "status": {"error_code": status.error_code, "error_message": status.error_message},
        }
        for status in reversed(chosen)  # newest first, as TensorFlow Serving lists them
    ]
    return json_format.ParseDict({"model_version_status": lines}, get_model_status_pb2.GetModelStatusResponse())
