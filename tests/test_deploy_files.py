"""The files that run TensorFlow Serving: each parsed by its proto, and all in agreement with each other."""

import re
from pathlib import Path

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

import serving

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]  # serving never touches Keras

DEPLOY = Path(serving.__file__).parent / "deploy"
INT64, BOOL, STRING, MESSAGE = 3, 8, 9, 11  # field types of descriptor.proto
INT64_VALUE, BOOL_VALUE, STRING_VALUE = (f".google.protobuf.{kind}Value" for kind in ("Int64", "Bool", "String"))

# From session_bundle_config.proto and monitoring_config.proto of TensorFlow Serving: its Python package lacks both.
MESSAGES = {
    "BatchingParameters": [
        ("max_batch_size", 1, INT64_VALUE),
        ("batch_timeout_micros", 2, INT64_VALUE),
        ("max_enqueued_batches", 3, INT64_VALUE),
        ("num_batch_threads", 4, INT64_VALUE),
        ("thread_pool_name", 5, STRING_VALUE),
        ("allowed_batch_sizes", 6, INT64),
        ("pad_variable_length_inputs", 7, BOOL),
        ("enable_large_batch_splitting", 8, BOOL_VALUE),
        ("max_execution_batch_size", 9, INT64_VALUE),
    ],
    "PrometheusConfig": [("enable", 1, BOOL), ("path", 2, STRING)],
    "MonitoringConfig": [("prometheus_config", 1, ".tensorflow.serving.PrometheusConfig")],
}


def message_class(name):
    file = descriptor_pb2.FileDescriptorProto(
        name="deploy_test.proto", package="tensorflow.serving", syntax="proto3", dependency=["wrappers.proto"]
    )
    for message, fields in MESSAGES.items():
        declared = file.message_type.add(name=message)
        for field, number, kind in fields:
            label = 3 if field == "allowed_batch_sizes" else 1  # repeated, optional
            if isinstance(kind, str):
                declared.field.add(name=field, number=number, label=label, type=MESSAGE, type_name=kind)
            else:
                declared.field.add(name=field, number=number, label=label, type=kind)
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    wrappers.name = "wrappers.proto"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(wrappers)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}"))


def parse(name, message):
    return text_format.Parse((DEPLOY / name).read_text(encoding="utf-8"), message)


@pytest.fixture(scope="module")
def models():
    return parse("models.config", model_server_config_pb2.ModelServerConfig())


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def service(compose, request):
    return compose["services"][request.param]


def flags_of(service):
    return dict(flag.removeprefix("--").split("=", 1) for flag in service["command"])


def mounts_of(service):
    """Container path to host path; the last colon but one parts them, as the host's may hold ${MODELS:-default}."""
    return {target: source for source, target, mode in (v.rsplit(":", 2) for v in service["volumes"]) if mode == "ro"}


def test_models_config(models):
    (config,) = models.model_config_list.config
    assert config.model_platform == "tensorflow"
    assert config.model_version_policy.latest.num_versions == 1
    assert config.base_path == f"/models/{config.name}"


def test_batching_parameters():
    batching = parse("batching_parameters.config", message_class("BatchingParameters")())
    sizes = list(batching.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == batching.max_batch_size.value == 1024
    assert sizes[0] == 1
    assert batching.batch_timeout_micros.value == 1000
    assert batching.num_batch_threads.value >= 1
    assert batching.max_enqueued_batches.value >= 1


def test_short_rows_are_never_filled_with_values():
    text = (DEPLOY / "batching_parameters.config").read_text(encoding="utf-8")
    assert not parse("batching_parameters.config", message_class("BatchingParameters")()).pad_variable_length_inputs
    assert "Never set\n#   pad_variable_length_inputs" in text
    assert "joined whatever their shapes; unless these agree in all but the rows, all that were joined fail." in text
    assert "nan_value" in text and "`examples`" in text


def test_a_misspelt_knob_does_not_parse():
    with pytest.raises(text_format.ParseError, match='no field named "max_batchsize"'):
        text_format.Parse("max_batchsize { value: 1 }", message_class("BatchingParameters")())


def test_monitoring():
    monitoring = parse("monitoring.config", message_class("MonitoringConfig")())
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_every_flag_is_one_of_tensorflow_model_server(service):
    # as listed by tensorflow_serving/model_servers/main.cc
    known = {
        "port",
        "rest_api_port",
        "model_config_file",
        "model_config_file_poll_wait_seconds",
        "file_system_poll_wait_seconds",
        "enable_batching",
        "batching_parameters_file",
        "monitoring_config_file",
    }
    assert set(flags_of(service)) == known
    assert all(flag.startswith("--") for flag in service["command"])


def test_every_file_in_a_flag_is_mounted_and_exists(service):
    mounts = mounts_of(service)
    assert len(mounts) == len(service["volumes"])  # all of them read-only
    files = [Path(value) for name, value in flags_of(service).items() if name.endswith("_file")]
    assert len(files) == 3
    for file in files:
        # By its directory: a mount of the file itself would show the old one when it is replaced by a rename.
        assert str(file) not in mounts
        assert (DEPLOY / mounts[str(file.parent)] / file.name).is_file()


def test_the_models_are_mounted_where_the_config_looks(service, models):
    assert mounts_of(service)["/models"] == "${MODELS:-./models}"
    assert all(config.base_path.startswith("/models/") for config in models.model_config_list.config)


def test_the_server_is_not_process_1_which_takes_no_notice_of_sigterm(service):
    assert service["init"] is True
    assert service["stop_grace_period"] == "30s"


def test_ports_are_published_on_this_machine_only(service):
    flags = flags_of(service)
    assert service["ports"] == [f"127.0.0.1:{port}:{port}" for port in (flags["port"], flags["rest_api_port"])]


def test_only_the_gpu_service_asks_for_a_gpu(compose):
    cpu, gpu = compose["services"]["cpu"], compose["services"]["gpu"]
    assert "profiles" not in cpu
    assert "deploy" not in cpu
    assert gpu["profiles"] == ["gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    (default,) = re.fullmatch(r"tensorflow/serving:\$\{TAG:-(\d+\.\d+\.\d+)\}", cpu["image"]).groups()
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    assert f"{default} by default" in text and f"later than {default.removesuffix('.0')}, set TAG" in text
    assert gpu["image"] == cpu["image"] + "-gpu"


@pytest.mark.parametrize("file", sorted(path.name for path in DEPLOY.iterdir()))
def test_every_file_opens_with_its_explanation(file):
    head = (DEPLOY / file).read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert len(head.splitlines()) >= 5
