"""What is exported, told by the C++ loader that TensorFlow Serving uses."""

import fcntl
import hashlib
import itertools
import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from conftest import UNMEASURED
from cpp_loader import CppModel
from rich_model import TASKS, batches, head, rich_embedding, rich_model, rich_rows
from tensorflow_serving.apis import prediction_log_pb2

import mtl_layers as mtl
import serving
from mtl_layers._keras import keras

pytestmark = pytest.mark.needs_tensorflow
SIGNATURES = ["serving_default", *TASKS, "examples"]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return rich_model()


@pytest.fixture(scope="module")
def rows():
    return rich_rows()


@pytest.fixture(scope="module")
def version(model, rows, tmp_path_factory):
    return serving.export(model, tmp_path_factory.mktemp("ranker"), warmup=rows, batch_sizes=(1, 4), verbose=False)


@pytest.fixture(scope="module")
def loaded(version):
    with CppModel(str(version)) as cpp:
        yield cpp


@pytest.fixture(scope="module")
def predictions(model, rows):
    return model.predict(batches(rows), verbose=0)


@pytest.fixture(scope="module")
def manifest(version):
    return json.loads((version / "manifest.json").read_text())


def serialized(rows, size):
    examples = []
    for row in range(size):
        feature = {}
        for name, values in rows.items():
            cells = [cell for cell in np.ravel(values[row]).tolist() if cell not in ("", -1)]
            if isinstance(np.ravel(values[row])[0], str):
                feature[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[cell.encode() for cell in cells]))
            elif values.dtype.kind == "f":
                feature[name] = tf.train.Feature(float_list=tf.train.FloatList(value=cells))
            else:
                feature[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=cells))
        examples.append(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return np.array(examples, object)


@pytest.mark.parametrize("size", [1, 7, 1024])
@pytest.mark.parametrize("signature", ["serving_default", *TASKS])
def test_every_signature_equals_predict(loaded, predictions, rows, signature, size):
    answer = loaded.run(signature, head(rows, size))
    assert set(answer) == (set(TASKS) if signature == "serving_default" else {signature})
    for task, values in answer.items():
        assert values.shape == (size, 3 if task == "device" else 1)
        np.testing.assert_allclose(values, predictions[task][:size], atol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 1024])
def test_serialized_examples_equal_predict(loaded, predictions, rows, size):
    answer = loaded.run("examples", {"examples": serialized(rows, size)})
    for task in TASKS:
        np.testing.assert_allclose(answer[task], predictions[task][:size], atol=1e-6)


def test_an_empty_batch_gives_empty_predictions(loaded, rows):
    answer = loaded.run("serving_default", head(rows, 0))
    assert {task: values.shape for task, values in answer.items()} == {
        "like": (0, 1), "watch_time": (0, 1), "like_comment": (0, 1), "device": (0, 3)
    }  # fmt: skip


def test_unknown_categories_are_served_by_the_oov_row(loaded, rows):
    one = head(rows, 1)
    first = loaded.run("like", {**one, "country": np.array([["atlantis"]], object)})
    second = loaded.run("like", {**one, "country": np.array([["el dorado"]], object)})
    np.testing.assert_array_equal(first["like"], second["like"])


def test_nan_in_a_numeric_feature_is_refused_by_name(loaded, rows):
    with pytest.raises(RuntimeError, match=r"`age` must be finite; to accept NaN, give its specification a nan_value"):
        loaded.run("like", {**head(rows, 2), "age": np.array([[1.0], [np.nan]], "float32")})


def test_a_feature_missing_from_an_example_is_refused_by_name(loaded, rows):
    without = {name: values for name, values in rows.items() if name != "country"}
    with pytest.raises(RuntimeError, match=r"Feature: country .* is required but could not be found"):
        loaded.run("examples", {"examples": serialized(without, 1)})


def test_inputs_are_the_features_and_never_a_label(loaded):
    assert list(loaded.signatures) and set(loaded.signatures) == set(SIGNATURES)
    for name, (inputs, _) in loaded.signatures.items():
        assert set(inputs) == ({"examples"} if name == "examples" else set(rich_rows(1)))


def test_every_variable_is_stored_once(version, model):
    stored = [
        (name, shape)
        for name, shape in tf.train.list_variables(str(version / "variables" / "variables"))
        if "VARIABLE_VALUE" in name and "save_counter" not in name
    ]
    assert sum(int(np.prod(shape)) for _, shape in stored) == model.count_params()
    assert (version / "variables" / "variables.data-00000-of-00001").stat().st_size < 4 * model.count_params() + 20_000


def test_the_manifest_tells_what_is_there(version, manifest, model):
    assert manifest["format"] == 1 and manifest["version"] == 1 == int(version.name)
    assert manifest["tasks"] == list(TASKS)
    assert manifest["parameters"] == model.count_params()
    assert manifest["features"]["country"] == {"dtype": "string", "shape": [None, 1]}
    assert manifest["features"]["seen"] == {"dtype": "int64", "shape": [None, None]}
    assert list(manifest["signatures"]) == SIGNATURES
    assert manifest["signatures"]["like_comment"]["outputs"] == ["like_comment"]
    assert manifest["versions"]["tensorflow"] == tf.__version__
    assert manifest["versions"]["mtl_layers"] == mtl.__version__
    major, minor, _ = tf.__version__.split(".", 2)
    assert manifest["needs"] == {"tensorflow_serving": f"{major}.{minor}"}
    on_disk = {str(path.relative_to(version)) for path in version.rglob("*") if path.is_file()} - {"manifest.json"}
    assert set(manifest["files"]) == on_disk
    for name, entry in manifest["files"].items():
        content = (version / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_warm_up_requests_run(version, loaded):
    records = tf.data.TFRecordDataset(str(version / "assets.extra" / "tf_serving_warmup_requests"), buffer_size=2**18)
    seen = []
    for record in records.as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        answer = loaded.run(request.model_spec.signature_name, inputs)
        seen.append((request.model_spec.signature_name, len(next(iter(answer.values())))))
    assert sorted(seen) == sorted((name, size) for name in SIGNATURES for size in (1, 4))


def test_without_rows_warm_up_requests_are_made_of_zeros_and_empty_strings(model, tmp_path):
    version = serving.export(model, tmp_path, tasks=["like"], verbose=False)
    records = tf.data.TFRecordDataset(str(version / "assets.extra" / "tf_serving_warmup_requests"), buffer_size=2**18)
    requests = [
        prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        for record in records.as_numpy_iterator()
    ]
    first = {name: tf.make_ndarray(tensor).tolist() for name, tensor in requests[0].inputs.items()}
    assert first == {
        "country": [[b""]], "item": [[0]], "age": [[0.0]], "price": [[0.0]], "genres": [[b""]], "seen": [[0]]
    }  # fmt: skip
    assert [request.model_spec.signature_name for request in requests] == ["serving_default", "like", "examples"]


def warmed(version):
    """The warm-up requests: signature and inputs of each."""
    records = tf.data.TFRecordDataset(str(version / "assets.extra" / "tf_serving_warmup_requests"), buffer_size=2**18)
    for record in records.as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        yield request.model_spec.signature_name, inputs


def flat_model():
    """A model with inputs of rank 1."""
    features = mtl.FeatureEmbedding(
        {"country": mtl.features.Categorical(vocabulary=("fr", "de")), "age": mtl.features.Numeric(30.0, 4.0)}
    )
    inputs = {"country": keras.Input((), dtype="string", name="country"), "age": keras.Input((), name="age")}
    return keras.Model(inputs, mtl.Towers({"a": ()})(mtl.SharedBottom(1, (3,))(features(inputs))))


def test_inputs_of_rank_1_are_warmed_up_as_they_are(tmp_path):
    rows = {"country": np.array(["fr", "zz", "de"], object), "age": [20, 30, 40]}
    for warmup in (rows, None):
        version = serving.export(flat_model(), tmp_path, warmup=warmup, batch_sizes=(1, 5), verbose=False)
        with CppModel(str(version)) as cpp:
            seen = [(signature, inputs, cpp.run(signature, inputs)["a"].shape) for signature, inputs in warmed(version)]
        assert [(signature, shape) for signature, _, shape in seen] == [
            (signature, (size, 1)) for signature in ("serving_default", "a", "examples") for size in (1, 5)
        ]
        if warmup is rows:
            assert seen[1][1]["country"].tolist() == [b"fr", b"zz", b"de", b"fr", b"zz"]
            assert seen[1][1]["age"].tolist() == [20.0, 30.0, 40.0, 20.0, 30.0]
        with serving.LocalServer(tmp_path) as server:  # it replays them before it serves
            assert server.port


def with_row(**changes):
    return {**rich_rows(3), **changes}


REFUSED = "`warmup` must hold rows that the model accepts, or a server would never serve the version; received: "


@pytest.mark.parametrize(
    ("warmup", "text"),
    [
        (
            with_row(age=np.array([1.0, np.nan, 2.0])),
            REFUSED
            + "signature 'serving_default' failed at batch size 2: `age` must be finite; to accept NaN, give its "
            "specification a nan_value : Tensor had NaN values",
        ),
        (
            with_row(age=np.ones((3, 2))),
            "`warmup` must fit the features; received: shape (1, 2) in 'age', which takes (None, 1)",
        ),
        (with_row(age=["a", "b", "c"]), "`warmup` must hold float32 in 'age'; received: could not convert string to"),
        (with_row(item=[np.nan]), "`warmup` must hold int64 in 'item'; received: invalid value encountered in cast"),
        (with_row(seen=[[1], [2, 3]]), "`warmup` must hold int64 in 'seen'; received: setting an array element"),
        (with_row(country=[None]), REFUSED + "signature 'serving_default' failed at batch size 1: "),
    ],
    ids=["NaN", "too wide", "text", "NaN integer", "ragged", "None"],
)
def test_warm_up_rows_that_the_model_refuses_publish_nothing(model, tmp_path, warmup, text):
    with pytest.raises(ValueError) as caught:
        serving.export(model, tmp_path, tasks=["like"], warmup=warmup, batch_sizes=(1, 2), verbose=False)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_score_over_a_string_publishes_nothing(tmp_path):
    inputs = {"x": keras.Input((4,), name="x"), "word": keras.Input((1,), dtype="string", name="word")}
    model = keras.Model(inputs, mtl.Towers({"a": ()})(mtl.SharedBottom(1, (2,))(inputs["x"])))
    with pytest.raises(ValueError) as caught:
        serving.export(model, tmp_path, score=mtl.ScoreFusion({"a": 1.0, "word": 1.0}), verbose=False)
    assert (
        str(caught.value) == REFUSED + "signature 'score' failed at batch size 1: Cast string to float is not supported"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sizes", [8, (0,), (1, -1), (1.0,), (True,), "8", None])
def test_batch_sizes_are_positive_integers(tmp_path, sizes):
    with pytest.raises(ValueError) as caught:
        serving.export(plain(), tmp_path / "ranker", batch_sizes=sizes)
    assert str(caught.value) == (
        f"`batch_sizes` must be positive integers, such as (1, 8, 64); received: batch_sizes={sizes!r}"
    )
    assert list(tmp_path.iterdir()) == []


def test_batch_sizes_of_any_kind_of_integer(tmp_path):
    version = serving.export(plain(), tmp_path, batch_sizes=(size for size in np.array([2, 3])), verbose=False)
    shapes = [inputs["x"].shape for signature, inputs in warmed(version) if signature == "a"]
    assert shapes == [(2, 3), (3, 3)]


@pytest.mark.parametrize("url", ["gs://bucket/models", Path("gs://bucket/models"), Path("s3a://bucket")])
def test_a_url_is_no_directory(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:
        serving.export(plain(), url)
    assert str(caught.value) == (
        f"`directory` must be a local directory; received: directory={str(url)!r}. Export to a local one, "
        "copy the version there beside its final name (to `tmp-1`, which is no number), and rename it"
    )
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------- a task's signature does less, exactly


def tower(width, units, out=1):
    widths = [width, *units, out]
    return sum(a * b for a, b in itertools.pairwise(widths))


def counts(sharing, tmp_path, tasks):
    inputs = keras.Input((10,), name="x")
    model = keras.Model(inputs, mtl.Towers(tasks)(sharing(inputs)))
    version = serving.export(model, tmp_path, verbose=False)
    signatures = json.loads((version / "manifest.json").read_text())["signatures"]
    return {name: entry["multiply_adds"] for name, entry in signatures.items()}


def test_mmoe_counts_all_experts_but_one_gate_and_one_tower(tmp_path):
    found = counts(mtl.MMoE(3, 4, (8, 6)), tmp_path, {"a": (5,), "b": (5,), "c": (7, 3)})
    experts = 4 * (10 * 8 + 8 * 6)
    gate = 10 * 4 + 4 * 6  # scores, then the mixture
    assert found["a"] == found["b"] == experts + gate + tower(6, (5,))
    assert found["c"] == experts + gate + tower(6, (7, 3))
    assert found["serving_default"] == found["examples"] == experts + 3 * gate + 2 * tower(6, (5,)) + tower(6, (7, 3))


def test_cgc_counts_own_and_shared_experts(tmp_path):
    found = counts(mtl.CGC(2, (3, 1), 2, (8,)), tmp_path, {"a": (5,), "b": ()})
    own = {"a": 3 + 2, "b": 1 + 2}
    for task, units in (("a", (5,)), ("b", ())):
        assert found[task] == own[task] * 10 * 8 + own[task] * (10 + 8) + tower(8, units)


def test_two_level_ple_counts_what_the_formula_says(tmp_path):
    # Level 1: every expert, since the shared gate reads all; the gates of this task and of the shared module.
    # Level 2: the experts of this task and the shared ones; this task's gate.
    found = counts(mtl.PLE(2, 2, ((3, 1), (2, 1)), (2, 1), ((8,), (6,))), tmp_path, {"a": (5,), "b": (5,)})
    below = {"a": 3 + 2, "b": 1 + 2}
    above = {"a": 2 + 1, "b": 1 + 1}
    for task in ("a", "b"):
        level_1 = 6 * 10 * 8 + (below[task] + 6) * 10 + 2 * 6 * 8  # a mixture has a 0 for each expert it does not read
        level_2 = above[task] * 8 * 6 + above[task] * (8 + 6)
        assert found[task] == level_1 + level_2 + tower(6, (5,))
    assert found["serving_default"] < found["a"] + found["b"]


def test_counts_are_printed(tmp_path, capsys):
    inputs = keras.Input((10,), name="x")
    model = keras.Model(inputs, mtl.Towers({"a": (5,)})(mtl.SharedBottom(1, (8,))(inputs)))
    version = serving.export(model, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"exported {version}"
    assert [line.split() for line in lines[1:]] == [
        [name, str(10 * 8 + 8 * 5 + 5), "multiply-adds", "a", "row"] for name in ("serving_default", "a", "examples")
    ]


# -------------------------------------------------------------------------------------------- other models, and alone


def test_a_dict_of_plain_keras_outputs_keeps_its_names(tmp_path, rng):
    inputs = keras.Input((4,), name="x")
    hidden = keras.layers.Dense(3)(inputs)
    outputs = {"b": keras.layers.Dense(1)(hidden), "a": keras.layers.Dense(2)(hidden)}
    model = keras.Model(inputs, outputs)
    x = rng.normal(size=(5, 4)).astype("float32")
    with CppModel(str(serving.export(model, tmp_path, verbose=False))) as cpp:
        assert set(cpp.signatures) == {"serving_default", "a", "b", "examples"}
        for name in ("a", "b"):
            np.testing.assert_allclose(cpp.run(name, {"x": x})[name], model.predict(x, verbose=0)[name], atol=1e-6)


def test_a_list_of_plain_keras_outputs_is_numbered(tmp_path, rng):
    inputs = [keras.Input((4,), name="x"), keras.Input((2,), name="z")]
    hidden = keras.layers.Concatenate()(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(1)(hidden), keras.layers.Dense(2)(hidden)])
    x, z = rng.normal(size=(5, 4)).astype("float32"), rng.normal(size=(5, 2)).astype("float32")
    with CppModel(str(serving.export(model, tmp_path, verbose=False))) as cpp:
        answer = cpp.run("serving_default", {"x": x, "z": z})
    for name, expected in zip(("output_0", "output_1"), model.predict([x, z], verbose=0), strict=True):
        np.testing.assert_allclose(answer[name], expected, atol=1e-6)


def test_a_sequential_model_has_one_output(tmp_path, rng):
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3), keras.layers.Dense(1)])
    x = rng.normal(size=(5, 4)).astype("float32")
    with CppModel(str(serving.export(model, tmp_path, verbose=False))) as cpp:
        answer = cpp.run("serving_default", {"x": x})
    np.testing.assert_allclose(answer["output_0"], model.predict(x, verbose=0), atol=1e-6)


@keras.saving.register_keras_serializable(package="tests")
class Codes(keras.layers.Layer):
    """Owns lookup tables, in a list, and a weight."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        pairs = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0])
        self.tables = [tf.lookup.StaticHashTable(pairs, default) for default in (-1.0, -2.0)]

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=(), initializer=keras.initializers.Constant(3.0))
        self.built = True

    def call(self, words):
        return self.scale * sum(table.lookup(words) for table in self.tables)

    def compute_output_spec(self, words):
        return keras.KerasTensor(words.shape, "float32")


def adapted(**arguments):
    layer = keras.layers.TextVectorization(**arguments)
    layer.adapt(tf.constant(["a b", "b"]))
    return layer


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Codes, [[6.0], [-9.0]]),
        (
            lambda: keras.layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=3),
            [[2, 0, 0], [1, 2, 3]],
        ),
        (lambda: adapted(output_sequence_length=3), [[3, 0, 0], [1, 3, 2]]),
        (lambda: adapted(output_mode="multi_hot"), [[0, 0, 1], [1, 1, 1]]),
    ],
    ids=["a table of its own", "given vocabulary", "adapted", "multi-hot"],
)
def test_layers_with_lookup_tables_are_served_as_they_predict(tmp_path, make, expected):
    inputs = keras.Input((1,), name="text", dtype="string")
    layer = make()
    model = keras.Model(inputs, {"a": layer(inputs)})
    text = np.array([["a"], ["z a b" if "vector" in layer.name else "z"]], object)
    version = serving.export(model, tmp_path, verbose=False)
    with CppModel(str(version)) as cpp:
        for signature in ("serving_default", "a"):
            assert cpp.run(signature, {"text": text})["a"].tolist() == expected
    np.testing.assert_array_equal(model(tf.constant(text))["a"], expected)
    names = [name for name, _ in tf.train.list_variables(str(version / "variables" / "variables"))]
    stored = [name for name in names if "VARIABLE_VALUE" in name and "save_counter" not in name]
    assert len(stored) == len(model.trainable_weights)


def test_booleans_are_warmed_up_and_served(tmp_path):
    inputs = keras.Input((1,), name="flag", dtype="bool")
    model = keras.Model(inputs, {"a": keras.layers.Embedding(2, 2, embeddings_initializer="identity")(inputs)})
    flags = np.array([[True], [False]])
    for warmup in ({"flag": flags[:, 0]}, None):
        version = serving.export(model, tmp_path, warmup=warmup, batch_sizes=(2,), verbose=False)
        with CppModel(str(version)) as cpp:
            seen = [(signature, cpp.run(signature, rows)["a"].tolist()) for signature, rows in warmed(version)]
        first = [0.0, 1.0] if warmup else [1.0, 0.0]
        assert seen == [(signature, [[first], [[1.0, 0.0]]]) for signature in ("serving_default", "a", "examples")]


class Doubled(keras.Model):
    def call(self, inputs, training=None):
        return {name: 2 * value for name, value in super().call(inputs, training=training).items()}


def test_a_model_that_computes_more_than_its_layers_is_refused(tmp_path):
    inputs = keras.Input((4,), name="x")
    model = Doubled(inputs, {"a": keras.layers.Dense(1)(inputs)}, name="ranker")
    with pytest.raises(ValueError) as caught:
        serving.export(model, tmp_path)
    assert str(caught.value) == (
        "`model` must be computed by its layers alone, or what its class adds would vanish; "
        "received: 'ranker', a Doubled with a `call` of its own. Put what that does into a layer"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_saved_model_stands_alone(version, rows, predictions):
    script = textwrap.dedent(
        f"""
        import sys
        sys.modules["mtl_layers"] = None
        import numpy as np, tensorflow as tf
        model = tf.saved_model.load({str(version)!r})
        inputs = {{name: tf.zeros([1, 1], spec.dtype) if spec.dtype != tf.string else tf.constant([[""]])
                  for name, spec in model.signatures["like"].structured_input_signature[1].items()}}
        print(model.signatures["like"](**inputs)["like"].shape)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(1, 1)", done.stderr


def test_half_of_the_tasks_can_be_exported(model, tmp_path, rows, predictions):
    with CppModel(str(serving.export(model, tmp_path, tasks=["device", "like"], verbose=False))) as cpp:
        assert set(cpp.signatures) == {"serving_default", "device", "like", "examples"}
        answer = cpp.run("serving_default", head(rows, 3))
    assert set(answer) == {"device", "like"}
    np.testing.assert_allclose(answer["device"], predictions["device"][:3], atol=1e-6)


# ----------------------------------------------------------------------------------------------- publication, refusals


def test_versions_count_up_and_are_never_overwritten(model, tmp_path):
    first = serving.export(model, tmp_path, tasks=["like"], verbose=False)
    assert first.name == "1"
    assert serving.export(model, tmp_path, tasks=["like"], version=7, verbose=False).name == "7"
    assert serving.export(model, tmp_path, tasks=["like"], verbose=False).name == "8"
    before = (tmp_path / "7" / "manifest.json").read_bytes()
    with pytest.raises(FileExistsError, match=r"`version` must be new, .* Leave `version` out to get the next one"):
        serving.export(model, tmp_path, version=7)
    assert (tmp_path / "7" / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "7", "8"]


def test_a_clock_in_nanoseconds_is_a_version(model, tmp_path):
    clock, last = 1_795_371_484_857_757_029, 2**63 - 1
    serving.export(model, tmp_path, tasks=["like"], version=clock, verbose=False)
    assert serving.export(model, tmp_path, tasks=["like"], verbose=False).name == str(clock + 1)
    (tmp_path / str(last)).mkdir()
    (tmp_path / str(last + 1)).mkdir()  # no version: TensorFlow Serving does not see it either
    with pytest.raises(ValueError, match=r"`version` must be an integer from 1 to .*; received: version=92.*808"):
        serving.export(model, tmp_path, tasks=["like"])


def test_a_watcher_never_sees_half_a_version(model, tmp_path):
    seen, done = [], threading.Event()

    def watch():
        while not done.is_set():
            seen.extend((path / "manifest.json").exists() for path in tmp_path.iterdir() if path.name.isdigit())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        serving.export(model, tmp_path, tasks=["like"], verbose=False)
        serving.export(model, tmp_path, tasks=["like"], verbose=False)
    finally:
        done.set()
        watcher.join()
    assert seen and all(seen)


def test_what_a_killed_export_left_is_removed_and_a_living_one_is_not(tmp_path):
    killed, living, new, other = (
        tmp_path / name
        for name in (".3-unfinished-c0ffee42", ".4-unfinished-aaaabbbb", ".5-unfinished-zzzz_000", ".6-rollback")
    )
    for path in (killed, living, new, other):
        (path / "variables").mkdir(parents=True)
        if path is not new:
            os.utime(path, (0, 0))
    lock = os.open(living, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        serving.export(plain(), tmp_path, verbose=False)
    finally:
        os.close(lock)
    assert sorted(path.name for path in tmp_path.iterdir()) == [living.name, new.name, other.name, "1"]
    assert (tmp_path / "1").stat().st_mode & 0o777 == 0o755


def test_a_full_disk_publishes_nothing(tmp_path):
    # A limit on file size stands in for a full disk: writes then fail in the middle of a file, as they do there.
    script = textwrap.dedent(
        f"""
        import resource, sys
        sys.path.insert(0, {str(__import__("pathlib").Path(__file__).parent)!r})
        from rich_model import rich_model
        import serving
        model = rich_model()
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            serving.export(model, {str(tmp_path / "ranker")!r})
        except OSError as error:
            print("refused:", error)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=UNMEASURED)
    assert f"refused: `directory` must be writable; nothing was published in {tmp_path / 'ranker'}" in done.stdout, (
        done.stdout + done.stderr
    )
    assert list((tmp_path / "ranker").iterdir()) == []


def plain(task="a", name="x"):
    inputs = keras.Input((3,), name=name)
    return keras.Model(inputs, mtl.Towers({task: ()})(mtl.SharedBottom(1, (2,))(inputs)))


@pytest.mark.parametrize(
    ("make", "arguments", "text"),
    [
        (plain, {"tasks": ["b"]}, r"`tasks` must be distinct names among \['a'\]; received: tasks=\['b'\]"),
        (plain, {"version": 0}, "`version` must be an integer from 1 to 9223372036854775807; received: version=0"),
        (plain, {"version": 2**63}, "`version` must be an integer from 1 to 9223372036854775807; received: version=92"),
        (plain, {"version": True}, "`version` must be an integer from 1 to .*; received: version=True"),
        (plain, {"warmup": {"y": [1]}}, r"`warmup` must have every feature; missing: 'x'; received: \['y'\]"),
        (plain, {"warmup": {"x": np.zeros((0, 3))}}, "`warmup` must have at least one row; received: 0 rows of 'x'"),
        (plain, {"batch_sizes": range(1, 400)}, "`batch_sizes` must give at most 1000 warm-up requests"),
        (lambda: plain("serving_default"), {}, r"`tasks` must not bear the names of signatures; received: \['serving"),
        (lambda: plain("x"), {}, r"must not take a task's label as a feature; received: \['x'\]"),
        (lambda: keras.Sequential(), {}, "`model` must be a built functional Keras model"),
    ],
)
def test_refusals_leave_nothing_behind(make, arguments, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        serving.export(make(), tmp_path, verbose=False, **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["user id", "größe", "_x", "x:0", "class", "self", "examples"])
def test_feature_names_that_no_signature_can_have_are_refused_by_name(name, tmp_path):
    inputs = {name: keras.Input((3,), name=name)}
    model = keras.Model(inputs, mtl.Towers({"a": ()})(mtl.SharedBottom(1, (2,))(inputs[name])))
    with pytest.raises(ValueError, match=f"`model` must have features with names of letters.*; received: '{name}'"):
        serving.export(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("one", "other"), [("a-b", "a_b"), ("a.b", "a-b"), ("1st", "arg_1st")])
def test_feature_names_that_are_one_to_tensorflow_are_refused_by_name(one, other, tmp_path):
    inputs = {name: keras.Input((1,), name=name) for name in (one, other)}
    model = keras.Model(inputs, {"a": keras.layers.Concatenate()(list(inputs.values()))})
    with pytest.raises(ValueError) as caught:
        serving.export(model, tmp_path)
    assert str(caught.value) == (
        "`model` must have features (a score's weights are some, too) whose names differ in letters and digits, "
        "since TensorFlow takes all else for `_`; "
        f"received: {one!r} and {other!r}"
    )
    assert list(tmp_path.iterdir()) == []


def test_features_within_features_are_refused(tmp_path):
    inputs = {"user": {"age": keras.Input((1,), name="age")}}
    model = keras.Model(inputs, {"a": keras.layers.Dense(1)(inputs["user"]["age"])})
    with pytest.raises(
        ValueError, match="`model` must take a flat dict or list of features; received: a dict under 'u"
    ):
        serving.export(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["C-1", "a.b", "1st"])
def test_feature_names_that_are_no_python_names_are_exported_and_scored(name, tmp_path, rng):
    inputs = {name: keras.Input((1,), name=name)}
    model = keras.Model(inputs, mtl.Towers({"a": ()})(mtl.SharedBottom(1, (2,))(inputs[name])))
    x = rng.normal(size=(5, 1)).astype("float32")
    serving.export(model, tmp_path / "model", verbose=False)
    pq.write_table(pa.table({name: x[:, 0]}), tmp_path / "rows.parquet")
    serving.score(tmp_path / "model", tmp_path / "rows.parquet", tmp_path / "scores.parquet", progress=False)
    found = pq.read_table(tmp_path / "scores.parquet")["a"].to_numpy()
    np.testing.assert_allclose(found, model.predict({name: x}, verbose=0)["a"][:, 0], atol=1e-6)


def test_an_unknown_task_of_a_plain_model_is_refused(tmp_path):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, {"a": keras.layers.Dense(1)(inputs)})
    with pytest.raises(ValueError, match=r"`tasks` must be names among \['a'\]; received: tasks=\['z'\]"):
        serving.export(model, tmp_path, tasks=["z"])


def test_a_feature_of_unknown_inner_shape_is_refused(tmp_path):
    inputs = keras.Input((None, 3), name="x")
    model = keras.Model(inputs, {"a": keras.layers.GlobalAveragePooling1D()(inputs)})
    with pytest.raises(ValueError, match=r"feature 'x' must be \[batch, n\] or \[batch, None\]"):
        serving.export(model, tmp_path)


def test_an_embedding_is_not_copied_per_task(tmp_path):
    embedding = rich_embedding()
    inputs = embedding.inputs()
    model = keras.Model(inputs, mtl.Towers({"a": (), "b": ()})(mtl.MMoE(2, 2, (4,))(embedding(inputs))))
    version = serving.export(model, tmp_path, verbose=False)
    shapes = [shape for _, shape in tf.train.list_variables(str(version / "variables" / "variables"))]
    tables = [list(table.embeddings.shape) for table in embedding.tables]
    assert sorted(shape for shape in shapes if shape in tables) == sorted(tables)
