"""One step of pruning: which weights go, and which stay whatever the threshold."""

import tracemalloc

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


def test_of_equal_weights_those_of_earlier_layers_and_places_go_first(rng):
    kernels = [rng.integers(-3, 4, shape).astype("float32") for shape in ((6, 7), (5, 4), (8, 3))]
    masks = [rng.random(kernel.shape) < 0.8 for kernel in kernels]
    left = []
    for layer, (kernel, mask) in enumerate(zip(kernels, masks, strict=True)):
        own = sorted((abs(kernel.flat[place]), layer, place) for place in np.flatnonzero(mask))
        left += own[: -int(np.ceil(0.3 * mask.size))]
    expected = [mask.copy() for mask in masks]
    for _, layer, place in sorted(left)[: round(0.4 * sum(mask.sum() for mask in masks))]:
        expected[layer].flat[place] = False
    for mask, wanted in zip(prune_smallest(kernels, masks, 0.4, layer_floor=0.3), expected, strict=True):
        np.testing.assert_array_equal(mask, wanted)


def test_it_takes_no_python_object_for_each_weight(rng):
    kernels = [rng.normal(size=(200, 500)).astype("float32") for _ in range(2)]
    masks = [np.ones(kernel.shape, bool) for kernel in kernels]
    tracemalloc.start()
    try:
        prune_smallest(kernels, masks, 0.2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / 200_000 < 60  # bytes a weight


def test_one_weight_stays_without_a_floor_and_it_is_the_largest():
    masks = [np.ones((1, 3), bool), np.ones((1, 3), bool)]
    for _ in range(9):
        masks = prune_smallest([np.array([[1.0, 3.0, 2.0]]), np.array([[9.0, 8.0, 7.0]])], masks, 0.9)
    assert [mask.tolist() for mask in masks] == [[[False, True, False]], [[True, False, False]]]
