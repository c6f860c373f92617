"""What a step of the route search costs, against a training step of a multi-layer MMoE with the same sub-networks.

    python -m benchmarks.search_cost [--steps 200] [--output benchmarks/results/search_cost.json] [--quick]

All sides run in one process and take turns, step by step; medians and ratios of medians are reported. The forward pass
of a frozen route with half of the sub-networks is timed against the multi-layer MMoE's, the dense part alone.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

import mtl_layers as mtl
from mtl_layers._keras import keras

DIM, LAYERS, SUBNETWORKS, UNITS, BATCH = 150, 2, 4, 64, 512
TASKS = ("click", "purchase")


def model_of(sharing):
    """A compiled model of the sharing layer between inputs and towers."""
    inputs = keras.Input((DIM,), name="x")
    model = keras.Model(inputs, mtl.Towers(dict.fromkeys(TASKS, (32,)))(sharing(inputs)))
    model.compile(keras.optimizers.Adam(1e-3), **mtl.losses.per_task(dict.fromkeys(TASKS, "binary_crossentropy")))
    return model


def batch(seed, rows=BATCH):
    rng = np.random.default_rng(seed)
    return (
        tf.constant(rng.normal(size=(rows, DIM)).astype("float32")),
        {task: tf.constant((rng.random((rows, 1)) < 0.3).astype("float32")) for task in TASKS},
    )


def training_step(model):
    x, y = batch(0)
    return lambda: model.train_on_batch(x, y)


def search_step(model, **arguments):
    """A training step with the callback's two halves around it."""
    search = mtl.RouteSearch([batch(1)], **arguments)
    search.set_model(model)
    search.on_train_begin()
    train = training_step(model)

    def step():
        search.on_train_batch_begin(0)
        train()
        search.on_train_batch_end(0, {})

    return step


def forward_step(layer, rows=1024):
    x, _ = batch(2, rows)
    run = tf.function(lambda: layer(x, training=False))
    return lambda: tf.nest.map_structure(lambda tensor: tensor.numpy(), run())


def half_route():
    """A route that reaches half of the sub-networks of each layer, with a gate for every mixture."""
    half = tuple(range(SUBNETWORKS // 2))
    count = (LAYERS - 1) * SUBNETWORKS + len(TASKS)
    return mtl.Route(len(TASKS), LAYERS, SUBNETWORKS, ((half, 0),) * count)


def interleaved(steps, count, warm_up=10):
    """Median seconds of each named step; they take turns."""
    seconds = {name: [] for name in steps}
    for turn in range(warm_up + count):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/search_cost.json"))
    parser.add_argument("--quick", action="store_true", help="ten steps: to see that it runs")
    arguments = parser.parse_args()
    count = 10 if arguments.quick else arguments.steps

    keras.utils.set_random_seed(0)
    mmoe = model_of(mtl.MultiLayerMMoE(len(TASKS), LAYERS, SUBNETWORKS, (UNITS,)))
    space = (len(TASKS), LAYERS, SUBNETWORKS, UNITS)
    training = interleaved(
        {
            "ml_mmoe": training_step(mmoe),
            "supernet": training_step(model_of(mtl.RouteSupernet(*space))),
            "search": search_step(model_of(mtl.RouteSupernet(*space))),
            "search_4_routes": search_step(model_of(mtl.RouteSupernet(*space)), routes_per_step=4),
        },
        count,
    )
    full = mtl.MultiLayerMMoE(len(TASKS), LAYERS, SUBNETWORKS, (UNITS,))
    full.build((None, DIM))
    half = mtl.StaticRoute(half_route(), UNITS)
    half.build((None, DIM))
    serving = interleaved({"ml_mmoe": forward_step(full), "frozen_half": forward_step(half.freeze())}, count)
    report = {
        "setting": {"inputs": DIM, "layers": LAYERS, "subnetworks": SUBNETWORKS, "units": UNITS, "batch": BATCH},
        "training_seconds": training,
        "training_ratio": {name: value / training["ml_mmoe"] for name, value in training.items()},
        "forward_seconds": serving,
        "forward_ratio": {name: value / serving["ml_mmoe"] for name, value in serving.items()},
        "steps": count,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "python": platform.python_version()},
        "processor": platform.processor() or platform.machine(),
    }
    print(json.dumps(report, indent=2))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
