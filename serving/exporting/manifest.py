"""What a version directory holds, as JSON beside it."""

import hashlib
import json
from datetime import UTC, datetime

import tensorflow as tf

import mtl_layers
from mtl_layers._keras import keras

FILE = "manifest.json"
FORMAT = 1


def write_manifest(path, version, model, tasks, functions, counts, score=None):
    """Writes `manifest.json`: versions, the server needed, tasks, features, signatures, parameters, and checksums.

    With a `ScoreFusion` also the weights that its signature has.
    """
    features = functions["serving_default"].input_signature[0]
    signatures = {
        name: {
            "inputs": list(function.input_signature[0]),
            "outputs": sorted(function.get_concrete_function().structured_outputs, key=[*tasks, "score"].index),
            "multiply_adds": counts[name],
        }
        for name, function in functions.items()
    }
    manifest = {
        "format": FORMAT,
        "version": version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "tensorflow": tf.__version__,
            keras.__name__: keras.__version__,
            "mtl_layers": mtl_layers.__version__,
        },
        # A graph may hold what an older TensorFlow does not know; bug fixes, the third number, add nothing to it.
        "needs": {"tensorflow_serving": ".".join(tf.__version__.split(".")[:2])},
        "tasks": tasks,
        "features": {
            name: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()} for name, spec in features.items()
        },
        "signatures": signatures,
        **({} if score is None else {"score_weights": score.task_weights}),
        "parameters": model.count_params(),
        "files": {
            str(file.relative_to(path)): {"sha256": _sha256(file), "bytes": file.stat().st_size}
            for file in sorted(path.rglob("*"))
            if file.is_file()
        },
    }
    (path / FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _sha256(file):
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
