"""The one error a request can end with, whatever protocol it came by."""


class RequestError(Exception):
    """A request that is refused or failed.

    Args:
        code: name of the gRPC status code, such as `"INVALID_ARGUMENT"`.
        text: what was expected and what came.

    Example:

    >>> raise RequestError("NOT_FOUND", "Servable not found for request: Latest(ctr)")
    """

    HTTP_STATUS = {  # the mapping of TensorFlow Serving
        "INVALID_ARGUMENT": 400,
        "FAILED_PRECONDITION": 400,
        "OUT_OF_RANGE": 400,
        "UNAUTHENTICATED": 401,
        "PERMISSION_DENIED": 403,
        "NOT_FOUND": 404,
        "ABORTED": 409,
        "ALREADY_EXISTS": 409,
        "RESOURCE_EXHAUSTED": 429,
        "CANCELLED": 499,
        "UNIMPLEMENTED": 501,
        "UNAVAILABLE": 503,
        "DEADLINE_EXCEEDED": 504,
    }

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code
        self.text = text

    @property
    def http_status(self):
        return self.HTTP_STATUS.get(self.code, 500)
