"""GAUC: numbers of a loop over scikit-learn, a callback that logs it, and its refusals."""

import numpy as np
import pytest
from conftest import BACKEND
from sklearn.metrics import roc_auc_score
from two_devices import run_on_two_devices

import mtl_layers as mtl
from mtl_layers._keras import keras
from mtl_layers.analysis import GroupedAUC, gauc

NAN = float("nan")


def by_loop(labels, scores, groups, weights):
    total = size = 0.0
    for group in np.unique(groups):
        rows = (groups == group) & (weights > 0)
        if len(np.unique(labels[rows])) == 2:
            n = weights[rows].sum()
            total += n * roc_auc_score(labels[rows], scores[rows], sample_weight=weights[rows])
            size += n
    return total / size


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("levels", [3, 10**6])
def test_it_is_the_weighted_mean_over_groups(rng, levels, weighted, named):
    groups = rng.zipf(1.5, 3000) % 200  # some large groups, many small ones
    labels = (rng.random(3000) < 0.3).astype("float32")
    scores = rng.integers(0, levels, 3000) / levels  # few levels: ties within and between groups
    weights = rng.integers(0, 4, 3000).astype("float64") if weighted else np.ones(3000)
    names = np.array([f"user {group}" for group in groups]) if named else groups
    found = gauc(labels, scores[:, None], names, weights if weighted else None)
    assert found == pytest.approx(by_loop(labels, scores, groups, weights), abs=1e-12)


def test_it_ranks_within_groups_alone():
    groups = np.repeat([1, 2, 3, 4], 2)
    labels = [0, 1, 0, 1, 1, 1, 0, 0]  # the last two groups have one class each
    by_group = np.array([0.9, 0.9, 0.1, 0.1, 1.0, 1.0, 0.0, 0.0])
    assert roc_auc_score(labels, by_group) > 0.6 and gauc(labels, by_group, groups) == 0.5
    assert gauc(labels, [0.1, 0.2, 0.9, 0.8, 0, 0, 1, 1], groups) == 0.5
    assert gauc(labels, [0.1, 0.2, 0.8, 0.9, 0, 0, 1, 1], groups) == 1.0
    assert np.isnan(gauc([1, 1, 0], [0.1, 0.2, 0.3], [1, 1, 2])) and np.isnan(gauc([], [], []))
    # A label that is missing needs a weight of 0.
    assert gauc([0, 1, NAN], [0.1, 0.2, NAN], [1, 1, 1], [1, 1, 0]) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [0.1, 0.2], [1]), r"`groups` must have one entry for each row .*'scores': 2, 'groups': 1"),
        (([0, 2], [0.1, 0.2], [1, 1]), "`labels` must be 0 or 1 where the weight is not 0; received: 2"),
        (([0, NAN], [0.1, 0.2], [1, 1]), "`labels` must be 0 or 1 where the weight is not 0; received: nan"),
        (([0, 1], [0.1, NAN], [1, 1]), "`scores` must be finite; received: NaN or infinity"),
        (([0, 1], [0.1, 0.2], [1, 1], [1, -1]), "`sample_weight` must be finite and at least 0"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        gauc(*arguments)


# --------------------------------------------------------------------------------------------------------- the callback

OTHERS = {"genre": np.ones(50), "watch": np.full(50, 2.5)}  # labels of the tasks without a GAUC


def rows(rng, count=50):
    user = rng.integers(0, 6, (count, 1)).astype("int32")
    x = rng.normal(size=(count, 3)).astype("float32")
    click = (x[:, 0] + rng.normal(size=count) > 0).astype("float32")
    return {"user": user, "x": x}, {"click": click, "buy": np.where(click, x[:, 1] > 0, NAN).astype("float32")}


def ranker(missing_value=NAN):
    inputs = {"user": keras.Input((1,), dtype="int32", name="user"), "x": keras.Input((3,), name="x")}
    user = keras.layers.Flatten()(keras.layers.Embedding(6, 2)(inputs["user"]))
    h = mtl.SharedBottom(4, (4,))(keras.layers.Concatenate()([user, inputs["x"]]))
    kinds = {"genre": mtl.towers.MultiClass(3, ()), "watch": mtl.towers.Regression(())}
    model = keras.Model(inputs, mtl.Towers({"click": (), "buy": (), **kinds})(h))
    losses = {**dict.fromkeys(("click", "buy"), "binary_crossentropy"), "genre": "sparse_categorical_crossentropy"}
    losses["watch"] = "mse"
    model.compile("sgd", **mtl.losses.per_task(losses, missing_value=missing_value), jit_compile=BACKEND == "jax")
    return model


def test_every_epoch_logs_the_gauc_of_the_held_out_rows(rng):
    features, labels = rows(rng)
    model = ranker()
    per_user = GroupedAUC((features, labels), "user", tasks=["buy", "click"], batch_size=25)
    # Nothing is an improvement after the first epoch: Keras 2 would not stop after one, whatever the baseline.
    options = {"mode": "max", "baseline": 2.0, "min_delta": 1.0, "patience": 2}
    stop = keras.callbacks.EarlyStopping("val_click_gauc", **options)
    history = model.fit(features, labels | OTHERS, epochs=4, verbose=0, callbacks=[per_user, stop]).history
    assert len(history["val_click_gauc"]) == 2  # EarlyStopping has seen it
    predicted = model.predict(features, verbose=0)
    for task in ("click", "buy"):
        inside = (~np.isnan(labels[task])).astype("float64")
        expected = by_loop(labels[task], predicted[task].ravel(), features["user"].ravel(), inside)
        assert history[f"val_{task}_gauc"][-1] == pytest.approx(expected, abs=1e-9)


def test_groups_may_be_text_that_the_model_does_not_read(rng):
    features, labels = rows(rng)
    named = {**features, "session": np.array([f"s{user}" for user in features["user"].ravel()])}
    model = ranker()
    expected = GroupedAUC((features, labels), "user", tasks=["click"])
    by_name = GroupedAUC((named, labels), "session", tasks=["click"])
    for callback in (expected, by_name):
        callback.set_model(model)
    assert by_name.scores() == pytest.approx(expected.scores())


def test_a_data_set_may_be_shuffled_and_have_weights(rng):
    import tensorflow as tf

    features, labels = rows(rng)
    weights = {task: rng.integers(0, 2, 50).astype("float32") for task in labels}
    model = ranker()
    whole = (features, labels, weights)
    data = tf.data.Dataset.from_tensor_slices(whole).shuffle(50, reshuffle_each_iteration=True).batch(20)
    found = []
    for given, group in ((data, "user"), (whole, "user"), (whole, features["user"].ravel())):
        callback = GroupedAUC(given, group, tasks=["click", "buy"])
        callback.set_model(model)
        found.append(callback.scores())
    assert found[0] == pytest.approx(found[1]) and found[1] == found[2]


@pytest.mark.parametrize(
    ("group", "tasks", "message"),
    [
        (
            "session",
            ["click"],
            "`group` must be the name of a feature of `data`, or an array; received: group='session'",
        ),
        ("session", ["click"], r"features=\['user', 'x'\]"),
        ("user", ["like"], r"`tasks` must be among the outputs \['click', 'buy', .*; received: unknown \['like'\]"),
        (
            "user",
            None,
            "`tasks` must name tasks whose labels are 0 or 1; by default they are all outputs of one column; "
            "received: 2.5 among the labels of 'watch'",
        ),
        ("user", ["watch"], "received: 2.5 among the labels of 'watch'"),
        ("user", ["genre"], r"`data` must have labels of every task in a dict; missing: \['genre'\]"),
    ],
)
def test_before_training_it_says_what_is_missing(rng, group, tasks, message):
    features, labels = rows(rng)
    labels["watch"] = OTHERS["watch"]
    callback = GroupedAUC((features, labels), group, tasks)
    with pytest.raises(ValueError, match=message):
        ranker().fit(features, labels | OTHERS, verbose=0, callbacks=[callback])


def test_of_a_regression_the_labels_outside_its_sample_space_do_not_matter(rng):
    features, labels = rows(rng)
    labels["watch"] = np.where(np.arange(50) % 2, labels["click"], 7.0).astype("float32")
    weights = dict.fromkeys(("click", "watch"), (np.arange(50) % 2).astype("float32"))
    callback = GroupedAUC((features, labels, weights), "user", ["click", "watch"])
    callback.set_model(ranker())
    callback.on_train_begin()
    assert set(callback.scores()) == {"click", "watch"}


def test_data_without_a_batch_are_refused():
    callback = GroupedAUC([], "user")
    callback.set_model(ranker())
    with pytest.raises(ValueError, match="`data` must have at least one batch; received: none"):
        callback.on_train_begin()


def test_one_loss_for_all_tasks_says_for_each_which_labels_are_missing(rng):
    features, labels = rows(rng)
    inputs = keras.Input((3,), name="x")
    model = keras.Model(inputs, mtl.Towers({"click": (), "buy": ()})(mtl.SharedBottom(2, (4,))(inputs)))
    model.compile("sgd", mtl.losses.MaskedLoss("binary_crossentropy", missing_value=NAN), jit_compile=BACKEND == "jax")
    callback = GroupedAUC((features["x"], labels), features["user"].ravel())
    callback.set_model(model)
    callback.on_train_begin()
    predicted = model.predict(features["x"], verbose=0)["buy"].ravel()
    inside = (~np.isnan(labels["buy"])).astype("float64")
    expected = by_loop(labels["buy"], predicted, features["user"].ravel(), inside)
    assert callback.scores()["buy"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("missing_value", [NAN, -1.0])
@pytest.mark.parametrize("others", [{}, {"ctr": "binary_crossentropy"}])
def test_a_task_without_a_loss_has_the_rule_of_the_others(rng, missing_value, others):
    features, labels = rows(rng)
    bought = np.where(labels["click"], labels["buy"], missing_value).astype("float32")
    labels = {"ctr": labels["click"], "cvr": bought, "ctcvr": np.where(labels["click"], bought, 0).astype("float32")}
    inputs = keras.Input((3,))
    towers = mtl.ESMM({"ctr": (), "cvr": ()}, {"ctcvr": ("ctr", "cvr")})
    model = keras.Model(inputs, towers(mtl.SharedBottom(2, (4,))(inputs)))
    losses = {"ctr": "binary_crossentropy", "cvr": None, "ctcvr": "binary_crossentropy"}
    compiled = mtl.losses.per_task(losses, missing_value=missing_value)
    model.compile("sgd", loss=compiled["loss"] | others, jit_compile=BACKEND == "jax")  # others have no rule
    groups = features["user"].ravel()
    history = model.fit(
        features["x"], labels, verbose=0, callbacks=[GroupedAUC((features["x"], labels), groups)]
    ).history
    predicted = model.predict(features["x"], verbose=0)["cvr"].ravel()
    expected = by_loop(bought, predicted, groups, labels["ctr"].astype("float64"))
    assert history["val_cvr_gauc"] == pytest.approx([expected], abs=1e-9)


def test_where_the_others_have_different_rules_every_label_counts(rng):
    features, labels = rows(rng)
    model = ranker()
    losses = {task: mtl.losses.MaskedLoss("mse", value) for task, value in (("click", NAN), ("watch", -1.0))}
    model.compile("sgd", {**losses, "genre": "sparse_categorical_crossentropy"})
    callback = GroupedAUC((features, labels), "user", ["buy"])
    callback.set_model(model)
    with pytest.raises(ValueError, match="received: nan among the labels of 'buy'"):
        callback.on_train_begin()


def test_several_inputs_may_come_in_a_list(rng):
    features, labels = rows(rng)
    inputs = [keras.Input((1,)), keras.Input((3,))]
    h = mtl.SharedBottom(1, (4,))(keras.layers.Concatenate()(inputs))
    model = keras.Model(inputs, mtl.Towers({"click": ()})(h))
    model.compile("sgd", "mse", jit_compile=BACKEND == "jax")
    given, groups = [features["user"].astype("float32"), features["x"]], features["user"].ravel()
    predicted = model.predict(given, verbose=0)["click"].ravel()
    for weights in (np.ones(50), [1.0] * 50):
        callback = GroupedAUC((given, labels, weights), groups, batch_size=20)
        callback.set_model(model)
        expected = by_loop(labels["click"], predicted, groups, np.ones(50))
        assert callback.scores() == pytest.approx({"click": expected}, abs=1e-9)


@pytest.mark.needs_tensorflow
def test_on_two_replicas_each_row_counts_once():
    done = run_on_two_devices("""
        from test_gauc import GroupedAUC, by_loop, ranker, rows, OTHERS
        features, labels = rows(np.random.default_rng(0))
        with strategy.scope():
            model = ranker()
        callback = GroupedAUC((features, labels), "user", ["click"])
        history = model.fit(features, labels | OTHERS, batch_size=10, verbose=0, callbacks=[callback]).history
        predicted = model(features, training=False)["click"].numpy().ravel()
        expected = by_loop(labels["click"], predicted, features["user"].ravel(), np.ones(50))
        np.testing.assert_allclose(history["val_click_gauc"], [expected], atol=1e-9)
        print("equal")
        """)
    assert done.stdout.strip().endswith("equal"), done.stdout + done.stderr


def generator():
    yield {}, {}


REPEATED = "`data` must be iterable again and again, such as a tf.data.Dataset or a list of batches; received: "
PAIR = {"x": np.ones((2, 3))}, {"click": np.array([0.0, 1.0])}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((generator(), "user"), REPEATED + "<generator object generator"),
        ((None, "user"), REPEATED + "None"),
        ((PAIR, [1, 2], None, 0), "`batch_size` must be an integer of at least 1; received: batch_size=0"),
        ((PAIR, [1, 2], None, -1), "`batch_size` must be an integer of at least 1; received: batch_size=-1"),
        ((PAIR, [1, 2, 2]), "`group` must have one entry for each row of `data`; received: 3 for 2 rows"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        GroupedAUC(*arguments)


def test_weights_without_a_task_are_refused(rng):
    features, labels = rows(rng)
    callback = GroupedAUC((features, labels, {"click": np.ones(50)}), "user", ["click", "buy"])
    callback.set_model(ranker())
    message = r"`data` must have weights of every task if they are a dict; missing: \['buy'\]"
    with pytest.raises(ValueError, match=message):
        callback.on_train_begin()


def test_by_default_all_outputs_of_one_column_are_judged(rng):
    features, labels = rows(rng)
    labels["watch"] = labels["click"]
    callback = GroupedAUC((features, labels), "user")
    callback.set_model(ranker())
    assert list(callback.scores()) == ["click", "buy", "watch"]
