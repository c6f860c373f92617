"""The TFRS example trains, saves, exports and scores, and TensorFlow Serving's own loader gives the same scores."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cpp_loader import CppModel
from example_run import run_example

TASKS = ["like", "rating"]

pytestmark = [
    pytest.mark.once,
    pytest.mark.needs_tensorflow,
    pytest.mark.skipif(find_spec("recbole") is None, reason="the data: pip install --no-deps recbole==1.2.1"),
    pytest.mark.skipif(
        find_spec("tensorflow_recommenders") is None, reason="pip install tensorflow-recommenders==0.7.7"
    ),
]


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    output = tmp_path_factory.mktemp("tfrs")
    return output, *run_example("tfrs_movielens.py", output)


def test_both_ranking_tasks_learn_and_what_is_scored_is_what_was_evaluated(example):
    _, printed, report = example
    assert report["auc"] > 0.6 and report["rmse"] < 1.2
    assert report["evaluated"]["rating_rmse"] == pytest.approx(report["rmse"], abs=1e-4)
    assert report["evaluated"]["like_auc"] == pytest.approx(report["auc"], abs=0.01)  # Keras' AUC is binned
    assert f"AUC of likes {report['auc']:.4f}, RMSE of stars {report['rmse']:.4f}" in printed


def test_the_export_runs_in_the_cpp_loader_and_gives_the_scored_table(example):
    output, _, report = example
    rows, scored = pq.read_table(output / "test.parquet"), pq.read_table(output / "scored.parquet")
    assert scored.column_names == ["user_id", "item_id", *TASKS] and scored.num_rows == rows.num_rows == 2000
    features = {}
    for name in rows.column_names:
        values = np.array(rows[name].slice(0, 50).to_pylist(), object if name != "age" else "float32")
        features[name] = values if values.ndim == 2 else values[:, None]
    assert features["genres"].shape == (50, 6)
    with CppModel(report["version"]) as model:
        assert set(model.signatures) == {"serving_default", "examples", *TASKS}
        together = model.run("serving_default", features)
        alone = {task: model.run(task, features) for task in TASKS}
    for task in TASKS:
        np.testing.assert_allclose(together[task][:, 0], scored[task].to_numpy()[:50], atol=1e-5)
        np.testing.assert_allclose(alone[task][task], together[task], atol=1e-6)
        assert list(alone[task]) == [task] and together[task].std() > 0


def test_each_task_is_exported_without_the_others_gate_and_tower(example):
    signatures = json.loads((Path(example[2]["version"]) / "manifest.json").read_text())["signatures"]
    gate, mixture, tower = 7 * 16 * 4, 4 * 32, 32 * 16 + 16
    for task in TASKS:
        fewer = signatures["serving_default"]["multiply_adds"] - signatures[task]["multiply_adds"]
        assert fewer == gate + mixture + tower
