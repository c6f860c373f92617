"""Tiny models around a `RouteSupernet`, and a callback that writes down what a search did."""

import numpy as np
from conftest import BACKEND
from reference import array

import mtl_layers as mtl
from mtl_layers._keras import keras, ops


def compiled(model, tasks, optimizer, loss="mse"):
    """Without XLA: it would compile for longer than these models train."""
    losses = mtl.losses.per_task(dict.fromkeys(tasks, loss))
    model.compile(optimizer, jit_compile=BACKEND == "jax", **losses)
    return model


def constant_model(constants, tasks=("a",)):
    """Sub-network i gives the number `constants[i]` whatever the input; a task's prediction is the mean of its values.

    So a prediction tells which route is in force. Weights do not move.
    """
    inputs = keras.Input((1,))
    supernet = mtl.RouteSupernet(len(tasks), 1, len(constants), 1, pooling="mean", activation="linear")
    towers = mtl.Towers({task: mtl.towers.Regression(()) for task in tasks})
    model = keras.Model(inputs, towers(supernet(inputs)))
    for weight in supernet.trainable_weights:
        weight.assign(np.zeros(weight.shape))
    supernet.subnetworks[0].biases[0].assign(np.reshape(constants, (-1, 1, 1)))
    towers.heads[0].kernels[0].assign(np.ones((len(tasks), 1, 1)))
    return compiled(model, tasks, keras.optimizers.SGD(0.0)), supernet


def prediction_of(supernet, number, constants):
    """What a constant model predicts under a route number of a task's block."""
    return np.mean([constants[value] for value in supernet.route_of([number] * supernet.num_blocks).blocks[0].values])


def constant_data(rows, tasks=("a",), label=0.0):
    return np.ones((rows, 1), "float32"), {task: np.full((rows, 1), label, "float32") for task in tasks}


def real_model(optimizer, shape=(2, 2, 3), seed=0, **kwargs):
    """A model that learns something, with two binary tasks."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,), name="x")
    supernet = mtl.RouteSupernet(*shape, 3, **kwargs)
    towers = mtl.Towers({"b": (3,), "a": ()}, dtype=kwargs.get("dtype"))
    model = keras.Model(inputs, towers(supernet(inputs)))
    return compiled(model, ("b", "a"), optimizer, "binary_crossentropy"), supernet


def real_data(rows, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)).astype("float32")
    noise = rng.normal(size=(2, rows))
    return x, {
        "b": (x[:, 0] + 0.5 * noise[0] > 0).astype("float32")[:, None],
        "a": (x[:, 1] * x[:, 2] + 0.5 * noise[1] > 0).astype("float32")[:, None],
    }


def supernet_of(model):
    return next(layer for layer in model.layers if isinstance(layer, mtl.RouteSupernet))


class Record(keras.callbacks.Callback):
    """To stand behind a `RouteSearch`: route and `alpha` after each batch, and the logs of batches."""

    def __init__(self):
        super().__init__()
        self.routes, self.alphas, self.logs = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        supernet = supernet_of(self.model)
        self.routes.append(array(supernet.route).astype(int))
        self.alphas.append(array(supernet.alpha))
        self.logs.append(dict(logs))


def search(model, data, batch_size, validation_data, epochs=1, **kwargs):
    """`fit` with a `RouteSearch`; returns the record and the history."""
    record = Record()
    callbacks = [mtl.RouteSearch(validation_data, **kwargs), record]
    x, y = data
    history = model.fit(x, y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return record, history.history


def softmax(alpha):
    alpha = np.asarray(alpha, "float64")
    powers = np.exp(alpha - alpha.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def mean_square(labels, predictions):
    """A reward that is another for each route of a constant model."""
    return ops.mean(ops.square(predictions["a"]))
