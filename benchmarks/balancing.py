"""Trains the same model under each balancing of `mtl.balancing`, and draws the weights of the tasks over time.

    python -m benchmarks.balancing --dataset census [--rows N]
    python -m benchmarks.balancing --dataset kuairand --data FOLDER

The splits and features are those of benchmarks/quality; the model is an MMoE of 4 experts (64) on tf_keras, with the
settings that did best on validation there without a balancing. Every run takes the epoch with the least validation log
loss, summed over tasks without weights. `balancing_DATASET.json` has every number, `.md` a table, `.png` the weights.
"""

import os

# Adam of Keras 3 squares the gradient of each look-up of an embedding row, and not their sum: its steps would then be
# others where gradients come task by task, and summed, than in a plain model.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import argparse
import json
import platform
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib
import tensorflow as tf
from tqdm import tqdm

import mtl_layers as mtl
from benchmarks.quality import datasets
from benchmarks.quality.encoding import encode
from benchmarks.quality.report import interval, number
from benchmarks.quality.training import Problem, Settings
from mtl_layers._keras import keras

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SETTINGS = {
    "census": Settings(learning_rate=2e-3, dropout=0.1, l2=0.0),
    "kuairand": Settings(learning_rate=5e-4, dropout=0.1, l2=1e-3),
}
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


def run(problem, settings, name, seed):
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    balancing = balancings(problem.tasks, problem.steps(1))[name]
    sharing = mtl.MMoE(len(problem.tasks), 4, (64,), dropout=settings.dropout)
    model = problem.network(sharing, settings)
    if balancing is not None:
        model = mtl.balancing.BalancedModel(model.input, model.output, balancing)
    weights = Weights(problem.tasks)
    fitted = problem.fit(model, settings, patience=None, callbacks=[weights])
    scores = {part: problem.scores(problem.predict(model, part), part) for part in ("validation", "test")}
    return {
        "seed": seed,
        "epoch": fitted.epochs,
        "validation": scores["validation"]["metric"],
        "test": scores["test"]["metric"],
        "test_loss": scores["test"]["summed_loss"],
        "weights": weights.by_task,
    }


def table(runs, tasks):
    """Test AUC and summed log loss (mean and half of the 95 % t-interval), and the weights in the last epoch."""
    heads = [*(f"{task} AUC" for task in tasks), "summed log loss", "less than plain"]
    heads += [f"{task} weight" for task in tasks]
    lines = [["", *heads], ["---", *["---:"] * len(heads)]]
    plain = [row["test_loss"] for row in runs["plain"]]
    for name, rows in runs.items():
        losses = [row["test_loss"] for row in rows]
        less = [before - after for before, after in zip(plain, losses, strict=True)]
        cells = [number(*interval([row["test"][task] for row in rows])) for task in tasks]
        cells += [number(*interval(losses)), "" if name == "plain" else number(*interval(less), signed=True)]
        ends = [sum(row["weights"][task][-1] for row in rows) / len(rows) for task in tasks]
        lines.append([name, *cells, *(f"{end:.3f}" for end in ends)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(runs, tasks, path):
    """The weights over time, one line for each task and seed."""
    shown = {name: rows for name, rows in runs.items() if name != "plain"}
    figure, axes = plt.subplots(1, len(shown), figsize=(3 * len(shown), 3), layout="constrained")
    for place, (name, rows) in zip(axes, shown.items(), strict=True):
        for index, task in enumerate(tasks):
            for row in rows:
                weights = row["weights"][task]
                label = task if row is rows[0] else None
                place.plot(range(1, len(weights) + 1), weights, color=f"C{index}", marker=".", lw=1, label=label)
        place.axhline(1, color="lightgrey", lw=1, zorder=0)
        place.set_title(name)
        place.set_xlabel("epoch")
    axes[0].set_ylabel("weight in the loss")
    axes[0].legend()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", choices=list(SETTINGS), default="census")
    parser.add_argument("--data", help="folder with the data set's files")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rows", type=int, help="training rows at most, and that share of the others; default: all")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--quick", action="store_true", help="few rows, two epochs, one seed: to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.epochs, arguments.rows = 1, QUICK_EPOCHS, QUICK_ROWS
    tf.get_logger().setLevel("ERROR")  # many models in a program are no mistake here

    settings = SETTINGS[arguments.dataset]
    dataset = replace(datasets.load(arguments.dataset, arguments.data), epochs=arguments.epochs)
    if arguments.rows:
        dataset = dataset.thinned(arguments.rows, arguments.epochs)
    problem = Problem(dataset, encode(dataset))
    runs = {}
    for name in balancings(problem.tasks, problem.steps(1)):
        runs[name] = [run(problem, settings, name, seed) for seed in tqdm(range(arguments.seeds), name, unit="run")]

    command = f"python -m benchmarks.balancing {datasets.arguments(arguments.dataset)}"
    command += f" --seeds {arguments.seeds} --epochs {arguments.epochs}"
    command += f" --rows {arguments.rows}" if arguments.rows else ""
    versions = {"tensorflow": tf.__version__, keras.__name__: keras.__version__, "python": platform.python_version()}
    report = {
        "command": command,
        "rows": {part: len(rows) for part, rows in dataset.split.items()},
        "settings": asdict(settings),
        "versions": versions,
        "runs": runs,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"balancing_{arguments.dataset}"
    path.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    rows = ", ".join(f"{count:,} {part}" for part, count in report["rows"].items())
    notes = (
        f"{arguments.seeds} seeds; {rows} rows; ± half of the 95 % t-interval, differences paired by seed; weights in "
        f"the last epoch, means over seeds. `{command}`, with {', '.join(map(' '.join, versions.items()))}."
    )
    text = f"# Balancing on {arguments.dataset}\n\n{table(runs, problem.tasks)}\n\n{notes}\n"
    draw(runs, problem.tasks, path.with_suffix(".png"))
    path.with_suffix(".md").write_text(f"{text}\n![Weights over time]({path.name}.png)\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
