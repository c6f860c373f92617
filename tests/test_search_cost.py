"""The script that measures what a search step costs runs, and reports ratios of what it measured."""

import json

import pytest
from example_run import run_benchmark

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]


def test_ratios_are_of_the_medians(tmp_path):
    run_benchmark("search_cost", "--output", tmp_path / "cost.json")
    report = json.loads((tmp_path / "cost.json").read_text())
    for name, seconds in report["seconds"].items():
        for side, value in seconds.items():
            assert report["ratio"][name][side] == pytest.approx(value / seconds["ml_mmoe"])
    steps = report["seconds"]["step_above_embeddings"]
    assert list(steps) == ["ml_mmoe", "supernet", "search", "search_4_routes", "search_mean", "search_mean_4_routes"]
    assert steps["search"] > steps["supernet"]  # scoring comes on top of training
    megabytes = report["peak_megabytes"]
    table = 3 * 4 * 100_000 * 10 / 2**20  # embeddings and the two moments of Adam
    assert min(megabytes.values()) > table
    assert report["memory_ratio"] == pytest.approx(megabytes["search"] / megabytes["ml_mmoe"])
    assert report["setting"]["steps"] == 10
