"""What a task predicts: the units and the activation at the end of its tower."""

from dataclasses import asdict, dataclass

from mtl_layers._checks import check_hidden_units, check_positive


@dataclass(frozen=True)
class Binary:
    """A probability in (0, 1): click, purchase. Output `[batch, 1]`, sigmoid.

    Args:
        hidden_units: Units of each hidden layer of the tower; `()` for none. Defaults to `(64,)`.
    """

    hidden_units: tuple[int, ...] = (64,)
    units = 1
    activation = "sigmoid"

    def __post_init__(self):
        object.__setattr__(self, "hidden_units", check_hidden_units("hidden_units", self.hidden_units, True))


@dataclass(frozen=True)
class Regression:
    """A real number: watch time, rating. Output `[batch, 1]`, linear.

    Args:
        hidden_units: Units of each hidden layer of the tower; `()` for none. Defaults to `(64,)`.
    """

    hidden_units: tuple[int, ...] = (64,)
    units = 1
    activation = "linear"

    def __post_init__(self):
        object.__setattr__(self, "hidden_units", check_hidden_units("hidden_units", self.hidden_units, True))


@dataclass(frozen=True)
class MultiClass:
    """Probabilities of classes that exclude each other. Output `[batch, num_classes]`, softmax.

    Args:
        num_classes: Number of classes, at least 2.
        hidden_units: Units of each hidden layer of the tower; `()` for none. Defaults to `(64,)`.
    """

    num_classes: int
    hidden_units: tuple[int, ...] = (64,)
    activation = "softmax"

    def __post_init__(self):
        object.__setattr__(self, "num_classes", check_positive("num_classes", self.num_classes, minimum=2))
        object.__setattr__(self, "hidden_units", check_hidden_units("hidden_units", self.hidden_units, True))

    @property
    def units(self):
        return self.num_classes


@dataclass(frozen=True)
class Body:
    """No prediction: hidden layers that other tasks read. What freezing leaves of a task that is not wanted itself."""

    hidden_units: tuple[int, ...]
    units = None
    activation = None


KINDS = {kind.__name__: kind for kind in (Binary, Regression, MultiClass, Body)}


def serialize(task):
    """A JSON-able form of a task."""
    return {"kind": type(task).__name__, **asdict(task), "hidden_units": list(task.hidden_units)}


def deserialize(name, config):
    """The task of that name from its JSON-able form; a tuple of hidden units stands for `Binary`."""
    if isinstance(config, tuple(KINDS.values())):
        return config
    if isinstance(config, list | tuple):
        return Binary(tuple(config))
    if not isinstance(config, dict) or config.get("kind") not in KINDS:
        raise ValueError(
            f"`tasks[{name!r}]` must be a tuple of hidden units (binary), or one of mtl.towers.Binary, Regression, "
            f"MultiClass; received: {config!r}"
        )
    config = dict(config)
    kind = KINDS[config.pop("kind")]
    return kind(**{**config, "hidden_units": tuple(config["hidden_units"])})
