"""The examples in docstrings run, on every Keras."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import mtl_layers as mtl
from mtl_layers._keras import keras, ops

MODULES = [mtl.__name__, *(module.name for module in pkgutil.walk_packages(mtl.__path__, "mtl_layers."))]
EXAMPLES = [
    test
    for name in MODULES
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    if test.examples
]


@pytest.fixture
def names():
    """What examples may use without saying where it comes from."""
    inputs = keras.Input((6,), name="x")
    towers = mtl.Towers({"click": (4,), "watch_time": mtl.towers.Regression((4,))})
    model = keras.Model(inputs, towers(mtl.MMoE(2, 4, (8,))(inputs)))
    return {"mtl": mtl, "keras": keras, "ops": ops, "np": np, "model": model, "rows": np.ones((5, 6), "float32")}


@pytest.mark.parametrize("test", EXAMPLES, ids=lambda test: test.name)
def test_example(test, names, request):
    if test.name.endswith(("FeatureEmbedding", "LazyAdam")):
        from conftest import BACKEND

        if BACKEND != "tensorflow":
            pytest.skip("it needs the TensorFlow backend")
    test.globs = dict(names)
    out = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=out.append)
    assert not out, "".join(out)


def test_every_public_name_has_an_example():
    with_example = {test.name.split(".")[-1] for test in EXAMPLES}
    public = set(mtl.__all__) | {f for f in mtl.features.__all__ if f[0].isupper()} | set(mtl.losses.__all__)
    modules = {"analysis", "balancing", "features", "losses", "optimizers", "towers"}
    assert public - modules - with_example == set()
