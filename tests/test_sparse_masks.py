"""Masks of sparse sharing: their figures, in the logs too, and which are refused."""

import numpy as np
import pytest
from conftest import BACKEND

import mtl_layers as mtl
from mtl_layers._keras import keras

DIM = 5


def test_kept_fractions_and_overlap_ratios_are_those_counted_by_hand():
    layer = mtl.SparseSharing(3, (2, 1))
    layer.build((None, 2))
    layer.set_masks(
        [
            [[[1, 1], [0, 0]], [[1, 0], [1, 0]], [[0, 0], [0, 1]]],
            [[[1], [0]], [[1], [1]], [[0], [1]]],
        ]
    )
    np.testing.assert_allclose(layer.kept_fractions(), [3 / 6, 4 / 6, 2 / 6])
    assert layer.overlap_ratio() == 0.0
    assert layer.overlap_ratio((0, 1)) == 2 / 5
    np.testing.assert_allclose(mtl.analysis.mask_overlap(layer), [[1, 2 / 5, 0], [2 / 5, 1, 1 / 5], [0, 1 / 5, 1]])


@pytest.mark.parametrize("nested", [False, True])
def test_masks_are_in_the_logs_of_every_epoch(rng, nested):
    inputs = keras.Input((DIM,))
    layer = mtl.SparseSharing(2, (4,), name="sparse")
    model = keras.Model(inputs, mtl.Towers({"like": (), "buy": ()})(layer(inputs)))
    model = keras.Model(inputs, model(inputs)) if nested else model
    masks = np.zeros((2, DIM, 4))
    masks[0, :, :2] = masks[1, :, 1:] = 1
    layer.set_masks([masks])
    losses = mtl.losses.per_task({"like": "mse", "buy": "mse"})
    model.compile("sgd", jit_compile=BACKEND == "jax", **losses)
    x, y = rng.normal(size=(8, DIM)), {"like": np.ones((8, 1)), "buy": np.ones((8, 1))}
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[mtl.analysis.MaskLog()]).history
    assert history["sparse_kept_like"] == [0.5, 0.5]
    assert history["sparse_kept_buy"] == [0.75, 0.75]
    assert history["sparse_overlap"] == [0.25, 0.25]


# Errors

SHAPES = r"\[\(2, 3, 4\), \(2, 4, 4\), \(2, 4, 2\)\]"


def masks_without(*weights):
    """Masks of 1 but for the given (layer, task)."""
    masks = [np.ones(shape) for shape in ((2, 3, 4), (2, 4, 4), (2, 4, 2))]
    for layer, task in weights:
        masks[layer][task] = 0
    return masks


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (masks_without()[:2], f"`masks` must have one .* for each layer: {SHAPES}; received: shapes .*4, 4"),
        ([mask[:1] for mask in masks_without()], f"`masks` must have .*: {SHAPES}; received: shapes .*1, 3, 4"),
        ([0.5 * mask for mask in masks_without()], r"`masks` must be 0 or 1; received: .*0.5.* in layer 0"),
        ([np.nan * mask for mask in masks_without()], r"`masks` must be 0 or 1; received: .*nan.* in layer 0"),
        (masks_without((0, 1), (1, 1), (2, 1)), r"a weight in the first layer .* task 1 with \[0, 0, 0\] weights"),
        (masks_without((1, 0)), r"and below every layer that it uses; received: task 0 with \[12, 0, 8\] weights in"),
        (masks_without((2, 0), (2, 1)), "`masks` must give each layer to some task; received: no weight .* layer 2"),
        (masks_without((2, 1)), r"of the width that it has there; received: task 1 ends after 2 .* \(4, 4, 2\)"),
    ],
)
def test_masks_that_make_no_sense_are_refused(masks, message):
    layer = mtl.SparseSharing(2, (4, 4, 2))
    layer.build((None, 3))
    with pytest.raises(ValueError, match=message):
        layer.set_masks(masks)
    assert layer.kept_fractions().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("depths", [(1,), (1, 0), (1, 4), (1, 2.5)])
def test_depths_that_make_no_sense_are_refused(depths):
    layer = mtl.SparseSharing(2, (4, 4, 4))
    layer.build((None, 3))
    with pytest.raises(ValueError, match=r"`depths` must give each of the 2 tasks a number of layers from 1 to 3; rec"):
        layer.hierarchical_masks(depths)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: mtl.SparseSharing(0), "`num_tasks` must be an integer of at least 1; received: num_tasks=0"),
        (lambda: mtl.SparseSharing(2, ()), "`hidden_units` must be a non-empty tuple of positive integers; received"),
        (lambda: mtl.SparseSharing(2, dropout=1.0), r"`dropout` must be in \[0, 1\); received: dropout=1.0"),
        (
            lambda: mtl.SparseSharing(2).build((None, 3, 4)),
            r"num_tasks, dim\]; received: shape=\(None, 3, 4\)",
        ),
        (lambda: mtl.SparseSharing(2, name="s").set_masks([]), "`s` must be built before it has masks"),
        (lambda: mtl.SparseSharing(2, name="s").kept_fractions(), "`s` must be built before it has masks"),
        (lambda: mtl.SparseSharing(2, name="s").freeze(), "`s` must be built before it is frozen"),
        (
            lambda: mtl.analysis.mask_overlap(mtl.SharedBottom(2)),
            "`layer` must be a mtl.SparseSharing; received",
        ),
    ],
)
def test_wrong_uses_are_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use()


def test_a_log_of_masks_that_are_not_there_is_refused():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="`model` must have a SparseSharing layer for its masks to be logged"):
        model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0, callbacks=[mtl.analysis.MaskLog()])
