"""What the masks of sparse sharing are like, in the logs of `fit`."""

from mtl_layers._keras import keras
from mtl_layers._walk import layers_of
from mtl_layers.sharing import SparseSharing
from mtl_layers.towers import Towers


class MaskLog(keras.callbacks.Callback):
    """Writes into the logs of every epoch what the masks of the model's `SparseSharing` layers are like.

    Logs: `<layer>_kept_<task>`, the fraction of weights that a task uses, and `<layer>_overlap`, the mask overlap ratio
    of all tasks. Tasks go by the names of the model's `Towers`, or by numbers where it has none.

    Raises:
        ValueError: If the model has no `SparseSharing`.

    Example:
        >>> log = mtl.analysis.MaskLog()              # model.fit(..., callbacks=[log, keras.callbacks.TensorBoard()])
    """

    def __init__(self):
        super().__init__()
        self._supports_tf_logs = True  # else Keras 2 hands out copies, and the progress bar does not see ours
        self._entries = {}

    def on_train_begin(self, logs=None):
        found = [layer for layer in layers_of(self.model) if isinstance(layer, SparseSharing)]
        if not found:
            raise ValueError("`model` must have a SparseSharing layer for its masks to be logged; received: none")
        names = [layer.task_names for layer in layers_of(self.model) if isinstance(layer, Towers)]
        names = names[0] if len(names) == 1 else ()
        self._entries = {}
        for layer in found:  # now, and not at each end of an epoch: nothing in `fit` changes masks
            kept = layer.kept_fractions()
            tasks = names if len(names) == len(kept) else range(len(kept))
            self._entries |= {f"{layer.name}_kept_{task}": float(k) for task, k in zip(tasks, kept, strict=True)}
            self._entries[f"{layer.name}_overlap"] = layer.overlap_ratio()

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs.update(self._entries)
