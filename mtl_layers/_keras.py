"""The one place that knows which Keras runs: Keras 3 on any backend, or tf_keras when TF_USE_LEGACY_KERAS=1.

`keras.ops` of Keras 3 works unchanged inside tf_keras layers, so only the namespace of classes switches.
"""

import os

if os.environ.get("TF_USE_LEGACY_KERAS", "0").lower() in ("1", "true"):
    # Keras 3 still provides the ops here, and they must speak TensorFlow whatever the user's Keras 3 is set to.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tf_keras as keras

    BACKEND = "tensorflow"
else:
    import keras

    BACKEND = keras.backend.backend()

from keras import ops

_LEGACY = keras.__name__ == "tf_keras"
# TensorFlow keeps variables of int32 with the host, where a step that is compiled for a GPU does not find them.
INTEGER = "int64" if BACKEND == "tensorflow" else "int32"

register = keras.saving.register_keras_serializable(package="mtl_layers")


def build_part(part, input_shape):
    """Builds a layer that another one holds, so that the names of its weights begin with its own.

    Keras 3 sees to that by itself. Equal names overwrite each other in TensorBoard, and Keras 2 writes no HDF5 file.
    """
    if _LEGACY:
        with keras.backend.name_scope(part.name):
            part.build(input_shape)
    else:
        part.build(input_shape)


def deserialize(config, **kwargs):
    """What `keras.saving.serialize_keras_object` made, again."""
    if _LEGACY and (registered := config["registered_name"]):
        # A model that Keras 2 loads from HDF5 looks for a class by this name alone, which is not that of other files.
        config = {**config, "class_name": registered}
    return keras.saving.deserialize_keras_object(config, **kwargs)


__all__ = ["BACKEND", "INTEGER", "build_part", "deserialize", "keras", "ops", "register"]
