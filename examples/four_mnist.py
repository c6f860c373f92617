"""Four tasks on images choose among convolutions: MNIST twice, and twice turned by 90 degrees.

    python examples/four_mnist.py --data FOLDER [--output build/four_mnist] [--quick]

FOLDER holds MNIST, see mnist_data.py. Components may be any Keras layers; here each of three levels has four
convolutions, and pooling comes after the average. A batch has the samples of one task, as where data sets differ by
task. Numbers to expect: 93 to 95 % of each task right after three passes over a third of the images; the benchmark
benchmarks/allocation/four_mnist.py compares allocations over seeds.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import mnist_data
import numpy as np

import mtl_layers as mtl
from mtl_layers._keras import keras, ops

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TASKS = ("upright 1", "upright 2", "turned 1", "turned 2")
BATCH = 32


def build():
    """Images and their task -> three levels of convolutions, chosen by each task -> ten logits."""
    layers = keras.layers
    sharing = mtl.GumbelMatrix(
        len(TASKS),
        components=[[layers.Conv2D(4, size, activation="relu") for _ in TASKS] for size in (5, 3, 3)],
        after=[layers.AveragePooling2D(2), layers.AveragePooling2D(2), layers.Flatten()],
        p_init=0.8,
        budget=0.75,
        seed=0,
        name="sharing",
    )
    images = keras.Input((28, 28, 1), dtype="uint8", name="images")
    task = keras.Input((), dtype="int32", name="task")
    hidden = sharing(layers.Rescaling(1 / 255)(images), task=task)  # [batch, features]
    # All heads are one layer; a row reads its own task's.
    logits = layers.Reshape((len(TASKS), 10))(layers.Dense(10 * len(TASKS))(hidden))
    return keras.Model({"images": images, "task": task}, OwnHead()([logits, task])), sharing


class OwnHead(keras.layers.Layer):
    """Takes each row's own task out of `[batch, tasks, units]`."""

    def call(self, inputs):
        values, task = inputs
        return ops.take_along_axis(values, ops.reshape(task, (-1, 1, 1)), axis=1)[:, 0]


def batches_in_turn(images, labels, rows, seed):
    """So many rows of each task, in batches of one task, one task after another."""
    random = np.random.default_rng(seed)
    rows -= rows % BATCH
    chosen = np.stack([random.permutation(len(labels))[:rows] for _ in TASKS]).reshape(len(TASKS), -1, BATCH)
    chosen = chosen.transpose(1, 0, 2).reshape(-1)  # [rounds, tasks, batch]
    task = np.tile(np.repeat(np.arange(len(TASKS)), BATCH), rows // BATCH).astype("int32")
    return {"images": seen_by(task, images[chosen]), "task": task}, labels[chosen].astype("int32")


def seen_by(task, images):
    """Images as their tasks see them, `[rows, 28, 28, 1]`."""
    turned = np.rot90(images, -1, axes=(1, 2))  # clockwise
    return np.where(task[:, None, None] >= 2, turned, images)[..., None]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST")
    parser.add_argument("--output", type=Path, default=Path("build/four_mnist"))
    parser.add_argument("--quick", action="store_true", help="a few batches: to see that it runs")
    arguments = parser.parse_args()
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    data = mnist_data.load(arguments.data)
    keras.utils.set_random_seed(0)
    model, sharing = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    rows = BATCH * 4 if arguments.quick else 20_000
    for epoch in range(1 if arguments.quick else 3):
        inputs, labels = batches_in_turn(*data["train"], min(rows, len(data["train"][1])), seed=epoch)
        model.fit(inputs, labels, batch_size=BATCH, shuffle=False, verbose=2)

    inputs, labels = batches_in_turn(*data["test"], min(rows, len(data["test"][1])), seed=0)
    right = model.predict(inputs, batch_size=1024, verbose=0).argmax(axis=1) == labels
    accuracy = {name: float(right[inputs["task"] == task].mean()) for task, name in enumerate(TASKS)}
    print("test accuracy: " + ", ".join(f"{name} {value:.1%}" for name, value in accuracy.items()))

    embeddings = mtl.analysis.task_embeddings(sharing)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained", width_ratios=(2, 1))
    mtl.analysis.plot_allocation(sharing.probabilities(), TASKS, axes[0], "probability that a task uses a component")
    mtl.analysis.plot_task_clusters(embeddings, TASKS, axes[1], "cosine of the choices")
    figure.savefig(output / "allocation.png", dpi=120)

    # For serving, each task gets the network that it uses, alone.
    weights = {"all": sharing.count_params()}
    weights |= {name: sharing.freeze([task]).count_params() for task, name in enumerate(TASKS)}
    print("weights: " + ", ".join(f"{name} {count:,}" for name, count in weights.items()))
    report = {"accuracy": accuracy, "embeddings": embeddings.tolist(), "weights": weights}
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"everything is in {output}: allocation.png, report.json")


if __name__ == "__main__":
    main()
