"""What a training step costs with large embedding tables: Keras' Adam against LazyAdam.

    python -m benchmarks.lazy_adam_cost [--steps 60] [--output benchmarks/results/lazy_adam_cost.json] [--quick]

A small MMoE over 15 hashed fields of width 10, batches of 512 rows, so that a step looks up 7,680 rows of a table of
10,000, 1,000,000 or 4,000,000. The three sides take turns, step by step; medians and their ratios are reported. SGD,
which has no moments to keep, shows what is left without an optimizer's work on the table.
"""

import argparse
from pathlib import Path

import numpy as np
import tensorflow as tf

import mtl_layers as mtl
from benchmarks.timing import compiled, interleaved, labels, ratios, save
from mtl_layers._keras import keras

FIELDS, WIDTH, BATCH = 15, 10, 512
ROWS = (10_000, 1_000_000, 4_000_000)
TASKS = ("click", "purchase")
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(1e-3),
    "lazy_adam": lambda: mtl.LazyAdam(1e-3),
    "sgd": lambda: keras.optimizers.SGD(1e-2),
}


def training_step(rows, optimizer):
    field = mtl.features.Categorical(hash_buckets=rows // FIELDS, dtype="int64")
    features = mtl.FeatureEmbedding({f"field_{number}": field for number in range(FIELDS)}, width=WIDTH)
    inputs = features.inputs()
    model = keras.Model(inputs, mtl.Towers(dict.fromkeys(TASKS, (32,)))(mtl.MMoE(2, 4, (64,))(features(inputs))))
    compiled(model, optimizer)
    random = np.random.default_rng(0)
    x = {name: tf.constant(random.integers(0, 2**40, (BATCH, 1))) for name in inputs}
    y = labels(random, TASKS, BATCH)
    return lambda: model.train_on_batch(x, y)


def training(rows, count):
    keras.utils.set_random_seed(0)
    return interleaved({name: training_step(rows, make()) for name, make in OPTIMIZERS.items()}, count, warm_up=3)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/lazy_adam_cost.json"))
    parser.add_argument("--quick", action="store_true", help="three steps, small tables: to see that it runs")
    options = parser.parse_args(arguments)
    count = 3 if options.quick else options.steps
    seconds = {f"{rows}_rows": training(rows, count) for rows in (ROWS[:1] if options.quick else ROWS)}
    setting = {"fields": FIELDS, "width": WIDTH, "batch": BATCH, "looked_up": FIELDS * BATCH, "steps": count}
    print(save(options.output, {"setting": setting, "seconds": seconds, "ratio": ratios(seconds)}))


if __name__ == "__main__":
    main()
