"""A training that is killed in the middle of epochs, and goes on from its backup, ends as one that was not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import LEGACY
from killed_training import EPOCHS, STEPS

PROGRAM = Path(__file__).parent / "killed_training.py"

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """What the program prints, and what the uninterrupted training and the one killed three times ended with."""
    directory = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1" if LEGACY else "0", "TF_NUM_INTRAOP_THREADS": "1"}
    command = [sys.executable, str(PROGRAM), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed 0" in done.stdout, done.stdout + done.stderr
    both = [dict(np.load(directory / f"{name}.npz")) for name in ("uninterrupted", "interrupted")]
    return done.stdout.splitlines(), *both


def test_it_was_killed_in_the_middle_of_every_epoch_but_the_first(trainings):
    first, *kills, last = trainings[0]
    assert (first, last) == ("uninterrupted 0", "resumed 0")
    points = [tuple(map(int, line.split()[1:])) for line in kills]
    assert [epoch for epoch, _, _ in points] == [*range(1, EPOCHS)]
    assert all(batch < STEPS and code == signal.SIGKILL for epoch, batch, code in points)


def test_weights_routes_masks_and_loss_weights_are_equal_to_the_bit(trainings):
    _, uninterrupted, interrupted = trainings
    assert uninterrupted["epochs"].tolist() == list(range(EPOCHS))
    assert interrupted.pop("epochs").tolist() == [EPOCHS - 1]  # killed last in the last epoch: only that one came again
    del uninterrupted["epochs"]
    assert set(interrupted) == set(uninterrupted)
    for name, expected in uninterrupted.items():
        np.testing.assert_array_equal(interrupted[name], expected, err_msg=name)


def test_all_of_them_had_moved(trainings):
    found = trainings[1]
    assert np.abs(found["policy"]).max() > 0 and np.abs(found["probabilities"] - 0.5).max() > 0.01
    assert found["loss_weights"].sum() == pytest.approx(2, abs=1e-5) and np.ptp(found["loss_weights"]) > 1e-4
    assert 0 < found["masks"].mean() < 1
    assert np.abs(found["search_optimizer_2"]).max() > 0 and len(found) > 50
