"""The versions of a model: directories named by a number."""

import re
from pathlib import Path

MAX_VERSION = 2**63 - 1  # TensorFlow Serving holds a version in an int64
_VERSION_NAME = re.compile(r"[0-9]{1,19}")  # anything else, such as a temporary name, is no version


def find_versions(base_path):
    """Returns the version directories in `base_path` as a dict of version to path."""
    if not Path(base_path).is_dir():
        return {}
    found = {
        int(p.name): p for p in sorted(Path(base_path).iterdir()) if _VERSION_NAME.fullmatch(p.name) and p.is_dir()
    }
    return {version: path for version, path in found.items() if version <= MAX_VERSION}
