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
LAYERS = keras.layers
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
        if "country" not in self.input_shape:
            return {k: rng.random((rows, *shape)).astype("float32") for k, shape in self.input_shape.items()}
        return {
            "country": rng.choice(["fr", "de", "elsewhere"], (rows, 1)),
            "item": rng.integers(0, 50, (rows, 1)),
            "age": rng.normal(40, 10, (rows, 1)).astype("float32"),
            "gain": rng.choice([0.0, 5.0, 20.0, np.nan], (rows, 1)).astype("float32"),
            "genres": rng.choice(["a", "b", "c", ""], (rows, 3)),
        }

    def inputs(self, layer):
        """`keras.Input`, one or a dict."""
        if hasattr(layer, "inputs"):
            return layer.inputs()
        if isinstance(self.input_shape, dict):
            return {name: keras.Input(shape, name=name) for name, shape in self.input_shape.items()}
        return keras.Input(self.input_shape)


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
    "watch_time": mtl.towers.Regression((4, 3), "softplus"),
    "like_comment": mtl.towers.Binary((6,), prior=0.1),
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
    "DSelectKGate": Row(
        lambda **kw: mtl.DSelectKGate(
            3,
            5,
            2,
            gamma=2.0,
            entropy=0.1,
            use_bias=True,
            kernel_initializer="he_normal",
            kernel_regularizer=L2(1e-3),
            **kw,
        ),
        (5,),
        (2, 5),
        (5 + 1) * 2 * 3 * (3 + 1),  # three selectors, each with three bits and a share
    ),
    "DSelectKGate over some experts, static": Row(
        lambda **kw: mtl.DSelectKGate(1, 5, 3, reads=((4, 0), (1,), (3, 0, 1)), static=True, **kw),
        (3, 5),
        (3, 5),
        1 + 0 + 2,
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
    "CrossStitch": Row(
        lambda **kw: mtl.CrossStitch(3, (6, 4), 0.7, **EXPERTS, **kw),
        (5,),
        (3, 4),
        3 * ((5 + 1) * 6 + (6 + 1) * 4) + 2 * 3 * 3,
    ),
    "CrossStitch with an input each and fixed stitches": Row(
        lambda **kw: mtl.CrossStitch(3, (6,), learn_stitches=False, use_bias=False, **kw), (3, 5), (3, 6), 3 * 5 * 6
    ),
    "GumbelMatrix": Row(
        lambda **kw: mtl.GumbelMatrix(
            3,
            (4, 2),
            ((6,), (4,)),
            p_init=0.9,
            temperature=0.7,
            logit_speed=2.0,
            budget=0.5,
            budget_weight=0.3,
            entropy_weight=0.1,
            allow_empty=True,
            seed=5,
            **EXPERTS,
            **kw,
        ),
        (5,),
        (3, 4),
        4 * (5 + 1) * 6 + 2 * (6 + 1) * 4 + 3 * (4 + 2),
    ),
    "GumbelMatrix with an input each, without bias": Row(
        lambda **kw: mtl.GumbelMatrix(3, 2, (6,), use_bias=False, **kw), (3, 5), (3, 6), 2 * 5 * 6 + 3 * 2
    ),
    # Often active, since a layer that no task uses in the one step of the test does not move.
    "GumbelMatrix of any layers": Row(
        lambda **kw: mtl.GumbelMatrix(
            2,
            components=[
                [LAYERS.Dense(6), keras.Sequential([LAYERS.Dense(6)]), LAYERS.Dense(6, "tanh")],
                [LAYERS.Dense(4), LAYERS.Dense(4, use_bias=False)],
            ],
            after=[LAYERS.LayerNormalization(), None],
            p_init=0.97,
            temperature=keras.optimizers.schedules.PolynomialDecay(5.0, 10, 0.5),
            seed=1,
            **kw,
        ),
        (5,),
        (2, 4),
        3 * (5 + 1) * 6 + 2 * 6 + (6 + 1) * 4 + 6 * 4 + 2 * (3 + 2),
    ),
    "GumbelMatrix on images": Row(
        lambda **kw: mtl.GumbelMatrix(
            2,
            components=[
                LAYERS.Conv2D(3, 3, padding="same"),
                LAYERS.AveragePooling2D(3, 1, "same"),
                LAYERS.Activation("linear"),
                keras.Sequential([LAYERS.Conv2D(4, 1), LAYERS.Conv2D(3, (1, 5), padding="same")]),
            ],
            after=LAYERS.Flatten(),
            p_init=0.97,
            seed=1,
            **kw,
        ),
        (4, 5, 3),
        (2, 4 * 5 * 3),
        (9 * 3 + 1) * 3 + (3 + 1) * 4 + (5 * 4 + 1) * 3 + 2 * 4,
    ),
    "L2Constrained": Row(
        lambda **kw: mtl.L2Constrained(3, (6, 4), 0.05, **EXPERTS, **kw),
        (5,),
        (3, 4),
        3 * ((5 + 1) * 6 + (6 + 1) * 4),
    ),
    "L2Constrained with an input each": Row(
        lambda **kw: mtl.L2Constrained(3, (6,), use_bias=False, **kw), (3, 5), (3, 6), 3 * 5 * 6
    ),
    "SparseSharing": Row(
        lambda **kw: mtl.SparseSharing(3, (6, 6, 4), **EXPERTS, **kw),
        (5,),
        (3, 4),
        (5 + 1) * 6 + (6 + 1) * 6 + (6 + 1) * 4,
    ),
    "SparseSharing with an input each, without bias": Row(
        lambda **kw: mtl.SparseSharing(3, (6,), use_bias=False, **kw), (3, 5), (3, 6), 5 * 6
    ),
    "TensorFactorization": Row(
        lambda **kw: mtl.TensorFactorization(
            3,
            ((2, 3, 2), (4, 2, 1)),
            (6, 4),
            activation="tanh",
            dropout=0.1,
            bias_initializer=keras.initializers.Constant(0.5),
            factor_regularizer=L2(1e-3),
            bias_regularizer=L2(1e-2),
            **kw,
        ),
        (5,),
        (3, 4),
        (5 * 2 + 2 * 3 * 2 + 6 * 3 + 3 * 2 + 3 * 6) + (6 * 4 + 4 * 2 * 1 + 4 * 2 + 3 * 1 + 3 * 4),
    ),
    "TensorFactorization with an input each": Row(
        lambda **kw: mtl.TensorFactorization(3, (5, 2, 3), (6,), use_bias=False, **kw),
        (3, 5),
        (3, 6),
        5 * 5 + 5 * 2 * 3 + 6 * 2 + 3 * 3,
    ),
    "AdaTT": Row(
        lambda **kw: mtl.AdaTT(2, 3, ((3, 1), 2, 1), (2, 1, 1), ((6,), (7, 4), (3,)), **EXPERTS, **kw),
        (5,),
        (2, 3),
        (3 + 1 + 2) * ((5 + 1) * 6 + 5 * 3)
        + (3 + 0 + 2)  # native weights; a single native expert has none
        + (2 + 2 + 1) * ((6 + 1) * 7 + (7 + 1) * 4 + 6 * 3)
        + (2 + 2 + 0)
        + (1 + 1 + 1) * ((4 + 1) * 3 + 4 * 2),
    ),
    "AdaTT with an input each": Row(
        lambda **kw: mtl.AdaTT(3, 1, ((2, 0, 1),), 0, (6,), use_bias=False, **kw),
        (3, 5),
        (3, 6),
        3 * (5 * 6 + 5 * 3) + 2,
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
    "StaticRoute without an input layer": Row(
        lambda **kw: mtl.StaticRoute(mtl.Route.mmoe(2, 1, 3), 6, input_layer=False, **kw),
        (5,),
        (2, 6),
        3 * (5 + 1) * 6 + 2 * 3 * 5,
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
    "RouteSupernet without an input layer": Row(
        lambda **kw: mtl.RouteSupernet(2, 1, 3, 6, "root", input_layer=False, **kw),
        (5,),
        (2, 6),
        3 * (5 + 1) * 6 + 2 * 12 * 5,
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
    # A tower of a task outside of chains, a chain that begins in the middle, and one that goes on from another.
    "ESMM": Row(
        lambda **kw: mtl.ESMM(
            {"watch_time": mtl.towers.Regression((4, 3)), "cvr": (6,), "ctr": (6,), "refund": ()},
            {"ctcvr": ("ctr", "cvr"), "all": ("ctr", "cvr", "refund")},
            **COMMON,
            **kw,
        ),
        (4, 5),
        dict.fromkeys(("watch_time", "cvr", "ctr", "refund", "ctcvr", "all"), (1,)),
        ((5 + 1) * 4 + (4 + 1) * 3 + (3 + 1)) + 2 * ((5 + 1) * 6 + (6 + 1)) + (5 + 1),
    ),
    "AITM": Row(
        lambda **kw: mtl.AITM(
            {"buy": (6,), "genre": mtl.towers.MultiClass(3, (6,)), "click": (4, 3), "cart": ()},
            ("click", "buy", "cart"),
            calibrator=0.3,
            **COMMON,
            **kw,
        ),
        (4, 5),
        {"buy": (1,), "genre": (3,), "click": (1,), "cart": (1,)},
        ((5 + 1) * 6 + (6 + 1))
        + ((5 + 1) * 6 + (6 + 1) * 3)
        + ((5 + 1) * 4 + (4 + 1) * 3 + (3 + 1))
        + (5 + 1)
        + ((3 + 1) * 6 + 6 * 18)  # from click to buy
        + ((6 + 1) * 5 + 5 * 15),  # from buy to cart
    ),
    "AITM of all tasks": Row(
        lambda **kw: mtl.AITM({"click": (4,), "buy": (4,)}, **kw),
        (2, 5),
        {"click": (1,), "buy": (1,)},
        2 * ((5 + 1) * 4 + (4 + 1)) + (4 + 1) * 4 + 4 * 12,
    ),
    # With a function that can be trained, so that there is something for `fit`.
    "ScoreFusion": Row(
        lambda **kw: mtl.ScoreFusion(
            {"vtr": 0.3, "price": -0.2, "length": 1.5},
            functions={"length": LAYERS.Dense(1, "sigmoid"), "price": mtl.towers.log1p},
            epsilon=1e-3,
            **kw,
        ),
        {"length": (1,), "vtr": (1,), "price": (1,), "other": (1,)},
        (1,),
        2,
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
