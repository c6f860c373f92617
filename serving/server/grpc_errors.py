"""What both gRPC services share: the model and version a request asks for, and errors with a status code."""

from contextlib import asynccontextmanager

import grpc

from serving.request_error import RequestError

_MAX_BYTES = 2600  # a status travels in HTTP/2 trailers, three characters a byte, which clients limit to 8 KB


@asynccontextmanager
async def aborting_on_error(context):
    """Ends the call with the code and the text of a `RequestError` raised inside."""
    try:
        yield
    except RequestError as error:
        await context.abort(grpc.StatusCode[error.code], _cut(error.text))


def target_of(request):
    """Returns (name of the model, version or None for the latest) that a request asks for.

    Raises:
        RequestError: INVALID_ARGUMENT without a ModelSpec, or with a version label: this server has no labels.
    """
    if not request.HasField("model_spec"):
        raise RequestError("INVALID_ARGUMENT", "Missing ModelSpec")
    spec = request.model_spec
    if spec.HasField("version_label"):
        raise RequestError("INVALID_ARGUMENT", f"Unrecognized servable version label: {spec.version_label}")
    return spec.name, spec.version.value if spec.HasField("version") else None


def _cut(text):
    return text.encode(errors="replace")[:_MAX_BYTES].decode(errors="ignore")


def unimplemented(text):
    """Returns a service method that refuses every call with UNIMPLEMENTED and `text`."""

    async def refuse(self, request, context):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, text)

    return refuse
