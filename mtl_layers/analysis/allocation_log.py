"""How an allocation develops, in the logs of `fit`."""

import numpy as np

from mtl_layers._keras import keras, ops
from mtl_layers._walk import layers_of
from mtl_layers.sharing import GumbelMatrix
from mtl_layers.towers import Towers


class AllocationLog(keras.callbacks.Callback):
    """Writes into the logs of every epoch what the `GumbelMatrix` layers of the model have learned so far.

    It also warns, before every evaluation, of tasks that have no component in the most likely matrix: their output is 0
    whatever the input.

    Args:
        entries: Whether every single probability is logged. Defaults to `True`.

    Logs: `<layer>_probability`, the mean of all probabilities, which a budget limits; `<layer>_active`, the share of
    entries in the most likely matrices; `<layer>_empty`, the number of tasks without a component, summed over levels;
    `<layer>_temperature`; and for each entry its probability, `<layer>_<level>_<task>_<component>`. Tasks go by the
    names of the model's `Towers`, or by numbers where it has none.

    Raises:
        ValueError: If the model has no `GumbelMatrix`.

    Example:
        >>> log = mtl.analysis.AllocationLog()        # model.fit(..., callbacks=[log, keras.callbacks.TensorBoard()])
    """

    def __init__(self, entries=True):
        super().__init__()
        self.entries = entries
        self._supports_tf_logs = True  # else Keras 2 hands out copies, and the progress bar does not see ours

    def set_model(self, model):
        super().set_model(model)
        self._layers = [layer for layer in layers_of(model) if isinstance(layer, GumbelMatrix)]
        if not self._layers:
            raise ValueError("`model` must have a GumbelMatrix layer for its allocation to be logged; received: none")
        names = [layer.task_names for layer in layers_of(model) if isinstance(layer, Towers)]
        self._names = names[0] if len(names) == 1 else ()

    def on_epoch_end(self, epoch, logs=None):
        self._sync()
        if logs is None:
            return
        for layer in self._layers:
            probabilities = layer.probabilities()
            together = np.concatenate([level.ravel() for level in probabilities])
            temperature = layer.matrices.temperature_at(ops.reshape(layer.step, ()))
            logs[f"{layer.name}_probability"] = float(together.mean())
            logs[f"{layer.name}_active"] = float((together >= 0.5).mean())
            logs[f"{layer.name}_empty"] = len(layer.empty_tasks())
            logs[f"{layer.name}_temperature"] = float(ops.convert_to_numpy(temperature))
            names = self._names if len(self._names) == layer.num_tasks else range(layer.num_tasks)
            for depth, level in enumerate(probabilities if self.entries else ()):
                for (task, component), probability in np.ndenumerate(level):
                    logs[f"{layer.name}_{depth}_{names[task]}_{component}"] = float(probability)

    def on_test_begin(self, logs=None):
        self._sync()
        for layer in self._layers:
            layer.allocation()  # warns

    def _sync(self):
        # JAX keeps the state of `fit` outside the variables until it is asked for.
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
