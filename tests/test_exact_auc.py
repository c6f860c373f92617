"""The exact AUC against scikit-learn: ties, weights, labels of one class."""

import numpy as np
import pytest
from conftest import BACKEND
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mtl_layers.losses import exact_auc

NAN = float("nan")


def rows(rng, size, decimals):
    labels = (rng.random(size) < 0.3).astype("float32")
    labels[:2] = 0, 1
    return labels, np.round(rng.random(size), decimals).astype("float32")


@pytest.mark.parametrize("size", [2, 10, 5000])
@pytest.mark.parametrize("decimals", [1, 2, 8])
def test_it_is_that_of_scikit_learn_ties_and_all(rng, size, decimals):
    labels, scores = rows(rng, size, decimals)
    assert float(exact_auc(labels, scores)) == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)


@pytest.mark.parametrize("decimals", [1, 8])
def test_weights_are_those_of_scikit_learn(rng, decimals):
    labels, scores = rows(rng, 1000, decimals)
    weights = rng.choice([0.0, 0.5, 1.0, 3.0], 1000).astype("float32")
    expected = roc_auc_score(labels, scores, sample_weight=weights)
    assert float(exact_auc(labels, scores, weights)) == pytest.approx(expected, abs=1e-6)
    kept = weights > 0
    assert float(exact_auc(labels, scores, (weights > 0).astype("float32"))) == pytest.approx(
        roc_auc_score(labels[kept], scores[kept]), abs=1e-6
    )


@pytest.mark.parametrize(
    ("scores", "auc"), [((1, 2, 3, 4), 1.0), ((4, 3, 2, 1), 0.0), ((1, 1, 1, 1), 0.5), ((1, 3, 2, 3), 0.625)]
)
def test_by_hand(scores, auc):
    # Of the pairs 0-2, 0-3, 1-2, 1-3 the last example wins 1, 1, 0 and half of one.
    assert float(exact_auc(np.array([0, 0, 1, 1]), np.array(scores, "float32"))) == auc


def test_columns_integers_and_booleans_are_labels_too(rng):
    labels, scores = rows(rng, 50, 2)
    expected = float(exact_auc(labels, scores))
    for kind in ("int64", "bool"):
        assert float(exact_auc(labels.astype(kind)[:, None], scores[:, None], np.ones((50, 1)))) == expected


@pytest.mark.parametrize("labels", [np.zeros(4), np.ones(4), np.zeros(0)])
def test_it_is_nan_where_it_is_undefined(labels):
    assert np.isnan(float(exact_auc(labels, np.arange(len(labels), dtype="float32"))))


def test_it_is_nan_where_a_class_has_no_weight():
    labels, scores = np.array([0.0, 1.0, 1.0]), np.array([0.1, 0.2, 0.3], "float32")
    assert np.isnan(float(exact_auc(labels, scores, np.array([0.0, 1.0, 1.0]))))
    assert float(exact_auc(labels, scores, np.array([1.0, 0.0, 1.0]))) == 1.0


def test_weights_beyond_the_integers_of_float32_still_add_up():
    """A running sum in float32 would stand still at the first negative row's weight, 2**24: 0.9982 here."""
    negative = np.arange(60_000) % 2 == 0
    labels, scores = 1 - negative, np.arange(60_000, dtype="float32")
    weights = np.ones(60_000)
    weights[0] = 2**24
    expected = roc_auc_score(labels, scores, sample_weight=weights)
    assert expected == pytest.approx(0.9991, abs=1e-4)
    assert float(exact_auc(labels, scores, weights)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.needs_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_it_is_the_same(rng, jit_compile):
    import tensorflow as tf

    labels, scores = rows(rng, 500, 2)
    weights = rng.choice([0.0, 1.0, 2.0], 500).astype("float32")
    compiled = tf.function(exact_auc, jit_compile=jit_compile)
    found = compiled(labels, scores, weights)
    assert found.dtype == tf.float32
    assert float(found) == float(exact_auc(labels, scores, weights))
    scores[np.flatnonzero(weights)[0]] = np.nan
    assert np.isnan(float(compiled(labels, scores, weights)))


@pytest.mark.needs_tensorflow
def test_compiled_by_xla_it_needs_no_table_of_all_pairs_of_rows(rng):
    import tensorflow as tf

    labels, scores = rows(rng, 200_000, 3)  # whose pairs would take 40 GB at a byte each
    found = tf.function(exact_auc, jit_compile=True)(labels, scores)
    assert float(found) == pytest.approx(roc_auc_score(labels, scores), abs=1e-7)


@pytest.mark.parametrize("where", [[0], [2], [0, 1, 2, 3]])
def test_it_is_nan_where_a_score_is(where):
    labels, scores = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.1, 0.2, 0.3, 0.4], "float32")
    scores[where] = np.nan
    assert np.isnan(float(exact_auc(labels, scores)))
    assert np.isnan(float(exact_auc(labels, scores, np.array([1.0, 0.5, 1.0, 1.0]))))


def test_a_nan_score_of_no_weight_is_no_part(rng):
    labels, scores = rows(rng, 400, 2)
    weights = np.ones(400, "float32")
    expected = roc_auc_score(labels[100:], scores[100:])
    scores[:100], weights[:100] = np.nan, 0.0
    order = rng.permutation(400)
    assert float(exact_auc(labels[order], scores[order], weights[order])) == pytest.approx(expected, abs=1e-6)


def test_a_nan_label_of_no_weight_is_no_part():
    labels, scores = np.array([NAN, 0, 1, 1]), np.array([0.1, 0.3, 0.2, 0.4], "float32")
    assert float(exact_auc(labels, scores, np.array([0, 1, 1, 2.0]))) == pytest.approx(2 / 3)
    assert np.isnan(float(exact_auc(labels, scores)))


@pytest.mark.parametrize("label", [-1.0, 2.0, 0.5])
def test_it_is_nan_where_a_label_of_some_weight_is_neither_0_nor_1(label):
    """With -1 for "no label" it was 1.25 in place of .75."""
    labels, scores = np.array([1, 0, label, 1, 0]), np.array([0.9, 0.1, 0.2, 0.7, 0.8], "float32")
    assert np.isnan(float(exact_auc(labels, scores)))
    assert float(exact_auc(labels, scores, np.array([1, 1, 0, 1, 1.0]))) == 0.75


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 2), (2, 2), (2,)], r"`y_true` must be \[batch\] or \[batch, 1\]; received: shape=\(2, 2\)"),
        ([(), (1,), (1,)], r"`y_true` must be .*received: shape=\(\)"),
        ([(2,), (2, 2), (2,)], r"`y_pred` must be .*received: shape=\(2, 2\)"),
        ([(3,), (1,), (3,)], r"`y_pred` must be .*received: shape=\(1,\)"),
        ([(3,), (3,), (1,)], r"`sample_weight` must be .*received: shape=\(1,\)"),
    ],
)
def test_other_shapes_are_refused(shapes, message):
    with pytest.raises(ValueError, match=message):
        exact_auc(*map(np.ones, shapes))


numbers = st.integers(-3, 3).map(float)


# One size on JAX, which compiles every operation for every shape.
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), numbers, st.integers(0, 4)), min_size=12, max_size=12 if BACKEND == "jax" else 40)
)
def test_any_batch_agrees_with_counting_pairs(batch):
    labels, scores, weights = (np.array(column, "float32") for column in zip(*batch, strict=True))
    won = total = 0.0
    for label, score, weight in zip(labels, scores, weights, strict=True):
        for other_label, other, other_weight in zip(labels, scores, weights, strict=True):
            if label == 1 and other_label == 0:
                total += weight * other_weight
                won += weight * other_weight * ((score > other) + 0.5 * (score == other))
    found = float(exact_auc(labels, scores, weights))
    assert np.isnan(found) if total == 0 else found == pytest.approx(won / total, abs=1e-6)
