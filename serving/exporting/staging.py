"""A directory in which a version is written before it is published."""

import fcntl
import os
import re
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME = re.compile(r"\.[0-9]+-unfinished-[a-z0-9_]{8}")  # as `mkdtemp` makes it here, and nobody by hand
_SETTLED_SECONDS = 60.0  # between making a directory and locking it no writer takes as long


@contextmanager
def staging_directory(directory, version):
    """Yields a new directory in `directory`, whose name is no version's, and removes what is left of it afterwards.

    What exports left behind that were killed is removed, too: a living one holds the lock of its directory.
    """
    for path in Path(directory).iterdir():
        if _NAME.fullmatch(path.name):
            with suppress(OSError):  # gone by now, or another user's
                _remove_if_dead(path)
    staging = Path(tempfile.mkdtemp(prefix=f".{version}-unfinished-", dir=directory))
    try:
        staging.chmod(0o755)  # mkdtemp's 0700 would lock out a server that runs as another user
        with _lock(staging):
            yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _remove_if_dead(path):
    if path.is_dir() and time.time() - path.stat().st_mtime > _SETTLED_SECONDS:
        with _lock(path) as is_ours:
            if is_ours:
                shutil.rmtree(path)


@contextmanager
def _lock(path):
    """Yields whether the lock could be had: not if another has it, or where a file system has none."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = True
    except OSError:
        is_ours = False
    try:
        yield is_ours
    finally:
        os.close(descriptor)
