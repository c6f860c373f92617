"""A moment until which an answer must be there."""

import time


class Deadline:
    """Counts down from `seconds`.

    Example:

    >>> Deadline(5.0).remaining()
    4.99...
    """

    def __init__(self, seconds):
        if not seconds > 0:
            raise ValueError(f"`timeout` must be a positive number of seconds; received: timeout={seconds}")
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self):
        """Seconds left, at least a millisecond: a late call fails by its own timeout and not by a negative one."""
        return max(self._end - time.monotonic(), 1e-3)

    def is_over(self):
        return time.monotonic() >= self._end
