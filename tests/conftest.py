"""Settings for every test: quiet native logs, and the Keras that the environment asks for."""

import os
from contextlib import contextmanager

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import pytest
from coverage import Coverage

from mtl_layers._keras import BACKEND, keras

LEGACY = keras.__name__ == "tf_keras"


# For processes whose coverage is not measured. With a limit on file size its data would be cut off, too.
UNMEASURED = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}


def pytest_collection_modifyitems(items):
    """`needs_tensorflow` marks what is TensorFlow's: strings, export, tf.data in the graph."""
    if BACKEND != "tensorflow":
        skip = pytest.mark.skip(reason=f"needs the TensorFlow backend, this run is on {BACKEND}")
        for item in items:
            if item.get_closest_marker("needs_tensorflow"):
                item.add_marker(skip)


def pytest_sessionfinish():
    """Before a process of xdist is told to end, for which it has ten seconds: coverage may need more to write."""
    if current := Coverage.current():
        current.save()


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def in_float64():
    """All that says no type has 64 bits."""
    keras.backend.set_floatx("float64")
    yield
    keras.backend.set_floatx("float32")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@contextmanager
def eagerly():
    """Runs what TensorFlow would trace as it stands: where there are a few steps, tracing is most of the time."""
    if BACKEND != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture
def without_tracing():
    with eagerly():
        yield
