"""What a freeze says that it removed: numbers by hand, and the same that the exporter counts."""

import json

import numpy as np
import pytest
from route_reference import random_route, randomise

import mtl_layers as mtl
from mtl_layers._keras import keras, ops

DIM = 5
TASKS = {"like_comment": (3,), "like": mtl.towers.MultiClass(3, (3,)), "also": mtl.towers.Regression(())}


def functional(layer, below=False):
    inputs = keras.Input((DIM,), name="x")
    body = keras.layers.Dense(DIM, name="below")(inputs) if below else inputs
    return keras.Model(inputs, mtl.Towers(TASKS, name="towers")(layer(body)))


def report(layer, tasks=None, below=False):
    return mtl.freeze(functional(layer, below), tasks).freeze_report


def test_mmoe_loses_gates_and_towers():
    found = report(mtl.MMoE(3, 4, (4, 3), name="mmoe"), ["like"])
    experts = 4 * (DIM * 4 + 4 * 3)
    gate = DIM * 4 + 4 * 3  # scores, then the mixture
    mmoe, towers = found.layers
    assert (mmoe.name, mmoe.kind, towers.name, towers.kind) == ("mmoe", "MMoE", "towers", "Towers")
    assert mmoe.inventory == {"experts": (4, 4), "gates": (3, 1)} and towers.inventory == {"towers": (3, 1)}
    assert mmoe.multiply_adds == (experts + 3 * gate, experts + gate)
    assert mmoe.parameters == (experts + 4 * 7 + 3 * 4 * DIM, experts + 4 * 7 + 4 * DIM)
    assert towers.multiply_adds == ((9 + 3) + (9 + 9) + 3, 9 + 9)
    assert towers.parameters == (16 + (12 + 12) + 4, 12 + 12)
    assert found.multiply_adds == (experts + 3 * gate + 33, experts + gate + 18)
    assert found.parameters == (mmoe.parameters[0] + 44, mmoe.parameters[1] + 24)
    assert found.parameters_below == 0


def test_ple_loses_experts_too():
    layer = mtl.PLE(3, 2, ((2, 1, 1), (1, 2, 0)), (1, 2), ((4,), (3,)))
    ple, _ = report(layer, ["like_comment"]).layers
    # Of the upper level the task reads 1 + 2 experts; the lower level is needed whole, by the shared gate.
    assert ple.inventory == {"experts": (5 + 5, 5 + 3), "gates": (3 + 1 + 3, 1 + 1 + 1)}
    # Both gates of the lower level weigh all of its experts, of which the task's own has 0 for two.
    lower, upper = 5 * DIM * 4 + DIM * (3 + 5) + 2 * 5 * 4, 3 * 4 * 3 + (4 + 3) * 3
    assert ple.multiply_adds[1] == lower + upper < ple.multiply_adds[0]


def test_a_gate_over_one_expert_was_never_there():
    cgc, _ = report(mtl.CGC(3, (2, 0, 1), 1, (4,)), ["like"]).layers
    assert cgc.inventory == {"experts": (4, 1), "gates": (2, 0)}
    bottom, _ = report(mtl.SharedBottom(3, (4,)), ["like"]).layers
    assert bottom.inventory == {"experts": (1, 1), "gates": (0, 0)}


@pytest.mark.parametrize(("query", "queries"), [("previous", 3), ("root", 1)])
def test_a_supernet_loses_all_routes_but_one(rng, query, queries):
    supernet = mtl.RouteSupernet(3, 2, 3, 4, query)
    model = functional(supernet)
    randomise(supernet, rng)
    query = 1 if query == "previous" else None
    supernet.set_route(
        mtl.Route(3, 2, 3, [((0,), None), ((0, 1), query), ((2,), None), ((1,), None), ((0, 1), query), ((0,), None)])
    )
    found, _ = mtl.freeze(model).freeze_report.layers
    # Layer 1: 0 and 1; layer 2: 0 and 1. Before, 3 + 3 + 1 subsets; 4 of them have a choice.
    assert found.kind == "RouteSupernet"
    assert found.inventory == {"sub-networks": (6, 4), "gates": (6 * 4 * queries, 2)}
    # In each layer one gate has two scores; both values are weighed for all readers, by 0 where one is not read.
    assert found.multiply_adds[1] == DIM * 4 + 4 * 4 * 4 + (2 * 4 + 2 * 2 * 4) + (2 * 4 + 3 * 2 * 4)
    assert found.parameters[1] == (DIM + 1) * 4 + 4 * (4 + 1) * 4 + 2 * 2 * 4
    alone, _ = mtl.freeze(model, ["also"]).freeze_report.layers
    assert alone.inventory["sub-networks"] == (6, 2) and alone.inventory["gates"][1] == 0


def test_a_mean_has_no_gates(rng):
    supernet = mtl.RouteSupernet(3, 1, 3, 4, pooling="mean")
    found, _ = report(supernet, ["also"]).layers
    assert found.inventory == {"sub-networks": (3, 3), "gates": (0, 0)}


def test_a_static_route_is_made_of_sub_networks(rng):
    route = random_route(rng, 3, 2, 3)
    found, _ = report(mtl.StaticRoute(route, 4), ["like"]).layers
    assert found.inventory["sub-networks"] == (sum(map(len, route.reached())), sum(map(len, route.reached([1]))))


def test_masks_and_weights_at_rest_are_no_parameters(rng):
    layer = mtl.SparseSharing(3, (32,))
    inputs = keras.Input((16,), name="x")
    model = keras.Model(inputs, mtl.Towers(TASKS)(layer(inputs)))
    network = 16 * 32 + 32
    sharing, _ = mtl.freeze(model).freeze_report.layers
    assert sharing.parameters == (network, network)
    model.trainable = False  # the parameters of a network that rests are still its parameters
    sharing, _ = mtl.freeze(model).freeze_report.layers
    assert sharing.parameters == (network, network)
    masks = np.zeros((3, 16, 32), bool)
    masks[0, :, :20] = masks[1, :, 10:] = masks[2] = True
    layer.set_masks([masks])
    sharing, _ = mtl.freeze(model).freeze_report.layers
    assert sharing.parameters == (network, 3 * network)  # three masks are three kernels


def test_what_a_search_keeps_is_no_parameter(rng):
    supernet = mtl.RouteSupernet(3, 1, 2, 4)
    model = functional(supernet)
    stem, subnetworks = DIM * 4 + 4, 2 * (4 * 4 + 4)
    # For 3 blocks and 2 queries: a gate for both values and one for each, 4 rows of 4 units.
    gates = 3 * 2 * (2 + 1 + 1) * 4
    supernet.set_route(mtl.Route(3, 1, 2, [((0, 1), 0), ((0,), None), ((1,), None)]))
    for _ in range(2):
        found, _ = mtl.freeze(model).freeze_report.layers
        assert found.parameters == (stem + subnetworks + gates, stem + subnetworks + 2 * 4)
        supernet.hold_search_optimizer(keras.optimizers.Adam(0.01))  # as a search does


def test_an_allocation_counts_its_logits_and_no_step_but_all_of_a_normalisation():
    components = [keras.layers.Dense(4), keras.Sequential([keras.layers.Dense(4), keras.layers.BatchNormalization()])]
    layer = mtl.GumbelMatrix(3, components=components, p_init=0.9)
    found, _ = report(layer).layers
    parts = 2 * (DIM * 4 + 4) + 4 * 4  # of a normalisation the moving mean and variance, too
    assert found.parameters == (parts + 3 * 2, parts)


def test_convolutions_are_computed_too():
    convolutions = [keras.layers.Conv2D(2, 3, padding="same") for _ in range(2)]
    layer = mtl.GumbelMatrix(2, components=convolutions, after=keras.layers.Flatten(), p_init=0.9)
    inputs = keras.Input((4, 4, 3), name="x")
    model = keras.Model(inputs, mtl.Towers({"like": (), "also": ()})(layer(inputs)))
    layer.set_probabilities([np.array([[0.9, 0.1], [0.1, 0.9]])])
    convolution = (4 * 4 * 2) * 9 * 3
    found, _ = mtl.freeze(model).freeze_report.layers
    assert found.multiply_adds == (2 * convolution + 2 * 2 * (4 * 4 * 2), 2 * convolution)  # averages are a product
    found, _ = mtl.freeze(model, ["also"]).freeze_report.layers
    assert found.multiply_adds[1] == convolution


def test_what_lies_below_stays():
    found = report(mtl.MMoE(3, 2, (4,)), below=True)
    assert found.parameters_below == DIM * DIM + DIM
    assert found.layers[0].parameters[0] == found.layers[0].parameters[1] == 2 * (DIM + 1) * 4 + DIM * 3 * 2
    assert found.multiply_adds[0] == found.multiply_adds[1]  # all tasks are there, and all experts


def test_freezing_again_reports_what_is_removed_then():
    frozen = mtl.freeze(functional(mtl.MMoE(3, 4, (4, 3))))
    again = mtl.freeze(frozen, ["like"]).freeze_report
    directly = mtl.freeze(functional(mtl.MMoE(3, 4, (4, 3))), ["like"]).freeze_report
    assert again.layers[0].inventory == directly.layers[0].inventory == {"experts": (4, 4), "gates": (3, 1)}
    assert again.multiply_adds == directly.multiply_adds and again.parameters == directly.parameters


def test_printed_it_is_a_table():
    found = report(mtl.SharedBottom(3, (400,), name="bottom"), ["like"], below=True)
    assert str(found).splitlines() == [
        "layer                 | parameters     | multiply-adds a row |",
        "bottom (SharedBottom) | 2,400 -> 2,400 | 2,000 -> 2,000      | experts 1 -> 1",
        "towers (Towers)       | 2,823 -> 1,215 | 2,812 -> 1,209      | towers 3 -> 1",
        "together              | 5,223 -> 3,615 | 4,812 -> 3,209      | 30 parameters below them stay",
    ]


def test_it_is_of_the_frozen_model_and_not_saved(tmp_path, rng):
    frozen = mtl.freeze(functional(mtl.MMoE(3, 2, (4,))))
    frozen.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    assert not hasattr(loaded, "freeze_report") and frozen.freeze_report.layers
    x = rng.normal(size=(2, DIM)).astype("float32")
    np.testing.assert_array_equal(*(ops.convert_to_numpy(model(x)["also"]) for model in (frozen, loaded)))


class Twice(keras.layers.Layer):
    """A sharing layer of somebody else, who counts nothing."""

    def call(self, inputs):
        return ops.stack([inputs] * 3, axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 3, input_shape[1])

    def freeze(self, tasks):
        return Apart(len(tasks))


class Apart(keras.layers.Layer):
    def __init__(self, count):
        super().__init__()
        self.count = count

    def call(self, inputs):
        return [inputs] * self.count

    def compute_output_shape(self, input_shape):
        return [input_shape] * self.count


def test_a_layer_that_counts_nothing_has_no_inventory():
    found = report(Twice(name="twice"), ["like", "also"])
    assert found.layers[0].inventory == {} and found.layers[0].multiply_adds == (0, 0)
    assert str(found).splitlines()[1].split("|")[0].strip() == "twice (Twice)"


@pytest.mark.needs_tensorflow
@pytest.mark.parametrize("kind", ["MMoE", "PLE", "RouteSupernet"])
def test_the_exporter_counts_the_same(kind, tmp_path):
    import serving

    model = functional(getattr(mtl, kind)(3, 2))
    version = serving.export(model, tmp_path, verbose=False)
    signatures = json.loads((version / "manifest.json").read_text())["signatures"]
    for name, tasks in {"serving_default": None, **{task: [task] for task in TASKS}}.items():
        assert signatures[name]["multiply_adds"] == mtl.freeze(model, tasks).freeze_report.multiply_adds[1]
