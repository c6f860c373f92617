"""The routes of a supernet as numbers, and where each route's gate parameters lie."""

from itertools import combinations

import numpy as np

from mtl_layers.sharing.route import Block, Route, num_blocks


class RouteSpace:
    """All routes of a block, numbered: route = subset * queries + query; subset 0 is the full one.

    `member` `[subsets, subnetworks]` is 1 where a subset has a sub-network. Of the gate parameters of one block and
    query, there is a row for every member of every subset, subset by subset: `row` `[subsets, subnetworks]` says which,
    and `row_sizes` of how many members the subset of each row is.
    """

    def __init__(self, num_tasks, num_layers, num_subnetworks, searches_queries, has_gates):
        self.shape = (num_tasks, num_layers, num_subnetworks)
        self.has_gates = has_gates
        self.num_blocks = num_blocks(*self.shape)
        self.num_queries = num_subnetworks if searches_queries and has_gates else 1
        everything = range(num_subnetworks)
        self.subsets = tuple(s for size in reversed(everything) for s in combinations(everything, size + 1))
        self.num_routes = len(self.subsets) * self.num_queries
        self.member = np.zeros((len(self.subsets), num_subnetworks), "float32")
        self.row = np.zeros((len(self.subsets), num_subnetworks), "int32")
        sizes = []
        for number, subset in enumerate(self.subsets):
            self.member[number, list(subset)] = 1.0
            self.row[number, list(subset)] = len(sizes) + np.arange(len(subset))
            sizes += [len(subset)] * len(subset)
        self.row_sizes = tuple(sizes)

    def route_of(self, numbers):
        """The `Route` with the given route number in each block."""
        blocks = []
        for number in map(int, numbers):
            if number not in range(self.num_routes):
                raise ValueError(f"`numbers` must be from 0 to {self.num_routes - 1}; received: {number}")
            subset, query = divmod(number, self.num_queries)
            blocks.append(Block(self.subsets[subset], None if self.num_queries == 1 else query))
        return Route(*self.shape, tuple(blocks))

    def numbers_of(self, route):
        """The route number of each block of a `Route`, as int32; query 0 where there is none to choose."""
        if not isinstance(route, Route):
            raise ValueError(f"`route` must be a mtl.Route; received: route={route!r}")
        theirs = (route.num_tasks, route.num_layers, route.num_subnetworks)
        if self.shape != theirs:
            raise ValueError(
                "`route` must have the shape (num_tasks, num_layers, num_subnetworks) of the supernet, "
                f"{self.shape}; received: {theirs}"
            )
        numbers = []
        for position, block in enumerate(route.blocks):
            query = block.query or 0
            if self.num_queries > 1 and block.query is None and len(block.values) > 1:
                raise ValueError(
                    '`route` must have the queries of a supernet with query="previous"; '
                    f"received: {route.name_of(position)} with query=None"
                )
            if self.num_queries == 1 and block.query is not None and self.has_gates:
                raise ValueError(
                    '`route` must have the queries of a supernet with query="root"; '
                    f"received: {route.name_of(position)} with query={block.query}"
                )
            subset = self.subsets.index(block.values)
            numbers.append(subset * self.num_queries + (query if self.num_queries > 1 else 0))
        return np.array(numbers, "int32")

    def num_values(self, numbers):
        """How many values the blocks that some task reaches select in all, for the route with these numbers."""
        reached = self.answers_for(numbers).any(axis=1)
        return int(self.member[np.asarray(numbers) // self.num_queries][reached].sum())

    def gate_rows(self, block, number):
        """The rows of all gate parameters that belong to one route of one block; none where it has one value."""
        subset, query = divmod(int(number), self.num_queries)
        if not self.has_gates or len(self.subsets[subset]) == 1:
            return []
        first = (block * self.num_queries + query) * len(self.row_sizes)
        return [first + self.row[subset, member] for member in self.subsets[subset]]

    def answers_for(self, numbers):
        """`[blocks, tasks]`, 1 where a task reaches the block: where not, its prediction does not depend on it."""
        route, found = self.route_of(numbers), np.zeros((self.num_blocks, self.shape[0]), "float32")
        for task in range(route.num_tasks):
            for layer, subnetworks in enumerate(route.reached([task])[1:]):
                found[[layer * route.num_subnetworks + own for own in subnetworks], task] = 1.0
            found[self.num_blocks - route.num_tasks + task, task] = 1.0
        return found
