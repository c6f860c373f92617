"""The parts of a model for Census-Income that the examples share; what differs is the sharing layer."""

import sys

import mtl_layers as mtl
from mtl_layers._keras import keras


def build(specs, sharing, tasks):
    """Raw features -> embedding -> sharing layer -> towers."""
    features = mtl.FeatureEmbedding(specs, width=8)
    inputs = features.inputs()
    outputs = mtl.Towers(dict.fromkeys(tasks, (32,)))(sharing(features(inputs)))
    return keras.Model(inputs, outputs)


def fit(model, data, steps, epochs, metrics=(), callbacks=(), rate=2e-3):
    """Trains with Keras' progress bar; the learning rate falls from `rate` along a cosine. Returns the history."""
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps * epochs)
    model.compile(
        keras.optimizers.Adam(schedule),
        **mtl.losses.per_task(
            dict.fromkeys(model.output, "binary_crossentropy"), {task: list(metrics) for task in model.output}
        ),
    )
    return model.fit(data, epochs=epochs, verbose=verbosity(), shuffle=False, callbacks=list(callbacks)).history


def verbosity():
    """Keras' progress bar on a terminal, and elsewhere a line at the end."""
    return 1 if sys.stdout.isatty() else 2
