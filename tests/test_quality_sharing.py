"""What searched routes share, in numbers worked by hand, and the program that says it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent.parent))
from benchmarks.quality.sharing import chance, left_out, main, pairs
from mtl_layers.sharing import Route

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]

APART, TOGETHER = Route.no_sharing(2, 1, 3), Route.shared_bottom(2, 1, 3)


def test_pairs_have_the_correlation_of_their_labels_and_the_mean_overlap_of_their_routes():
    labels = {"click": np.array([1.0, 1, 0, 0]), "buy": np.array([1.0, 0, 0, np.nan]), "all": np.ones(4)}
    (click_buy, click_all, buy_all) = pairs(labels, {}, (3, 1, 3))
    assert [pair["tasks"] for pair in (click_buy, click_all, buy_all)] == [
        ["click", "buy"],
        ["click", "all"],
        ["buy", "all"],
    ]
    assert click_buy["correlation"] == pytest.approx(0.5)
    assert click_all["correlation"] is None  # one value only
    (pair,) = pairs(dict(list(labels.items())[:2]), {"search": {0: APART, 1: TOGETHER}}, (2, 1, 3))
    # The overlaps 0 and 1: sd .7071, and Student's t of one degree of freedom is 12.706.
    assert pair["shared"]["search"] == pytest.approx([0.5, 12.706 * 0.5], rel=1e-4)


def test_two_tasks_of_random_routes_share_five_ninths_of_two_subnetworks():
    # Of the nine pairs of subsets three are equal, four overlap in one of two, two are apart: (3 + 4 / 2) / 9.
    assert chance(2, 1, 2) == pytest.approx(5 / 9, abs=0.02)


def test_what_a_task_leaves_out_of_the_last_layer():
    wide = Route(2, 1, 3, [((0, 1, 2), None), ((0, 2), None)])
    assert left_out({"search": {0: wide, 1: wide}}) == {"search": [0.5, 0.0]}


def test_a_quick_run_writes_numbers_tables_and_figures(tmp_path):
    name = "synthetic:p=1.0,d=12,m=2"
    settings = {"learning_rate": 1e-3, "dropout": 0.0, "l2": 0.0}
    rows = []
    for method, route in {"mmoe": None, "mtnas": APART, "mtnas_recipe": TOGETHER}.items():
        key = {"dataset": name, "method": method, "settings": settings, "quick": False, "width": 4}
        key |= {"validation": {"summed_loss": 1.0}, "kinds": {"first": "regression", "second": "regression"}}
        key["extra"] = {"route": route.to_json()} if route else {}
        rows += [{**key, "phase": "tuning", "seed": -1}, {**key, "phase": "final", "seed": 0}]
    # The ablation's tuning is that of another row.
    rows.append({**rows[0], "method": "full_route"})
    (tmp_path / "synthetic.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    main(["synthetic", "--results", str(tmp_path), "--quick"])
    found = json.loads((tmp_path / "sharing.json").read_text())[name]
    (pair,) = found["pairs"]
    assert pair["correlation"] > 0.99
    assert pair["shared"] == {"MTNAS (paper)": [0.0, 0.0], "MTNAS (recipe)": [1.0, 0.0]}
    weights = [weight for weight, _ in found["gate_weights"]]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(1.0, abs=1e-6)
    assert f"| {name}: first, second | 1.00 |" in (tmp_path / "sharing.md").read_text()
    assert all((tmp_path / picture).stat().st_size > 5_000 for picture in ("sharing.png", "routes.png"))
