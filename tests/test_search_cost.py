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
    for name, seconds in report["seconds"].items():
        for side, value in seconds.items():
            assert report["ratio"][name][side] == pytest.approx(value / seconds["ml_mmoe"])
    steps = report["seconds"]["step_above_embeddings"]
    assert list(steps) == ["ml_mmoe", "supernet", "search", "search_4_routes"]
    assert steps["search"] > steps["supernet"]  # scoring comes on top of training
    megabytes = report["peak_megabytes"]
    table = 3 * 4 * 100_000 * 10 / 2**20  # embeddings and the two moments of Adam
    assert min(megabytes.values()) > table
    assert report["memory_ratio"] == pytest.approx(megabytes["search"] / megabytes["ml_mmoe"])
    assert report["setting"]["steps"] == 10
