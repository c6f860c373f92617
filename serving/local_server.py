"""`mtl-serve`: a model server for development and tests that speaks TensorFlow Serving's gRPC and REST."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from serving.server.start_checks import address, check_loaded, check_path, check_port_free, port_error

_LOG = logging.getLogger(__name__)
_WORKERS = 32  # requests that run at once; TensorFlow's own thread pools share the cores among them
_GRACE_SECONDS = 10.0


class LocalServer:
    """Serves the newest version of a SavedModel over gRPC and REST until stopped.

    The same requests work against TensorFlow Serving, which is what to run in production: it batches, and it does not
    share a Python interpreter among requests. New version directories are picked up while running; a request ends on
    the version it started with. A batch without rows is refused here: TensorFlow Serving answers it, but not where it
    pads batches, as with `allowed_batch_sizes`. Where the last version directory is removed, this server serves on, and
    TensorFlow Serving unloads the model: keep one there.

    Args:
        model_base_path: the directory that holds the version directories `1`, `2`, ...
        model_name: the model's name in requests, `"model"` by default.
        port: gRPC port; 0, the default, lets the system choose. The attribute holds the real one after `start`.
        rest_api_port: REST port, likewise.
        host: address to listen on, `"127.0.0.1"` by default: this machine only.
        file_system_poll_wait_seconds: seconds between two looks for new versions, 1.0 by default.

    Raises (from `start` and `serve`):
        FileNotFoundError: `model_base_path` does not exist.
        ValueError: it holds no version that can be loaded, or a port is out of range.
        OSError: a port is in use or may not be used.

    Example:

    >>> with LocalServer("models/ctr", "ctr") as server:
    ...     Client(f"127.0.0.1:{server.port}", "ctr").predict({"age": [31.0]})
    {'ctr': array([[0.18]], dtype=float32)}
    """

    def __init__(
        self,
        model_base_path,
        model_name="model",
        port=0,
        rest_api_port=0,
        host="127.0.0.1",
        file_system_poll_wait_seconds=1.0,
    ):
        if file_system_poll_wait_seconds <= 0:
            raise ValueError(
                "`file_system_poll_wait_seconds` must be positive; "
                f"received: file_system_poll_wait_seconds={file_system_poll_wait_seconds}"
            )
        self.model_base_path = Path(model_base_path)
        self.model_name = model_name
        self.port = port
        self.rest_api_port = rest_api_port
        self.host = host
        self.file_system_poll_wait_seconds = file_system_poll_wait_seconds
        self._thread = None
        self._stop = None

    def start(self):
        """Starts serving in a thread of its own, and returns when requests are answered."""
        if self._thread is not None:
            raise RuntimeError("`start` must be called once; this server is running")
        ready = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="mtl-serve", daemon=True)
        self._thread.start()
        try:
            self._stop = ready.result()
        except BaseException:  # an interrupt, too: what is then still starting stops as soon as it has
            ready.add_done_callback(lambda done: done.exception() or done.result()())
            if ready.done():
                self._thread.join()
            self._thread = None
            raise
        return self

    def stop(self):
        """Stops taking requests, and returns when those that run have ended and all is closed.

        Whoever waits for an answer gets an error after 10 seconds; what the model computes for it cannot be broken off.
        """
        if self._thread is not None:
            self._stop()
            self._thread.join()
            self._thread = self._stop = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    async def serve(self, stopping, on_ready):
        """Serves in the running event loop until the `asyncio.Event` `stopping` is set.

        `on_ready` is called without arguments once requests are answered.
        """
        check_path(self.model_base_path)
        check_port_free(self.host, self.port, "port")
        check_port_free(self.host, self.rest_api_port, "rest_api_port")
        # TensorFlow takes seconds to import: not before the mistakes above are told, and not for --help
        from serving.server.model_versions import ModelVersions

        versions = ModelVersions(self.model_name, self.model_base_path)
        await asyncio.to_thread(versions.poll)
        try:
            check_loaded(versions)
            with ThreadPoolExecutor(_WORKERS, "mtl-serve-request") as pool:
                await self._listen(versions, pool, stopping, on_ready)
        finally:
            versions.close()

    async def _listen(self, versions, pool, stopping, on_ready):
        import grpc
        from aiohttp import web
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        from serving.server.model_service import ModelService
        from serving.server.prediction_service import PredictionService
        from serving.server.rest_api import RestApi

        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # else two servers share a port without a word
        ]
        server = grpc.aio.server(options=options)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(versions, pool), server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(versions), server)
        runner = web.AppRunner(RestApi(versions, pool).application(), access_log=None, shutdown_timeout=_GRACE_SECONDS)
        await runner.setup()
        try:
            try:
                self.port = server.add_insecure_port(address(self.host, self.port))
            except RuntimeError as error:
                raise port_error(self.host, self.port, "port", error) from error
            await server.start()
            try:
                await web.TCPSite(runner, self.host, self.rest_api_port).start()
            except OSError as error:
                raise port_error(self.host, self.rest_api_port, "rest_api_port", error) from error
            self.rest_api_port = runner.addresses[0][1]
            if not stopping.is_set():
                on_ready()
            await self._watch(versions, stopping)
        finally:
            await asyncio.gather(server.stop(_GRACE_SECONDS), runner.cleanup())

    async def _watch(self, versions, stopping):
        while not stopping.is_set():
            try:
                await asyncio.wait_for(stopping.wait(), self.file_system_poll_wait_seconds)
            except TimeoutError:
                try:
                    await asyncio.to_thread(versions.poll)
                except OSError:  # a directory that changes under our eyes, or a file system that is away
                    _LOG.exception("cannot look for new versions in %s", self.model_base_path)

    def _run(self, ready):
        async def serve():
            loop, stopping = asyncio.get_running_loop(), asyncio.Event()
            await self.serve(stopping, lambda: ready.set_result(lambda: loop.call_soon_threadsafe(stopping.set)))

        try:
            asyncio.run(serve())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)


def main(arguments=None):
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="mtl-serve", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--model_base_path", required=True, help="directory that holds the version directories 1, 2, ..."
    )
    parser.add_argument("--model_name", default="model", help="name of the model in requests (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8500, help="gRPC port, 0: any (default: %(default)s)")
    parser.add_argument("--rest_api_port", type=int, default=8501, help="REST port, 0: any (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--file_system_poll_wait_seconds",
        type=float,
        default=1.0,
        help="seconds between two looks for new versions (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it calls the loader of TensorFlow Serving deprecated
    try:
        asyncio.run(_serve_until_signal(LocalServer(**vars(options))))
    except (OSError, ValueError) as error:
        print(f"mtl-serve: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve_until_signal(server):
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)

    def say_ready():
        rest = address(server.host, server.rest_api_port)
        grpc = address(server.host, server.port)
        print(f"mtl-serve: model {server.model_name} ready: gRPC on {grpc}, REST on http://{rest}", flush=True)

    await server.serve(stopping, say_ready)


if __name__ == "__main__":
    sys.exit(main())
