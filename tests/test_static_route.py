"""The layer of one route: what it holds, counted by hand, and what it gives, also frozen, saved and served."""

import json
import re

import numpy as np
import pytest
from conftest import BACKEND
from route_reference import gate_multiply_adds, random_route, randomise

import mtl_layers as mtl
from mtl_layers._keras import keras, ops

DIM, UNITS = 6, 5
STEM, SUBNETWORK = (DIM + 1) * UNITS, (UNITS + 1) * UNITS

# Layer 2: 0 <- 0, 1 <- 1 + 2 (query 3), 2 <- 3, 3 <- 0 + 1; towers 0 <- 0 + 2 (query 0), 1 <- 1.
DEEP = mtl.Route(2, 2, 4, [((0,), 2), ((1, 2), 3), ((3,), 1), ((0, 1), 2), ((0, 2), 0), ((1,), 3)])


@pytest.fixture
def x(rng):
    return rng.normal(size=(7, DIM)).astype("float32")


def built(route, pooling="gate", rng=None, **kwargs):
    layer = mtl.StaticRoute(route, UNITS, pooling, **kwargs)
    layer.build((None, DIM))
    if rng is not None:
        randomise(layer, rng)
    return layer


def parameters(layer):
    return sum(int(np.prod(weight.shape)) for weight in layer.trainable_weights)


def formula(route, tasks=None, pooling="gate"):
    """The stem, each sub-network reached, and a gate where a reader has a choice."""
    reached = route.reached(tasks)
    total = STEM + sum(map(len, reached)) * SUBNETWORK
    if pooling == "mean":
        return total
    for layer in range(2, route.num_layers + 2):
        tops = range(route.num_tasks) if tasks is None else tasks
        readers = reached[layer - 1] if layer <= route.num_layers else tops
        sizes = [len(route.layer_blocks(layer)[reader].values) for reader in readers]
        total += sum(size * UNITS for size in sizes if size > 1)
    return total


@pytest.mark.parametrize(
    ("route", "everything", "alone"),
    [
        # 4 + 3 sub-networks; gates of two values before sub-network 1 and tower 0. Sub-network 3 of layer 2 and its
        # gate do not exist. Task 0 alone: 2 + 2 and one gate; task 1: 3 (one of them a query) + 1 and one gate.
        (DEEP, STEM + 7 * SUBNETWORK + 2 * 2 * UNITS, (STEM + 4 * SUBNETWORK + 2 * UNITS,) * 2),
        (mtl.Route.shared_bottom(2, 3, 4), STEM + 3 * SUBNETWORK, (STEM + 3 * SUBNETWORK,) * 2),
        (mtl.Route.no_sharing(2, 2, 4), STEM + 4 * SUBNETWORK, (STEM + 2 * SUBNETWORK,) * 2),
        (
            mtl.Route.mmoe(2, 2, 3),
            STEM + 6 * SUBNETWORK + (3 + 2) * 3 * UNITS,
            (STEM + 6 * SUBNETWORK + (3 + 1) * 3 * UNITS,) * 2,
        ),
        # A query that is no value of anybody.
        (mtl.Route(1, 1, 3, [((0, 1), 2)]), STEM + 3 * SUBNETWORK + 2 * UNITS, (STEM + 3 * SUBNETWORK + 2 * UNITS,)),
    ],
)
def test_it_holds_exactly_what_the_route_reaches(route, everything, alone):
    layer = built(route)
    assert parameters(layer) == everything == formula(route)
    assert parameters(layer.freeze()) == everything
    for task, count in enumerate(alone):
        assert parameters(layer.freeze([task])) == count == formula(route, [task])


def test_at_random_routes_the_count_is_the_formula(rng):
    for _ in range(4):
        route = random_route(rng, 3, 3, 4)
        layer = built(route)
        assert parameters(layer) == formula(route)
        assert parameters(layer.freeze([1])) == formula(route, [1])


def test_by_the_mean_there_are_no_gates_and_nothing_is_only_a_query():
    route = mtl.Route(1, 2, 3, [((0, 1), 2), ((1,), 0), ((2,), 0), ((0, 1), 2)])
    layer = built(route, "mean")
    assert parameters(layer) == parameters(layer.freeze()) == STEM + (2 + 2) * SUBNETWORK
    assert layer.route == route


@pytest.mark.parametrize("pooling", ["gate", "mean"])
@pytest.mark.parametrize("queries", [True, False])
def test_frozen_for_all_tasks_or_some_it_gives_the_same(rng, x, pooling, queries):
    route = random_route(rng, 3, 2, 4, queries)
    layer = built(route, pooling, rng)
    expected = ops.convert_to_numpy(layer(x))
    assert expected.shape == (7, 3, UNITS) == tuple(layer.compute_output_shape((7, DIM)))
    frozen = layer.freeze()
    for tasks in ([0, 1, 2], [2], [1, 0]):
        for form in (layer.freeze(tasks), frozen.freeze(tasks)):
            found = np.stack([ops.convert_to_numpy(y) for y in form(x)], axis=1)
            np.testing.assert_allclose(found, expected[:, tasks], atol=1e-6)


def test_a_single_value_passes_through(x):
    layer = built(mtl.Route(2, 1, 2, [((1,), 0), ((0, 1), 0)]))
    output = ops.convert_to_numpy(layer(x))
    (weights,) = layer.gate_weights(x)
    weights = ops.convert_to_numpy(weights)
    np.testing.assert_array_equal(weights[:, 0], np.tile([0.0, 1.0], (7, 1)))
    assert ((weights[:, 1] > 0) & (weights[:, 1] < 1)).all()
    frozen = layer.freeze([0])
    assert parameters(frozen) == STEM + SUBNETWORK
    np.testing.assert_allclose(ops.convert_to_numpy(frozen(x)[0]), output[:, 0], atol=1e-6)


def test_it_trains_from_scratch_and_every_weight_moves(rng, x):
    inputs = keras.Input((DIM,))
    layer = mtl.StaticRoute(DEEP, UNITS)
    model = keras.Model(inputs, layer(inputs))
    randomise(layer, rng)
    before = [ops.convert_to_numpy(w + 0) for w in layer.trainable_weights]
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=BACKEND == "jax")
    losses = model.fit(x, np.ones((7, 2, UNITS)), batch_size=7, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for weight, old in zip(layer.trainable_weights, before, strict=True):
        assert (ops.convert_to_numpy(weight + 0) != old).any(), weight.name


def test_the_config_holds_the_route_as_json():
    layer = mtl.StaticRoute(DEEP.to_json(), UNITS, "mean", name="mine")
    assert layer.route == DEEP
    config = json.loads(json.dumps(layer.get_config()))
    assert config["route"] == DEEP.to_json()
    again = mtl.StaticRoute.from_config(config)
    assert again.route == DEEP and again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((3,), "`route` must be a mtl.Route or its JSON text; received: route=3"),
        (("{}",), "a route must have format 1; received: format=None"),
        ((DEEP, 0), "`units` must be an integer of at least 1; received: units=0"),
        ((DEEP, 4, "max"), '`pooling` must be "gate" or "mean"; received: pooling=\'max\''),
    ],
)
def test_illegal_arguments_are_refused(arguments, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        mtl.StaticRoute(*arguments)


# ------------------------------------------------------------------------------------------------- whole models, served


def searched(route, rng):
    """A model whose supernet has found a route."""
    inputs = keras.Input((DIM,), name="x")
    supernet = mtl.RouteSupernet(route.num_tasks, route.num_layers, route.num_subnetworks, UNITS)
    towers = mtl.Towers({"like": (4,), "buy": (4,), "age": mtl.towers.Regression(())})
    model = keras.Model(inputs, towers(supernet(inputs)))
    randomise(supernet, rng)
    supernet.set_route(route)
    supernet.route.assign(supernet.numbers_of(mtl.Route.shared_bottom(3, 2, 4)))  # as if sampled last
    return model


ROUTE = mtl.Route(3, 2, 4, [((0, 3), 2), ((1,), 3), ((2,), 1), ((0, 1), 2), ((0, 2), 0), ((1,), 3), ((0, 1), 0)])


def test_a_frozen_model_is_the_searched_one_for_all_tasks_and_for_one(rng, x):
    model = searched(ROUTE, rng)
    expected = model.predict(x, verbose=0)
    frozen = mtl.freeze(model)
    for task, values in frozen.predict(x, verbose=0).items():
        np.testing.assert_allclose(values, expected[task], atol=1e-6)
    towers = 2 * ((UNITS + 1) * 4 + 5) + UNITS + 1
    assert frozen.count_params() == formula(ROUTE) + towers
    alone = mtl.freeze(model, ["buy"])
    np.testing.assert_allclose(alone.predict(x, verbose=0)["buy"], expected["buy"], atol=1e-6)
    assert alone.count_params() == formula(ROUTE, [1]) + (UNITS + 1) * 4 + 5


@pytest.mark.needs_tensorflow
def test_an_exported_task_runs_only_what_its_route_reaches(rng, x, tmp_path):
    from cpp_loader import CppModel

    import serving

    model = searched(ROUTE, rng)
    expected = model.predict(x, verbose=0)
    version = serving.export(model, tmp_path, verbose=False)
    signatures = json.loads((version / "manifest.json").read_text())["signatures"]
    towers = {"like": UNITS * 4 + 4, "buy": UNITS * 4 + 4, "age": UNITS}

    def multiply_adds(tasks):
        dense = DIM * UNITS + sum(map(len, ROUTE.reached(tasks))) * UNITS * UNITS
        return dense + gate_multiply_adds(ROUTE, tasks, UNITS)

    for number, task in enumerate(towers):
        assert signatures[task]["multiply_adds"] == multiply_adds([number]) + towers[task]
    assert signatures["serving_default"]["multiply_adds"] == multiply_adds(range(3)) + sum(towers.values())
    with CppModel(str(version)) as cpp:
        for task in towers:
            for size in (1, 7):
                found = cpp.run(task, {"x": x[:size]})
                assert set(found) == {task}
                np.testing.assert_allclose(found[task], expected[task][:size], atol=1e-6)
        for task, values in cpp.run("serving_default", {"x": x}).items():
            np.testing.assert_allclose(values, expected[task], atol=1e-6)
    stored = json.loads((version / "manifest.json").read_text())["parameters"]
    assert stored == mtl.freeze(model).count_params()


def test_without_an_input_layer_the_gates_of_a_layer_read_one_kind_of_query():
    blocks = [((0, 1), None), ((0, 1), 1)]
    assert mtl.StaticRoute(mtl.Route(2, 1, 2, blocks), 4).compute_output_shape((None, 3)) == (None, 2, 4)
    with pytest.raises(ValueError, match="all read the root feature, or all a sub-network, in each layer"):
        mtl.StaticRoute(mtl.Route(2, 1, 2, blocks), 4, input_layer=False)
