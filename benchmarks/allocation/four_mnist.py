"""4-MNIST: two copies of MNIST and two of MNIST turned by 90 degrees, as four tasks; the four rows of the paper.

    python -m benchmarks.allocation.four_mnist --data FOLDER [--seeds 30] [--epochs 10] [--quick]

FOLDER holds MNIST, see examples/mnist_data.py. Three levels of four convolutions each; "no sharing" gives each task one
of them, "shared bottom" all tasks all of them. A batch has the samples of one task.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import sys
from pathlib import Path

import numpy as np

import mtl_layers as mtl
from benchmarks.allocation import trials
from benchmarks.allocation.fixed import fix
from benchmarks.allocation.task_heads import TaskHeads, compile_classifier
from benchmarks.allocation.task_stream import TaskStream, accuracies
from mtl_layers._keras import keras

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))
import mnist_data

TASKS, FILTERS, KERNELS = 4, 4, (5, 3, 3)
BATCH, LEARNING_RATE, WINDOW = 16, 1e-3, 50
VARIANTS = {
    "no_sharing": "no sharing",
    "shared_bottom": "shared bottom",
    "gumbel_matrix": "Gumbel-Matrix",
    "gumbel_matrix_budget": "Gumbel-Matrix, budget 0.75",
}
PAPER = {
    "no_sharing": ("93.5 ± 5.1", "25"),
    "shared_bottom": ("95.7 ± 0.5", "100"),
    "gumbel_matrix": ("96.8 ± 0.2", "96"),
    "gumbel_matrix_budget": ("96.7 ± 0.3", "75"),
}


def tasks_of(images, labels):
    """Two copies as they are, and two turned clockwise."""
    turned = np.rot90(images, -1, axes=(1, 2))
    return [(each[..., None], labels.astype("int32")) for each in (images, images, turned, turned)]


def build(variant, seed):
    """The compiled model and its GumbelMatrix."""
    layers = keras.layers
    layer = mtl.GumbelMatrix(
        TASKS,
        components=[[layers.Conv2D(FILTERS, size, activation="relu") for _ in range(TASKS)] for size in KERNELS],
        after=[layers.AveragePooling2D(2), layers.AveragePooling2D(2), layers.Flatten()],
        budget=0.75 if variant == "gumbel_matrix_budget" else None,
        allow_empty=True,
        seed=seed,
    )
    images = keras.Input((28, 28, 1), dtype="uint8", name="images")
    task = keras.Input((), dtype="int32", name="task")
    hidden = layers.Dropout(0.5)(layer(layers.Rescaling(1 / 255)(images), task=task))
    model = keras.Model({"images": images, "task": task}, TaskHeads([10] * TASKS)(hidden, task=task))
    if variant == "no_sharing":
        fix(layer, [np.eye(TASKS, dtype=bool)] * len(KERNELS))
    if variant == "shared_bottom":
        fix(layer, [np.ones((TASKS, TASKS), bool)] * len(KERNELS))
    compile_classifier(model, LEARNING_RATE, WINDOW)
    return model, layer


def measure(data, epochs, variant, seed):
    model, layer = build(variant, seed)
    training = tasks_of(*data["train"])
    stream = TaskStream(training, BATCH, seed)
    losses = stream.fit(model, max(1, round(epochs * len(training[0][1]) / BATCH)), WINDOW)
    found = accuracies(model, tasks_of(*data["test"]))
    matrices = layer.allocation()
    return {
        "accuracies": found,
        "accuracy": float(np.mean(found)),
        "active": float(np.mean([each.mean() for each in matrices])),
        "allocation": [each.astype(int).tolist() for each in matrices],
        "losses": losses,
    }


def main(arguments=None):
    parser = trials.parser("four_mnist", __doc__, seeds=30)
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST")
    parser.add_argument("--epochs", type=float, default=10, help="passes over the data of each task; the paper's: 10")
    options = parser.parse_args(arguments)
    data = mnist_data.load(options.data)
    if options.quick:
        data = {part: (images[:32], labels[:32]) for part, (images, labels) in data.items()}
    epochs = 1 if options.quick else options.epochs
    settings = {"epochs": epochs, "batch": BATCH, "learning_rate": LEARNING_RATE}
    rows = trials.run(options, ["four_mnist"], VARIANTS, settings, lambda _, *trial: measure(data, epochs, *trial))

    figure, axes = trials.plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    lines, numbers = [], {"seeds": options.seeds, "settings": settings}
    for color, (variant, title) in enumerate(VARIANTS.items()):
        mine = trials.of(rows, "four_mnist", variant)
        accuracy, active = ([100 * row[name] for row in mine] for name in ("accuracy", "active"))
        numbers[variant] = {"accuracy": accuracy, "active": active}
        spread = f"{np.mean(accuracy):.1f} ± {np.std(accuracy, ddof=len(mine) > 1):.1f}"
        lines.append([title, spread, f"{np.mean(active):.0f}", *PAPER[variant]])
        axes[0].plot([color] * len(mine), accuracy, "o", color=f"C{color}", alpha=0.6)
        axes[0].plot(color, float(PAPER[variant][0].split()[0]), "_", color="black", markersize=25)
    axes[0].set_xticks(range(len(VARIANTS)), [title.replace(", ", ",\n") for title in VARIANTS.values()], fontsize=8)
    axes[0].set(ylabel="accuracy, %", title=f"{options.seeds} seeds (dots); the paper's mean (bar)")
    learned = trials.of(rows, "four_mnist", "gumbel_matrix_budget")[0]
    names = ["copy 1", "copy 2", "turned 1", "turned 2"]
    mtl.analysis.plot_allocation(learned["allocation"], names, axes[1], "Gumbel-Matrix, budget 0.75: seed 0")
    trials.report(
        options,
        rows,
        "4-MNIST",
        ["", "accuracy, %", "active, %", "paper: accuracy, %", "paper: active, %"],
        lines,
        f"Test rows, mean of the four tasks; ± standard deviation over {options.seeds} seeds; {epochs:g} passes over "
        "the data of each task (the paper: 10 passes, 30 seeds).",
        numbers,
        figure,
    )


if __name__ == "__main__":
    main()
