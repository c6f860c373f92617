"""A route through layers of sub-networks: who reads what, as data."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Integral

from mtl_layers._checks import check_indexes, check_positive

FORMAT = 1


@dataclass(frozen=True)
class Block:
    """What stands before a sub-network or a tower: the outputs of the layer below that it mixes, and the gate's query.

    Args:
        values: Indexes of the sub-networks of the layer below, ascending, at least one.
        query: Index of the sub-network below whose output the gate reads; `None` for the root feature. A block with one
            value has no gate: whatever is given, its query is `None`.
    """

    values: tuple[int, ...]
    query: int | None = None

    def __post_init__(self):
        values = tuple(_index(value) for value in self.values)
        query = None if self.query is None else _index(self.query)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "query", query if len(values) > 1 else None)


@dataclass(frozen=True)
class Route:
    """A route through `num_layers` layers of `num_subnetworks` sub-networks each, up to `num_tasks` towers.

    Layer 1 reads the root feature. There is a `Block` before every sub-network of the layers 2 to L, layer by layer,
    and then one before every task's tower: `(num_layers - 1) * num_subnetworks + num_tasks` in all. A route is frozen,
    hashable and comparable; two are equal if all their blocks are, those that no task reaches included.

    Args:
        num_tasks: Number of tasks, at least 1.
        num_layers: Number of layers of sub-networks, at least 1.
        num_subnetworks: Sub-networks per layer, at least 1.
        blocks: The blocks, as `Block` or as pairs `(values, query)`.

    Raises:
        ValueError: If the number of blocks is wrong, a block has no values, has them twice or out of range, or its
            query is out of range.

    Example:
        >>> route = mtl.Route(2, 1, 3, [((0, 1), 0), ((2,), 2)])
        >>> print(route)
        task 0 <- 0 + 1 (query 0)
        task 1 <- 2
        >>> mtl.Route.from_json(route.to_json()) == route
        True

    Source: Chen et al., "Boosting Share Routing for Multi-task Learning", WWW 2021 Companion.
    """

    num_tasks: int
    num_layers: int
    num_subnetworks: int
    blocks: tuple[Block, ...]

    def __post_init__(self):
        for name in ("num_tasks", "num_layers", "num_subnetworks"):
            object.__setattr__(self, name, check_positive(name, getattr(self, name)))
        if not isinstance(self.blocks, Iterable):
            raise ValueError(f"`blocks` must be a sequence of Blocks; received: {self.blocks!r}")
        blocks = tuple(_block(block) for block in self.blocks)
        object.__setattr__(self, "blocks", blocks)
        wanted = num_blocks(self.num_tasks, self.num_layers, self.num_subnetworks)
        if len(blocks) != wanted:
            raise ValueError(
                f"`blocks` must have (num_layers - 1) * num_subnetworks + num_tasks = {wanted} entries; "
                f"received: {len(blocks)}"
            )
        for number, block in enumerate(blocks):
            if not block.values:
                raise ValueError(f"`blocks` must each have a value; received: {self.name_of(number)} reaches nothing")
            legal = range(self.num_subnetworks)
            ascending = all(a < b for a, b in zip(block.values, block.values[1:], strict=False))
            if not ascending or any(value not in legal for value in block.values):
                raise ValueError(
                    f"`blocks` must have ascending values below {self.num_subnetworks}; "
                    f"received: {self.name_of(number)} with values={block.values}"
                )
            if block.query is not None and block.query not in legal:
                raise ValueError(
                    f"`blocks` must have a query below {self.num_subnetworks}, or None for the root feature; "
                    f"received: {self.name_of(number)} with query={block.query}"
                )

    # ------------------------------------------------------------------------------------------- ready-made routes

    @classmethod
    def shared_bottom(cls, num_tasks, num_layers, num_subnetworks):
        """One sub-network per layer, for all tasks."""
        count = num_blocks(num_tasks, num_layers, num_subnetworks)
        return cls(num_tasks, num_layers, num_subnetworks, (Block((0,)),) * count)

    @classmethod
    def mmoe(cls, num_tasks, num_layers, num_subnetworks):
        """Everybody mixes all outputs of the layer below, by a gate that reads the root feature."""
        count = num_blocks(num_tasks, num_layers, num_subnetworks)
        everything = Block(tuple(range(num_subnetworks)), None)
        return cls(num_tasks, num_layers, num_subnetworks, (everything,) * count)

    @classmethod
    def no_sharing(cls, num_tasks, num_layers, num_subnetworks):
        """Task k goes straight up through the sub-networks k."""
        if num_subnetworks < num_tasks:
            raise ValueError(
                "`num_subnetworks` must be at least the number of tasks for a route without sharing; "
                f"received: num_subnetworks={num_subnetworks}, num_tasks={num_tasks}"
            )
        up = tuple(Block((own,)) for own in range(num_subnetworks))
        return cls(num_tasks, num_layers, num_subnetworks, up * (num_layers - 1) + up[:num_tasks])

    # --------------------------------------------------------------------------------------------------- what it says

    def layer_blocks(self, layer):
        """The blocks before layer `layer` (counting from 1; 1 has none), or before the towers at `num_layers + 1`."""
        start = (layer - 2) * self.num_subnetworks
        return self.blocks[start:] if layer > self.num_layers else self.blocks[start : start + self.num_subnetworks]

    def reached(self, tasks=None):
        """For each layer, from the first to the last, the sub-networks that the given tasks reach, ascending.

        A gate's query is reached too.
        """
        towers = self.layer_blocks(self.num_layers + 1)
        wanted = [towers[task] for task in check_indexes("tasks", tasks, self.num_tasks)]
        layers = []
        for layer in range(self.num_layers, 0, -1):
            found = {value for block in wanted for value in block.values}
            found |= {block.query for block in wanted if block.query is not None}
            layers.append(tuple(sorted(found)))
            if layer > 1:
                below = self.layer_blocks(layer)
                wanted = [below[subnetwork] for subnetwork in layers[-1]]
        return tuple(reversed(layers))

    def without_unused(self):
        """The route with the same choice, value 0, in all blocks that no task reaches: equal where networks are."""
        reached = [*self.reached()[1:], range(self.num_tasks)]
        blocks = [
            block if own in reached[layer] else Block((0,))
            for layer in range(self.num_layers)
            for own, block in enumerate(self.layer_blocks(layer + 2))
        ]
        return replace(self, blocks=tuple(blocks))

    def name_of(self, number):
        """What the block stands before: "layer 2, sub-network 0" or "task 1"."""
        before_towers = (self.num_layers - 1) * self.num_subnetworks
        if number >= before_towers:
            return f"task {number - before_towers}"
        return f"layer {number // self.num_subnetworks + 2}, sub-network {number % self.num_subnetworks}"

    def __str__(self):
        reached = self.reached()
        lines = []
        for number, block in enumerate(self.blocks):
            layer, own = divmod(number, self.num_subnetworks)
            text = f"{self.name_of(number)} <- {' + '.join(map(str, block.values))}"
            if len(block.values) > 1:
                text += f" (query {'root' if block.query is None else block.query})"
            if layer + 1 < self.num_layers and own not in reached[layer + 1]:
                text += " (unused)"
            lines.append(text)
        return "\n".join(lines)

    # --------------------------------------------------------------------------------------------------------- as JSON

    def to_json(self):
        """The route as JSON text, with the version of its format."""
        return json.dumps(
            {
                "format": FORMAT,
                "num_tasks": self.num_tasks,
                "num_layers": self.num_layers,
                "num_subnetworks": self.num_subnetworks,
                "blocks": [{"values": list(block.values), "query": block.query} for block in self.blocks],
            }
        )

    @classmethod
    def from_json(cls, text):
        """The route of `to_json`; what is wrong with another text is said."""
        try:
            config = json.loads(text, object_pairs_hook=_each_once)
        except (TypeError, ValueError, RecursionError) as error:  # a text that is no JSON, or bytes that are no text
            raise ValueError(f"a route must be JSON text; received: {text!r:.60}: {error}") from error
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        if type(found) is not int or found != FORMAT:  # to Python, true and 1.0 are 1, too
            raise ValueError(f"a route must have format {FORMAT}; received: format={found!r}")
        wanted = {"format", "num_tasks", "num_layers", "num_subnetworks", "blocks"}
        if set(config) != wanted:
            raise ValueError(f"a route must have exactly the keys {sorted(wanted)}; received: {sorted(config)}")
        blocks = config["blocks"]
        if not isinstance(blocks, list) or not all(
            isinstance(b, dict) and set(b) == {"values", "query"} for b in blocks
        ):
            raise ValueError(f'`blocks` must be a list of {{"values": [...], "query": ...}}; received: {blocks!r}')
        return cls(
            config["num_tasks"],
            config["num_layers"],
            config["num_subnetworks"],
            tuple((block["values"], block["query"]) for block in blocks),
        )


def _block(given):
    try:
        values, query = (given.values, given.query) if isinstance(given, Block) else given
        return Block(values, query)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`blocks` must be Blocks or pairs (values, query) of integers, the query an integer or None; "
            f"received: {given!r}"
        ) from error


def _each_once(pairs):
    """A dict of pairs that have different keys, which JSON leaves open."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"each key once; received: {[key for key, _ in pairs]}")
    return found


def _index(value):
    """A plain integer: those of NumPy are no JSON, and 0.5 or True are no index."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"a block must have integers as values and query; received: {value!r}")
    return int(value)


def num_blocks(num_tasks, num_layers, num_subnetworks):
    """Number of blocks of a route: one before every sub-network above the first layer, one before every tower."""
    return (num_layers - 1) * num_subnetworks + num_tasks
