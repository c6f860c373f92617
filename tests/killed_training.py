"""A program that trains everything that is learned in one model, is killed again and again, and goes on from a backup.

    python tests/killed_training.py DIRECTORY

Each training is a process of its own, forked from this one, which loads TensorFlow once and runs nothing of it.
"""

import os
import random
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf

import mtl_layers as mtl
from mtl_layers._keras import keras

TASKS, EPOCHS, STEPS, BATCH = ("b", "a"), 4, 4, 8


def build(seed):
    """A searched route, an allocation, sparse masks, and loss weights that follow the losses.

    No dropout: neither Keras puts its random state into a backup.
    """
    keras.utils.set_random_seed(seed)
    x = keras.Input((4,), name="x")
    sharing = [
        mtl.RouteSupernet(2, 1, 2, 3, name="routed"),
        mtl.GumbelMatrix(2, 3, (4,), seed=5, name="allocated"),
        mtl.SparseSharing(2, (4,), name="sparse"),
    ]
    outputs = mtl.Towers({"b": (3,), "a": ()})(keras.layers.Concatenate()([layer(x) for layer in sharing]))
    model = mtl.balancing.BalancedModel(x, outputs, mtl.balancing.DynamicWeightAverage(TASKS, steps=STEPS))
    masks = np.random.default_rng(seed).random((2, 4, 4)) < 0.7
    sharing[2].set_masks([masks | np.eye(4, dtype=bool)])
    losses = mtl.losses.per_task(dict.fromkeys(TASKS, "binary_crossentropy"))
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False, **losses)  # XLA would compile for longer than this
    return model


def rows(count, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4)).astype("float32")
    noise = rng.normal(size=(2, count))
    score = {"b": x[:, 0] + 0.5 * noise[0], "a": x[:, 1] * x[:, 2] + 0.5 * noise[1]}
    return x, {task: (score[task] > 0).astype("float32")[:, None] for task in TASKS}


def shuffled(data, epoch):
    """Batches in an order that depends on the number of the epoch alone, and not on how many came before it."""
    count = len(data[0])

    def order(_):
        return tf.data.Dataset.from_tensor_slices(tf.random.experimental.stateless_shuffle(tf.range(count), [0, epoch]))

    index = tf.data.Dataset.range(1).flat_map(order).batch(BATCH)
    batches = index.map(lambda rows: tf.nest.map_structure(lambda column: tf.gather(column, rows), data))
    return batches.apply(tf.data.experimental.assert_cardinality(STEPS))


class Chaos(keras.callbacks.Callback):
    """Tells the data which epoch it is; kills the process in the middle of one."""

    def __init__(self, epoch, kill_at):
        super().__init__()
        self.epoch, self.kill_at = epoch, kill_at

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch.assign(epoch)

    def on_train_batch_end(self, batch, logs=None):
        if (int(self.epoch), batch) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def train(directory, name, seed, kill_at=None):
    """One `fit` to the end, or to where it is killed; what it ends with is written to `name`."""
    model, epoch = build(seed), tf.Variable(0, dtype="int32")
    data = shuffled(tf.nest.map_structure(tf.constant, rows(STEPS * BATCH, 0)), epoch)
    callbacks = [
        mtl.RouteSearch([rows(16, number) for number in (7, 8, 9)], optimizer=keras.optimizers.Adam(0.01), seed=3),
        keras.callbacks.BackupAndRestore(str(directory / f"backup_of_{name}")),
        Chaos(epoch, kill_at),
    ]
    history = model.fit(data, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=callbacks)
    supernet, allocated, sparse = (model.get_layer(each) for each in ("routed", "allocated", "sparse"))
    found = {
        "epochs": history.epoch,
        "route": supernet.route.numpy(),
        "policy": supernet.alpha.numpy(),
        "derived": supernet.derive().to_json(),
        "masks": sparse.get_masks()[0],
        "probabilities": allocated.probabilities()[0],
        "loss_weights": np.array([history.history[f"{task}_weight"][-1] for task in TASKS]),
        **{f"weight_{number}": weight for number, weight in enumerate(model.get_weights())},
    }
    for holder, optimizer in (("search", supernet.search_optimizer), ("model", model.optimizer)):
        variables = optimizer.variables() if callable(optimizer.variables) else optimizer.variables
        found |= {f"{holder}_optimizer_{number}": each.numpy() for number, each in enumerate(variables)}
    np.savez(directory / f"{name}.npz", **found)


def apart(*arguments):
    """Runs `train` in a child process; returns the number of the signal that ended it, 0 if none did."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)
    code = 1
    try:
        train(*arguments)
        code = 0
    finally:
        os._exit(code)


def main():
    directory = Path(sys.argv[1])
    chance = random.Random(0)
    points = [(epoch, chance.randrange(STEPS)) for epoch in range(1, EPOCHS)]
    print("uninterrupted", apart(directory, "uninterrupted", 0))
    for number, point in enumerate(points):
        print("killed", *point, apart(directory, "interrupted", number, point))  # each from other initial weights
    print("resumed", apart(directory, "interrupted", 99))


if __name__ == "__main__":
    main()
