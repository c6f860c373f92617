"""A frozen Gumbel-Matrix layer computes the most likely allocation, each thing once, and holds nothing else."""

import numpy as np
import pytest
from conftest import BACKEND
from gumbel_reference import allocate, forward, made, numbers
from reference import array

import mtl_layers as mtl
from mtl_layers._keras import keras, ops, register

LAYERS = keras.layers
SHAPES = [(1, 1, (3,)), (3, 4, (6, 2)), (3, (3, 5), ((4,), (3,))), (4, (3, 2, 4), ((4, 3), (2,), (3,)))]


def outputs_of(frozen, x):
    return [numbers(each) for each in frozen(x)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("one_input_each", [False, True])
def test_frozen_for_any_tasks_it_is_the_layer_in_evaluation(rng, shape, one_input_each):
    layer = made(rng, *shape)
    x = rng.normal(size=(6, shape[0], 5) if one_input_each else (6, 5)).astype("float32")
    expected = numbers(layer(x))
    np.testing.assert_allclose(expected, forward(layer, layer.allocation(), x), atol=1e-5)
    frozen = layer.freeze()
    for tasks in (range(shape[0]), [shape[0] - 1], range(shape[0])[::-2]):
        for each in (layer.freeze(tasks), frozen.freeze(tasks)):
            for task, y in zip(tasks, outputs_of(each, x), strict=True):
                np.testing.assert_allclose(y, expected[:, task], rtol=1e-6, atol=1e-6)


TWINS = [  # tasks 0 and 2 are twins throughout; task 1 is like them at the lower level only, task 3 at no level
    np.array([[1, 0, 1, 0], [1, 0, 1, 0], [1, 0, 1, 0], [0, 1, 1, 0]], bool),
    np.array([[1, 1, 0], [0, 1, 1], [1, 1, 0], [1, 1, 0]], bool),
]


def test_twins_are_one_tensor_and_equal_to_the_bit_what_each_is_alone(rng):
    layer = made(rng, 4, (4, 3), ((32, 16), (24,)), dim=48)
    allocate(layer, TWINS)
    frozen = layer.freeze()
    for batch in (1, 256):
        x = ops.convert_to_tensor(rng.normal(size=(batch, 48)).astype("float32"))
        outputs = frozen(x)
        assert outputs[0] is outputs[2] and outputs[0] is not outputs[3]
        for task, together in enumerate(map(numbers, outputs)):
            np.testing.assert_array_equal(outputs_of(frozen.freeze([task]), x)[0], together)
            anew = outputs_of(layer.freeze([task]), x)[0]  # in other groups of components, of which XLA takes notice
            if BACKEND == "tensorflow":
                np.testing.assert_array_equal(anew, together)
            np.testing.assert_allclose(anew, together, rtol=1e-3, atol=1e-4)


@register
class Counted(LAYERS.Layer):
    """Adds 1, and counts how often it is asked to."""

    calls = []

    def call(self, inputs):
        Counted.calls.append(self.name)
        return inputs + 1.0

    def compute_output_shape(self, input_shape):
        return input_shape


def test_each_component_is_evaluated_once_for_each_value_that_it_reads(rng):
    parts = [[Counted(name=f"{level}{part}") for part in range(count)] for level, count in enumerate((4, 3))]
    layer = mtl.GumbelMatrix(4, components=parts, after=[None, Counted(name="after")])
    x = rng.normal(size=(2, 5)).astype("float32")

    def calls(what):
        Counted.calls.clear()
        what(x)
        return {name: Counted.calls.count(name) for name in sorted(set(Counted.calls))}

    layer(x)
    assert calls(layer) == dict.fromkeys(["00", "01", "02", "03", "10", "11", "12", "after"], 1)
    allocate(layer, TWINS)
    # Two values above the lower level: 0 = 1 = 2, and 3. Three outputs above the upper one.
    assert calls(layer.freeze()) == {"00": 1, "01": 1, "02": 1, "10": 2, "11": 2, "12": 1, "after": 3}
    assert calls(layer.freeze([0, 2])) == {"00": 1, "02": 1, "10": 1, "11": 1, "after": 1}
    assert calls(layer.freeze([1])) == {"00": 1, "02": 1, "11": 1, "12": 1, "after": 1}


def test_components_that_nobody_uses_are_gone(rng):
    layer = made(rng, 4, (4, 3), ((6, 2), (3,)))
    allocate(layer, TWINS)
    lower, upper = (5 + 1) * 6 + (6 + 1) * 2, (2 + 1) * 3
    for tasks, count in ((None, 3 * lower + 3 * upper), ([0, 2], 2 * (lower + upper)), ([3], 2 * (lower + upper))):
        for frozen in (layer.freeze(tasks), layer.freeze().freeze(tasks)):
            assert frozen.count_params() == count and len(frozen.trainable_weights) == len(frozen.weights)
    assert layer.inventory() == {"components": 7}
    assert layer.freeze().inventory() == {"components": 6} and layer.freeze([3]).inventory() == {"components": 4}


def images(rng):
    """Two levels of image components with weights of all kinds, their allocation, and a batch."""
    x = rng.normal(size=(3, 4, 4, 2)).astype("float32")
    lower = [LAYERS.Conv2D(2, 3, padding="same"), LAYERS.MaxPooling2D(3, 1, "same"), LAYERS.Activation("linear")]
    normalised = keras.Sequential([LAYERS.Conv2D(3, 1), LAYERS.BatchNormalization(), LAYERS.Dropout(0.5)])
    upper = [normalised, LAYERS.Conv2D(3, 2, padding="same")]
    layer = mtl.GumbelMatrix(
        3, components=[lower, upper], after=[LAYERS.BatchNormalization(), keras.Sequential([LAYERS.Flatten()])]
    )
    layer(x, training=True)  # moves the statistics
    allocate(layer, [np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]]), np.array([[1, 0], [1, 1], [1, 0]])])
    return layer, x


def test_components_of_any_kind_are_frozen_with_all_their_weights(rng, tmp_path):
    layer, x = images(rng)
    expected = numbers(layer(x))
    for tasks in ([0, 1, 2], [2], [1, 0]):
        for frozen in (layer.freeze(tasks), layer.freeze().freeze(tasks)):
            for task, y in zip(tasks, outputs_of(frozen, x), strict=True):
                np.testing.assert_allclose(y, expected[:, task], rtol=1e-5, atol=1e-6)
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, layer.freeze([2, 1])(inputs))
    model.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    for mine, theirs in zip(loaded(x), model(x), strict=True):
        np.testing.assert_array_equal(numbers(mine), numbers(theirs))


def test_freezing_again_shares_all_variables_and_the_source_shares_none(rng):
    layer, _ = images(rng)
    frozen = layer.freeze()
    assert not {id(w) for w in frozen.weights} & {id(w) for w in layer.weights}
    for tasks in ([0], [2, 1], None):
        again = frozen.freeze(tasks)
        assert {id(w) for w in again.weights} <= {id(w) for w in frozen.weights}
        assert len({id(w) for w in again.weights}) == len(again.weights)


# -------------------------------------------------------------------------------------------- tasks without components


def test_a_task_without_components_is_counted_warned_of_and_not_frozen(rng):
    layer = made(rng, 3, (2, 3), ((4,), (2,)), name="shared")
    assert layer.empty_tasks() == []
    allocate(layer, [np.array([[1, 1], [0, 0], [0, 1]]), np.array([[1, 0, 0], [0, 0, 0], [0, 0, 0]])])
    assert layer.empty_tasks() == [(0, 1), (1, 1), (1, 2)]
    text = (
        "`shared` has tasks without any component, whose output is 0 for every input: task 1 at level 0, task 1 at "
        "level 1, task 2 at level 1. Train longer, with a higher p_init or budget; or set its allow_empty to True"
    )
    with pytest.warns(UserWarning) as caught:
        layer.allocation()
    assert [str(each.message) for each in caught] == [text]
    with pytest.raises(ValueError) as refused:
        layer.freeze()
    assert str(refused.value) == text
    with pytest.raises(ValueError, match=r"is 0 for every input: task 2 at level 1\. Train"):
        layer.freeze([2, 0])
    assert len(layer.freeze([0])(np.ones((1, 5), "float32"))) == 1


def test_allowed_it_is_zero_and_needs_nothing(rng):
    layer = made(rng, 3, (2, 3), ((4,), (2,)), allow_empty=True)
    matrices = [np.array([[1, 0], [1, 1], [0, 0]]), np.array([[1, 0, 0], [0, 0, 0], [0, 1, 0]])]
    allocate(layer, matrices)
    layer.allocation()  # without a warning, which would be an error
    x = rng.normal(size=(4, 5)).astype("float32")
    frozen = layer.freeze()
    for task, y in enumerate(outputs_of(frozen, x)):
        np.testing.assert_allclose(y, forward(layer, matrices, x)[:, task], atol=1e-6)
    assert frozen.count_params() == (5 + 1) * 4 + 2 * (4 + 1) * 2  # of task 1 nothing below its empty level
    assert layer.freeze([1]).count_params() == 0 and not outputs_of(layer.freeze([1]), x)[0].any()
    after = mtl.GumbelMatrix(
        1, components=[LAYERS.ReLU()], after=LAYERS.Dense(2, bias_initializer="ones"), allow_empty=1
    )
    after(x)
    allocate(after, [np.array([[0]])])
    for y in (numbers(after(x))[:, 0], *outputs_of(after.freeze(), x)):
        np.testing.assert_array_equal(y, np.ones((4, 2)))


# --------------------------------------------------------------------------------------------------------- whole models

TASKS = {"like_comment": (3,), "like": mtl.towers.MultiClass(3, ()), "also": mtl.towers.Regression(()), "buy": ()}


@pytest.fixture
def model(rng):
    inputs = keras.Input((6,), name="x")
    layer = mtl.GumbelMatrix(4, (4, 3), ((6,), (5,)), name="allocated")
    model = keras.Model(inputs, mtl.Towers(TASKS, name="towers")(layer(LAYERS.Dense(5, name="below")(inputs))))
    allocate(layer, TWINS)
    return model


@pytest.mark.parametrize("names", [None, ("also",), ("buy", "like")])
@pytest.mark.parametrize("times", [1, 2])
def test_a_model_of_two_levels_freezes_and_saves_for_any_tasks(rng, tmp_path, model, names, times):
    frozen = model
    for _ in range(times):
        frozen = mtl.freeze(frozen, names)
    frozen.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    x = rng.normal(size=(9, 6)).astype("float32")
    expected = model(x)
    assert list(frozen(x)) == list(names or TASKS)
    for name, y in frozen(x).items():
        np.testing.assert_allclose(numbers(y), numbers(expected[name]), rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(numbers(loaded(x)[name]), numbers(y))


def test_the_report_of_a_freeze_counts_components_and_what_is_computed(model):
    (layer, _) = mtl.freeze(model).freeze_report.layers
    assert layer.inventory == {"components": (7, 6)}
    lower, upper = (5 + 1) * 6, (6 + 1) * 5
    # The matrices are parameters before; the step and the seed that the layer has drawn for itself are none.
    assert layer.parameters == (4 * lower + 3 * upper + 4 * 4 + 4 * 3, 3 * lower + 3 * upper)
    before = 4 * 5 * 6 + 4 * 4 * 6 + 4 * (3 * 6 * 5 + 3 * 5)  # components and averages; the upper ones for each task
    assert layer.multiply_adds == (before, 3 * 5 * 6 + (2 + 2 + 1) * 6 * 5)
    (alone, _) = mtl.freeze(model, ["like"]).freeze_report.layers
    assert alone.inventory == {"components": (7, 4)} and alone.multiply_adds[1] == 2 * 5 * 6 + 2 * 6 * 5


def test_a_frozen_model_trains_and_moves_only_itself(rng, model):
    frozen = mtl.freeze(model, ("also", "buy"))
    before = [array(weight) for weight in model.get_layer("allocated").weights]
    frozen.compile(keras.optimizers.SGD(0.1), **mtl.losses.per_task(dict.fromkeys(("also", "buy"), "mse")))
    labels = {name: rng.normal(size=8) for name in ("also", "buy")}
    assert np.isfinite(frozen.fit(rng.normal(size=(8, 6)), labels, verbose=0).history["loss"]).all()
    for new, old in zip(model.get_layer("allocated").weights, before, strict=True):
        np.testing.assert_array_equal(array(new), old)


@pytest.mark.needs_tensorflow
def test_every_task_gets_a_signature_of_its_own_size(rng, tmp_path, model):
    import json

    import tensorflow as tf

    import serving

    path = serving.export(model, tmp_path, verbose=False)
    loaded = tf.saved_model.load(str(path))
    x = rng.normal(size=(3, 6)).astype("float32")
    signatures = json.loads((path / "manifest.json").read_text())["signatures"]
    for name, y in model(x).items():
        np.testing.assert_allclose(loaded.signatures[name](x=tf.constant(x))[name], numbers(y), rtol=1e-5, atol=1e-6)
        assert signatures[name]["multiply_adds"] == mtl.freeze(model, [name]).freeze_report.multiply_adds[1] + 30
