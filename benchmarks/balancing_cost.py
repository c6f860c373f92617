"""What a training step costs under each balancing of `mtl.balancing`, in backward passes of a plain step.

    python -m benchmarks.balancing_cost [--steps 200] [--output benchmarks/results/balancing_cost.json] [--quick]

The model is an MMoE of 8 experts (128, 64) on 150 numbers, or behind 15 embeddings of width 10 with 100,000 ids, for
two tasks and for four; batch 512, Adam. Sides take turns, step by step; medians are reported. A step is a forward pass
and the rest, which counts as backward passes:

    backward_passes = (step - forward) / (plain step - forward)

`forward` computes the losses of a batch in training mode, and `plain` is a step of `keras.Model`. The bound that
GradNorm and PCGrad are to keep is the number of tasks + 0.3.
"""

import argparse
from pathlib import Path

import numpy as np
import tensorflow as tf

import mtl_layers as mtl
from benchmarks.timing import compiled, interleaved, labels, save
from mtl_layers._keras import keras

FIELDS, WIDTH, IDS, EXPERTS, UNITS, BATCH = 15, 10, 100_000, 8, (128, 64), 512
TASKS = ("click", "like", "share", "purchase")


def balancings(tasks):
    return {
        "plain": None,
        "decaying": mtl.balancing.DecayingWeights(dict.fromkeys(tasks, 1.0), 0.999),
        "uncertainty": mtl.balancing.UncertaintyWeighting(tasks),
        "average": mtl.balancing.DynamicWeightAverage(tasks, steps=100),
        "grad_norm": mtl.balancing.GradNorm(tasks),
        "pc_grad": mtl.balancing.PCGrad(tasks),
    }


def model_of(balancing, tasks, embeds):
    if embeds:
        inputs = keras.Input((FIELDS,), dtype="int32", name="ids")
        x = keras.layers.Reshape((FIELDS * WIDTH,))(keras.layers.Embedding(IDS, WIDTH)(inputs))
    else:
        x = inputs = keras.Input((FIELDS * WIDTH,), name="x")
    outputs = mtl.Towers(dict.fromkeys(tasks, (32,)))(mtl.MMoE(len(tasks), EXPERTS, UNITS)(x))
    model = (
        keras.Model(inputs, outputs) if balancing is None else mtl.balancing.BalancedModel(inputs, outputs, balancing)
    )
    return compiled(model, keras.optimizers.Adam(1e-3))


def batch(tasks, embeds):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, FIELDS * WIDTH)).astype("float32")
    if embeds:
        x = rng.integers(0, IDS, (BATCH, FIELDS)).astype("int32")
    return tf.constant(x), labels(rng, tasks, BATCH)


def forward_of(model, x, y):
    """The losses of a batch without a gradient."""
    losses = model.loss

    @tf.function
    def forward():
        predicted = model(x, training=True)
        return [losses[task](y[task], predicted[task]) for task in losses]

    return lambda: [loss.numpy() for loss in forward()]


def measure(tasks, embeds, count):
    tf.get_logger().setLevel("ERROR")  # many models in a program are no mistake here
    keras.utils.set_random_seed(0)
    x, y = batch(tasks, embeds)
    models = {name: model_of(balancing, tasks, embeds) for name, balancing in balancings(tasks).items()}
    steps = {name: lambda model=model: model.train_on_batch(x, y) for name, model in models.items()}
    seconds = interleaved({"forward": forward_of(models["plain"], x, y), **steps}, count)
    backward = seconds["plain"] - seconds["forward"]
    return {
        "tasks": len(tasks),
        "embeddings": embeds,
        "seconds": seconds,
        "backward_passes": {name: (seconds[name] - seconds["forward"]) / backward for name in models},
    }


def table(cases):
    """The backward passes of each case as Markdown."""
    names = list(cases[0]["backward_passes"])
    lines = ["| tasks | embeddings | bound | " + " | ".join(names) + " |", "|---" * (len(names) + 3) + "|"]
    for case in cases:
        cells = " | ".join(f"{value:.2f}" for value in case["backward_passes"].values())
        lines.append(f"| {case['tasks']} | {'yes' if case['embeddings'] else 'no'} | {case['tasks'] + 0.3} | {cells} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/balancing_cost.json"))
    parser.add_argument("--quick", action="store_true", help="ten steps for two tasks: to see that it runs")
    arguments = parser.parse_args()
    count = 10 if arguments.quick else arguments.steps
    cases = [
        measure(TASKS[:tasks], embeds, count)
        for tasks in ((2,) if arguments.quick else (2, 4))
        for embeds in (False, True)
    ]
    report = {
        "setting": {
            "fields": FIELDS,
            "embedding_width": WIDTH,
            "ids": IDS,
            "experts": EXPERTS,
            "expert_units": UNITS,
            "batch": BATCH,
            "steps": count,
        },
        "cases": cases,
    }
    save(arguments.output, report)
    print(table(cases))


if __name__ == "__main__":
    main()
