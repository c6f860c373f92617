"""The script that measures what a search step costs runs, and reports ratios of what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]


def test_ratios_are_of_the_medians(tmp_path):
    command = [sys.executable, "-m", "benchmarks.search_cost", "--quick", "--output", str(tmp_path / "cost.json")]
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "cost.json").read_text())
    seconds = report["training_seconds"]
    assert list(seconds) == ["ml_mmoe", "supernet", "search", "search_4_routes"]
    for name, value in seconds.items():
        assert report["training_ratio"][name] == pytest.approx(value / seconds["ml_mmoe"])
    assert seconds["search"] > seconds["supernet"]  # scoring comes on top of training
    assert report["steps"] == 10
