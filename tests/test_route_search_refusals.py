"""What a search skips and counts, and what it refuses, each by its text."""

from contextlib import nullcontext

import numpy as np
import pytest
from conftest import BACKEND
from reference import array
from route_models import (
    compiled,
    constant_data,
    constant_model,
    mean_square,
    real_data,
    real_model,
    search,
    supernet_of,
)

import mtl_layers as mtl
from mtl_layers._keras import keras, ops

pytestmark = [
    pytest.mark.usefixtures("without_tracing"),
    pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning"),
]

SMALL = (2, 1, 2)


def adam():
    return keras.optimizers.Adam(0.01)


def test_a_task_whose_auc_is_undefined_is_skipped_and_counted():
    x, y = real_data(32)
    y["a"][:] = 1.0
    model, supernet = real_model(adam(), SMALL)
    record, history = search(model, real_data(40), 8, [(x, y)], epochs=2)
    assert history["search_skipped"] == [5, 10]
    assert np.isfinite(record.alphas).all() and np.abs(record.alphas[-1]).max() > 0
    baseline = array(supernet.search_baseline)
    assert sorted(baseline[:-1] != 0) == [False, True]  # that of the other task moved
    assert all(np.isfinite(list(logs.values())).all() for logs in record.logs)


def test_if_no_task_has_a_reward_alpha_stays():
    x, y = real_data(32)
    model, supernet = real_model(keras.optimizers.SGD(0.1), SMALL)
    labels = {task: np.ones_like(values) for task, values in y.items()}
    _, history = search(model, (x, y), 8, [(x, labels)])
    assert history["search_skipped"] == [8]
    assert "search_reward" not in history and "search_baseline" not in history
    assert not array(supernet.alpha).any()


def test_a_skipped_task_leaves_the_reward_of_the_epoch_as_it_is():
    """Two batches that give the first task .25 and 1, and the second .5 and nothing: .625 + .5."""
    model, _ = constant_model((0.5, 0.5), tasks=("a", "b"))
    x, y = constant_data(4, tasks=("a", "b"))
    weights = [np.full((4, 1), weight, "float32") for weight in (1.0, 0.0)]
    batches = [
        (x, {"a": y["a"], "b": y["b"] + 0.5 + np.sqrt(0.5).astype("float32")}, {"a": weights[0], "b": weights[0]}),
        (x, {"a": y["a"] + 1.5, "b": y["b"]}, {"a": weights[0], "b": weights[1]}),
    ]
    record, history = search(model, constant_data(8, ("a", "b")), 4, batches, reward="loss")
    assert [logs["search_reward"] for logs in record.logs] == pytest.approx([-0.75, -1.0])
    assert history["search_reward"] == pytest.approx([-0.625 - 0.5])
    assert history["search_skipped"] == [1]


def test_early_stopping_waits_for_the_first_reward():
    """Keras 3 takes a first NaN for the best there will ever be."""
    model, _ = real_model(adam(), SMALL)
    stop = keras.callbacks.EarlyStopping("search_reward", mode="max", patience=1)
    x, y = real_data(32)
    callbacks = [mtl.RouteSearch([(x, y)], start_step=8), stop]
    warns = pytest.warns(UserWarning, match="search_reward") if keras.__name__ == "keras" else nullcontext()
    with warns:  # Keras 2 writes a line to its log
        history = model.fit(x, y, batch_size=8, epochs=5, verbose=0, callbacks=callbacks).history
    assert len(history["search_entropy"]) >= 4 and stop.best == max(history["search_reward"])


def test_a_batch_without_a_label_of_a_task_has_no_loss_to_reward():
    x, y = real_data(32)
    model, supernet = real_model(adam(), SMALL)
    weights = {"b": np.ones(32, "float32"), "a": np.zeros(32, "float32")}
    _, history = search(model, (x, y), 8, [(x, y, weights)], reward="loss")
    assert history["search_skipped"] == [4]
    assert sorted(array(supernet.search_baseline)[:-1] != 0) == [False, True]


def without(task):
    x, y = real_data(8)
    return [(x, {name: labels for name, labels in y.items() if name != task})]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"validation_data": []}, "`validation_data` must have at least one batch; received: none"),
        ({"validation_data": without("a")}, r"`validation_data` must have labels of every task; missing: \['a'\]"),
        ({"validation_data": without("a"), "reward": "loss"}, r"labels of every task; missing: \['a'\]"),
        (
            {"validation_data": [(*real_data(8), {"b": np.ones(8, "float32")})], "reward": "loss"},
            "`validation_data` must have weights of every task with a loss, if they are a dict; missing: 'a'",
        ),
        (
            {"validation_data": [(*real_data(8), {"b": np.ones(8, "float32")})]},
            "`validation_data` must have weights of every task with a loss, if they are a dict; missing: 'a'",
        ),
        ({"validation_data": [(real_data(8)[0], np.ones(8))]}, "must have labels as a dict of tasks; received: "),
        (
            {"validation_data": [1]},
            r"must give batches \(features, labels\) or \(features, labels, weights\); received: int",
        ),
        ({"validation_data": {"x": 1}}, r"must give batches \(features, labels\) or .*; received: str"),
        ({"validation_data": [(1,)]}, r"must give batches \(features, labels\) or .*; received: tuple"),
        ({"reward": lambda y, p: p["a"][:, 0]}, r"`reward` must give a scalar; received: shape=\(8,\)"),
        (
            {"reward": lambda y, p: ops.mean(p["a"]) * float("nan")},
            r"must be finite; received: .*nan.* step 0",
        ),
        (
            {"reward": lambda y, p: ops.mean(p["a"]) + float("inf")},
            r"must be finite; received: .*inf.* step 0",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(arguments, text):
    model, supernet = real_model(adam(), SMALL)
    arguments = {"validation_data": [real_data(8)], **arguments}
    with pytest.raises(ValueError, match=text):
        search(model, real_data(16), 8, **arguments)
    assert not array(supernet.alpha).any()


def test_a_regression_has_no_auc():
    model, _ = constant_model((1.0, 10.0))
    with pytest.raises(
        ValueError,
        match=r'`reward` must not be "auc" where a task is a regression: give "loss" or a callable; received: \[.a.\]',
    ):
        search(model, constant_data(4), 2, [constant_data(2)])
    search(model, constant_data(4), 2, [constant_data(2)], reward="loss")


def test_a_regression_without_a_loss_does_not_matter():
    inputs = keras.Input((4,))
    towers = mtl.Towers({"b": (), "a": mtl.towers.Regression(())})
    model = keras.Model(inputs, towers(mtl.RouteSupernet(2, 1, 2, 3)(inputs)))
    model = compiled(model, ("b",), "adam", "binary_crossentropy")
    x, y = real_data(16)
    y["a"] += 0.5
    search(model, (x, y), 8, [(x, y)])
    assert np.isfinite(array(supernet_of(model).alpha)).all()


def towerless(units=1):
    inputs = keras.Input((4,))
    hidden = mtl.RouteSupernet(2, 1, 2, 3)(inputs)
    outputs = {task: keras.layers.Dense(units, "sigmoid")(hidden[:, k]) for k, task in enumerate(("b", "a"))}
    model = keras.Model(inputs, outputs)
    losses = mtl.losses.per_task(dict.fromkeys(("b", "a"), "mse"), missing_value=float("nan"))
    model.compile("sgd", **losses, jit_compile=BACKEND == "jax")
    return model


@pytest.mark.parametrize("weighted", [False, True])
def test_labels_that_are_no_classes_are_told_before_the_first_step(weighted):
    (x, y), model = real_data(8), towerless()
    y["a"][:2] = float("nan")  # missing
    y["a"][5] = 2.5
    outside = (np.arange(8) != 5).astype("float32")
    weights = [{"b": np.ones(8, "float32"), "a": outside}] if weighted else []
    if weighted:
        search(model, real_data(8), 8, [(x, y, *weights)])
        return
    with pytest.raises(
        ValueError,
        match=r'`reward` must not be "auc" where labels are not 0 or 1: give "loss" or a callable; '
        "received: 2.5 among the labels of 'a'",
    ):
        search(model, real_data(8), 8, [(x, y)])
    assert array(supernet_of(model).search_step) == 0


def test_several_classes_have_no_auc():
    x, y = real_data(8)
    y = {task: np.repeat(labels, 2, axis=1) for task, labels in y.items()}
    with pytest.raises(ValueError, match=r'must not be "auc" where a task has several classes: give "loss" or'):
        search(towerless(units=2), (x, y), 8, [(x, y)])


def test_validation_rows_that_are_no_batches_are_refused():
    model, _ = real_model(adam(), SMALL)
    x, y = real_data(8)
    rows = [(x[0], {task: labels[0, 0] for task, labels in y.items()})]
    for reward in ("loss", lambda labels, predictions: 0.0):
        with pytest.raises(ValueError, match=r"must give batches and not single rows: .*; received: shape=\(\)"):
            mtl.RouteSearch(rows, reward).run(model, 1)


def test_a_model_that_has_diverged_is_told():
    model, supernet = real_model(adam(), SMALL)
    supernet.stem.kernels[0].assign(np.full(supernet.stem.kernels[0].shape, np.nan))
    with pytest.raises(ValueError, match=r"`reward` must be finite; received: .*inf"):
        search(model, real_data(16), 8, [real_data(8)])


def test_alpha_that_is_not_finite_is_told():
    model, _ = constant_model((1.0, 10.0))
    options = {"reward": mean_square, "optimizer": keras.optimizers.SGD(1e38), "routes_per_step": 4}
    with pytest.raises(ValueError, match="`optimizer` must keep alpha finite; lower its learning rate"):
        search(model, constant_data(20), 1, [constant_data(2)], **options)


def test_a_model_without_a_loss_has_nothing_to_reward():
    model, _ = real_model(adam(), SMALL)
    model = keras.Model(model.input, model.output)
    model.compile("sgd")
    with pytest.raises(
        ValueError, match=r"`model` must be compiled with a loss for one task at least, .*: a model without"
    ):
        model.fit(*real_data(8), verbose=0, callbacks=[mtl.RouteSearch([real_data(8)])])


class Subclassed(keras.Model):
    """No functional model: it has no outputs that could be asked."""

    def __init__(self):
        super().__init__()
        self.sharing, self.towers = mtl.RouteSupernet(*SMALL, 3), mtl.Towers({"b": (3,), "a": ()})

    def call(self, inputs, training=None):
        return self.towers(self.sharing(inputs, training=training), training=training)


@pytest.mark.parametrize("reward", ["auc", "loss", mean_square])
def test_a_subclassed_model_is_searched_once_it_is_built(reward):
    model = compiled(Subclassed(), ("b", "a"), "adam", "binary_crossentropy")
    x, y = real_data(16)
    with pytest.raises(ValueError, match="`model` must be built before its route is searched: call it on a batch"):
        mtl.RouteSearch([(x, y)], reward).set_model(model)
    model(x)
    options = {"reward": reward, "routes_per_step": 2, "per_task_credit": not callable(reward)}
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[mtl.RouteSearch([(x, y)], **options)])
    assert np.abs(array(model.sharing.alpha)).max() > 0


def test_credit_needs_the_names_of_the_towers():
    inner, _ = real_model(adam(), SMALL)
    inputs = keras.Input((4,))
    predictions = inner(inputs)
    model = keras.Model(inputs, {"c": predictions["a"], "d": predictions["b"]})
    compiled(model, ("c", "d"), "sgd", "binary_crossentropy")
    x, y = real_data(8)
    y = {"c": y["a"], "d": y["b"]}
    with pytest.raises(ValueError, match=r"names of the towers, \['b', 'a'\]; received: \['c', 'd'\]"):
        search(model, (x, y), 8, [(x, y)], per_task_credit=True)


def test_a_second_search_has_the_optimizer_of_the_first(tmp_path):
    model, _ = real_model(adam(), SMALL)
    batches = [real_data(8)]
    search(model, real_data(16), 8, batches, optimizer=adam())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        for optimizer in (None, adam(), keras.optimizers.Adam(0.01, name="another")):
            search(one, real_data(16), 8, batches, optimizer=optimizer)
        for other in (keras.optimizers.SGD(0.01), keras.optimizers.Adam(0.02)):
            with pytest.raises(ValueError, match="`optimizer` must be left out, or be that of the first search"):
                search(one, real_data(16), 8, batches, optimizer=other)


def test_one_callback_searches_models_of_different_optimizers():
    search_of_both = mtl.RouteSearch([real_data(8)])
    for optimizer in (adam(), keras.optimizers.SGD(0.5)):
        model, supernet = real_model(adam(), SMALL)
        search(model, real_data(16), 8, [real_data(8)], optimizer=optimizer)
        search_of_both.run(model, 1, verbose=0)
        assert type(supernet.search_optimizer) is type(optimizer)


def test_weights_of_a_search_are_loaded_with_its_optimizer_or_the_search_is_refused(tmp_path):
    path, batches = str(tmp_path / "search.weights.h5"), [real_data(8)]
    model, supernet = real_model(adam(), SMALL)
    mtl.RouteSearch(batches).run(model, 5, verbose=0)
    model.save_weights(path)
    mtl.RouteSearch(batches).run(model, 5, verbose=0)

    (late, _), (early, resumed) = (real_model(adam(), SMALL) for _ in range(2))
    late.load_weights(path)
    with pytest.raises(
        ValueError,
        match=r"must have the optimizer of its search before it loads the weights .*: call `search.set_model\(model\)` "
        r"before `model.load_weights`; received: weights after 5 steps of a search",
    ):
        mtl.RouteSearch(batches).run(late, 5, verbose=0)
    mtl.RouteSearch(batches).set_model(early)
    early.load_weights(path)
    mtl.RouteSearch(batches).run(early, 5, verbose=0)
    np.testing.assert_array_equal(array(resumed.alpha), array(supernet.alpha))


def test_weights_that_were_trained_for_a_search_are_loaded_without_its_optimizer(tmp_path):
    path, batches = str(tmp_path / "trained.weights.h5"), [real_data(8)]
    (model, supernet), (other, loaded) = (real_model(keras.optimizers.SGD(0.1), SMALL) for _ in range(2))
    search(model, real_data(16), 8, batches, start_step=None)
    model.save_weights(path)
    other.load_weights(path)
    for each in (model, other):
        mtl.RouteSearch(batches).run(each, 2, verbose=0)
    np.testing.assert_array_equal(array(loaded.alpha), array(supernet.alpha))


@pytest.mark.parametrize("count", [0, 2])
def test_a_model_must_have_one_supernet(count):
    inputs = hidden = keras.Input((4,))
    for _ in range(count):
        hidden = mtl.RouteSupernet(1, 1, 2, 3)(hidden)[:, 0]
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=f"`model` must have one RouteSupernet layer; received: {count}"):
        model.fit(np.ones((4, 4)), np.ones((4, 1)), verbose=0, callbacks=[mtl.RouteSearch([], "loss")])


def test_a_supernet_in_a_model_within_the_model_is_found():
    inner, _ = real_model(adam(), SMALL)
    x, y = real_data(16)
    outer_inputs = keras.Input((4,), name="x")
    model = keras.Model(outer_inputs, inner(outer_inputs))
    model.compile("sgd", dict.fromkeys(("a", "b"), "binary_crossentropy"))
    search = mtl.RouteSearch([(x, y)], "loss")
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[search])
    assert search.supernet is supernet_of(inner) and array(search.supernet.search_step) == 2


def test_several_steps_per_execution_are_refused():
    model, _ = real_model(adam(), SMALL)
    model.compile("sgd", dict.fromkeys(("a", "b"), "binary_crossentropy"), steps_per_execution=2)
    with pytest.raises(ValueError, match=r"`steps_per_execution` must be 1 .* received: steps_per_execution=2"):
        search(model, real_data(16), 8, [real_data(8)])


def test_a_search_needs_a_compiled_model():
    model, _ = real_model(adam(), SMALL)
    model = keras.Model(model.input, model.output)
    with pytest.raises(
        ValueError, match=r"`model` must be compiled with a loss for one task at least, .*: a model without"
    ):
        mtl.RouteSearch([real_data(8)]).run(model, 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"reward": "f1"}, '`reward` must be "auc", "loss" or a callable; received: reward=\'f1\''),
        ({"baseline_decay": "0.9"}, r"`baseline_decay` must be in \[0, 1\); received: baseline_decay='0.9'"),
        ({"subnetwork_cost": float("inf")}, "`subnetwork_cost` must be a number of at least 0; received: .*=inf"),
        ({"validation_data": None}, "`validation_data` must be iterable again and again, .*; received: None"),
        ({"baseline_decay": 1.0}, r"`baseline_decay` must be in \[0, 1\); received: baseline_decay=1.0"),
        ({"routes_per_step": 0}, "`routes_per_step` must be an integer of at least 1; received: routes_per_step=0"),
        ({"seed": None}, "`seed` must be an integer of at least 0; received: seed=None"),
        ({"seed": -1}, "`seed` must be an integer of at least 0; received: seed=-1"),
        (
            {"validation_data": real_data(8)},
            r"`validation_data` must be batches, such as a tf.data.Dataset, or \[\(features, labels\)\] for one batch; "
            "received: a tuple that begins with ndarray",
        ),
        ({"validation_data": ({"x": np.ones(3)}, {})}, "received: a tuple that begins with dict"),
        ({"start_step": -1}, "`start_step` must be an integer of at least 0; received: start_step=-1"),
        (
            {"reward": mean_square, "per_task_credit": True},
            '`per_task_credit` needs a reward per task, "auc" or "loss"; received: a callable',
        ),
        ({"subnetwork_cost": -0.1}, "`subnetwork_cost` must be a number of at least 0; received: subnetwork_cost=-0.1"),
        (
            {"validation_data": iter([])},
            "`validation_data` must be iterable again and again, such as a",
        ),
    ],
)
def test_illegal_arguments_are_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        mtl.RouteSearch(**{"validation_data": [], **arguments})
