"""Which version of a model serves: watches a directory, loads what is new, retires what is old."""

import logging
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from serving.op_text import op_text
from serving.request_error import RequestError
from serving.server.servable import Servable
from serving.server.warmup_replay import replay_warmup
from serving.versions import find_versions

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class VersionStatus:
    """One line of GetModelStatus: `state` is LOADING, AVAILABLE, UNLOADING or END."""

    version: int
    state: str
    error_code: str = "OK"
    error_message: str = ""


@dataclass
class _Loaded:
    version: int
    servable: Servable
    users: int = 0
    retired: bool = False


class ModelVersions:
    """Serves the newest version directory that loads; thread-safe.

    As TensorFlow Serving does by default, it keeps one version loaded, and loads the next one before it lets the old
    one go. An old version is closed when its last request has ended. A version that fails to load stays in `statuses`
    with its error while the old one serves on, and is tried again when its files change.

    Args:
        name: the model's name in requests.
        base_path: the directory that holds the version directories `1`, `2`, ...

    Example:

    >>> versions = ModelVersions("ctr", "models/ctr")
    >>> versions.poll()
    >>> with versions.lease("ctr") as (version, servable):
    ...     servable.predict({"age": ages})
    """

    def __init__(self, name, base_path):
        self.name = name
        self.base_path = Path(base_path)
        self._lock = threading.Lock()
        self._current = None
        self._statuses = {}
        self._failed = {}

    @property
    def current_version(self):
        """The version that serves, or None."""
        current = self._current
        return current and current.version

    def statuses(self):
        """All versions seen, as a list of `VersionStatus` by ascending version."""
        with self._lock:
            return [self._statuses[version] for version in sorted(self._statuses)]

    def poll(self):
        """Looks once at the directory, and returns when the newest loadable version serves.

        A version whose directory was removed gives way to the newest one left; the last one serves on.
        """
        found = find_versions(self.base_path)
        for version in sorted(found, reverse=True):
            if version == self.current_version:
                return
            stamp = _stamp(found[version])
            if self._failed.get(version) != stamp:
                servable = self._load(version, found[version])
                if servable is not None:
                    self._failed.pop(version, None)
                    self._publish(_Loaded(version, servable))
                    return
                self._failed[version] = stamp

    @contextmanager
    def lease(self, name, version=None):
        """Gives `(version, servable)`, which stay loaded until the block ends.

        Args:
            name: name of the model in the request.
            version: version in the request; by default the one that serves.

        Raises:
            RequestError: NOT_FOUND for another model, or a version that is not loaded.
        """
        with self._lock:
            loaded = self._current
            if name != self.name or loaded is None or version not in (None, loaded.version):
                wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                has = f"version {loaded.version} of {self.name}" if loaded else "no version"
                raise RequestError("NOT_FOUND", f"Servable not found for request: {wanted}; this server has: {has}")
            loaded.users += 1
        try:
            yield loaded.version, loaded.servable
        finally:
            with self._lock:
                loaded.users -= 1
                idle = loaded.retired and loaded.users == 0
            if idle:
                self._close(loaded)

    def close(self):
        """Retires the version that serves."""
        self._publish(None)

    def _load(self, version, path):
        self._set(VersionStatus(version, "LOADING"))
        servable = None
        try:
            servable = Servable(path)
            count = replay_warmup(servable, path)
        except Exception as error:  # whatever a broken model raises, the server stays up and says so
            if servable is not None:
                servable.close()
            code = "NOT_FOUND" if isinstance(error, OSError) else "INTERNAL"
            text = op_text(getattr(error, "message", "") or str(error)) or type(error).__name__
            self._set(VersionStatus(version, "END", code, text))
            _LOG.error("version %d of model %s cannot be loaded from %s: %s", version, self.name, path, text)
            return None
        _LOG.info("version %d of model %s is loaded; %d warm-up requests were run", version, self.name, count)
        return servable

    def _publish(self, loaded):
        with self._lock:
            old, self._current = self._current, loaded
            if loaded is not None:
                self._statuses[loaded.version] = VersionStatus(loaded.version, "AVAILABLE")
            if old is not None:
                old.retired = True
                self._statuses[old.version] = VersionStatus(old.version, "UNLOADING")
            idle = old is not None and old.users == 0
        if idle:
            self._close(old)

    def _close(self, loaded):
        loaded.servable.close()
        with self._lock:
            status = self._statuses[loaded.version]
            if status.state == "UNLOADING":  # the same version may be loading again
                self._statuses[loaded.version] = replace(status, state="END")
        _LOG.info("version %d of model %s is unloaded", loaded.version, self.name)

    def _set(self, status):
        with self._lock:
            self._statuses[status.version] = status


def _stamp(path):
    stats = [(p, p.stat()) for p in sorted(path.rglob("*")) if p.is_file()]
    return [(str(p), s.st_size, s.st_mtime_ns) for p, s in stats]
