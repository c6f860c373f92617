"""Finding the masks: how much each round prunes, what is rewound, which candidate is taken, one task's own model."""

import numpy as np
import pytest
from conftest import BACKEND
from reference import array

import mtl_layers as mtl
from mtl_layers._keras import keras

DIM, UNITS = 5, (8, 6)
WEIGHTS = 5 * 8 + 8 * 6


def model_of(num_tasks=2, shape=(DIM,)):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    below = keras.layers.Dense(DIM, name="below")(inputs)
    layer = mtl.SparseSharing(num_tasks, UNITS, activation="tanh", name="sparse")
    tasks = dict(list({"buy": (3,), "again": mtl.towers.Regression(()), "like": ()}.items())[:num_tasks])
    model = keras.Model(inputs, mtl.Towers(tasks, name="towers")(layer(below)))
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=tuple(weight.shape)))
    return model, layer


def sparse_of(model):
    return next(layer for layer in model.layers if isinstance(layer, mtl.SparseSharing))


def scramble(model):
    """A training in a moment: every weight is another."""
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=tuple(weight.shape)))
    return 0.0


def trainable(model):
    return [array(weight) for weight in model.trainable_weights]


def test_a_second_model_of_the_same_layers_is_pruned_by_its_own_inputs():
    model, layer = model_of(1)
    inputs = keras.Input((3,))
    below = keras.layers.Dense(DIM, name="other")(inputs)
    second = keras.Model(inputs, model.get_layer("towers")(layer(below)))

    def train(alone, task):
        assert alone.input_shape == (None, 3) and "other" in [each.name for each in alone.layers]
        return 0.0

    mtl.SparseSharingPruner(train, 0.5, 0.5, verbose=False).prune(second)
    assert layer.kept_fractions()[0] == 0.5


@pytest.mark.parametrize("threshold", ["global", "layer"])
def test_the_kept_fractions_are_those_of_the_schedule(threshold):
    model, _ = model_of()
    pruner = mtl.SparseSharingPruner(
        lambda alone, task: scramble(alone), 0.3, 0.2, threshold=threshold, layer_floor=0.0, verbose=False
    )
    report = pruner.prune(model)
    left = [[WEIGHTS]] if threshold == "global" else [[40], [48]]
    for layer in left:
        for _ in range(5):  # 0.7 ** 5 = 0.168 is the first that is at most 0.2
            layer.append(layer[-1] - round(0.3 * layer[-1]))
    expected = np.sum(left, axis=0) / WEIGHTS
    assert [record["task"] for record in report] == ["buy"] * 6 + ["again"] * 6
    assert [record["round"] for record in report] == [*range(6)] * 2
    np.testing.assert_allclose([record["kept"] for record in report], [*expected] * 2)


@pytest.mark.parametrize(("rate", "final", "rounds"), [(0.5, 0.25, 2), (0.2, 0.1, 11), (0.5, 0.24, 3), (0.5, 1.0, 0)])
def test_it_stops_at_the_first_round_with_at_most_the_final_fraction(rate, final, rounds):
    model, _ = model_of(1)
    report = mtl.SparseSharingPruner(lambda *_: 0.0, rate, final, layer_floor=0.0, verbose=False).prune(model)
    assert len(report) == rounds + 1


def test_it_stops_where_all_layers_are_at_their_floor():
    model, layer = model_of(1)
    report = mtl.SparseSharingPruner(lambda *_: 0.0, 0.5, 0.001, layer_floor=0.4, verbose=False).prune(model)
    assert [round(record["kept"] * WEIGHTS) for record in report] == [88, 44, 36]
    assert [mask.sum() for mask in layer.get_masks()] == [16, 20]


def test_every_training_starts_from_theta_0_and_so_does_the_model_afterwards():
    model, layer = model_of(3)
    start, kernels = trainable(model), layer.kernels
    seen, firsts = [], {}

    def train(alone, task):
        seen.append(task)
        parts = [*alone.get_layer("below").weights, *sparse_of(alone).biases]
        for found, expected in zip(parts, [*model.get_layer("below").weights, *layer.biases], strict=True):
            np.testing.assert_array_equal(array(found), array(expected))
        for found, expected in zip(sparse_of(alone).kernels, kernels, strict=True):
            assert found.tobytes() == expected.tobytes()
        for found, expected in zip(trainable(alone), firsts.setdefault(task, trainable(alone)), strict=True):
            np.testing.assert_array_equal(found, expected)  # of the tower, too
        return scramble(alone)

    mtl.SparseSharingPruner(train, 0.5, 0.25, verbose=False).prune(model)
    assert seen == ["buy"] * 3 + ["again"] * 3 + ["like"] * 3
    for found, expected in zip([*trainable(model), *layer.kernels], [*start, *kernels], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_training_that_fails_leaves_the_model_as_it_was():
    model, _ = model_of()
    start = model.get_weights()

    def train(alone, task):
        scramble(alone)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mtl.SparseSharingPruner(train, verbose=False).prune(model)
    for found, expected in zip(model.get_weights(), start, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_is_small_after_training_goes_and_not_what_was_small_before():
    model, layer = model_of(2)
    planted = {
        task: [np.random.default_rng(number).permutation(size).reshape(shape) + 1.0 for size, shape in SIZES]
        for number, task in enumerate(("buy", "again"))
    }

    def train(alone, task):
        sparse = sparse_of(alone)
        for kernel, values in zip(sparse.trained_kernels, planted[task], strict=True):
            kernel.assign(values)
        return float(1 - sparse.kept_fractions()[0])  # the sparsest is the best

    mtl.SparseSharingPruner(train, 0.5, 0.25, threshold="layer", verbose=False).prune(model)
    for depth, mask in enumerate(layer.get_masks()):
        for number, task in enumerate(("buy", "again")):
            size = planted[task][depth].size
            np.testing.assert_array_equal(mask[number], planted[task][depth] > 0.75 * size)


SIZES = [(40, (5, 8)), (48, (8, 6))]


@pytest.mark.parametrize(
    ("scores", "tolerance", "expected"),
    [
        ([0.5, 0.7, 0.6, 0.4], 0.0, 1),
        ([0.5, 0.7, 0.6, 0.4], 0.15, 2),
        ([0.7, 0.5, 0.7, 0.6], 0.0, 2),  # the sparsest of two that tie
        ([0.5, 0.5, 0.5, 0.5], 0.0, 3),
        ([-0.1, -0.2, -0.3, -0.4], 0.0, 0),
    ],
)
def test_the_candidate_with_the_planted_best_score_is_taken(scores, tolerance, expected):
    model, layer = model_of(2)
    calls = []

    def train(alone, task):
        calls.append(task)
        return scores[len(calls) - 1] if task == "buy" else float(len(calls))  # of the other task always the last

    report = mtl.SparseSharingPruner(train, 0.5, 0.125, tolerance=tolerance, verbose=False).prune(model)
    assert [record["round"] for record in report if record["chosen"]] == [expected, 3]
    assert [record["score"] for record in report if record["task"] == "buy"] == scores
    kept = [record["kept"] for record in report if record["chosen"]]
    np.testing.assert_array_equal(layer.kept_fractions(), kept)
    np.testing.assert_allclose(kept, [0.5**expected, 0.5**3])


@pytest.mark.parametrize("shape", [(DIM,), (2, DIM)])
def test_the_model_of_one_task_predicts_what_the_whole_model_does(rng, shape):
    model, _ = model_of(2, shape)
    x = rng.normal(size=(4, *shape)).astype("float32")
    found = {}

    def train(alone, task):
        assert alone.get_layer("below") is model.get_layer("below")
        found[task] = alone(x)
        return 0.0

    mtl.SparseSharingPruner(train, 0.5, 1.0, verbose=False).prune(model)
    for task, values in model(x).items():
        assert list(found[task]) == [task]
        np.testing.assert_allclose(array(found[task][task]), array(values), rtol=1e-6, atol=1e-6)


def test_from_warm_up_to_joint_training(rng, capsys):
    x = rng.normal(size=(256, DIM)).astype("float32")
    labels = {"buy": x[:, :1] > 0, "again": x[:, 1:2] + x[:, 2:3]}
    labels = {task: values.astype("float32") for task, values in labels.items()}
    kinds = {"buy": "binary_crossentropy", "again": "mse"}

    def fit(model, *tasks, epochs=1):
        losses = mtl.losses.per_task({task: kinds[task] for task in tasks})
        model.compile(keras.optimizers.AdamW(0.01), jit_compile=BACKEND == "jax", **losses)
        given = {task: labels[task] for task in tasks}
        return -model.fit(x, given, epochs=epochs, verbose=0).history["loss"][-1]

    model, layer = model_of(2)
    before = fit(model, *labels)  # the warm-up
    start = trainable(model)
    report = mtl.SparseSharingPruner(fit, 0.5, 0.5).prune(model)
    assert capsys.readouterr().out.count("kept: 0.5000") == 2
    assert len(report) == 4 and all(np.isfinite(record["score"]) for record in report)
    for found, expected in zip(trainable(model), start, strict=True):
        np.testing.assert_array_equal(found, expected)
    unused = [~mask.any(axis=0) for mask in layer.get_masks()]
    resting = [kernel[each] for kernel, each in zip(layer.kernels, unused, strict=True)]
    assert fit(model, *labels, epochs=6) > before
    for kernel, each, expected in zip(layer.kernels, unused, resting, strict=True):
        np.testing.assert_array_equal(kernel[each], expected)


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": None}, "`train` must be a function of a model and a task's name; received: train=None"),
        ({"prune_rate": 0.0}, "`prune_rate` must be above 0; received: prune_rate=0.0"),
        ({"prune_rate": 1}, r"`prune_rate` must be in \[0, 1\); received: prune_rate=1"),
        ({"final_kept": 0.0}, "`final_kept` must be above 0; received: final_kept=0.0"),
        ({"final_kept": 1.5}, r"`final_kept` must be in \[0, 1\]; received: final_kept=1.5"),
        ({"threshold": "median"}, '`threshold` must be "global" or "layer"; received: threshold=\'median\''),
        ({"layer_floor": 1.0}, r"`layer_floor` must be in \[0, 1\); received: layer_floor=1.0"),
        ({"tolerance": -0.1}, "`tolerance` must be a number of at least 0; received: tolerance=-0.1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mtl.SparseSharingPruner(**{"train": scramble, **arguments})


@pytest.mark.parametrize("score", [None, float("nan"), "0.5"])
def test_a_score_that_is_no_finite_number_is_refused(score):
    model, _ = model_of()
    with pytest.raises(ValueError, match=f"`train` must return a finite number, .*: {score!r} for task 'buy'"):
        mtl.SparseSharingPruner(lambda *_: score, verbose=False).prune(model)


def between():
    inputs = keras.Input((DIM,))
    hidden = keras.layers.Dropout(0.1)(mtl.SparseSharing(2, UNITS)(inputs))
    return keras.Model(inputs, mtl.Towers({"buy": (), "like": ()}, name="towers")(hidden))


def two_layers():
    inputs = keras.Input((DIM,))
    hidden = mtl.SparseSharing(2, UNITS)(mtl.SparseSharing(2, UNITS)(inputs))
    return keras.Model(inputs, mtl.Towers({"buy": (), "like": ()})(hidden))


def another_layer():
    inputs = keras.Input((DIM,))
    return keras.Model(inputs, mtl.Towers({"buy": (), "like": ()})(mtl.SharedBottom(2, UNITS)(inputs)))


def chained():
    inputs = keras.Input((DIM,))
    hidden = mtl.SparseSharing(2, UNITS)(inputs)
    return keras.Model(inputs, mtl.AITM({"buy": (3,), "like": (3,)}, chain=["like", "buy"], name="towers")(hidden))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.sharing, self.towers = mtl.SparseSharing(2, UNITS), mtl.Towers({"b": (), "a": ()})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (between, "`model` must have 'towers' directly on 'sparse_sharing.*'; received: something between"),
        (two_layers, "`model` must be a functional model with one SparseSharing and one Towers; received: 2 and 1 of"),
        (another_layer, "received: 0 and 1 of them in"),
        (
            chained,
            "`model` must have towers that each read their own task alone, .*; received: 'towers', a AITM, whose 'buy' "
            "reads other tasks",
        ),
        (Subclassed, "`model` must be a functional model with one SparseSharing"),
        (lambda: "model", "received: 0 and 0 of them in 'model'"),
    ],
)
def test_models_that_cannot_be_pruned_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        mtl.SparseSharingPruner(scramble, verbose=False).prune(make())
