"""What a freeze removed, in numbers."""

import math
from dataclasses import dataclass
from functools import cached_property

from mtl_layers._keras import keras
from mtl_layers._multiply_adds import multiply_adds


@dataclass(frozen=True)
class FrozenLayer:
    """A layer of a functional model and its frozen form; every pair of numbers is (before, after).

    `parameters` are those of the network: without masks, and without what only training or a search reads, such as the
    logits of routes. `multiply_adds` are those of the matrix products and convolutions that run for one row, counted
    when they are first asked for; `inventory` counts experts or sub-networks, gates whose weights depend on a query,
    towers.
    """

    source: keras.layers.Layer
    frozen: keras.layers.Layer
    source_reads: object  # the symbolic tensors that the source reads in its model

    @property
    def name(self):
        return self.source.name

    @property
    def kind(self):
        return type(self.source).__name__

    @property
    def parameters(self):
        return _parameters(self.source), _parameters(self.frozen)

    @cached_property
    def multiply_adds(self):
        return multiply_adds(self.source, self.source_reads), multiply_adds(self.frozen, self.frozen.input)

    @property
    def inventory(self):
        # By position: what a supernet calls sub-networks, its frozen form calls experts.
        before, after = (getattr(layer, "inventory", dict)() for layer in (self.source, self.frozen))
        return dict(zip(before, zip(before.values(), after.values(), strict=False), strict=False))


@dataclass(frozen=True)
class FreezeReport:
    """What `mtl.freeze` removed: the layers that it replaced, and the parameters of those below them, which stay.

    `parameters` and `multiply_adds` are the sums over `layers`, each a pair (before, after). Printed:

    ```
    layer           | parameters | multiply-adds a row |
    mmoe (MMoE)     | 272 -> 248 | 304 -> 248          | experts 4 -> 4, gates 2 -> 1
    towers (Towers) | 82 -> 41   | 72 -> 36            | towers 2 -> 1
    together        | 354 -> 289 | 376 -> 284          | 0 parameters below them stay
    ```

    Example:
        >>> report = mtl.freeze(model, tasks=["click"]).freeze_report
        >>> report.parameters, report.multiply_adds
        ((354, 289), (376, 284))
        >>> report.layers[1].inventory
        {'towers': (2, 1)}
    """

    layers: tuple[FrozenLayer, ...]
    parameters_below: int

    @property
    def parameters(self):
        return _sums(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self):
        return _sums(layer.multiply_adds for layer in self.layers)

    def __str__(self):
        rows = [("layer", "parameters", "multiply-adds a row", "")]
        for layer in self.layers:
            left = ", ".join(f"{part} {_arrow(pair)}" for part, pair in layer.inventory.items() if pair[0])
            rows.append((f"{layer.name} ({layer.kind})", _arrow(layer.parameters), _arrow(layer.multiply_adds), left))
        stay = f"{self.parameters_below:,} parameters below them stay"
        rows.append(("together", _arrow(self.parameters), _arrow(self.multiply_adds), stay))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


def _parameters(layer):
    # That a weight is not trained does not make it state: a network may be set not to train.
    state = getattr(layer, "state_weights", list)()
    return layer.count_params() - sum(math.prod(weight.shape) for weight in state)


def _arrow(pair):
    return f"{pair[0]:,} -> {pair[1]:,}"


def _sums(pairs):
    return tuple(map(sum, zip(*pairs, strict=True)))
