"""Towers: names, kinds, grouping, and what is left of them when they are frozen."""

import json

import numpy as np
import pytest
import reference

import mtl_layers as mtl
from mtl_layers._keras import ops

kinds = mtl.towers
# The beginning of another's name, and an order that is not the alphabet's.
TASKS = {"like": (4,), "watch": kinds.Regression((4,)), "like_comment": (4,), "device": kinds.MultiClass(3, ())}


def built(tasks, width=5, **kwargs):
    layer = mtl.Towers(tasks, **kwargs)
    layer.build((None, len(tasks), width))
    reference.randomise(layer, np.random.default_rng(0))
    return layer


def numbers(outputs):
    return {name: ops.convert_to_numpy(value) for name, value in outputs.items()}


def test_a_tower_reads_its_own_slice_and_no_other(rng):
    layer = built(TASKS)
    x = rng.normal(size=(6, 4, 5)).astype("float32")
    before = numbers(layer(x))
    for index, name in enumerate(TASKS):
        changed = x.copy()
        changed[:, index] += 1.0
        after = numbers(layer(changed))
        assert [task for task in TASKS if np.abs(after[task] - before[task]).max() > 1e-6] == [name]


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7])
def test_predictions_do_not_depend_on_the_batch(rng, batch):
    # Batches as large as a group of towers are among them: axes that are mistaken for each other show there.
    layer = built(TASKS)
    x = rng.normal(size=(7, 4, 5)).astype("float32")
    whole, part = numbers(layer(x)), numbers(layer(x[:batch]))
    for name in TASKS:
        np.testing.assert_allclose(part[name], whole[name][:batch], atol=1e-6)


def test_outputs_are_probabilities_or_numbers(rng):
    outputs = numbers(built(TASKS)(100 * rng.normal(size=(50, 4, 5)).astype("float32")))
    assert list(outputs) == list(TASKS)
    for name in ("like", "like_comment"):
        assert outputs[name].min() >= 0 and outputs[name].max() <= 1
    np.testing.assert_allclose(outputs["device"].sum(axis=-1), 1, atol=1e-5)
    assert outputs["watch"].min() < -1 and outputs["watch"].max() > 1


@pytest.mark.needs_tensorflow
def test_towers_of_one_shape_are_one_matmul_per_layer():
    import tensorflow as tf

    layer = built({**TASKS, "share": (4,)})
    graph = tf.function(lambda x: layer(x)).get_concrete_function(tf.TensorSpec([None, 5, 5])).graph
    products = [operation for operation in graph.get_operations() if "MatMul" in operation.type]
    assert len(products) == 2 + 1  # hidden and heads of the four like shapes, the heads of the classes


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_predictions_and_weights_are_float32_under_mixed_precision(policy, rng):
    layer = built(TASKS, dtype=policy)
    for value in numbers(layer(rng.normal(size=(2, 4, 5)).astype("float32"))).values():
        assert value.dtype == np.float32
    assert {getattr(weight.dtype, "name", weight.dtype) for weight in layer.weights} == {"float32"}


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_scores_are_not_rounded_to_bfloat16(rng, policy):
    layer = built({"click": (8,), "watch": mtl.towers.Regression(())}, dtype=policy)
    x = rng.normal(size=(2000, 2, 5)).astype("float32")
    frozen = layer.freeze()([x[:, 0], x[:, 1]])
    for found in (numbers(layer(x)), numbers(frozen)):
        for value in found.values():
            assert len(np.unique(value)) > 1900  # bfloat16 has 128 numbers between 0.5 and 1


def test_dropout_is_for_training_only(rng):
    layer = built({"a": (32,), "b": (32,)}, dropout=0.5)
    x = rng.normal(size=(8, 2, 5)).astype("float32")
    calm, wild = numbers(layer(x, training=False)), numbers(layer(x, training=True))
    np.testing.assert_array_equal(calm["a"], numbers(layer(x))["a"])
    assert np.abs(calm["a"] - wild["a"]).max() > 1e-3


def test_a_json_config_keeps_tasks_and_their_order():
    layer = mtl.Towers(TASKS, activation="tanh", dropout=0.25)
    text = json.dumps(layer.get_config(), sort_keys=True)  # as a store that sorts keys would hand it back
    again = mtl.Towers.from_config(json.loads(text))
    assert again.task_names == tuple(TASKS)
    assert again.tasks == layer.tasks
    assert again.get_config() == layer.get_config()


def test_the_number_of_classes_may_be_of_numpy(rng):
    layer = mtl.Towers({"device": kinds.MultiClass(np.int64(3), ())})
    assert json.loads(json.dumps(layer.get_config()))["tasks"][0][1]["num_classes"] == 3
    assert tuple(layer(rng.normal(size=(6, 1, 5)).astype("float32"))["device"].shape) == (6, 3)


# ----------------------------------------------------------------------------------------------------------- freezing


@pytest.mark.parametrize("chosen", [None, (0,), (3,), (2, 0), (3, 1, 2, 0)])
def test_frozen_towers_are_the_chosen_towers_in_the_chosen_order(chosen, rng):
    layer = built(TASKS)
    x = rng.normal(size=(6, 4, 5)).astype("float32")
    whole = numbers(layer(x))
    indexes = range(4) if chosen is None else chosen
    frozen = layer.freeze(chosen)
    found = numbers(frozen([x[:, index] for index in indexes]))
    assert list(found) == [list(TASKS)[index] for index in indexes]
    for name, value in found.items():
        np.testing.assert_allclose(value, whole[name], atol=1e-6)
    sizes = [5 * 4 + 4 + 4 + 1] * 3 + [5 * 3 + 3]
    assert frozen.count_params() == sum(sizes[index] for index in indexes)


def test_frozen_towers_made_of_frozen_ones_share_every_variable(rng):
    frozen = built(TASKS).freeze()
    view = frozen.freeze((3, 0))
    assert {id(weight) for weight in view.weights} < {id(weight) for weight in frozen.weights}
    x = rng.normal(size=(2, 4, 5)).astype("float32")
    before = numbers(view([x[:, 3], x[:, 0]]))
    frozen.heads[0].biases[0].assign(frozen.heads[0].biases[0] + 1.0)
    after = numbers(view([x[:, 3], x[:, 0]]))
    assert np.abs(after["like"] - before["like"]).min() > 1e-3
    np.testing.assert_array_equal(after["device"], before["device"])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mtl.Towers({}), r"`tasks` must be a dict from task names to hidden units; received: tasks=\{\}"),
        (lambda: mtl.Towers(["a"]), r"`tasks` must be a dict .* received: tasks=\['a'\]"),
        (lambda: mtl.Towers({"": ()}), r"`tasks` must be a dict .* received: tasks=\{'': \(\)\}"),
        (lambda: mtl.Towers({1: ()}), r"`tasks` must be a dict .* received: tasks=\{1: \(\)\}"),
        (lambda: mtl.Towers({"a": 64}), r"`tasks\['a'\]` must be a tuple of hidden units .*, MultiClass; received: 64"),
        (lambda: mtl.Towers({"a": (), "b": {"hidden": 3}}), r"`tasks\['b'\]` must be .*; received: \{'hidden': 3\}"),
        (lambda: mtl.Towers({"a": {"kind": "Tree"}}), r"`tasks\['a'\]` must be .*; received: \{'kind': 'Tree'\}"),
        (lambda: mtl.Towers({"a": (0,)}), r"`hidden_units` must be a tuple of positive integers; .*=\(0,\)"),
        (lambda: mtl.Towers({"a": (2.5,)}), r"`hidden_units` must be a tuple of positive integers; .*=\(2.5,\)"),
        (lambda: kinds.MultiClass(1), r"`num_classes` must be an integer of at least 2; received: num_classes=1"),
        (lambda: mtl.Towers({"a": ()}, dropout=1.0), r"`dropout` must be in \[0, 1\); received: dropout=1.0"),
        (lambda: mtl.Towers({"a": ()}).build((2, 3)), r"must be \[batch, tasks, units\].*shape=\(2, 3\)"),
        (lambda: mtl.Towers({"b": (), "a": ()}).build((2, 3, 4)), r"one entry per task; .*tasks=\['b', 'a'\]"),
        (lambda: mtl.Towers({"a": ()}, name="t").freeze(), r"`t` must be built before it is frozen"),
        (lambda: built(TASKS).freeze((4,)), r"`tasks` must be distinct indexes below 4"),
        (lambda: built(TASKS).freeze((1, 1)), r"received: tasks=\(1, 1\)"),
        (lambda: built(TASKS).freeze(()), r"received: tasks=\(\)"),
    ],
)
def test_bad_towers_are_refused_by_argument(make, text):
    with pytest.raises(ValueError, match=text):
        make()
