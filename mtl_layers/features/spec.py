"""What a specification of a feature is: immutable, JSON-able, and adapted to data in one pass."""

from dataclasses import dataclass, fields
from typing import ClassVar


@dataclass(frozen=True)
class Spec:
    """Base of the specifications.

    Adapting is a fold over batches: `summary = spec.start()`, `summary = spec.update(summary, values, name)` for each
    batch, and `spec.finish(summary, name)` gives the adapted specification; one that is `adapted` has nothing to learn
    and is spared it. `spec.preprocessor(name)` makes the Keras layer that turns raw values into row numbers of a table,
    or into a number.
    """

    kinds: ClassVar[dict] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        Spec.kinds[cls.__name__] = cls

    @property
    def adapted(self):
        """Whether nothing is left to learn from data."""
        return True

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
