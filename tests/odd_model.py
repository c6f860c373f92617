"""A SavedModel of oddities for the tests of serving: many dtypes, a check, a scalar, a request that waits."""

from pathlib import Path

import tensorflow as tf

MAX_TURNS = 200_000  # a waiting request ends by itself, some ten seconds on, if nobody lets it go


class OddModule(tf.Module):
    def __init__(self, version):
        super().__init__()
        self.version = tf.Variable(float(version))

    def types(self, flag, whole, small, exact, half, text):
        """Gives every input back."""
        same = {"flag": flag, "whole": whole, "small": small, "exact": exact, "half": half, "text": text}
        return {name: tf.identity(value) for name, value in same.items()}

    def raw(self, text):
        """Gives the text back, once under a name by which TensorFlow Serving knows bytes."""
        return {"raw_bytes": tf.identity(text), "text": tf.identity(text)}

    def checked(self, x):
        return {"x": tf.debugging.check_numerics(x, "a feature must be finite")}

    def turned(self, x):
        return {"turned": tf.complex(tf.zeros_like(x), x)}

    def mean(self, x):
        return {"mean": tf.reduce_mean(x)}

    def wait(self, path):
        """Writes path.started, then waits for path.go; answers with the version."""
        with tf.control_dependencies([tf.io.write_file(path[0, 0] + ".started", "")]):
            pattern = path[0, 0] + ".go"
        turns = tf.while_loop(
            lambda turn: tf.logical_and(tf.equal(tf.size(tf.io.matching_files(pattern)), 0), turn < MAX_TURNS),
            lambda turn: (turn + 1,),
            [tf.constant(0)],
        )
        with tf.control_dependencies(turns):
            return {"version": tf.reshape(self.version, [1, 1])}


def write_odd_model(directory, version=1):
    """Writes directory/<version>/ and returns that path."""
    module = OddModule(version)

    def column(dtype, name):
        return tf.TensorSpec([None, 1], dtype, name=name)

    signatures = {
        "types": tf.function(module.types).get_concrete_function(
            flag=column(tf.bool, "flag"),
            whole=column(tf.int64, "whole"),
            small=column(tf.int8, "small"),
            exact=column(tf.float64, "exact"),
            half=column(tf.bfloat16, "half"),
            text=tf.TensorSpec([None, None], tf.string, name="text"),
        ),
        "raw": tf.function(module.raw).get_concrete_function(text=column(tf.string, "text")),
        "checked": tf.function(module.checked).get_concrete_function(x=column(tf.float32, "x")),
        "turned": tf.function(module.turned).get_concrete_function(x=column(tf.float32, "x")),
        "mean": tf.function(module.mean).get_concrete_function(x=tf.TensorSpec(None, tf.float32, name="x")),
        "wait": tf.function(module.wait).get_concrete_function(path=column(tf.string, "path")),
    }
    path = Path(directory) / str(version)
    tf.saved_model.save(module, str(path), signatures=signatures)
    return path
