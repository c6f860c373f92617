"""What the programs that measure costs share: sides that take turns, ratios of their medians, and the report."""

import json
import platform
import statistics
import time

import numpy as np
import tensorflow as tf

import mtl_layers as mtl
from mtl_layers._keras import keras

SERVED = 1024  # rows of a forward pass


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


def compiled(model, optimizer, jit_compile=False):
    """The model of binary tasks, compiled; without XLA as Keras does on a processor unless it is told."""
    losses = mtl.losses.per_task(dict.fromkeys(model.output, "binary_crossentropy"))
    model.compile(optimizer, **losses, jit_compile=jit_compile)
    return model


def labels(random, tasks, rows):
    """Random labels of binary tasks."""
    return {task: tf.constant((random.random((rows, 1)) < 0.3).astype("float32")) for task in tasks}


def forward_step(layer, *shape, batch=SERVED):
    """A compiled forward pass of rows of this shape, by default of a batch as it is served."""
    x = tf.constant(np.random.default_rng(2).normal(size=(batch, *shape)).astype("float32"))
    run = tf.function(layer)
    return lambda: tf.nest.map_structure(lambda tensor: tensor.numpy(), run(x))


def ratios(seconds):
    """Every side as a multiple of the first one of its comparison."""
    if any(isinstance(value, dict) for value in seconds.values()):
        return {name: ratios(value) for name, value in seconds.items()}
    first = next(iter(seconds.values()))
    return {name: value / first for name, value in seconds.items()}


def save(path, found):
    """Writes what was found, with the versions and the processor, as JSON, and returns its text."""
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__, "python": platform.python_version()}
    text = json.dumps(
        {**found, "versions": versions, "processor": platform.processor() or platform.machine()}, indent=2
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    return text
