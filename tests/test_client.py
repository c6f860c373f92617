"""The client over both protocols, against the local server and against servers that misbehave."""

import contextlib
import copy
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tensorflow as tf
from odd_model import write_odd_model
from tiny_model import write_tiny_model
from waiting import wait_until

import serving
from serving import Client, LocalServer
from serving.client import ServingError, ServingTimeoutError

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]  # serving never touches Keras

ROWS = {"country": ["fr", "de"], "price": [1, 2]}
both_protocols = pytest.mark.parametrize("protocol", ["grpc", "rest"])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_model(path, 3, scale=2.0)
    with LocalServer(path, "tiny") as server:
        yield server


@pytest.fixture(scope="module")
def odd_server(tmp_path_factory):
    path = tmp_path_factory.mktemp("odd")
    write_odd_model(path)
    with LocalServer(path, "odd") as server:
        yield server


@pytest.fixture(params=["grpc", "rest"])
def client(server, request):
    with connect(server, request.param, timeout=30) as client:
        yield client


def connect(server, protocol, **arguments):
    port = server.port if protocol == "grpc" else server.rest_api_port
    return Client(f"127.0.0.1:{port}", server.model_name, protocol, **arguments)


def test_lists_in_arrays_out(client):
    answer = client.predict(ROWS)
    assert {name: value.tolist() for name, value in answer.items()} == {
        "click": [[2.0], [6.0]],
        "purchase": [[1.0], [3.0]],
    }
    assert all(value.dtype == np.float32 for value in answer.values())


@pytest.mark.parametrize(
    "rows",
    [
        {"country": [["fr"], ["de"]], "price": [[1.0], [2.0]]},
        {"country": np.array(["fr", "de"]), "price": np.array([1.0, 2.0])},
        {"country": np.array([b"fr", b"de"]), "price": np.array([1, 2], "uint8")},
        {"country": (b"fr", "de"), "price": (1, 2.0)},
    ],
    ids=["columns", "1-D str", "1-D bytes", "tuples"],
)
def test_the_forms_a_feature_may_take(client, rows):
    assert client.predict(rows, "click")["click"].tolist() == [[2.0], [6.0]]


def test_one_output_keeps_its_name(client):
    assert list(client.predict(ROWS, signature="purchase")) == ["purchase"]


def test_version(client):
    assert client.predict(ROWS, version=3)["click"].tolist() == [[2.0], [6.0]]
    with pytest.raises(ServingError, match=r"Specific\(tiny, 2\); this server has: version 3 of tiny") as caught:
        client.predict(ROWS, version=2)
    assert caught.value.code == "NOT_FOUND"


def test_status(client):
    assert client.status() == [{"version": 3, "state": "AVAILABLE", "error_code": "OK", "error_message": ""}]


def test_metadata(client):
    signatures = client.metadata()
    assert list(signatures) == ["click", "examples", "purchase", "serving_default"]
    price = signatures["click"].inputs["price"]
    assert (price.name, price.dtype, price.shape) == ("price", "float32", (None, 1))
    assert signatures["examples"].inputs["examples"].shape == (None,)
    assert str(price) == "float32 [batch, 1]"
    assert str(signatures["examples"].inputs["examples"]) == "string [batch]"


def test_serialized_examples_stay_one_dimensional(client):
    def example(country, price):
        feature = {
            "country": tf.train.Feature(bytes_list=tf.train.BytesList(value=[country])),
            "price": tf.train.Feature(float_list=tf.train.FloatList(value=[price])),
        }
        return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    # a price of 2.0 ends its Example in bytes that NumPy's own strings could strip
    answer = client.predict({"examples": [example(b"fr", 0.0), example(b"de", 2.0)]}, "examples")
    assert answer["click"].tolist() == [[0.0], [6.0]]


@both_protocols
def test_every_dtype_comes_back(odd_server, protocol):
    rows = {
        "flag": [True, False],
        "whole": [2**62 + 1, -1],
        "small": [-128, 127],
        "exact": [0.1, 1e300],
        "text": [["a", b"\xff\x00"], ["é", ""]],
    }
    with connect(odd_server, protocol, timeout=30) as client:
        answer = client.predict({**rows, "half": [1.5, -2.0]}, "types")
    assert answer["half"].astype("float32").tolist() == [[1.5], [-2.0]]
    dtypes = {"flag": bool, "whole": np.int64, "small": np.int8, "exact": np.float64}
    for name, dtype in dtypes.items():
        assert answer[name].dtype == dtype
        assert answer[name].tolist() == [[value] for value in rows[name]]
    assert answer["text"].tolist() == [[b"a", b"\xff\x00"], ["é".encode(), b""]]


@both_protocols
def test_an_input_of_any_rank_is_sent_as_it_is(odd_server, protocol):
    with connect(odd_server, protocol, timeout=30) as client:
        assert client.predict({"x": [1.0, 2.0]}, "mean")["mean"] == 1.5
        assert client.predict({"x": 7.0}, "mean")["mean"].shape == ()
        assert str(client.metadata()["mean"].inputs["x"]) == "float32 any shape"


@both_protocols
def test_nan_and_infinity(server, protocol):
    with connect(server, protocol, timeout=30) as client:
        answer = client.predict({"country": ["fr"] * 2, "price": [float("nan"), float("-inf")]}, "click")["click"]
    np.testing.assert_array_equal(answer, np.float32([[np.nan], [-np.inf]]))


@pytest.mark.parametrize(
    ("features", "signature", "code", "text"),
    [
        ({"price": [1.0]}, "click", "INVALID_ARGUMENT", "(missing: ['country'], unknown: [])"),
        ({**ROWS, "click": [0, 1]}, "click", "INVALID_ARGUMENT", "(missing: [], unknown: ['click'])"),
        (
            {"country": [], "price": []},
            "click",
            "INVALID_ARGUMENT",
            "must have at least one row; received: shape [0",  # JSON has one form for all arrays without values
        ),
        ({"country": ["fr"], "price": [1, 2]}, "click", "INVALID_ARGUMENT", "must have the same number of rows"),
        ({"country": "fr", "price": 1}, "click", "INVALID_ARGUMENT", "must have rank 2 (string [batch, 1]); received"),
    ],
)
def test_the_server_refuses_with_the_reason(client, features, signature, code, text):
    with pytest.raises(ServingError) as caught:
        client.predict(features, signature)
    assert caught.value.code == code
    assert text in caught.value.text
    assert caught.value.address == client.address
    assert str(caught.value) == f"{code} from {client.address}: {caught.value.text}"


@both_protocols
def test_an_unknown_signature_is_the_servers_to_refuse(server, protocol):
    with (
        connect(server, protocol) as client,
        pytest.raises(ServingError, match=r"this version has: .'click', ") as caught,
    ):
        client.predict(ROWS, "clicks")
    # HTTP has one status for both
    assert caught.value.code == {"grpc": "FAILED_PRECONDITION", "rest": "INVALID_ARGUMENT"}[protocol]


@both_protocols
def test_an_unknown_model(server, protocol):
    port = server.port if protocol == "grpc" else server.rest_api_port
    with Client(f"127.0.0.1:{port}", "a model/of:mine", protocol) as client:
        with pytest.raises(ServingError, match=r"NOT_FOUND .* Latest\(a model/of:mine\); this server has: version 3"):
            client.predict(ROWS)
        with pytest.raises(ServingError, match="Could not find any versions of model a model/of:mine"):
            client.status()


@pytest.mark.parametrize(
    ("features", "error", "text"),
    [
        ({"price": ["1"]}, TypeError, "`features['price']` must hold float32; received: dtype <U1, ['1']"),
        ({"price": [None]}, TypeError, "`features['price']` must hold float32; received: dtype object, [None]"),
        ({"country": [1]}, TypeError, "`features['country']` must hold str or bytes; received: 1"),
        (
            {"country": [["a"], ["b", "c"]]},
            ValueError,
            "`features['country']` must have rows of one length (pad them); received: [['a'], ['b', 'c']]",
        ),
        ({"price": [[1], [2, 3]]}, ValueError, "`features['price']` must have rows of one length (pad them)"),
    ],
)
def test_features_that_cannot_be_sent(client, features, error, text):
    with pytest.raises(error) as caught:
        client.predict(features)
    assert text in str(caught.value)


@both_protocols
def test_integers_are_neither_cut_nor_wrapped(odd_server, protocol):
    with connect(odd_server, protocol) as client:
        with pytest.raises(TypeError, match=r"`features\['whole'\]` must hold int64; received: dtype float64, \[1.5\]"):
            client.predict({"whole": [1.5]}, "types")
        with pytest.raises(ValueError, match=r"`features\['small'\]` must fit int8; received: \[128\]"):
            client.predict({"small": [128]}, "types")


@both_protocols
def test_unsigned_integers_are_taken_from_lists_and_arrays_that_hold_them(tmp_path, protocol):
    module = tf.Module()
    specs = {name: tf.TensorSpec([None, 1], name, name=name) for name in ("uint8", "uint64")}
    told = tf.function(lambda **rows: {f"{name}_out": tf.identity(x) for name, x in rows.items()})
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=told.get_concrete_function(**specs))
    with LocalServer(tmp_path, "unsigned") as server, connect(server, protocol, timeout=30) as client:
        answer = client.predict({"uint8": [1, 255], "uint64": [2**63, 2**63 + 1]})
        assert {name: (value.dtype.name, value.tolist()) for name, value in answer.items()} == {
            "uint8_out": ("uint8", [[1], [255]]),
            "uint64_out": ("uint64", [[2**63], [2**63 + 1]]),
        }
        for values in ([-1], [256], np.array([256], "uint64")):
            with pytest.raises(ValueError, match=r"`features\['uint8'\]` must fit uint8; received: \[(-1|256)\]"):
                client.predict({"uint8": values, "uint64": [0]})
        with pytest.raises(ValueError, match=r"`features\['uint64'\]` must fit uint64; received: \[-1\]"):
            client.predict({"uint8": [0], "uint64": [-1]})


@both_protocols
@pytest.mark.parametrize("prices", [[1e39], np.array([-1e39])], ids=["list", "array"])
def test_a_number_that_float32_cannot_hold_is_refused(server, protocol, prices):
    with connect(server, protocol, timeout=30) as client:
        with pytest.raises(ValueError, match=r"`features\['price'\]` must fit float32; received: \[-?1e\+39\]"):
            client.predict({"country": ["fr"], "price": prices})
        assert client.predict({"country": ["fr"], "price": [np.inf]}, "click")["click"].tolist() == [[np.inf]]


def test_arguments_are_checked(client):
    with pytest.raises(ValueError, match=r"`protocol` must be 'grpc' or 'rest'; received: protocol='http'"):
        Client("127.0.0.1:1", protocol="http")
    for timeout in (0, -1.0, float("nan"), float("inf"), "5"):
        text = f"`timeout` must be a positive, finite number of seconds; received: timeout={timeout!r}"
        with pytest.raises(ValueError, match=text):
            Client("127.0.0.1:1", timeout=timeout)
        with pytest.raises(ValueError, match=text):
            client.predict(ROWS, timeout=timeout)
    for version in ("3", 3.0, -1, True, 2**63):
        text = "`version` must be an integer from 0 to 9223372036854775807, or None for the newest; received: version="
        for ask in (
            lambda version=version: client.predict(ROWS, version=version),
            lambda version=version: client.metadata(version),
        ):
            with pytest.raises(ValueError) as caught:
                ask()
            assert str(caught.value) == f"{text}{version!r}"
    assert client.predict(ROWS, version=np.int64(3))["click"].tolist() == [[2.0], [6.0]]


def test_a_timeout_of_centuries_is_one_of_a_year(client):
    assert client.predict(ROWS, "click", timeout=1e10)["click"].tolist() == [[2.0], [6.0]]


def test_errors_can_be_pickled_and_copied():
    refusal, late = ServingError("NOT_FOUND", "no such model", "here:1"), ServingTimeoutError("here:1", 0.5)
    for error in (refusal, late):
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert type(again) is type(error) and str(again) == str(error)
            assert (again.code, again.text, again.address) == (error.code, error.text, error.address)
    assert pickle.loads(pickle.dumps(late)).seconds == 0.5


@both_protocols
def test_the_deadline_of_a_slow_request(odd_server, protocol, tmp_path):
    ask = {"path": [str(tmp_path / "slow")]}
    with connect(odd_server, protocol, timeout=30) as client:
        client.metadata()
        with pytest.raises(TimeoutError) as caught:
            client.predict(ask, "wait", timeout=0.25)
        (tmp_path / "slow.go").touch()
        assert isinstance(caught.value, ServingTimeoutError)
        text = f"DEADLINE_EXCEEDED from {client.address}: no answer within the deadline of 0.25 seconds"
        assert str(caught.value) == text
        assert client.predict(ask, "wait")["version"].tolist() == [[1.0]]  # the client is as good as before


@both_protocols
def test_the_deadline_of_a_server_that_never_speaks(protocol):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with Client(address, protocol=protocol, timeout=0.25) as client:
            for call in (client.status, client.metadata, lambda: client.predict(ROWS)):
                with pytest.raises(
                    ServingTimeoutError, match=f"from {address}: no answer within the deadline of 0.25 s"
                ):
                    call()


@both_protocols
def test_a_server_that_is_not_there(protocol):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
    with Client(address, protocol=protocol) as client, pytest.raises(ServingError, match="refused") as caught:
        client.status()
    assert caught.value.code == "UNAVAILABLE"
    assert not isinstance(caught.value, TimeoutError)


@contextlib.contextmanager
def http_server(answer):
    """Serves `answer(handler)` to every request; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        do_GET = do_POST = answer

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(handler, status, text):
    handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    handler.send_response(status)
    handler.send_header("Content-Length", len(text))
    handler.end_headers()
    handler.wfile.write(text.encode())


HEADERS = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (HEADERS.replace(b"Content-Length: 9", b"Transfer-Encoding: chunked"), b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"X: 1\r\n"),
        (HEADERS, b""),
    ],
    ids=["body drips", "headers drip", "body never comes"],
)
def test_a_server_that_drips_is_late_all_the_same(first, then):
    stop = threading.Event()

    def drip(handler):
        try:
            stop.wait(0.4)  # the first byte takes most of the time
            handler.wfile.write(first)
            while not stop.wait(0.02):
                handler.wfile.write(then)
        except OSError:  # the client has left
            pass

    with http_server(drip) as address, Client(address, protocol="rest", timeout=0.5) as client:
        started = time.monotonic()
        try:
            with pytest.raises(ServingTimeoutError, match=r"deadline of 0.5 seconds"):
                client.status()
            assert time.monotonic() - started < 0.8
        finally:
            stop.set()


def test_a_server_that_does_not_take_the_request_is_late_all_the_same():
    """So that the deadline passes while the rows are being sent."""
    stop = threading.Event()

    def answer(handler):
        if handler.path.endswith("/metadata"):
            send(handler, 200, METADATA)
        else:
            stop.wait()
            handler.close_connection = True

    with http_server(answer) as address, Client(address, protocol="rest", timeout=2.0) as client:
        client.metadata()
        try:
            with pytest.raises(ServingTimeoutError, match=r"deadline of 2 seconds"):
                client.predict({"x": np.zeros(2_000_000, "float32")})
        finally:
            stop.set()


def test_redirects_are_not_followed():
    def answer(handler):
        if handler.path.endswith("/metadata"):
            send(handler, 200, METADATA)
        else:
            handler.rfile.read(int(handler.headers["Content-Length"]))
            handler.send_response(302)
            handler.send_header("Location", "http://elsewhere:8501/v1/models/model:predict")
            handler.send_header("Content-Length", "0")
            handler.end_headers()

    server = http_server(answer)
    with server as address, Client(address, protocol="rest") as client, pytest.raises(ServingError) as caught:
        client.predict({"x": [1.0]})
    assert caught.value.text == (
        "HTTP 302, a redirect, which is not followed; give `address` where it leads: "
        "http://elsewhere:8501/v1/models/model:predict"
    )


def test_a_proxy_that_answers_html():
    gateway = http_server(lambda handler: send(handler, 502, "<html>bad gateway"))
    with gateway as address, Client(address, protocol="rest") as client, pytest.raises(ServingError) as caught:
        client.status()
    assert caught.value.text == "HTTP 502 with a body that is no JSON: b'<html>bad gateway'"
    assert caught.value.code == "UNAVAILABLE"


@pytest.mark.parametrize("body", ['{"status": "ok"}', "null", '"ok"'])
@pytest.mark.parametrize(
    ("call", "key"),
    [(Client.status, "model_version_status"), (lambda client: client.predict({"x": [1.0]}), "metadata")],
)
def test_a_server_of_something_else(body, call, key):
    other = http_server(lambda handler: send(handler, 200, body))
    with other as address, Client(address, protocol="rest") as client, pytest.raises(ServingError) as caught:
        call(client)
    assert caught.value.code == "UNKNOWN"
    assert (
        caught.value.text == f"HTTP 200 with an answer that has no {key!r}, so not of a model server: {body.encode()!r}"
    )


# What TensorFlow Serving prints for its half_plus_two example, white space included.
METADATA = """{
"model_spec":{
 "name": "half_plus_two",
 "signature_name": "",
 "version": "123"
}
,
"metadata": {"signature_def": {
 "signature_def": {
  "serving_default": {
   "inputs": {
    "x": {
     "dtype": "DT_FLOAT",
     "tensor_shape": {
      "dim": [
       {
        "size": "-1",
        "name": ""
       },
       {
        "size": "1",
        "name": ""
       }
      ],
      "unknown_rank": false
     },
     "name": "x:0"
    }
   },
   "outputs": {
    "y": {
     "dtype": "DT_FLOAT",
     "tensor_shape": {
      "dim": [
       {
        "size": "-1",
        "name": ""
       },
       {
        "size": "1",
        "name": ""
       }
      ],
      "unknown_rank": false
     },
     "name": "y:0"
    }
   },
   "method_name": "tensorflow/serving/predict"
  }
 }
}
}
}
"""


def test_what_tensorflow_serving_prints_is_understood():
    def answer(handler):
        if handler.path.endswith(":predict"):
            send(handler, 200, '{\n    "outputs": [\n        [2.5],\n        [3.0]\n    ]\n}')
        elif handler.path.endswith("/metadata"):
            send(handler, 200, METADATA)
        else:
            send(handler, 400, '{ "error": "Malformed request: GET /v1/models" }')

    with http_server(answer) as address, Client(f"http://{address}/", "half_plus_two", "rest") as client:
        assert client.predict({"x": [1.0, 2.0]})["y"].tolist() == [[2.5], [3.0]]
        with pytest.raises(ServingError, match=r"INVALID_ARGUMENT from .* Malformed request: GET /v1/models"):
            client.status()


def test_a_new_version_with_other_outputs_costs_rest_one_request(tmp_path):
    write_odd_model(tmp_path, 1)
    with LocalServer(tmp_path, file_system_poll_wait_seconds=0.05) as server, connect(server, "rest") as client:
        assert list(client.predict({"text": ["a"]}, "raw")) == ["raw_bytes", "text"]
        write_tiny_model(tmp_path / "aside", 2)
        shutil.move(tmp_path / "aside" / "2", tmp_path / "2")
        wait_until(lambda: client.status()[0]["version"] == 2 and client.status()[0]["state"] == "AVAILABLE")
        with pytest.raises(ServingError, match='key "raw" not found'):
            client.predict({"text": ["a"]}, "raw")
        assert client.predict(ROWS)["click"].tolist() == [[1.0], [3.0]]


def test_outputs_that_changed_their_names_are_not_mixed_up():
    two = METADATA.replace('"outputs": {', '"outputs": {"z": {"dtype": "DT_FLOAT"},')

    def answer(handler):
        send(handler, 200, two if "metadata" in handler.path else '{"outputs": {"a": [1.0], "b": [2.0]}}')

    gone = pytest.raises(ServingError, match=r"ABORTED .* outputs are no longer \['y', 'z'\]; ask again")
    with http_server(answer) as address, Client(address, protocol="rest") as client, gone:
        client.predict({"x": [1.0]})


def model_of(function, dtype, path):
    """A model of one input `x`, [batch, 1]; its one signature gives what the function gives."""
    spec = tf.TensorSpec([None, 1], dtype, name="x")
    signatures = {"serving_default": tf.function(function).get_concrete_function(x=spec)}
    tf.saved_model.save(tf.Module(), str(path), signatures=signatures)


@contextlib.contextmanager
def replaced(tmp_path, protocol, first, second, features):
    """A client that has asked version 1 for `features`, and is now to ask version 2, which is another model."""
    model_of(*first, tmp_path / "models" / "1")
    model_of(*second, tmp_path / "2")
    server = LocalServer(tmp_path / "models", file_system_poll_wait_seconds=0.05)
    with server, connect(server, protocol, timeout=30) as client:
        client.predict(features)
        shutil.move(tmp_path / "2", tmp_path / "models" / "2")
        wait_until(lambda: client.status()[0]["version"] == 2 and client.status()[0]["state"] == "AVAILABLE")
        yield client


@both_protocols
def test_a_new_version_with_another_dtype_costs_nothing(tmp_path, protocol):
    first = (lambda x: {"y": tf.cast(x, tf.float32)}, tf.int64)
    second = (lambda x: {"y": tf.cast(tf.strings.length(x), tf.float32)}, tf.string)
    with replaced(tmp_path, protocol, first, second, {"x": [7]}) as client:
        assert client.predict({"x": ["four"]})["y"].tolist() == [[4.0]]
        asked = []
        client._transport.metadata = lambda *_: asked.append(1) or client._signatures[None]
        assert client.predict({"x": ["four"]})["y"].tolist() == [[4.0]]
        assert asked == []  # what was asked anew is kept


@both_protocols
def test_features_that_fit_no_version_are_refused_with_the_first_reason(server, protocol):
    with connect(server, protocol, timeout=30) as client:
        asked = []
        metadata = client._transport.metadata

        def count(*arguments):
            asked.append(arguments)
            return metadata(*arguments)

        client._transport.metadata = count
        for requests in (1, 2, 3):  # the first has asked just now, every other looks whether there is a new version
            with pytest.raises(TypeError, match=r"`features\['country'\]` must hold str or bytes; received: 1"):
                client.predict({**ROWS, "country": [1, 2]})
            assert len(asked) == requests
        assert client.predict(ROWS)["click"].tolist() == [[2.0], [6.0]]


@pytest.mark.parametrize(
    ("function", "text", "later"),
    [
        (lambda x: {"y": x, "z": 2 * x}, r"outputs are no longer \['y'\]; ask again", {"y": [[1.5]], "z": [[3.0]]}),
        (lambda x: {"y": tf.as_string(x, 1)}, r"'y' is no longer float32 \[batch, 1\]; ask again", {"y": [[b"1.5"]]}),
        (lambda x: {"y": tf.concat([x, x], 1)}, r"'y' is no longer float32 \[batch, 1\]", {"y": [[1.5, 1.5]]}),
    ],
    ids=["two outputs", "strings", "two classes"],
)
def test_a_new_version_with_other_outputs_is_no_type_error(tmp_path, function, text, later):
    first = (lambda x: {"y": x}, tf.float32)
    with replaced(tmp_path, "rest", first, (function, tf.float32), {"x": [1.5]}) as client:
        with pytest.raises(ServingError, match=text) as caught:
            client.predict({"x": [1.5]})
        assert caught.value.code == "ABORTED"
        assert {name: value.tolist() for name, value in client.predict({"x": [1.5]}).items()} == later


def test_numbers_are_not_cut_to_the_integers_of_the_last_version(tmp_path):
    first, second = (lambda x: {"y": tf.cast(x, tf.int64)}, tf.float32), (lambda x: {"y": x}, tf.float32)
    with replaced(tmp_path, "rest", first, second, {"x": [1.5]}) as client:
        with pytest.raises(ServingError, match=r"ABORTED .* output 'y' is no longer int64 \[batch, 1\]; ask again"):
            client.predict({"x": [1.5]})
        assert client.predict({"x": [1.5]})["y"].tolist() == [[1.5]]


def test_rest_does_not_name_an_only_output(tmp_path):
    """The limit that the docstring states, and its remedy."""
    first, second = (lambda x: {"ctr": x}, tf.float32), (lambda x: {"cvr": 2 * x}, tf.float32)
    with replaced(tmp_path, "rest", first, second, {"x": [1.5]}) as client:
        assert client.predict({"x": [1.5]})["ctr"].tolist() == [[3.0]]
        client.metadata()
        assert client.predict({"x": [1.5]})["cvr"].tolist() == [[3.0]]


def test_one_value_of_bytes_is_no_name():
    scalar = METADATA.replace('"outputs": {', '"outputs": {"z": {"dtype": "DT_STRING", "tensor_shape": {}}}, "x": {')

    def answer(handler):
        send(handler, 200, scalar if "metadata" in handler.path else '{"outputs": {"b64": "/w=="}}')

    with http_server(answer) as address, Client(address, protocol="rest") as client:
        assert client.predict({"x": [1.0]})["z"].item() == b"\xff"


def test_grpc_looks_every_second_whether_a_server_is_back():
    with socket.create_server(("127.0.0.1", 0)) as broken:
        broken.settimeout(0.1)
        address = f"127.0.0.1:{broken.getsockname()[1]}"
        with Client(address, timeout=0.1) as client:
            looks, end = 0, time.monotonic() + 6.0
            while time.monotonic() < end:
                with pytest.raises(ServingError):
                    client.status()
                with contextlib.suppress(TimeoutError):
                    broken.accept()[0].close()
                    looks += 1
    # 0.8 to 1.2 s apart; gRPC's own pauses of 1.0, 1.6, 2.6 and 4.1 s, each 20 % less, would leave room for 4
    assert looks >= 5


def test_rest_imports_neither_tensorflow_nor_grpc(server):
    program = f"""
import sys
from serving import Client
with Client("127.0.0.1:{server.rest_api_port}", "tiny", protocol="rest", timeout=30) as client:
    print(client.predict({{"country": ["de"], "price": [2.0]}}, "click"), client.status()[0]["state"])
print(sorted({{"tensorflow", "grpc", "keras", "tf_keras", "google.protobuf", "mtl_layers"}} & set(sys.modules)))
"""
    root = os.path.dirname(os.path.dirname(serving.__file__))
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout == "{'click': array([[6.]], dtype=float32)} AVAILABLE\n[]\n", done.stderr


@both_protocols
def test_one_client_serves_many_threads(server, protocol):
    with connect(server, protocol, timeout=30) as client:
        answers = [None] * 8

        def ask(index):
            rows = {"country": ["fr"] * 3, "price": [index] * 3}
            answers[index] = [client.predict(rows, "click")["click"].tolist() for _ in range(20)]

        threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [[[[2.0 * index]] * 3] * 20 for index in range(8)]
