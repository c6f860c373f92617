"""Two regression tasks of known relation: the synthetic data of the MMoE paper, in the MTNAS paper's setting.

The formula is in `benchmarks/synthetic_tasks.py`. Options: `p` (0.5), `d` inputs (100), `m` sines (6), `layers` and
`subnetworks` of the sharing part (1 and 3). 10,000 samples: 8,000 train, 2,000 validate; the test has 10,000 more.
Labels are standardised by the training rows, so that 1 is the error of the mean. Every seed draws its own data.
"""

import numpy as np

import mtl_layers as mtl
from benchmarks import synthetic_tasks
from benchmarks.quality.datasets import Dataset

SOURCE = ""
REDRAWN = True
ROWS = {"train": 8_000, "validation": 2_000, "test": 10_000}


def load(directory, seed, p=0.5, d=100, m=6, layers=1, subnetworks=3):
    """Draws the data of a seed; `directory` is not used."""
    if not 0 <= p <= 1 or d < 2:
        raise SystemExit(f"synthetic needs p in [0, 1] and d of at least 2; received: p={p}, d={d}")
    random = np.random.default_rng(seed)
    directions = synthetic_tasks.directions(random, p, d)
    x = random.normal(size=(sum(ROWS.values()), d))
    labels = {}
    for task, direction in zip(("first", "second"), directions, strict=True):
        y = synthetic_tasks.labels(random, x, direction, m)
        training = y[: ROWS["train"]]
        labels[task] = ((y - training.mean()) / training.std()).astype("float32")
    ends = np.cumsum(list(ROWS.values()))
    return Dataset(
        features={f"x{i}": x[:, i].astype("float32") for i in range(d)},
        specs={f"x{i}": mtl.features.Numeric() for i in range(d)},
        labels=labels,
        kinds=dict.fromkeys(labels, "regression"),
        split=dict(zip(ROWS, np.split(np.arange(len(x)), ends[:-1]), strict=True)),
        budget=13_056,  # that of the MMoE paper
        layers=layers,
        subnetworks=subnetworks,
        tower=(8,),
        batch=256,
        epochs=40,
    )
