"""Data sets, one file each: a module here with `load(directory, seed, **options)` that returns a `Dataset`."""

import functools
import importlib
from dataclasses import dataclass, replace

import numpy as np

NAMES = ("census", "kuairand", "bookcrossing", "synthetic")
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """Raw columns, labels, a fixed split, and the setting in which all methods meet.

    Args:
        features: Dict from feature name to an array with one value per row.
        specs: Dict from feature name to a specification of `mtl.features`, without a width of its own.
        labels: Dict from task name to a float32 array; NaN where the row is outside the task's sample space.
        kinds: Dict from task name to `"binary"` or `"regression"`.
        split: Dict from `"train"`, `"validation"`, `"test"` to row numbers.
        budget: Parameters of everything above the embeddings: sharing layer and towers.
        width: Width of the embeddings.
        layers: Layers of sub-networks of MTNAS, and levels or depth of the other methods.
        subnetworks: Sub-networks (experts) per layer.
        tower: Hidden units of each task's tower.
        batch: Rows per training step.
        epochs: The most epochs that a model is trained for.
        redrawn: Whether every seed has data of its own.
    """

    features: dict
    specs: dict
    labels: dict
    kinds: dict
    split: dict
    budget: int = 50_000
    width: int = 10
    layers: int = 2
    subnetworks: int = 4
    tower: tuple = (32,)
    batch: int = 512
    epochs: int = 20
    redrawn: bool = False

    @property
    def tasks(self):
        return tuple(self.labels)

    def thinned(self, rows, epochs):
        """The same problem on at most `rows` training rows (and that share of the others): to see that it runs."""
        every = -(-len(self.split["train"]) // rows)
        split = {part: index[::every] for part, index in self.split.items()}
        return replace(self, split=split, epochs=epochs)


def parse(text):
    """Name and options of `name:option=value,option=value`, the options as numbers."""
    name, _, options = text.partition(":")
    if name not in NAMES:
        raise SystemExit(f"--dataset must be one of {', '.join(NAMES)}; received: {name}")
    pairs = [option.partition("=") for option in options.split(",") if option]
    try:
        return name, {key: float(value) if "." in value else int(value) for key, _, value in pairs}
    except ValueError as error:
        raise SystemExit(f"--dataset options must be option=number; received: {options}") from error


def arguments(text):
    """The arguments of a program that name a data set, with the folder that its user must give where it has one."""
    module = importlib.import_module(f"benchmarks.quality.datasets.{parse(text)[0]}")
    return f"--dataset {text}" + (" --data FOLDER" if "--data" in module.SOURCE else "")


@functools.cache
def load(text, directory=None, seed=0):
    """The data set of `name` or `name:option=value,...`; what is missing ends the program with what to do."""
    name, options = parse(text)
    module = importlib.import_module(f"benchmarks.quality.datasets.{name}")
    try:
        dataset = module.load(directory, seed, **options)
    except FileNotFoundError as error:
        raise SystemExit(f"The data of {name} are missing: {error}\n{module.SOURCE}") from error
    except TypeError as error:
        raise SystemExit(f"{name} has no such option; received: {text}: {error}") from error
    return replace(dataset, redrawn=True) if getattr(module, "REDRAWN", False) else dataset


def at_random(rows, shares, seed=0):
    """Splits row numbers at random by shares of train, validation and test."""
    order = np.random.default_rng(seed).permutation(rows)
    ends = (np.cumsum(shares) * rows).round().astype(int)
    return dict(zip(PARTS, np.split(order, ends[:-1]), strict=True))
