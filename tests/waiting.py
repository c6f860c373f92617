"""Waiting in tests: until something is so, or a deadline."""

import time


def wait_until(condition, seconds=30.0):
    """Returns the first true value of `condition()`; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"still not so after {seconds} seconds"
        time.sleep(0.01)
    return value
