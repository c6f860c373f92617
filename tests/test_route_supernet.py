"""The supernet computes the route in force, exactly, and nothing else learns from it."""

import re

import numpy as np
import pytest
import route_reference
from conftest import LEGACY
from gradients import gradients
from reference import array
from route_reference import gate, random_route, randomise

import mtl_layers as mtl
from mtl_layers._keras import keras, ops

SHAPES = [  # tasks, layers, sub-networks, query, pooling
    (1, 1, 1, "previous", "gate"),
    (2, 1, 3, "previous", "gate"),
    (3, 2, 4, "previous", "gate"),
    (2, 3, 3, "root", "gate"),
    (2, 2, 3, "previous", "mean"),
    (2, 4, 8, "previous", "gate"),
]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def numbers(layer, inputs, training=False):
    return ops.convert_to_numpy(layer(inputs, training=training))


def made(shape, rng, units=5, dim=6, **kwargs):
    layer = mtl.RouteSupernet(*shape[:3], units, *shape[3:], **kwargs)
    layer.build((None, dim))
    randomise(layer, rng)
    return layer


def route_for(layer, rng):
    queries = layer.query == "previous" and layer.pooling == "gate"
    return random_route(rng, layer.num_tasks, layer.num_layers, layer.num_subnetworks, queries)


@pytest.fixture
def x(rng):
    return rng.normal(size=(7, 6)).astype("float32")


@pytest.mark.parametrize("input_layer", [True, False])
@every_shape
def test_at_any_route_it_is_the_reference_and_its_own_static_and_frozen_form(shape, input_layer, rng, x):
    layer = made(shape, rng, input_layer=input_layer)
    for _ in range(1 if shape[1] == 4 else 3):
        route = route_for(layer, rng)
        layer.set_route(route)
        expected = route_reference.supernet(layer, route, x)
        assert expected.shape == (7, shape[0], 5)
        np.testing.assert_allclose(numbers(layer, x), expected, atol=1e-6)
        np.testing.assert_allclose(numbers(layer, x, training=True), expected, atol=1e-6)
        static = layer.to_static()
        np.testing.assert_allclose(numbers(static, x), expected, atol=1e-6)
        frozen = layer.freeze()(x)
        np.testing.assert_allclose(np.stack([ops.convert_to_numpy(y) for y in frozen], 1), expected, atol=1e-6)
        for task in {0, shape[0] - 1}:
            (alone,) = layer.freeze([task])(x)
            np.testing.assert_allclose(ops.convert_to_numpy(alone), expected[:, task], atol=1e-6)


def test_every_route_of_a_block_has_a_number_and_its_own_gate(rng, x):
    layer = made((1, 1, 3, "previous", "gate"), rng)
    assert layer.num_routes == (2**3 - 1) * 3 and layer.num_blocks == 1
    routes = [layer.route_of([number]) for number in range(layer.num_routes)]
    # 3 + 1 subsets with a choice times 3 queries; the 3 single values come last, each as three numbers for one route.
    assert len(set(routes)) == 4 * 3 + 3
    assert [int(layer.numbers_of(route)[0]) for route in routes] == [*range(12), 12, 12, 12, 15, 15, 15, 18, 18, 18]
    assert [layer.route_of(layer.numbers_of(route)) for route in routes] == routes
    kernel = np.arange(int(np.prod(layer.gates.kernel.shape)), dtype="float32").reshape(layer.gates.kernel.shape)
    layer.gates.kernel.assign(kernel)
    blocks = [(layer.space.subsets[number // 3], number % 3) for number in range(21)]
    own = np.concatenate([np.ravel(gate(layer, 0, *block)) for block in blocks])
    np.testing.assert_array_equal(np.sort(own), np.ravel(kernel))  # each parameter belongs to one number


@pytest.mark.parametrize("shape", [(2, 2, 3, "previous", "gate"), (3, 3, 2, "root", "gate")], ids=str)
def test_a_task_answers_to_a_block_if_and_only_if_its_prediction_depends_on_it(shape, rng, x):
    layer = made(shape, rng)
    route = layer.numbers_of(route_for(layer, rng))
    answers = layer.space.answers_for(route)
    assert 0 < answers.mean() < 1
    layer.set_route(layer.route_of(route))
    before = numbers(layer, x)
    for block in range(layer.num_blocks):
        changed = np.zeros(shape[0], bool)
        for number in range(layer.num_routes):
            other = np.array(route)
            other[block] = number
            layer.set_route(layer.route_of(other))
            changed |= np.abs(numbers(layer, x) - before).max(axis=(0, 2)) > 1e-6
        np.testing.assert_array_equal(answers[block], changed)


def test_selected_values_count_where_a_task_reaches_the_block():
    layer = mtl.RouteSupernet(2, 2, 3)
    # Layer 2: 0 <- 0 + 1, 1 <- everything, 2 <- 2. Towers: 0 <- 0 (no query), 1 <- 0 + 2, first with query 0, then 1.
    blocks = [((0, 1), 0), ((0, 1, 2), 1), ((2,), None), ((0,), None)]
    for query, count in ((0, 2 + 1 + 1 + 2), (1, 2 + 3 + 1 + 1 + 2)):
        route = mtl.Route(2, 2, 3, [*blocks, ((0, 2), query)])
        assert layer.space.num_values(layer.numbers_of(route)) == count
    mean = mtl.RouteSupernet(2, 2, 3, pooling="mean")
    assert mean.space.num_values(mean.numbers_of(route)) == 2 + 1 + 1 + 2  # nobody asks there
    full = mtl.RouteSupernet(2, 2, 3, query="root")
    assert full.space.num_values(full.numbers_of(mtl.Route.mmoe(2, 2, 3))) == 5 * 3


@every_shape
def test_any_route_and_its_numbers_say_the_same(shape, rng):
    layer = mtl.RouteSupernet(*shape[:3], 2, *shape[3:])
    for _ in range(5):
        numbers = rng.integers(0, layer.num_routes, layer.num_blocks)
        route = layer.route_of(numbers)
        assert layer.route_of(layer.numbers_of(route)) == route == mtl.Route.from_json(route.to_json())


def test_candidates_are_the_ready_made_routes_and_draws_and_none_twice(rng):
    layer = made((2, 2, 3, "previous", "gate"), rng)
    layer.alpha.assign(rng.normal(size=layer.alpha.shape))
    found = layer.candidates(6, seed=1)
    assert list(found) == ["derived", "full", "unshared", "drawn 0", "drawn 1", "drawn 2"]
    assert len(set(found.values())) == 6 and found["derived"] == layer.derive()
    assert found["unshared"] == mtl.Route.no_sharing(2, 2, 3)
    assert found["full"] == mtl.Route(2, 2, 3, [((0, 1, 2), 0)] * 5)
    assert list(layer.candidates(2)) == ["derived", "full"]
    assert layer.candidates(6, seed=1) == found != layer.candidates(6, seed=2)
    layer.alpha.assign(1e3 * np.eye(layer.num_routes)[[0] * layer.num_blocks])  # certain of the full route
    assert list(layer.candidates(6)) == ["derived", "unshared"]
    with pytest.raises(ValueError, match=r"`count` must be .* received: count=0"):
        layer.candidates(0)
    assert "unshared" not in made((3, 1, 2, "root", "gate"), rng).candidates(5)


def test_candidates_are_drawn_with_the_probabilities_of_the_routes(rng):
    layer = made((1, 1, 3, "root", "gate"), rng)  # one block: {0, 1, 2}, {0, 1}, {0, 2}, {1, 2}, {0}, {1}, {2}
    layer.alpha.assign(np.log([[0.5, 0.15, 1e-9, 1e-9, 0.2, 0.15, 1e-9]]))
    assert list(layer.candidates(1)) == ["derived"]
    # {0, 1, 2} and {0} are there already, as the full route and the unshared one: the draws are {0, 1} or {1}.
    first = [layer.candidates(3, seed)["drawn 0"] for seed in range(200)]
    one, other = (mtl.Route(1, 1, 3, [(values, None)]) for values in ((0, 1), (1,)))
    assert set(first) == {one, other}
    assert 75 < first.count(one) < 125  # 100 expected; 3.5 standard deviations
    for seed in range(20):
        assert {*layer.candidates(4, seed).values()} == {layer.derive(), mtl.Route.no_sharing(1, 1, 3), one, other}
    assert len(layer.candidates(5)) == 4  # the others are all but impossible


def test_candidates_differ_in_more_than_unused_subnetworks(rng):
    layer = made((1, 2, 2, "root", "gate"), rng)  # blocks of the upper sub-networks 0 and 1, and of the task
    alpha = np.zeros((3, 3))
    alpha[2, 1] = 1e3  # the task reads 0 and nothing else, so that the block of 1 is of no account
    layer.alpha.assign(alpha)
    found = layer.candidates(8)
    assert {route.blocks[0].values for route in found.values() if route.blocks[2].values == (0,)} == {
        (0, 1),
        (0,),
        (1,),
    }
    assert len(found) == 3 + 1  # and the full one
    assert len({route.without_unused() for route in found.values()}) == 4


@pytest.mark.parametrize(("query", "queries"), [("previous", 8), ("root", 1)])
def test_the_number_of_gate_parameters_is_blocks_times_queries_times_all_subsets(query, queries):
    layer = mtl.RouteSupernet(2, 4, 8, 2, query)
    layer.build((None, 3))
    blocks = 3 * 8 + 2
    assert layer.num_blocks == blocks and layer.num_routes == 255 * queries
    assert tuple(layer.gates.kernel.shape) == (blocks * queries * 8 * 2**7, 2)
    assert tuple(layer.alpha.shape) == (blocks, 255 * queries)


def test_without_a_search_the_full_route_is_in_force(rng, x):
    layer = made((2, 2, 3, "previous", "gate"), rng)
    full = mtl.Route(2, 2, 3, [((0, 1, 2), 0)] * 5)
    assert layer.derive() == full
    expected = route_reference.supernet(layer, full, x)
    for training in (False, True):
        np.testing.assert_allclose(numbers(layer, x, training), expected, atol=1e-6)


def test_training_takes_the_sampled_route_and_all_else_the_most_likely(rng, x):
    layer = made((2, 2, 3, "previous", "gate"), rng)
    likely, sampled = route_for(layer, rng), route_for(layer, rng)
    layer.set_route(likely)
    layer.route.assign(layer.numbers_of(sampled))
    assert layer.derive() == likely
    outputs = {r: route_reference.supernet(layer, r, x) for r in (likely, sampled)}
    assert np.abs(outputs[likely] - outputs[sampled]).max() > 0.01
    np.testing.assert_allclose(numbers(layer, x, training=True), outputs[sampled], atol=1e-6)
    np.testing.assert_allclose(numbers(layer, x), outputs[likely], atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), outputs[likely], atol=1e-6)
    with layer._at_route(ops.convert_to_tensor(layer.numbers_of(sampled))):
        np.testing.assert_allclose(numbers(layer, x), outputs[sampled], atol=1e-6)
    np.testing.assert_allclose(numbers(layer, x), outputs[likely], atol=1e-6)


@every_shape
def test_gate_weights_are_those_of_the_most_likely_route(shape, rng, x):
    layer = made(shape, rng)
    route = route_for(layer, rng)
    layer.set_route(route)
    layer.route.assign(np.zeros(layer.num_blocks, "int32"))  # as if sampled last
    weights = [ops.convert_to_numpy(level) for level in layer.gate_weights(x)]
    reads = layer.gate_reads()
    num_tasks, num_layers, width = shape[:3]
    readers = [width] * (num_layers - 1) + [num_tasks]
    assert [level.shape for level in weights] == [(7, count, width) for count in readers]
    assert [level.shape for level in reads] == [(count, width) for count in readers]
    of_blocks = np.concatenate(weights, axis=1)
    for block, of_one, read in zip(route.blocks, np.moveaxis(of_blocks, 1, 0), np.concatenate(reads), strict=True):
        assert np.flatnonzero(read).tolist() == list(block.values)
        np.testing.assert_allclose(of_one.sum(axis=1), 1.0, atol=1e-6)
        assert (of_one[:, ~read] == 0).all()
        if layer.pooling == "mean":
            np.testing.assert_allclose(of_one[:, read], 1 / len(block.values), atol=1e-6)
    # The static form has the weights of what is reached, and no others.
    reached = route.reached()
    static = [ops.convert_to_numpy(level) for level in layer.to_static().gate_weights(x)]
    for depth, level in enumerate(static):
        rows = range(num_tasks) if depth + 1 == num_layers else reached[depth + 1]
        np.testing.assert_allclose(level, weights[depth][:, list(rows)][:, :, list(reached[depth])], atol=1e-6)


def test_in_bfloat16_the_most_likely_route_is_still_told_in_float32(rng, x):
    layer = made((2, 1, 3, "previous", "gate"), rng, dtype="mixed_bfloat16")
    alpha = np.zeros(layer.alpha.shape, "float32")
    alpha[:, 5], alpha[:, 12] = 1.0, 1.0001  # one number in bfloat16
    layer.alpha.assign(alpha)
    assert layer.derive() == layer.route_of([12, 12])
    found = ops.convert_to_numpy(ops.cast(layer(x), "float32"))
    expected, other = (route_reference.supernet(layer, layer.route_of([n, n]), x) for n in (12, 5))
    assert np.abs(found - expected).max() < 0.1 < np.abs(found - other).max()


# ---------------------------------------------------------------------------------------- models of that name as routes


def with_stem(layer, x):
    """The root feature of a supernet, by a Keras Dense with its weights."""
    dense = keras.layers.Dense(layer.units, "relu")
    dense.build((None, x.shape[1]))
    dense.kernel.assign(layer.stem.kernels[0][0])
    dense.bias.assign(layer.stem.biases[0][0, 0])
    return dense(x)


def test_mmoe_is_a_route(rng, x):
    layer = made((3, 1, 4, "root", "gate"), rng)
    layer.set_route(mtl.Route.mmoe(3, 1, 4))
    mmoe = mtl.MMoE(3, 4, (5,))
    mmoe.build((None, 5))
    mmoe.expert_levels[0].inherit(layer.subnetworks[0], range(4))
    own = [gate(layer, block, (0, 1, 2, 3), None).T for block in range(3)]  # [units, 4] per task
    mmoe.gate_levels[0].kernel.assign(np.concatenate(own, axis=1).astype("float32"))
    np.testing.assert_allclose(numbers(layer, x), ops.convert_to_numpy(mmoe(with_stem(layer, x))), atol=1e-6)


@pytest.mark.parametrize("query", ["previous", "root"])
def test_shared_bottom_is_a_route(rng, x, query):
    layer = made((3, 2, 4, query, "gate"), rng)
    layer.set_route(mtl.Route.shared_bottom(3, 2, 4))
    bottom = mtl.SharedBottom(3, (5, 5))
    bottom.build((None, 5))
    weights = [w for stack in layer.subnetworks for w in (stack.kernels[0], stack.biases[0])]
    kernels = [*bottom.expert_levels[0].kernels, *bottom.expert_levels[0].biases]
    for mine, theirs in zip(kernels, [*weights[::2], *weights[1::2]], strict=True):
        mine.assign(theirs[:1])
    np.testing.assert_allclose(numbers(layer, x), ops.convert_to_numpy(bottom(with_stem(layer, x))), atol=1e-6)


def test_without_sharing_a_task_is_a_stack_of_dense_layers(rng, x):
    layer = made((2, 2, 3, "previous", "gate"), rng)
    layer.set_route(mtl.Route.no_sharing(2, 2, 3))
    found = numbers(layer, x)
    for task in range(2):
        hidden = ops.convert_to_numpy(with_stem(layer, x))
        for stack in layer.subnetworks:
            hidden = np.maximum(hidden @ array(stack.kernels[0])[task] + array(stack.biases[0])[task, 0], 0)
        np.testing.assert_allclose(found[:, task], hidden, atol=1e-6)


# ------------------------------------------------------------------------------------------------- gradients and traces


def test_only_what_the_route_reaches_gets_a_gradient(rng, x):
    # Layer 2: 0 <- 0 + 2 (query 2); 1 <- 1. Towers read 0 alone, so that 1 of both layers is out.
    layer = made((2, 2, 3, "previous", "gate"), rng, activation="tanh")
    route = mtl.Route(2, 2, 3, [((0, 2), 2), ((1,), 0), ((0, 1, 2), 0), ((0,), 1), ((0,), 0)])
    layer.set_route(route)
    layer.route.assign(layer.numbers_of(route))
    wanted = [layer.gates.kernel, *(stack.kernels[0] for stack in layer.subnetworks)]
    of_gates, below, above = gradients(InTraining(layer), x, lambda y: ops.sum(ops.square(y)), wanted)
    touched = np.flatnonzero(np.abs(of_gates).sum(axis=1))
    np.testing.assert_array_equal(array(layer.gates.kernel)[touched], gate(layer, 0, (0, 2), 2))
    assert len(touched) == 2
    assert [bool(np.abs(below[i]).max() > 0) for i in range(3)] == [True, False, True]
    assert [bool(np.abs(above[i]).max() > 0) for i in range(3)] == [True, False, False]


class InTraining:
    """The layer in a training step, in the shape that `gradients` asks for."""

    def __init__(self, layer):
        self.layer = layer

    def __getattr__(self, name):
        return getattr(self.layer, name)

    def __call__(self, inputs):
        return self.layer(inputs, training=True)

    def stateless_call(self, *values):
        return self.layer.stateless_call(*values, training=True)


@pytest.mark.needs_tensorflow
def test_another_route_retraces_nothing(rng, x):
    import tensorflow as tf

    layer = made((2, 2, 3, "previous", "gate"), rng)
    traces = []

    @tf.function
    def run(inputs, training):
        traces.append(training)
        return layer(inputs, training=training)

    for _ in range(5):
        route = route_for(layer, rng)
        layer.set_route(route)
        expected = route_reference.supernet(layer, route, x)
        for training in (False, True):
            np.testing.assert_allclose(run(x, training).numpy(), expected, atol=1e-6)
    assert traces == [False, True]


def test_fit_trains_the_full_route_and_evaluates_it(rng, x):
    inputs = keras.Input((6,))
    layer = mtl.RouteSupernet(2, 1, 3, 4)
    model = keras.Model(inputs, layer(inputs))
    randomise(layer, rng)
    expected = np.square(route_reference.supernet(layer, mtl.Route(2, 1, 3, [((0, 1, 2), 0)] * 2), x)).mean()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    history = model.fit(x, np.zeros((7, 2, 4)), batch_size=7, validation_data=(x, np.zeros((7, 2, 4))), verbose=0)
    assert history.history["loss"] == pytest.approx([expected], rel=1e-5)
    assert history.history["val_loss"] == pytest.approx([expected], rel=1e-5)
    assert array(layer.route).tolist() == [0, 0]


def test_changing_the_route_between_epochs_compiles_nothing_again(rng, x):
    calls = []

    class Counted(keras.layers.Layer):
        def call(self, inputs):
            calls.append(1)  # as often as the model is traced
            return inputs

    inputs = keras.Input((6,))
    layer = mtl.RouteSupernet(2, 2, 3, 4)
    model = keras.Model(inputs, layer(Counted()(inputs)))
    model.compile("sgd", "mse", **({} if LEGACY else {"jit_compile": False}))
    traced = []
    for change in (False, False, True, True):
        if change:
            layer.set_route(route_for(layer, rng))
        before = len(calls)
        model.fit(x, np.zeros((7, 2, 4)), batch_size=7, verbose=0)
        model.predict(x, verbose=0)
        traced.append(len(calls) - before)
    assert traced[0] > 0 and traced[2:] == traced[1:3]  # on JAX, Keras itself traces again in every `fit`


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_tasks": 0}, "`num_tasks` must be an integer of at least 1; received: num_tasks=0"),
        ({"num_layers": 0}, "`num_layers` must be an integer from 1 to 4; received: num_layers=0"),
        ({"num_layers": 5}, "`num_layers` must be an integer from 1 to 4; received: num_layers=5"),
        ({"num_subnetworks": 0}, "`num_subnetworks` must be an integer from 1 to 8; received: num_subnetworks=0"),
        ({"num_subnetworks": 9}, "`num_subnetworks` must be an integer from 1 to 8; received: num_subnetworks=9"),
        ({"units": 0}, "`units` must be an integer of at least 1; received: units=0"),
        ({"query": "next"}, '`query` must be "previous" or "root"; received: query=\'next\''),
        ({"pooling": "max"}, '`pooling` must be "gate" or "mean"; received: pooling=\'max\''),
        ({"dropout": 1.0}, "`dropout` must be in [0, 1); received: dropout=1.0"),
    ],
)
def test_an_argument_out_of_range_is_refused(arguments, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        mtl.RouteSupernet(**{"num_tasks": 2, **arguments})


def test_a_route_of_another_shape_is_refused_and_changes_nothing(rng):
    layer = made((2, 2, 3, "previous", "gate"), rng)
    before = layer.derive()
    for other in ((3, 2, 3), (2, 1, 3), (2, 2, 4)):
        text = rf"`route` must have the shape .* of the supernet, \(2, 2, 3\); received: {re.escape(str(other))}"
        with pytest.raises(ValueError, match=text):
            layer.set_route(random_route(rng, *other))
    with pytest.raises(ValueError, match='of a supernet with query="previous"; received: layer 2, sub-network 0 with'):
        layer.set_route(mtl.Route.mmoe(2, 2, 3))
    rooted = made((2, 1, 3, "root", "gate"), rng)
    with pytest.raises(ValueError, match='of a supernet with query="root"; received: task 1 with query=2'):
        rooted.set_route(mtl.Route(2, 1, 3, [((0,), 1), ((0, 1), 2)]))
    assert layer.derive() == before


@pytest.mark.parametrize("given", [{}, None, "{}", [0, 0], 3])
def test_what_is_no_route_is_refused(given):
    layer = mtl.RouteSupernet(2, 1, 2, 3)
    layer.build((None, 4))
    with pytest.raises(ValueError, match=re.escape(f"`route` must be a mtl.Route; received: route={given!r}")):
        layer.set_route(given)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([0, 6], "`numbers` must be from 0 to 5; received: 6"),
        ([-1, 0], "`numbers` must be from 0 to 5; received: -1"),
        ([0], "`blocks` must have (num_layers - 1) * num_subnetworks + num_tasks = 2 entries; received: 1"),
    ],
)
def test_numbers_of_no_route_are_refused(numbers, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        mtl.RouteSupernet(2, 1, 2).route_of(numbers)


@pytest.mark.parametrize("ask", ["derive", "to_static", "freeze", "set_route", "gate_weights", "gate_reads"])
def test_an_unbuilt_supernet_has_no_route(ask):
    arguments = {"set_route": [mtl.Route.shared_bottom(2, 2, 4)], "gate_weights": [np.ones((2, 3), "float32")]}
    arguments = arguments.get(ask, [])
    with pytest.raises(ValueError, match="`mine` must be built before it has a route: call it on data or fit it first"):
        getattr(mtl.RouteSupernet(2, name="mine"), ask)(*arguments)


def test_an_input_of_another_rank_is_refused():
    with pytest.raises(ValueError, match=r"`inputs` must be \[batch, dim\]; received: shape=\(3, 2, 4\)"):
        mtl.RouteSupernet(2).build((3, 2, 4))
