"""What a task predicts: the units and the activation at the end of its tower."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from numbers import Real

from mtl_layers._checks import check_activation, check_hidden_units, check_positive
from mtl_layers._keras import keras


@dataclass(frozen=True)
class Binary:
    """A probability in (0, 1): click, purchase. Output `[batch, 1]`, sigmoid.

    Args:
        hidden_units: Units of each hidden layer of the tower; `()` for none. Defaults to `(64,)`.
        prior: The rate that is expected of the task, in (0, 1): the bias of the last layer starts at
            `log(prior / (1 - prior))`, so that training a rare task need not begin with finding its rate. Defaults to
            `None`, a bias of 0.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> towers = mtl.Towers({"purchase": mtl.towers.Binary((), prior=0.01)}, kernel_initializer="zeros")
        >>> round(float(towers(np.ones((1, 1, 16), "float32"))["purchase"][0, 0]), 4)
        0.01
    """

    hidden_units: tuple[int, ...] = (64,)
    prior: float | None = None
    units = 1
    activation = "sigmoid"

    def __post_init__(self):
        object.__setattr__(self, "hidden_units", check_hidden_units("hidden_units", self.hidden_units, True))
        if self.prior is not None:
            if not isinstance(self.prior, Real) or not 0 < self.prior < 1:
                raise ValueError(f"`prior` must be in (0, 1), or None; received: prior={self.prior!r}")
            object.__setattr__(self, "prior", float(self.prior))

    @property
    def start(self):
        """What the bias of the last layer starts at."""
        return 0.0 if self.prior is None else math.log(self.prior) - math.log1p(-self.prior)


@dataclass(frozen=True)
class Regression:
    """A real number: watch time, rating. Output `[batch, 1]`, linear.

    Args:
        hidden_units: Units of each hidden layer of the tower; `()` for none. Defaults to `(64,)`.
        activation: Activation at the end, a function or its name: `"softplus"` or `"exponential"` for what is never
            negative, such as a watch time or a mean for the loss `"poisson"`. Defaults to `None`, linear.

    Raises:
        ValueError: If an argument is out of range, or `activation` is a layer or unknown.

    Example:
        >>> towers = mtl.Towers({"watch_time": mtl.towers.Regression((), "exponential")}, kernel_initializer="zeros")
        >>> float(towers(np.ones((1, 1, 16), "float32"))["watch_time"][0, 0])
        1.0
    """

    hidden_units: tuple[int, ...] = (64,)
    activation: Callable | str | None = None
    units = 1
    start = 0.0

    def __post_init__(self):
        object.__setattr__(self, "hidden_units", check_hidden_units("hidden_units", self.hidden_units, True))
        object.__setattr__(self, "activation", check_activation(self.activation))


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
    start = 0.0

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
    config = {"kind": type(task).__name__, **asdict(task), "hidden_units": list(task.hidden_units)}
    if "activation" in config:
        config["activation"] = keras.activations.serialize(task.activation)
    return config


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
