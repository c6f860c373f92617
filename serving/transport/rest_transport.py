"""REST calls of the client, on requests: neither TensorFlow nor gRPC is imported."""

import base64
import json
from urllib.parse import quote

import numpy as np
import requests
import urllib3

from serving.request_error import RequestError
from serving.signature import JSON_TYPES, read_signatures
from serving.transport.serving_error import ServingError, ServingTimeoutError
from serving.transport.timely_http import TimelyAdapter

_CODES = {
    **{status: code for code, status in reversed(RequestError.HTTP_STATUS.items())},
    408: "DEADLINE_EXCEEDED",
    413: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
}
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
        pool = TimelyAdapter(pool_maxsize=64, max_retries=0)
        self._session.mount("http://", pool)
        self._session.mount("https://", pool)

    def status(self, deadline):
        return self._call("GET", self._url, deadline, "model_version_status")

    def metadata(self, version, deadline):
        metadata = self._call("GET", self._versioned(version) + "/metadata", deadline, "metadata")
        return read_signatures(metadata["signature_def"]["signature_def"])

    def predict(self, arrays, signature, version, deadline):
        body = {"signature_name": signature.name, "inputs": {name: _to_json(array) for name, array in arrays.items()}}
        answer = self._call("POST", self._versioned(version) + ":predict", deadline, "outputs", json.dumps(body))
        specs = signature.outputs
        is_named = isinstance(answer, dict) and set(answer) != {"b64"}  # that would be one value of bytes
        named = answer if is_named or len(specs) != 1 else {next(iter(specs)): answer}
        if not isinstance(named, dict) or set(named) != set(specs):
            raise ServingError("ABORTED", f"outputs are no longer {sorted(specs)}; ask again", self._address)
        return {name: self._output(value, specs[name]) for name, value in named.items()}

    def close(self):
        self._session.close()

    def _output(self, value, spec):
        try:
            return _from_json(value, spec)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            text = f"output '{spec.name}' is no longer {spec}; ask again"
            raise ServingError("ABORTED", text, self._address) from error

    def _versioned(self, version):
        return self._url if version is None else f"{self._url}/versions/{version}"

    def _call(self, method, url, deadline, key, body=None):
        """What the answer has under `key`."""
        timeout = urllib3.Timeout(total=deadline.remaining())
        try:
            # A redirected POST would arrive as a GET, without its body.
            with self._session.request(
                method, url, data=body, timeout=timeout, stream=True, headers=_HEADERS, allow_redirects=False
            ) as response:
                content = response.raw.read(decode_content=True)
        except (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as error:
            raise ServingTimeoutError(self._address, deadline.seconds) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if _timed_out(error):
                raise ServingTimeoutError(self._address, deadline.seconds) from error
            raise ServingError("UNAVAILABLE", str(error), self._address) from error
        if response.is_redirect:
            text = f"HTTP {response.status_code}, a redirect, which is not followed; "
            text += f"give `address` where it leads: {response.headers['location']}"
            raise ServingError("UNKNOWN", text, self._address)
        try:
            answer = json.loads(content)
        except ValueError as error:
            text = f"HTTP {response.status_code} with a body that is no JSON: {content[:200]!r}"
            raise ServingError(_CODES.get(response.status_code, "UNKNOWN"), text, self._address) from error
        if response.status_code != 200:
            text = answer.get("error", answer) if isinstance(answer, dict) else answer
            raise ServingError(_CODES.get(response.status_code, "UNKNOWN"), str(text), self._address)
        if not isinstance(answer, dict) or key not in answer:
            text = f"HTTP 200 with an answer that has no {key!r}, so not of a model server: {content[:200]!r}"
            raise ServingError("UNKNOWN", text, self._address)
        return answer[key]


def _timed_out(error):
    """Whether a lost connection was one that timed out while the request was still being sent."""
    while error is not None and not isinstance(error, TimeoutError):
        error = next((inner for inner in error.args if isinstance(inner, Exception)), None)
    return error is not None


def _to_json(array):
    if array.dtype.kind != "O":
        return array.tolist()
    if array.ndim:
        return [_to_json(np.asarray(item, dtype=object)) for item in array]
    value = array.item()
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _from_json(value, spec):
    """The output as an array; any of several errors if it is not what `spec` says."""
    array = np.asarray(value, dtype=object)  # object keeps JSON's own types: NumPy would read "1.5" as a number
    if spec.dtype == "string":
        array.flat = [base64.b64decode(v["b64"]) if isinstance(v, dict) else v.encode() for v in array.flat]
    else:
        dtype = np.dtype("float32" if spec.dtype == "bfloat16" else spec.dtype)
        if not set(map(type, array.flat)) <= JSON_TYPES[dtype.kind]:
            raise TypeError(f"output must be {spec.dtype}")
        array = array.astype(dtype)
    # JSON has one form for all arrays without values
    if array.size and not spec.takes(array.shape):
        raise ValueError(f"output must be {spec}; received: shape={array.shape}")
    return array
