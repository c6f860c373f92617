"""Balanced models in `fit`: logs, files, backups, and everything that a plain model does."""

import numpy as np
import pytest
from conftest import BACKEND
from killing import Kill, Killed
from reference import array
from two_devices import run_on_two_devices

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
TASKS = ("watch_time", "click")  # not in alphabetical order: who sorts them somewhere is found out
EPOCHS, OPTIONS = 2, {"batch_size": 8, "shuffle": False, "verbose": 0}
EAGERLY = {"run_eagerly": True} if BACKEND == "tensorflow" else {}  # for a few steps on TensorFlow it is faster

MAKERS = {
    "decaying": lambda: DecayingWeights({"watch_time": 1.0, "click": 2.0}, {"watch_time": 0.5, "click": 0.9}, steps=3),
    "uncertainty": lambda: UncertaintyWeighting(TASKS, regression=["watch_time"]),
    "average": lambda: DynamicWeightAverage(TASKS, steps=2),
}
if BACKEND == "tensorflow":
    MAKERS |= {"norms": lambda: GradNorm(TASKS, alpha=0.5), "surgery": lambda: PCGrad(TASKS, seed=1)}
balancings = pytest.mark.parametrize("name", MAKERS)


def data(rows=24):
    rng = np.random.default_rng(0)
    x = {"ids": rng.integers(0, 9, (rows, 3)).astype("int32"), "numbers": rng.normal(size=(rows, 2)).astype("float32")}
    clicked = x["numbers"][:, 0] + x["ids"][:, 0] % 3 > 1
    y = {"click": clicked.astype("float32"), "watch_time": np.where(clicked, x["numbers"][:, 1], NAN).astype("float32")}
    return x, y


def network():
    inputs = {"ids": keras.Input((3,), dtype="int32", name="ids"), "numbers": keras.Input((2,), name="numbers")}
    table = keras.layers.Embedding(9, 2, name="table")(inputs["ids"])
    x = keras.layers.Concatenate()([keras.layers.Reshape((6,))(table), inputs["numbers"]])
    h = mtl.MMoE(2, 2, (4,), kernel_regularizer="l2", name="mmoe")(x)
    return inputs, mtl.Towers({"watch_time": mtl.towers.Regression((3,)), "click": (3,)})(h)


def compiled(model, optimizer=None, **kwargs):
    losses = {"watch_time": "mse", "click": "binary_crossentropy"}
    metrics = {"click": ["binary_accuracy"]}
    model.compile(
        optimizer or keras.optimizers.Adam(0.01),
        **mtl.losses.per_task(losses, metrics, missing_value=NAN),
        jit_compile=BACKEND == "jax",
        **kwargs,
    )
    return model


def balanced(balancing, optimizer=None, **kwargs):
    return compiled(BalancedModel(*network(), balancing), optimizer, **kwargs)


def state(model):
    metrics = {id(weight) for metric in model.logged for weight in metric.variables}
    weights = [array(weight) for weight in model.weights if id(weight) not in metrics]
    optimizers = [model.optimizer, *filter(None, [getattr(model.balancing, "optimizer", None)])]
    held = [each.variables() if callable(each.variables) else each.variables for each in optimizers]
    return weights + [array(variable) for variables in held for variable in variables]


def assert_equal_to_the_bit(model, expected):
    found = state(model)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.fixture(scope="module")
def trained():
    """For each balancing the uninterrupted training: its history and the state that it ends in."""
    made = {}

    def get(name):
        if name not in made:
            keras.utils.set_random_seed(0)
            model = balanced(MAKERS[name](), **EAGERLY)
            history = model.fit(*data(), epochs=EPOCHS, validation_data=data(8), **OPTIONS).history
            made[name] = (history, state(model))
        return made[name]

    return get


# ----------------------------------------------------------------------------------------------------------------- logs


@balancings
def test_the_history_has_losses_and_weights_of_every_task(trained, name):
    history, _ = trained(name)
    own = {"loss", "click_binary_accuracy", *(f"{task}_{what}" for task in TASKS for what in ("loss", "weight"))}
    assert set(history) == own | {f"val_{log}" for log in own}
    for log in own:
        assert len(history[log]) == EPOCHS and np.isfinite(history[log]).all()
    weights = np.array([history[f"{task}_weight"] for task in TASKS])
    if name == "decaying":
        np.testing.assert_allclose(weights, [[1.0, 0.5], [2.0, 1.8]], rtol=1e-5)  # 3 steps an epoch
        assert history["val_click_weight"] == pytest.approx([1.8, 1.62])
    elif name == "surgery":
        assert (weights >= 1 - 1e-6).all()
        assert history["val_click_weight"] == [1.0] * EPOCHS
    else:
        assert (np.abs(weights[:, -1] - weights[:, 0]) > 1e-4).all()
    if name in ("average", "norms"):
        np.testing.assert_allclose(weights.sum(axis=0), 2.0, rtol=1e-5)


def test_the_loss_is_the_weighted_sum_and_the_penalties(capsys):
    x, y = data()
    model = balanced(DecayingWeights({"watch_time": 0.5, "click": 3.0}), keras.optimizers.SGD(0.0))
    history = model.fit(x, y, batch_size=24, verbose=1).history
    printed = capsys.readouterr().out
    assert all(f"{log}: " in printed for log in ("click_weight", "watch_time_weight", "click_loss"))
    predicted = model.predict(x, verbose=0)
    expected = {
        task: float(mtl.losses.MaskedLoss(loss, missing_value=NAN)(y[task], predicted[task]))
        for task, loss in (("watch_time", "mse"), ("click", "binary_crossentropy"))
    }
    penalty = sum(float(0.01 * (array(w) ** 2).sum()) for w in model.get_layer("mmoe").weights if len(w.shape) == 3)
    assert penalty > 0.05
    for task in TASKS:
        assert history[f"{task}_loss"][0] == pytest.approx(expected[task], rel=1e-5)
    total = 0.5 * expected["watch_time"] + 3.0 * expected["click"] + penalty
    assert history["loss"][0] == pytest.approx(total, rel=1e-5)
    assert history["click_binary_accuracy"][0] == pytest.approx(
        np.mean((predicted["click"].ravel() > 0.5) == y["click"])
    )


@pytest.mark.needs_tensorflow
def test_tensorboard_gets_the_weights(tmp_path):
    import tensorflow as tf

    model = balanced(MAKERS["decaying"]())
    model.fit(*data(), epochs=EPOCHS, callbacks=[keras.callbacks.TensorBoard(tmp_path)], **OPTIONS)
    found = {}
    for path in sorted((tmp_path / "train").glob("*.tfevents*")):
        for record in tf.data.TFRecordDataset(str(path)):
            for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
                if value.tag == "epoch_click_weight":
                    found[value.tag] = [*found.get(value.tag, ()), float(tf.make_ndarray(value.tensor))]
    assert found == {"epoch_click_weight": pytest.approx([2.0, 1.8])}


# ---------------------------------------------------------------------------------------------------- saved and resumed


@balancings
def test_saved_loaded_and_continued_it_is_the_same_training_to_the_bit(trained, name, tmp_path):
    keras.utils.set_random_seed(0)
    model = balanced(MAKERS[name](), **EAGERLY)
    model.fit(*data(), epochs=1, **OPTIONS)
    model.save(tmp_path / "model.keras")
    keras.utils.set_random_seed(99)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is BalancedModel and loaded.balancing.tasks == TASKS
    assert_equal_to_the_bit(loaded, state(model))
    loaded.fit(*data(), initial_epoch=1, epochs=EPOCHS, **OPTIONS)
    assert_equal_to_the_bit(loaded, trained(name)[1])


@pytest.mark.parametrize("name", sorted({"average", "norms"} & MAKERS.keys()))
def test_killed_and_restored_from_a_backup_it_is_the_same_training_to_the_bit(trained, name, tmp_path):
    keras.utils.set_random_seed(0)
    model = balanced(MAKERS[name](), **EAGERLY)
    with pytest.raises(Killed):
        model.fit(
            *data(),
            epochs=EPOCHS,
            callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup"), Kill(1, 1)],
            **OPTIONS,
        )
    keras.utils.set_random_seed(99)
    again = balanced(MAKERS[name](), **EAGERLY)
    history = again.fit(
        *data(), epochs=EPOCHS, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")], **OPTIONS
    )
    assert history.epoch == [1]
    assert_equal_to_the_bit(again, trained(name)[1])


# ------------------------------------------------------------------------------------------------ beside a plain model


EQUAL = {"decaying": lambda: DecayingWeights(dict.fromkeys(TASKS, 1.0))}
if BACKEND == "tensorflow":
    EQUAL["norms"] = lambda: GradNorm(TASKS, layer="mmoe", optimizer=keras.optimizers.SGD(0.0))


@pytest.mark.parametrize("name", EQUAL)
def test_with_equal_weights_it_trains_as_a_plain_model(name):
    """By the gradients of tasks too: sparse ones of tables, penalties, and tasks that a weight does not concern."""
    model = balanced(EQUAL[name](), keras.optimizers.SGD(0.1))
    inputs, outputs = network()
    plain = compiled(keras.Model(inputs, outputs), keras.optimizers.SGD(0.1))
    for mine, theirs in zip(plain.weights, keras.Model(model.input, model.output).weights, strict=True):
        mine.assign(array(theirs))
    ours = model.fit(*data(), epochs=2, **OPTIONS).history
    expected = plain.fit(*data(), epochs=2, **OPTIONS).history
    np.testing.assert_allclose(ours["loss"], expected["loss"], rtol=1e-5)
    for mine, theirs in zip(plain.weights, keras.Model(model.input, model.output).weights, strict=True):
        np.testing.assert_allclose(array(mine), array(theirs), atol=1e-5)


def test_lists_of_numbers_begin_with_the_loss_and_have_their_names():
    x, y = data()
    model = balanced(MAKERS["average"]())
    lost = model.evaluate(x, y, verbose=0, return_dict=True)
    listed = model.evaluate(x, y, verbose=0)
    logged = ["loss", "watch_time_loss", "click_loss", "watch_time_weight", "click_weight"]
    assert listed == pytest.approx([lost[name] for name in [*logged, "click_binary_accuracy"]])
    assert model.metrics_names[:5] == logged and len(model.metrics_names) == len(listed) == len(lost)
    assert model.test_on_batch(x, y) == pytest.approx(listed, rel=1e-5)
    assert model.train_on_batch(x, y)[0] == pytest.approx(listed[0], rel=1e-5)


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5"])
def test_a_format_that_would_lose_the_balancing_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"`filepath` must not be of the legacy HDF5 format.*; received: .*model\.h"):
        balanced(MAKERS["average"]()).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.needs_tensorflow
@pytest.mark.parametrize("name", ["norms", "surgery"])
def test_compiled_by_xla_lazy_adam_moves_the_same_rows(name):
    x, y = data()
    weights = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        model = balanced(MAKERS[name](), mtl.LazyAdam(0.1, epsilon=0.1))
        model.compile(model.optimizer, model.loss, jit_compile=jit_compile)
        model.fit(x, y, batch_size=12, shuffle=False, verbose=0)
        weights.append([array(weight) for weight in model.trainable_weights])
    for plain, compiled_by_xla in zip(*weights, strict=True):
        np.testing.assert_allclose(compiled_by_xla, plain, atol=1e-4)


@pytest.mark.parametrize("name", sorted({"uncertainty", "norms"} & MAKERS.keys()))
def test_freezing_leaves_the_balancing_behind(name):
    model = balanced(MAKERS[name]())
    x, _ = data(7)
    frozen = mtl.freeze(model, tasks=["click"])
    assert not isinstance(frozen, BalancedModel)
    np.testing.assert_allclose(frozen.predict(x, verbose=0)["click"], model.predict(x, verbose=0)["click"], atol=1e-6)


@pytest.mark.parametrize("name", ["norms" if BACKEND == "tensorflow" else "average"])
def test_mixed_precision_leaves_the_balancing_in_float32(name):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = balanced(MAKERS[name]())
        history = model.fit(*data(), epochs=2, **OPTIONS).history
    finally:
        keras.mixed_precision.set_global_policy("float32")
    weights = model.balancing.weights[0]
    assert "float32" in str(weights.dtype) and array(weights)[0] != array(weights)[1]
    assert np.isfinite(history["loss"]).all()


@pytest.mark.needs_tensorflow
@pytest.mark.parametrize("name", ["norms", "surgery"])
@pytest.mark.parametrize(("policy", "tolerance"), [("float64", 1e-5), ("bfloat16", 0.05)])
def test_gradients_of_tasks_may_be_of_any_precision(name, policy, tolerance):
    histories, start = [], None
    for each in ("float32", policy):
        keras.mixed_precision.set_global_policy(each)
        try:
            model = balanced(MAKERS[name](), keras.optimizers.SGD(0.1), **EAGERLY)
            start = start or [array(weight) for weight in model.trainable_weights]
            dtypes = [getattr(weight.dtype, "name", weight.dtype) for weight in model.trainable_weights]
            assert each in dtypes  # in bfloat16 the heads of `Towers` stay as they are
            for weight, value, dtype in zip(model.trainable_weights, start, dtypes, strict=True):
                weight.assign(ops.cast(value, dtype))
            histories.append(model.fit(*data(), epochs=EPOCHS, **OPTIONS).history)
        finally:
            keras.mixed_precision.set_global_policy("float32")
    for log in ("loss", *(f"{task}_{what}" for task in TASKS for what in ("loss", "weight"))):
        np.testing.assert_allclose(histories[1][log], histories[0][log], rtol=tolerance)


@pytest.mark.needs_tensorflow
@pytest.mark.once
def test_two_replicas_are_refused():
    done = run_on_two_devices("""
        from test_balancing_in_fit import MAKERS, balanced
        with strategy.scope():
            balanced(MAKERS["decaying"]())
        """)
    assert "ValueError: the strategy of a balanced model must have one replica" in done.stderr
    assert "received: 2 replicas" in done.stderr
