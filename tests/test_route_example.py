"""The route-search example runs from raw rows to an exported route, on a twentieth of the data."""

import json

import pytest
from example_run import needs_census, run_example
from route_reference import gate_multiply_adds

import mtl_layers as mtl

pytestmark = [
    pytest.mark.once,
    pytest.mark.needs_tensorflow,
    needs_census,
]


def test_a_route_is_searched_drawn_frozen_and_exported(tmp_path):
    printed, report = run_example("route_search.py", tmp_path)
    route = mtl.Route.from_json((tmp_path / "route.json").read_text())
    assert str(route) in printed
    assert json.loads(route.to_json()) == report["route"]
    for figure in ("route.png", "sharing.png"):
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")
    assert "what freezing the searched model removed:\nlayer " in printed
    scores = {name: sum(each.values()) for name, each in report["validation"].items()}
    assert report["chosen"] == max(scores, key=scores.get)
    assert report["test"]["never_married"] > 0.8
    assert len(report["search"]["search_reward"]) == 20 and report["search"]["search_entropy"][0] > 2.7  # of 15

    for task, index in (("income", 0), ("never_married", 1)):
        below, above = map(len, route.reached([index]))
        dense = below * 39 * 8 * 64 + above * 64 * 64 + 64 * 32 + 32
        assert report["signatures"][task]["multiply_adds"] == dense + gate_multiply_adds(route, [index], 64, "mean")
