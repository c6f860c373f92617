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

# TensorFlow keeps variables of int32 with the host, where a step that is compiled for a GPU does not find them.
INTEGER = "int64" if BACKEND == "tensorflow" else "int32"

register = keras.saving.register_keras_serializable(package="mtl_layers")

__all__ = ["BACKEND", "INTEGER", "keras", "ops", "register"]
