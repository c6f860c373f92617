"""A training that ends in the middle of an epoch."""

from mtl_layers._keras import keras


class Killed(Exception):
    """What ends it."""


class Kill(keras.callbacks.Callback):
    """Ends a training after the given batch of the given epoch."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.last = (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.last:
            raise Killed
