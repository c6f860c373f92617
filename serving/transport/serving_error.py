"""What a client raises when a server refuses, fails, or does not answer in time."""


class ServingError(Exception):
    """A server's error, the same for gRPC and REST.

    Attributes:
        code: name of the gRPC status code, such as `"INVALID_ARGUMENT"` or `"UNAVAILABLE"`.
        text: what the server said.
        address: the server.

    Example:

    >>> try:
    ...     client.predict({"age": ["old"]})
    ... except ServingError as error:
    ...     print(error.code, error.text)
    """

    def __init__(self, code, text, address):
        super().__init__(f"{code} from {address}: {text}")
        self.code = code
        self.text = text
        self.address = address

    def __reduce__(self):  # pickled and copied by the arguments: Exception has kept only their text
        return type(self), (self.code, self.text, self.address)


class ServingTimeoutError(ServingError, TimeoutError):
    """No answer within the deadline. Also a `TimeoutError`; the server may still have done the work.

    Attributes:
        seconds: the deadline.
    """

    def __init__(self, address, seconds):
        super().__init__("DEADLINE_EXCEEDED", f"no answer within the deadline of {seconds:g} seconds", address)
        self.seconds = seconds

    def __reduce__(self):
        return type(self), (self.address, self.seconds)
