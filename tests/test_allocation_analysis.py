"""What an allocation says of tasks: embeddings, similarities, clusters, pictures, and its course in the logs."""

import csv

import matplotlib
import numpy as np
import pytest
from conftest import BACKEND
from gumbel_reference import allocate, logits_of

import mtl_layers as mtl
from mtl_layers._keras import keras

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LOWER = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 0]], bool)
UPPER = np.array([[1, 0], [1, 1], [1, 0]], bool)
TASKS = {"watch": (), "buy": (), "like": ()}


@pytest.fixture
def model():
    inputs = keras.Input((4,), name="x")
    layer = mtl.GumbelMatrix(3, (3, 2), ((4,), (3,)), temperature=2, name="shared")
    model = keras.Model(inputs, mtl.Towers(TASKS)(layer(inputs)))
    allocate(layer, [LOWER, UPPER])
    losses = mtl.losses.per_task(dict.fromkeys(TASKS, "mse"))
    model.compile(keras.optimizers.SGD(0.1), **losses, jit_compile=BACKEND == "jax")
    return model


def data(rows=32):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 4)).astype("float32"), {task: rng.random(rows) for task in TASKS}


# -------------------------------------------------------------------------------------------------------- embeddings


def test_an_embedding_is_the_rows_of_all_matrices(model):
    expected = np.concatenate([LOWER, UPPER], axis=1)
    np.testing.assert_array_equal(mtl.analysis.task_embeddings(model), expected)
    layer = model.get_layer("shared")
    np.testing.assert_array_equal(mtl.analysis.task_embeddings(layer), expected)
    soft = mtl.analysis.task_embeddings(model, probabilities=True)
    np.testing.assert_allclose(soft, np.where(expected, 0.8, 0.2), rtol=1e-5)


def test_the_embeddings_of_two_layers_are_put_one_behind_the_other(rng):
    inputs = keras.Input((4,))
    lower, upper = mtl.GumbelMatrix(3, 3, name="b"), mtl.GumbelMatrix(3, 2, name="a")
    model = keras.Model(inputs, mtl.Towers(TASKS)(upper(lower(inputs))))
    allocate(lower, [LOWER])
    allocate(upper, [UPPER])
    np.testing.assert_array_equal(mtl.analysis.task_embeddings(model), np.concatenate([LOWER, UPPER], axis=1))


def test_a_layer_within_a_nested_model_is_found_and_logged():
    inputs = keras.Input((4,))
    layer = mtl.GumbelMatrix(3, 3, ((4,),), name="shared")
    model = keras.Model(inputs, keras.Model(inputs, mtl.Towers(TASKS)(layer(inputs)))(inputs))
    allocate(layer, [LOWER])
    model.compile("sgd", "mse", jit_compile=BACKEND == "jax")
    np.testing.assert_array_equal(mtl.analysis.task_embeddings(model), LOWER)
    history = model.fit(*data(), verbose=0, callbacks=[mtl.analysis.AllocationLog()]).history
    assert history["shared_0_buy_1"] == pytest.approx([layer.probabilities()[0][1, 1]])


def test_cosines_and_clusters_by_hand():
    embeddings = [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]
    expected = np.eye(5)
    expected[0, 3] = expected[3, 0] = 1.0
    expected[[0, 1, 1, 3], [1, 0, 3, 1]] = np.sqrt(0.5)
    expected[4, 4] = 0.0
    np.testing.assert_allclose(mtl.analysis.cosine_similarity(embeddings), expected, atol=1e-12)
    assert mtl.analysis.task_clusters(embeddings).tolist() == [0, 1, 2, 0, 3]


def test_a_model_without_an_allocation_is_refused():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, mtl.Towers(TASKS)(mtl.MMoE(3, 2)(inputs)))
    with pytest.raises(ValueError, match=r"`model` must have GumbelMatrix layers for the same number of tasks; .*\[\]"):
        mtl.analysis.task_embeddings(model)
    with pytest.raises(ValueError, match="`model` must have a GumbelMatrix layer for its allocation to be logged; rec"):
        mtl.analysis.AllocationLog().set_model(model)


# ---------------------------------------------------------------------------------------------------------- pictures


def labels(ticks):
    return [each.get_text() for each in ticks]


def test_an_allocation_is_drawn_level_beside_level(model):
    figure, axes = plt.subplots()
    mtl.analysis.plot_allocation(model.get_layer("shared").allocation(), list(TASKS), axes, "shared")
    np.testing.assert_array_equal(axes.images[0].get_array(), np.concatenate([LOWER, UPPER], axis=1))
    assert labels(axes.get_yticklabels()) == list(TASKS)
    assert labels(axes.get_xticklabels()) == ["0", "1", "2", "0", "1"]
    assert [line.get_xdata()[0] for line in axes.lines] == [2.5] and axes.get_title() == "shared"
    plt.close(figure)


def test_clusters_are_drawn_side_by_side_in_frames(model):
    figure, axes = plt.subplots()
    mtl.analysis.plot_task_clusters(mtl.analysis.task_embeddings(model), list(TASKS), axes)
    assert labels(axes.get_yticklabels()) == labels(axes.get_xticklabels()) == ["watch", "like", "buy"]
    image = axes.images[0].get_array()
    cosine = 2 / np.sqrt(3 * 4)
    np.testing.assert_allclose(image, [[1, 1, cosine], [1, 1, cosine], [cosine, cosine, 1]])
    assert [(line.get_xdata().min(), line.get_xdata().max()) for line in axes.lines] == [(-0.5, 1.5), (1.5, 2.5)]
    with pytest.raises(ValueError, match=r"`task_names` must have 3 names; received: \['a'\]"):
        mtl.analysis.plot_allocation([LOWER], ["a"], axes)
    plt.close(figure)


# -------------------------------------------------------------------------------------------------------------- logs


def test_the_logs_have_every_probability_at_the_end_of_every_epoch(model):
    layer, seen = model.get_layer("shared"), []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append([1 / (1 + np.exp(-each)) for each in logits_of(layer)])

    callbacks = [mtl.analysis.AllocationLog(), Watch()]
    history = model.fit(*data(), batch_size=8, epochs=2, verbose=0, callbacks=callbacks).history
    for epoch, levels in enumerate(seen):
        for depth, level in enumerate(levels):
            for (task, component), p in np.ndenumerate(level):
                found = history[f"shared_{depth}_{list(TASKS)[task]}_{component}"][epoch]
                assert found == pytest.approx(p, rel=1e-5)
        entries = np.concatenate(levels, axis=1)
        assert history["shared_probability"][epoch] == pytest.approx(entries.mean(), rel=1e-5)
        assert history["shared_active"][epoch] == pytest.approx((entries >= 0.5).mean())
    assert (seen[0][0] != seen[1][0]).any()
    assert history["shared_empty"] == [0, 0] and history["shared_temperature"] == [2.0, 2.0]
    short = model.fit(*data(), verbose=0, callbacks=[mtl.analysis.AllocationLog(entries=False)]).history
    names = {"probability", "active", "empty", "temperature"}
    assert {name for name in short if name.startswith("shared")} == {f"shared_{name}" for name in names}


def test_tasks_without_a_component_are_counted_and_warned_of_at_evaluation(model):
    allocate(model.get_layer("shared"), [LOWER & [[True], [False], [True]], UPPER], certainty=0.999)
    log = mtl.analysis.AllocationLog()
    with pytest.warns(UserWarning, match="`shared` has tasks without any component, .* input: task 1 at level 0"):
        history = model.fit(*data(), validation_data=data(), verbose=0, callbacks=[log]).history
    assert history["shared_empty"] == [1]
    with pytest.warns(UserWarning, match="task 1 at level 0"):
        model.evaluate(*data(), verbose=0, callbacks=[log])
    model.get_layer("shared").allow_empty = True
    model.evaluate(*data(), verbose=0, callbacks=[log])  # a warning would be an error


def test_callbacks_that_write_logs_get_the_probabilities(model, tmp_path):
    path = tmp_path / "log.csv"
    callbacks = [mtl.analysis.AllocationLog(), keras.callbacks.CSVLogger(path)]
    history = model.fit(*data(), epochs=2, verbose=0, callbacks=callbacks).history
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("shared")]
    assert len(names) == 3 * (3 + 2) + 4
    for name in names:
        assert [float(row[name]) for row in rows] == pytest.approx(history[name], rel=1e-5)
