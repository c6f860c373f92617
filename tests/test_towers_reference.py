"""Towers: each against its own MLP written out in NumPy, whatever other towers it is evaluated with."""

import numpy as np
import pytest
import reference

import mtl_layers as mtl
from mtl_layers._keras import keras, ops
from mtl_layers._multiply_adds import multiply_adds
from mtl_layers.towers import Binary, Regression

# Shapes that are alike, that differ in the hidden units only, in the head only, and that have no hidden layer at all.
TASKS = {
    "watch_time": mtl.towers.Regression((4, 3)),
    "like_comment": (6,),
    "genre": mtl.towers.MultiClass(3, (6,)),
    "like": mtl.towers.Binary((6,)),
    "rating": mtl.towers.Regression((6,)),
    "share": (),
}
HEADS = [reference.linear, reference.sigmoid, reference.softmax, reference.sigmoid, reference.linear, reference.sigmoid]


def own_towers(layer):
    """The towers taken apart: each in a `Towers` of its own, so that nothing is grouped."""
    return [layer.freeze([task]) for task in range(len(layer.tasks))]


def layers_of(tower):
    stacks = [*tower.hidden, *tower.heads]
    kernels = [reference.array(kernel)[0] for stack in stacks for kernel in stack.kernels]
    biases = [reference.array(bias)[0, 0] for stack in stacks for bias in stack.biases]
    return list(zip(kernels, biases, strict=True))


def test_every_tower_is_the_mlp_of_its_own_weights(rng):
    layer = mtl.Towers(TASKS)
    h = rng.normal(size=(7, 6, 5)).astype("float32")
    layer.build(h.shape)
    reference.randomise(layer, rng)
    found = layer(h)
    weights = [layers_of(tower) for tower in own_towers(layer)]
    assert [[kernel.shape for kernel, _ in each] for each in weights] == [
        [(5, 4), (4, 3), (3, 1)],
        [(5, 6), (6, 1)],
        [(5, 6), (6, 3)],
        [(5, 6), (6, 1)],
        [(5, 6), (6, 1)],
        [(5, 1)],
    ]
    assert layer.count_params() == sum(kernel.size + bias.size for each in weights for kernel, bias in each)
    for name, expected in zip(TASKS, reference.towers(weights, h, HEADS), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(found[name]), expected, rtol=1e-4, atol=1e-5)


def test_towers_of_one_shape_are_one_stack():
    layer = mtl.Towers(TASKS)
    layer.build((None, 6, 5))
    assert sorted(stack.num_experts for stack in layer.heads) == [1, 1, 1, 3]  # like_comment, like and rating


def test_ones_worked_by_hand():
    layer = mtl.Towers(
        {"a": (3,), "b": mtl.towers.Regression((3,)), "c": mtl.towers.MultiClass(4, ())}, kernel_initializer="ones"
    )
    h = np.array([[[0.0, 0.0], [1.0, 1.0], [5.0, 6.0]]], "float32")
    found = {name: ops.convert_to_numpy(p).tolist() for name, p in layer(h).items()}
    assert found == {"a": [[0.5]], "b": [[6.0]], "c": [[0.25] * 4]}


def test_a_regression_ends_in_its_activation(rng):
    ends = {"linear": None, "soft": "softplus", "exponential": keras.activations.exponential}
    layer = mtl.Towers({name: mtl.towers.Regression((), end) for name, end in ends.items()})
    h = rng.normal(size=(7, 3, 5)).astype("float32")
    layer.build(h.shape)
    reference.randomise(layer, rng)
    weights = [layers_of(tower) for tower in own_towers(layer)]
    heads = [reference.linear, lambda z: np.log1p(np.exp(z)), np.exp]
    frozen = layer.freeze((2, 1))
    found = {**layer(h), **{f"{name}_frozen": p for name, p in frozen([h[:, 2], h[:, 1]]).items()}}
    expected = dict(zip(ends, reference.towers(weights, h, heads), strict=True))
    for name, values in found.items():
        value = expected[name.removesuffix("_frozen")]
        np.testing.assert_allclose(ops.convert_to_numpy(values), value, rtol=1e-4, atol=1e-5)
    assert mtl.towers.Regression() == mtl.towers.Regression(activation="linear")


def softcap(x):
    return 5 * ops.tanh(x / 5)


def test_a_regression_may_end_in_a_function_of_ones_own(rng):
    h = rng.normal(size=(7, 1, 5)).astype("float32")
    towers = mtl.Towers({"a": mtl.towers.Regression((), softcap)})
    found = ops.convert_to_numpy(towers(h)["a"])
    linear = mtl.Towers({"a": mtl.towers.Regression(())})
    linear.build(h.shape)
    linear.set_weights(towers.get_weights())
    expected = 5 * np.tanh(ops.convert_to_numpy(linear(h)["a"]) / 5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with keras.saving.custom_object_scope({"softcap": softcap}):
        assert mtl.Towers.from_config(towers.get_config()).tasks == towers.tasks


def test_a_binary_tower_starts_at_its_prior(rng):
    tasks = {name: mtl.towers.Binary((3,), prior) for name, prior in (("rare", 0.003), ("plain", None), ("usual", 0.9))}
    layer = mtl.Towers({**tasks, "watch_time": mtl.towers.Regression((3,))}, kernel_initializer="zeros")
    h = rng.normal(size=(2, 4, 5)).astype("float32")
    found = {name: ops.convert_to_numpy(p).ravel() for name, p in layer(h).items()}
    for name, rate in (("rare", 0.003), ("plain", 0.5), ("usual", 0.9), ("watch_time", 0.0)):
        np.testing.assert_allclose(found[name], rate, rtol=1e-6)
    reference.randomise(layer, rng)  # as training would move it on: a start is no bound
    moved, frozen = layer(h), layer.freeze((0,))([h[:, 0]])
    assert np.abs(ops.convert_to_numpy(moved["rare"]) - 0.003).max() > 0.01
    np.testing.assert_allclose(ops.convert_to_numpy(frozen["rare"]), ops.convert_to_numpy(moved["rare"]), rtol=1e-5)


def test_priors_and_activations_cost_no_multiply_adds():
    counts = []
    for tasks in ({"a": (3,), "b": Regression((3,))}, {"a": Binary((3,), 0.1), "b": Regression((3,), "softplus")}):
        inputs = keras.Input((2, 5))
        counts.append(multiply_adds(keras.Model(inputs, mtl.Towers(tasks)(inputs)), inputs))
    assert counts == [2 * (5 * 3 + 3)] * 2


@pytest.mark.needs_tensorflow
def test_a_signature_has_the_activation_and_the_start(tmp_path):
    import tensorflow as tf

    import serving

    inputs = keras.Input((5,), name="x")
    towers = mtl.Towers({"a": Binary((), 0.1), "b": Regression((), "exponential")}, kernel_initializer="zeros")
    model = keras.Model(inputs, towers(mtl.SharedBottom(2, (3,))(inputs)))
    loaded = tf.saved_model.load(str(serving.export(model, tmp_path, verbose=False)))
    for name, value in (("a", 0.1), ("b", 1.0)):
        found = loaded.signatures[name](x=tf.ones((2, 5)))
        assert list(found) == [name]
        np.testing.assert_allclose(found[name], [[value]] * 2, rtol=1e-6)


def test_towers_of_one_shape_start_different():
    layer = mtl.Towers({"a": (6,), "b": (6,)}, kernel_initializer=keras.initializers.GlorotUniform(seed=3))
    layer.build((None, 2, 5))
    for stack in (*layer.hidden, *layer.heads):
        kernel = reference.array(stack.kernels[0])
        assert np.abs(kernel[0] - kernel[1]).max() > 0.01


def test_dropout_acts_on_hidden_layers_in_training_only(rng):
    h = rng.normal(size=(50, 1, 5)).astype("float32")
    hidden, bare = (mtl.Towers({"a": units}, dropout=0.5) for units in ((20,), ()))
    for layer in (hidden, bare):
        still = ops.convert_to_numpy(layer(h)["a"])
        np.testing.assert_array_equal(ops.convert_to_numpy(layer(h, training=False)["a"]), still)
        moved = (ops.convert_to_numpy(layer(h, training=True)["a"]) != still).mean()
        assert moved > 0.9 if layer is hidden else moved == 0.0


UNITS = "`hidden_units` must be a tuple of positive integers; received: hidden_units="
NAMES = "`tasks` must be a dict from task names to hidden units; received: tasks="


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mtl.Towers({}), NAMES + "{}"),
        (lambda: mtl.Towers(["ctr"]), NAMES + "['ctr']"),
        (lambda: mtl.Towers({"": (4,)}), NAMES + "{'': (4,)}"),
        (lambda: mtl.Towers({1: (4,)}), NAMES + "{1: (4,)}"),
        (lambda: mtl.Towers({"ctr": (0,)}), UNITS + "(0,)"),
        (lambda: mtl.towers.Regression(4), UNITS + "4"),
        (lambda: mtl.Towers({"ctr": (4,)}, dropout=1.5), "`dropout` must be in [0, 1); received: dropout=1.5"),
        *(
            (lambda bad=bad: Binary((), bad), f"`prior` must be in (0, 1), or None; received: prior={bad!r}")
            for bad in (0, 1.0, float("nan"), True, "0.1")
        ),
        (lambda: mtl.towers.MultiClass(1), "`num_classes` must be an integer of at least 2; received: num_classes=1"),
        (
            lambda: mtl.Towers({"ctr": 64}),
            "`tasks['ctr']` must be a tuple of hidden units (binary), or one of mtl.towers.Binary, Regression, "
            "MultiClass; received: 64",
        ),
        *[
            (
                lambda shape=shape: mtl.Towers({"ctr": (4,), "cvr": (4,)}).build(shape),
                "`inputs` must be [batch, tasks, units] with one entry per task; "
                f"received: shape={shape}, tasks=['ctr', 'cvr']",
            )
            for shape in [(4, 2), (4, 3, 5), (4, 2, 5, 1)]
        ],
        (
            lambda: mtl.Towers({"ctr": ()}, name="mine").freeze(),
            "`mine` must be built before it is frozen: call it on data or fit it first",
        ),
        (
            lambda: mtl.Towers({"ctr": ()}).freeze([1]),
            "`tasks` must be distinct indexes below 1, or None for all; received: tasks=[1]",
        ),
    ],
)
def test_a_bad_argument_is_told_by_name(make, text):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == text


@pytest.mark.parametrize("kind", [mtl.Towers, mtl.AITM, lambda tasks: mtl.ESMM(tasks, {"both": tuple(tasks)})])
@pytest.mark.parametrize("units", [(4,), ()])
@pytest.mark.parametrize("shape", [(5, 3, 6), (5, 6), (5, 1, 6)])
def test_built_towers_take_one_input_for_each_of_them(kind, units, shape):
    towers = kind({"ctr": (4,), "cvr": units})
    towers(np.ones((5, 2, 6), "float32"))
    with pytest.raises(ValueError) as caught:
        towers(np.ones(shape, "float32"))
    assert (
        "`inputs` must be [batch, tasks, units] with one entry per task; "
        f"received: shape={shape}, tasks=['ctr', 'cvr']" in str(caught.value)
    )
