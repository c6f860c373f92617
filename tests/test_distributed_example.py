"""Two devices, and two processes, train as one does: the example runs on a twentieth of the data."""

import numpy as np
import pytest
from example_run import needs_census, run_example

pytestmark = [
    pytest.mark.once,
    pytest.mark.needs_tensorflow,
    needs_census,
]


def test_two_devices_and_two_workers_train_as_one(tmp_path):
    printed, report = run_example("distributed.py", tmp_path)
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
    assert printed.count("weights equal on both: True") == 2
