"""KerasTuner over the arguments of PLE: the example runs two trials on a twentieth of the data."""

from importlib.util import find_spec

import pytest
from example_run import needs_census, run_example

pytestmark = [
    pytest.mark.once,
    pytest.mark.needs_tensorflow,
    needs_census,
    pytest.mark.skipif(find_spec("keras_tuner") is None, reason="pip install keras-tuner"),
]


def test_the_best_trial_has_the_highest_sum_of_validation_aucs(tmp_path):
    _, report = run_example("keras_tuner_ple.py", tmp_path)
    first, second = report["trials"]
    assert 2 > first["auc"] >= second["auc"] > 1
    assert first["hyperparameters"] != second["hyperparameters"]
    assert set(first["hyperparameters"]) == {"units", "num_levels", "num_task_experts", "num_shared_experts"}
    assert sum(report["test"].values()) == pytest.approx(first["auc"], abs=0.1)

    chosen, width = first["hyperparameters"], 39 * 8
    experts = 2 * chosen["num_task_experts"] + chosen["num_shared_experts"]
    dense = chosen["units"] * (width + 1) + (chosen["num_levels"] - 1) * chosen["units"] * (chosen["units"] + 1)
    assert report["parameters"] > experts * dense  # what was built is what the trial says, and tables and gates beside
