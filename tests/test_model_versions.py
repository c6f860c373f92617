"""Versions of a served model: picked up, failed, rolled back, drained, warmed up, under load."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from odd_model import write_odd_model
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc
from tiny_model import write_tiny_model
from waiting import wait_until

from serving import Client, LocalServer
from serving.request_error import RequestError
from serving.server.model_versions import ModelVersions

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]  # serving never touches Keras

ROW = {"country": ["fr"], "price": [1.0]}
FAST = {"file_system_poll_wait_seconds": 0.05}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Versions 1 to 5 of the tiny model, kept aside; version v has scale v."""
    path = tmp_path_factory.mktemp("models")
    for version in range(1, 6):
        write_tiny_model(path, version, scale=float(version))
    return path


def publish(models, base, version):
    shutil.copytree(models / str(version), base / f".publishing-{version}")
    os.rename(base / f".publishing-{version}", base / str(version))


def states(client):
    return {line["version"]: line["state"] for line in client.status()}


def warm(path, *requests):
    extra = path / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        for request in requests:
            writer.write(request if isinstance(request, bytes) else request.SerializeToString())


def warmup_record(signature, **inputs):
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.signature_name = signature
    for name, value in inputs.items():
        log.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return log


def test_the_newest_number_serves_and_other_names_are_no_versions(models, tmp_path):
    publish(models, tmp_path, 1)
    os.rename(tmp_path / "1", tmp_path / "9")
    publish(models, tmp_path, 2)
    os.rename(tmp_path / "2", tmp_path / "10")  # ten is more than nine, though "10" < "9"
    for name in ("11.tmp", ".12", "v13", "-14", "tmp-15"):
        (tmp_path / name).mkdir()
    (tmp_path / "16").write_text("a file")
    versions = ModelVersions("tiny", tmp_path)
    versions.poll()
    assert versions.current_version == 10
    assert [(s.version, s.state) for s in versions.statuses()] == [(10, "AVAILABLE")]
    versions.close()
    assert [(s.version, s.state) for s in versions.statuses()] == [(10, "END")]
    with pytest.raises(RequestError, match="Latest\\(tiny\\); this server has: no version"), versions.lease("tiny"):
        pass


def test_a_new_version_takes_over_and_the_old_one_ends(models, tmp_path):
    publish(models, tmp_path, 1)
    with LocalServer(tmp_path, **FAST) as server, Client(f"127.0.0.1:{server.port}") as client:
        assert client.predict(ROW)["click"] == 1.0
        publish(models, tmp_path, 2)
        wait_until(lambda: states(client) == {2: "AVAILABLE", 1: "END"})
        assert client.predict(ROW)["click"] == 2.0
        assert client.predict(ROW, version=2)["click"] == 2.0
        with pytest.raises(Exception, match="Specific\\(model, 1\\); this server has: version 2 of model"):
            client.predict(ROW, version=1)


def test_removing_the_newest_rolls_back_and_the_last_one_stays(models, tmp_path):
    publish(models, tmp_path, 1)
    publish(models, tmp_path, 2)
    versions = ModelVersions("tiny", tmp_path)
    versions.poll()
    assert versions.current_version == 2
    shutil.rmtree(tmp_path / "2")
    versions.poll()
    assert versions.current_version == 1
    shutil.rmtree(tmp_path / "1")
    versions.poll()
    with versions.lease("tiny") as (version, servable):
        assert version == 1
        row = {"country": np.array([[b"fr"]], object), "price": np.float32([[3.0]])}
        assert servable.predict(row)["click"] == 3.0
    versions.close()


def test_a_broken_version_is_reported_while_the_old_one_serves_and_tried_again_when_it_changes(models, tmp_path):
    publish(models, tmp_path, 1)
    versions = ModelVersions("tiny", tmp_path)
    versions.poll()
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "saved_model.pb").write_bytes(b"\xff" * 100)
    versions.poll()
    one, two = versions.statuses()
    assert (one.state, two.state, two.error_code) == ("AVAILABLE", "END", "NOT_FOUND")
    assert "Cannot parse file" in two.error_message
    versions.poll()
    assert versions.statuses() == [one, two]
    shutil.copytree(models / "2", tmp_path / "2", dirs_exist_ok=True)
    versions.poll()
    assert [(s.version, s.state, s.error_message) for s in versions.statuses()] == [
        (1, "END", ""),
        (2, "AVAILABLE", ""),
    ]
    versions.close()


def test_a_broken_version_over_the_wire(models, tmp_path):
    publish(models, tmp_path, 1)
    with LocalServer(tmp_path, **FAST) as server:
        (tmp_path / "2").mkdir()
        for protocol, port in (("grpc", server.port), ("rest", server.rest_api_port)):
            with Client(f"127.0.0.1:{port}", protocol=protocol) as client:
                wait_until(lambda c=client: states(c) == {2: "END", 1: "AVAILABLE"})
                broken = client.status()[0]
                assert broken["error_code"] == "NOT_FOUND"
                assert "SavedModel file does not exist" in broken["error_message"]
                assert client.predict(ROW)["click"] == 1.0


def test_at_start_an_older_version_stands_in_for_a_broken_one(models, tmp_path):
    publish(models, tmp_path, 1)
    (tmp_path / "2").mkdir()
    with LocalServer(tmp_path) as server, Client(f"127.0.0.1:{server.port}") as client:
        assert states(client) == {2: "END", 1: "AVAILABLE"}


def test_warmup_runs_before_a_version_serves(models, tmp_path):
    path = write_odd_model(tmp_path)
    warm(path, warmup_record("wait", path=[[str(tmp_path / "warm")]]))
    versions = ModelVersions("odd", tmp_path)
    with ThreadPoolExecutor(1) as pool:
        polled = pool.submit(versions.poll)
        wait_until((tmp_path / "warm.started").exists)
        assert versions.current_version is None
        assert [status.state for status in versions.statuses()] == ["LOADING"]
        (tmp_path / "warm.go").touch()
        polled.result()
    assert versions.current_version == 1
    versions.close()


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (
            warmup_record("click", country=[["fr"]]),
            "warm-up record 1 of .* failed: inputs of signature 'click' must be",
        ),
        (b"\xff", "warm-up record 1 of .* failed: not a PredictionLog"),
        (prediction_log_pb2.PredictionLog(), "failed: only predict_log is supported; received: None"),
    ],
)
def test_a_version_whose_warmup_fails_does_not_serve(models, tmp_path, record, text):
    publish(models, tmp_path, 1)
    good = warmup_record("click", country=[["fr"]], price=np.float32([[1.0]]))
    warm(tmp_path / "1", good, record)
    with pytest.raises(ValueError, match=text):
        LocalServer(tmp_path).start()


def test_more_warmup_than_tensorflow_serving_takes_is_refused(models, tmp_path):
    publish(models, tmp_path, 1)
    good = warmup_record("click", country=[["fr"]], price=np.float32([[1.0]])).SerializeToString()
    warm(tmp_path / "1", *[good] * 1001)
    versions = ModelVersions("tiny", tmp_path)
    versions.poll()
    assert "at most 1000 records are allowed" in versions.statuses()[0].error_message


def test_a_request_ends_on_the_version_it_started_with(tmp_path):
    base, aside = tmp_path / "base", tmp_path / "aside"
    write_odd_model(base, 1)
    write_odd_model(aside, 2)
    ask = {"path": [str(tmp_path / "slow")]}
    with (
        LocalServer(base, **FAST) as server,
        Client(f"127.0.0.1:{server.port}", timeout=60) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        slow = pool.submit(client.predict, ask, "wait")
        wait_until((tmp_path / "slow.started").exists)
        os.rename(aside / "2", base / "2")
        wait_until(lambda: states(client) == {2: "AVAILABLE", 1: "UNLOADING"})
        quick = {"path": [str(tmp_path / "quick")]}
        (tmp_path / "quick.go").touch()
        assert client.predict(quick, "wait")["version"] == 2.0
        assert not slow.done()
        (tmp_path / "slow.go").touch()
        assert slow.result()["version"] == 1.0
        wait_until(lambda: states(client) == {2: "AVAILABLE", 1: "END"})


def test_no_request_fails_while_versions_are_published_under_load(models, tmp_path):
    publish(models, tmp_path, 1)
    finished = threading.Event()

    def hammer(port):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "model"
        request.inputs["country"].CopyFrom(tf.make_tensor_proto([["fr"]]))
        request.inputs["price"].CopyFrom(tf.make_tensor_proto([[1.0]]))
        seen = []
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not finished.is_set() and len(seen) < 20_000:
                answer = stub.Predict(request, timeout=30)
                values = [tf.make_ndarray(answer.outputs[name]).item() for name in ("click", "purchase")]
                seen.append((answer.model_spec.version.value, *values))
        return seen

    with (
        LocalServer(tmp_path, **FAST) as server,
        Client(f"127.0.0.1:{server.rest_api_port}", protocol="rest", timeout=30) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        hammers = [pool.submit(hammer, server.port) for _ in range(4)]
        try:
            for version in range(2, 6):
                publish(models, tmp_path, version)
                wait_until(lambda v=version: states(client).get(v) == "AVAILABLE")
            wait_until(lambda: set(states(client).values()) == {"AVAILABLE", "END"})
        finally:
            finished.set()
        answers = [hammer.result() for hammer in hammers]
    for seen in answers:
        assert seen == [(version, float(version), version / 2) for version, _, _ in seen]
        order = [version for version, _, _ in seen]
        assert order == sorted(order)
    assert {seen[0] for answer in answers for seen in answer} >= {1, 5}
