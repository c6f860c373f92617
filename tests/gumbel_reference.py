"""Forward passes of `GumbelMatrix` in NumPy, task by task and component by component, and layers to try it with."""

import numpy as np
from reference import array, expert, experts_weights, randomise, relu

import mtl_layers as mtl
from mtl_layers._keras import keras, ops


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


def averages(outputs, matrix):
    """For each task the average of its active components: `outputs[task][component]`, each `[batch, units]`."""
    tasks = []
    for task, row in enumerate(matrix):
        active = [outputs[task][component] for component in np.flatnonzero(row)]
        tasks.append(sum(active) / len(active) if active else np.zeros_like(outputs[task][0]))
    return tasks


def forward(layer, matrices, x, activation=relu):
    """The output of a dense layer `[batch, tasks, units]` under one matrix of 0 and 1 per level."""
    values = [x[:, task] if x.ndim == 3 else x for task in range(layer.num_tasks)]
    for level, matrix in zip(layer.levels, matrices, strict=True):
        weights = experts_weights(level.components)
        components = range(len(matrix[0]))
        values = averages([[expert(weights, c, value, activation) for c in components] for value in values], matrix)
    return np.stack(values, axis=1)


def made(rng, *args, dim=5, **kwargs):
    """A built dense layer with random weights and an allocation in which every task has a component."""
    layer = mtl.GumbelMatrix(*args, **kwargs)
    layer.build((None, dim))
    for level in layer.levels:
        randomise(level, rng)
    allocate(layer, [random_matrix(rng, *each.shape) for each in layer.probabilities()])
    return layer


def random_matrix(rng, tasks, components):
    matrix = rng.random((tasks, components)) < 0.5
    matrix[np.arange(tasks), rng.integers(0, components, tasks)] = True
    return matrix


def allocate(layer, matrices, certainty=0.8):
    """Makes the matrices the most likely ones."""
    layer.set_probabilities([np.where(matrix, certainty, 1 - certainty) for matrix in matrices])


def telltale(tasks, components, values=None, **kwargs):
    """A layer whose component c gives the row `values[c]` whatever the input; by default its output is the weights."""
    values = np.eye(components, dtype="float32") if values is None else values
    layer = mtl.GumbelMatrix(tasks, components, (values.shape[1],), activation="linear", **kwargs)
    layer.build((None, 1))
    experts = layer.levels[0].components
    experts.kernels[0].assign(np.zeros(experts.kernels[0].shape))
    experts.biases[0].assign(values[:, None])
    return layer


def drawn(layer):
    """The matrix that a telltale layer draws for its next training batch."""
    return numbers(layer(np.zeros((1, 1), "float32"), training=True))[0] > 0


def logits_of(layer):
    """The logits of each level, by way of the probabilities."""
    return [np.log(p) - np.log1p(-p) for p in (np.asarray(each, "float64") for each in layer.probabilities())]


class InTraining(keras.layers.Layer):
    """Calls a built layer as in training."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.built = True

    def call(self, inputs):
        return self.inner(inputs, training=True)


def step_of(layer):
    return int(array(layer.step))
