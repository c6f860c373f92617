"""Feature crosses of keras-rs under PLE: the example runs on a twentieth of the data, and its export is served."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from cpp_loader import CppModel
from example_run import needs_census, run_example

pytestmark = [
    pytest.mark.once,
    pytest.mark.needs_tensorflow,
    needs_census,
    pytest.mark.skipif(find_spec("keras_rs") is None, reason="pip install keras-rs"),
]


def test_crosses_and_ple_train_are_saved_exported_and_served(tmp_path):
    _, report = run_example("keras_rs_ple.py", tmp_path)
    assert report["auc"]["never_married"] > 0.9 and report["auc"]["income"] > 0.6
    assert report["gap"] < 1e-6
    width = 39 * 8
    assert report["parameters_of_crosses"] == [2 * width * 32 + width] * 2
    with CppModel(report["version"]) as model:
        assert set(model.signatures) == {"serving_default", "examples", "income", "never_married"}
    signatures = json.loads((Path(report["version"]) / "manifest.json").read_text())["signatures"]
    # A task's signature has the crosses, and not the other's experts, gates and tower.
    assert 4 * width * 32 < signatures["income"]["multiply_adds"] < signatures["serving_default"]["multiply_adds"]
