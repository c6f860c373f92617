"""Ways to balance tasks: each against its formula in NumPy, and on a toy where it must matter."""

import json

import numpy as np
import pytest
from conftest import BACKEND
from reference import array

import mtl_layers as mtl
from mtl_layers._keras import keras, ops
from mtl_layers.balancing import (
    BalancedModel,
    DecayingWeights,
    DynamicWeightAverage,
    GradNorm,
    PCGrad,
    UncertaintyWeighting,
)

NAN = float("nan")
TASKS = ("b", "a")


def losses_of(values, tasks=TASKS):
    return {task: ops.convert_to_tensor(float(value)) for task, value in zip(tasks, values, strict=True)}


def shared_line(balancing, optimizer, missing=NAN):
    """Two tasks that predict the same linear function of two features: all that is trained is the line."""
    inputs = keras.Input((2,))
    line = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="line")(inputs)
    outputs = {task: keras.layers.Activation("linear", name=f"out_{task}")(line) for task in TASKS}
    model = BalancedModel(inputs, outputs, balancing)
    model.compile(optimizer, mtl.losses.per_task(dict.fromkeys(TASKS, "mse"), missing_value=missing)["loss"])
    return model


def weights_of(balancing):
    return np.array(ops.convert_to_numpy(balancing.task_weights()))


# --------------------------------------------------------------------------------------------------------- the formulas


@pytest.mark.parametrize("steps", [1, 3])
def test_weights_decay_by_the_formula(steps):
    layer = DecayingWeights({"b": 2.0, "a": 0.5}, {"b": 0.9, "a": 1.1}, steps=steps)
    for step in range(7):
        total = layer(losses_of((3.0, 4.0)), training=True)
        t = step // steps
        assert float(total) == pytest.approx(3.0 * 2.0 * 0.9**t + 4.0 * 0.5 * 1.1**t, rel=1e-6)
        layer(losses_of((3.0, 4.0)), training=False)  # an evaluation does not count
    assert int(array(layer.step)) == 7


def test_uncertainty_is_the_papers_loss():
    layer = UncertaintyWeighting(TASKS, regression=["a"])
    layer.build()
    s = np.array([-3.0, 2.0], "float32")
    layer.log_variances.assign(s)
    expected = 0.7 * np.exp(-s[0]) + s[0] / 2 + 0.4 * np.exp(-s[1]) / 2 + s[1] / 2
    assert float(layer(losses_of((0.7, 0.4)))) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(weights_of(layer), [np.exp(3.0), np.exp(-2.0) / 2], rtol=1e-5)  # above 1 and below
    # A batch without a row of the task says nothing about its noise.
    assert float(layer(losses_of((0.7, 0.0)))) == pytest.approx(0.7 * np.exp(-s[0]) + s[0] / 2, rel=1e-6)


def test_the_average_follows_the_speed_of_losses(rng):
    steps, temperature = 3, 0.7
    layer = DynamicWeightAverage(TASKS, steps, temperature)
    losses = rng.uniform(0.5, 2.0, (15, 2)).astype("float32")
    losses[4, 1] = 0.0  # a batch without a row of the task
    losses[9:12, 0] = 0.0  # a window without any
    found = []
    for pair in losses:
        found.append(weights_of(layer) if layer.built else np.ones(2))
        total = layer(losses_of(pair), training=True)
        assert float(total) == pytest.approx(float((found[-1] * pair).sum()), rel=1e-5)
    windows = losses.reshape(5, steps, 2)
    means = [window.sum(axis=0) / np.maximum((window != 0).sum(axis=0), 1) for window in windows]
    means[3][0] = means[2][0]
    expected = [np.ones(2), np.ones(2)]
    for t in range(2, 5):
        powers = np.exp(means[t - 1] / means[t - 2] / temperature)
        expected.append(2 * powers / powers.sum())
    np.testing.assert_allclose(found, np.repeat(expected, steps, axis=0), rtol=1e-5)


def task_gradients(rng):
    """Gradients of three tasks for three variables: as the layers take them, and in NumPy, the shared ones joined."""
    import tensorflow as tf

    from mtl_layers.balancing._task_gradients import TaskGradients

    kernel = rng.normal(size=(3, 4, 2)).astype("float32")
    own = rng.normal(size=(5,)).astype("float32")
    rows = [rng.integers(0, 6, size) for size in (7, 4, 7)]  # looked up repeatedly
    slices = [rng.normal(size=(len(each), 3)).astype("float32") for each in rows]
    table = np.zeros((3, 6, 3), "float32")
    for task in range(3):
        np.add.at(table[task], rows[task], slices[task])
    sparse = [tf.IndexedSlices(tf.constant(v), tf.constant(i)) for v, i in zip(slices, rows, strict=True)]
    sparse[1] = tf.constant(table[1])  # one task reads the whole table
    given = [
        TaskGradients([tf.constant(each) for each in kernel], tf.Variable(tf.zeros((4, 2))), True),
        TaskGradients(sparse, tf.Variable(tf.zeros((6, 3))), True),
        TaskGradients([None, tf.constant(own), None], tf.Variable(tf.zeros(5)), True),
    ]
    assert [each.shared for each in given] == [True, True, False]
    assert TaskGradients([tf.constant(own)] * 3, tf.Variable(tf.zeros(5)), False).shared is False
    shared = np.concatenate([kernel.reshape(3, -1), table.reshape(3, -1)], axis=1)
    return given, shared, own


def joined(combined):
    import tensorflow as tf

    return np.concatenate([tf.convert_to_tensor(each).numpy().ravel() for each in combined])


@pytest.mark.needs_tensorflow
def test_projected_gradients_are_those_of_the_papers_algorithm(rng):
    layer = PCGrad(("c", *TASKS), seed=3)
    layer.build()
    seen, moved = set(), 0.0
    for step in range(8):
        given, g, own = task_gradients(rng)
        orders = layer.orders(step).numpy()
        seen.add(orders.tobytes())
        projected = g.astype("float64").copy()
        for i in range(3):  # Algorithm 1
            for j in orders[i]:
                dot = projected[i] @ g[j]
                if j != i and dot < 0:
                    projected[i] -= dot / (g[j] @ g[j]) * g[j]
        combined, weights = layer.combine(None, given)
        assert int(layer.step.numpy()) == step + 1
        np.testing.assert_allclose(joined(combined[:2]), projected.sum(axis=0), rtol=2e-4, atol=2e-5)
        np.testing.assert_array_equal(combined[2].numpy(), own)  # of one task alone: as it is
        assert (weights.numpy() >= 1 - 1e-6).all()
        moved = max(moved, np.linalg.norm(projected - g))
    assert len(seen) > 1 and moved > 0.5


def one_conflict(layer, seed):
    """A compiled model under PCGrad, a batch, each variable's gradients of both tasks, and what of it both move."""
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    inputs = keras.Input((3,))
    hidden = layer(keras.layers.Dense(4, activation="tanh")(inputs))
    towers = mtl.Towers({task: mtl.towers.Regression(()) for task in TASKS}, kernel_initializer="ones")
    model = BalancedModel(inputs, towers(hidden), PCGrad(TASKS))
    model.compile(keras.optimizers.SGD(0.1), **mtl.losses.per_task(dict.fromkeys(TASKS, "mse")))
    x = np.random.default_rng(seed).normal(size=(16, 3)).astype("float32")
    y = {"b": np.full((16, 1), 5.0, "float32"), "a": np.full((16, 1), -5.0, "float32")}
    with tf.GradientTape(persistent=True) as tape:
        predictions = model(x)
        losses = [tf.reduce_mean(tf.square(predictions[task] - y[task])) for task in TASKS]
    gradients, shared = [], []
    for variable in model.trainable_weights:
        pair = [tape.gradient(loss, variable, unconnected_gradients="zero") for loss in losses]
        pair = np.stack([array(gradient) for gradient in pair])
        # Whole experts, of a kernel or bias [experts, ...], and whole columns of a gate or another kernel.
        axes = (2, 3) if pair.ndim == 4 else (1,) if pair.ndim == 3 else ()
        moved = (np.abs(pair).sum(axes, keepdims=True) > 0).all(axis=0)
        gradients.append(pair)
        shared.append(np.broadcast_to(moved, pair.shape[1:]))
    return model, (x, y), gradients, shared


@pytest.mark.needs_tensorflow
@pytest.mark.parametrize(
    "layer",
    [
        lambda: mtl.CGC(2, 1, 1, (4,)),
        lambda: mtl.PLE(2, 2, 1, 1, (4,), activation="tanh"),
        lambda: mtl.CGC(2, 1, 0, (4,)),
        lambda: mtl.AdaTT(2, 2, (2, 1), (1, 1), ((4,), (4,)), activation="tanh"),
    ],
)
def test_experts_and_gates_of_one_task_are_not_projected(layer):
    for seed in range(20):
        model, batch, gradients, shared = one_conflict(layer(), seed)
        g = [
            np.concatenate([pair[task][which] for pair, which in zip(gradients, shared, strict=True)])
            for task in (0, 1)
        ]
        if g[0] @ g[1] < 0:
            break
    assert g[0] @ g[1] < 0
    weights = [1 - g[0] @ g[1] / (g[0] @ g[0]), 1 - g[0] @ g[1] / (g[1] @ g[1])]
    before = [array(variable) for variable in model.trainable_weights]
    model.train_on_batch(*batch)
    apart = 0
    for variable, old, (one, other), which in zip(model.trainable_weights, before, gradients, shared, strict=True):
        step = np.where(which, weights[0] * one + weights[1] * other, one + other)
        np.testing.assert_allclose(array(variable), old - 0.1 * step, rtol=1e-4, atol=1e-4)
        apart += not which.all()
    assert apart > 2  # not only the two of the towers


@pytest.mark.needs_tensorflow
def test_gradient_norms_move_weights_by_the_papers_formula(rng):
    alpha, rate, tasks = 0.7, 0.05, ("c", *TASKS)
    layer = GradNorm(tasks, alpha, optimizer=keras.optimizers.Adam(rate, epsilon=1e-7))
    layer.build()
    w, m, v, first = np.ones(3), np.zeros(3), np.zeros(3), None
    for step in range(1, 8):
        given, g, own = task_gradients(rng)
        losses = rng.uniform(0.5, 2.0, 3)
        combined, weights = layer.combine(ops.convert_to_tensor(losses.astype("float32")), given)
        np.testing.assert_allclose(weights.numpy(), w, rtol=1e-4)
        np.testing.assert_allclose(joined(combined[:2]), w @ g, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(combined[2].numpy(), w[1] * own, rtol=1e-4)
        first = losses if first is None else first
        norms = np.linalg.norm(g, axis=1)
        r = losses / first / (losses / first).mean()
        slope = np.sign(w * norms - (w * norms).mean() * r**alpha) * norms
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        w = w - rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-7)
        w = 3 * w / w.sum()
    assert np.abs(w - 1).max() > 0.02


@pytest.mark.needs_tensorflow
def test_gradient_norms_leave_an_absent_task_out_of_the_means():
    import tensorflow as tf

    layer = GradNorm(("b", "a", "c"), alpha=0.0, optimizer=keras.optimizers.SGD(0.01))
    layer.build()
    layer._learn(tf.constant([2.0, 1.0, 0.0]), tf.constant([3.0, 1.6, 0.0]), layer.task_weights())
    # The mean norm is 2.3, which 1.6 is to come up to; of three tasks it would be 1.53. Scaled from 2.986 to 3.
    np.testing.assert_allclose(weights_of(layer), np.array([0.97, 1.016, 1.0]) * 3 / 2.986, rtol=1e-5)
    np.testing.assert_array_equal(array(layer.first_loss), [2.0, 1.0, 0.0])

    layer = GradNorm(("b", "a", "c"), alpha=1.0, optimizer=keras.optimizers.SGD(0.01))
    layer.build()
    for losses in ([2.0, 4.0, 1.0], [1.0, 2.0, 0.0]):  # both have come to a half, at one norm: nothing is to be done
        layer.task_weight.assign([1.0, 1.0, 1.0])
        layer._learn(tf.constant(losses), tf.constant([1.0, 1.0, 0.0]), layer.task_weights())
    np.testing.assert_array_equal(weights_of(layer), [1.0, 1.0, 1.0])
    layer._learn(tf.zeros(3), tf.zeros(3), layer.task_weights())  # a batch of nobody's rows
    np.testing.assert_array_equal(weights_of(layer), [1.0, 1.0, 1.0])


@pytest.mark.needs_tensorflow
def test_gradient_norms_keep_equal_tasks_equal_though_one_is_seldom_there(rng):
    tasks, count = ("b", "a", "c"), 400
    inputs = keras.Input((2,))
    line = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="line")(inputs)
    outputs = {task: keras.layers.Activation("linear", name=f"out_{task}")(line) for task in tasks}
    layer = GradNorm(tasks, alpha=0.5)
    model = BalancedModel(inputs, outputs, layer)
    model.compile(keras.optimizers.SGD(0.01), **mtl.losses.per_task(dict.fromkeys(tasks, "mse"), missing_value=NAN))
    x = rng.normal(size=(count * 8, 2)).astype("float32")
    y = (x @ [[1.0], [-2.0]] + 0.5 * rng.normal(size=(count * 8, 1))).astype("float32")
    seldom = np.where(np.repeat(rng.random(count) < 0.1, 8)[:, None], y, NAN)
    model.fit(x, {"b": y, "a": y, "c": seldom}, batch_size=8, shuffle=False, verbose=0)
    np.testing.assert_allclose(weights_of(layer), [1.0, 1.0, 1.0], atol=0.3)  # were .002, .001 and 2.997


# ------------------------------------------------------------------------------------------------ where it must matter


def test_decay_shifts_the_solution_to_the_task_whose_weight_stays():
    x, y = np.tile([[1.0, 0.0]], (64, 1)).astype("float32"), {"b": np.zeros(64), "a": np.ones(64)}
    found = {}
    for decay in (1.0, 0.9):
        model = shared_line(DecayingWeights({"b": 1.0, "a": 1.0}, {"b": 1.0, "a": decay}), keras.optimizers.SGD(0.1))
        model.fit(x, y, batch_size=1, epochs=2, verbose=0)
        found[decay] = float(array(model.trainable_weights[0])[0, 0])
    assert found[1.0] == pytest.approx(0.5, abs=1e-4)  # (1 * 0 + w * 1) / (1 + w)
    assert found[0.9] == pytest.approx(0.0, abs=1e-3)


def test_uncertainty_finds_the_variance_of_the_noise(rng):
    x = rng.normal(size=(512, 2)).astype("float32")
    noise = {"b": 0.1, "a": 2.0}
    y = {task: (x @ [1.0, -1.0] + sd * rng.normal(size=512)).astype("float32") for task, sd in noise.items()}
    layer = UncertaintyWeighting(TASKS, regression=TASKS)
    model = shared_line(layer, keras.optimizers.Adam(0.05))
    many = {task: np.tile(values, 100) for task, values in y.items()}
    model.fit(np.tile(x, (100, 1)), many, batch_size=128, shuffle=False, verbose=0)
    line = np.linalg.lstsq(x, y["b"], rcond=None)[0]
    of_line = [np.mean((x @ line - y[task]) ** 2) for task in TASKS]
    np.testing.assert_allclose(np.exp(array(layer.log_variances)), of_line, rtol=0.1)
    np.testing.assert_allclose(np.exp(array(layer.log_variances)), [0.01, 4.0], rtol=0.2)
    assert (weights_of(layer) > 1).tolist() == [True, False]
    # The noisy task has next to no say: the line is that of the exact one.
    np.testing.assert_allclose(array(model.trainable_weights[0]).ravel(), line, atol=0.02)


def test_the_average_helps_the_task_that_stands_still():
    x = np.ones((40, 2), "float32")
    layer = DynamicWeightAverage(TASKS, steps=4, temperature=0.5)
    model = shared_line(layer, keras.optimizers.SGD(0.02))
    labels = {"b": np.ones(40, "float32"), "a": np.where(np.arange(40) % 2, 101.0, -99.0).astype("float32")}
    history = model.fit(x, labels, batch_size=10, epochs=4, shuffle=False, verbose=0).history
    falls = history["b_loss"][1] / history["b_loss"][0]
    assert falls < 0.7 and history["a_loss"][1] / history["a_loss"][0] > 0.99
    expected = 2 / (1 + np.exp((falls - 1.0) / 0.5))
    assert history["a_weight"][:2] == [1.0, 1.0] and history["a_weight"][2] == pytest.approx(expected, rel=1e-3)


@pytest.mark.needs_tensorflow
def test_projection_keeps_a_step_from_raising_the_other_tasks_loss():
    """Conflicting quadratics of different curvature: the summed gradients climb one of them, the projected neither."""
    x = np.array([[10.0, 0.0], [-1.0, 1.0]], "float32")
    y = {"b": np.array([1.0, NAN], "float32"), "a": np.array([NAN, 1.0], "float32")}

    def after_a_step(balancing):
        model = shared_line(balancing, keras.optimizers.SGD(1e-3))
        model.fit(x, y, batch_size=2, verbose=0)
        w = array(model.trainable_weights[0]).ravel()
        return w, {"b": (w @ x[0] - 1) ** 2, "a": (w @ x[1] - 1) ** 2}

    g = np.stack([-2 * x[0], -2 * x[1]])
    assert g[0] @ g[1] < 0
    summed, loss = after_a_step(DecayingWeights(dict.fromkeys(TASKS, 1.0)))
    np.testing.assert_allclose(summed, -1e-3 * g.sum(axis=0), rtol=1e-5)
    assert loss["b"] < 1 < loss["a"]
    projected, loss = after_a_step(PCGrad(TASKS))
    h = g - (g[0] @ g[1]) * g[::-1] / (g[::-1] ** 2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(projected, -1e-3 * h.sum(axis=0), rtol=1e-4)
    assert max(loss.values()) < 1


@pytest.mark.needs_tensorflow
def test_gradient_norms_meet_where_one_loss_is_a_hundred_times_the_other():
    inputs = keras.Input((2,))
    line = keras.layers.Dense(1, use_bias=False, name="line")(inputs)
    heads = {
        task: keras.layers.Dense(
            1, use_bias=False, kernel_initializer=keras.initializers.Constant(scale), trainable=False, name=task
        )(line)
        for task, scale in (("b", 1.0), ("a", 10.0))
    }
    layer = GradNorm(TASKS, alpha=0.0, layer="line", optimizer=keras.optimizers.Adam(0.01))
    model = BalancedModel(inputs, heads, layer)
    model.compile(keras.optimizers.SGD(0.0), **mtl.losses.per_task(dict.fromkeys(TASKS, "mse")))
    x = np.ones((400, 2), "float32")
    model.fit(x, {"b": np.full(400, 3.0), "a": np.full(400, 30.0)}, batch_size=1, verbose=0)
    # w_b n = w_a 100 n and w_b + w_a = 2
    np.testing.assert_allclose(weights_of(layer), [200 / 101, 2 / 101], atol=0.005)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PCGrad([]), r"`tasks` must be distinct names of tasks; received: tasks=\(\)"),
        (lambda: PCGrad(["a", "a"]), r"`tasks` must be distinct .*received: tasks=\('a', 'a'\)"),
        (lambda: PCGrad(3), "`tasks` must be a list of names of tasks; received: tasks=3"),
        (
            lambda: DecayingWeights(["a", "b"]),
            r"`weights` must be a dict from task names to numbers; received: weights=\['a', 'b'\]",
        ),
        (lambda: UncertaintyWeighting(3), "`tasks` must be a list of names of tasks; received: tasks=3"),
        (lambda: UncertaintyWeighting(["a"], 3), "`regression` must be a list of names of tasks; received: regr.*=3"),
        (
            lambda: UncertaintyWeighting(["ab"], "ba"),
            r"`regression` must name tasks among \['ab'\]; received: \['ba'\]",
        ),
        (lambda: DecayingWeights({"a": -1.0}), "`weights` must be a number of at least 0; received: weights=-1.0"),
        (lambda: DecayingWeights({"a": 1.0}, {"b": 1.0}), r"`decay` must have exactly the tasks \['a'\]; received"),
        (lambda: DecayingWeights({"a": 1.0}, -0.5), "`decay` must be a number of at least 0; received: decay=-0.5"),
        (lambda: DecayingWeights({"a": 1.0}, 0.5, 0), "`steps` must be an integer of at least 1; received: steps=0"),
        (lambda: UncertaintyWeighting(["a"], ["b"]), r"`regression` must name tasks among \['a'\]; received: \['b'\]"),
        (lambda: DynamicWeightAverage(["a"], 0), "`steps` must be an integer of at least 1; received: steps=0"),
        (lambda: DynamicWeightAverage(["a"], 5, 0), "`temperature` must be above 0; received: temperature=0"),
        (lambda: GradNorm(["a"], alpha=-1), "`alpha` must be a number of at least 0; received: alpha=-1"),
        (lambda: PCGrad(["a"], seed=-1), "`seed` must be an integer from 0 to 2147483647; received: seed=-1"),
        (
            lambda: shared_line(UncertaintyWeighting(["b", "c"]), "sgd"),
            r"`balancing` must have tasks among `outputs`, a dict; received: unknown \['c'\] for outputs=\['b', 'a'\]",
        ),
        (
            lambda: UncertaintyWeighting(TASKS)(losses_of((1.0, 1.0), ("a", "c"))),
            r"`losses` must have exactly the tasks \['b', 'a'\]; received: \['a', 'c'\]",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        ("mse", {}, r"`loss` must be a dict with a keras.losses.Loss for each of the tasks .* loss='mse'"),
        ({"a": keras.losses.Huber()}, {}, r"each of the tasks \['b', 'a'\], as \*\*mtl.losses.per_task"),
        ({"a": "mse", "b": "mse"}, {}, "`loss` must be a dict with a keras.losses.Loss for each"),
        (
            {"a": keras.losses.Huber(), "b": keras.losses.Huber()},
            {"loss_weights": {"a": 2.0, "b": 1.0}},
            "`loss_weights` must be None, since `balancing` weights the losses; received: loss_weights={'a': 2.0",
        ),
    ],
)
def test_what_it_cannot_be_compiled_with(loss, options, message):
    model = shared_line(UncertaintyWeighting(TASKS), "sgd")
    with pytest.raises(ValueError, match=message):
        model.compile("sgd", loss, **options)


def test_balancing_must_be_one():
    inputs = keras.Input((2,))
    with pytest.raises(
        ValueError, match=r"`balancing` must be one such as mtl.balancing.PCGrad.*; received: balancing='pcgrad'"
    ):
        BalancedModel(inputs, {"a": keras.layers.Dense(1)(inputs)}, "pcgrad")


def test_labels_of_every_task_must_be_there():
    model = shared_line(UncertaintyWeighting(TASKS), "sgd")
    with pytest.raises(ValueError, match=r"labels must be a dict with every task; missing: \['b'\]"):
        model.train_on_batch(np.ones((4, 2), "float32"), {"a": np.ones(4, "float32")})


@pytest.mark.parametrize("step", ["train_on_batch", "test_on_batch"])
def test_a_dict_of_sample_weights_must_have_every_task(step):
    model = shared_line(UncertaintyWeighting(TASKS), "sgd")
    rows = np.ones((4, 2), "float32"), dict.fromkeys(TASKS, np.ones(4, "float32"))
    text = (
        r"`sample_weight` must be a dict with every task, or an array for all; received: \['a', 'bb'\], "
        r"missing: \['b'\]"
    )
    with pytest.raises(ValueError, match=text):
        getattr(model, step)(*rows, sample_weight=dict.fromkeys(("a", "bb"), np.ones(4, "float32")))
    weighted = [np.zeros(4), dict.fromkeys(TASKS, np.zeros(4)), dict.fromkeys(TASKS, np.ones(4)), None]
    totals = [model.test_on_batch(*rows, sample_weight=weights, return_dict=True)["loss"] for weights in weighted]
    assert totals == pytest.approx([0.0, 0.0, 2.0, 2.0])  # each task is off by 1


@pytest.mark.needs_tensorflow
def test_gradient_norms_refuse_a_negative_loss_of_which_there_is_no_rate():
    import tensorflow as tf

    def trained(alpha):
        still = keras.optimizers.SGD(0.0)
        model = shared_line(GradNorm(TASKS, alpha), still)
        model.compile(still, {"b": keras.losses.MeanSquaredError(), "a": keras.losses.Poisson()}, jit_compile=False)
        labels = {"b": np.ones((8, 1), "float32"), "a": np.repeat([[1.0], [-1.0]], 4, axis=0).astype("float32")}
        return model.fit(np.ones((8, 2), "float32"), labels, batch_size=4, shuffle=False, verbose=0)

    text = (
        r"`losses` must be at least 0 for GradNorm with `alpha` above 0, which takes their ratios; received:\D*1 -16.1"
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=text):
        trained(1.5)
    assert np.isfinite(trained(0.0).history["a_weight"]).all()  # nor does it need one


@pytest.mark.needs_tensorflow
def test_what_only_gradients_of_tasks_need():
    with pytest.raises(ValueError, match=r"`layer` must be the name of a layer of the model, one of .*'line'.*'top'"):
        shared_line(GradNorm(TASKS, layer="top"), "sgd")
    inputs = keras.Input((2,))
    apart = {task: keras.layers.Dense(1, name=task)(inputs) for task in TASKS}
    model = BalancedModel(inputs, apart, PCGrad(TASKS))
    model.compile("sgd", **mtl.losses.per_task(dict.fromkeys(TASKS, "mse")))
    with pytest.raises(
        ValueError, match="`balancing` must have weights to work on that two tasks share; received: none"
    ):
        model.train_on_batch(np.ones((4, 2), "float32"), dict.fromkeys(TASKS, np.ones(4, "float32")))
    scaled = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD())
    with pytest.raises(ValueError, match="`optimizer` must not scale the loss, as for float16, under PCGrad"):
        shared_line(PCGrad(TASKS), scaled)
    if hasattr(keras.optimizers.SGD(), "loss_scale_factor"):
        scaled = keras.optimizers.SGD(loss_scale_factor=8.0)
        with pytest.raises(ValueError, match="`optimizer` must not scale the loss, as for float16, under PCGrad"):
            shared_line(PCGrad(TASKS), scaled)


@pytest.mark.needs_tensorflow
def test_weights_of_a_model_within_are_shared_like_those_of_a_layer():
    """By hand: gradients [g, h] of opposite sign cancel where they are projected, and a plain sum moves the weight."""

    def moved(kind):
        class Scale(kind):
            def build(self, shape):
                self.scale = self.add_weight(name="scale", shape=(1,), initializer="ones")
                self.built = True

            def call(self, x):
                return x * self.scale

            def compute_output_shape(self, shape):
                return shape

        inputs, scale = keras.Input((1,)), Scale()
        h = scale(inputs)
        outputs = {
            task: keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name=task)(h) for task in TASKS
        }
        model = BalancedModel(inputs, outputs, PCGrad(TASKS))
        model.compile(keras.optimizers.SGD(0.01), **mtl.losses.per_task(dict.fromkeys(TASKS, "mse")))
        labels = {"a": np.array([[3.0]], "float32"), "b": np.array([[-5.0]], "float32")}
        model.train_on_batch(np.ones((1, 1), "float32"), labels)
        return float(array(scale.scale)[0])

    assert moved(keras.layers.Layer) == moved(keras.Model) == 1.0


@pytest.mark.needs_tensorflow
@pytest.mark.parametrize("kind", [PCGrad, GradNorm])
def test_towers_of_a_model_within_are_no_more_shared_than_others(kind, rng):
    x = rng.normal(size=(16, 3)).astype("float32")
    labels = {
        task: rng.normal(sign * 5.0, size=16).astype("float32") for task, sign in zip(TASKS, (1, -1), strict=True)
    }

    def trained(nested, start=None):
        inputs, top = keras.Input((3,)), keras.Input((4,))
        towers = mtl.Towers({task: mtl.towers.Regression((2,)) for task in TASKS})
        bottom = mtl.SharedBottom(2, (4,))
        features = keras.layers.Dense(4)(inputs)
        outputs = keras.Model(top, towers(bottom(top)))(features) if nested else towers(bottom(features))
        model = BalancedModel(inputs, outputs, kind(TASKS))
        model.compile(keras.optimizers.SGD(0.1), **mtl.losses.per_task(dict.fromkeys(TASKS, "mse")))
        before = [array(weight) for weight in model.trainable_weights]
        for weight, value in zip(model.trainable_weights, start or before, strict=True):
            weight.assign(value)
        for _ in range(2):
            model.train_on_batch(x, labels)
        return before, [array(weight) for weight in model.trainable_weights]

    start, flat = trained(nested=False)
    _, nested = trained(True, start)
    for one, other in zip(nested, flat, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has the gradients of tasks")
@pytest.mark.parametrize("kind", [PCGrad, GradNorm])
def test_other_backends_say_what_they_can_do(kind):
    with pytest.raises(ValueError, match=rf"Weights, .* on the {BACKEND} backend; received: {kind.__name__}"):
        shared_line(kind(TASKS), "sgd")


@pytest.mark.parametrize(
    "layer",
    [
        DecayingWeights({"b": 1.0, "a": 2.0}, {"b": 0.5, "a": 0.25}, steps=3),
        UncertaintyWeighting(TASKS, ["a"]),
        DynamicWeightAverage(TASKS, 7, 0.5),
        GradNorm(TASKS, 0.5, layer="line", optimizer=keras.optimizers.SGD(0.5)),
        PCGrad(TASKS, seed=5),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_configs_survive_json(layer):
    config = json.loads(json.dumps(layer.get_config(), sort_keys=True))
    copy = type(layer).from_config(config)
    assert copy.tasks == layer.tasks
    assert json.dumps(copy.get_config(), sort_keys=True) == json.dumps(layer.get_config(), sort_keys=True)
