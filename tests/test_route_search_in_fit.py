"""A search inside an ordinary `fit`: which route is in force when, logs, refusals, resuming, other ways to train."""

import numpy as np
import pytest
from conftest import BACKEND
from killing import Kill, Killed
from reference import array
from route_models import (
    compiled,
    constant_data,
    constant_model,
    mean_square,
    prediction_of,
    real_data,
    real_model,
    search,
    supernet_of,
)
from two_devices import run_on_two_devices

import mtl_layers as mtl
from mtl_layers._keras import keras

NUMBERS = (1.0, 10.0)
NEVER = 10**6
SMALL = (2, 1, 2)


def adam():
    return keras.optimizers.Adam(0.01)


# ----------------------------------------------------------------------------------------- which route is in force when


class Ask(keras.callbacks.Callback):
    """Predicts at the end of every epoch, in the middle of `fit`."""

    def on_train_begin(self, logs=None):
        self.found = []

    def on_epoch_end(self, epoch, logs=None):
        self.found.append(float(self.model.predict(np.ones((2, 1)), verbose=0)["a"][0, 0]))


def test_training_steps_take_the_sampled_route_and_all_else_the_most_likely(tmp_path):
    model, supernet = constant_model(NUMBERS)
    likely = next(n for n in range(3) if prediction_of(supernet, n, NUMBERS) == 1.0)
    alpha = np.zeros((1, 3), "float32")
    alpha[0, likely] = 0.5
    supernet.alpha.assign(alpha)
    (x, y), sampled, ask = constant_data(4), [], Ask()

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            sampled.append(prediction_of(supernet, int(array(supernet.route)[0]), NUMBERS) ** 2)

    callbacks = [mtl.RouteSearch([(x, y)], mean_square, start_step=NEVER), Watch(), ask]
    options = {"batch_size": 4, "epochs": 12, "validation_data": (x, y), "verbose": 0, "callbacks": callbacks}
    history = model.fit(x, y, **options).history
    assert history["loss"] == pytest.approx(sampled) and set(sampled) == {1.0, 100.0, 5.5**2}
    assert history["val_loss"] == pytest.approx([1.0] * 12)
    assert ask.found == pytest.approx([1.0] * 12)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(1.0)
    assert float(mtl.freeze(model).predict(x, verbose=0)["a"][0, 0]) == pytest.approx(1.0)
    assert supernet.derive().blocks[0].values == (0,)
    # A later fit without a search goes on with the route found, and not with the one sampled last.
    assert model.fit(x, y, batch_size=4, verbose=0).history["loss"] == pytest.approx([1.0])


@pytest.mark.parametrize("kept_by", ["a file", "EarlyStopping"])
def test_weights_kept_in_the_middle_of_a_search_have_the_most_likely_route_in_force(tmp_path, kept_by):
    model, supernet = constant_model(NUMBERS)
    likely = next(n for n in range(3) if prediction_of(supernet, n, NUMBERS) == 10.0)
    alpha = np.zeros((1, 3), "float32")
    alpha[0, likely] = 0.1
    supernet.alpha.assign(alpha)
    (x, y), sampled, kept = constant_data(4), [], []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            sampled.append(int(array(supernet.route)[0]))

        def on_epoch_end(self, epoch, logs=None):
            kept.append(int(array(supernet.route)[0]))

    callbacks = [mtl.RouteSearch([(x, y)], mean_square, start_step=NEVER), Watch()]
    if kept_by == "a file":
        callbacks += [keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))]
    else:
        stop = {"monitor": "loss", "mode": "min", "patience": 8, "restore_best_weights": True}
        callbacks += [keras.callbacks.EarlyStopping(**stop)]
    model.fit(x, y, batch_size=4, epochs=8, verbose=0, callbacks=callbacks)
    assert len(set(sampled)) == 3 and kept == [likely] * 8
    if kept_by == "a file":
        model = keras.models.load_model(tmp_path / f"{1 + next(i for i in range(8) if sampled[i] != likely)}.keras")
    # The loss that a plain `fit` begins with is that of the most likely route.
    assert model.fit(x, y, batch_size=4, verbose=0).history["loss"] == pytest.approx([100.0])


def test_a_search_compiles_nothing_again_after_its_first_step():
    traces = []

    class Counted(keras.layers.Layer):
        def call(self, inputs):
            traces.append(1)
            return inputs

    inputs = keras.Input((4,))
    model = keras.Model(inputs, mtl.Towers({"b": (), "a": ()})(mtl.RouteSupernet(2, 1, 2, 3)(Counted()(inputs))))
    compiled(model, ("b", "a"), "adam", "binary_crossentropy")
    counts = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            counts.append(len(traces))

    x, y = real_data(48)
    callbacks = [mtl.RouteSearch([real_data(16)], "loss", routes_per_step=2), Count()]
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
    assert len(counts) == 12 and len(set(counts)) == 1


# ----------------------------------------------------------------------------------------------------------------- logs


def test_logs_tell_of_the_search(capsys):
    model, supernet = real_model(adam(), SMALL)
    x, y = real_data(24)
    seen = []

    class See(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append({name for name in logs if name.startswith("search")})

    callbacks = [mtl.RouteSearch([real_data(16)]), See()]
    history = model.fit(x, y, batch_size=8, epochs=2, verbose=1, callbacks=callbacks).history
    batch = {"search_reward", "search_baseline", "search_entropy"}
    assert seen == [batch] * 6
    blocks = {f"search_{what}_{block}" for what in ("entropy", "route") for block in range(2)}
    assert {name for name in history if name.startswith("search")} == batch | blocks | {"search_skipped"}
    assert all(len(history[name]) == 2 for name in history)
    p = np.exp(array(supernet.alpha)) / np.exp(array(supernet.alpha)).sum(axis=1, keepdims=True)
    entropy = -(p * np.log(p)).sum(axis=1)
    assert history["search_entropy"][-1] == pytest.approx(entropy.mean(), rel=1e-5)
    for block in range(2):
        assert history[f"search_entropy_{block}"][-1] == pytest.approx(entropy[block], rel=1e-5)
        assert history[f"search_route_{block}"][-1] == array(supernet.alpha)[block].argmax()
    printed = capsys.readouterr().out
    assert all(f"{name}: " in printed for name in batch)


# --------------------------------------------------------------------------------------------------- killed and resumed

EPOCHS, OPTIONS = 3, {"batch_size": 8, "shuffle": False, "verbose": 0}


def search_callback():
    return mtl.RouteSearch([real_data(16, seed) for seed in (7, 8, 9)], optimizer=adam(), seed=3)


def state(model):
    supernet = supernet_of(model)
    return [*model.get_weights(), *(array(v) for v in supernet.search_optimizer.variables), array(supernet.route)]


@pytest.fixture(scope="module")
def uninterrupted():
    model, supernet = real_model(keras.optimizers.Adam(0.01), (2, 2, 2))
    x, y = real_data(40)
    model.fit(x, y, epochs=EPOCHS, callbacks=[search_callback()], **OPTIONS)
    assert np.abs(array(supernet.alpha)).max() > 0
    return state(model), supernet.derive()


def assert_equal_to_the_bit(model, expected):
    weights, route = expected
    for mine, theirs in zip(state(model), weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert supernet_of(model).derive() == route


def test_saved_loaded_and_continued_it_is_the_same_search_to_the_bit(uninterrupted, tmp_path):
    x, y = real_data(40)
    model, _ = real_model(keras.optimizers.Adam(0.01), (2, 2, 2))
    model.fit(x, y, epochs=1, callbacks=[search_callback()], **OPTIONS)
    model.save(tmp_path / "model.keras")
    keras.utils.set_random_seed(99)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.fit(x, y, initial_epoch=1, epochs=EPOCHS, callbacks=[search_callback()], **OPTIONS)
    assert_equal_to_the_bit(loaded, uninterrupted)


@pytest.mark.parametrize("search_first", [True, False])
def test_killed_and_restored_from_a_backup_it_is_the_same_search_to_the_bit(uninterrupted, tmp_path, search_first):
    x, y = real_data(40)

    def callbacks():
        made = [search_callback(), keras.callbacks.BackupAndRestore(tmp_path / "backup")]
        return made if search_first else made[::-1]

    model, _ = real_model(keras.optimizers.Adam(0.01), (2, 2, 2))
    with pytest.raises(Killed):
        model.fit(x, y, epochs=EPOCHS, callbacks=[*callbacks(), Kill(1, 2)], **OPTIONS)
    again, _ = real_model(keras.optimizers.Adam(0.01), (2, 2, 2), seed=99)
    history = again.fit(x, y, epochs=EPOCHS, callbacks=callbacks(), **OPTIONS)
    assert history.epoch == [1, 2]
    assert_equal_to_the_bit(again, uninterrupted)


# -------------------------------------------------------------------------------------------------- other ways to train


def test_mixed_precision_searches_with_alpha_in_float32():
    model, supernet = real_model(adam(), SMALL, dtype="mixed_bfloat16")
    record, history = search(model, real_data(40), 8, [real_data(32)], epochs=2, routes_per_step=2)
    assert "float32" in str(supernet.alpha.dtype) and np.isfinite(history["loss"]).all()
    assert np.isfinite(record.alphas).all() and np.abs(record.alphas[-1]).max() > 0
    x, _ = real_data(5)
    expected = model.predict(x, verbose=0)
    for task, values in mtl.freeze(model).predict(x, verbose=0).items():
        np.testing.assert_allclose(values, expected[task], atol=0.02)


@pytest.mark.needs_tensorflow
def test_with_xla_it_is_the_same_search():
    found = []
    for jit_compile in (False, True):
        model, _ = real_model(adam(), SMALL)
        model.compile(model.optimizer, model.loss, jit_compile=jit_compile)
        record, _ = search(model, real_data(40), 8, [real_data(32)], routes_per_step=2)
        found.append(record)
    plain, compiled_by_xla = found
    assert np.array_equal(plain.routes, compiled_by_xla.routes)
    np.testing.assert_allclose(plain.alphas, compiled_by_xla.alphas, atol=1e-6)
    assert np.abs(plain.alphas[-1]).max() > 0


@pytest.mark.needs_tensorflow
def test_routes_are_scored_with_xla_where_the_model_is_compiled_with_it():
    import tensorflow as tf

    class BeyondXla(keras.layers.Layer):
        def call(self, inputs):
            return tf.strings.to_number(tf.strings.as_string(inputs))

    inputs = keras.Input((4,))
    model = keras.Model(inputs, mtl.Towers({"b": (), "a": ()})(mtl.RouteSupernet(2, 1, 2, 3)(BeyondXla()(inputs))))
    compiled(model, ("b", "a"), "adam", "binary_crossentropy")
    assert np.isfinite(mtl.RouteSearch([real_data(16)]).run(model, 2, verbose=0)["search_reward"]).all()
    model.compile(model.optimizer, model.loss, jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="XLA"):
        mtl.RouteSearch([real_data(16)]).run(model, 2, verbose=0)


@pytest.mark.needs_tensorflow
def test_two_replicas_search_as_one_device_does():
    done = run_on_two_devices("""
        from route_models import real_data, real_model, search
        assert strategy.num_replicas_in_sync == 2
        found = []
        for scope in (strategy.scope, tf.init_scope):
            with scope():
                model, supernet = real_model(keras.optimizers.SGD(0.0))
            record, history = search(model, real_data(32), 8, [real_data(16)], optimizer=keras.optimizers.Adam(0.01))
            found.append((record, history))
            weights = [supernet.alpha, supernet.route]
            for weight in weights if scope == strategy.scope else []:
                held = strategy.experimental_local_results(getattr(weight, "value", weight))
                held = held if len(held) == 2 else strategy.experimental_local_results(weight)
                assert len(held) == 2 and (held[0].numpy() == held[1].numpy()).all()
        two, one = found
        assert np.array_equal(two[0].routes, one[0].routes), (two[0].routes, one[0].routes)
        np.testing.assert_allclose(two[0].alphas, one[0].alphas, atol=1e-6)
        assert np.abs(one[0].alphas[-1]).max() > 0 and np.isfinite(two[1]["loss"]).all()
        print("equal")
        """)
    assert done.stdout.strip().endswith("equal"), done.stdout + done.stderr


def test_batches_of_a_dataset_with_weights_and_plain_losses_are_scored():
    import tensorflow as tf

    x, y = real_data(32)
    y = {task: labels.ravel() for task, labels in y.items()}
    y["a"][::2] = 7.0  # outside the sample space by weight
    weights = {"b": np.ones(32, "float32"), "a": (np.arange(32) % 2).astype("float32")}
    data = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(20)
    model, supernet = real_model(adam(), SMALL)
    model.compile("sgd", dict.fromkeys(y, "binary_crossentropy"), jit_compile=BACKEND == "jax")
    for reward in ("loss", "auc"):
        model.fit(x, y, batch_size=16, verbose=0, callbacks=[mtl.RouteSearch(data, reward)])
        assert array(supernet.search_skipped) == 0
        assert np.isfinite(array(supernet.search_baseline)).all()


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has no float64 unless it is told")
def test_a_search_runs_where_keras_is_told_to_compute_in_float64(in_float64):
    model, supernet = real_model("adam")
    _, history = search(model, real_data(16), 8, [real_data(16, seed=1)])
    assert np.isfinite(history["search_reward"]).all()
    assert np.ptp(array(supernet.alpha)) > 0
