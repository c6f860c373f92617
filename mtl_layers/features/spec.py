"""What a specification of a feature is: immutable, JSON-able, and adapted to data in one pass."""

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

KINDS_OF_ARRAYS = {"string": "SUO", "int64": "iuO", "float32": "biufO"}
"""For the type of a feature, the kinds of arrays that may hold it; O holds objects, which have types of their own."""


@dataclass(frozen=True)
class Spec:
    """Base of the specifications.

    Adapting is a fold over batches: `summary = spec.start()`, `summary = spec.update(summary, values, name)` for each
    batch, and `spec.finish(summary, name)` gives the adapted specification; one that is `adapted` has nothing to learn
    and is spared it. `spec.check_type(values, name)` is for both. `spec.preprocessor(name)` makes the Keras layer that
    turns raw values into row numbers of a table, or into a number.
    """

    kinds: ClassVar[dict] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        Spec.kinds[cls.__name__] = cls

    @property
    def adapted(self):
        """Whether nothing is left to learn from data."""
        return True

    def check_type(self, values, name):
        """Refuses an array of another type than the feature's."""
        values = np.asarray(values)
        kind = values.dtype.kind
        if values.size and kind not in KINDS_OF_ARRAYS[self.dtype]:
            received = f"`{name}` must be of type {self.dtype}; received: {values.dtype.name}"
            if (self.dtype, kind) == ("int64", "f"):
                received += ". Where values are missing give them an integer of their own, then cast all to int64"
            raise ValueError(received)

    def start(self):
        return None

    def update(self, summary, values, name):
        return summary

    def finish(self, summary, name):
        return self


def serialize(spec):
    """A JSON-able form of a specification."""
    config = {"kind": type(spec).__name__}
    for field in fields(spec):
        value = getattr(spec, field.name)
        config[field.name] = serialize(value) if isinstance(value, Spec) else value
    return config


def deserialize(config):
    """A specification from its JSON-able form."""
    if isinstance(config, Spec):
        return config
    if isinstance(config.get("vocabulary"), str):  # of an earlier version, or made to read files of whoever loads it
        raise ValueError(
            "`vocabulary` must be the values themselves in a stored specification, not the path of a file; "
            f"received: vocabulary={config['vocabulary']!r}"
        )
    config = {
        key: deserialize(value) if isinstance(value, dict) else tuple(value) if isinstance(value, list) else value
        for key, value in config.items()
    }
    return Spec.kinds[config.pop("kind")](**config)
