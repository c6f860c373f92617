"""How alike tasks are and how much a route lets them share, as numbers and as figures that show them."""

import re

import matplotlib
import numpy as np
import pytest

import mtl_layers as mtl
from mtl_layers.analysis import GateUtilisation

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Layer 2: 0 <- 0, 1 <- 1 + 2 (query 3), 2 <- 3, 3 <- 0 + 1 (unused); towers 0 <- 0 + 2 (query 0), 1 <- 1.
DEEP = mtl.Route(2, 2, 4, [((0,), None), ((1, 2), 3), ((3,), None), ((0, 1), 2), ((0, 2), 0), ((1,), None)])


@pytest.fixture
def pair():
    figure, axes = plt.subplots(1, 2)
    yield axes
    plt.close(figure)


def numbers(axes):
    """What the colours of a heat map stand for; NaN is an empty cell."""
    (image,) = axes.images
    return np.ma.filled(image.get_array().astype(float), np.nan)


def texts(axes):
    """The numbers written into the cells, by (row, column)."""
    return {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}


def ticks(axes):
    return [[label.get_text() for label in each.get_ticklabels()] for each in (axes.yaxis, axes.xaxis)]


# --------------------------------------------------------------------------------------------------------- correlation


def test_the_correlation_is_pearsons_over_rows_with_both_labels(rng):
    click, watch, noise = rng.normal(size=(3, 50))
    buy = (click + noise > 0).astype("float32")
    labels = {"click": click, "buy": buy[:, None].copy(), "watch": watch}
    labels["buy"][:10] = np.nan
    labels["watch"][5:20] = np.nan
    found = mtl.analysis.label_correlation(labels)
    assert found.shape == (3, 3) and found.dtype == np.float64
    np.testing.assert_allclose(np.diag(found), 1.0)
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(found[0, 1], np.corrcoef(click[10:], buy[10:])[0, 1])
    np.testing.assert_allclose(
        found[0, 2], np.corrcoef(np.r_[click[:5], click[20:]], np.r_[watch[:5], watch[20:]])[0, 1]
    )
    np.testing.assert_allclose(found[1, 2], np.corrcoef(buy[20:], watch[20:])[0, 1])


def test_by_hand_it_is_the_phi_coefficient_of_two_binary_labels():
    # 4 of 10 rows have both, 1 only the first, 2 only the second: (10 * 4 - 5 * 6) / sqrt(5 * 5 * 6 * 4).
    first, second = [1] * 5 + [0] * 5, [1] * 4 + [0] + [1] * 2 + [0] * 3
    found = mtl.analysis.label_correlation({"a": first, "b": second})
    assert found[0, 1] == pytest.approx(10 / np.sqrt(600))


def test_a_label_of_one_value_correlates_with_nothing():
    labels = {"a": [0, 1, 0, np.nan], "always": [1, 1, 1, 1], "elsewhere": [np.nan, np.nan, np.nan, 3.0]}
    found = mtl.analysis.label_correlation(labels)
    assert found[0, 0] == pytest.approx(1) and np.isnan(found).sum() == 8


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([1, 2], "`labels` must be a dict from task names to arrays; received: labels=[1, 2]"),
        ({}, "`labels` must be a dict from task names to arrays; received: labels={}"),
        ({"a": np.ones((3, 2))}, "`labels` must be [rows] or [rows, 1]; received: 'a' with shape=(3, 2)"),
        ({"a": 1.0}, "`labels` must be [rows] or [rows, 1]; received: 'a' with shape=()"),
        ({"a": [1, 0], "b": [1]}, "`labels` must have as many rows for each task; received: {'a': 2, 'b': 1}"),
        ({"a": [1, np.inf]}, "`labels` must be finite, or NaN where one is missing; received: 'a' with infinity"),
    ],
)
def test_labels_that_make_no_sense_are_refused(labels, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        mtl.analysis.label_correlation(labels)


# ------------------------------------------------------------------------------------------------------------- overlap


@pytest.mark.parametrize(
    ("route", "overlap"),
    [
        (mtl.Route.shared_bottom(2, 3, 4), 1.0),
        (mtl.Route.mmoe(2, 2, 4), 1.0),
        (mtl.Route.no_sharing(2, 2, 3), 0.0),
        (mtl.Route(2, 1, 3, [((0, 1), None), ((1, 2), None)]), 1 / 3),
        # Task 0 reaches 0 and 3, then 0 and 2; task 1 reaches 1, 2 and 3 (a query), then 1.
        (DEEP, 1 / 7),
    ],
)
def test_the_overlap_is_what_two_tasks_reach_in_common(route, overlap):
    found = mtl.analysis.sharing_overlap(route)
    np.testing.assert_allclose(found, [[1.0, overlap], [overlap, 1.0]])


def test_only_a_route_has_an_overlap():
    with pytest.raises(ValueError, match=r"`route` must be a mtl\.Route; received: route='full'"):
        mtl.analysis.sharing_overlap("full")


# ------------------------------------------------------------------------------------------------------------- figures


def test_the_figure_shows_correlation_and_overlap(pair):
    labels = {"click": [1, 1, 0, 0, 1], "buy": [1, 0, 0, np.nan, 1]}
    mtl.analysis.plot_task_relations(labels, DEEP, pair)
    left, right = pair
    np.testing.assert_allclose(numbers(left), mtl.analysis.label_correlation(labels))
    np.testing.assert_allclose(numbers(right), mtl.analysis.sharing_overlap(DEEP))
    assert left.images[0].get_clim() == (-1, 1) and right.images[0].get_clim() == (0, 1)
    assert ticks(left) == ticks(right) == [["click", "buy"]] * 2
    assert texts(right) == {(0, 0): "1", (0, 1): "0.14", (1, 0): "0.14", (1, 1): "1"}
    assert [axes.get_title() for axes in pair] == ["label correlation", "sub-networks shared"]


def test_an_undefined_correlation_is_an_empty_cell(pair):
    mtl.analysis.plot_task_relations({"a": [0, 1], "b": [1, 1]}, DEEP, pair)
    np.testing.assert_allclose(numbers(pair[0]), [[1, np.nan], [np.nan, np.nan]])
    assert texts(pair[0]) == {(0, 0): "1"}


def test_labels_of_other_tasks_are_refused(pair):
    with pytest.raises(
        ValueError, match=re.escape("`labels` must have one entry for each of 2 tasks; received: ['a']")
    ):
        mtl.analysis.plot_task_relations({"a": [0, 1]}, DEEP, pair)


UTILISATION = GateUtilisation(
    mean=np.array([[0.9, 0.08, 0.02], [0.0, 0.003, 0.997]]),
    std=np.zeros((2, 3)),
    read=np.array([[True, True, True], [False, True, True]]),
)


def test_the_figure_shows_small_weights_beside_zeros(pair):
    mtl.analysis.plot_gates_beside_route(UTILISATION, DEEP, pair, ["click", "buy"])
    left, right = pair
    np.testing.assert_allclose(numbers(left), [[0.9, 0.08, 0.02], [np.nan, 0.003, 0.997]])
    np.testing.assert_array_equal(numbers(right), [[1, 0, 1, 0], [0, 1, 0, 0]])
    assert texts(left)[1, 1] == "0.003" and (1, 0) not in texts(left) and texts(right)[1, 0] == "0"
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0, 1)
    assert ticks(left) == [["click", "buy"], ["0", "1", "2"]]
    assert ticks(right) == [["click", "buy"], ["0", "1", "2", "3"]]


def test_below_the_last_layer_the_readers_are_sub_networks(pair):
    mtl.analysis.plot_gates_beside_route(UTILISATION, DEEP, pair, layer=1)
    # Sub-network 3 of layer 2 is reached by no task, and so selects nothing.
    np.testing.assert_array_equal(numbers(pair[1]), [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    assert ticks(pair[0])[0] == ["gate 0", "gate 1"]
    assert ticks(pair[1])[0] == [f"sub-network {number}" for number in range(4)]


def test_without_names_the_tasks_are_numbered(pair):
    mtl.analysis.plot_gates_beside_route(UTILISATION, DEEP, pair)
    assert ticks(pair[0])[0] == ticks(pair[1])[0] == ["task 0", "task 1"]


@pytest.mark.parametrize("layer", [0, 3, -1, "1"])
def test_a_layer_that_is_not_there_is_refused(pair, layer):
    with pytest.raises(ValueError, match=f"`layer` must be from 1 to 2; received: layer={layer!r}"):
        mtl.analysis.plot_gates_beside_route(UTILISATION, DEEP, pair, layer=layer)


@pytest.mark.parametrize(("names", "layer", "rows"), [(["a"], None, 2), (["a", "b", "c"], None, 2), (["a", "b"], 1, 4)])
def test_names_must_be_as_many_as_readers(pair, names, layer, rows):
    text = re.escape(f"`names` must be one for each of {rows} rows")
    with pytest.raises(ValueError, match=text):
        mtl.analysis.plot_gates_beside_route(UTILISATION, DEEP, pair, names, layer)
