"""All public layers: one row for each way of use that the contract test runs over.

A new layer needs a row here; `test_contract.py` fails for a public layer without one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from conftest import BACKEND

import mtl_layers as mtl
from mtl_layers._keras import keras

F = mtl.features
L2 = keras.regularizers.L2

# Every argument of a row is another than its default, so that a config that forgets one cannot pass.
COMMON = {"activation": "tanh", "dropout": 0.1, "kernel_initializer": "he_normal", "kernel_regularizer": L2(1e-3)}
EXPERTS = {**COMMON, "bias_initializer": keras.initializers.Constant(0.5), "bias_regularizer": L2(1e-2)}


@dataclass(frozen=True)
class Row:
    """`make(**kwargs)` gives a fresh layer; shapes are without the batch; `parameters` is the formula, by hand.

    `unmoved`: weights that one step of training leaves as they are, with the reason beside the row.
    """

    make: Callable
    input_shape: object
    output_shape: object
    parameters: int
    unmoved: tuple = ()
    needs_tensorflow: bool = False

    def batch(self, rows, seed=0):
        """Random input."""
        rng = np.random.default_rng(seed)
        if not isinstance(self.input_shape, dict):
            return rng.normal(size=(rows, *self.input_shape)).astype("float32")
        return {
            "country": rng.choice(["fr", "de", "elsewhere"], (rows, 1)),
            "item": rng.integers(0, 50, (rows, 1)),
            "age": rng.normal(40, 10, (rows, 1)).astype("float32"),
            "gain": rng.choice([0.0, 5.0, 20.0, np.nan], (rows, 1)).astype("float32"),
            "genres": rng.choice(["a", "b", "c", ""], (rows, 3)),
        }

    def inputs(self, layer):
        """`keras.Input`, one or a dict."""
        return layer.inputs() if isinstance(self.input_shape, dict) else keras.Input(self.input_shape)


def with_batch(batch, shape):
    """The same shape or dict of shapes with the batch in front."""
    if isinstance(shape, dict):
        return {name: (batch, *each) for name, each in shape.items()}
    return (batch, *shape)


FEATURES = {
    "country": F.Categorical(vocabulary=("fr", "de")),
    "item": F.Categorical(hash_buckets=7, dtype="int64", width=4),
    "age": F.Numeric(mean=40.0, variance=100.0),
    "gain": F.Bucketized(boundaries=(0.5, 10.0)),
    "genres": F.MultiValued(F.Categorical(vocabulary=("a", "b", "c"))),
}
# Neither the names nor the shapes are in alphabetical order: who sorts them somewhere is found out.
TASKS = {
    "watch_time": mtl.towers.Regression((4, 3)),
    "like_comment": (6,),
    "genre": mtl.towers.MultiClass(3, ()),
    "like": (6,),
}

ROWS = {
    "Experts": Row(
        lambda **kw: mtl.Experts(4, (6, 3), **EXPERTS, **kw),
        (5,),
        (4, 3),
        4 * ((5 + 1) * 6 + (6 + 1) * 3),
    ),
    "Experts with an input each, without bias": Row(
        lambda **kw: mtl.Experts(4, (6,), use_bias=False, **kw), (4, 5), (4, 6), 4 * 5 * 6
    ),
    "SoftmaxGate": Row(
        lambda **kw: mtl.SoftmaxGate(4, 3, kernel_initializer="he_normal", kernel_regularizer=L2(1e-3), **kw),
        (5,),
        (3, 4),
        5 * 3 * 4,
    ),
    "SoftmaxGate over some experts, with bias": Row(
        lambda **kw: mtl.SoftmaxGate(4, 3, reads=((0, 2), (1,), (3, 0, 1)), use_bias=True, **kw),
        (3, 5),
        (3, 4),
        (5 + 1) * (2 + 0 + 3),
    ),
    "TopKGate": Row(
        lambda **kw: mtl.TopKGate(
            3, 4, 2, use_bias=True, kernel_initializer="he_normal", kernel_regularizer=L2(1e-3), **kw
        ),
        (5,),
        (2, 4),
        (5 + 1) * 2 * 4,
    ),
    # The one weight that survives is 1 whatever its score: nothing to learn, except for a regularizer.
    "TopKGate with k=1": Row(
        lambda **kw: mtl.TopKGate(1, 4, 2, reads=((0, 1, 2, 3), (2, 1, 3)), **kw),
        (5,),
        (2, 4),
        5 * (4 + 3),
        unmoved=("kernel",),
    ),
    "SharedBottom": Row(
        lambda **kw: mtl.SharedBottom(3, (6, 4), **EXPERTS, **kw), (5,), (3, 4), (5 + 1) * 6 + (6 + 1) * 4
    ),
    "OMoE": Row(
        lambda **kw: mtl.OMoE(3, 4, (6,), gate=mtl.SoftmaxGate(use_bias=True), **EXPERTS, **kw),
        (5,),
        (3, 6),
        4 * (5 + 1) * 6 + (5 + 1) * 4,
    ),
    "MMoE": Row(
        lambda **kw: mtl.MMoE(3, 4, (6, 2), gate=mtl.TopKGate(k=2), **EXPERTS, **kw),
        (5,),
        (3, 2),
        4 * ((5 + 1) * 6 + (6 + 1) * 2) + 5 * 3 * 4,
    ),
    "MMoE with one task": Row(lambda **kw: mtl.MMoE(1, 4, (6,), use_bias=False, **kw), (5,), (1, 6), 4 * 5 * 6 + 5 * 4),
    "MultiLayerMMoE": Row(
        lambda **kw: mtl.MultiLayerMMoE(3, 2, (4, 2), ((6,), (7, 3)), **EXPERTS, **kw),
        (5,),
        (3, 3),
        4 * (5 + 1) * 6 + 5 * 2 * 4 + 2 * ((6 + 1) * 7 + (7 + 1) * 3) + 5 * 3 * 2,
    ),
    "CGC": Row(
        lambda **kw: mtl.CGC(3, (2, 0, 1), 1, (6,), **EXPERTS, **kw),
        (5,),
        (3, 6),
        (2 + 0 + 1 + 1) * (5 + 1) * 6 + 5 * (3 + 0 + 2),  # task 1 reads one expert: no gate
    ),
    "PLE": Row(
        lambda **kw: mtl.PLE(
            2, 3, ((3, 1), 2, 1), (2, 1, 1), ((6,), (7, 4), (3,)), gate=mtl.SoftmaxGate(use_bias=True), **EXPERTS, **kw
        ),
        (5,),
        (2, 3),
        (3 + 1 + 2) * (5 + 1) * 6
        + (5 + 1) * (5 + 3 + 6)
        + (2 + 2 + 1) * ((6 + 1) * 7 + (7 + 1) * 4)
        + (6 + 1) * (3 + 3 + 5)
        + (1 + 1 + 1) * (4 + 1) * 3
        + (4 + 1) * (2 + 2),
    ),
    "PLE without shared experts": Row(
        lambda **kw: mtl.PLE(3, 2, 1, 0, (6,), use_bias=False, **kw), (5,), (3, 6), 3 * 5 * 6 + 3 * 6 * 6
    ),
    # Values 0 and 2 of layer 1 and nothing of value 1 of layer 2: what is not reached has no weights.
    "StaticRoute": Row(
        lambda **kw: mtl.StaticRoute(
            mtl.Route(2, 2, 3, [((0, 2), 2), ((1,), 0), ((2,), 0), ((0,), 0), ((0, 2), 0)]), 6, **EXPERTS, **kw
        ),
        (5,),
        (2, 6),
        (5 + 1) * 6 + (2 + 2) * (6 + 1) * 6 + 6 * (2 + 2),
    ),
    "StaticRoute with mean pooling": Row(
        lambda **kw: mtl.StaticRoute(mtl.Route.mmoe(2, 1, 3), 6, "mean", **kw), (5,), (2, 6), (5 + 1) * 6 + 3 * 42
    ),
    # The subsets of 3 have 12 members in all: so many rows of gate kernel for each of 3 queries and 3 + 2 blocks.
    "RouteSupernet": Row(
        lambda **kw: mtl.RouteSupernet(2, 2, 3, 6, **COMMON, **kw),
        (5,),
        (2, 6),
        (5 + 1) * 6 + 2 * 3 * (6 + 1) * 6 + 5 * 3 * 12 * 6,
    ),
    "RouteSupernet with the root as query": Row(
        lambda **kw: mtl.RouteSupernet(2, 1, 3, 6, "root", **kw),
        (5,),
        (2, 6),
        (5 + 1) * 6 + 3 * (6 + 1) * 6 + 2 * 12 * 6,
    ),
    "RouteSupernet with mean pooling": Row(
        lambda **kw: mtl.RouteSupernet(2, 1, 3, 6, "root", "mean", **kw),
        (5,),
        (2, 6),
        (5 + 1) * 6 + 3 * (6 + 1) * 6,
    ),
    "Towers": Row(
        lambda **kw: mtl.Towers(TASKS, **COMMON, **kw),
        (4, 5),
        {"watch_time": (1,), "like_comment": (1,), "genre": (3,), "like": (1,)},
        ((5 + 1) * 4 + (4 + 1) * 3 + (3 + 1)) + 2 * ((5 + 1) * 6 + (6 + 1)) + (5 + 1) * 3,
    ),
    "FeatureEmbedding": Row(
        lambda **kw: mtl.FeatureEmbedding(
            FEATURES, width=3, embeddings_initializer="he_normal", embeddings_regularizer=L2(1e-3), **kw
        ),
        {"country": (1,), "item": (1,), "age": (1,), "gain": (1,), "genres": (3,)},
        (3 + 4 + 3 + 3 + 1,),
        3 * ((1 + 2) + (3 + 1) + (1 + 3)) + 4 * 7,  # out-of-vocabulary rows, and one for NaN
        needs_tensorflow=True,
    ),
}

NAMES = [name for name, row in ROWS.items() if BACKEND == "tensorflow" or not row.needs_tensorflow]
