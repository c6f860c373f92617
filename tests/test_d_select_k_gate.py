"""DSelect-k against NumPy: codes, smooth step, penalty; settled it has k weights, and training gets it there."""

import itertools

import numpy as np
import pytest
import reference
from gradients import forward, gradient_by_input, gradients

import mtl_layers as mtl
from mtl_layers._keras import keras, ops
from mtl_layers.gates.d_select_k_gate import codes, num_bits

DIM = 5


def smooth_step(values, gamma):
    inside = -2 / gamma**3 * values**3 + 3 / (2 * gamma) * values + 0.5
    return np.where(values <= -gamma / 2, 0.0, np.where(values >= gamma / 2, 1.0, inside))


def selectors_of(scores, k, num_read, gamma):
    """[B, k, experts read] and the selectors' shares [B, k], from the scores of one gate."""
    bits = num_bits(num_read)
    steps = smooth_step(scores[:, : k * bits].reshape(-1, k, bits), gamma)
    chosen = np.ones((len(scores), k, num_read))
    for expert, code in enumerate(codes(num_read)):
        for place, bit in enumerate(code):
            chosen[:, :, expert] *= steps[:, :, place] if bit else 1 - steps[:, :, place]
    shares = reference.softmax(scores[:, k * bits :]) if k > 1 else np.ones((len(scores), 1))
    return chosen, shares


def formula(layer, x, reads=None):
    """[B, gates, experts], and the penalty for a factor of 1."""
    reads = reads or [range(layer.num_experts)] * layer.num_gates
    weights, entropy, used = np.zeros((len(x), layer.num_gates, layer.num_experts)), 0.0, 0
    for gate, experts in enumerate(reads):
        width = layer.k * num_bits(len(experts)) + (layer.k if layer.k > 1 else 0) if len(experts) > 1 else 0
        columns = slice(used, used + width)
        used += width
        if not width:
            weights[:, gate, list(experts)] = 1.0
            continue
        query = np.ones((len(x), 1)) if layer.static else x if x.ndim == 2 else x[:, gate]
        scores = query @ reference.array(layer.kernel)[:, columns]
        if layer.bias is not None:
            scores = scores + reference.array(layer.bias)[columns]
        chosen, shares = selectors_of(scores, layer.k, len(experts), layer.gamma)
        weights[:, gate, list(experts)] = (shares[:, :, None] * chosen).sum(axis=1)
        entropy -= (chosen * np.log(chosen + 1e-6)).sum() / len(x)
    assert used == layer.kernel.shape[-1]
    return weights, entropy


# --------------------------------------------------------------------------------------------------------------- codes


@pytest.mark.parametrize("count", range(1, 18))
def test_codes_are_distinct_and_every_way_through_the_bits_ends_at_an_expert(count):
    found = codes(count)
    assert len(found) == count
    longest = num_bits(count)
    assert 2**longest >= count > 2 ** (longest - 1) or count == 1
    for code, other in itertools.permutations(found, 2):
        assert code != other[: len(code)]
    for path in itertools.product((0, 1), repeat=longest):
        assert sum(path[: len(code)] == code for code in found) == 1


def test_codes_of_a_power_of_two_are_the_binary_numbers():
    assert codes(8) == list(itertools.product((0, 1), repeat=3))
    assert codes(3) == [(0,), (1, 0), (1, 1)]
    assert codes(5) == [(0, 0), (0, 1), (1, 0), (1, 1, 0), (1, 1, 1)]


# -------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(
    ("num_experts", "k", "reads", "gamma", "use_bias", "one_query_each"),
    [
        (4, 2, None, 1.0, False, False),
        (5, 1, None, 1.0, True, True),
        (6, 3, None, 4.0, True, False),
        (7, 7, None, 0.5, False, True),
        (6, 2, ((0, 1), (5, 2, 3, 1, 0)), 2.0, True, True),
        (6, 1, ((4,), (5, 2, 3)), 2.0, False, False),
        (2, 2, None, 1.0, False, False),
    ],
)
def test_weights_are_those_of_the_formula(rng, num_experts, k, reads, gamma, use_bias, one_query_each, static):
    use_bias = use_bias and not static
    layer = mtl.DSelectKGate(k, num_experts, 2, reads=reads, static=static, gamma=gamma, use_bias=use_bias)
    x = rng.normal(size=(6, 2, DIM) if one_query_each else (6, DIM)).astype("float32")
    layer.build(x.shape)
    for weight in layer.weights:  # scores on both sides of the steps, and on them
        weight.assign(rng.normal(0, 0.3 * gamma, tuple(weight.shape)))
    assert len(layer.weights) == 1 + use_bias
    expected, _ = formula(layer, x, reads)
    y = forward(layer, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert (y >= 0).all()
    np.testing.assert_allclose(y.sum(axis=-1), 1.0, rtol=1e-5)
    assert not static or (y == y[:1]).all()


def test_the_smooth_step_worked_by_hand():
    layer = mtl.DSelectKGate(1, 2, gamma=2.0)
    layer.build((None, 1))
    layer.kernel.assign([[1.0]])
    x = np.array([[-5.0], [-1.0], [-0.5], [0.0], [0.5], [1.0], [7.0]], "float32")
    expected = [0, 0, 0.15625, 0.5, 0.84375, 1, 1]
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x))[:, 0, 1], expected)
    slope = gradient_by_input(lambda values: ops.sum(layer(values)[:, 0, 1]), x)
    np.testing.assert_allclose(slope[:, 0], [0, 0, 0.5625, 0.75, 0.5625, 0, 0], atol=1e-6)  # continuous: 0 at the ends


def test_selectors_start_between_all_experts(rng):
    x = rng.normal(size=(50, DIM)).astype("float32")
    for static in (False, True):
        y = ops.convert_to_numpy(mtl.DSelectKGate(3, 8, 2, static=static)(x))
        np.testing.assert_allclose(y, 1 / 8, atol=0.05)
        assert (y[:, 0] != y[:, 1]).all()


def test_numbers_of_a_static_gate_are_read_in_float32_under_mixed_precision():
    layer = mtl.DSelectKGate(1, 2, static=True, dtype="mixed_bfloat16")
    layer.build((None, DIM))
    layer.kernel.assign([[0.499]])  # in bfloat16 it would be 0.5, and settled
    weights = reference.array(ops.cast(layer.constant_weights(), "float32"))
    assert 0 < weights[0, 0] < 1e-4


# ------------------------------------------------------------------------------------------------------------- settled


@pytest.mark.parametrize("num_experts", [3, 4, 7])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_settled_and_static_there_are_exactly_k_weights(num_experts, k):
    gates = list(itertools.combinations(range(num_experts), k))  # a gate for each choice of experts
    layer = mtl.DSelectKGate(k, num_experts, len(gates), static=True)
    x = np.ones((2, DIM), "float32")
    layer.build(x.shape)
    layer.kernel.assign(settled_scores(num_experts, k, gates).reshape(1, -1))
    for row in forward(layer, x):
        check_settled(row, gates)


def check_settled(rows, choices):
    """Row i has weights for the experts of choice i, and exact zeros elsewhere."""
    shares = reference.softmax(np.arange(len(choices[0])) / 2)
    for row, chosen in zip(rows, choices, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(row), chosen)
        np.testing.assert_allclose(row[list(chosen)], shares, rtol=1e-6)


def settled_scores(num_experts, k, rows):
    """Scores [rows, width] with selector i at the i-th chosen expert of a row, half a step beyond the step's end."""
    bits, table = num_bits(num_experts), codes(num_experts)
    scores = []
    for chosen in rows:
        padded = [(*table[expert], *(0,) * (bits - len(table[expert]))) for expert in chosen]
        shares = list(np.arange(k) / 2) if k > 1 else []
        scores.append([1.0 if bit else -1.0 for code in padded for bit in code] + shares)
    return np.array(scores, "float32")


@pytest.mark.parametrize("num_experts", [3, 4, 7])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_settled_there_are_exactly_k_weights_for_every_example(num_experts, k):
    rows = list(itertools.combinations(range(num_experts), k))
    layer = mtl.DSelectKGate(k, num_experts)
    layer.build((None, len(rows)))
    layer.kernel.assign(settled_scores(num_experts, k, rows))  # row i of the identity selects the i-th combination
    check_settled(forward(layer, np.eye(len(rows), dtype="float32"))[:, 0], rows)


def fitted(static, num_experts, wanted):
    """The gate of a model y = sum_e g_e f_e with given experts, fitted to labels made with the weights `wanted`.

    The query is -1 or 1, and `wanted` has a row for each.
    """
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], size=(4096, 1)).astype("float32")
    outputs = rng.normal(size=(4096, num_experts, 1)).astype("float32")
    weights = np.where(x > 0, wanted[1], wanted[0])
    gate = mtl.DSelectKGate(2, num_experts, static=static, entropy=0.01, use_bias=not static)
    query, experts = keras.Input((1,)), keras.Input((num_experts, 1))
    mixed = keras.layers.Flatten()(keras.layers.Dot((2, 1))([gate(query), experts]))
    model = keras.Model([query, experts], mixed)
    for weight in gate.weights:  # the same start on every backend
        weight.assign(rng.uniform(-0.01, 0.01, tuple(weight.shape)))
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.fit([x, outputs], (weights[:, :, None] * outputs).sum(axis=1), batch_size=64, epochs=25, verbose=0)
    return ops.convert_to_numpy(gate(x))[:, 0], weights


def test_training_settles_a_static_gate_on_the_two_right_experts_of_eight():
    wanted = [[0, 0.7, 0, 0, 0, 0, 0, 0.3]] * 2
    found, weights = fitted(True, 8, wanted)
    assert ((found > 0).sum(axis=1) == 2).all()
    np.testing.assert_allclose(found, weights, atol=0.02)


def test_training_settles_every_example_on_its_two_experts_of_six():
    wanted = [[0, 0.6, 0.4, 0, 0, 0], [0.7, 0, 0, 0, 0, 0.3]]
    found, weights = fitted(False, 6, wanted)
    assert ((found > 0).sum(axis=1) == 2).all()
    np.testing.assert_allclose(found, weights, atol=0.02)


# -------------------------------------------------------------------------------------------- the penalty and gradients


def penalty(layer, x):
    """What the layer adds to the loss of a model."""
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.compile("sgd", lambda y, p: 0.0 * ops.mean(p))
    return model.evaluate(x, np.zeros((len(x), 1)), batch_size=len(x), verbose=0)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(("k", "reads"), [(2, None), (1, ((4, 1, 0), (2,), (3, 0)))])
def test_the_penalty_is_the_mean_over_rows_of_the_selectors_entropies(rng, k, reads, static):
    x = rng.normal(size=(6, DIM)).astype("float32")
    layer = mtl.DSelectKGate(k, 5, 3, reads=reads, static=static, entropy=0.25)
    layer.build(x.shape)
    layer.kernel.assign(rng.normal(0, 0.1, tuple(layer.kernel.shape)))
    _, entropy = formula(layer, x, reads)
    assert entropy > 0.5
    np.testing.assert_allclose(penalty(layer, x), 0.25 * entropy, rtol=1e-5)


def test_the_penalty_of_a_replica_without_rows_is_0():
    layer = mtl.DSelectKGate(2, 5, 3, entropy=0.25)
    layer(np.zeros((0, DIM), "float32"))
    assert [float(loss) for loss in layer.losses] == [0.0]


def test_the_penalty_does_not_grow_with_the_batch(rng):
    x = rng.normal(size=(6, DIM)).astype("float32")
    layer = mtl.DSelectKGate(2, 4, entropy=1.0)
    np.testing.assert_allclose(penalty(layer, np.tile(x, (10, 1))), penalty(layer, x), rtol=1e-5)


def test_a_frozen_mixture_keeps_the_penalty_of_the_gates_that_it_keeps(rng):
    x = rng.normal(size=(6, DIM)).astype("float32")
    layer = mtl.MMoE(3, 4, (4,), gate=mtl.DSelectKGate(2, entropy=0.25))

    def added(layer):
        layer(x)
        return sum(float(loss) for loss in layer.losses)

    whole = added(layer)
    frozen = layer.freeze()
    np.testing.assert_allclose(added(frozen), whole, rtol=1e-6)
    np.testing.assert_allclose(sum(added(frozen.freeze([task])) for task in range(3)), whole, rtol=1e-6)
    assert added(frozen.freeze([1])) > 0.25


def test_without_a_factor_or_settled_there_is_no_penalty(rng):
    x = rng.normal(size=(6, DIM)).astype("float32")
    assert penalty(mtl.DSelectKGate(2, 4), x) == 0.0
    layer = mtl.DSelectKGate(2, 4, static=True, entropy=1.0)
    layer.build(x.shape)
    layer.kernel.assign(settled_scores(4, 2, [(0, 3)]))
    assert abs(penalty(layer, x)) < 1e-5


@pytest.mark.parametrize("static", [False, True])
def test_gradients_are_those_of_finite_differences_and_zero_once_settled(rng, static):
    x = rng.normal(size=(4, DIM)).astype("float32")
    layer = mtl.DSelectKGate(2, 5, 2, static=static)
    layer.build(x.shape)
    start = rng.normal(0, 0.1, tuple(layer.kernel.shape))
    layer.kernel.assign(start)
    start = reference.array(layer.kernel)
    pull = rng.normal(size=(4, 2, 5)).astype("float32")

    def loss(kernel):
        with_kernel = _Fixed(layer, kernel)
        return (formula(with_kernel, x.astype("float64"))[0] * pull).sum()

    (found,) = gradients(layer, x, lambda y: ops.sum(y * pull))
    for index in np.ndindex(start.shape):
        step = np.zeros_like(start)
        step[index] = 1e-6
        np.testing.assert_allclose(found[index], (loss(start + step) - loss(start - step)) / 2e-6, rtol=1e-3, atol=1e-4)
    layer.kernel.assign(np.full(start.shape, 1e6, "float32"))
    (found,) = gradients(layer, x, lambda y: ops.sum(y * pull))
    assert np.isfinite(found).all()


class _Fixed:
    """A gate as `formula` sees it, with another kernel."""

    def __init__(self, layer, kernel):
        self.num_experts, self.num_gates, self.k = layer.num_experts, layer.num_gates, layer.k
        self.static, self.gamma, self.bias = layer.static, layer.gamma, None
        self.kernel = kernel


# ---------------------------------------------------------------------------------------------------- in sharing layers


@pytest.mark.parametrize("static", [False, True])
def test_mmoe_mixes_by_it(rng, static):
    x = rng.normal(size=(6, DIM)).astype("float32")
    layer = mtl.MMoE(3, 5, (4,), gate=mtl.DSelectKGate(k=2, static=static, entropy=0.1))
    layer.build(x.shape)
    reference.randomise(layer, rng)
    weights, _ = formula(layer.gate_levels[0], x)
    experts = reference.experts_weights(layer.expert_levels[0])
    outputs = np.stack([reference.expert(experts, number, x) for number in range(5)], axis=1)
    np.testing.assert_allclose(forward(layer, x), weights @ outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("static", [False, True])
def test_ple_mixes_by_it_and_trains(rng, static):
    x = rng.normal(size=(32, DIM)).astype("float32")
    layer = mtl.PLE(2, 2, ((2, 1), 1), (2, 1), (4,), gate=mtl.DSelectKGate(k=2, static=static, entropy=0.1))
    model = keras.Sequential([keras.Input((DIM,)), layer])
    before = [reference.array(gates.kernel) for gates in layer.gate_levels]
    model.compile("sgd", "mse")
    history = model.fit(x, rng.normal(size=(32, 2, 4)), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    for gates, old, weights in zip(layer.gate_levels, before, layer.gate_weights(x), strict=True):
        assert (reference.array(gates.kernel) != old).any()
        y = ops.convert_to_numpy(weights)
        np.testing.assert_allclose(y.sum(axis=-1), 1.0, rtol=1e-5)
        np.testing.assert_array_equal(y[0] > 0, gates.read > 0)


@pytest.mark.parametrize("make", [mtl.MMoE, mtl.OMoE])
def test_frozen_a_settled_static_gate_drops_the_experts_that_nobody_selects(rng, make):
    x = rng.normal(size=(6, DIM)).astype("float32")
    layer = make(2, 6, (4,), gate=mtl.DSelectKGate(k=2, static=True, entropy=0.1))
    layer.build(x.shape)
    reference.randomise(layer, rng)
    selected = [(1, 3), (3, 5)][: 1 if make is mtl.OMoE else 2]
    scores = np.concatenate([settled_scores(6, 2, [chosen]) for chosen in selected], axis=1)
    layer.gate_levels[0].kernel.assign(scores)
    y = forward(layer, x)
    for tasks in (None, [0], [1]):
        wanted = (0, 1) if tasks is None else tasks
        needed = {expert for task in wanted for expert in selected[0 if make is mtl.OMoE else task]}
        gates = 1 if make is mtl.OMoE else len(wanted)
        frozen = layer.freeze(tasks)
        assert frozen.count_params() == len(needed) * (DIM + 1) * 4 + gates * 2
        assert frozen.losses == []
        for found, task in zip(frozen(x), wanted, strict=True):
            np.testing.assert_allclose(ops.convert_to_numpy(found), y[:, task], rtol=1e-5, atol=1e-5)


def test_frozen_static_gates_of_ple_ask_for_nothing_that_only_a_query_needed(rng):
    x = rng.normal(size=(6, DIM)).astype("float32")
    layer = mtl.PLE(2, 2, 1, 1, (4,), gate=mtl.DSelectKGate(k=1, static=True))
    layer.build(x.shape)
    reference.randomise(layer, rng)
    below, above = layer.gate_levels
    # Task 0 selects the shared expert above, which reads the shared module, which selects task 1's expert below.
    above.kernel.assign([[1.0, -1.0]])
    below.kernel.assign([[-1.0, -1.0, 1.0, -1.0]])
    np.testing.assert_array_equal(reference.array(below.constant_weights())[2] > 0, [False, True, False])
    y = forward(layer, x)
    frozen = layer.freeze([0])
    assert frozen.count_params() == (DIM + 1) * 4 + (4 + 1) * 4 + 2
    np.testing.assert_allclose(ops.convert_to_numpy(frozen(x)[0]), y[:, 0], rtol=1e-5, atol=1e-5)


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mtl.DSelectKGate(0), "`k` must be an integer of at least 1; received: k=0"),
        (
            lambda: mtl.DSelectKGate(4, 3),
            "`k` must be at most the number of experts that each gate reads (3); received: k=4",
        ),
        (
            lambda: mtl.DSelectKGate(2, 3, 2, reads=((0, 1, 2), (1,))),
            "`k` must be at most the number of experts that each gate reads (1); received: k=2",
        ),
        (
            lambda: mtl.CGC(2, 1, 1, gate=mtl.DSelectKGate(k=3)),
            "`k` must be at most the number of experts that each gate reads (2); received: k=3",
        ),
        *[
            (
                lambda gamma=gamma: mtl.DSelectKGate(2, gamma=gamma),
                f"`gamma` must be a number of at least 1e-06; received: gamma={gamma!r}",
            )
            for gamma in (0, -1.0, float("nan"), "1")
        ],
        (lambda: mtl.DSelectKGate(2, entropy=-1), "`entropy` must be a number of at least 0; received: entropy=-1"),
        (
            lambda: mtl.DSelectKGate(2, static=True, use_bias=True),
            "`use_bias` must be False if the gate is static; received: use_bias=True, static=True",
        ),
        (
            lambda: mtl.DSelectKGate(2).build((None, 4)),
            "`num_experts` must be given before a gate is used; received: num_experts=None",
        ),
        (
            lambda: mtl.DSelectKGate(2, 3, 2, static=True).build((None, 3, 4)),
            "`inputs` must be [batch, dim] or [batch, num_gates, dim]; received: shape=(None, 3, 4), num_gates=2",
        ),
    ],
)
def test_a_bad_argument_is_told_by_name(make, text):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == text
