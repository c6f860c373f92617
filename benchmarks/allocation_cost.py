"""What learned allocation costs: Gumbel-Matrix and Sparse Sharing against what they stand in for.

    python -m benchmarks.allocation_cost [--steps 200] [--output benchmarks/results/allocation_cost.json] [--quick]

    training_step    a one-level GumbelMatrix against an MMoE with the same experts
    frozen_half      the forward pass of a frozen GumbelMatrix in which every task uses half of the components, against
                     the unfrozen layer: where all tasks use the same half, and where each has a half of its own
    twenty_tasks     twenty tasks that use ten distinct sets of components, frozen together, against twenty frozen
                     layers of one task
    masked_pass      all masks of SparseSharing in one pass against a stack of dense layers for each task, forward and
                     with gradients; half of each kernel masked
    convolutions     the network of 4-MNIST on a batch of 16 images, forward and gradients: its convolutions, which are
                     alike and run as one, against convolutions that run one by one

Sides in one process take turns, step by step; medians and ratios of medians are reported, the first side being 1.
"""

import argparse
from pathlib import Path

import numpy as np
import tensorflow as tf

import mtl_layers as mtl
from benchmarks.timing import SERVED, compiled, forward_step, interleaved, labels, ratios, save
from mtl_layers._keras import keras

TASKS, COMPONENTS, UNITS, DIM, BATCH = 4, 8, (256, 128), 512, 1024
MANY, CLUSTERS = 20, 10
CERTAIN = 0.9  # of entries that are in the most likely matrix


def training_step(sharing):
    names = [f"task_{task}" for task in range(TASKS)]
    inputs = keras.Input((DIM,))
    model = keras.Model(inputs, mtl.Towers(dict.fromkeys(names, (32,)))(sharing(inputs)))
    compiled(model, keras.optimizers.Adam(1e-3))
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(BATCH, DIM)).astype("float32"))
    y = labels(random, names, BATCH)
    return lambda: model.train_on_batch(x, y)


def training(count):
    keras.utils.set_random_seed(0)
    return interleaved(
        {
            "mmoe": training_step(mtl.MMoE(TASKS, COMPONENTS, UNITS)),
            "gumbel_matrix": training_step(mtl.GumbelMatrix(TASKS, COMPONENTS, UNITS)),
        },
        count,
    )


def allocated(tasks, matrices, units):
    """A GumbelMatrix whose most likely matrices are the given ones."""
    layer = mtl.GumbelMatrix(tasks, [COMPONENTS] * len(matrices), units)
    layer.build((None, DIM))
    layer.set_probabilities([np.where(matrix, CERTAIN, 1 - CERTAIN) for matrix in matrices])
    return layer


def halves(rows, levels=2):
    """For each level a matrix whose rows are a half of the components each, drawn at random."""
    random = np.random.default_rng(3)
    return [random.random((rows, COMPONENTS)).argsort(axis=1) < COMPONENTS // 2 for _ in range(levels)]


def frozen_half(count):
    """Two levels; the unfrozen layer evaluates every component for every task above the first."""
    units = tuple((width,) for width in UNITS)
    same = allocated(TASKS, [np.tile(np.arange(COMPONENTS) < COMPONENTS // 2, (TASKS, 1))] * 2, units)
    own = allocated(TASKS, halves(TASKS), units)
    one_level = allocated(TASKS, [np.tile(np.arange(COMPONENTS) < COMPONENTS // 2, (TASKS, 1))], UNITS)
    return {
        "one_level_the_same_half": pair(one_level, one_level.freeze(), count),
        "two_levels_the_same_half": pair(same, same.freeze(), count),
        "two_levels_a_half_each": pair(own, own.freeze(), count),
        "two_levels_a_half_each_for_one_task": pair(own, own.freeze([0]), count),
    }


def pair(unfrozen, frozen, count):
    return interleaved({"unfrozen": forward_step(unfrozen, DIM), "frozen": forward_step(frozen, DIM)}, count)


def twenty_tasks(count):
    """Two levels of one hidden layer."""
    matrices = [matrix[np.arange(MANY) % CLUSTERS] for matrix in halves(CLUSTERS)]
    together = allocated(MANY, matrices, tuple((width,) for width in UNITS)).freeze()
    alone = [together.freeze([task]) for task in range(MANY)]
    separate = lambda x: [layer(x) for layer in alone]  # noqa: E731
    return interleaved({"separate": forward_step(separate, DIM), "together": forward_step(together, DIM)}, count)


def masked_pass(count):
    sparse = mtl.SparseSharing(TASKS, UNITS)
    sparse.build((None, DIM))
    random = np.random.default_rng(4)
    sparse.set_masks([random.random(mask.shape) < 0.5 for mask in sparse.get_masks()])
    stacks = [keras.Sequential([keras.layers.Dense(width, "relu") for width in UNITS]) for _ in range(TASKS)]
    for stack in stacks:
        stack.build((None, DIM))
    dense = lambda x: [stack(x) for stack in stacks]  # noqa: E731
    return {
        "forward": interleaved({"dense": forward_step(dense, DIM), "sparse": forward_step(sparse, DIM)}, count),
        "gradients": interleaved(
            {"dense": forward_step(gradients(dense), DIM), "sparse": forward_step(gradients(sparse), DIM)}, count
        ),
    }


def convolutions(count):
    """Three levels of four convolutions."""

    class Convolution(keras.layers.Conv2D):
        """A subclass runs by itself, whatever it does."""

    pooling = keras.layers.AveragePooling2D

    def step(kind):
        components = [[kind(4, size, activation="relu") for _ in range(4)] for size in (5, 3, 3)]
        layer = mtl.GumbelMatrix(TASKS, components=components, after=[pooling(2), pooling(2), None])
        return forward_step(gradients(lambda x: layer(x, task=0, training=True)), 28, 28, 1, batch=16)

    return interleaved({"one_by_one": step(Convolution), "as_one": step(keras.layers.Conv2D)}, count)


def gradients(forward):
    """A function of inputs that gives the gradients of the mean square of all outputs."""

    def run(x):
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_mean(tf.square(output)) for output in tf.nest.flatten(forward(x))])
        return tape.gradient(loss, tape.watched_variables())

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/allocation_cost.json"))
    parser.add_argument("--quick", action="store_true", help="three steps: to see that it runs")
    arguments = parser.parse_args()
    count = 3 if arguments.quick else arguments.steps
    seconds = {
        "training_step": training(count),
        "frozen_half": frozen_half(count),
        "twenty_tasks": twenty_tasks(count),
        "masked_pass": masked_pass(count),
        "convolutions": convolutions(count),
    }
    report = {
        "setting": {
            "tasks": TASKS,
            "components": COMPONENTS,
            "units": UNITS,
            "inputs": DIM,
            "training_batch": BATCH,
            "served_batch": SERVED,
            "many_tasks": MANY,
            "clusters": CLUSTERS,
            "steps": count,
        },
        "seconds": seconds,
        "ratio": ratios(seconds),
    }
    print(save(arguments.output, report))


if __name__ == "__main__":
    main()
