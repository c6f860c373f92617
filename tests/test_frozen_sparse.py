"""Sparse sharing, frozen: the same numbers, each distinct dense layer once, parts shared with what is frozen again."""

import json

import numpy as np
import pytest
from cpp_loader import CppModel
from reference import array

import mtl_layers as mtl
import serving
from mtl_layers._keras import keras, ops

TASKS = {"like_comment": (3,), "like": mtl.towers.MultiClass(3, (3,)), "also": mtl.towers.Regression(())}
NAMES = tuple(TASKS)
DIM, UNITS = 5, (4, 4)
FIRST, SECOND = (DIM + 1) * 4, (4 + 1) * 4  # weights of the dense layers, with biases


def masks(rng, *kinds):
    """Masks of three tasks: for each layer a letter per task, "-" for no weight; the same letter is the same mask."""
    made = []
    for fan_in, kind in zip((DIM, 4), kinds, strict=True):
        each = {letter: rng.random((fan_in, 4)) < 0.6 for letter in sorted(set(kind))}
        each["-"] = np.zeros((fan_in, 4), bool)
        made.append(np.stack([each[letter] for letter in kind]))
    return made


def built(rng, *kinds, shape=(DIM,), **kwargs):
    layer = mtl.SparseSharing(3, UNITS, activation="tanh", **kwargs)
    layer.build((None, *shape))
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(size=tuple(weight.shape)))
    layer.set_masks(masks(rng, *kinds))
    return layer


def model_of(layer):
    inputs = keras.Input((6,))
    below = keras.layers.Dense(DIM, name="below")(inputs)
    return keras.Model(inputs, mtl.Towers(TASKS, dropout=0.1)(layer(below)))


def arrays(outputs):
    return [ops.convert_to_numpy(output) for output in outputs]


@pytest.mark.parametrize("kinds", [("abc", "abc"), ("aba", "aab"), ("aaa", "aaa"), ("aba", "a-b")])
@pytest.mark.parametrize("shape", [(DIM,), (3, DIM)])
def test_frozen_for_any_tasks_in_any_order_it_gives_the_same_numbers(rng, kinds, shape):
    layer = built(rng, *kinds, shape=shape)
    x = rng.normal(size=(4, *shape)).astype("float32")
    expected = array(layer(x))
    everything = layer.freeze()
    for tasks in ((0, 1, 2), (2, 0), (1,)):
        again = [tasks.index(task) for task in reversed(tasks)]
        for frozen, order in (
            (layer.freeze(tasks), tasks),
            (everything.freeze(tasks), tasks),
            (layer.freeze(tasks).freeze(again), tasks[::-1]),
        ):
            found = arrays(frozen(x))
            assert [tuple(shape) for shape in frozen.compute_output_shape(x.shape)] == [(4, 4)] * len(tasks)
            for task, values in zip(order, found, strict=True):
                np.testing.assert_allclose(values, expected[:, task], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kinds", "tasks", "dense"),
    [
        (("aaa", "aaa"), None, (1, 1)),  # hard sharing: one network
        (("abc", "abc"), None, (3, 3)),
        (("abc", "abc"), (1,), (1, 1)),
        (("aba", "aab"), None, (2, 2)),
        (("aba", "aab"), (0, 1), (2, 1)),  # one mask on two inputs: stored once
        (("aaa", "a-b"), None, (1, 2)),
        (("aaa", "a-b"), (1,), (1, 0)),  # a task that ends below
    ],
)
def test_a_mask_that_several_tasks_have_is_stored_once(rng, kinds, tasks, dense):
    layer = built(rng, *kinds)
    for frozen in (layer.freeze(tasks), layer.freeze().freeze(tasks)):
        assert frozen.count_params() == dense[0] * FIRST + dense[1] * SECOND
        assert frozen.inventory() == {"dense layers": sum(dense)}


@pytest.mark.parametrize(
    ("kinds", "first", "second"),
    [
        (("aaa", "aaa"), 1, 1),
        (("aba", "aab"), 2, 3),  # tasks 0 and 1 have one mask in the second layer, and another input
        (("aab", "abb"), 2, 3),
        (("aab", "aab"), 2, 2),
    ],
)
def test_tasks_whose_masks_agree_up_to_a_layer_are_computed_once_up_to_there(rng, kinds, first, second):
    report = mtl.freeze(model_of(built(rng, *kinds))).freeze_report.layers[0]
    assert report.multiply_adds == (3 * (DIM * 4 + 4 * 4), first * DIM * 4 + second * 4 * 4)
    assert report.inventory["dense layers"][0] == 6


def test_merged_tasks_equal_unmerged_ones_to_the_bit(rng):
    layer = built(rng, "aab", "aab")
    x = rng.normal(size=(4, DIM)).astype("float32")
    together = arrays(layer.freeze()(x))
    for task in range(3):
        np.testing.assert_array_equal(arrays(layer.freeze([task])(x))[0], together[task])


@pytest.mark.parametrize("kinds", [("aba", "aab"), ("aba", "a-b")])
def test_a_frozen_model_predicts_as_its_source(rng, kinds):
    model = model_of(built(rng, *kinds, dropout=0.2))
    x = rng.normal(size=(3, 6)).astype("float32")
    expected = model(x)
    frozen = mtl.freeze(model)
    known = {id(variable) for variable in frozen.variables}
    for names in (NAMES, ("like",), ("also", "like_comment")):
        again = mtl.freeze(frozen, names)
        assert {id(variable) for variable in again.variables} <= known
        for each in (mtl.freeze(model, names), again):
            found = each(x)
            assert list(found) == list(names)
            for name in names:
                np.testing.assert_allclose(array(found[name]), array(expected[name]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("names", [None, ("also", "like")])
@pytest.mark.parametrize("times", [1, 2])
def test_a_frozen_model_is_saved_and_loaded_to_the_bit(rng, tmp_path, names, times):
    frozen = model_of(built(rng, "aba", "a-b"))
    for _ in range(times):
        frozen = mtl.freeze(frozen, names)
    frozen.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    x = rng.normal(size=(4, 6)).astype("float32")
    before, after = frozen(x), loaded(x)
    assert list(before) == list(after) == list(names or NAMES)
    for name in before:
        np.testing.assert_array_equal(array(after[name]), array(before[name]))


@pytest.mark.needs_tensorflow
def test_exported_each_signature_holds_its_own_dense_layers_and_predicts_the_same(rng, tmp_path):
    model = model_of(built(rng, "aba", "a-b"))
    path = serving.export(model, tmp_path, verbose=False)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["parameters"] == 6 * DIM + DIM + 2 * FIRST + 2 * SECOND + 5 * 3 + 4 * 1 + 5 * 3 + 4 * 3 + 5
    counts = {name: signature["multiply_adds"] for name, signature in manifest["signatures"].items()}
    assert counts["like_comment"] == 6 * DIM + DIM * 4 + 4 * 4 + 4 * 3 + 3
    assert counts["like"] == 6 * DIM + DIM * 4 + 4 * 3 + 3 * 3  # this task ends after the first layer
    x = rng.normal(size=(3, 6)).astype("float32")
    expected = model(x)
    with CppModel(str(path)) as loaded:
        for name in NAMES:
            answer = loaded.run(name, {model.input.name: x})
            np.testing.assert_allclose(answer[name], array(expected[name]), rtol=1e-6, atol=1e-6)


def test_a_stack_of_two_is_frozen_at_the_top(rng):
    inputs = keras.Input((6,))
    below, above = mtl.SparseSharing(3, UNITS), mtl.SparseSharing(3, UNITS)
    model = keras.Model(inputs, mtl.Towers(TASKS)(above(below(inputs))))
    above.set_masks([rng.random(mask.shape) < 0.6 for mask in above.get_masks()])
    below.set_masks([rng.random(mask.shape) < 0.6 for mask in below.get_masks()])
    x = rng.normal(size=(3, 6)).astype("float32")
    found = mtl.freeze(mtl.freeze(model), ["also"])(x)
    np.testing.assert_allclose(array(found["also"]), array(model(x)["also"]), rtol=1e-6, atol=1e-6)


def test_frozen_in_mixed_precision_it_computes_in_bfloat16(rng):
    layer = built(rng, "aba", "aab", dtype="mixed_bfloat16")
    x = rng.normal(size=(4, DIM)).astype("float32")
    frozen = layer.freeze()
    assert all("float32" in str(weight.dtype) for weight in frozen.weights)
    for task, values in enumerate(frozen(x)):
        assert "bfloat16" in str(values.dtype)
        expected = array(ops.cast(layer(x)[:, task], "float32"))
        np.testing.assert_allclose(array(ops.cast(values, "float32")), expected, atol=0.05)


def test_tasks_that_are_not_there_are_refused(rng):
    layer = built(rng, "aba", "aab")
    for frozen in (layer, layer.freeze()):
        with pytest.raises(ValueError, match="`tasks` must be distinct indexes below 3, or None for all; received: "):
            frozen.freeze([3])
