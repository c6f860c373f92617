"""What surrounds the Gumbel-Matrix layer's numbers: temperature, penalties, whole trainings, configs, refusals."""

import numpy as np
import pytest
from conftest import BACKEND
from gumbel_reference import allocate, drawn, logits_of, made, numbers, step_of, telltale
from reference import array, sigmoid
from two_devices import run_on_two_devices

import mtl_layers as mtl
from mtl_layers._keras import INTEGER, keras, ops

LAYERS = keras.layers


def temperature(layer, step):
    return float(numbers(ops.convert_to_tensor(layer.matrices.temperature_at(ops.convert_to_tensor(step)))))


# ------------------------------------------------------------------------------------------- temperature and penalties


@pytest.mark.parametrize(("step", "expected"), [(0, 50.0), (99, 5.0), (9_999, 0.5), (10**7, 0.5)])
def test_the_temperature_falls_as_published(step, expected):
    assert temperature(mtl.GumbelMatrix(2, 2), step) == pytest.approx(expected, rel=1e-5)


def test_the_temperature_may_be_a_number_or_a_schedule_of_keras():
    assert temperature(mtl.GumbelMatrix(2, 2, temperature=3), 100) == 3.0
    schedule = keras.optimizers.schedules.PolynomialDecay(9.0, 10, 1.0)
    layer = mtl.GumbelMatrix(2, 2, temperature=schedule)
    again = mtl.GumbelMatrix.from_config(layer.get_config())
    for each in (layer, again):
        assert [temperature(each, step) for step in (0, 5, 20)] == pytest.approx([9.0, 5.0, 1.0])


def penalties(layer):
    layer(np.ones((2, 5), "float32"))
    return sorted(float(array(loss)) for loss in layer.losses)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_the_budget_is_over_all_levels_and_the_entropy_is_their_mean_in_float32(rng, dtype):
    p = [rng.uniform(0.1, 0.9, (3, 4)), rng.uniform(0.1, 0.9, (3, 2))]
    layer = mtl.GumbelMatrix(3, (4, 2), budget=0.3, budget_weight=2.0, entropy_weight=0.5, dtype=dtype)
    layer.build((None, 5))
    layer.set_probabilities(p)
    entries = np.concatenate(p, axis=1)
    budget = 2.0 * (entries.mean() - 0.3)
    entropy = -(entries * np.log(entries) + (1 - entries) * np.log(1 - entries)).mean()
    assert penalties(layer) == pytest.approx(sorted([budget, 0.5 * entropy]), rel=1e-5)
    layer.set_probabilities([p[0] * 0.1, p[1] * 0.1])
    assert penalties(layer)[0] == 0.0
    assert penalties(made(rng, 3, 4)) == []


def fitted(layer, rows=64, epochs=1, optimizer="SGD", rate=0.1, targets=None):
    """`fit` of the bare layer to targets, of zeros by default."""
    model = keras.Sequential([keras.Input((5,)), layer])
    model.compile(getattr(keras.optimizers, optimizer)(rate), "mse", jit_compile=BACKEND == "jax")
    x = np.random.default_rng(5).normal(size=(rows, 5)).astype("float32")
    targets = np.tile(np.zeros(layer.compute_output_shape((1, 5))[1:]) if targets is None else targets, (rows, 1, 1))
    return model.fit(x, targets, batch_size=16, epochs=epochs, verbose=0).history


def test_a_budget_holds_the_mean_probability_down(rng):
    kept = made(rng, 2, (3, 3), ((2,), (2,)), p_init=0.9, logit_speed=1.0, seed=1)
    limited = made(rng, 2, (3, 3), ((2,), (2,)), p_init=0.9, logit_speed=1.0, seed=1, budget=0.4, budget_weight=5.0)
    for layer in (kept, limited):
        allocate(layer, [np.ones((2, 3), bool)] * 2, certainty=0.9)
        layer.levels[0].trainable = layer.levels[1].trainable = False
        fitted(layer, rows=16 * 40, epochs=2, optimizer="Adam", rate=0.05, targets=np.zeros((2, 2)))
    mean = np.concatenate(limited.probabilities()).mean()
    assert 0.2 < mean < 0.45 < np.concatenate(kept.probabilities()).mean()


# ------------------------------------------------------------------------------------------------------------ training


def test_each_task_learns_to_use_the_component_that_fits_it():
    values = np.array([[2.0, 0.0], [0.0, 2.0], [-2.0, -2.0]], "float32")
    layer = telltale(3, 3, values, temperature=1.0, logit_speed=1.0, seed=0)
    layer.levels[0].trainable = False
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=BACKEND == "jax")
    targets = np.array([[2.0, 0.0], [-2.0, -2.0], [1.0, 1.0]])  # the last one: components 0 and 1 together
    model.fit(np.zeros((3200, 1)), np.tile(targets, (3200, 1, 1)), batch_size=16, epochs=2, verbose=0)
    assert layer.allocation()[0].astype(int).tolist() == [[1, 0, 0], [0, 0, 1], [1, 1, 0]]
    np.testing.assert_allclose(numbers(layer(np.zeros((1, 1), "float32")))[0], targets, atol=1e-6)


def test_only_training_batches_count_and_only_they_are_drawn(rng):
    layer = made(rng, 3, 8, (4,), seed=1)
    fitted(layer, rows=64, epochs=2)
    assert step_of(layer) == 2 * 64 // 16
    x = rng.normal(size=(3, 5)).astype("float32")
    once = numbers(layer(x))
    for _ in range(3):
        np.testing.assert_array_equal(numbers(layer(x)), once)
    assert step_of(layer) == 8
    for _ in range(2):
        layer(x, training=True)
    assert step_of(layer) == 10


@pytest.mark.parametrize("seed", [3, None])
def test_a_saved_and_loaded_layer_goes_on_drawing_where_it_was(tmp_path, seed):
    layer = telltale(20, 5, seed=seed)
    drawn(layer), drawn(layer)
    inputs = keras.Input((1,))
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded, clone = keras.models.load_model(tmp_path / "model.keras"), keras.models.clone_model(model)
    if seed is None:
        assert int(array(clone.layers[-1].matrices.seed)) != int(array(layer.matrices.seed))
    clone.load_weights(tmp_path / "model.weights.h5")
    expected = drawn(layer)
    for each in (loaded.layers[-1], clone.layers[-1]):
        assert step_of(each) == 2
        np.testing.assert_array_equal(drawn(each), expected)


def test_a_training_without_a_seed_is_continued_from_a_file_as_it_would_have_gone_on(rng, tmp_path):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, mtl.GumbelMatrix(2, 6, (4,))(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=BACKEND == "jax")
    rows = rng.normal(size=(40, 5)).astype("float32"), np.ones((40, 2, 4), "float32")
    model.fit(*rows, batch_size=8, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(*rows, batch_size=8, shuffle=False, verbose=0)
    for mine, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_allclose(array(mine), array(theirs), atol=1e-6)


@pytest.mark.needs_tensorflow
def test_two_replicas_draw_and_learn_as_one_device_does():
    done = run_on_two_devices("""
        from contextlib import nullcontext
        from gumbel_reference import logits_of
        from test_gumbel_training import fitted
        found = []
        for scope in (strategy.scope, nullcontext):
            with scope():
                keras.utils.set_random_seed(0)
                layer = mtl.GumbelMatrix(2, (3, 3), ((4,), (4,)), p_init=0.7, logit_speed=9.0, temperature=1.0, seed=1)
                fitted(layer, rows=64)
            found.append((np.concatenate(logits_of(layer)), int(layer.step.numpy())))
        (two, steps), (one, _) = found
        np.testing.assert_allclose(two, one, atol=1e-5)
        assert steps == 4 and np.ptp(one) > 0.01, (steps, one)
        print("equal")
        """)
    assert done.stdout.strip().endswith("equal"), done.stdout + done.stderr


def test_in_bfloat16_weights_are_float32_and_rows_of_a_batch_agree_with_float32(rng):
    x = rng.normal(size=(6, 5)).astype("float32")
    exact = made(rng, 3, (4, 3), ((6,), (2,)))
    mixed = mtl.GumbelMatrix(3, (4, 3), ((6,), (2,)), dtype="mixed_bfloat16")
    mixed.build(x.shape)
    for mine, theirs in zip(mixed.weights, exact.weights, strict=True):
        mine.assign(theirs)
    assert {"float32", INTEGER} == {getattr(w.dtype, "name", w.dtype) for w in mixed.weights}
    for arguments in ({}, {"task": 1}):
        expected, found = exact(x, **arguments), mixed(x, **arguments)
        assert "bfloat16" in str(found.dtype)
        np.testing.assert_allclose(numbers(ops.cast(found, "float32")), numbers(expected), atol=0.1)


def test_configs_of_layers_with_parts_survive_after_they_are_built(rng):
    parts = [[LAYERS.Dense(4), keras.Sequential([LAYERS.Dense(4), LAYERS.ReLU()])]]
    layer = mtl.GumbelMatrix(2, components=parts, after=[LAYERS.BatchNormalization()], budget=0.0)
    x = rng.normal(size=(6, 5)).astype("float32")
    layer(x)
    again = mtl.GumbelMatrix.from_config(layer.get_config())
    again(x)
    assert again.components[0][0] is not layer.components[0][0]
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(numbers(again(x)), numbers(layer(x)))


# ------------------------------------------------------------------------------------------------------------ refusals

DENSE = {"num_tasks": 2, "num_components": 3}


def test_arguments_of_dense_components_are_refused_beside_components():
    components = [keras.layers.Dense(3)]
    with pytest.raises(
        ValueError,
        match=r"`components` must come without arguments of dense components, .*; "
        r"received: dropout=0.5, kernel_regularizer=\{.*L2.*\}, hidden_units=\[8\]",
    ):
        mtl.GumbelMatrix(2, components=components, dropout=0.5, kernel_regularizer="l2", hidden_units=(8,))
    again = mtl.GumbelMatrix.from_config(mtl.GumbelMatrix(2, components=components).get_config())
    assert len(again.components[0]) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_tasks": 0}, "`num_tasks` must be an integer of at least 1; received: num_tasks=0"),
        ({"num_components": (3, 0)}, "`num_components` must be an integer of at least 1; received: num_components=0"),
        ({"num_components": None}, "One of `num_components` and `components` must be given; received: num_components="),
        (
            {"components": [1]},
            "One of `num_components` and `components` must be given; received: num_components=3",
        ),
        (
            {"hidden_units": ((3,), (4,))},
            "`hidden_units` must be a number, or a sequence with an entry for each of the",
        ),
        ({"p_init": 0}, "`p_init` must be above 0 and below 1; received: p_init=0"),
        ({"num_components": ()}, "`num_components` must have a number for each of one or more levels; received: nu"),
        ({"p_init": 1.0}, "`p_init` must be above 0 and below 1; received: p_init=1.0"),
        ({"temperature": 0}, "`temperature` must be above 0, a Keras schedule or None; received: temperature=0"),
        ({"temperature": "cold"}, "`temperature` must be above 0, a Keras schedule or None; received: temperature='co"),
        ({"logit_speed": 0}, "`logit_speed` must be above 0, or None; received: logit_speed=0"),
        ({"budget": 1.1}, "`budget` must be in [0, 1]; received: budget=1.1"),
        ({"budget_weight": -1}, "`budget_weight` must be a number of at least 0; received: budget_weight=-1"),
        ({"entropy_weight": -1}, "`entropy_weight` must be a number of at least 0; received: entropy_weight=-1"),
        ({"seed": -1}, "`seed` must be an integer from 0 to 2147483647; received: seed=-1"),
        ({"dropout": 1}, "`dropout` must be in [0, 1); received: dropout=1"),
        ({"after": [None, None]}, "`after` must have a Keras layer or None for each of the 1 levels; received: after="),
        ({"after": "pool"}, "`after` must have a Keras layer or None for each of the 1 levels; received: after='pool'"),
    ],
)
def test_a_bad_argument_is_told_by_name(arguments, text):
    with pytest.raises(ValueError) as caught:
        mtl.GumbelMatrix(**{**DENSE, **arguments})
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("components", [[], [[]], [1], [LAYERS.ReLU(), 1], [[LAYERS.ReLU()], []], LAYERS.ReLU(), 3])
def test_components_must_be_lists_of_layers(components):
    with pytest.raises(
        ValueError, match="`components` must be a list of Keras layers, or such a list for each level; "
    ):
        mtl.GumbelMatrix(2, components=components)


def test_a_layer_in_two_places_is_refused():
    twice = LAYERS.Dense(3, name="twice")
    for arguments in ({"components": [twice, twice]}, {"components": [LAYERS.Dense(3), twice], "after": twice}):
        with pytest.raises(ValueError, match=r"must be distinct layers; received more than once: \['twice'\]"):
            mtl.GumbelMatrix(2, **arguments)


def test_components_of_different_shapes_are_refused():
    layer = mtl.GumbelMatrix(2, components=[LAYERS.Dense(3, name="a"), LAYERS.Dense(4, name="b")])
    with pytest.raises(ValueError, match=r"must have outputs of one known shape; received: \(3,\) of a, \(4,\) of b"):
        layer.build((None, 5))


@pytest.mark.parametrize("shape", [(4,), (4, 3, 5), (4, 2, 5, 5)])
def test_an_input_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError) as caught:
        mtl.GumbelMatrix(2, 3).build(shape)
    assert str(caught.value) == (
        f"`inputs` must be [batch, dim] or [batch, num_tasks, dim]; received: shape={shape}, num_tasks=2"
    )


@pytest.mark.parametrize("shape", [(4,), (4, 3, 5), (4, 2, 5, 5)])
def test_a_built_layer_refuses_it_too(rng, shape):
    layer = made(rng, 2, 3)
    with pytest.raises(ValueError, match=r"`inputs` must be \[batch, dim\] or \[batch, num_tasks, dim\]; received: sh"):
        layer.call(np.ones(shape, "float32"))
    assert tuple(layer(np.ones((4, 2, 5), "float32")).shape)[:2] == (4, 2)


def test_a_task_that_is_none_is_refused(rng):
    layer = made(rng, 2, 3)
    with pytest.raises(ValueError, match="`task` must be an index below 2; received: task=2"):
        layer(np.ones((2, 5), "float32"), task=2)
    with pytest.raises(ValueError, match=r"`inputs` must be \[batch, ...\] where `task` is given; received: shape=\(2"):
        layer(np.ones((2, 2, 5), "float32"), task=0)


def test_probabilities_that_cannot_be_are_refused(rng):
    layer = made(rng, 2, 3)
    text = r"`probabilities` must be arrays of the shapes \[\(2, 3\)\] with entries above 0 and below 1; received: prob"
    for wrong in ([np.full((2, 2), 0.5)], [], [np.ones((2, 3))], [np.full((2, 3), np.nan)]):
        with pytest.raises(ValueError, match=text):
            layer.set_probabilities(wrong)
    for each in ("probabilities", "allocation", "empty_tasks", "freeze"):
        with pytest.raises(
            ValueError, match="`unbuilt` must be built before it has an allocation: call it on data or "
        ):
            getattr(mtl.GumbelMatrix(2, 3, name="unbuilt"), each)()


def test_logits_are_finite_for_extreme_probabilities():
    layer = telltale(1, 2)
    layer.set_probabilities([[[1e-30, 1 - 1e-16]]])
    assert np.isfinite(layer.matrices.logits()).all() and drawn(layer).tolist() == [[False, True]]
    np.testing.assert_allclose(sigmoid(logits_of(telltale(1, 2))[0]), 0.5)


def test_probabilities_are_exact_for_logits_of_any_size():
    layer = telltale(1, 4)
    layer.matrices.assign([np.array([[-200.0, -50.0, 3.0, 200.0]])])  # float32 has no exp(200)
    expected = [[0.0, np.exp(-50.0), 1 / (1 + np.exp(-3.0)), 1.0]]
    np.testing.assert_allclose(layer.probabilities()[0], expected, rtol=1e-5)
