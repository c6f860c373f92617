"""The settings that all methods try, and which of them a method keeps."""

import itertools

import numpy as np

import mtl_layers as mtl
from benchmarks.quality.training import Settings

GRID = {"learning_rate": (1e-3, 5e-4, 2e-3), "dropout": (0.1, 0.3, 0.5), "l2": (0.0, 1e-4, 1e-3)}
FIRST_SEED = 1_000_000  # of tuning, and no seed of a final run


def seeds(count):
    """The seeds of tuning: as many as wanted, and none of a final run."""
    return range(FIRST_SEED, FIRST_SEED + count)


def settings_to_try(budget, dataset):
    """The first `budget` settings of one random order of the grid: a larger budget adds to a smaller one."""
    grid = {**GRID, "l2": (0.0,)} if not _has_table(dataset) else GRID
    every = [Settings(*values) for values in itertools.product(*grid.values())]
    order = np.random.default_rng(0).permutation(len(every))
    return [every[place] for place in order[:budget]]


def _has_table(dataset):
    return not all(isinstance(spec, mtl.features.Numeric) for spec in dataset.specs.values())


def ranked(rows):
    """The settings of tuning runs, best first: by the summed validation loss, on average over their seeds."""
    losses = {}
    for row in rows:
        losses.setdefault(tuple(row["settings"].items()), []).append(row["validation"]["summed_loss"])
    return [dict(settings) for settings in sorted(losses, key=lambda settings: np.mean(losses[settings]))]
