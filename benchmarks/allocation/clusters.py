"""Forty tasks of three families: tasks of one family should end with one embedding.

    python -m benchmarks.allocation.clusters --mnist FOLDER --fashion FOLDER --omniglot FOLDER
    KERAS_BACKEND=jax python -m benchmarks.allocation.clusters ...       whole, on a GPU
    ... --reduced                                                       nine tasks and a small network, on a CPU

Ten variants of MNIST and ten of Fashion-MNIST, each without one of the classes, and twenty alphabets of Omniglot, each
a task, in place of the paper's twenty coarse labels of CIFAR-100. For the folders see examples/mnist_data.py and
omniglot_data.py. A batch has the samples of one task.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

import mtl_layers as mtl
from benchmarks.allocation import omniglot_data, trials
from benchmarks.allocation.task_heads import TaskHeads, compile_classifier
from benchmarks.allocation.task_stream import TaskStream, accuracies
from mtl_layers._keras import keras

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))
import mnist_data

PARTS = ("train", "test")
FAMILIES = ("MNIST", "Fashion", "Omniglot")
SIZE, TEST_SHARE = 32, 0.3


@dataclass(frozen=True)
class Setting:
    """The paper's, as far as it is stated; `rounds` are batches of each task."""

    variants: int = 10
    alphabets: int = 20
    rounds: int = 3_000
    batch: int = 16
    window: int = 25
    levels: int = 3
    pairs: int = 8  # of a 3x3 and a 5x5 convolution, on each level
    filters: int = 8
    learning_rate: float = 3e-4
    logit_speed: float = 20.0
    budget: float = 0.5
    test_rows: int = 2_000  # of each task, at most


REDUCED = replace(
    Setting(), variants=3, alphabets=3, rounds=2_000, pairs=3, filters=4, learning_rate=1e-3, test_rows=500
)
QUICK = replace(REDUCED, variants=2, alphabets=2, rounds=2, window=1, pairs=1, filters=2, test_rows=20)


def tasks_of(options, setting):
    """Dict from task name to a dict from part to images `[rows, 32, 32, 1]` and labels."""
    tasks = {}
    for family, directory in (("MNIST", options.mnist), ("Fashion", options.fashion)):
        data = mnist_data.load(directory)
        for absent in range(setting.variants):
            tasks[f"{family} {absent}"] = {part: _without(absent, *data[part]) for part in PARTS}
    for name, (images, labels) in omniglot_data.load(options.omniglot, SIZE, setting.alphabets).items():
        rows = omniglot_data.split(labels, (1 - TEST_SHARE, TEST_SHARE))
        tasks[f"Omniglot {name}"] = {
            part: (images[each][..., None], labels[each]) for part, each in zip(PARTS, rows, strict=True)
        }
    return tasks


def _without(absent, images, labels):
    """The rows of the other classes, in a frame of 2 pixels, and their classes without a gap."""
    kept = labels != absent
    labels = labels[kept].astype("int32")
    return np.pad(images[kept], ((0, 0), (2, 2), (2, 2)))[..., None], labels - (labels > absent)


def build(setting, classes, seed):
    """The compiled model and its GumbelMatrix."""
    layers = keras.layers
    sizes = [3, 5] * setting.pairs
    layer = mtl.GumbelMatrix(
        len(classes),
        components=[
            [layers.Conv2D(setting.filters, size, 2, "same", activation="relu") for size in sizes]
            for _ in range(setting.levels)
        ],
        after=[None] * (setting.levels - 1) + [layers.Flatten()],
        p_init=0.5,
        logit_speed=setting.logit_speed,
        budget=setting.budget,
        allow_empty=True,
        seed=seed,
    )
    images = keras.Input((SIZE, SIZE, 1), dtype="uint8", name="images")
    task = keras.Input((), dtype="int32", name="task")
    shared = layers.Conv2D(setting.filters, 1, activation="relu")(layers.Rescaling(1 / 255)(images))
    model = keras.Model({"images": images, "task": task}, TaskHeads(classes)(layer(shared, task=task), task=task))
    compile_classifier(model, setting.learning_rate, setting.window)
    return model, layer


def measure(setting, tasks, seed):
    parts = {part: [task[part] for task in tasks.values()] for part in PARTS}
    model, layer = build(setting, [int(labels.max()) + 1 for _, labels in parts["train"]], seed)
    losses = TaskStream(parts["train"], setting.batch, seed).fit(model, setting.rounds, setting.window)
    test = [(images[: setting.test_rows], labels[: setting.test_rows]) for images, labels in parts["test"]]
    return {
        "tasks": list(tasks),
        "accuracies": accuracies(model, test, 500),
        "probabilities": np.concatenate(layer.probabilities(), axis=1).round(4).tolist(),
        "losses": losses,
    }


def judged(row):
    """What a trial's embeddings say: how alike tasks are within families and between them, and how many there are."""
    embeddings = np.array(row["probabilities"]) >= 0.5
    family = np.array([FAMILIES.index(task.split()[0]) for task in row["tasks"]])
    cosine, clusters = mtl.analysis.cosine_similarity(embeddings), mtl.analysis.task_clusters(embeddings)
    pairs = np.triu_indices(len(family), 1)
    same = family[pairs[0]] == family[pairs[1]]
    found = {"within": float(cosine[pairs][same].mean()), "between": float(cosine[pairs][~same].mean())}
    found |= {f"embeddings {name}": len(set(clusters[family == number])) for number, name in enumerate(FAMILIES)}
    found["embeddings"] = len(set(clusters))
    found["of several families"] = sum(len(set(family[clusters == each])) > 1 for each in set(clusters))
    return found | {"active": float(embeddings.mean()), "accuracy": float(np.mean(row["accuracies"]))}


def main(arguments=None):
    parser = trials.parser("clusters", __doc__, seeds=3)
    for name in ("mnist", "fashion", "omniglot"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="folder with its files")
    parser.add_argument("--reduced", action="store_true", help="nine tasks and a small network: for a CPU")
    options = parser.parse_args(arguments)
    setting = QUICK if options.quick else REDUCED if options.reduced else Setting()
    tasks = tasks_of(options, setting)
    kind = "quick" if options.quick else "reduced" if options.reduced else "whole"
    rows = trials.run(
        options, [kind], ["gumbel_matrix"], asdict(setting), lambda *trial: measure(setting, tasks, trial[2])
    )

    found = [judged(row) for row in rows]
    heads = list(found[0])
    lines = [[seed, *(f"{value:.3g}" for value in each.values())] for seed, each in enumerate(found)]
    figure, axes = trials.plt.subplots(1, 2, figsize=(13, 6), layout="constrained")
    probabilities, names = np.array(rows[0]["probabilities"]), rows[0]["tasks"]
    mtl.analysis.plot_task_clusters(probabilities >= 0.5, names, axes[0], "cosine of task embeddings: seed 0")
    per_level = np.split(probabilities, setting.levels, axis=1)
    mtl.analysis.plot_allocation(per_level, names, axes[1], "probabilities: seed 0")
    trials.report(
        options,
        rows,
        f"{len(tasks)} tasks of three families ({kind} setting)",
        ["seed", *heads],
        lines,
        "Cosine of the embeddings of two tasks within a family and between families, mean; numbers of distinct "
        "embeddings, and of those that tasks of several families have; share of active entries; test accuracy. "
        "Omniglot stands in for CIFAR-100.",
        {"setting": asdict(setting), "tasks": list(tasks), "seeds": found},
        figure,
    )


if __name__ == "__main__":
    main()
