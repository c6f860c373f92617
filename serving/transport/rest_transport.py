"""REST calls of the client, on requests: neither TensorFlow nor gRPC is imported."""

import base64
import json
from urllib.parse import quote

import numpy as np
import requests
import urllib3

from serving.request_error import RequestError
from serving.signature import read_signatures
from serving.transport.serving_error import ServingError, ServingTimeoutError

_CODES = {
    **{status: code for code, status in reversed(RequestError.HTTP_STATUS.items())},
    408: "DEADLINE_EXCEEDED",
    413: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
}
_CHUNK = 2**20
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


class RestTransport:
    """Calls TensorFlow Serving's REST paths; column format, so that the request is small.

    Args:
        address: `"host:port"` or `"http://host:port"`, also with a path prefix or https.
        model_name: the model.

    Example:

    >>> RestTransport("127.0.0.1:8501", "ctr").status(Deadline(5.0))
    """

    def __init__(self, address, model_name):
        self._address = address
        base = address if "://" in address else f"http://{address}"
        self._url = f"{base.rstrip('/')}/v1/models/{quote(model_name, safe='')}"
        self._session = requests.Session()
        pool = requests.adapters.HTTPAdapter(pool_maxsize=64, max_retries=0)
        self._session.mount("http://", pool)
        self._session.mount("https://", pool)

    def status(self, deadline):
        return self._call("GET", self._url, deadline)["model_version_status"]

    def metadata(self, version, deadline):
        answer = self._call("GET", self._versioned(version) + "/metadata", deadline)
        return read_signatures(answer["metadata"]["signature_def"]["signature_def"])

    def predict(self, arrays, signature, version, deadline):
        body = {"signature_name": signature.name, "inputs": {name: _to_json(array) for name, array in arrays.items()}}
        answer = self._call("POST", self._versioned(version) + ":predict", deadline, json.dumps(body))["outputs"]
        named = {next(iter(signature.outputs)): answer} if len(signature.outputs) == 1 else answer
        if not isinstance(named, dict) or set(named) != set(signature.outputs):
            raise ServingError(
                "ABORTED", f"outputs are no longer {sorted(signature.outputs)}; ask again", self._address
            )
        return {name: _from_json(value, signature.outputs[name].dtype) for name, value in named.items()}

    def close(self):
        self._session.close()

    def _versioned(self, version):
        return self._url if version is None else f"{self._url}/versions/{version}"

    def _call(self, method, url, deadline, body=None):
        try:
            response = self._session.request(
                method, url, data=body, timeout=deadline.remaining(), stream=True, headers=_HEADERS
            )
            content = self._read(response, deadline)
        except (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as error:
            raise ServingTimeoutError(self._address, deadline.seconds) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise ServingError("UNAVAILABLE", str(error), self._address) from error
        try:
            answer = json.loads(content)
        except ValueError as error:
            text = f"HTTP {response.status_code} with a body that is no JSON: {content[:200]!r}"
            raise ServingError(_CODES.get(response.status_code, "UNKNOWN"), text, self._address) from error
        if response.status_code != 200:
            text = answer.get("error", answer) if isinstance(answer, dict) else answer
            raise ServingError(_CODES.get(response.status_code, "UNKNOWN"), str(text), self._address)
        return answer

    def _read(self, response, deadline):
        # requests' own timeout starts anew with every packet: a server that drips would never be late
        with response:
            chunks = []
            while chunk := response.raw.read1(_CHUNK, decode_content=True):
                chunks.append(chunk)
                if deadline.is_over():
                    raise TimeoutError
            return b"".join(chunks)


def _to_json(array):
    if array.dtype.kind != "O":
        return array.tolist()
    if array.ndim:
        return [_to_json(np.asarray(item, dtype=object)) for item in array]
    value = array.item()
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _from_json(value, dtype):
    if dtype != "string":
        return np.asarray(value, dtype="float32" if dtype == "bfloat16" else dtype)
    array = np.asarray(value, dtype=object)
    array.flat = [base64.b64decode(v["b64"]) if isinstance(v, dict) else v.encode() for v in array.flat]
    return array
