"""Labels and masks as users get them wrong: names of tasks, shapes, empty masks; what Keras says, and what we do."""

import numpy as np
import pytest
from conftest import BACKEND, LEGACY
from test_losses import NAN, PREDICTED, compiled, labels_of

from mtl_layers._keras import keras, ops
from mtl_layers.losses import MaskedLoss, MaskedMetric, check_labels, per_task

WRONG_NAMES = {
    "extra": ({"zapped": "zapped", "also": "also", "alsp": "also"}, r"unknown \['alsp'\], missing \[\]"),
    "misspelt": ({"zapped": "zapped", "alsp": "also"}, r"unknown \['alsp'\], missing \['also'\]"),
    "missing": ({"zapped": "zapped"}, r"unknown \[\], missing \['also'\]"),
}
STRUCTURES = "y_true and y_pred have different structures"
KERAS_ON_LABELS = {
    "jax": {"extra": STRUCTURES, "misspelt": "also", "missing": "also"},
    "tensorflow": {"extra": STRUCTURES, "misspelt": "labels of zapped_loss must be", "missing": STRUCTURES},
    "legacy": dict.fromkeys(
        ("extra", "misspelt"), "don't have the same sequence length"
    ),  # trains on if one is missing
}
KERAS_ON_WEIGHTS = {
    "keras": dict.fromkeys(WRONG_NAMES, "You should provide one `sample_weight` array per output in `y`"),
    "legacy": dict.fromkeys(("misspelt", "missing"), "sample_weight of also_loss must be given"),  # overlooks an extra
}


@pytest.mark.parametrize("case", WRONG_NAMES)
@pytest.mark.parametrize("argument", ["labels", "sample_weight"])
def test_a_wrong_task_name_is_an_error_in_fit_or_at_least_in_check_labels(rng, case, argument):
    x, labels = labels_of(rng)
    names, message = WRONG_NAMES[case]
    wrong = {name: labels[source] for name, source in names.items()}
    given = {"y": wrong} if argument == "labels" else {"y": labels, "sample_weight": wrong}
    with pytest.raises(ValueError, match=rf"`{argument}` must have exactly the tasks \['zapped', 'also'\].*{message}"):
        check_labels(("zapped", "also"), *given.values())
    if argument == "labels":
        said = KERAS_ON_LABELS["legacy" if LEGACY else BACKEND].get(case)
    else:
        said = KERAS_ON_WEIGHTS["legacy" if LEGACY else "keras"].get(case)
    if said:
        with pytest.raises((KeyError, ValueError), match=said):
            compiled(require_weights=argument == "sample_weight").fit(x, verbose=0, **given)


@pytest.mark.parametrize("argument", ["labels", "sample_weight"])
def test_what_is_no_dict_is_refused(rng, argument):
    _, labels = labels_of(rng)
    given = {"labels": labels, argument: [labels]}
    message = rf"`{argument}` must be a dict from task name to an array of all rows; received: list"
    with pytest.raises(ValueError, match=message):
        check_labels(("zapped", "also"), **given)


def test_a_forgotten_mask_is_an_error_in_fit(rng):
    x, labels = labels_of(rng)
    with pytest.raises(ValueError, match=r"sample_weight of .* must be given, since `require_weights=True`"):
        compiled(require_weights=True).fit(x, labels, verbose=0)


def call(labels, predictions=PREDICTED, weights=None, **kwargs):
    return MaskedLoss("mse", name="click_loss", **kwargs)(labels, predictions, weights)


DENSE = ["mse", "binary_crossentropy", "BinaryCrossentropy", keras.losses.Huber()]


def wide(loss):
    return MaskedLoss(loss, name="click_loss")(np.ones(3), np.full((3, 4), 0.5, "float32"))


def of_rows(function):
    """A loss that does not give one number for each row."""
    return MaskedLoss(lambda y, p: function(y - p), name="click_loss")(np.ones(3), PREDICTED)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: call(np.ones((3, 2))), r"labels of click_loss must be .* the prediction \(3, 1\); .*shape=\(3, 2\)"),
        (lambda: call(np.ones((3, 1, 1))), r"labels of click_loss must be .*received: shape=\(3, 1, 1\)"),
        (lambda: call(np.ones((1, 1))), r"labels of click_loss must be .*received: shape=\(1, 1\)"),
        (lambda: call(np.ones(2)), r"labels of click_loss must be .*received: shape=\(2, 1\)"),
        (lambda: call(np.ones(3), np.ones(3)), r"predictions of click_loss must be \[batch, units\]; .*shape=\(3,\)"),
        (lambda: call(np.ones(3), weights=np.ones((3, 2))), r"sample_weight of click_loss must be .*shape=\(3, 2\)"),
        (lambda: call(np.ones(3), weights=np.ones(1)), r"sample_weight of click_loss must be .*shape=\(1,\)"),
        (lambda: call(np.ones(3), weights=np.ones((1, 1))), r"sample_weight of click_loss must be .*shape=\(1, 1\)"),
        (lambda: call(np.ones(3), require_weights=True), "click_loss must be given, since `require_weights=True`"),
        (lambda: MaskedLoss("mse", reduction="sum"), "`reduction` must be \"sum_over_.*received: reduction='sum'"),
        (lambda: MaskedLoss(None), "`loss` must be a Keras loss or its name, .*received: loss=None"),
        (lambda: MaskedLoss(MaskedLoss("mse")), "`loss` must be .*, and no MaskedLoss; received: loss=<"),
        (lambda: per_task({"a": MaskedLoss("mse")}), "`loss` must be .*, and no MaskedLoss; received: loss=<"),
        (lambda: MaskedLoss("mse", "nan"), "`missing_value` must be a number or None; received: missing_value='nan'"),
        (lambda: MaskedLoss("mse", True), "`missing_value` must be a number or None; received: missing_value=True"),
        (lambda: MaskedMetric("mse", "nan"), "`missing_value` must be a number .*received: missing_value='nan'"),
        (lambda: of_rows(ops.mean), r"what the `loss` of click_loss gives must be \[batch\] .*shape=\(\)"),
        (lambda: of_rows(lambda error: error[:1]), r"what the `loss` of click_loss gives must be .*shape=\(1, 1\)"),
        (
            lambda: of_rows(lambda error: ops.concatenate([error, error], axis=-1)),
            r"what the `loss` of click_loss gives must be .*shape=\(3, 2\)",
        ),
        *((lambda loss=loss: wide(loss), r"labels of click_loss .*\(3, 4\), .*shape=\(3, 1\)") for loss in DENSE),
        (lambda: MaskedMetric("accuracy"), "`metric` must say which one .*received: metric='accuracy'. Name \"binary"),
        (lambda: MaskedMetric("nonsense"), "nonsense"),
        (lambda: per_task({"a": "mse"}, {"b": ["mae"]}), r"`metrics` must name tasks among \['a'\]; received: \['b'\]"),
        (lambda: per_task("mse"), "`losses` must be a dict from task name; received: losses='mse'"),
        (lambda: per_task({"a": "mse"}, ["mae"]), r"`metrics` must be a dict from task name; .*metrics=\['mae'\]"),
        (
            lambda: per_task(dict.fromkeys("ab", "mse"), dict.fromkeys("ab", keras.metrics.AUC(name="roc"))),
            "`metrics` must have an object of its own for each task, .*received: 'roc' twice",
        ),
        (lambda: check_labels(["a", "b"], {"a": [1], "b": [1, 0]}), "one number of rows; received: {'a': 1, 'b': 2}"),
        (
            lambda: check_labels(["a"], {"a": [1, NAN]}),
            r"`labels` of task 'a' must be finite; .*\[nan\] in row 1",
        ),
        (lambda: check_labels(["a"], {"a": [NAN]}, missing_value=NAN), "mask of task 'a' .*received: 0 of 1 rows"),
        (lambda: check_labels(["a"], {"a": [1]}, {"a": [0]}), "mask of task 'a' must leave at least one row"),
        (lambda: check_labels(["a"], {"a": [1]}, missing_value="nan"), "`missing_value` must be .*='nan'"),
        *(
            (
                lambda weight=weight: check_labels(["a"], {"a": [1, 0]}, {"a": [1, weight]}),
                f"`sample_weight` of task 'a' must be finite and not negative; received: {weight} in row 1",
            )
            for weight in (NAN, -1.0, float("inf"))
        ),
        (lambda: check_labels(["a"], {"a": [1]}, {"a": [[1, 1]]}), r"`sample_weight` of task 'a' must be \[1\] or"),
    ],
)
def test_bad_shapes_names_and_masks_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_check_labels_counts_each_sample_space():
    labels = {"b": np.array([1, NAN, 0, 1]), "a": np.array([[1, 0], [0, 1], [NAN, 1], [1, 0]])}
    assert check_labels(("b", "a"), labels, missing_value=NAN) == {"b": 3, "a": 3}
    weights = {"b": np.array([0, 1, 1, 1]), "a": np.array([[1], [1], [1], [0]])}
    assert check_labels(("b", "a"), labels, weights, missing_value=NAN) == {"b": 2, "a": 2}
    assert check_labels(["a"], {"a": [NAN, 1.0]}, {"a": [0, 1]}) == {"a": 1}


def test_check_labels_compares_in_float32_as_the_loss_does():
    for kind in ("float32", "float64"):
        assert check_labels(["a"], {"a": np.array([0.1, 1], kind)}, missing_value=0.1) == {"a": 1}
