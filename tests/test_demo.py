"""The demo runs from raw rows to scores, on a twentieth of the data."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_run import needs_census, run_example

EXAMPLES = Path(__file__).parent.parent / "examples"
TASKS = ["income", "never_married"]

pytestmark = [
    pytest.mark.once,
    pytest.mark.needs_tensorflow,
    needs_census,
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo")
    return output, *run_example("census_income.py", output)


def test_the_table_holds_every_architecture(demo):
    _, printed, report = demo
    assert list(report["results"]) == ["Single-task pair", "Shared-Bottom", "MMoE", "PLE"]
    for name, row in report["results"].items():
        assert 180_000 < row["parameters"] < 220_000  # matched
        for part in ("validation", "test"):
            assert row[part]["never_married"] > 0.9
            assert row[part]["income"] > 0.6
        assert f"{row['test']['income']:.4f}" in printed and name in printed


def test_the_choice_is_made_on_validation(demo):
    report = demo[2]
    sums = {name: sum(report["results"][name]["validation"].values()) for name in ("Shared-Bottom", "MMoE", "PLE")}
    assert report["chosen"] == max(sums, key=sums.get)


def test_the_scored_table_is_the_evaluated_one(demo):
    output, _, report = demo
    scored = pq.read_table(output / "scored.parquet")
    assert scored.column_names == ["row", *TASKS]
    assert scored["row"].to_pylist() == list(range(report["rows"]["test"]))
    for task in TASKS:
        assert abs(report["scored_auc"][task] - report["results"][report["chosen"]]["test"][task]) < 1e-6
        for protocol in ("grpc", "rest"):
            np.testing.assert_allclose(
                report["answers"][protocol][task], scored[task].to_numpy()[:5].astype("float64"), atol=1e-6
            )


def test_a_task_costs_less_than_all(demo):
    signatures = demo[2]["signatures"]
    for task in TASKS:
        assert signatures[task]["multiply_adds"] < signatures["serving_default"]["multiply_adds"]


def test_the_figure_is_drawn_from_weights_that_sum_to_one(demo):
    output, _, report = demo
    assert (output / "gates.png").read_bytes().startswith(b"\x89PNG")
    for numbers in report["gates"].values():
        np.testing.assert_allclose(np.sum(numbers["mean"], axis=1), 1, atol=1e-5)
        assert np.min(numbers["std"]) >= 0
