"""Whether a supernet ranks routes as training from scratch does: the program and its arithmetic."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent.parent))
from benchmarks.quality.route_ranking import main, summary

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]


def test_a_quick_run_ranks_the_ready_made_and_the_drawn_routes(tmp_path):
    out = tmp_path / "ranking.jsonl"
    sizes = ["--routes", "1", "--seeds", "2", "--supernets", "1", "--epochs", "2"]
    arguments = ["--dataset", "synthetic:d=12,m=2", "--quick", "--no-input-layer", *sizes, "--out", str(out)]
    main(arguments)
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["names"] == ["full", "shared bottom", "no sharing", "drawn 0"]
    (supernet,) = found["supernets"]
    assert np.shape(supernet["losses"]) == (2, 4)
    assert np.isfinite(supernet["losses"]).all()
    assert all(-1 <= rank <= 1 for rank in supernet["rank_correlation"])
    assert out.with_suffix(".png").stat().st_size > 5_000
    said = out.with_suffix(".md").read_text()
    assert f"between routes {found['sd_between_routes']:.4f}" in said
    assert "| 0 | " in said and "![synthetic:d=12,m=2](ranking.png)" in said and "--no-input-layer`" in said
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["method"], row["seed"]) for row in rows[1:]] == [
        (name, seed) for seed in (0, 1) for name in found["names"]
    ]
    before = out.read_text()
    main(arguments)  # everything is there already
    assert out.read_text() == before


def test_the_summary_of_losses_worked_by_hand():
    alone = {"a": (1.0, 3.1), "b": (2.0, 4.0), "c": (3.0, 4.9)}
    rows = [
        {"method": name, "phase": "alone", "seed": seed, "loss": loss}
        for name, losses in alone.items()
        for seed, loss in enumerate(losses)
    ]
    epochs = [{"a": 9.0, "b": 8.0, "c": 7.0}, {"a": 1.0, "b": 2.0, "c": 3.0}]
    rows.append({"method": "supernet", "phase": "shared", "seed": 0, "losses": epochs})
    found = summary(list(alone), rows)
    # Less the seeds' means of 2 and 4: a = (-1, -.9), b = (0, 0), c = (1, .9).
    assert found["alone_minus_seed_mean"] == pytest.approx([-0.95, 0.0, 0.95])
    assert found["sd_between_seeds"] == pytest.approx(np.sqrt((0.005 + 0.0 + 0.005) / 3))
    assert found["sd_between_routes"] == pytest.approx(np.sqrt(0.95**2 - 0.01 / 3 / 2))
    assert found["rank_correlation_of_half_the_seeds_with_the_other"] == pytest.approx(1.0)
    (supernet,) = found["supernets"]
    assert supernet["rank_correlation"] == pytest.approx([-1.0, 1.0])
    assert supernet["best_epoch"] == 1
