"""A moment until which an answer must be there."""

import math
import time
from numbers import Real

_YEAR = 365 * 86400.0  # sockets and gRPC count no further than some hundred years


class Deadline:
    """Counts down from `seconds`, of which a year is the most.

    Raises:
        ValueError: If `seconds` is no positive, finite number.

    Example:

    >>> Deadline(5.0).remaining()
    4.99...
    """

    def __init__(self, seconds):
        if not isinstance(seconds, Real) or not 0 < seconds < math.inf:
            raise ValueError(f"`timeout` must be a positive, finite number of seconds; received: timeout={seconds!r}")
        self.seconds = min(float(seconds), _YEAR)
        self._end = time.monotonic() + self.seconds

    def remaining(self):
        """Seconds left, at least a millisecond: a late call fails by its own timeout and not by a negative one."""
        return max(self._end - time.monotonic(), 1e-3)

    def is_over(self):
        return time.monotonic() >= self._end
