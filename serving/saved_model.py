"""From a trained Keras model to a version directory that TensorFlow Serving loads."""

import contextlib
import io
import os
from functools import partial
from pathlib import Path

import tensorflow as tf

from mtl_layers._keras import BACKEND, keras
from mtl_layers._multiply_adds import graph_multiply_adds
from mtl_layers.freeze import freeze
from mtl_layers.towers import Towers
from mtl_layers.towers.trace import refuse_own_call, trace
from serving.exporting.endpoint import predict, traced
from serving.exporting.features import EXAMPLES, feature_specs
from serving.exporting.manifest import write_manifest
from serving.exporting.parsing import parsing_spec
from serving.exporting.score import SCORE, SCORE_WITH_WEIGHTS, check_score, score_functions
from serving.exporting.staging import staging_directory
from serving.exporting.warmup import check_batch_sizes, write_warmup_requests
from serving.versions import MAX_VERSION, find_versions

DEFAULT = "serving_default"


def export(model, directory, tasks=None, *, score=None, version=None, warmup=None, batch_sizes=(1,), verbose=True):
    """Writes `directory/<version>/`: a SavedModel with a signature per task, and publishes it in one step.

    Signatures: `serving_default` (all tasks), one named after each task (that task's part only), and `examples` (all
    tasks, from serialized `tf.train.Example`). Inputs and outputs keep their names; every variable is stored once,
    whichever signatures use it. The model is frozen first (`mtl.freeze`); a model without `mtl.Towers` is exported
    with the outputs it has, a dict under its own names, a list as `output_0`, `output_1`, ...

    Every warm-up request is run once: a server never serves a version of which one fails. The directory is written
    beside its final name and renamed: whoever watches never sees half a version. What an export left there that was
    killed, a directory such as `.1-unfinished-c0ffee42`, is removed by one that starts a minute later or more.

    Args:
        model: A built functional Keras model, on the TensorFlow backend or tf_keras.
        directory: The model's base directory, the one that TensorFlow Serving watches, or a local one to copy from.
        tasks: Names of the tasks to export. Defaults to `None`, all.
        score: A `mtl.ScoreFusion` over tasks and features, for two more signatures. `score` gives the score with the
            weights that the layer has now: after `score.assign` export the same model again. `score_with_weights` takes
            the weights as inputs, `weight_<name>` of shape `[batch, 1]` each. Defaults to `None`.
        version: An integer from 1 to 2**63 - 1. Defaults to `None`: the highest version there, plus 1.
        warmup: Dict of raw feature arrays whose rows fill the warm-up requests. Defaults to `None`: empty strings and
            zeros.
        batch_sizes: Batch sizes to warm up, positive integers, for every signature; give the server's
            `allowed_batch_sizes`. Defaults to `(1,)`.
        verbose: Whether to print the multiply-adds of each signature. Defaults to `True`.

    Returns:
        The path of the version directory.

    Raises:
        FileExistsError: If the version exists.
        OSError: If the directory cannot be written; nothing is then published.
        ValueError: If a task is unknown, bears a reserved name, or is also an input (a label among the features), the
            model's class has a `call` of its own, `score` has a weight for something else, a feature's name cannot be
            that of a signature's input, or two are the same to TensorFlow, `directory` is a URL, or `warmup` lacks a
            feature or has rows that the model refuses; nothing is then published.

    Example:
        >>> path = serving.export(model, "models/ranker", warmup=rows, batch_sizes=(1, 32))
    """
    _check_backend()
    _check_directory(directory)
    batch_sizes = check_batch_sizes(batch_sizes)
    directory = Path(directory)
    views, scored, features = _views(model, tasks, score)
    functions = _functions(views, features)
    if score is not None:
        functions.update(score_functions(score, scored, features))
    version = _new_version(directory, version)
    final = directory / str(version)
    counts = {name: graph_multiply_adds(f.get_concrete_function().graph) for name, f in functions.items()}
    names = [name for name in views if name != DEFAULT]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with staging_directory(directory, version) as staging:
            _write(functions, views, staging)
            write_warmup_requests(staging, functions, warmup, batch_sizes)
            write_manifest(staging, version, views[DEFAULT], names, functions, counts, score)
            _sync(staging)
            try:
                os.rename(staging, final)
            except OSError:
                _refuse_existing(final)
                raise
        _sync_one(directory)  # or a version that was told of would be lost with the power
    except (OSError, tf.errors.OpError) as error:
        if isinstance(error, FileExistsError):
            raise
        raise OSError(f"`directory` must be writable; nothing was published in {directory}: {error}") from error
    if verbose:
        print(f"exported {final}")
        for name, count in counts.items():
            print(f"  {name:<20} {count:>12,} multiply-adds a row")
    return final


def _check_backend():
    if BACKEND != "tensorflow":
        raise ValueError(
            "export must run on the TensorFlow backend: save the model as .keras, and load and export it with "
            f"KERAS_BACKEND=tensorflow; received: backend={BACKEND!r}"
        )


def _check_directory(directory):
    parts = Path(directory).parts
    if parts and parts[0].endswith(":"):  # a path has one slash where a URL has two: `gs:/bucket`, a local directory
        raise ValueError(
            f"`directory` must be a local directory; received: directory={str(directory)!r}. Export to a local one, "
            "copy the version there beside its final name (to `tmp-1`, which is no number), and rename it"
        )


def _views(model, tasks, score):
    """For each signature, and for the score, a Keras model, all over the same variables; the specs of the features."""
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ValueError(f"`model` must be a built functional Keras model; received: {model!r}")
    refuse_own_call(model)
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    if any(isinstance(layer, Towers) for layer in model.layers):
        everything = freeze(model, tasks)
        names = list(trace(everything).towers.output_names)

        def view(wanted):
            return freeze(everything, wanted)

    else:
        outputs = model.output if isinstance(model.output, dict) else dict(_numbered(model.outputs))
        names = list(outputs) if tasks is None else list(tasks)
        if any(name not in outputs for name in names):
            raise ValueError(f"`tasks` must be names among {list(outputs)}; received: tasks={tasks!r}")
        everything = keras.Model(model.input, {name: outputs[name] for name in names})

        def view(wanted):
            return keras.Model(model.input, {name: outputs[name] for name in wanted})

    features = feature_specs(model)
    signatures = (DEFAULT, EXAMPLES) if score is None else (DEFAULT, EXAMPLES, SCORE, SCORE_WITH_WEIGHTS)
    reserved = [name for name in names if name in signatures]
    if reserved:
        raise ValueError(f"`tasks` must not bear the names of signatures; received: {reserved}")
    labels = [name for name in names if name in features]
    if labels:
        raise ValueError(
            f"`model` must not take a task's label as a feature; received: {labels} both among inputs and outputs"
        )
    scored = None if score is None else view(check_score(score, names, features))
    return {DEFAULT: everything, **{name: view([name]) for name in names}}, scored, features


def _numbered(outputs):
    return ((f"output_{number}", tensor) for number, tensor in enumerate(outputs))


def _functions(views, features):
    """The signatures, as traced `tf.function`s."""
    functions = {name: traced(partial(predict, view), features) for name, view in views.items()}
    spec, finish = parsing_spec(features)
    functions[EXAMPLES] = traced(
        lambda inputs: predict(views[DEFAULT], finish(tf.io.parse_example(inputs[EXAMPLES], spec))),
        {EXAMPLES: tf.TensorSpec([None], tf.string, name=EXAMPLES)},
    )
    return functions


def _write(functions, views, path):
    archive = keras.export.ExportArchive()
    for table in _tables(views.values()):
        archive.track(table)  # and not the layer that owns it: each of its variables would be stored a second time
    for name, function in functions.items():
        archive.add_endpoint(name, function)
    with contextlib.redirect_stdout(io.StringIO()):  # a listing of every endpoint; only Keras 3 can be asked not to
        archive.write_out(str(path))


def _tables(models):
    """The lookup tables among the attributes of all layers, which Keras does not find by itself."""
    layers = {id(layer): layer for model in models for layer in model._flatten_layers()}
    values = (value for layer in layers.values() for value in _flat(vars(layer)))
    kind = tf.saved_model.experimental.TrackableResource
    return list({id(value): value for value in values if isinstance(value, kind)}.values())


def _flat(value):
    if isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _flat(each)
    else:
        yield value


def _new_version(directory, version):
    if version is None:
        version = max(find_versions(directory), default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= MAX_VERSION:
        raise ValueError(f"`version` must be an integer from 1 to {MAX_VERSION}; received: version={version!r}")
    _refuse_existing(directory / str(version))
    return version


def _refuse_existing(path):
    if path.exists():
        raise FileExistsError(
            f"`version` must be new, since a served version never changes; received: {path}, which exists. "
            "Leave `version` out to get the next one"
        )


def _sync(path):
    """Forces files and directories to disk before the rename makes them visible."""
    for entry in [path, *path.rglob("*")]:
        _sync_one(entry)


def _sync_one(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
