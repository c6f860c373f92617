"""The ranking score as a layer: its numbers, its gradients at 0, its weights, refusals."""

import json

import numpy as np
import pytest
from gradients import gradient_by_input

import mtl_layers as mtl
from mtl_layers._keras import keras, ops

WEIGHTS = {"vtr": 0.5, "length": 1.0, "skip": -2.0, "vcr": 0.0}
ROWS = {
    "vtr": np.array([[0.25], [0.5], [0.0]], "float32"),
    "vcr": np.array([[0.9], [0.0], [0.0]], "float32"),
    "skip": np.array([[0.5], [0.1], [0.0]], "float32"),
    "length": np.array([[9], [99], [0]], "int64"),
    "unread": np.array([["a"], ["b"], ["c"]]),
}
NUMBERS = {name: values for name, values in ROWS.items() if name != "unread"}


def fusion(**kwargs):
    return mtl.ScoreFusion(WEIGHTS, functions={"length": mtl.towers.log1p}, **kwargs)


def score(weights, rows, epsilon=1e-7):
    values = {name: np.asarray(rows[name], "float64") for name in weights}
    values["length"] = np.log1p(values["length"])
    return np.prod([np.maximum(values[name], epsilon) ** weight for name, weight in weights.items()], axis=0)


def array(tensor):
    return ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("epsilon", [1e-7, 0.01])
def test_the_score_is_the_product_of_powers(epsilon):
    found = array(fusion(epsilon=epsilon)(NUMBERS))
    np.testing.assert_allclose(found, score(WEIGHTS, ROWS, epsilon), rtol=1e-5)
    assert found.dtype == np.float32 and found.shape == (3, 1)
    np.testing.assert_allclose(found[0, 0], 0.25**0.5 * np.log(10) * 0.5**-2, rtol=1e-5)


def test_a_weight_of_0_leaves_a_factor_out_even_where_it_is_0():
    layer = mtl.ScoreFusion({"a": 1.0, "b": 0.0})
    a = np.array([[0.3], [0.7]], "float32")
    np.testing.assert_allclose(array(layer({"a": a, "b": np.zeros((2, 1), "float32")})), a, rtol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float32"])
def test_probabilities_are_not_rounded_whatever_the_policy(policy):
    found = array(fusion(dtype=policy)(NUMBERS))
    np.testing.assert_allclose(found, score(WEIGHTS, ROWS), rtol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 3.0, -0.5, -20.0, 40.0])
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e-7, 1.0, -5.0, 1e30])
def test_score_and_gradient_are_finite_at_0_and_everywhere(value, weight):
    layer = mtl.ScoreFusion({"p": weight, "length": weight}, functions={"length": mtl.towers.log1p})
    x = np.full((2, 1), value, "float32")
    found = array(layer({"p": x, "length": x}))
    assert np.isfinite(found).all() and (found > 0).all()
    assert np.isfinite(gradient_by_input(lambda v: ops.sum(layer({"p": v, "length": v})), x)).all()


def test_weights_change_by_name_and_are_not_trained():
    layer = fusion()
    assert layer.task_weights == WEIGHTS
    layer.assign({"vcr": 0.3, "skip": -1})
    changed = {**WEIGHTS, "vcr": 0.3, "skip": -1.0}
    assert layer.task_weights == changed
    np.testing.assert_allclose(array(layer(NUMBERS)), score(changed, ROWS), rtol=1e-5)
    assert layer.trainable_weights == [] and len(layer.weights) == 1


def test_weights_of_a_request_stand_in_for_the_layers_own():
    layer = fusion()
    asked = {name: np.array([[0.1], [1.0], [0.5]], "float32") for name in WEIGHTS}
    found = array(layer(NUMBERS, weights=asked))
    for row, weight in enumerate((0.1, 1.0, 0.5)):
        one = {name: values[row : row + 1] for name, values in ROWS.items()}
        np.testing.assert_allclose(found[row], score(dict.fromkeys(WEIGHTS, weight), one)[0], rtol=1e-5)
    np.testing.assert_allclose(array(layer(NUMBERS)), score(WEIGHTS, ROWS), rtol=1e-5)


def test_the_config_keeps_changed_weights_and_their_order_whoever_sorts_it():
    layer = fusion(epsilon=1e-3)
    layer.assign({"vtr": 0.7})
    again = mtl.ScoreFusion.from_config(json.loads(json.dumps(layer.get_config(), sort_keys=True)))
    assert list(again.task_weights.items()) == list(layer.task_weights.items())
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(array(again(NUMBERS)), array(layer(NUMBERS)))


def test_in_a_model_weights_are_saved_as_they_are(tmp_path):
    inputs = {name: keras.Input((1,), name=name) for name in ("a", "b")}
    layer = mtl.ScoreFusion({"b": 0.5, "a": 1.0}, functions={"b": keras.layers.Rescaling(10.0)})
    model = keras.Model(inputs, layer(inputs))
    layer.assign({"a": 2.0})
    model.save(tmp_path / "score.keras")
    loaded = keras.models.load_model(tmp_path / "score.keras")
    rows = {"a": np.array([[0.5]], "float32"), "b": np.array([[0.4]], "float32")}
    np.testing.assert_allclose(array(loaded(rows)), [[0.5**2 * 4.0**0.5]], rtol=1e-5)


NAMES = "must be for names among ['a']; received: "
INPUTS = "`inputs` must be a dict with a [batch, 1] for each of ['a', 'b']; received: "


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mtl.ScoreFusion({}), "`weights` must be a dict from names to numbers; received: weights={}"),
        (lambda: mtl.ScoreFusion(["a"]), "`weights` must be a dict from names to numbers; received: weights=['a']"),
        *[
            (
                lambda bad=bad: mtl.ScoreFusion({"a": bad}),
                f"`weights['a']` must be a number that is finite in float32; received: weights['a']={bad!r}",
            )
            for bad in (float("nan"), float("inf"), 1e39, -(10**400), True, "1", None)
        ],
        (lambda: mtl.ScoreFusion({"a": 1.0}, {"b": "relu"}), f"`functions` {NAMES}['b']"),
        (lambda: mtl.ScoreFusion({"a": 1.0}).assign({"c": 1.0, "a": 2.0}), f"`weights` {NAMES}['c']"),
        (lambda: mtl.ScoreFusion({"a": 1.0}, epsilon=0.0), "`epsilon` must be in (0, 1); received: epsilon=0.0"),
        (lambda: mtl.ScoreFusion({"a": 1, "b": 2}).build({"b": (None, 1)}), INPUTS + "no 'a' in ['b']"),
        (
            lambda: mtl.ScoreFusion({"a": 1, "b": 2}).build({"a": (None, 1), "b": (None, 3)}),
            INPUTS + "'b' of shape (None, 3)",
        ),
    ],
)
def test_a_bad_argument_is_told_by_name(make, text):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == text


HALF = np.full((3, 1), 0.5, "float32")


@pytest.mark.parametrize(
    ("given", "weights", "text"),
    [
        ({"a": HALF, "b": HALF[:, 0]}, None, INPUTS + "'b' of shape (3,)"),
        ({"b": HALF}, None, INPUTS + "no 'a' in ['b']"),
        ({"a": HALF, "b": HALF}, {"a": HALF, "c": HALF}, "`weights`" + INPUTS[8:] + "no 'b' in ['a', 'c']"),
        ({"a": HALF, "b": HALF}, {"a": HALF[0], "b": HALF}, "`weights`" + INPUTS[8:] + "'a' of shape (1,)"),
    ],
)
def test_a_built_layer_tells_what_is_wrong_in_a_call(given, weights, text):
    layer = mtl.ScoreFusion({"a": 1.0, "b": 2.0})
    layer({"a": HALF, "b": HALF})
    with pytest.raises(ValueError) as caught:
        layer(given, weights=weights)
    assert text in str(caught.value)
