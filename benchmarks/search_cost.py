"""What the route search costs, against a multi-layer MMoE with the same sub-networks behind the same input layer.

    python -m benchmarks.search_cost [--steps 200] [--output benchmarks/results/search_cost.json] [--quick]

Three costs. A step of the search, with a validation batch of the same size, against a training step: for the model of
the MTNAS paper (15 fields, embeddings of width 10, 100,000 ids), at batches of 512 and 4,096 rows, without XLA and with
it (`jit_compile`), for the part above its embeddings alone, and for the largest search there may be, each with gates
and with means in their place (`pooling="mean"`): Adam moves all 13.6 million parameters of its gates in every step,
LazyAdam those of the route in force. The peak memory of both trainings, each in a process of its own. The forward pass
of a frozen route that keeps half of the sub-networks, the part above the embeddings alone, at three sizes. Sides in one
process take turns, step by step; medians and ratios of medians are reported.
"""

import argparse
import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

import mtl_layers as mtl
from benchmarks.timing import SERVED, compiled, forward_step, interleaved, labels, ratios, save
from mtl_layers._keras import keras
from mtl_layers.sharing.route_supernet import MAX_LAYERS, MAX_SUBNETWORKS

FIELDS, WIDTH, IDS, LAYERS, SUBNETWORKS, UNITS = 15, 10, 100_000, 2, 4, 64
BATCH, LARGE_BATCH = 512, 4096
DIM = FIELDS * WIDTH
TASKS = ("click", "purchase")
SIZE = (LAYERS, SUBNETWORKS)
LARGEST = (MAX_LAYERS, MAX_SUBNETWORKS)
SIZES = (64, 256, 512)  # units of the frozen routes
MEMORY_STEPS = 30


def ml_mmoe(size=SIZE, units=UNITS):
    """The multi-layer MMoE behind an input layer of the same size: the same parts as a supernet."""
    mixture = mtl.MultiLayerMMoE(len(TASKS), *size, (units,))
    return keras.Sequential([keras.layers.Dense(units, activation="relu"), mixture])


def supernet(size=SIZE, pooling="gate"):
    return mtl.RouteSupernet(len(TASKS), *size, UNITS, pooling=pooling)


def model_of(sharing, embeds, optimizer, jit_compile):
    """A compiled model of the sharing layer between inputs and towers."""
    if embeds:
        inputs = keras.Input((FIELDS,), dtype="int32", name="ids")
        x = keras.layers.Reshape((DIM,))(keras.layers.Embedding(IDS, WIDTH)(inputs))
    else:
        x = inputs = keras.Input((DIM,), name="x")
    model = keras.Model(inputs, mtl.Towers(dict.fromkeys(TASKS, (32,)))(sharing(x)))
    return compiled(model, optimizer(1e-3), jit_compile)


def batch(seed, embeds, rows):
    rng = np.random.default_rng(seed)
    if embeds:
        x = rng.integers(0, IDS, (rows, FIELDS)).astype("int32")
    else:
        x = rng.normal(size=(rows, DIM)).astype("float32")
    return tf.constant(x), labels(rng, TASKS, rows)


def training_step(sharing, embeds, rows=BATCH, optimizer=keras.optimizers.Adam, jit_compile=False):
    model, (x, y) = model_of(sharing, embeds, optimizer, jit_compile), batch(0, embeds, rows)
    return lambda: model.train_on_batch(x, y)


def search_step(sharing, embeds, rows=BATCH, optimizer=keras.optimizers.Adam, jit_compile=False, **arguments):
    """A training step of a supernet with the callback's two halves around it."""
    model, (x, y) = model_of(sharing, embeds, optimizer, jit_compile), batch(0, embeds, rows)
    search = mtl.RouteSearch([batch(1, embeds, rows)], **arguments)
    search.set_model(model)
    search.on_train_begin()
    search.on_epoch_begin(0)

    def step():
        search.on_train_batch_begin(0)
        model.train_on_batch(x, y)
        search.on_train_batch_end(0, {})

    return step


def training(embeds, count, size=SIZE, **setting):
    """Medians of the kinds of steps; `setting`: rows, optimizer, jit_compile."""
    keras.utils.set_random_seed(0)
    return interleaved(
        {
            "ml_mmoe": training_step(ml_mmoe(size), embeds, **setting),
            "supernet": training_step(supernet(size), embeds, **setting),
            "search": search_step(supernet(size), embeds, **setting),
            "search_4_routes": search_step(supernet(size), embeds, routes_per_step=4, **setting),
            "search_mean": search_step(supernet(size, "mean"), embeds, **setting),
            "search_mean_4_routes": search_step(supernet(size, "mean"), embeds, routes_per_step=4, **setting),
        },
        count,
    )


def peak_memory(side):
    """Megabytes that a training needs beyond what a process has that has only imported everything."""
    command = [sys.executable, "-m", "benchmarks.search_cost", "--memory-of", side]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_megabytes():
    """Of this process, as Linux counts it: the counter of `getrusage` begins with what the parent had."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def train_for_memory(side):
    before = peak_megabytes()
    step = training_step(ml_mmoe(), True) if side == "ml_mmoe" else search_step(supernet(), True)
    for _ in range(MEMORY_STEPS):
        step()
    print(json.dumps(peak_megabytes() - before))


def forward(units, count):
    full, half = ml_mmoe(units=units), mtl.StaticRoute(half_route(), units)
    full.build((None, DIM))
    half.build((None, DIM))
    return interleaved({"ml_mmoe": forward_step(full, DIM), "frozen_half": forward_step(half.freeze(), DIM)}, count)


def half_route():
    """A route that reaches half of the sub-networks of each layer, with a gate for every mixture."""
    half = tuple(range(SUBNETWORKS // 2))
    count = (LAYERS - 1) * SUBNETWORKS + len(TASKS)
    return mtl.Route(len(TASKS), LAYERS, SUBNETWORKS, ((half, 0),) * count)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/search_cost.json"))
    parser.add_argument("--quick", action="store_true", help="two cases, ten steps: to see that it runs")
    parser.add_argument("--memory-of", choices=["ml_mmoe", "search"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        train_for_memory(arguments.memory_of)
        return
    count = 10 if arguments.quick else arguments.steps
    cases = {
        "step_with_embeddings": lambda: training(True, count),
        "step_with_embeddings_large_batch": lambda: training(True, count // 2, rows=LARGE_BATCH),
        "step_with_embeddings_xla": lambda: training(True, count, jit_compile=True),
        "step_with_embeddings_large_batch_xla": lambda: training(True, count // 2, rows=LARGE_BATCH, jit_compile=True),
        "step_above_embeddings": lambda: training(False, count),
        "step_of_the_largest": lambda: training(True, count // 4 + 1, LARGEST),
        "step_of_the_largest_lazy_adam": lambda: training(True, count // 4 + 1, LARGEST, optimizer=mtl.LazyAdam),
        **{f"forward_{units}_units": functools.partial(forward, units, count) for units in SIZES},
    }
    quick = ("step_above_embeddings", f"forward_{min(SIZES)}_units")
    seconds = {name: measure() for name, measure in cases.items() if name in quick or not arguments.quick}
    megabytes = {side: peak_memory(side) for side in ("ml_mmoe", "search")}
    report = {
        "setting": {
            "fields": FIELDS,
            "embedding_width": WIDTH,
            "ids": IDS,
            "layers": LAYERS,
            "subnetworks": SUBNETWORKS,
            "units": UNITS,
            "training_batch": BATCH,
            "large_training_batch": LARGE_BATCH,
            "served_batch": SERVED,
            "steps": count,
        },
        "seconds": seconds,
        "ratio": ratios(seconds),
        "peak_megabytes": megabytes,
        "memory_ratio": megabytes["search"] / megabytes["ml_mmoe"],
    }
    print(save(arguments.output, report))


if __name__ == "__main__":
    main()
