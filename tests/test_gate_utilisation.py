"""What gates do over a data set, against NumPy."""

import matplotlib
import numpy as np
import pytest

import mtl_layers as mtl
from mtl_layers._keras import keras, ops

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def model_with(sharing, tasks=("a", "b")):
    inputs = keras.Input((6,), name="x")
    below = keras.layers.Dense(5, activation="relu")(inputs)
    return keras.Model(inputs, mtl.Towers(dict.fromkeys(tasks, (4,)))(sharing(below)))


def gate_by_hand(layer, level, hidden, gate, reads):
    start = sum(len(r) for r in reads[:gate])
    kernel = layer.gate_levels[level].get_weights()[0][:, start : start + len(reads[gate])]
    scores = hidden @ kernel
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("sizes", [(40,), (7, 32, 1)])
def test_mean_and_deviation_over_batches_equal_numpy_over_all_rows(rng, sizes):
    sharing = mtl.CGC(2, (2, 1), 1, (3,))
    model = model_with(sharing)
    x = rng.normal(size=(sum(sizes), 6)).astype("float32")
    batches = np.split(x, np.cumsum(sizes)[:-1])
    (level,) = mtl.analysis.gate_utilisation(model, [(batch, None) for batch in batches])
    below = keras.Model(model.input, sharing.input)
    hidden = ops.convert_to_numpy(below(x))
    reads = [(0, 1, 3), (2, 3)]
    for gate in range(2):
        weights = gate_by_hand(sharing, 0, hidden, gate, reads)
        np.testing.assert_allclose(level.mean[gate, list(reads[gate])], weights.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(level.std[gate, list(reads[gate])], weights.std(axis=0), atol=1e-6)
    np.testing.assert_array_equal(level.read, [[True, True, False, True], [False, False, True, True]])
    assert np.all(level.mean[~level.read] == 0) and np.all(level.std[~level.read] == 0)


def test_there_is_an_entry_for_every_level(rng):
    model = model_with(mtl.PLE(2, 3, 1, 1, (4,)))
    levels = mtl.analysis.gate_utilisation(model, rng.normal(size=(9, 6)).astype("float32"))
    assert [level.mean.shape for level in levels] == [(3, 3), (3, 3), (2, 3)]
    for level in levels:
        np.testing.assert_allclose(level.mean.sum(axis=1), 1, atol=1e-6)


def test_a_supernet_and_its_static_form_show_the_gates_of_the_most_likely_route(rng):
    route = mtl.Route(2, 2, 3, [((0, 2), 1), ((1,), None), ((0, 1), 0), ((0, 1), 1), ((0,), None)])
    supernet = mtl.RouteSupernet(2, 2, 3, 4)
    model = model_with(supernet)
    for weight in supernet.trainable_weights:
        weight.assign(rng.normal(size=tuple(weight.shape)).astype("float32"))
    supernet.set_route(route)
    x = rng.normal(size=(9, 6)).astype("float32")
    lower, upper = mtl.analysis.gate_utilisation(model, [x[:4], x[4:]])
    np.testing.assert_array_equal(lower.read, [[True, False, True], [False, True, False], [True, True, False]])
    np.testing.assert_array_equal(upper.read, [[True, True, False], [True, False, False]])
    below = keras.Model(model.input, supernet.input)
    weights = [ops.convert_to_numpy(level) for level in supernet.gate_weights(below(x))]
    for level, expected in zip((lower, upper), weights, strict=True):
        np.testing.assert_allclose(level.mean, expected.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(level.std, expected.std(axis=0), atol=1e-6)
        assert (level.mean[~level.read] == 0).all() and level.std.max() > 0.01
    figure, axes = plt.subplots()
    mtl.analysis.plot_gate_utilisation(upper, ["a", "b"], axes)
    np.testing.assert_allclose(sorted(p.get_height() for p in axes.patches), sorted(upper.mean[upper.read]))
    plt.close(figure)

    static = supernet.to_static()  # without sub-network 2 of layer 2, which nobody reaches, and the gate before it
    levels = mtl.analysis.gate_utilisation(with_the_layers_of(model, static), x)
    np.testing.assert_allclose(levels[0].mean, lower.mean[:2], atol=1e-6)
    np.testing.assert_allclose(levels[1].mean, upper.mean[:, :2], atol=1e-6)


def with_the_layers_of(model, sharing):
    """The same layer below, another sharing layer, and towers of any kind."""
    return keras.Model(model.input, mtl.Towers({"a": (), "b": ()})(sharing(model.layers[1].output)))


def test_the_figure_has_a_bar_for_every_expert_that_is_read(rng):
    model = model_with(mtl.CGC(2, (2, 1), 1, (3,)))
    (level,) = mtl.analysis.gate_utilisation(model, rng.normal(size=(9, 6)).astype("float32"))
    figure, axes = plt.subplots()
    mtl.analysis.plot_gate_utilisation(level, ["a", "b"], axes, "title", ["own 1", "own 2", "b's", "shared"])
    heights = sorted(patch.get_height() for patch in axes.patches)
    np.testing.assert_allclose(heights, sorted(level.mean[level.read]))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["own 1", "own 2", "b's", "shared"]
    assert axes.get_title() == "title"
    plt.close(figure)


def test_entropy_is_that_of_shares_whatever_the_weights_sum_to(rng):
    mean = np.array([[0.4] * 5, [2, 0, 0, 0, 0], [1.5, 0.5, 0, 0, 0], [0] * 5])
    level = mtl.analysis.GateUtilisation(mean, np.zeros((4, 5)), np.ones((4, 5), bool))
    mixed = np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    np.testing.assert_allclose(level.effective_experts, [5, 1, mixed, 1])

    model = model_with(mtl.AdaTT(2, 1, (2,), (1,), ((4,),)))
    x = rng.normal(size=(9, 6)).astype("float32")
    (level,) = mtl.analysis.gate_utilisation(model, x)
    np.testing.assert_allclose(level.mean.sum(axis=1), 2, rtol=1e-5)
    below = keras.Model(model.input, model.layers[-2].input)
    (weights,) = (ops.convert_to_numpy(each) for each in model.layers[-2].gate_weights(below(x)))
    np.testing.assert_allclose(level.entropy, -(weights / 2 * np.log(weights / 2)).sum(axis=-1).mean(axis=0), rtol=1e-4)


def test_the_figure_cuts_no_bar_and_no_whisker_off():
    read, figure = np.ones((1, 2), bool), plt.figure()
    for mean, std, limits in (([0.7, 0.3], 0.1, (0, 1)), ([1.5, 0.5], 0.2, (0, 1.7)), ([2.2, -0.2], 0.0, (-0.2, 2.2))):
        axes = figure.add_subplot()
        level = mtl.analysis.GateUtilisation(np.array([mean]), np.full((1, 2), std), read)
        mtl.analysis.plot_gate_utilisation(level, ["a"], axes)
        assert axes.get_ylim() == pytest.approx(limits)
    plt.close(figure)


@pytest.mark.parametrize("rows", [[], np.zeros((0, 6), "float32"), [np.zeros((0, 6), "float32")] * 2])
def test_no_rows_are_refused(rows):
    with pytest.raises(ValueError, match="`data` must have at least one row; received: none"):
        mtl.analysis.gate_utilisation(model_with(mtl.MMoE(2, 2, (3,))), rows)


def test_a_batch_without_rows_is_passed_over(rng):
    model, x = model_with(mtl.MMoE(2, 2, (3,))), rng.normal(size=(5, 6)).astype("float32")
    (expected,) = mtl.analysis.gate_utilisation(model, x)
    (found,) = mtl.analysis.gate_utilisation(model, [x[:0], x, x[:0]])
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.std, expected.std)


def test_a_tuple_and_a_tensor_are_one_batch(rng):
    model, x = model_with(mtl.MMoE(2, 2, (3,))), rng.normal(size=(5, 6)).astype("float32")
    (expected,) = mtl.analysis.gate_utilisation(model, x)
    for data in ((x, np.ones(5)), (x, {"a": np.ones(5)}, None), ops.convert_to_tensor(x)):
        (found,) = mtl.analysis.gate_utilisation(model, data)
        np.testing.assert_array_equal(found.mean, expected.mean)


def test_a_dataset_is_taken_on_any_backend(rng):
    tf = pytest.importorskip("tensorflow")
    model, x = model_with(mtl.MMoE(2, 2, (3,))), rng.normal(size=(5, 6)).astype("float32")
    (expected,) = mtl.analysis.gate_utilisation(model, x)
    (found,) = mtl.analysis.gate_utilisation(model, tf.data.Dataset.from_tensor_slices((x, x)).batch(2))
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6)


def test_a_frozen_model_has_no_gates_to_report():
    model = mtl.freeze(model_with(mtl.MMoE(2, 2, (3,))))
    with pytest.raises(ValueError, match="`model` must have a sharing layer with gates; received: FrozenMixture"):
        mtl.analysis.gate_utilisation(model, np.zeros((1, 6), "float32"))
