"""The server's life: start, refusal to start, ports, signals, the command."""

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from odd_model import write_odd_model
from tiny_model import write_tiny_model
from waiting import wait_until

import serving
from serving import Client, LocalServer
from serving.client import ServingError
from serving.local_server import main

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]  # serving never touches Keras

ROW = {"country": ["fr"], "price": [1.0]}
READ_ERROR = "Read less bytes than requested [[{{node RestoreV2}}]]"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_model(path, 1, scale=2.0)
    return path


@pytest.fixture
def refused(capsys, monkeypatch):
    """Runs the command, which must fail; returns what it says."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    level = logging.getLogger("tensorflow").level

    def run(*arguments):
        assert main([str(argument) for argument in arguments]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        return said.err.strip().splitlines()[-1]

    yield run
    logging.getLogger("tensorflow").setLevel(level)


def start_command(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "serving.local_server", *map(str, arguments)],
        cwd=os.path.dirname(os.path.dirname(serving.__file__)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_serves_until_it_is_told_to_stop(tmp_path):
    write_odd_model(tmp_path)
    flags = ("--model_base_path", tmp_path, "--model_name=odd", "--port=0", "--rest_api_port=0")
    with start_command(*flags, "--file_system_poll_wait_seconds=0.1") as process, ThreadPoolExecutor(1) as pool:
        try:
            line = process.stdout.readline()
            ready = re.fullmatch(
                r"mtl-serve: model odd ready: gRPC on 127\.0\.0\.1:(\d+), REST on http://127\.0\.0\.1:(\d+)\n", line
            )
            assert ready, process.stderr.read()
            with Client(f"127.0.0.1:{ready[1]}", "odd", timeout=30) as client:
                assert client.predict({"x": [1.5]}, "checked")["x"].tolist() == [[1.5]]
                slow = pool.submit(client.predict, {"path": [str(tmp_path / "slow")]}, "wait")
                wait_until((tmp_path / "slow.started").exists)
                process.send_signal(signal.SIGTERM)
                wait_until(lambda: not accepts(int(ready[2])))  # it stops taking requests before it goes
                assert process.poll() is None
                (tmp_path / "slow.go").touch()
                assert slow.result()["version"] == 1.0
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "version 1 of model odd is loaded; 0 warm-up requests were run" in errors
    assert "Traceback" not in errors
    assert "deprecated" not in errors


def accepts(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_interrupt_stops_the_command_too(model):
    with start_command("--model_base_path", model, "--port=0", "--rest_api_port=0") as process:
        try:
            assert process.stdout.readline().startswith("mtl-serve: model model ready: ")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_the_command_refuses_with_exit_status_1(tmp_path):
    with start_command("--model_base_path", tmp_path / "none") as process:
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    received = f"received: model_base_path={tmp_path / 'none'}, which is nothing"
    assert errors == f"mtl-serve: `model_base_path` must be a directory; {received}\n"


def test_a_file_is_no_directory(refused, tmp_path):
    (tmp_path / "file").touch()
    said = refused("--model_base_path", tmp_path / "file")
    assert said.endswith(f"received: model_base_path={tmp_path / 'file'}, which is a file")


def test_an_empty_directory(refused, tmp_path):
    said = refused("--model_base_path", tmp_path, "--port=0", "--rest_api_port=0")
    assert said == (
        "mtl-serve: `model_base_path` must hold version directories named by a number, such as 1/saved_model.pb; "
        f"received: model_base_path={tmp_path}, which holds: nothing"
    )


def test_a_directory_of_something_else(refused, tmp_path):
    for name in "abcdefghijkl":
        (tmp_path / name).touch()
    said = refused("--model_base_path", tmp_path, "--port=0", "--rest_api_port=0")
    assert said.endswith("which holds: a, b, c, d, e, f, g, h, i, j, ...")


def test_a_savedmodel_without_its_version_directory(refused, model):
    path = model / "1"
    said = refused("--model_base_path", path, "--port=0", "--rest_api_port=0")
    assert said.endswith(
        "which holds: assets, fingerprint.pb, saved_model.pb, variables. "
        f"It is a SavedModel itself: move it to {path / '1'} and keep --model_base_path={path}"
    )


def test_a_version_directory_without_a_savedmodel(refused, tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.keras").touch()
    said = refused("--model_base_path", tmp_path, "--port=0", "--rest_api_port=0")
    assert "`model_base_path` must hold a version that loads" in said
    assert f"version 1: SavedModel file does not exist at: {tmp_path / '1'}" in said


def test_a_truncated_savedmodel(refused, model, tmp_path):
    shutil.copytree(model / "1", tmp_path / "1")
    data = tmp_path / "1" / "variables" / "variables.data-00000-of-00001"
    os.truncate(data, 1)
    said = refused("--model_base_path", tmp_path, "--port=0", "--rest_api_port=0")
    assert said.endswith(f"received: model_base_path={tmp_path}: version 1: {READ_ERROR}")


@pytest.mark.parametrize("flag", ["port", "rest_api_port"])
def test_a_port_in_use(refused, model, flag):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("--model_base_path", model, "--port=0", "--rest_api_port=0", f"--{flag}={port}")
    assert said == (
        f"mtl-serve: `{flag}` must be a free port of `host`; received: {flag}={port}, host=127.0.0.1: "
        f"Address already in use. Choose another with --{flag}, or 0 to let the system choose"
    )


def test_a_port_of_another_local_server_is_in_use(model):
    with LocalServer(model) as server:
        with pytest.raises(OSError, match=f"port={server.port}, host=127.0.0.1: Address already in use"):
            LocalServer(model, port=server.port).start()
        with pytest.raises(OSError, match=f"rest_api_port={server.rest_api_port}, host"):
            LocalServer(model, rest_api_port=server.rest_api_port).start()


def test_one_port_for_both_protocols(refused, model):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = refused("--model_base_path", model, f"--port={port}", f"--rest_api_port={port}")
    assert said.startswith(f"mtl-serve: `rest_api_port` must be a free port of `host`; received: rest_api_port={port}")


def test_a_port_and_a_host_that_cannot_be(refused, model):
    text = "mtl-serve: `port` must be between 0 and 65535; received: port=70000"
    assert refused("--model_base_path", model, "--port=70000") == text
    said = refused("--model_base_path", model, "--port=0", "--host=192.0.2.1")
    assert "host=192.0.2.1: Cannot assign requested address" in said


def test_a_poll_interval_must_be_positive(refused, model):
    assert refused("--model_base_path", model, "--file_system_poll_wait_seconds=0") == (
        "mtl-serve: `file_system_poll_wait_seconds` must be positive; received: file_system_poll_wait_seconds=0.0"
    )


def test_a_server_can_be_stopped_and_started_again(model):
    server = LocalServer(model)
    server.stop()  # nothing to stop
    with server, pytest.raises(RuntimeError, match="`start` must be called once; this server is running"):
        server.start()
    ports = server.port, server.rest_api_port
    assert not accepts(server.port)
    with server, Client(f"127.0.0.1:{server.port}") as client:
        assert (server.port, server.rest_api_port) == ports
        assert client.predict(ROW)["click"].tolist() == [[2.0]]


def test_a_stop_waits_for_what_the_model_computes_though_nobody_waits_for_it_any_more(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.local_server._GRACE_SECONDS", 0.1)
    write_odd_model(tmp_path / "models")
    server = LocalServer(tmp_path / "models", "odd").start()
    with ThreadPoolExecutor(2) as pool, Client(f"127.0.0.1:{server.port}", "odd", timeout=30) as client:
        asked = pool.submit(client.predict, {"path": [str(tmp_path / "slow")]}, "wait")
        wait_until((tmp_path / "slow.started").exists)
        stopped = pool.submit(server.stop)
        assert isinstance(asked.exception(), ServingError)
        assert not stopped.done()
        (tmp_path / "slow.go").touch()
        assert stopped.result(30) is None


def test_an_interrupt_while_it_starts_leaves_no_server(model, monkeypatch):
    server, threads = LocalServer(model), []

    def interrupted(ready, *_):
        threads.append(server._thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("serving.local_server.Future.result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            server.start()
    threads[0].join(60)
    assert not threads[0].is_alive()
    with server, Client(f"127.0.0.1:{server.port}") as client:
        assert client.predict(ROW)["click"].tolist() == [[2.0]]


def test_two_servers_in_one_process(model, tmp_path, caplog):
    write_tiny_model(tmp_path, 7, scale=7.0)
    with LocalServer(model) as one, LocalServer(tmp_path) as other, ThreadPoolExecutor(4) as pool:

        def ask(server):
            with Client(f"127.0.0.1:{server.port}") as client:
                return {client.predict(ROW, "click")["click"].item() for _ in range(50)}

        answers = list(pool.map(ask, [one, other, one, other]))
    assert answers == [{2.0}, {7.0}, {2.0}, {7.0}]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_ipv6(model):
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with LocalServer(model, host="::1") as server, Client(f"[::1]:{server.rest_api_port}", protocol="rest") as client:
        assert client.predict(ROW, "click")["click"].tolist() == [[2.0]]
