"""Mistakes about tasks: their names and order, their masks, and single rows. As in `test_known_mistakes.py`."""

import numpy as np
import pytest
from conftest import LEGACY
from gradients import gradient_by_input

import mtl_layers as mtl
from mtl_layers._keras import keras, ops

NAN = float("nan")


def rejects(check, mistaken):
    with pytest.raises(AssertionError):
        check(mistaken)


# Names: "like" is a prefix of "like_comment"; neither order of names is that of the alphabet.

TASKS = {"watch": (3,), "like_comment": (3,), "like": (3,)}


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((4,))
    return keras.Model(inputs, mtl.Towers(TASKS)(mtl.CGC(3, 1, 1, (5,))(inputs)))


def freeze_by_prefix(model, tasks):
    kept = {name: p for name, p in model.output.items() if any(name.startswith(task) for task in tasks)}
    return keras.Model(model.input, kept)


def freeze_in_the_order_of_names(model, tasks):
    frozen = mtl.freeze(model, sorted(tasks))
    renamed = dict(zip(tasks, frozen.output.values(), strict=True))
    return keras.Model(frozen.input, renamed)


def test_a_task_is_its_whole_name_and_keeps_its_place(model, rng):
    x = rng.normal(size=(5, 4)).astype("float32")
    all_tasks = {name: ops.convert_to_numpy(p) for name, p in model(x).items()}

    def check(freeze):
        for tasks in (["like"], ["like_comment"], ["watch", "like"]):
            found = {name: ops.convert_to_numpy(p) for name, p in freeze(model, tasks)(x).items()}
            assert set(found) == set(tasks)
            for name, p in found.items():
                np.testing.assert_allclose(p, all_tasks[name], rtol=1e-5, atol=1e-6)

    check(mtl.freeze)
    rejects(check, freeze_by_prefix)
    rejects(check, freeze_in_the_order_of_names)


class SortedTowers(mtl.Towers):
    """Tasks in the order of their names (a set's order would do as well)."""

    def __init__(self, tasks, **kwargs):
        super().__init__({name: tasks[name] for name in sorted(tasks)}, **kwargs)


def check_tower_reads_its_own_place(kind):
    towers = kind(dict.fromkeys(TASKS, ()), kernel_initializer="ones")
    h = np.zeros((1, 3, 2), "float32")
    h[0, :, 0] = [-1.0, 0.0, 1.0]
    found = towers(h)
    assert list(found) == list(TASKS)
    values = [float(ops.convert_to_numpy(p)[0, 0]) for p in found.values()]
    assert values == pytest.approx([1 / (1 + np.e), 0.5, np.e / (1 + np.e)])


def test_tasks_are_in_the_order_given():
    check_tower_reads_its_own_place(mtl.Towers)
    rejects(check_tower_reads_its_own_place, SortedTowers)


def test_losses_of_tasks_whose_names_begin_alike_are_apart(model, rng):
    x = rng.normal(size=(6, 4)).astype("float32")
    labels = {"watch": np.ones(6, "f"), "like_comment": np.full(6, NAN, "f"), "like": np.array([1, NAN, 0] * 2, "f")}
    model.compile("sgd", **mtl.losses.per_task(dict.fromkeys(TASKS, "mse"), missing_value=NAN))
    found = model.evaluate(x, labels, verbose=0, return_dict=True)
    # Keras 2 logs by the name of the layer, numbered in the order of sorted task names.
    logged = dict(zip(sorted(TASKS), model.output_names if LEGACY else sorted(TASKS), strict=True))
    found = {name: found[f"{logged[name]}_loss"] for name in TASKS}
    p = {name: ops.convert_to_numpy(value)[:, 0] for name, value in model(x).items()}
    inside = [0, 2, 3, 5]
    expected = {
        "watch": ((p["watch"] - 1) ** 2).mean(),
        "like_comment": 0.0,
        "like": ((p["like"] - labels["like"]) ** 2)[inside].mean(),
    }
    assert found == pytest.approx(expected, rel=1e-4)


# A batch of one row that loses its batch.


class SqueezingTowers(mtl.Towers):
    def call(self, inputs, training=None):
        return {name: ops.expand_dims(ops.squeeze(p), -1) for name, p in super().call(inputs, training).items()}


class SqueezingMMoE(mtl.MMoE):
    def call(self, inputs, training=None):
        return ops.squeeze(super().call(inputs, training))


def check_one_row_is_a_batch(towers, sharing):
    for batch in (3, 1):
        h = sharing(2, 2, (3,))(np.ones((batch, 4), "float32"))
        assert tuple(h.shape) == (batch, 2, 3)
        for p in towers({"a": (2,), "b": (2,)})(h).values():
            assert tuple(p.shape) == (batch, 1)


def test_one_row_is_a_batch():
    check_one_row_is_a_batch(mtl.Towers, mtl.MMoE)
    rejects(lambda mistaken: check_one_row_is_a_batch(mistaken, mtl.MMoE), SqueezingTowers)
    rejects(lambda mistaken: check_one_row_is_a_batch(mtl.Towers, mistaken), SqueezingMMoE)


# Losses over the batch instead of the task's rows; missing labels that reach the loss.

LOSSES = {
    "mse": lambda y, p: (y - p) ** 2,
    "mae": lambda y, p: np.abs(y - p),
    "binary_crossentropy": lambda y, p: -(y * np.log(p) + (1 - y) * np.log(1 - p)),
    "huber": lambda y, p: (y - p) ** 2 / 2,  # |y - p| < 1
}
P = np.array([[0.2], [0.9], [0.4], [0.7], [0.6]], "float32")
Y = np.array([[0.0], [1.0], [1.0], [0.0], [1.0]], "float32")


@pytest.mark.parametrize("name", LOSSES)
def test_a_masked_loss_is_divided_by_the_rows_of_the_task(name):
    mask = np.array([1, 0, 0, 1, 0], "float32")
    expected = LOSSES[name](Y, P)[mask == 1].mean()

    def check(loss):
        assert float(ops.convert_to_numpy(loss(Y, P, mask))) == pytest.approx(expected, rel=1e-4)

    check(mtl.losses.MaskedLoss(name))
    rejects(check, lambda y, p, mask: ops.mean(keras.losses.get(name)(y, p) * mask))  # what Keras does
    rejects(check, lambda y, p, mask: ops.mean(keras.losses.get(name)(y, p)))  # a mask that is ignored


def times_mask(y, p):
    """0 * NaN is NaN."""
    mask = ops.cast(ops.logical_not(ops.isnan(y)), "float32")
    return ops.sum((y - p) ** 2 * mask) / ops.sum(mask)


def where_mask_but_no_row(y, p):
    """Right, until a batch has no row of the task: 0 / 0."""
    mask = ops.cast(ops.logical_not(ops.isnan(y)), "float32")
    y = ops.where(ops.isnan(y), ops.zeros_like(y), y)
    return ops.sum((y - p) ** 2 * mask) / ops.sum(mask)


def test_missing_labels_leave_loss_and_gradient_finite():
    def check(loss):
        for rows in ([0, 2], []):
            y = np.full_like(Y, NAN)
            y[rows] = Y[rows]
            p = ops.convert_to_tensor(P)
            value = float(ops.convert_to_numpy(loss(ops.convert_to_tensor(y), p)))
            found = gradient_by_input(lambda p, y=y: loss(ops.convert_to_tensor(y), p), P)
            expected = np.zeros_like(P)
            expected[rows] = 2 * (P - Y)[rows] / max(len(rows), 1)
            assert value == pytest.approx(((P - Y)[rows] ** 2).mean() if rows else 0.0, rel=1e-4)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)

    check(mtl.losses.MaskedLoss("mse", missing_value=NAN))
    rejects(check, times_mask)
    rejects(check, where_mask_but_no_row)


def test_a_missing_mask_is_an_error_and_no_warning():
    with pytest.raises(ValueError, match="sample_weight of like_loss must be given, since `require_weights=True`"):
        mtl.losses.MaskedLoss("mse", require_weights=True, name="like_loss")(Y, P)


# A model that cannot be loaded elsewhere.


def check_no_lambda(model):
    assert not [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Lambda)]


def test_a_model_holds_no_lambda(model):
    check_no_lambda(model)
    check_no_lambda(mtl.freeze(model))
    inputs = keras.Input((4,))
    h = mtl.MMoE(2, 2, (3,))(inputs)
    first = keras.layers.Lambda(lambda h: h[:, 0], output_shape=(3,))(h)
    rejects(check_no_lambda, keras.Model(inputs, first))
