"""The rows scored so far, kept so that a killed run can go on."""

import fcntl
import json
import os
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from serving.scoring.output_file import refuse_existing

_START_OVER = "throw away what was scored and start over: pass --restart (restart=True)"


class PartFiles:
    """Collects a table part by part in `OUTPUT.partial/` and publishes it under its final name in one step.

    A part is written under a temporary name, flushed to disk and renamed, and its name says which rows it holds: what a
    kill leaves behind is a whole number of parts, and the next run goes on after the last one. A small state file pins
    what the parts were made from; other parts are refused, and so is a second process on the same output.

    Args:
        output: Path of the final file.
        schema: `pyarrow.Schema` of the rows.
        identity: JSON-able dict of everything that the rows depend on.
        write: Function of (path, schema, iterator of tables) that writes the final file.
        overwrite: Whether an existing final file may be replaced. Defaults to False.
        restart: Whether parts that an earlier run has finished are thrown away. Defaults to False.

    Attributes:
        rows: Number of rows in finished parts.

    Raises:
        FileExistsError: If `output` exists and `overwrite` is not set.
        RuntimeError: If another process works on the same output.
        ValueError: If the parts found were made from something else.

    Example:
        >>> with PartFiles("scores.parquet", table.schema, {"input": "x.parquet"}, write_parquet) as parts:
        ...     parts.add(table.slice(parts.rows))
        ...     parts.publish()
    """

    def __init__(self, output, schema, identity, write, overwrite=False, restart=False):
        self.output = Path(output)
        self.schema = schema
        self.identity = identity
        self.write = write
        self.overwrite = overwrite
        self.restart = restart
        self.directory = self.output.with_name(self.output.name + ".partial")
        self.rows = 0
        self._parts = []
        self._lock = None
        self._published = False

    def __enter__(self):
        refuse_existing(self.output, self.overwrite)
        with self._disk_errors():
            self.directory.mkdir(exist_ok=True)
            self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take_lock()
            refuse_existing(self.output, self.overwrite)
            for left_over in self.directory.glob("*.tmp"):
                left_over.unlink()
            self._parts = sorted(self.directory.glob("rows-*.arrow"))
            if self.restart:
                self._remove_parts()
            self._compare_state()
            self._count_rows()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(self, kind, error, traceback):
        if not self.rows and not self._published:  # nothing worth keeping
            self._remove()
        os.close(self._lock)

    def add(self, table):
        """Keeps a `pyarrow.Table` of the next rows; they are safe from a kill once this returns."""
        path = self.directory / f"rows-{self.rows:012d}-{self.rows + len(table):012d}.arrow"
        with self._disk_errors(), _complete_file(path) as unfinished:
            _write_part(unfinished, table)
        self.rows += len(table)
        self._parts.append(path)

    def publish(self):
        """Joins the parts into the final file, renames it into place and removes the parts."""
        with self._disk_errors(), _complete_file(self.output, self.directory / "joined.tmp") as unfinished:
            self.write(unfinished, self.schema, map(_read_part, self._parts))
            refuse_existing(self.output, self.overwrite)
        self._remove()
        self._published = True

    def _remove(self):
        self._remove_parts()
        # The lock goes last: until then no other process can begin in this directory, and after it rmdir fails if one
        # did.
        for name in ("state.json", "lock"):
            (self.directory / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.directory.rmdir()

    def _remove_parts(self):
        # From the last one on: a kill in between leaves parts from the first row on, which a next run can go on with.
        while self._parts:
            self._parts.pop().unlink(missing_ok=True)

    def _take_lock(self):
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A scorer that finished between our open and our lock took the directory away.
            taken = os.path.samestat(os.fstat(self._lock), os.stat(self.directory / "lock"))
        except (BlockingIOError, FileNotFoundError):
            taken = False
        if not taken:
            raise RuntimeError(f"Another process is scoring into '{self.output}'; wait for it or choose another output")

    def _compare_state(self):
        path = self.directory / "state.json"
        if not self._parts:  # what nothing was made from binds nobody
            with self._disk_errors(), _complete_file(path) as unfinished:
                unfinished.write_text(json.dumps(self.identity, indent=1), encoding="utf-8")
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"'{self.directory}' holds parts without state.json; {_START_OVER}") from None
        wanted = json.loads(json.dumps(self.identity))  # tuples become lists
        changes = [
            f"{key} was {found.get(key)!r} and is {wanted.get(key)!r}"
            for key in sorted(found.keys() | wanted.keys())
            if found.get(key) != wanted.get(key)
        ]
        if changes:
            raise ValueError(
                f"'{self.directory}' was begun with something else: {'; '.join(changes)}. Go on with what it was begun "
                f"with, or {_START_OVER}"
            )

    def _count_rows(self):
        for part in self._parts:
            _, first, end = part.stem.split("-")
            if int(first) != self.rows:
                raise ValueError(f"'{self.directory}' lacks the part from row {self.rows}; {_START_OVER}")
            self.rows = int(end)

    @contextmanager
    def _disk_errors(self):
        try:
            yield
        except FileExistsError:
            raise
        except OSError as error:
            kept = f"the {self.rows} rows finished so far are kept" if self.rows else "nothing was kept"
            raise OSError(
                f"Cannot write '{self.output}': {error}; {kept}. Free some space or mend the cause, and run the same "
                "command again (without --restart)"
            ) from error


@contextmanager
def _complete_file(path, unfinished=None):
    """Yields a temporary path, and puts the file written there in place only when it is on the disk."""
    unfinished = unfinished or path.with_name(path.name + ".tmp")
    try:
        yield unfinished
        _flush(unfinished)
        unfinished.replace(path)
        _flush(path.parent)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_part(path, table):
    # The stream format, because it lets the dictionaries of a column differ from batch to batch.
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def _read_part(path):
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        return reader.read_all()
