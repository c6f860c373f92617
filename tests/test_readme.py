"""The README's Python runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest

import mtl_layers as mtl
import serving
from mtl_layers._keras import keras

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)

pytestmark = pytest.mark.needs_tensorflow


def test_the_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # A reader with tf_keras imports that; everything else is to stay as it is printed.
    names = {}
    exec(BLOCKS[0].replace("import keras\n", f"import {keras.__name__} as keras\n"), names)
    assert names["model"].count_params() > 0
    opening = BLOCKS[0].strip().splitlines()
    assert (
        len([line for line in opening if line and not line.startswith(("import", "rng", "rows", "click", "lab"))]) < 21
    )

    exec(BLOCKS[1], names)
    names["model"].compile("adam", loss=names["compile_arguments"]["loss"]["click"])

    exec(BLOCKS[2], names)
    assert str(names["supernet"].derive()).count("task") == 2
    assert set(names["frozen"].output) == {"click", "purchase"}

    exec(BLOCKS[3], names)
    candidates = names["supernet"].candidates(4)
    assert list(names["losses"]) == ["inherited", *candidates] and list(candidates)[:2] == ["derived", "full"]
    assert names["model"] is names["rankers"][min(names["losses"], key=names["losses"].get)]
    for name, route in candidates.items():
        (layer,) = [layer for layer in names["rankers"][name].layers if isinstance(layer, mtl.StaticRoute)]
        assert layer.route == route
    assert len(candidates) == 4
    assert int(names["supernet"].search_step.numpy()) == 20 + 2 * 16  # and none of those of `fit` moved a route
    assert names["search"].start_step is None and np.abs(names["supernet"].alpha.numpy()).max() > 0.1

    with serving.LocalServer(tmp_path / "build" / "ranker", "model") as server:
        exec(BLOCKS[4].replace("127.0.0.1:8500", f"127.0.0.1:{server.port}"), names)
    assert names["scores"]["click"].shape == (2, 1)
    assert list(names["scores"]) == ["click"]

    exec(BLOCKS[5], names)
    layer = names["Pairwise"](3, (4,))
    x = np.ones((2, 5), "float32")
    y = keras.ops.convert_to_numpy(layer(x)) if hasattr(keras, "ops") else layer(x).numpy()
    assert y.shape == (2, 3, 4)
    assert layer.count_params() == 3 * (5 * 4 + 4) + 3 * 5 * 2
    np.testing.assert_allclose(np.stack(layer.freeze()(x), axis=1), y, atol=1e-6)
    assert len(BLOCKS) == 6, "a new block needs a line here"
