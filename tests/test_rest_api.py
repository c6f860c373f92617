"""REST of the local server: the paths, shapes and refusals of TensorFlow Serving."""

import base64
import json
import math

import pytest
import requests
import tensorflow as tf
from odd_model import write_odd_model
from tiny_model import write_tiny_model

from serving import LocalServer

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]  # serving never touches Keras


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_model(path, 3, scale=2.0)
    with LocalServer(path, "tiny") as server:
        yield f"http://127.0.0.1:{server.rest_api_port}/v1/models/tiny"


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    path = tmp_path_factory.mktemp("odd")
    write_odd_model(path)
    with LocalServer(path, "odd") as server:
        yield f"http://127.0.0.1:{server.rest_api_port}/v1/models/odd"


def ask(url, body):
    text = body if isinstance(body, (str, bytes)) else json.dumps(body)
    response = requests.post(url + ":predict", data=text, timeout=30)
    assert response.headers["Content-Type"].startswith("application/json")
    return response.status_code, response.json()


def test_status(tiny):
    expected = {
        "model_version_status": [
            {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    assert requests.get(tiny, timeout=30).json() == expected
    assert requests.get(tiny + "/versions/3", timeout=30).json() == expected


@pytest.mark.parametrize("suffix", ["/metadata", "/versions/3/metadata"])
def test_metadata(tiny, suffix):
    answer = requests.get(tiny + suffix, timeout=30).json()
    assert answer["model_spec"] == {"name": "tiny", "signature_name": "", "version": "3"}
    click = answer["metadata"]["signature_def"]["signature_def"]["click"]
    shape = {"dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}], "unknown_rank": False}
    assert click["inputs"]["price"]["dtype"] == "DT_FLOAT"
    assert click["inputs"]["price"]["tensor_shape"] == shape
    assert click["method_name"] == "tensorflow/serving/predict"


def test_rows_of_several_outputs_are_objects(tiny):
    rows = [{"country": ["fr"], "price": [0.05]}, {"country": ["de"], "price": [1]}]
    status, answer = ask(tiny, {"instances": rows})
    assert status == 200
    assert answer == {"predictions": [{"click": [0.1], "purchase": [0.05]}, {"click": [4.0], "purchase": [2.0]}]}


def test_rows_of_one_output_are_values(tiny):
    rows = [{"country": ["fr"], "price": [0.05]}, {"country": ["de"], "price": [1]}]
    assert ask(tiny, {"signature_name": "click", "instances": rows}) == (200, {"predictions": [[0.1], [4.0]]})


def test_columns_of_several_outputs_are_named(tiny):
    columns = {"country": [["fr"], ["xx"]], "price": [[1.0], [1.0]]}
    answer = {"outputs": {"click": [[2.0], [0.0]], "purchase": [[1.0], [0.0]]}}
    assert ask(tiny, {"inputs": columns}) == (200, answer)


def test_columns_of_one_output_are_not_named(tiny):
    columns = {"country": [["fr"], ["xx"]], "price": [[1.0], [1.0]]}
    assert ask(tiny, {"inputs": columns, "signature_name": "purchase"}) == (200, {"outputs": [[1.0], [0.0]]})


def test_version_in_the_path(tiny):
    columns = {"country": [["fr"]], "price": [[1.0]]}
    url = tiny + "/versions/{}:predict"
    body = json.dumps({"inputs": columns, "signature_name": "click"})
    assert requests.post(url.format(3), data=body, timeout=30).json() == {"outputs": [[2.0]]}
    response = requests.post(url.format(2), data=body, timeout=30)
    assert response.status_code == 404
    text = "Servable not found for request: Specific(tiny, 2); this server has: version 3 of tiny"
    assert response.json() == {"error": text}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            {"instances": [{"country": ["fr"], "price": 31.0}]},
            "'price' must be float32 [batch, 1]: [31.0] for a row; received: 31.0",
        ),
        (
            {"instances": [{"country": "fr", "price": [31.0]}]},
            '\'country\' must be string [batch, 1]: ["fr"] for a row; received: "fr"',
        ),
        (
            {"inputs": {"country": [["fr"], ["de"]], "price": [1, 2]}},
            "'price' must be float32 [batch, 1]: [1] for a row; received: 1",
        ),
    ],
)
def test_a_column_takes_no_bare_values_as_in_tensorflow_serving(tiny, body, text):
    assert ask(tiny, body) == (400, {"error": f"input {text}"})


def test_an_input_of_rank_1_takes_bare_values(tiny):
    feature = {
        "country": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"de"])),
        "price": tf.train.Feature(float_list=tf.train.FloatList(value=[1.0])),
    }
    serialized = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    row = {"b64": base64.b64encode(serialized).decode()}
    for rows in ([row], [{"examples": row}]):
        answer = {"predictions": [{"click": [4.0], "purchase": [2.0]}]}
        assert ask(tiny, {"signature_name": "examples", "instances": rows}) == (200, answer)


def test_a_single_input_needs_no_name(odd):
    rows = [[1.5], [2.5]]
    assert ask(odd, {"signature_name": "checked", "instances": rows}) == (200, {"predictions": rows})
    assert ask(odd, {"signature_name": "checked", "inputs": [[1.5]]}) == (200, {"outputs": [[1.5]]})


def test_every_dtype_comes_back(odd):
    columns = {
        "flag": [[True], [False]],
        "whole": [[2**62 + 1], [-1]],
        "small": [[-128], [127]],
        "exact": [[0.1], [1e300]],
        "half": [[1.5], [-2.0]],
        "text": [["a", "b"], ["é", ""]],
    }
    assert ask(odd, {"signature_name": "types", "inputs": columns}) == (200, {"outputs": columns})


def test_bytes_travel_as_base64(odd):
    no_text = base64.b64encode(b"\xff\x00").decode()
    status, answer = ask(odd, {"signature_name": "raw", "instances": [[{"b64": no_text}], ["abc"]]})
    assert status == 200
    assert answer["predictions"] == [
        {"raw_bytes": [{"b64": no_text}], "text": [{"b64": no_text}]},
        {"raw_bytes": [{"b64": base64.b64encode(b"abc").decode()}], "text": ["abc"]},
    ]


def test_nan_and_infinity_are_bare_words(tiny):
    body = '{"signature_name": "click", "inputs": {"country": [["fr"], ["fr"]], "price": [[NaN], [-Infinity]]}}'
    response = requests.post(tiny + ":predict", data=body, timeout=30)
    assert response.text == '{"outputs": [[NaN], [-Infinity]]}'
    (nan,), (infinity,) = response.json()["outputs"]
    assert math.isnan(nan)
    assert infinity == -math.inf


def test_a_scalar_output_needs_column_format(odd):
    assert ask(odd, {"signature_name": "mean", "inputs": [1.0, 2.0]}) == (200, {"outputs": 1.5})
    status, answer = ask(odd, {"signature_name": "mean", "instances": [1.0, 2.0]})
    assert status == 400
    assert answer["error"] == (
        "outputs must have equal numbers of rows in row format; received: {'mean': []}. Use 'inputs' instead"
    )


COUNTRY, PRICE = {"country": [["fr"]]}, {"price": [[1.0]]}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "JSON Parse error: Expecting value: line 1 column 1 (char 0)"),
        ("[" * 100_000, "JSON Parse error: maximum recursion depth exceeded"),
        (b"\xff\xfe\xfd", "JSON Parse error:"),
        ([1], "request must be a JSON object; received: [1]"),
        ({"signature_name": 1, "inputs": 1}, "'signature_name' key must be a string value; received: 1"),
        (
            {"signature_name": "clicks", "inputs": 1},
            'Serving signature key "clicks" not found; '
            "this version has: ['click', 'examples', 'purchase', 'serving_default']",
        ),
        ({"rows": [1]}, "one of the keys 'instances' (row format) and 'inputs' (column format); received: ['rows']"),
        ({"inputs": {}, "instances": []}, "received: ['inputs', 'instances']"),
        ({"instances": {"a": 1}}, "'instances' must be a list; received: {\"a\": 1}"),
        ({"instances": []}, "'instances' must have at least one row; received: []"),
        (
            {"instances": [1.0]},
            "'instances' must name its values: signature 'serving_default' takes ['country', 'price']",
        ),
        ({"inputs": [1.0]}, "'inputs' must name its values"),
        ({"instances": [1.0, {"a": 1}]}, "'instances' must be all values or all objects; received: both"),
        ({"instances": [{"a": 1}, {"b": 1}]}, "must have the same keys in every row; received: ['b'] in row 1"),
        ({"instances": [{"a": 1}, 7]}, "must have the same keys in every row; received: 7 in row 1"),
        (
            {"inputs": COUNTRY},
            "inputs of signature 'serving_default' must be ['country', 'price']; "
            "received: ['country'] (missing: ['price'], unknown: [])",
        ),
        (
            {"inputs": {**COUNTRY, **PRICE, "click": [[1]]}},
            "received: ['click', 'country', 'price'] (missing: [], unknown: ['click'])",
        ),
        ({"inputs": {**COUNTRY, "price": [["1.0"]]}}, "input 'price' must be float32; received: \"1.0\""),
        ({"inputs": {**COUNTRY, "price": [[True]]}}, "input 'price' must be float32; received: true"),
        ({"inputs": {**COUNTRY, "price": [[None]]}}, "input 'price' must be float32; received: null"),
        ({"inputs": {**COUNTRY, "price": [[1e39]]}}, "input 'price' must fit float32; received: [[1e+39]]"),
        (
            {"inputs": {"country": [["fr"], ["fr"]], "price": [[float("inf")], [1e39]]}},
            "input 'price' must fit float32; received: [[Infinity], [1e+39]]",
        ),
        ({"inputs": {**COUNTRY, "price": [[10**400]]}}, "input 'price' must fit float32; received: [[1000"),
        ({"inputs": {**PRICE, "country": [[1]]}}, "input 'country' must be string; received: 1"),
        ({"inputs": {**PRICE, "country": [[{"b64": "?"}]]}}, "input 'country' must hold base64 under 'b64'"),
        (
            {"inputs": {**PRICE, "country": [["fr\ud83d"]]}},
            "input 'country' must be whole characters; received: \"fr\\ud83d\"",
        ),
        ({"signature_name": "\ud83d", "inputs": 1}, 'Serving signature key "\ud83d" not found'),
        ({"inputs": {**PRICE, "\ud83d": [["fr"]]}}, "unknown: ['\\ud83d']"),
        ({"inputs": {**COUNTRY, "price": []}}, "input 'price' must have at least one row; received: shape [0]"),
        (
            {"inputs": {**COUNTRY, "price": 1.0}},
            "input 'price' must have rank 2 (float32 [batch, 1]); received: shape []",
        ),
        (
            {"inputs": {**COUNTRY, "price": [[1.0, 2.0]]}},
            "input 'price' must be float32 [batch, 1]; received: shape [1, 2]",
        ),
        (
            {"inputs": {**COUNTRY, "price": [[1.0, 2.0], [3.0]]}},
            "input 'price' must have rows of one length; received: [[1.0, 2.0], [3.0]]",
        ),
        (
            {"inputs": {**COUNTRY, "price": [[1.0], [2.0]]}},
            "all inputs must have the same number of rows; received: {'country': 1, 'price': 2}",
        ),
        ({"signature_name": "examples", "instances": ["junk"]}, "Feature: country (data type: string) is required"),
        ({"signature_name": "examples", "instances": [{"b64": "/w=="}]}, "Could not parse example input, value: '"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(tiny, body, text):
    status, answer = ask(tiny, body)
    assert status == 400
    assert list(answer) == ["error"]
    assert text in answer["error"]


def nested(value, times):
    for _ in range(times):
        value = [value]
    return value


@pytest.mark.parametrize("times", [31, 32, 70])
def test_lists_in_lists_are_refused_however_many(tiny, times):
    status, answer = ask(tiny, {"inputs": {**COUNTRY, "price": nested(1.0, times)}})
    assert (status, "input 'price' must have r" in answer["error"]) == (400, True), answer


def test_a_body_that_cannot_be_unpacked_is_refused(tiny, caplog):
    headers = {"Content-Encoding": "gzip"}
    response = requests.post(tiny + ":predict", data=b"no gzip", headers=headers, timeout=30)
    assert response.status_code == 400
    assert response.json()["error"].startswith("the body cannot be read: ")
    assert not [record for record in caplog.records if record.name.startswith("serving")]  # aiohttp's own may be there


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("whole", 1.5, "input 'whole' must be int64; received: 1.5"),
        ("whole", 2**63, "input 'whole' must fit int64; received: [[9223372036854775808]]"),
        ("small", 128, "input 'small' must fit int8; received: [[128]]"),
        ("small", 1e300, "input 'small' must be int8; received: 1e+300"),
        ("flag", 1, "input 'flag' must be bool; received: 1"),
        ("half", "x", "input 'half' must be bfloat16; received: \"x\""),
    ],
)
def test_values_that_do_not_fit_are_refused(odd, name, value, text):
    row = {"flag": [True], "whole": [1], "small": [1], "exact": [1.0], "half": [1.0], "text": ["a"], name: [value]}
    assert ask(odd, {"signature_name": "types", "instances": [row]}) == (400, {"error": text})


def test_the_graph_may_refuse(odd):
    status, answer = ask(odd, {"signature_name": "checked", "inputs": [[1.0], [math.nan]]})
    assert status == 400
    assert answer["error"].startswith("a feature must be finite : Tensor had NaN values")
    assert "Traceback" not in answer["error"]


def test_a_dtype_that_json_has_no_word_for(odd):
    status, answer = ask(odd, {"signature_name": "turned", "inputs": [[1.0]]})
    assert (status, answer) == (500, {"error": "TypeError: Object of type complex is not JSON serializable"})


def test_a_body_that_is_too_large(tmp_path, monkeypatch):
    write_tiny_model(tmp_path)
    monkeypatch.setattr("serving.server.rest_api._MAX_BODY", 100)
    with LocalServer(tmp_path) as server:
        status, answer = ask(f"http://127.0.0.1:{server.rest_api_port}/v1/models/model", " " * 101)
    assert status == 413
    assert answer["error"].startswith("Maximum request body size 100 exceeded")


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/v1/models/other", 404, "Could not find any versions of model other; this server has: tiny"),
        ("GET", "/v1/models/tiny/versions/9", 404, "Could not find version 9 of model tiny; this server has: tiny"),
        ("GET", "/v1/models/other/metadata", 404, "Servable not found for request: Latest(other)"),
        ("POST", "/v1/models/other:predict", 404, "Servable not found for request: Latest(other)"),
        ("GET", "/v1/models/tiny/versions/9223372036854775807", 404, "Could not find version 9223372036854775807 of"),
        ("GET", "/v1/models/tiny/versions/9223372036854775808", 400, "Malformed request: GET /v1/mod"),
        ("GET", "/v1/models/tiny/versions/one", 400, "Malformed request: GET /v1/models/tiny/versions/one"),
        ("POST", "/v1/models/tiny", 400, "Malformed request: POST /v1/models/tiny"),
        ("DELETE", "/v1/models/tiny", 400, "Malformed request: DELETE /v1/models/tiny"),
        ("GET", "/", 400, "Malformed request: GET /"),
        ("POST", "/v1/models/tiny:classify", 501, ":classify is not served here; use :predict"),
    ],
)
def test_paths_that_lead_nowhere(tiny, method, path, status, text):
    root = tiny.removesuffix("/v1/models/tiny")
    response = requests.request(method, root + path, data="{}", timeout=30)
    assert response.status_code == status
    assert text in response.json()["error"]
