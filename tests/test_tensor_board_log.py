"""What TensorBoard gets, read back from the event files."""

import re

import matplotlib
import numpy as np
import pytest

import mtl_layers as mtl
from mtl_layers._keras import BACKEND, keras

matplotlib.use("Agg")
event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
tensor_util = pytest.importorskip("tensorboard.util.tensor_util")

TASKS = ("click", "buy")


def model_with(sharing):
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, mtl.Towers(dict.fromkeys(TASKS, ()))(sharing(inputs)))
    losses = mtl.losses.per_task(dict.fromkeys(TASKS, "binary_crossentropy"))
    model.compile(keras.optimizers.Adam(0.1), jit_compile=BACKEND == "jax", **losses)
    return model


def data(rows=16):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (2, rows, 1)).astype("float32")
    return rng.normal(size=(rows, 4)).astype("float32"), dict(zip(TASKS, labels, strict=True))


def events(directory):
    found = event_accumulator.EventAccumulator(str(directory), size_guidance={"tensors": 0})
    found.Reload()
    tags = found.Tags()["tensors"]
    kinds = {tag: found.SummaryMetadata(tag).plugin_data.plugin_name for tag in tags}
    values = {
        tag: {each.step: tensor_util.make_ndarray(each.tensor_proto) for each in found.Tensors(tag)} for tag in tags
    }
    return kinds, values


def picture(value):
    """The pixels of an image's event: width, height, and the encoded image."""
    import tensorflow as tf

    width, height, encoded = value.tolist()
    pixels = tf.io.decode_png(encoded).numpy()
    assert pixels.shape == (int(height), int(width), 4)
    return pixels


def test_gates_are_scalars_and_heat_maps_of_every_epoch(tmp_path):
    model, (x, y) = model_with(mtl.CGC(2, (2, 1), 1, (3,))), data()
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(mtl.analysis.gate_utilisation(model, x)[0].mean)

    model.fit(x, y, epochs=2, verbose=0, callbacks=[mtl.analysis.TensorBoardLog(tmp_path, x), Watch()])
    kinds, values = events(tmp_path)
    reads = {"click": (0, 1, 3), "buy": (2, 3)}
    scalars = {f"gates/level_0/{task}/expert_{expert}" for task in TASKS for expert in reads[task]}
    assert kinds == {**dict.fromkeys(scalars, "scalars"), "gates/level_0": "images"}
    for gate, task in enumerate(TASKS):
        for expert in reads[task]:
            written = values[f"gates/level_0/{task}/expert_{expert}"]
            assert [float(written[epoch]) for epoch in (0, 1)] == pytest.approx([s[gate, expert] for s in seen])
    first, second = (picture(values["gates/level_0"][epoch]) for epoch in (0, 1))
    assert np.abs(seen[1] - seen[0]).max() > 0.01 and (first != second).any()


def test_gates_below_the_last_level_are_numbered(tmp_path):
    model, (x, y) = model_with(mtl.PLE(2, 2, 1, 1, (3,))), data()
    model.fit(x, y, verbose=0, callbacks=[mtl.analysis.TensorBoardLog(tmp_path, x)])
    kinds, _ = events(tmp_path)
    gates = {tag.split("/")[2] for tag in kinds if tag.startswith("gates/level_0/")}
    assert gates == {"gate_0", "gate_1", "gate_2"}
    assert {tag.split("/")[2] for tag in kinds if tag.startswith("gates/level_1/")} == set(TASKS)


@pytest.mark.parametrize(
    ("sharing", "experts"), [(lambda: mtl.OMoE(2, 3, (3,)), (0, 1, 2)), (lambda: mtl.SharedBottom(2, (3,)), (0,))]
)
def test_a_gate_of_all_tasks_is_no_tasks_own(tmp_path, sharing, experts):
    model, (x, y) = model_with(sharing()), data()
    model.fit(x, y, verbose=0, callbacks=[mtl.analysis.TensorBoardLog(tmp_path, x)])
    kinds, values = events(tmp_path)
    assert set(kinds) == {"gates/level_0", *(f"gates/level_0/gate_0/expert_{expert}" for expert in experts)}
    assert sum(float(values[f"gates/level_0/gate_0/expert_{expert}"][0]) for expert in experts) == pytest.approx(1.0)


def test_a_route_is_a_picture_and_a_text(tmp_path):
    supernet = mtl.RouteSupernet(2, 1, 2, 3, name="routed")
    model, (x, y) = model_with(supernet), data()
    routes = [mtl.Route.shared_bottom(2, 1, 2), mtl.Route.no_sharing(2, 1, 2)]

    class Change(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            supernet.set_route(routes[epoch])

    model.fit(x, y, epochs=2, verbose=0, callbacks=[Change(), mtl.analysis.TensorBoardLog(tmp_path)])
    kinds, values = events(tmp_path)
    assert kinds == {"routes/routed": "images", "route_text/routed": "text"}
    for epoch, route in enumerate(routes):
        assert values["route_text/routed"][epoch].item().decode() == f"```\n{route}\n```"
    first, second = (picture(values["routes/routed"][epoch]) for epoch in (0, 1))
    assert (first != second).any()


def test_an_allocation_is_a_heat_map_of_its_probabilities(tmp_path):
    layer = mtl.GumbelMatrix(2, 2, (3,), name="allocated")
    model, (x, y) = model_with(layer), data()
    log = mtl.analysis.TensorBoardLog(tmp_path)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[log])
    kinds, values = events(tmp_path)
    assert kinds == {"allocations/allocated": "images"} and sorted(values["allocations/allocated"]) == [0, 1]
    blue = picture(values["allocations/allocated"][1])[..., :3].reshape(-1, 3)
    middle = np.round(255 * np.array(matplotlib.colormaps["Blues"](layer.probabilities()[0])[..., :3])).reshape(-1, 3)
    for colour in middle:  # each cell has the colour of its probability
        assert (np.abs(blue.astype(int) - colour).max(axis=1) <= 2).sum() > 1000


@pytest.mark.parametrize(
    ("sharing", "with_data", "text"),
    [
        (mtl.MMoE, False, "`model` must have a RouteSupernet or a GumbelMatrix, or gates and `data` to average them"),
        (mtl.SharedBottom, False, "or gates and `data` to average them over; received: none of them"),
        (mtl.SparseSharing, True, "`data` must be None for a model without gates; received: data for a model with Spa"),
    ],
)
def test_a_model_with_nothing_to_show_is_refused(tmp_path, sharing, with_data, text):
    layer = sharing(2, 2, (3,)) if sharing is mtl.MMoE else sharing(2, hidden_units=(3,))
    log = mtl.analysis.TensorBoardLog(tmp_path, data()[0] if with_data else None)
    with pytest.raises(ValueError, match=re.escape(text)):
        log.set_model(model_with(layer))
    assert not list(tmp_path.iterdir())


def test_data_that_are_used_up_after_one_epoch_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`data` must be iterable again and again, such as .*; received: <generator"):
        mtl.analysis.TensorBoardLog(tmp_path, (rows for rows in [data()[0]]))


def test_layers_within_a_nested_model_are_found(tmp_path):
    inputs = keras.Input((4,))
    nested = keras.Model(inputs, mtl.GumbelMatrix(2, 2, (3,), name="allocated")(inputs))
    model, (x, y) = model_with(nested), data()
    model.fit(x, y, verbose=0, callbacks=[mtl.analysis.TensorBoardLog(tmp_path)])
    assert events(tmp_path)[0] == {"allocations/allocated": "images"}
