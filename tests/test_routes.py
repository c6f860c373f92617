"""Routes as data: what is legal, JSON in and out, what they reach and how they print."""

import json
import re

import numpy as np
import pytest
from route_reference import random_route

import mtl_layers as mtl
from mtl_layers.sharing.route import Block

TWO = ((0, 1), 0)


def route(**changes):
    return mtl.Route(**{"num_tasks": 2, "num_layers": 1, "num_subnetworks": 2, "blocks": (TWO, TWO), **changes})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_tasks": 0}, "`num_tasks` must be an integer of at least 1; received: num_tasks=0"),
        ({"num_layers": 1.0}, "`num_layers` must be an integer of at least 1; received: num_layers=1.0"),
        (
            {"num_subnetworks": True},
            "`num_subnetworks` must be an integer of at least 1; received: num_subnetworks=True",
        ),
        (
            {"blocks": (TWO,)},
            "`blocks` must have (num_layers - 1) * num_subnetworks + num_tasks = 2 entries; received: 1",
        ),
        (
            {"num_layers": 3},
            "`blocks` must have (num_layers - 1) * num_subnetworks + num_tasks = 6 entries; received: 2",
        ),
        ({"blocks": (TWO, ((), 0))}, "`blocks` must each have a value; received: task 1 reaches nothing"),
        ({"blocks": (((0, 2), 0), TWO)}, "ascending values below 2; received: task 0 with values=(0, 2)"),
        ({"blocks": (((-1,), 0), TWO)}, "ascending values below 2; received: task 0 with values=(-1,)"),
        ({"blocks": (((1, 0), 0), TWO)}, "ascending values below 2; received: task 0 with values=(1, 0)"),
        ({"blocks": (((1, 1), 0), TWO)}, "ascending values below 2; received: task 0 with values=(1, 1)"),
        (
            {"blocks": (TWO, ((0, 1), 2))},
            "a query below 2, or None for the root feature; received: task 1 with query=2",
        ),
        (
            {"blocks": (TWO, ((0, 1), -1))},
            "a query below 2, or None for the root feature; received: task 1 with query=-1",
        ),
        ({"blocks": (TWO, ((0, 1),))}, "an integer or None; received: ((0, 1),)"),
        ({"blocks": None}, "`blocks` must be a sequence of Blocks; received: None"),
        ({"blocks": (TWO, 3)}, "`blocks` must be Blocks or pairs (values, query) of integers"),
        ({"blocks": (TWO, ((0.5,), 0))}, "an integer or None; received: ((0.5,), 0)"),
        ({"blocks": (TWO, ((True,), 0))}, "an integer or None; received: ((True,), 0)"),
        ({"blocks": (TWO, ((0,), 1.0))}, "an integer or None; received: ((0,), 1.0)"),
        ({"blocks": (TWO, ("01", None))}, "an integer or None; received: ('01', None)"),
    ],
)
def test_an_illegal_route_is_refused_with_the_reason(changes, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        route(**changes)


def test_blocks_above_the_first_layer_are_named_in_errors():
    with pytest.raises(ValueError, match=r"received: layer 2, sub-network 1 with values=\(2,\)"):
        route(num_layers=2, blocks=(TWO, ((2,), 0), TWO, TWO))
    with pytest.raises(ValueError, match="received: layer 3, sub-network 0 reaches nothing"):
        route(num_layers=3, blocks=(TWO, TWO, ((), None), TWO, TWO, TWO))


@pytest.mark.parametrize(("tasks", "layers", "subnetworks"), [(1, 1, 1), (2, 1, 3), (3, 2, 4), (2, 4, 8)])
def test_json_gives_the_same_route_back(rng, tasks, layers, subnetworks):
    for queries in (True, False):
        one = random_route(rng, tasks, layers, subnetworks, queries)
        again = mtl.Route.from_json(one.to_json())
        assert again == one and hash(again) == hash(one) and again.to_json() == one.to_json()


def test_json_is_what_it_says():
    one = route(blocks=[Block([0, 1], 1), ((1,), None)])
    assert json.loads(one.to_json()) == {
        "format": 1,
        "num_tasks": 2,
        "num_layers": 1,
        "num_subnetworks": 2,
        "blocks": [{"values": [0, 1], "query": 1}, {"values": [1], "query": None}],
    }


def test_a_block_with_one_value_has_no_query_whatever_is_given():
    assert Block((1,), 0) == Block([1]) == Block(np.array([1]), np.int64(7)) and hash(Block((1,), 0)) == hash(
        Block((1,))
    )
    assert Block((1,), 0).query is None and Block((0, 1), 0).query == 0
    asked, unasked = (route(blocks=[((0,), query), TWO]) for query in (1, None))
    assert asked == unasked and hash(asked) == hash(unasked) and asked.to_json() == unasked.to_json()
    text = unasked.to_json().replace('[0], "query": null', '[0], "query": 1')  # as written before queries were dropped
    assert text != unasked.to_json() and mtl.Route.from_json(text) == unasked


@pytest.mark.parametrize(("values", "query"), [((0.5,), None), ((True,), None), ("01", None), ((0, 1), "0")])
def test_a_block_of_anything_but_integers_is_refused(values, query):
    with pytest.raises(TypeError, match="a block must have integers as values and query; received: "):
        Block(values, query)


def test_integers_of_numpy_become_plain_ones():
    one = mtl.Route(np.int64(2), np.int32(1), np.int64(2), [(np.array([0, 1]), np.int64(0))] * 2)
    assert one == route() and hash(one) == hash(route()) and one.to_json() == route().to_json()


def config(**changes):
    return {**json.loads(route().to_json()), **changes}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a route must be JSON text; received: ''"),
        ("{", "a route must be JSON text; received: '{'"),
        (None, "a route must be JSON text; received: None"),
        ("[1]", "a route must have format 1; received: format='list'"),
        ("null", "a route must have format 1; received: format='NoneType'"),
        ("{}", "a route must have format 1; received: format=None"),
        ('{"format": true}', "a route must have format 1; received: format=True"),
        ('{"format": 1.0}', "a route must have format 1; received: format=1.0"),
        ('{"format": 1, "format": 1}', "each key once; received: ['format', 'format']"),
        (b"\xff", "a route must be JSON text; received: b'\\xff'"),
        ("[" * 100_000, "a route must be JSON text; received: '[["),
        (json.dumps(config(format=2)), "a route must have format 1; received: format=2"),
        (json.dumps(config(colour="red")), "must have exactly the keys ['blocks', 'format', 'num_layers'"),
        ('{"format": 1, "num_tasks": 2}', "received: ['format', 'num_tasks']"),
        (json.dumps(config(blocks={})), '`blocks` must be a list of {"values": [...], "query": ...}; received: {}'),
        (json.dumps(config(blocks=[[0], [1]])), "received: [[0], [1]]"),
        (json.dumps(config(blocks=[{"values": [0]}] * 2)), "received: [{'values': [0]}, {'values': [0]}]"),
        (json.dumps(config(blocks=[{"values": [0], "query": None}])), "= 2 entries; received: 1"),
        (json.dumps(config(blocks=[{"values": [0], "query": None, "x": 1}] * 2)), "`blocks` must be a list of"),
        (json.dumps(config(blocks=[{"values": "01", "query": None}] * 2)), "received: ('01', None)"),
        (json.dumps(config(blocks=[{"values": 3, "query": None}] * 2)), "received: (3, None)"),
        (json.dumps(config(blocks=[{"values": None, "query": 0}] * 2)), "received: (None, 0)"),
        (json.dumps(config(blocks=[{"values": [0.5], "query": 0}] * 2)), "received: ([0.5], 0)"),
        (json.dumps(config(blocks=[{"values": [0], "query": True}] * 2)), "received: ([0], True)"),
        (json.dumps(config(blocks=[{"values": [0], "query": "1"}] * 2)), "received: ([0], '1')"),
        (json.dumps(config(blocks=[{"values": [], "query": 0}] * 2)), "task 0 reaches nothing"),
        (json.dumps(config(num_tasks="2")), "`num_tasks` must be an integer of at least 1; received: num_tasks='2'"),
        (json.dumps(config(num_layers=None)), "`num_layers` must be an integer of at least 1"),
    ],
)
def test_a_malformed_text_is_refused_with_the_reason(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        mtl.Route.from_json(text)


def test_equal_routes_are_one_key_and_others_are_not():
    same = route(blocks=[Block((0, 1), 0), ([0, 1], 0)])
    assert same == route() and len({same, route()}) == 1
    assert route(blocks=(TWO, ((0, 1), 1))) != route() != route(blocks=(TWO, ((0, 1), None)))
    assert route(num_tasks=1, num_layers=1, blocks=(TWO,)) != route()


def test_a_route_cannot_be_changed():
    with pytest.raises(AttributeError):
        route().num_tasks = 3
    with pytest.raises(AttributeError):
        route().blocks[0].query = 1


# --------------------------------------------------------------------------------------------------------- ready-made


def test_shared_bottom_is_one_sub_network_per_layer():
    one = mtl.Route.shared_bottom(3, 2, 4)
    assert {block.values for block in one.blocks} == {(0,)} and len(one.blocks) == 4 + 3
    assert one.reached() == ((0,), (0,))


def test_mmoe_reads_everything_by_gates_on_the_root():
    one = mtl.Route.mmoe(3, 2, 4)
    assert set(one.blocks) == {Block((0, 1, 2, 3), None)} and len(one.blocks) == 4 + 3
    assert one.reached() == one.reached([1]) == ((0, 1, 2, 3),) * 2


def test_without_sharing_tasks_reach_disjoint_sub_networks():
    one = mtl.Route.no_sharing(3, 3, 4)
    assert [one.reached([task]) for task in range(3)] == [((task,),) * 3 for task in range(3)]
    assert one.reached() == ((0, 1, 2),) * 3
    with pytest.raises(
        ValueError, match=r"`num_subnetworks` must be at least the number of tasks .* num_subnetworks=2,"
    ):
        mtl.Route.no_sharing(3, 1, 2)


# ------------------------------------------------------------------------------------------------- reached and printed

# Layer 2: 0 <- 0, 1 <- 1 + 2 (query 3), 2 <- 3 (query 1, never asked), 3 <- 0 + 1 (query 2); towers 0 + 2 and 1.
DEEP = mtl.Route(2, 2, 4, [((0,), 2), ((1, 2), 3), ((3,), 1), ((0, 1), 2), ((0, 2), 0), ((1,), 3)])


def test_reached_are_values_and_queries_of_gates_with_a_choice():
    assert DEEP.reached([0]) == ((0, 3), (0, 2))  # the query of 0 <- 0 and of 2 <- 3 is never asked
    assert DEEP.reached([1]) == ((1, 2, 3), (1,))  # 3 as the query of 1 <- 1 + 2; the tower's query 3 is never asked
    assert DEEP.reached() == DEEP.reached([1, 0]) == ((0, 1, 2, 3), (0, 1, 2))


@pytest.mark.parametrize("tasks", [[2], [-1], [0, 0], []])
def test_only_tasks_that_exist_reach_anything(tasks):
    with pytest.raises(
        ValueError, match=r"`tasks` must be distinct indexes below 2, or None for all; received: tasks="
    ):
        DEEP.reached(tasks)


def test_a_query_alone_is_reached():
    one = mtl.Route(1, 2, 3, [((0,), 0), ((1,), 0), ((2,), 0), ((0, 1), 2)])
    assert one.reached() == ((0, 1, 2), (0, 1, 2))
    root = mtl.Route(1, 2, 3, [((0,), 0), ((1,), 0), ((2,), 0), ((0, 1), None)])
    assert root.reached() == ((0, 1), (0, 1))


def test_printed_it_says_who_reads_what_and_what_is_unused():
    assert str(DEEP).splitlines() == [
        "layer 2, sub-network 0 <- 0",
        "layer 2, sub-network 1 <- 1 + 2 (query 3)",
        "layer 2, sub-network 2 <- 3",
        "layer 2, sub-network 3 <- 0 + 1 (query 2) (unused)",
        "task 0 <- 0 + 2 (query 0)",
        "task 1 <- 1",
    ]
    assert str(mtl.Route.mmoe(1, 1, 2)) == "task 0 <- 0 + 1 (query root)"


def test_layer_blocks_are_those_before_a_layer_or_the_towers():
    one = mtl.Route.no_sharing(2, 3, 2)
    assert one.layer_blocks(2) == one.blocks[:2] and one.layer_blocks(3) == one.blocks[2:4]
    assert one.layer_blocks(4) == one.blocks[4:]


def test_routes_that_differ_in_unused_sub_networks_alone_are_one_without_them():
    # Task 0 reads 1, task 1 reads 1 and 2 and asks 0: sub-network 3 of the upper layer is unused.
    towers = (((1,), None), ((1, 2), 0))
    one, other = (mtl.Route(2, 2, 4, [TWO, TWO, ((3,), None), block, *towers]) for block in (TWO, ((1, 2, 3), 3)))
    assert one != other and one.without_unused() == other.without_unused()
    assert one.without_unused().blocks == (*one.blocks[:3], Block((0,)), *one.blocks[4:])
    used = mtl.Route(2, 2, 4, [((0, 1), 1), *one.blocks[1:]])  # block 0 is asked, and so used
    assert used.without_unused() != one.without_unused()
    assert one.without_unused().reached() == one.reached()


def test_a_picture_has_each_tasks_paths_and_what_gates_ask():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    route = mtl.Route(2, 1, 3, [((0, 1), 2), ((1,), None)])
    drawn = {}
    for queries in (True, False):
        figure, axes = pyplot.subplots()
        mtl.analysis.draw_route(route, axes, ["click", "purchase"], queries=queries)
        drawn[queries] = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
        assert [text.get_text() for text in axes.texts] == ["0", "1", "2", "root", "click", "purchase"]
        pyplot.close(figure)
    # Circles; from the root to 0, 1 (and 2, which the gate asks) for one task, to 1 for the other; and to the towers.
    paths = [line for line in drawn[False] if line[1] == "-"]
    assert sorted(color for color, style in paths if color.startswith("C")) == ["C0"] * 5 + ["C1"] * 2
    assert (":" in {style for _, style in drawn[True]}) and ":" not in {style for _, style in drawn[False]}
    assert len(drawn[True]) == len(drawn[False]) + 2  # a dotted line and a square
