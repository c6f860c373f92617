"""The Gumbel-Matrix layer computes what NumPy says, draws with its probabilities, and learns by the closed form."""

import numpy as np
import pytest
from conftest import BACKEND
from gradients import gradients
from gumbel_reference import (
    InTraining,
    allocate,
    averages,
    drawn,
    forward,
    logits_of,
    made,
    numbers,
    random_matrix,
    step_of,
    telltale,
)
from reference import array, sigmoid
from scipy import stats

import mtl_layers as mtl
from mtl_layers._keras import keras, ops
from mtl_layers.sharing._gumbel import logistic_noise

SHAPES = [(1, 1, (3,)), (3, 4, (6, 2)), (1, (2, 3), ((4,), (3,))), (4, (3, 2, 4), ((4, 3), (2,), (3,)))]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
LAYERS = keras.layers


@pytest.fixture
def x(rng):
    return rng.normal(size=(7, 5)).astype("float32")


# ---------------------------------------------------------------------------------------------------------- forward


@every_shape
@pytest.mark.parametrize("one_input_each", [False, True])
def test_in_evaluation_it_is_the_reference_at_the_most_likely_matrices(rng, shape, one_input_each):
    layer = made(rng, *shape)
    x = rng.normal(size=(7, shape[0], 5) if one_input_each else (7, 5)).astype("float32")
    for _ in range(3):
        matrices = [random_matrix(rng, *each.shape) for each in layer.probabilities()]
        allocate(layer, matrices)
        for matrix, found in zip(matrices, layer.allocation(), strict=True):
            np.testing.assert_array_equal(found, matrix)
        np.testing.assert_allclose(numbers(layer(x)), forward(layer, matrices, x), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(numbers(layer(x, training=False)), numbers(layer(x)))


@every_shape
def test_in_training_it_is_the_reference_at_the_matrices_drawn(rng, x, shape):
    layer = made(rng, *shape, seed=3)
    counts = [each.shape[1] for each in layer.probabilities()]
    seen = set()
    for step in range(4):
        noise = np.split(numbers(logistic_noise((shape[0], sum(counts)), 3, step)), np.cumsum(counts)[:-1], axis=1)
        matrices = [logits + own >= 0 for logits, own in zip(logits_of(layer), noise, strict=True)]
        assert step_of(layer) == step
        y = numbers(layer(x, training=True))
        np.testing.assert_allclose(y, forward(layer, matrices, x), rtol=1e-5, atol=1e-5)
        seen.add(str(matrices))
    assert len(seen) > 1


def test_without_an_active_component_the_output_is_zero_whatever_the_input(rng, x):
    layer = made(rng, 2, (3, 2), ((4,), (3,)), allow_empty=True)
    empty, full = np.zeros((2, 3), bool), np.ones((2, 2), bool)
    empty[1] = True
    allocate(layer, [empty, full])
    y = numbers(layer(x))
    np.testing.assert_allclose(y, forward(layer, [empty, full], x), atol=1e-5)
    assert np.ptp(y[:, 0], axis=0).max() == 0 < np.ptp(y[:, 1], axis=0).max()  # level 2 reads zeros: its biases alone
    allocate(layer, [full.repeat(3, 1)[:, :3], np.array([[False, False], [True, False]])])
    y = numbers(layer(x))
    assert not y[:, 0].any() and y[:, 1].any()


def test_components_of_any_kind_are_averaged_and_what_comes_after_is_applied_to_the_average(rng):
    images = rng.normal(size=(2, 4, 4, 3)).astype("float32")
    convolution = LAYERS.Conv2D(3, 3, padding="same", activation="relu")
    pooling, identity = LAYERS.AveragePooling2D(3, 1, "same"), LAYERS.Activation("linear")
    last = keras.Sequential([LAYERS.Conv2D(2, 1), LAYERS.Activation("tanh")])
    components = [[convolution, pooling, identity], [last, LAYERS.Conv2D(2, 2, padding="same")]]
    layer = mtl.GumbelMatrix(2, components=components, after=[LAYERS.MaxPooling2D(2), LAYERS.Flatten()])
    assert tuple(layer(images).shape) == (2, 2, 8)
    matrices = [np.array([[1, 0, 1], [1, 1, 1]], bool), np.array([[1, 0], [1, 1]], bool)]
    allocate(layer, matrices)
    values = [images, images]
    for parts, matrix, after in zip(components, matrices, (LAYERS.MaxPooling2D(2), LAYERS.Flatten()), strict=True):
        values = averages([[numbers(part(value)) for part in parts] for value in values], matrix)
        values = [numbers(after(value)) for value in values]
    np.testing.assert_allclose(numbers(layer(images)), np.stack(values, axis=1), atol=1e-5)


def test_components_know_whether_it_is_training():
    layer = mtl.GumbelMatrix(2, components=[[LAYERS.Dropout(0.5)], [LAYERS.BatchNormalization(momentum=0.0)]])
    x = np.arange(1, 41, dtype="float32")[:, None]
    allocate(layer_built(layer, x), [np.ones((2, 1), bool)] * 2, certainty=1 - 1e-6)
    np.testing.assert_allclose(numbers(layer(x))[:, 0], x, rtol=1e-2)  # the moving mean is 0 as yet
    y = numbers(layer(x, training=True))
    assert abs(y.mean()) < 1e-3 and 1 < len(np.unique(y[:, 0].round(4))) < 40  # what was dropped has one value
    assert array(layer.levels[1].components.parts[0].moving_mean)[0] != 0


def layer_built(layer, x):
    layer(x)
    return layer


# ------------------------------------------------------------------------------------------------------ one task each


@every_shape
def test_one_task_alone_is_the_stack_at_that_task(rng, x, shape):
    layer = made(rng, *shape)
    stack = numbers(layer(x))
    for task in {0, shape[0] - 1}:
        np.testing.assert_allclose(numbers(layer(x, task=task)), stack[:, task], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(numbers(layer(x, task=np.int32(task))), stack[:, task], rtol=1e-5, atol=1e-6)
    tasks = rng.integers(0, shape[0], len(x)).astype("int32")
    for given in (tasks, tasks[:, None]):
        found = numbers(layer(x, task=given))
        np.testing.assert_allclose(found, stack[np.arange(len(x)), tasks], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_row_whose_index_is_no_tasks_is_nan_where_it_is_not_refused(rng, dtype):
    layer = mtl.GumbelMatrix(2, components=[LAYERS.Conv1D(3, 2), LAYERS.Conv1D(3, 2)], dtype=dtype)
    x = rng.normal(size=(4, 6, 2)).astype("float32")
    tasks = np.array([1, -1, 0, -2], "int32")
    expected = numbers(ops.cast(layer(x), "float32"))[np.arange(4), tasks]
    expected[[1, 3]] = np.nan
    found = layer(x, task=tasks)
    assert tuple(found.shape) == (4, 5, 3) and found.dtype == layer(x).dtype
    np.testing.assert_allclose(numbers(ops.cast(found, "float32")), expected, rtol=1e-2, atol=1e-2)
    tasks[1] = 2
    if BACKEND == "jax":
        np.testing.assert_array_equal(numbers(ops.any(ops.isnan(layer(x, task=tasks)), axis=(1, 2))), [0, 1, 0, 1])
    else:
        with pytest.raises(Exception, match=r"indices\[1\] = 2 is not in \[0, 2\)"):
            layer(x, task=tasks)


def test_a_layer_may_meet_one_task_first_and_the_stack_of_all_later(rng, x):
    lower, upper = made(rng, 3, 2, (4,)), mtl.GumbelMatrix(3, 2, (3,))
    alone = [numbers(upper(lower(x, task=task), task=task)) for task in range(3)]
    np.testing.assert_allclose(numbers(upper(lower(x))), np.stack(alone, axis=1), rtol=1e-5, atol=1e-6)


def test_a_model_of_one_task_per_batch_trains_saves_and_moves_the_logits_of_that_task_alone(rng, tmp_path):
    inputs, task = keras.Input((5,), name="x"), keras.Input((), dtype="int32", name="task")
    layer = mtl.GumbelMatrix(3, (4, 3), ((6,), (2,)), p_init=0.7, seed=1)
    model = keras.Model({"x": inputs, "task": task}, layer(inputs, task=task))
    assert tuple(model.output.shape) == (None, 2)
    model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=BACKEND == "jax")
    before = logits_of(layer)
    rows = {"x": rng.normal(size=(32, 5)).astype("float32"), "task": np.full(32, 1, "int32")}
    model.fit(rows, rng.normal(size=(32, 2)).astype("float32"), batch_size=8, verbose=0)
    assert step_of(layer) == 4
    for old, new in zip(before, logits_of(layer), strict=True):
        assert (old[[0, 2]] == new[[0, 2]]).all() and (old[1] != new[1]).any()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    rows["task"] = np.arange(32, dtype="int32") % 3
    np.testing.assert_array_equal(model.predict(rows, verbose=0), loaded.predict(rows, verbose=0))


# ---------------------------------------------------------------------------------------------------------- drawing


def test_entries_are_drawn_with_their_probabilities_and_independently():
    p = np.array([0.05, 0.3, 0.5, 0.97])
    layer = telltale(5000, 4, seed=7)
    layer.set_probabilities([np.tile(p, (5000, 1))])
    first, second = drawn(layer), drawn(layer)
    for matrix in (first, second):
        active = matrix.sum(axis=0)
        for component in range(4):
            expected = 5000 * np.array([p[component], 1 - p[component]])
            assert stats.chisquare([active[component], 5000 - active[component]], expected).pvalue > 0.01
        patterns = np.bincount(matrix @ [8, 4, 2, 1], minlength=16)
        bits = np.array([[int(bit) for bit in f"{n:04b}"] for n in range(16)])
        expected = 5000 * np.where(bits, p, 1 - p).prod(axis=1)
        often = expected > 5
        assert stats.chisquare(*(np.append(v[often], v[~often].sum()) for v in (patterns, expected))).pvalue > 0.01
    table = [[(first == a)[:, 2] @ (second == b)[:, 2] for b in (0, 1)] for a in (0, 1)]
    assert stats.chi2_contingency(np.array(table)).pvalue > 0.01  # one batch says nothing of the next


def test_a_seed_and_the_number_of_batches_fix_what_is_drawn():
    one, other, third = telltale(9, 9, seed=7), telltale(9, 9, seed=7), telltale(9, 9, seed=8)
    draws = [drawn(one) for _ in range(3)]
    assert (draws[0] != draws[1]).any() and (drawn(third) != draws[0]).any()
    other.step.assign(2)
    np.testing.assert_array_equal(drawn(other), draws[2])
    assert (drawn(telltale(9, 9)) != drawn(telltale(9, 9))).any()  # without a seed every layer has its own
    again = mtl.GumbelMatrix.from_config(one.get_config())
    assert again.seed == 7 and mtl.GumbelMatrix(2, 2).seed is None


@pytest.mark.parametrize("p_init", [0.02, 0.5, 0.97])
def test_all_probabilities_start_at_p_init_and_can_be_set(rng, p_init):
    layer = mtl.GumbelMatrix(3, (4, 2), p_init=p_init)
    layer.build((None, 5))
    assert [each.shape for each in layer.probabilities()] == [(3, 4), (3, 2)]
    np.testing.assert_allclose(np.concatenate(layer.probabilities(), axis=1), p_init, rtol=1e-6)
    wanted = [rng.uniform(0.001, 0.999, each.shape) for each in layer.probabilities()]
    layer.set_probabilities(wanted)
    for found, p in zip(layer.probabilities(), wanted, strict=True):
        np.testing.assert_allclose(found, p, rtol=1e-5)


# --------------------------------------------------------------------------------------------------------- gradient


@pytest.mark.parametrize("speed", [1.0, 20.0])
@pytest.mark.parametrize("temperature", [None, 0.7])
def test_the_gradient_of_the_logits_is_that_of_the_softmax_through_the_average(rng, temperature, speed):
    tasks, components, step = 40, 4, 30
    values = rng.normal(size=(components, 3)).astype("float32")
    layer = telltale(tasks, components, values, temperature=temperature, logit_speed=speed, seed=2)
    layer.set_probabilities([rng.uniform(0.1, 0.6, (tasks, components))])
    layer.step.assign(step)
    toward = rng.normal(size=(tasks, 3)).astype("float32")
    (found,) = gradients(
        InTraining(layer), np.zeros((1, 1), "float32"), lambda y: ops.sum(y[0] * toward), layer.matrices.slow_logits
    )
    scores = logits_of(layer)[0] + numbers(logistic_noise((tasks, components), 2, step))
    active = scores >= 0
    count = active.sum(axis=1, keepdims=True)
    assert set(count[:, 0]) >= {0, 1, 2}
    average = np.where(count > 0, (active @ values) / np.maximum(count, 1), 0.0)
    # d average / d entry: toward the component, from the average that there is (from 0, if there is none)
    pull = np.einsum("ku,kcu->kc", toward, values[None] - average[:, None]) / np.maximum(count, 1)
    tau = temperature or max(0.5, 50 / np.sqrt(step + 1))
    soft = sigmoid(scores / tau)
    np.testing.assert_allclose(found, pull * soft * (1 - soft) / tau, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 6, (5, 3)), (2, (6, 6), ((4,), (3,)))], ids=str)
def test_components_that_no_task_uses_get_exactly_no_gradient(rng, x, shape):
    layer = made(rng, *shape, seed=4)
    layer.set_probabilities([np.full((2, 6), 0.3) for _ in layer.levels])
    counts = [6] * len(layer.levels)
    noise = np.split(numbers(logistic_noise((2, sum(counts)), 4, 0)), np.cumsum(counts)[:-1], axis=1)
    used = [(logits + own >= 0).any(axis=0) for logits, own in zip(logits_of(layer), noise, strict=True)]
    assert all(each.any() and not each.all() for each in used)
    for level, active in zip(layer.levels, used, strict=True):
        experts = level.components
        found = gradients(InTraining(layer), x, lambda y: ops.sum(y**2), [*experts.kernels, *experts.biases])
        for each in found:
            moved = np.abs(each).reshape(6, -1).max(axis=1)
            assert (moved[~active] == 0).all()
        assert (np.abs(found[-1])[active].reshape(active.sum(), -1).max(axis=1) > 0).any()


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "RMSprop"])
def test_logit_speed_multiplies_the_learning_rate_of_the_logits_under_any_optimizer(optimizer):
    moves = []
    for speed in (1.0, 5.0):
        layer = telltale(3, 4, np.arange(8.0).reshape(4, 2), logit_speed=speed, seed=6)
        layer.levels[0].trainable = False
        model = keras.Sequential([keras.Input((1,)), layer])
        optimizer_made = getattr(keras.optimizers, optimizer)(1e-3)
        model.compile(optimizer_made, "mse", jit_compile=BACKEND == "jax")
        model.fit(np.ones((8, 1)), np.zeros((8, 3, 2)), batch_size=8, verbose=0)
        moves.append(logits_of(layer)[0])
        assert np.abs(moves[-1]).max() > 1e-5
    np.testing.assert_allclose(moves[1], 5 * moves[0], rtol=1e-3, atol=1e-6)
    assert mtl.GumbelMatrix(7, 2).matrices.speed == 7
