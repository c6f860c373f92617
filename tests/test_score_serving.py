"""The score served: by weights of the layer, by weights of the request, by weights assigned without a new model."""

import json

import numpy as np
import pytest
import tensorflow as tf
from cpp_loader import CppModel
from tensorflow_serving.apis import prediction_log_pb2
from waiting import wait_until

import mtl_layers as mtl
import serving
from mtl_layers._keras import keras, ops

pytestmark = pytest.mark.needs_tensorflow
WARM_UP = "assets.extra/tf_serving_warmup_requests"
WEIGHTS = {"vtr": 0.5, "length": 1.0, "vcr": 2.0}
ROWS = {
    "x": np.random.default_rng(5).normal(size=(6, 4)).astype("float32"),
    "length": np.array([[0], [1], [5], [30], [600], [3]]),
}


@pytest.fixture(scope="module")
def model():
    """`length` is a feature of the score alone, `like` a task that the score does not read."""
    keras.utils.set_random_seed(0)
    inputs = {"x": keras.Input((4,), name="x"), "length": keras.Input((1,), dtype="int64", name="length")}
    towers = mtl.Towers({"vtr": (3,), "like": (7,), "vcr": (3,)})
    return keras.Model(inputs, towers(mtl.CGC(3, 1, 0, (5,))(inputs["x"])))


def fusion():
    return mtl.ScoreFusion(WEIGHTS, functions={"length": mtl.towers.log1p})


@pytest.fixture(scope="module")
def version(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("ranker")
    return serving.export(model, path, score=fusion(), warmup=ROWS, batch_sizes=(1, 4), verbose=False)


@pytest.fixture(scope="module")
def predictions(model):
    return {name: ops.convert_to_numpy(p) for name, p in model(ROWS).items()}


def expected(predictions, weights):
    """`weights`: numbers, or `[rows, 1]`."""
    values = {**predictions, "length": np.log1p(ROWS["length"])}
    return np.prod([np.maximum(values[name], 1e-7) ** weight for name, weight in weights.items()], axis=0)


def asked(weights):
    return {f"weight_{name}": np.broadcast_to(weight, (6, 1)).astype("float32") for name, weight in weights.items()}


# Other weights for every row, as for an experiment that splits the users; among them none at all.
BY_ROW = {name: np.arange(6.0)[:, None] * number for number, name in enumerate(WEIGHTS, 1)}


def warm_up(cpp, record):
    request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
    inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
    answer = cpp.run(request.model_spec.signature_name, inputs)
    return request.model_spec.signature_name, len(next(iter(answer.values())))


def test_the_cpp_loader_gives_both_scores(version, predictions):
    with CppModel(version) as cpp:
        assert set(cpp.signatures["score"][0]) == set(ROWS)
        assert set(cpp.signatures["score_with_weights"][0]) == {*ROWS, "weight_vtr", "weight_length", "weight_vcr"}
        own = cpp.run("score", ROWS)
        given = cpp.run("score_with_weights", {**ROWS, **asked(BY_ROW)})
        tasks = cpp.run("serving_default", ROWS)
        warmed = [
            warm_up(cpp, record) for record in tf.data.TFRecordDataset(str(version / WARM_UP)).as_numpy_iterator()
        ]
    assert [each for each in warmed if "score" in each[0]] == [
        ("score", 1), ("score", 4), ("score_with_weights", 1), ("score_with_weights", 4)
    ]  # fmt: skip
    assert set(own) == set(given) == {"score"}
    assert set(tasks) == {"vtr", "like", "vcr"}
    np.testing.assert_allclose(own["score"], expected(predictions, WEIGHTS), rtol=1e-4)
    np.testing.assert_allclose(given["score"], expected(predictions, BY_ROW), rtol=1e-4)


def test_the_score_computes_its_tasks_only_and_the_manifest_says_what_it_is(version):
    manifest = json.loads((version / "manifest.json").read_text())
    signatures = manifest["signatures"]
    assert list(signatures) == [
        "serving_default", "vtr", "like", "vcr", "examples", "score", "score_with_weights"
    ]  # fmt: skip
    tower = 4 * 5 + 5 * 3 + 3
    assert signatures["score"]["multiply_adds"] == signatures["score_with_weights"]["multiply_adds"] == 2 * tower
    assert signatures["score"]["outputs"] == ["score"]
    assert signatures["serving_default"]["outputs"] == manifest["tasks"] == ["vtr", "like", "vcr"]
    assert manifest["score_weights"] == WEIGHTS
    assert set(manifest["features"]) == set(ROWS)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_weights_are_changed_by_request(version, predictions, protocol):
    with serving.LocalServer(version.parent) as server:
        port = server.port if protocol == "grpc" else server.rest_api_port
        with serving.Client(f"127.0.0.1:{port}", protocol=protocol, timeout=30) as client:
            found = client.predict(ROWS, "score")["score"]
            np.testing.assert_allclose(found, expected(predictions, WEIGHTS), rtol=1e-4)
            for weights in ({**WEIGHTS, "vcr": -1.0}, dict.fromkeys(WEIGHTS, 0.0), BY_ROW):
                found = client.predict({**ROWS, **asked(weights)}, "score_with_weights")["score"]
                np.testing.assert_allclose(found, expected(predictions, weights), rtol=1e-4)
            with pytest.raises(serving.client.ServingError, match=r"missing: .*weight_vcr"):
                client.predict(ROWS, "score_with_weights")


def test_weights_are_changed_by_assignment_and_the_model_stays(model, predictions, tmp_path):
    layer = fusion()
    serving.export(model, tmp_path, score=layer, verbose=False)
    with (
        serving.LocalServer(tmp_path, file_system_poll_wait_seconds=0.05) as server,
        serving.Client(f"127.0.0.1:{server.port}", timeout=30) as client,
    ):
        before = client.predict(ROWS)
        layer.assign({"vcr": 0.0})
        serving.export(model, tmp_path, score=layer, verbose=False)
        wait_until(lambda: client.status()[0]["version"] == 2 and client.status()[0]["state"] == "AVAILABLE")
        after, found = client.predict(ROWS), client.predict(ROWS, "score")["score"]
    np.testing.assert_allclose(found, expected(predictions, {**WEIGHTS, "vcr": 0.0}), rtol=1e-4)
    for task, values in before.items():
        np.testing.assert_array_equal(after[task], values)
    assert json.loads((tmp_path / "2" / "manifest.json").read_text())["score_weights"]["vcr"] == 0.0


def test_any_keras_model_with_named_outputs_can_have_a_score(tmp_path):
    inputs = [keras.Input((2,), name="x"), keras.Input((1,), name="z")]
    hidden = keras.layers.Concatenate()(inputs)
    outputs = {name: keras.layers.Dense(1, "sigmoid")(hidden) for name in ("score_of_a", "b")}
    model = keras.Model(inputs, outputs)
    x, z = np.ones((2, 2), "float32"), np.array([[0.5], [2.0]], "float32")
    path = serving.export(model, tmp_path, score=mtl.ScoreFusion({"b": 2.0, "z": 1.0}), verbose=False)
    with CppModel(path) as cpp:
        found = cpp.run("score", {"x": x, "z": z})["score"]
    np.testing.assert_allclose(found, ops.convert_to_numpy(model([x, z])["b"]) ** 2 * z, rtol=1e-5)


def plain(task="a", feature="x"):
    inputs = {feature: keras.Input((1,), name=feature)}
    return keras.Model(inputs, {task: keras.layers.Dense(1)(inputs[feature])})


WEIGH = "`score` must have weights for at least one task of ['a'], and otherwise for features of ['x']; received: "


@pytest.mark.parametrize(
    ("make", "score", "text"),
    [
        (plain, {"a": 1.0, "c": 1.0}, WEIGH + "['a', 'c']"),
        (plain, {"x": 1.0}, WEIGH + "['x']"),
        (plain, None, "`score` must be a mtl.ScoreFusion; received: 'a'"),
        (
            lambda: plain(feature="weight_a"),
            {"a": 1.0},
            "`model` must have features (a score's weights are some, too) whose names differ in letters and digits, "
            "since TensorFlow takes all else for `_`; received: 'weight_a' and 'weight_a'",
        ),
        (
            lambda: plain(feature="weight-a"),
            {"a": 1.0},
            "`model` must have features (a score's weights are some, too) whose names differ in letters and digits, "
            "since TensorFlow takes all else for `_`; received: 'weight-a' and 'weight_a'",
        ),
        (
            lambda: plain("score"),
            {"score": 1.0},
            "`tasks` must not bear the names of signatures; received: ['score']",
        ),
    ],
)
def test_refusals_leave_nothing_behind(make, score, text, tmp_path):
    with pytest.raises(ValueError) as caught:
        serving.export(make(), tmp_path, score=mtl.ScoreFusion(score) if score else "a", verbose=False)
    assert str(caught.value) == text
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_column_is_refused(tmp_path):
    inputs = keras.Input((3,), name="x")
    model = keras.Model(inputs, {"a": keras.layers.Dense(2)(inputs)})
    with pytest.raises(ValueError, match=r"\[batch, 1\] for each of \['a'\]; received: 'a' of shape \(None, 2\)"):
        serving.export(model, tmp_path, score=mtl.ScoreFusion({"a": 1.0}))
