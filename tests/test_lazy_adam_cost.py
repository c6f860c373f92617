"""The script that measures what large tables cost runs, and reports ratios of what it measured."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent))
from benchmarks import lazy_adam_cost

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]


def test_ratios_are_of_the_medians(tmp_path, capsys):
    lazy_adam_cost.main(["--quick", "--output", str(tmp_path / "cost.json")])
    report = json.loads((tmp_path / "cost.json").read_text())
    assert json.loads(capsys.readouterr().out) == report
    (seconds,) = report["seconds"].values()
    assert list(seconds) == ["adam", "lazy_adam", "sgd"]
    assert report["ratio"]["10000_rows"]["lazy_adam"] == pytest.approx(seconds["lazy_adam"] / seconds["adam"])
    assert report["setting"]["looked_up"] == 7680
