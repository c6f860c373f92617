"""Does a task lose by being learned with others: differences, intervals and verdicts by hand."""

import re

import matplotlib
import numpy as np
import pytest

import mtl_layers as mtl

matplotlib.use("Agg")
import matplotlib.pyplot as plt

pytestmark = pytest.mark.once

T_3 = 3.182446  # the 97.5 % quantile of Student's t with 3 degrees of freedom, from a table
MULTI = {"click": [0.70, 0.71, 0.72, 0.71], "buy": [0.80, 0.81, 0.79, 0.80], "watch": [5.0, 5.1, 4.9, 5.0]}
SINGLE = {"watch": [5.5, 5.7, 5.4, 5.6], "click": [0.73, 0.74, 0.74, 0.75], "buy": [0.80, 0.80, 0.80, 0.80]}


def test_each_task_is_compared_seed_by_seed():
    click, buy, watch = mtl.analysis.negative_transfer(MULTI, SINGLE, lower_is_better=["watch"])
    assert [each["task"] for each in (click, buy, watch)] == ["click", "buy", "watch"]
    # Differences of -.03, -.03, -.02, -.04: mean -.03, standard deviation sqrt(.0002 / 3).
    half = T_3 * np.sqrt(0.0002 / 3) / 2
    assert click["difference"] == pytest.approx(-0.03) and click["seeds"] == 4
    assert (click["low"], click["high"]) == pytest.approx((-0.03 - half, -0.03 + half), rel=1e-5)
    assert (click["multi"], click["single"]) == pytest.approx((0.71, 0.74))
    assert click["verdict"] == "negative transfer"
    assert buy["difference"] == pytest.approx(0, abs=1e-12) and buy["verdict"] == "undecided"
    assert watch["difference"] == pytest.approx(0.55) and watch["verdict"] == "positive transfer"  # a smaller error


def test_a_constant_difference_is_certain():
    multi, single = {"a": [0.5, 0.75]}, {"a": [0.25, 0.5]}
    (record,) = mtl.analysis.negative_transfer(multi, single)
    assert record["low"] == record["high"] == 0.25 and record["verdict"] == "positive transfer"


def test_the_figure_has_a_point_and_an_interval_for_each_task():
    records = mtl.analysis.negative_transfer(MULTI, SINGLE, ["watch"])
    figure, axes = plt.subplots()
    mtl.analysis.plot_negative_transfer(records, axes, "audit")
    for place, (record, drawn) in enumerate(zip(records, axes.containers, strict=True)):
        point, _, (bar,) = drawn.lines
        assert (point.get_xdata()[0], point.get_ydata()[0]) == (record["difference"], place)
        np.testing.assert_allclose(bar.get_segments()[0][:, 0], [record["low"], record["high"]])
    assert [drawn.lines[0].get_color() for drawn in axes.containers] == ["tab:red", "grey", "tab:blue"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["click", "buy", "watch"]
    assert axes.get_title() == "audit"
    plt.close(figure)


@pytest.mark.parametrize(
    ("multi", "single", "lower", "text"),
    [
        ({"a": [1, 2]}, {"b": [1, 2]}, (), "must be dicts with the same tasks; received: multi=['a'], single=['b']"),
        ([1], {"b": [1, 2]}, (), "must be dicts with the same tasks; received: multi=[1], single=['b']"),
        ({"a": [1, 2]}, {"a": [1, 2]}, "watch", "`lower_is_better` must name tasks among ['a']; received: ['watch']"),
        ({"a": [1, 2]}, {"a": [1, 2]}, ["b"], "`lower_is_better` must name tasks among ['a']; received: ['b']"),
        ({"a": [1]}, {"a": [1]}, (), "must have two seeds or more for each task, the same for both; received: 'a' wi"),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, (), "received: 'a' with shapes (2,) and (3,)"),
        ({"a": [1, np.nan]}, {"a": [1, 2]}, (), "must be finite; received: 'a' with"),
    ],
)
def test_metrics_that_cannot_be_compared_are_refused(multi, single, lower, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        mtl.analysis.negative_transfer(multi, single, lower)
