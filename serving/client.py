"""Asks a model server for predictions, over gRPC or REST: TensorFlow Serving, or the local server."""

from numbers import Integral

from serving.signature import Signature
from serving.transport.deadline import Deadline
from serving.transport.feature_arrays import feature_arrays
from serving.transport.serving_error import ServingError, ServingTimeoutError
from serving.versions import MAX_VERSION

__all__ = ["Client", "ServingError", "ServingTimeoutError"]


class Client:
    """A client of TensorFlow Serving's protocols that works alike over gRPC and REST, from any number of threads.

    The first request also asks for the model's metadata, which tells dtypes, shapes and the outputs' names. The answer
    is kept until a request fails, and asked for anew when features do not fit it: a new version with other inputs or
    outputs costs one failed request at most. Nothing is retried: a prediction that may be asked twice is the caller's
    to repeat. Over REST neither TensorFlow nor gRPC is imported.

    One change REST hides: it does not name the output of a signature that has only one. If a new version renames it,
    its values come under the old name until a request fails or `metadata()` is called; call that when you deploy such a
    version, or use gRPC.

    Args:
        address: `"host:port"`; for REST also a URL, `"http://host:port"`.
        model_name: the model's name on the server, `"model"` by default.
        protocol: `"grpc"` (default) or `"rest"`.
        timeout: deadline of each request in seconds, 5.0 by default; a year at most.

    Raises:
        ValueError: `protocol` is another one, or `timeout` no positive, finite number.

    Raises (from every request):
        ServingError: the server refused or failed, or is not there; `.code` holds the name of the status code.
        ServingTimeoutError: no answer within the deadline; it is a `ServingError` and a `TimeoutError`.

    Example:

    >>> with Client("127.0.0.1:8500", "ctr") as client:
    ...     client.predict({"age": [31, 45], "country": ["fr", "de"]})
    {'ctr': array([[0.18], [0.21]], dtype=float32), 'cvr': array([[0.02], [0.05]], dtype=float32)}
    """

    def __init__(self, address, model_name="model", protocol="grpc", timeout=5.0):
        if protocol not in ("grpc", "rest"):
            raise ValueError(f"`protocol` must be 'grpc' or 'rest'; received: protocol={protocol!r}")
        Deadline(timeout)  # refuses what is no timeout
        self.address = address
        self.model_name = model_name
        self.protocol = protocol
        self.timeout = timeout
        if protocol == "grpc":  # imported here: it brings TensorFlow
            from serving.transport.grpc_transport import GrpcTransport as Transport
        else:
            from serving.transport.rest_transport import RestTransport as Transport
        self._transport = Transport(address, model_name)
        self._signatures = {}

    def predict(self, features, signature="serving_default", version=None, timeout=None):
        """Scores a batch of rows.

        Args:
            features: dict of input name to list or array with one entry a row. A 1-D value is sent as [batch, 1] where
                the signature takes [batch, 1]; every other shape is sent as it is.
            signature: by default all tasks; a task's name asks for that task only.
            version: number of the version, by default the newest.
            timeout: deadline in seconds for the whole call, instead of the client's.

        Returns:
            dict of output name to NumPy array; strings are object arrays of bytes.

        Raises:
            TypeError, ValueError: a feature that cannot become what the signature takes, or a `version` that is no
                number of one; nothing was sent.
        """
        version = _check_version(version)
        deadline = self._deadline(timeout)
        try:
            target, arrays = self._convert(features, signature, version, deadline)
            return self._transport.predict(arrays, target, version, deadline)
        except ServingError:
            self._signatures.pop(version, None)
            raise

    def status(self, timeout=None):
        """Returns the state of each version, newest first: dicts of version, state, error_code and error_message."""
        return [
            {
                "version": int(line["version"]),
                "state": line["state"],
                "error_code": line["status"]["error_code"],
                "error_message": line["status"]["error_message"],
            }
            for line in self._transport.status(self._deadline(timeout))
        ]

    def metadata(self, version=None, timeout=None):
        """Asks the server anew for its signatures; returns a dict of name to `serving.signature.Signature`."""
        version = _check_version(version)
        self._signatures.pop(version, None)
        return self._metadata(version, self._deadline(timeout))

    def close(self):
        """Closes the connection."""
        self._transport.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _convert(self, features, signature, version, deadline):
        """The signature and the arrays for it."""
        is_kept = version in self._signatures
        target = self._target(signature, version, deadline)
        try:
            return target, feature_arrays(features, target)
        except (TypeError, ValueError):
            if not is_kept:
                raise
            # what does not fit the old version may fit the one that is served now
            self._signatures.pop(version, None)
            fresh = self._target(signature, version, deadline)
            if fresh == target:
                raise
        return fresh, feature_arrays(features, fresh)

    def _target(self, signature, version, deadline):
        # a signature that the server does not have is the server's to refuse
        return self._metadata(version, deadline).get(signature) or Signature(signature, {}, {})

    def _metadata(self, version, deadline):
        signatures = self._signatures.get(version)
        if signatures is None:
            signatures = self._signatures[version] = self._transport.metadata(version, deadline)
        return signatures

    def _deadline(self, timeout):
        return Deadline(self.timeout if timeout is None else timeout)


def _check_version(version):
    """Returns it as an int, or None."""
    if version is None:
        return None
    if not isinstance(version, Integral) or isinstance(version, bool) or not 0 <= version <= MAX_VERSION:
        raise ValueError(
            f"`version` must be an integer from 0 to {MAX_VERSION}, or None for the newest; "
            f"received: version={version!r}"
        )
    return int(version)
