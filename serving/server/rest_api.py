"""The REST side of the local server: the paths and JSON shapes of TensorFlow Serving, on aiohttp."""

import asyncio
import json
import logging
import re
from urllib.parse import unquote

from aiohttp import web, web_protocol
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2

from serving.request_error import RequestError
from serving.server.model_service import status_response
from serving.server.tensor_json import read_predict_request, write_predict_response
from serving.versions import MAX_VERSION

_LOG = logging.getLogger(__name__)
_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d{1,19}))?"
_PREDICT = re.compile(_MODEL + r":(predict|classify|regress)", re.IGNORECASE)
_LOOK = re.compile(_MODEL + r"(/metadata)?", re.IGNORECASE)
_MAX_BODY = 2**30


class RestApi:
    """Answers `GET /v1/models/NAME`, `GET .../metadata` and `POST ...:predict`, each also with `/versions/V`.

    Errors are `{"error": "..."}` with the HTTP status that TensorFlow Serving gives.

    Args:
        versions: the `ModelVersions` to serve.
        pool: the executor in which requests run.

    Example:

    >>> runner = web.AppRunner(RestApi(versions, pool).application())
    """

    def __init__(self, versions, pool):
        self._versions = versions
        self._pool = pool

    def application(self):
        """Returns the aiohttp application."""
        application = web.Application(client_max_size=_MAX_BODY)
        application.router.add_route("*", "/{path:.*}", self._handle)
        return application

    async def _handle(self, request):
        try:
            text = await self._answer(request)
            return web.Response(text=text, content_type="application/json")
        except RequestError as error:
            return _error(error.http_status, error.text)
        except web.HTTPException as error:  # aiohttp's own, such as a body that is too large
            return _error(error.status, error.text)
        except (ConnectionError, web_protocol.RequestPayloadError) as error:  # a client that left, or mangled the body
            return _error(400, f"the body cannot be read: {error}")
        except Exception as error:
            _LOG.exception("request %s failed", request.path)
            return _error(500, f"{type(error).__name__}: {error}")

    async def _answer(self, request):
        path = request.rel_url.raw_path
        match = (_PREDICT if request.method == "POST" else _LOOK).fullmatch(path)
        if request.method not in ("GET", "POST") or match is None:
            raise RequestError("INVALID_ARGUMENT", f"Malformed request: {request.method} {path}")
        name = unquote(match[1])
        version = int(match[2]) if match[2] else None
        if version is not None and version > MAX_VERSION:
            raise RequestError("INVALID_ARGUMENT", f"Malformed request: {request.method} {path}")
        if request.method == "POST":
            if match[3].lower() != "predict":
                raise RequestError("UNIMPLEMENTED", f":{match[3]} is not served here; use :predict")
            arguments = (self._predict, name, version, await request.read())
        elif match[3]:
            arguments = (self._metadata, name, version)
        else:
            return _to_json(status_response(self._versions, name, version))
        return await asyncio.get_running_loop().run_in_executor(self._pool, *arguments)

    def _predict(self, name, version, body):
        with self._versions.lease(name, version) as (_, servable):
            signature, inputs, is_row = read_predict_request(body, servable.signature)
            outputs = servable.predict(inputs, signature.name)
        return write_predict_response(outputs, is_row)

    def _metadata(self, name, version):
        with self._versions.lease(name, version) as (number, servable):
            signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signature_defs)
            spec = {"name": name, "signature_name": "", "version": str(number)}
            return json.dumps({"model_spec": spec, "metadata": {"signature_def": json.loads(_to_json(signatures))}})


def _to_json(message):
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _error(status, text):
    return web.json_response({"error": text}, status=status)
