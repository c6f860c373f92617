"""Losses and metrics over a task's own sample space: numbers by hand, Keras' own as reference, errors, training."""

import json

import numpy as np
import pytest
from conftest import LEGACY
from gradients import gradient_by_input
from reference import array
from sklearn.metrics import roc_auc_score

import mtl_layers as mtl
from mtl_layers._keras import keras, ops
from mtl_layers.losses import MaskedLoss, MaskedMetric, per_task
from mtl_layers.losses._sample_space import sample_space

NAN = float("nan")


def number(value):
    return float(ops.convert_to_numpy(value))


def column(*values):
    return np.array(values, "float32")[:, None]


PREDICTED = column(0.5, 0.5, 0.25)
ONE_HOT = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]], "float32")


@pytest.mark.parametrize(
    ("arguments", "labels", "weights", "expected"),
    [
        ({"loss": "mse"}, [1, 1, 1], None, (0.25 + 0.25 + 0.5625) / 3),
        ({"loss": "mse", "missing_value": NAN}, [1, NAN, 1], None, (0.25 + 0.5625) / 2),
        ({"loss": "mse", "missing_value": -1}, [-1, -1, 1], None, 0.5625),
        ({"loss": "mse", "missing_value": -1}, [True, False, True], None, (0.25 + 0.25 + 0.5625) / 3),
        ({"loss": "mse", "missing_value": 0.1}, [0.1, 1, 1], None, (0.25 + 0.5625) / 2),
        ({"loss": "mse"}, [1, 1, 1], [1, 0, 0], 0.25),
        ({"loss": "mse"}, [1, NAN, 1], [1, 0, 1], (0.25 + 0.5625) / 2),
        ({"loss": "mse"}, [1, 1, 1], [3, 0, 1], (3 * 0.25 + 0.5625) / 4),
        ({"loss": "mse"}, [1, 1, 1], [0.5, 0, 0], 0.25),
        ({"loss": "mse", "missing_value": NAN}, [NAN, 1, 1], [5, 1, 3], (0.25 + 3 * 0.5625) / 4),
        ({"loss": "mse", "missing_value": NAN, "require_weights": True}, [1, 1, NAN], [0, 1, 1], 0.25),
        ({"loss": "binary_crossentropy", "missing_value": NAN}, [1, NAN, 0], None, (np.log(2) - np.log(0.75)) / 2),
        ({"loss": keras.losses.MeanAbsoluteError(), "missing_value": NAN}, [NAN, NAN, 1], None, 0.75),
        ({"loss": keras.losses.Huber(delta=0.5)}, [1, 1, 1], [0, 0, 1], 0.5 * (0.75 - 0.25)),
    ],
)
@pytest.mark.parametrize("shape", ["vector", "column"])
def test_the_loss_is_the_mean_over_the_rows_of_the_task(arguments, labels, weights, expected, shape):
    labels = np.array(labels)
    weights = None if weights is None else np.array(weights, "float32")
    if shape == "column":
        labels, weights = labels[:, None], None if weights is None else weights[:, None]
    assert number(MaskedLoss(**arguments)(labels, PREDICTED, weights)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", ["vector", "column"])
def test_sparse_classes_are_masked_by_a_chosen_label(shape):
    labels = np.array([0, -1, 2])
    labels = labels[:, None] if shape == "column" else labels
    loss = MaskedLoss("sparse_categorical_crossentropy", missing_value=-1)(labels, ONE_HOT)
    assert number(loss) == pytest.approx((-np.log(0.5) - np.log(0.6)) / 2, rel=1e-4)
    metric = MaskedMetric("sparse_categorical_accuracy", missing_value=-1)
    metric.update_state(labels, ONE_HOT[:, ::-1].copy())
    assert number(metric.result()) == 0.0


def test_one_hot_classes_are_masked_where_any_of_them_is_missing():
    labels = np.array([[1, 0, 0], [NAN, 1, 0], [0, 0, 1]], "float32")
    loss = MaskedLoss(keras.losses.CategoricalCrossentropy(), missing_value=NAN)(labels, ONE_HOT)
    assert number(loss) == pytest.approx((-np.log(0.5) - np.log(0.6)) / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "labels", "predictions"),
    [
        ("mse", column(1, 0, 2), PREDICTED),
        ("mae", column(1, 0, 2), PREDICTED),
        ("binary_crossentropy", column(1, 0, 1), PREDICTED),
        ("BinaryCrossentropy", column(1, 0, 1), PREDICTED),
        ("categorical_crossentropy", np.eye(3, dtype="float32"), ONE_HOT),
        ("sparse_categorical_crossentropy", np.array([0, 2, 1]), ONE_HOT),
        ("poisson", column(1, 0, 2), PREDICTED),
    ],
)
def test_where_nothing_is_masked_it_is_keras_own_loss(name, labels, predictions):
    own = keras.losses.get(name)(labels, predictions)
    assert number(MaskedLoss(name, missing_value=NAN)(labels, predictions)) == pytest.approx(
        float(np.mean(ops.convert_to_numpy(own))), rel=1e-5
    )


def test_a_rare_task_is_not_shrunk_by_the_batch():
    labels, predictions = np.ones((100, 1), "float32"), np.full((100, 1), 0.5, "float32")
    mask = (np.arange(100) < 4).astype("float32")
    keras_own = number(keras.losses.BinaryCrossentropy(reduction="sum_over_batch_size")(labels, predictions, mask))
    masked = number(MaskedLoss("binary_crossentropy")(labels, predictions, mask))
    assert masked == pytest.approx(np.log(2), rel=1e-5)
    assert masked / keras_own == pytest.approx(25, rel=1e-4)


@pytest.mark.parametrize("loss", ["mse", "binary_crossentropy", "mean_squared_logarithmic_error"])
@pytest.mark.parametrize(
    ("labels", "weights", "missing"),
    [([NAN] * 3, None, NAN), ([1, 0, 1], [0, 0, 0], None), ([NAN, 1, 0], [1, 0, 0], NAN), ([NAN] * 3, [0] * 3, None)],
)
def test_a_batch_without_the_task_gives_zero_and_moves_nothing(loss, labels, weights, missing):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(inputs))
    model.compile(keras.optimizers.SGD(1.0), loss=MaskedLoss(loss, missing_value=missing))
    before = [array(weight) for weight in model.weights]
    weights = None if weights is None else np.array(weights, "float32")
    assert model.train_on_batch(np.ones((3, 2), "float32"), column(*labels), sample_weight=weights) == 0.0
    for old, new in zip(before, map(array, model.weights), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("missing", [NAN, -1.0])
def test_gradients_come_from_the_rows_of_the_task_alone(missing):
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(inputs))
    model.compile(keras.optimizers.SGD(1.0), loss=MaskedLoss("mse", missing_value=missing))
    model.train_on_batch(column(1, 2, 3), column(missing, 1, missing))
    np.testing.assert_allclose(array(model.weights[0]), 1 - 2 * (2 - 1) * 2)  # d/dw (2w - 1)^2 at 1


def squared_distance_of_logarithms(labels, predictions):
    """Not legal for a label of 0, which is what a missing one must not become."""
    return ops.mean(ops.square(ops.log(labels) - predictions), axis=-1)


@pytest.mark.parametrize("outside", [0.5, NAN, float("inf")])
@pytest.mark.parametrize("by", ["labels", "weights"])
@pytest.mark.parametrize("rows", [[0, 2], []])
def test_no_label_nor_prediction_outside_reaches_loss_or_gradient(outside, by, rows):
    inside = np.isin(np.arange(3), rows)
    labels, weights = np.array([1, 3, np.e], "float32"), None
    if by == "labels":
        labels[~inside] = NAN
    else:
        weights = inside.astype("float32")
    predictions = np.where(inside, [0.5, 0.5, 0.25], outside).astype("float32")[:, None]
    loss = MaskedLoss(squared_distance_of_logarithms, missing_value=NAN)
    assert number(loss(labels, predictions, weights)) == pytest.approx((0.25 + 0.5625) / 2 if rows else 0.0, rel=1e-5)
    found = gradient_by_input(lambda p: loss(labels, p, weights), predictions)
    np.testing.assert_allclose(found, column(0.5, 0, -0.75) if rows else np.zeros((3, 1)), rtol=1e-5)


@pytest.mark.needs_tensorflow
def test_a_batch_without_rows_gives_zero():
    """As a replica may get it."""
    import tensorflow as tf

    loss = tf.function(MaskedLoss("mse", missing_value=NAN), input_signature=[tf.TensorSpec((None, 1))] * 2)
    assert number(loss(np.zeros((0, 1), "float32"), np.zeros((0, 1), "float32"))) == 0.0


def test_numbers_of_classes_stay_integers():
    """A metric of one's own may look something up by them."""
    labels, _ = sample_space(np.array([-1, 2], "int32"), np.zeros((2, 3), "float32"), None, -1, False, "click")
    assert labels.dtype == "int32"
    np.testing.assert_array_equal(array(labels), [[2], [2]])


def test_a_label_outside_is_legal_for_metrics_too():
    metric = MaskedMetric(keras.metrics.MeanMetricWrapper(squared_distance_of_logarithms), missing_value=NAN)
    metric.update_state(np.array([NAN, 1, np.e]), PREDICTED)
    assert number(metric.result()) == pytest.approx((0.25 + 0.5625) / 2, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_are_summed_and_losses_computed_beyond_half_precision(rng, dtype):
    labels, weights = rng.normal(size=3000).astype("float32"), rng.uniform(2e5, 4e5, 3000).astype("float32")
    predictions = ops.zeros((3000, 1), dtype)
    expected = pytest.approx(np.average(labels**2, weights=weights), rel=1e-5)
    assert number(MaskedLoss("mse")(labels, predictions, weights)) == expected
    rows = MaskedLoss("mse").call(ops.convert_to_tensor(labels[:, None]), predictions)
    np.testing.assert_allclose(array(rows), labels**2, rtol=1e-5)
    metric = MaskedMetric("mse")
    metric.update_state(labels, predictions, weights)
    assert number(metric.result()) == expected


def test_under_mixed_precision_the_loss_is_that_of_the_predictions(rng):
    x, labels = rng.normal(size=(70_000, 2)).astype("float32"), rng.normal(size=70_000).astype("float32")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1, dtype="mixed_float16")(inputs))
    model.compile(keras.optimizers.SGD(0.0), MaskedLoss("mse"))
    expected = np.mean((model.predict(x, batch_size=70_000, verbose=0)[:, 0].astype("float32") - labels) ** 2)
    found = model.fit(x, labels, batch_size=70_000, verbose=0).history["loss"]
    assert found == [pytest.approx(float(expected), rel=1e-3)]


def test_a_loss_of_ones_own_may_compare_one_label_with_several_units():
    def pinball(labels, predictions):
        error = labels - predictions
        return ops.mean(ops.maximum(np.array([0.1, 0.9]) * error, np.array([-0.9, -0.1]) * error), axis=-1)

    loss = MaskedLoss(pinball, missing_value=NAN)
    assert number(loss(np.array([1, NAN]), np.array([[0, 3], [5, 5]], "float32"))) == pytest.approx((0.1 + 0.2) / 2)


def test_a_loss_may_give_a_column():
    loss = MaskedLoss(lambda labels, predictions: ops.square(labels - predictions))
    assert number(loss(column(1, 1, 1), PREDICTED, np.array([1, 0, 1]))) == pytest.approx((0.25 + 0.5625) / 2)
    assert tuple(loss.call(ops.convert_to_tensor(PREDICTED), ops.convert_to_tensor(PREDICTED)).shape) == (3,)


@pytest.mark.parametrize("weighted", [True, False])
def test_the_metric_of_a_batch_is_the_loss_of_the_batch(rng, weighted):
    labels = np.where(rng.random(50) < 0.3, NAN, rng.normal(size=50)).astype("float32")
    predictions = rng.normal(size=(50, 1)).astype("float32")
    weights = rng.integers(0, 3, 50).astype("float32") if weighted else None
    metric = MaskedMetric("mse", missing_value=NAN)
    metric.update_state(labels, predictions, weights)
    assert number(metric.result()) == pytest.approx(
        number(MaskedLoss("mse", missing_value=NAN)(labels, predictions, weights)), rel=1e-5
    )


@pytest.mark.parametrize("outside", [NAN, float("inf")])
def test_no_prediction_outside_reaches_a_metric(outside):
    metric = MaskedMetric("mean_squared_error", missing_value=NAN)
    metric.update_state(column(1, NAN, 3), column(1.5, outside, 3))
    assert number(metric.result()) == pytest.approx(0.125)


@pytest.mark.parametrize("metric", ["categorical_accuracy", "mean_absolute_error", "AUC"])
def test_a_metric_that_compares_columns_refuses_numbers_of_classes(metric):
    named = MaskedMetric(metric)
    with pytest.raises(
        ValueError,
        match=rf"labels of {named.name} must be shaped like the prediction \(2, 3\), since its `metric` is not sparse; "
        r"received: shape=\(2, 1\)",
    ):
        named.update_state(column(1, 2), np.eye(3, dtype="float32")[1:])
    sparse = MaskedMetric("sparse_categorical_accuracy")
    sparse.update_state(column(1, 2), np.eye(3, dtype="float32")[1:])
    assert number(sparse.result()) == 1.0


@pytest.mark.needs_tensorflow
def test_labels_and_weights_whose_width_only_running_tells():
    """As `from_generator` may give them."""
    import tensorflow as tf

    loss = MaskedLoss("mse", missing_value=NAN)
    unknown = tf.TensorSpec((None, None))
    found = tf.function(loss, input_signature=[unknown, tf.TensorSpec((None, 1)), unknown])
    assert number(found(column(1, NAN, 3), column(2, 0, 5), column(1, 1, 2))) == pytest.approx(3.0)


@pytest.mark.parametrize("metric", ["AUC", keras.metrics.AUC(num_thresholds=4000, name="roc")], ids=["name", "object"])
@pytest.mark.parametrize("by", ["labels", "weights"])
def test_auc_counts_the_rows_of_the_task_alone(rng, metric, by):
    truth, inside = rng.integers(0, 2, 3000).astype("float32"), rng.random(3000) < 0.2
    scores = np.clip(0.3 * truth + 0.7 * rng.random(3000), 0, 1).astype("float32")
    scores[~inside] = 1 - truth[~inside]  # whoever counts these sees it
    masked = MaskedMetric(metric, missing_value=NAN)
    for part in np.array_split(np.arange(3000), 7):
        if by == "labels":
            masked.update_state(np.where(inside, truth, NAN)[part], scores[part, None])
        else:
            masked.update_state(truth[part], scores[part, None], inside[part].astype("float32"))
    expected = roc_auc_score(truth[inside], scores[inside])
    assert number(masked.result()) == pytest.approx(expected, abs=5e-4)
    masked.reset_state()
    assert number(masked.result()) == 0.0


@pytest.mark.parametrize(
    ("mean_logit", "rate", "exact", "of_keras"), [(-6, 0.003, 0.6322, 0.5547), (0, 0.5, 0.6347, 0.6347)]
)
def test_auc_by_its_name_is_right_for_rare_tasks_too(rng, mean_logit, rate, exact, of_keras):
    scores = 1 / (1 + np.exp(-rng.normal(mean_logit, 0.5, size=(200_000, 1)))).astype("float32")
    labels = (rng.random(scores.shape) < scores).astype("float32")
    assert labels.mean() == pytest.approx(rate, rel=0.1)
    assert roc_auc_score(labels, scores) == pytest.approx(exact, abs=1e-4)
    for metric, expected in (("AUC", exact), (keras.metrics.AUC(), of_keras)):
        masked = MaskedMetric(metric)
        masked.update_state(labels, scores)
        assert number(masked.result()) == pytest.approx(expected, abs=5e-4)


def test_auc_by_its_name_takes_the_ends_of_the_scale():
    metric = MaskedMetric("AUC")
    metric.update_state(column(1, 0, 1, 0), column(1, 0, 1, 1))
    assert number(metric.result()) == 0.75


def test_auc_by_its_name_takes_scores_that_are_no_probabilities_as_keras_does():
    for scores in ((2.0, 0.5, -1.0, 3.0), (-2.0, 0.5, -1.0, 0.1)):
        masked, of_keras = MaskedMetric("AUC"), MaskedMetric(keras.metrics.AUC(num_thresholds=1000))
        for metric in (masked, of_keras):
            metric.update_state(column(1, 0, 0, 1), column(*scores))
        assert number(masked.result()) == pytest.approx(number(of_keras.result()), abs=1e-6)


def test_per_task_gives_every_task_its_own_loss_and_metrics_under_one_rule():
    arguments = per_task(
        {"b": "mse", "a": keras.losses.Huber()}, {"a": ["mae", keras.metrics.AUC(name="roc")]}, missing_value=-1
    )
    assert list(arguments) == ["loss", "weighted_metrics"]
    assert {task: loss.name for task, loss in arguments["loss"].items()} == {"b": "b_loss", "a": "a_loss"}
    assert {task: len(each) for task, each in arguments["weighted_metrics"].items()} == {"b": 0, "a": 2}
    for each in (*arguments["loss"].values(), *arguments["weighted_metrics"]["a"]):
        assert each.missing_value == -1 and each.require_weights is False


def test_a_metric_given_by_name_is_logged_under_it_however_many_there_were_before():
    for _ in range(2):
        metrics = per_task(dict.fromkeys("ab", "mse"), {task: ["AUC", "MeanSquaredError"] for task in "ab"})
        names = [[metric.name for metric in of_task] for of_task in metrics["weighted_metrics"].values()]
        assert names == [["auc", "mean_squared_error"]] * 2
    assert MaskedMetric(keras.metrics.AUC(name="roc_2")).name == "roc_2"


def test_a_metric_need_not_be_in_a_list():
    own = keras.metrics.MeanSquaredError()
    metrics = per_task({"b": "mse", "a": "mse"}, {"a": "AUC", "b": own})["weighted_metrics"]
    assert [each.metric for each in metrics["b"]] == [own]
    assert [isinstance(each.metric, keras.metrics.AUC) for each in metrics["a"]] == [True]


@pytest.mark.skipif(LEGACY, reason="losses of tf_keras have no dtype")
def test_the_dtype_of_a_loss_survives_json():
    config = json.loads(json.dumps(MaskedLoss("mse", dtype="float64").get_config()))
    assert MaskedLoss.from_config(config).dtype == "float64"


@pytest.mark.parametrize(
    "made",
    [
        MaskedLoss("mse", missing_value=np.float32(-1)),
        MaskedLoss("mse", missing_value=-1.0, require_weights=True, name="mine"),
        MaskedLoss(keras.losses.BinaryCrossentropy(label_smoothing=0.1), missing_value=NAN),
        MaskedMetric("mse", missing_value=-1.0, require_weights=True),
        MaskedMetric(keras.metrics.AUC(num_thresholds=13, name="roc"), name="mine"),
        MaskedMetric("AUC"),
    ],
)
def test_losses_and_metrics_survive_json(made):
    copy = type(made).from_config(json.loads(json.dumps(made.get_config())))
    assert str(copy.get_config()) == str(made.get_config())
    weights = np.array([1.0, 0.0, 2.0], "float32")
    if isinstance(made, MaskedLoss):
        assert number(copy(column(1, 9, 0), PREDICTED, weights)) == number(made(column(1, 9, 0), PREDICTED, weights))


# Within `fit`


def compiled(tasks=("zapped", "also"), metrics=None, **kwargs):
    inputs = keras.Input((4,))
    layer = mtl.MMoE(len(tasks), 2, (4,))
    model = keras.Model(inputs, mtl.Towers(dict.fromkeys(tasks, ()))(layer(inputs)))
    losses = dict.fromkeys(tasks, "binary_crossentropy")
    model.compile(keras.optimizers.SGD(0.1), **per_task(losses, metrics, **kwargs))
    return model


def labels_of(rng, n=12):
    x = rng.normal(size=(n, 4)).astype("float32")
    return x, {"zapped": (rng.random(n) < 0.5).astype("float32"), "also": (x[:, 0] > 0).astype("float32")}


def test_nan_labels_and_weights_of_zero_train_the_same_model(rng):
    x, labels = labels_of(rng)
    inside = {"zapped": rng.random(12) < 0.5, "also": rng.random(12) < 0.2}
    by_labels, by_weights = compiled(missing_value=NAN), compiled(require_weights=True)
    by_weights.set_weights([array(weight) for weight in by_labels.weights])
    missing = {task: np.where(inside[task], labels[task], NAN) for task in labels}
    masks = {task: inside[task].astype("float32") for task in labels}
    one = by_labels.fit(x, missing, epochs=3, batch_size=4, shuffle=False, verbose=0).history
    two = by_weights.fit(x, labels, sample_weight=masks, epochs=3, batch_size=4, shuffle=False, verbose=0).history
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-4)
    for first, second in zip(map(array, by_labels.weights), map(array, by_weights.weights), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)
        assert np.isfinite(first).all()


def test_a_compiled_model_is_saved_with_its_losses_and_metrics(rng, tmp_path):
    x, labels = labels_of(rng)
    labels["also"][:7] = NAN
    metrics = {"zapped": ["mse"], "also": [keras.metrics.AUC(name="roc"), "binary_accuracy"]}
    model = compiled(metrics=metrics, missing_value=NAN)
    model.fit(x, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    before, after = (m.evaluate(x, labels, verbose=0, return_dict=True) for m in (model, loaded))
    assert len(before) == len(after) == (1 + 2 + 3)
    assert after == pytest.approx(before, rel=1e-6)
    loaded.fit(x, labels, verbose=0)


def test_logs_may_have_metrics_by_their_tasks_on_any_keras(rng):
    x, labels = labels_of(rng)
    model = compiled()
    model.output_names = sorted(model.output)
    losses = dict.fromkeys(labels, "mse")
    model.compile("sgd", **per_task(losses, {"zapped": "AUC", "also": "mean_absolute_error"}))
    found = model.evaluate(x, labels, verbose=0, return_dict=True)
    assert set(found) == {"loss", "zapped_loss", "also_loss", "zapped_auc", "also_mean_absolute_error"}
    expected = np.abs(labels["also"] - model.predict(x, verbose=0)["also"][:, 0]).mean()
    assert found["also_mean_absolute_error"] == pytest.approx(expected, rel=1e-5)
