"""The scripts that measure the balancings run, and report what they say they report."""

import json

import pytest
from example_run import needs_census, run_benchmark

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]
NAMES = ["plain", "decaying", "uncertainty", "average", "grad_norm", "pc_grad"]


def test_costs_are_backward_passes_of_a_plain_step(tmp_path):
    printed = run_benchmark("balancing_cost", "--output", tmp_path / "cost.json")
    cases = json.loads((tmp_path / "cost.json").read_text())["cases"]
    assert [(case["tasks"], case["embeddings"]) for case in cases] == [(2, False), (2, True)]
    for case in cases:
        seconds = case["seconds"]
        assert list(case["backward_passes"]) == NAMES and case["backward_passes"]["plain"] == 1
        for name, passes in case["backward_passes"].items():
            rest = (seconds[name] - seconds["forward"]) / (seconds["plain"] - seconds["forward"])
            assert passes == pytest.approx(rest)
        assert seconds["pc_grad"] > seconds["forward"]  # no closer pair: other programs may run beside this one
    assert printed.count("| 2.3 |") == 2


@needs_census
def test_every_balancing_trains_on_census(tmp_path):
    printed = run_benchmark("balancing", "--output", tmp_path)
    report = json.loads((tmp_path / "balancing_census.json").read_text())
    assert list(report["runs"]) == NAMES
    for name, (only,) in report["runs"].items():
        assert f"| {name} |" in printed and only["seed"] == 0
        for part in ("validation", "test"):
            assert set(only[part]) == {"income", "never_married"} and 0.5 < only[part]["never_married"] < 1
        weights = only["weights"]
        assert len(weights["income"]) == len(weights["never_married"]) == 2
        together = weights["income"] + weights["never_married"]
        if name == "pc_grad":  # so few steps may be without a conflict
            assert min(together) >= 1 - 1e-6
        else:
            assert (name == "plain") == (set(together) == {1.0})
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(NAMES) and all(
        "--epochs 2 --rows 4000" in text for text in (printed, report["command"])
    )
    gap = report["runs"]["plain"][0]["test_loss"] - report["runs"]["pc_grad"][0]["test_loss"]
    assert f"| {gap:+.4f} |" in lines[-1]
    assert printed.strip() in (tmp_path / "balancing_census.md").read_text()
    assert (tmp_path / "balancing_census.png").read_bytes().startswith(b"\x89PNG")
