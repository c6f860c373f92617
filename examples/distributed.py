"""One model on two devices and in two processes: replicas equal to the bit, figures as on one device.

    python examples/distributed.py [--output build/distributed] [--quick]

`MirroredStrategy` splits each batch between the devices of one process, here two logical CPUs; it works with `fit` on
Keras 3 and on tf_keras. `MultiWorkerMirroredStrategy` splits it between processes, here two on this machine; its `fit`
needs tf_keras, so those are started with TF_USE_LEGACY_KERAS=1. Nothing in the model says where it runs.

Every run starts from one seed and sees the same global batches. Expected: all replicas hold the same weights to the
bit. Those of a single device differ by the order of summation, 1e-6 in weights after 40 steps, and after 800, which
amplify it, 1e-2; losses and test AUCs (about .949 for income and .994 for never married) agree to .0005 all the same.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # the two processes tell of every step by which they find each other

import census_data
import census_model
import numpy as np
import tensorflow as tf

import mtl_layers as mtl
from mtl_layers._keras import keras

TASKS = census_data.TASKS
TOLERANCE = 5e-4  # of losses and AUCs
EPOCHS = 2


# ------------------------------------------------------------------------------------------------------ data and model


def prepare(path, quick):
    """Writes the data for all processes, categories as numbers.

    For before it trains under a strategy, the `fit` of Keras 3 averages a batch over replicas, strings included.
    """
    (features, labels), _, (test_features, test_labels) = census_data.load_parts(quick)
    for name, values in features.items():
        if values.dtype == object:
            vocabulary, features[name] = np.unique(values, return_inverse=True)
            place = {word: number for number, word in enumerate(vocabulary)}
            test_features[name] = np.array([place.get(word, len(place)) for word in test_features[name]])
    parts = {"x": features, "y": labels, "test_x": test_features, "test_y": test_labels}
    arrays = {f"{part}/{name}": column[:, None] for part, columns in parts.items() for name, column in columns.items()}
    np.savez(path, **arrays)


def load(path):
    """The parts as `prepare` wrote them, each a dict of `[rows, 1]`."""
    parts = {"x": {}, "y": {}, "test_x": {}, "test_y": {}}
    for key, column in np.load(path).items():
        part, name = key.split("/")
        parts[part][name] = column
    return parts


def batches(features, labels):
    """Whole batches, so that replicas get as many rows of each, in one order.

    A `shuffle` would give another in every pass, and the `fit` of Keras 3 makes one pass more under a strategy.
    """
    columns = tf.nest.map_structure(tf.constant, (features, labels))
    order = tf.data.Dataset.from_tensor_slices(np.random.default_rng(0).permutation(len(labels["income"])))
    rows = order.batch(census_data.BATCH, drop_remainder=True)
    return rows.map(lambda index: tf.nest.map_structure(lambda column: tf.gather(column, index), columns))


def train(strategy, data):
    """Trains under a strategy, or on one device if it is None: weights of each replica here, losses and test AUCs."""
    is_text = {name: isinstance(spec, mtl.features.Categorical) for name, spec in census_data.SPECS.items()}
    number = mtl.features.Categorical(dtype="int64")
    embedding = mtl.FeatureEmbedding({name: number if is_text[name] else census_data.SPECS[name] for name in is_text})
    embedding.adapt(data["x"])

    def build():
        sharing = mtl.PLE(2, 1, num_task_experts=1, num_shared_experts=2, hidden_units=(64,))
        return census_model.build(embedding.features, sharing, TASKS)

    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = build()
        # Not Adam: it divides by the size of the gradients, and so would hide any that are counted twice.
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(optimizer, **mtl.losses.per_task(dict.fromkeys(TASKS, "binary_crossentropy")))
    history = model.fit(batches(data["x"], data["y"]), epochs=EPOCHS, shuffle=False, verbose=0).history

    alone = build()  # a model like any other takes the weights
    alone.set_weights(model.get_weights())
    predictions = alone.predict(data["test_x"], batch_size=4096, verbose=0)
    figures = {"loss": [float(loss) for loss in history["loss"]], **census_data.aucs(predictions, data["test_y"])}
    return replicas(strategy, model), figures


def replicas(strategy, model):
    """The weights of each replica in this process, a list of arrays for each."""
    if strategy is None:
        return [model.get_weights()]
    variables = [v if isinstance(v, tf.Variable) else v.value for v in model.weights]  # a Keras 3 variable holds one
    held = [strategy.experimental_local_results(variable) for variable in variables]
    return [[local[number].numpy() for local in held] for number in range(len(held[0]))]


# -------------------------------------------------------------------------------------------------------- the processes


def work(output):
    """What each of two processes does; TF_CONFIG tells it which one it is and where the other is."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything makes use of TensorFlow
    index = strategy.cluster_resolver.task_id
    data = load(output / "data.npz")
    results = {"one_worker": train(None, data)} if index == 0 else {}  # meanwhile the other waits
    results[f"worker_{index}"] = train(strategy, data)
    for name, ((weights,), figures) in results.items():
        np.savez(output / f"{name}.npz", *weights)
        (output / f"{name}.json").write_text(json.dumps(figures), encoding="utf-8")


def run_workers(output):
    """Two processes that find each other by TF_CONFIG, as they would on two machines."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]  # free ones
    processes = []
    for index in range(2):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CONFIG": json.dumps(cluster)}
        command = [sys.executable, __file__, "--output", str(output), "--worker"]
        processes.append(subprocess.Popen(command, env=environment))
    try:
        for process in processes:
            if process.wait() != 0:
                raise SystemExit(f"a worker ended with {process.returncode}")
    finally:
        for process in processes:
            process.kill()  # the other would wait for ever for one that failed

    def result(name):
        return list(np.load(output / f"{name}.npz").values()), json.loads((output / f"{name}.json").read_text())

    (one, one_figures), (first, figures), (second, _) = map(result, ("one_worker", "worker_0", "worker_1"))
    return ([one], one_figures), ([first, second], figures)


def compare(name, one, two):
    """Prints one device beside two replicas, and ends with an error if they do not agree."""
    ([alone], expected), ([first, second], found) = one, two
    for number, figures in enumerate((expected, found), start=1):
        losses = " ".join(f"{loss:.5f}" for loss in figures["loss"])
        print(f"{number} {name:8} loss {losses}, AUC {figures['income']:.5f} {figures['never_married']:.5f}")
    equal = all((mine == theirs).all() for mine, theirs in zip(first, second, strict=True))
    gaps = {
        "weights": max(float(np.abs(mine - theirs).max()) for mine, theirs in zip(alone, first, strict=True)),
        "loss": float(np.abs(np.subtract(expected["loss"], found["loss"])).max()),
        "auc": max(abs(expected[task] - found[task]) for task in TASKS),
    }
    print(f"weights equal on both: {equal}; to one: " + ", ".join(f"{key} {gap:.1e}" for key, gap in gaps.items()))
    if not equal or max(gaps["loss"], gaps["auc"]) > TOLERANCE:
        raise SystemExit(f"two {name}s must hold the same weights, and have the figures of one to {TOLERANCE}")
    return {"equal": equal, "gaps": gaps, "one": expected, "two": found}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("build/distributed"))
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rows: to see that it runs")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    output = arguments.output
    if arguments.worker:
        work(output)
        return
    output.mkdir(parents=True, exist_ok=True)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    prepare(output / "data.npz", arguments.quick)
    data = load(output / "data.npz")

    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    report = {
        "devices": compare("device", train(None, data), train(mirrored, data)),
        "workers": compare("worker", *run_workers(output)),
    }
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
