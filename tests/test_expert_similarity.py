"""Dead and duplicate experts, and the entropy of gates, against NumPy."""

import numpy as np
import pytest
import reference

import mtl_layers as mtl
from mtl_layers._keras import keras, ops


def model_with(sharing):
    inputs = keras.Input((6,), name="x")
    return keras.Model(inputs, mtl.Towers({"a": (), "b": ()})(sharing(inputs)))


@pytest.fixture
def model(rng):
    """Experts 0 and 2 are the same but for the order and size of their units, 1 is another, 3 gives 0 for all rows."""
    sharing = mtl.MMoE(2, num_experts=4, hidden_units=(5,))
    model = model_with(sharing)
    (kernel,), (bias,) = sharing.expert_levels[0].kernels, sharing.expert_levels[0].biases
    kernels = rng.normal(size=(4, 6, 5)).astype("float32")
    kernels[2] = 3.0 * kernels[0][:, [4, 2, 0, 1, 3]]
    kernel.assign(kernels)
    bias.assign(np.array([0, 0, 0, -100], "float32")[:, None, None] * np.ones((4, 1, 5), "float32"))
    return model


def test_similarity_is_the_cka_of_all_rows_in_any_batches(model, rng):
    x = rng.normal(size=(60, 6)).astype("float32")
    (level,) = mtl.analysis.expert_similarity(model, [(x[:7], None), (x[7:8], None), (x[8:], None)])
    sharing = model.layers[1]
    hidden = ops.convert_to_numpy(sharing.expert_levels[0](x)).astype("float64")
    hidden -= hidden.mean(axis=0)
    gram = [hidden[:, expert] @ hidden[:, expert].T for expert in range(3)]
    for i in range(3):
        for j in range(3):
            expected = (gram[i] * gram[j]).sum() / np.sqrt((gram[i] ** 2).sum() * (gram[j] ** 2).sum())
            assert level.similarity[i, j] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(level.scale, np.sqrt((hidden**2).mean(axis=(0, 2))), rtol=1e-6)


def test_dead_and_duplicate_experts_are_named(model, rng):
    (level,) = mtl.analysis.expert_similarity(model, rng.normal(size=(60, 6)).astype("float32"))
    assert level.dead == [3] and level.duplicates() == [(0, 2)]
    assert np.isnan(level.similarity[3]).all() and np.isnan(level.similarity[:, 3]).all()
    other = level.similarity[0, 1]
    assert 0 < other < 0.9 and level.duplicates(threshold=other - 0.01) == [(0, 1), (0, 2), (1, 2)]
    # The matrix [[1, s, 1], [s, 1, s], [1, s, 1]] has the eigenvalues 0 and (3 +- sqrt(1 + 8 s^2)) / 2.
    shares = (3 + np.sqrt(1 + 8 * other**2) * np.array([1, -1])) / 6
    assert level.effective_experts == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


def test_uncorrelated_experts_all_count_and_equal_ones_count_once():
    alone = mtl.analysis.ExpertSimilarity(np.eye(3), np.ones(3))
    assert alone.effective_experts == pytest.approx(3) and alone.duplicates() == [] and alone.dead == []
    same = mtl.analysis.ExpertSimilarity(np.ones((3, 3)), np.ones(3))
    assert same.effective_experts == pytest.approx(1) and len(same.duplicates()) == 3
    assert mtl.analysis.ExpertSimilarity(np.full((2, 2), np.nan), np.zeros(2)).effective_experts == 0


def test_there_is_an_entry_for_every_level(rng):
    levels = mtl.analysis.expert_similarity(model_with(mtl.PLE(2, 2, 1, 2, (4,))), rng.normal(size=(30, 6)))
    assert [level.similarity.shape for level in levels] == [(4, 4), (4, 4)]
    for level in levels:
        np.testing.assert_allclose(np.diag(level.similarity), 1.0)


def test_the_sub_networks_of_a_supernet_are_compared_on_its_most_likely_route(rng):
    supernet = mtl.RouteSupernet(2, num_layers=2, num_subnetworks=3, units=4)
    model = model_with(supernet)
    alike = np.array(reference.array(supernet.subnetworks[1].kernels[0]))
    alike[2] = alike[0]
    supernet.subnetworks[1].kernels[0].assign(alike)
    # Sub-networks 0 and 2 of the second layer read the same here, and not on the full route, where gates differ.
    same = ((0, 1), 0)
    supernet.set_route(mtl.Route(2, 2, 3, (((1,), 0), same, ((1,), 0), same, same)))
    x = rng.normal(size=(30, 6)).astype("float32")
    first, second = mtl.analysis.expert_similarity(model, x)
    assert first.similarity.shape == second.similarity.shape == (3, 3)
    assert first.duplicates() == [] and second.duplicates() == [(0, 2)]
    root = supernet.stem(x)[:, 0]
    np.testing.assert_allclose(supernet.expert_outputs(x)[0], supernet.subnetworks[0](root), rtol=1e-5, atol=1e-6)


def test_what_has_no_experts_or_no_rows_is_refused(rng):
    x = rng.normal(size=(3, 6)).astype("float32")
    with pytest.raises(ValueError, match="`model` must have a sharing layer with experts; received: SparseSharing"):
        mtl.analysis.expert_similarity(model_with(mtl.SparseSharing(2, (4,))), x)
    with pytest.raises(ValueError, match="`data` must have at least one row; received: none"):
        mtl.analysis.expert_similarity(model_with(mtl.MMoE(2, 2, (4,))), [])
    with pytest.raises(ValueError, match="`data` must have at least one row; received: none"):
        mtl.analysis.expert_similarity(model_with(mtl.MMoE(2, 2, (4,))), [x[:0]])


def test_entropy_of_gates_and_the_experts_they_use(rng):
    sharing = mtl.MMoE(2, num_experts=3, hidden_units=(4,))
    model = model_with(sharing)
    x = rng.normal(size=(40, 6)).astype("float32")
    (level,) = mtl.analysis.gate_utilisation(model, [x[:25], x[25:]])
    (weights,) = (ops.convert_to_numpy(each).astype("float64") for each in sharing.gate_weights(x))
    np.testing.assert_allclose(level.entropy, -(weights * np.log(weights)).sum(axis=-1).mean(axis=0), rtol=1e-6)
    mean = weights.mean(axis=0)
    np.testing.assert_allclose(level.effective_experts, np.exp(-(mean * np.log(mean)).sum(axis=-1)), rtol=1e-6)
    # A gate that takes one expert for each row, and both as often, has no entropy and uses two.
    gates = sharing.gate_levels[0]
    kernel = np.zeros(tuple(gates.kernel.shape), "float32")
    kernel[0, 0], kernel[0, 1] = 1e4, -1e4
    gates.kernel.assign(kernel)
    signs = np.ones((4, 6), "float32") * np.array([1, -1, 1, -1], "float32")[:, None]
    (level,) = mtl.analysis.gate_utilisation(model, signs)
    assert level.entropy[0] == pytest.approx(0, abs=1e-6) and level.effective_experts[0] == pytest.approx(2)
    assert level.effective_experts[1] == pytest.approx(3)
