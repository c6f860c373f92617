"""Trains the same model under each balancing of `mtl.balancing`, and draws the weights of the tasks over time.

    python -m benchmarks.balancing [--seeds 3] [--epochs 8] [--rows N] [--output benchmarks/results] [--quick]

The data are Census-Income, with the split and the features of benchmarks/quality; the model is an MMoE of 4 experts
(64), batch 1024, Adam at 0.002, on tf_keras. Every run takes the epoch with the least validation log loss, summed over
tasks without weights. `balancing.json` has every number, `balancing.md` a table, `balancing.png` the weights.
"""

import os

# Adam of Keras 3 squares the gradient of each look-up of an embedding row, and not their sum: its steps would then be
# others where gradients come task by task, and summed, than in a plain model.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import argparse
import json
import platform
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import tensorflow as tf

import mtl_layers as mtl
from benchmarks.quality import datasets
from benchmarks.quality.encoding import encode
from benchmarks.quality.training import Problem, Settings
from mtl_layers._keras import keras

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SETTINGS = Settings(learning_rate=2e-3, dropout=0.1, l2=0.0)
QUICK_ROWS, QUICK_EPOCHS = 4000, 2


def balancings(tasks, steps):
    """By name, for `steps` training steps in an epoch; the auxiliary task is the second."""
    main, *others = tasks
    return {
        "plain": None,
        "decaying": mtl.balancing.DecayingWeights(
            dict.fromkeys(tasks, 1.0), {main: 1.0, **dict.fromkeys(others, 0.7)}, steps=steps
        ),
        "uncertainty": mtl.balancing.UncertaintyWeighting(tasks),
        "average": mtl.balancing.DynamicWeightAverage(tasks, steps=steps // 4),
        "grad_norm": mtl.balancing.GradNorm(tasks, alpha=0.5, optimizer=keras.optimizers.Adam(2e-3)),
        "pc_grad": mtl.balancing.PCGrad(tasks),
    }


class Weights(keras.callbacks.Callback):
    """Keeps each task's weight, the mean over an epoch; 1 in a model without any."""

    def __init__(self, tasks):
        super().__init__()
        self.by_task = {task: [] for task in tasks}

    def on_epoch_end(self, epoch, logs=None):
        for task, weights in self.by_task.items():
            weights.append(float((logs or {}).get(f"{task}_weight", 1.0)))


def run(problem, name, seed):
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    balancing = balancings(problem.tasks, problem.steps(1))[name]
    sharing = mtl.MMoE(len(problem.tasks), 4, (64,), dropout=SETTINGS.dropout)
    model = problem.network(sharing, SETTINGS)
    if balancing is not None:
        model = mtl.balancing.BalancedModel(model.input, model.output, balancing)
    weights = Weights(problem.tasks)
    fitted = problem.fit(model, SETTINGS, patience=None, callbacks=[weights])
    scores = {part: problem.scores(problem.predict(model, part), part) for part in ("validation", "test")}
    return {
        "seed": seed,
        "epoch": fitted.epochs,
        "validation": scores["validation"]["metric"],
        "test": scores["test"]["metric"],
        "test_loss": scores["test"]["loss"],
        "weights": weights.by_task,
    }


def table(runs, tasks):
    """Test AUC (mean and, of several seeds, standard deviation) and weights in the last epoch, as Markdown."""
    heads = [*(f"{task}: test AUC" for task in tasks), *(f"{task}: weight at the end" for task in tasks)]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, rows in runs.items():
        aucs = [np.array([row["test"][task] for row in rows]) for task in tasks]
        ends = [np.mean([row["weights"][task][-1] for row in rows]) for task in tasks]
        cells = [f"{auc.mean():.4f}" + (f" ± {auc.std(ddof=1):.4f}" if len(auc) > 1 else "") for auc in aucs]
        lines.append(f"| {name} | " + " | ".join([*cells, *(f"{end:.3f}" for end in ends)]) + " |")
    return "\n".join(lines) + "\n"


def draw(runs, tasks, path):
    """The weights over time, one line for each task and seed."""
    shown = {name: rows for name, rows in runs.items() if name != "plain"}
    figure, axes = plt.subplots(1, len(shown), figsize=(3 * len(shown), 3), layout="constrained")
    for place, (name, rows) in zip(axes, shown.items(), strict=True):
        for number, task in enumerate(tasks):
            for row in rows:
                weights = row["weights"][task]
                label = task if row is rows[0] else None
                place.plot(range(1, len(weights) + 1), weights, color=f"C{number}", marker=".", lw=1, label=label)
        place.axhline(1, color="lightgrey", lw=1, zorder=0)
        place.set_title(name)
        place.set_xlabel("epoch")
    axes[0].set_ylabel("weight in the loss")
    axes[0].legend()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rows", type=int, help="training rows at most, and that share of the others; default: all")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--quick", action="store_true", help="few rows, two epochs, one seed: to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.epochs, arguments.rows = 1, QUICK_EPOCHS, QUICK_ROWS
    tf.get_logger().setLevel("ERROR")  # many models in a program are no mistake here

    dataset = replace(datasets.load("census"), epochs=arguments.epochs)
    if arguments.rows:
        dataset = dataset.thinned(arguments.rows, arguments.epochs)
    problem = Problem(dataset, encode(dataset))
    runs = {}
    for name in balancings(problem.tasks, problem.steps(1)):
        runs[name] = [run(problem, name, seed) for seed in range(arguments.seeds)]
        print(f"{name}: test AUC {runs[name][-1]['test']}", file=sys.stderr)

    arguments.output.mkdir(parents=True, exist_ok=True)
    report = {
        "rows": {part: len(rows) for part, rows in dataset.split.items()},
        "epochs": arguments.epochs,
        "runs": runs,
        "versions": {
            "tensorflow": tf.__version__,
            keras.__name__: keras.__version__,
            "python": platform.python_version(),
        },
    }
    (arguments.output / "balancing.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    text = table(runs, problem.tasks)
    (arguments.output / "balancing.md").write_text(text, encoding="utf-8")
    draw(runs, problem.tasks, arguments.output / "balancing.png")
    print(text)


if __name__ == "__main__":
    main()
