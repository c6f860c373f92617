"""One step of pruning: which weights go, and which stay whatever the threshold."""

import numpy as np
import pytest

from mtl_layers.search._magnitude_pruning import prune_smallest


def test_the_smallest_of_all_layers_go():
    kernels = [np.array([[1.0, -6.0], [3.0, 0.5]]), np.array([[-2.0], [4.0]])]
    masks = [np.ones((2, 2), bool), np.ones((2, 1), bool)]
    found = prune_smallest(kernels, masks, 0.5)  # of 0.5 1 2 3 4 6
    assert [mask.tolist() for mask in found] == [[[False, True], [True, False]], [[False], [True]]]
    assert all(mask.all() for mask in masks)


def test_the_smallest_of_each_layer_go_if_the_threshold_is_the_layers():
    kernels = [np.array([[10.0, -60.0], [30.0, 5.0]]), np.array([[-2.0], [4.0]])]
    found = prune_smallest(kernels, [np.ones((2, 2), bool), np.ones((2, 1), bool)], 0.5, "layer")
    assert [mask.tolist() for mask in found] == [[[False, True], [True, False]], [[False], [True]]]


def test_what_is_pruned_does_not_come_back_and_does_not_count():
    mask = np.array([[True, False, True, True, False, True]])
    (found,) = prune_smallest([np.array([[4.0, 9.0, 3.0, 2.0, 0.0, 1.0]])], [mask], 0.5)
    assert found.tolist() == [[True, False, True, False, False, False]]


@pytest.mark.parametrize("threshold", ["global", "layer"])
def test_no_layer_empties(threshold):
    kernels = [np.full((4, 5), 0.01), np.full((2, 5), 10.0)]
    masks = [np.ones((4, 5), bool), np.ones((2, 5), bool)]
    for _ in range(30):
        masks = prune_smallest(kernels, masks, 0.5, threshold, layer_floor=0.15)
        assert masks[0].sum() >= 3 and masks[1].sum() >= 2
    if threshold == "global":
        assert [mask.sum() for mask in masks] == [3, 2]


def test_one_weight_stays_without_a_floor_and_it_is_the_largest():
    masks = [np.ones((1, 3), bool), np.ones((1, 3), bool)]
    for _ in range(9):
        masks = prune_smallest([np.array([[1.0, 3.0, 2.0]]), np.array([[9.0, 8.0, 7.0]])], masks, 0.9)
    assert [mask.tolist() for mask in masks] == [[[False, True, False]], [[True, False, False]]]
