"""Data that callbacks go through after every epoch."""

from collections.abc import Iterable


def check_repeatable(name, data):
    """Returns data that can be iterated over again and again; a generator would be used up after one epoch."""
    if not isinstance(data, Iterable) or iter(data) is data:
        raise ValueError(
            f"`{name}` must be iterable again and again, such as a tf.data.Dataset or a list of batches; "
            f"received: {data!r}"
        )
    return data
