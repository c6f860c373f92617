"""gRPC of the local server, asked with the stubs that come with TensorFlow Serving."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from odd_model import write_odd_model
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tiny_model import write_tiny_model

from serving import LocalServer

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]  # serving never touches Keras

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
ROW = {"country": [["fr"]], "price": np.float32([[1.0]])}


@pytest.fixture(scope="module")
def channel(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_model(path, 3, scale=2.0)
    with LocalServer(path, "tiny") as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def model(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def predict_request(inputs, name="tiny", signature="", version=None, outputs=()):
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


def refusal(call, request):
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    return caught.value.code(), caught.value.details()


def test_predict(prediction):
    request = predict_request({"country": [["fr"], ["de"]], "price": np.float32([[1.0], [2.0]])})
    response = prediction.Predict(request, timeout=30)
    assert response.model_spec.name == "tiny"
    assert response.model_spec.version.value == 3
    assert response.model_spec.signature_name == "serving_default"
    answer = {name: tf.make_ndarray(tensor).tolist() for name, tensor in response.outputs.items()}
    assert answer == {"click": [[2.0], [6.0]], "purchase": [[1.0], [3.0]]}
    assert tf.make_ndarray(response.outputs["click"]).dtype == np.float32


def test_a_batch_above_the_default_message_size(prediction):
    rows = 400_000  # over 4 MB of strings up, 3 MB down
    inputs = {"country": np.full([rows, 1], b"nowhere!"), "price": np.arange(rows, dtype="float32")[:, None]}
    request = predict_request(inputs)
    assert request.ByteSize() > 5_000_000
    click = tf.make_ndarray(prediction.Predict(request, timeout=60).outputs["click"])
    assert click.tolist() == (2.0 * (inputs["price"] - 1.0)).tolist()


def test_output_filter(prediction):
    response = prediction.Predict(predict_request(ROW, outputs=["purchase"]), timeout=30)
    assert list(response.outputs) == ["purchase"]
    for outputs in (["clicks"], ["click", "click"]):
        assert refusal(prediction.Predict, predict_request(ROW, outputs=outputs)) == (
            INVALID,
            "`output_filter` must name outputs of signature 'serving_default', each once: ['click', 'purchase']; "
            f"received: {outputs}",
        )


def test_serialized_examples(prediction):
    feature = {
        "country": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"de"])),
        "price": tf.train.Feature(float_list=tf.train.FloatList(value=[1.0])),
    }
    serialized = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    response = prediction.Predict(predict_request({"examples": [serialized]}, signature="examples"), timeout=30)
    assert tf.make_ndarray(response.outputs["click"]).tolist() == [[4.0]]


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (predict_pb2.PredictRequest(), INVALID, "Missing ModelSpec"),
        (predict_request(ROW, "other"), NOT_FOUND, "Latest(other); this server has: version 3 of tiny"),
        (predict_request(ROW, version=2), NOT_FOUND, "Specific(tiny, 2); this server has: version 3 of tiny"),
        (
            predict_request(ROW, signature="ctr"),
            grpc.StatusCode.FAILED_PRECONDITION,
            "key \"ctr\" not found; this version has: ['click', 'examples', 'purchase', 'serving_default']",
        ),
        (predict_request({}), INVALID, "received: [] (missing: ['country', 'price'], unknown: [])"),
        (predict_request({**ROW, "age": [[1]]}), INVALID, "(missing: [], unknown: ['age'])"),
        (predict_request({**ROW, "price": [[1]]}), INVALID, "input 'price' must be float32; received: int32 [1, 1]"),
        (predict_request({**ROW, "price": [["1"]]}), INVALID, "input 'price' must be float32; received: string [1, 1]"),
        (predict_request({**ROW, "country": [[1]]}), INVALID, "input 'country' must be string; received: int32 [1, 1]"),
        (
            predict_request({**ROW, "price": np.float32([1.0])}),
            INVALID,
            "input 'price' must have rank 2 (float32 [batch, 1]); received: shape [1]",
        ),
        (
            predict_request({**ROW, "price": np.float32([[1.0, 2.0]])}),
            INVALID,
            "input 'price' must be float32 [batch, 1]; received: shape [1, 2]",
        ),
        (
            predict_request({**ROW, "price": np.zeros([2, 1], "float32")}),
            INVALID,
            "all inputs must have the same number of rows; received: {'country': 1, 'price': 2}",
        ),
        (
            predict_request({**ROW, "price": np.zeros([0, 1], "float32")}),
            INVALID,
            "input 'price' must have at least one row; received: shape [0, 1]",
        ),
        (
            predict_request({"examples": ["junk"]}, signature="examples"),
            INVALID,
            "Feature: country (data type: string) is required",
        ),
    ],
)
def test_bad_requests_are_refused_with_the_reason(prediction, request_, code, text):
    received, details = refusal(prediction.Predict, request_)
    assert received == code
    assert text in details


@pytest.mark.parametrize("letter", ["a", "é", "国"])
def test_a_long_refusal_is_cut_to_what_clients_take(prediction, letter):
    code, details = refusal(prediction.Predict, predict_request(ROW, signature=letter * 3000))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    start = 'Serving signature key "'
    assert details == start + letter * ((2600 - len(start)) // len(letter.encode()))


def test_a_broken_tensor_is_refused(prediction):
    request = predict_request(ROW)
    request.inputs["price"].tensor_content = b"123"
    code, details = refusal(prediction.Predict, request)
    assert code == INVALID
    assert details.startswith("input 'price' must be a whole TensorProto: ")


def test_labels_are_refused(prediction):
    request = predict_request(ROW)
    request.model_spec.version_label = "stable"
    assert refusal(prediction.Predict, request) == (INVALID, "Unrecognized servable version label: stable")


def test_the_graph_may_refuse(tmp_path):
    write_odd_model(tmp_path)
    with LocalServer(tmp_path, "odd") as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_request({"x": np.float32([[np.nan]])}, "odd", "checked")
        code, details = refusal(stub.Predict, request)
    assert code == INVALID
    assert details.startswith("a feature must be finite : Tensor had NaN values")


def test_metadata(prediction):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "tiny"
    response = prediction.GetModelMetadata(request, timeout=30)
    assert response.model_spec.version.value == 3
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def) >= {"serving_default", "click", "purchase", "examples"}
    assert signatures.signature_def["click"].inputs["price"].dtype == tf.float32.as_datatype_enum


def test_metadata_refuses_other_fields(prediction):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["graph"])
    request.model_spec.name = "tiny"
    text = "`metadata_field` must be ['signature_def']; received: ['graph']"
    assert refusal(prediction.GetModelMetadata, request) == (INVALID, text)


def test_status(model):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "tiny"
    (line,) = model.GetModelStatus(request, timeout=30).model_version_status
    assert (line.version, line.state, line.status.error_code) == (3, line.AVAILABLE, 0)
    request.model_spec.version.value = 4
    text = "Could not find version 4 of model tiny; this server has: tiny"
    assert refusal(model.GetModelStatus, request) == (NOT_FOUND, text)
    assert refusal(model.GetModelStatus, get_model_status_pb2.GetModelStatusRequest()) == (INVALID, "Missing ModelSpec")


def test_what_is_not_served_says_so(prediction, model):
    unimplemented = grpc.StatusCode.UNIMPLEMENTED
    assert refusal(prediction.Classify, classification_pb2.ClassificationRequest()) == (
        unimplemented,
        "Classify is not served here; use Predict",
    )
    assert refusal(model.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest()) == (
        unimplemented,
        "HandleReloadConfigRequest is not served here; start the server anew",
    )
