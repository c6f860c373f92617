"""Finished runs as JSON lines in a file: appended whole, and found again by what was run."""

import json
import os
from pathlib import Path

KEY = ("dataset", "method", "phase", "seed", "settings", "quick")


class Records:
    """The runs of a file.

    A run that was killed while it wrote leaves half a line at the end: it is cut off when the file is opened. Anything
    else that is no JSON is an error.

    Args:
        path: The file; it and its folder are made when the first run is added.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.rows = []
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                self.rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                message = f"{self.path}, line {number}, is no JSON; remove the line to run it again: {error}"
                raise SystemExit(message) from error

    def find(self, **key):
        """All runs with these entries."""
        return [row for row in self.rows if all(row[name] == value for name, value in key.items())]

    def add(self, row):
        """Appends a run, in one write."""
        missing = [name for name in KEY if name not in row]
        if missing:
            raise ValueError(f"`row` must have the entries {list(KEY)}; missing: {missing}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)
