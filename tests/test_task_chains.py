"""ESMM and AITM: their numbers against NumPy, what freezing leaves of a chain, labels of the entire space, export."""

import itertools
import json

import numpy as np
import pytest
import reference
from conftest import BACKEND
from gradients import gradient_by_input
from reference import array, sigmoid, softmax

import mtl_layers as mtl
from mtl_layers._keras import keras, ops
from mtl_layers.towers import MultiClass, Regression

NAN = float("nan")
DIM = 5
# Neither names nor the order of events are in alphabetical order, and some tasks are outside of the chains.
ESMM_TASKS = {"watch": Regression((4, 3)), "cvr": (6,), "ctr": (6,), "refund": ()}
CHAINS = {"ctcvr": ("ctr", "cvr"), "all": ("ctr", "cvr", "refund")}
AITM_TASKS = {"buy": (6,), "genre": MultiClass(3, (6,)), "click": (4, 3), "cart": (), "like": (6,)}
CHAIN = ("click", "cart", "buy")


def esmm(**kwargs):
    return mtl.ESMM(ESMM_TASKS, CHAINS, **kwargs)


def aitm(**kwargs):
    return mtl.AITM(AITM_TASKS, CHAIN, **kwargs)


def functional(towers):
    inputs = keras.Input((6,))
    body = keras.layers.Dense(DIM, name="below")(inputs)
    model = keras.Model(inputs, towers(mtl.CGC(len(towers.tasks), 1, 1, (4,))(body)))
    reference.randomise(model, np.random.default_rng(3))
    return model


@pytest.fixture(scope="module")
def models():
    return {"esmm": functional(esmm()), "aitm": functional(aitm())}


def numbers(outputs):
    return {name: ops.convert_to_numpy(value) for name, value in outputs.items()}


# Numbers


def test_esmm_gives_the_towers_and_their_products_in_order(rng):
    layer, plain = esmm(), mtl.Towers(ESMM_TASKS)
    h = rng.normal(size=(7, 4, DIM)).astype("float32")
    for each in (layer, plain):
        each.build(h.shape)
    reference.randomise(layer, rng)
    plain.set_weights(layer.get_weights())
    found, expected = numbers(layer(h)), numbers(plain(h))
    assert list(found) == ["watch", "cvr", "ctr", "refund", "ctcvr", "all"]
    for name in ESMM_TASKS:
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_allclose(found["ctcvr"], expected["ctr"] * expected["cvr"], rtol=1e-6)
    np.testing.assert_allclose(found["all"], expected["ctr"] * expected["cvr"] * expected["refund"], rtol=1e-6)


def transferred(transfer, before, own):
    """The formula of the docstring, row by row."""
    kernel, bias, attention = array(transfer.kernel), array(transfer.bias), array(transfer.attention)
    width = len(bias)
    query, key, value = attention[:, :width], attention[:, width : 2 * width], attention[:, 2 * width :]
    rows = []
    for passed, found in zip(np.maximum(before @ kernel + bias, 0.0), own, strict=True):
        scores = [(u @ query) @ (u @ key) / np.sqrt(width) for u in (passed, found)]
        weights = softmax(np.array(scores))
        rows.append(weights[0] * (passed @ value) + weights[1] * (found @ value))
    return np.stack(rows)


def test_aitm_is_its_formula(rng):
    layer = aitm(calibrator=0.3)
    h = rng.normal(size=(9, 5, DIM)).astype("float32")
    layer.build(h.shape)
    reference.randomise(layer, rng)
    found = numbers(layer(h))
    parts = mtl.Towers.freeze(layer)  # plain towers of the same weights, one by one
    values, bodies = [], iter(parts.hidden)
    for task, (_, kind) in enumerate(layer.tasks):
        values.append(h[:, task].astype("float64"))
        if kind.hidden_units:
            body = next(bodies)
            for kernel, bias in zip(body.kernels, body.biases, strict=True):
                values[task] = np.maximum(values[task] @ array(kernel)[0] + array(bias)[0], 0.0)
    names = list(AITM_TASKS)
    for (before, task), transfer in zip(itertools.pairwise(CHAIN), layer.transfers, strict=True):
        before, task = names.index(before), names.index(task)
        values[task] = transferred(transfer, values[before], values[task])
    for task, name in enumerate(names):
        score = values[task] @ array(parts.heads[task].kernels[0])[0] + array(parts.heads[task].biases[0])[0]
        expected = softmax(score) if name == "genre" else sigmoid(score)
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-5)
    violations = [np.maximum(found[after] - found[before], 0).mean() for before, after in itertools.pairwise(CHAIN)]
    assert min(violations) > 0.01
    np.testing.assert_allclose(sum(float(loss) for loss in layer.losses), 0.3 * sum(violations), rtol=1e-5)
    assert aitm(calibrator=0.0)(h) and not aitm(calibrator=0.0).losses


def test_a_replica_without_rows_has_a_calibrator_of_0():
    layer = aitm(calibrator=0.3)
    layer(np.zeros((0, 5, DIM), "float32"))
    assert [float(loss) for loss in layer.losses] == [0.0] * (len(CHAIN) - 1)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has no float64 unless it is told")
def test_a_chain_trains_where_keras_is_told_to_compute_in_float64(in_float64, rng):
    inputs = keras.Input((2, DIM))
    model = keras.Model(inputs, mtl.AITM({"a": (4,), "b": ()}, ["a", "b"])(inputs))
    model.compile("sgd", dict.fromkeys("ab", "binary_crossentropy"))
    y = rng.integers(0, 2, (8, 1))
    history = model.fit(rng.normal(size=(8, 2, DIM)), {"a": y, "b": y}, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_a_chain_of_one_task_or_none_is_towers(rng):
    h = rng.normal(size=(3, 2, DIM)).astype("float32")
    plain = mtl.Towers({"a": (4,), "b": (4,)})
    expected = numbers(plain(h))
    for chain in (("b",), ()):
        layer = mtl.AITM({"a": (4,), "b": (4,)}, chain)
        layer.build(h.shape)
        layer.set_weights(plain.get_weights())
        for name, value in numbers(layer(h)).items():
            np.testing.assert_array_equal(value, expected[name])
        assert not layer.losses


@pytest.mark.parametrize(
    ("policy", "scale"),
    # Of float16 the products of queries and keys are too large here, and they themselves are not.
    [("float32", 1e3), ("float32", -1e3), ("mixed_float16", 1e2), ("mixed_float16", -1e2)],
)
@pytest.mark.parametrize("kind", ["esmm", "aitm"])
def test_probabilities_and_gradients_are_finite_however_large_the_scores(kind, policy, scale, rng):
    layer = {"esmm": esmm, "aitm": aitm}[kind](dtype=policy)
    h = (scale * (1.0 + rng.random((4, len(layer.tasks), DIM)))).astype("float32")
    layer.build(h.shape)
    reference.randomise(layer, rng)
    names = [*CHAINS, "ctr"] if kind == "esmm" else CHAIN
    labels = np.array([[0.0], [1.0], [0.0], [1.0]], "float32")
    for name, p in numbers(layer(h)).items():
        assert np.isfinite(p).all(), name
        assert name not in names or (p.min() >= 0 and p.max() <= 1)

    def loss(x):
        p = layer(x)
        return sum(ops.mean(keras.losses.binary_crossentropy(labels, p[name])) for name in names)

    assert np.isfinite(gradient_by_input(loss, h)).all()


def test_a_positive_row_has_no_gradient_where_keras_clips_the_product(rng):
    layer = mtl.ESMM({"a": (), "b": ()}, {"both": ("a", "b")}, kernel_initializer="ones")
    below, above = (np.full((1, 2, 1), value, "float32") for value in (-9.0, -6.0))  # e^-18 < 1e-7 < e^-12
    layer.build(below.shape)

    def loss(h):
        return ops.sum(keras.losses.binary_crossentropy(np.ones((1, 1), "float32"), layer(h)["both"]))

    np.testing.assert_array_equal(gradient_by_input(loss, below), np.zeros((1, 2, 1)))
    np.testing.assert_allclose(gradient_by_input(loss, above), np.full((1, 2, 1), sigmoid(-6.0) - 1.0), rtol=0.02)


# Freezing


def expert(*widths):
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


SIZES = {
    "watch": expert(4, 4, 3, 1),
    "cvr": expert(4, 6, 1),
    "ctr": expert(4, 6, 1),
    "refund": expert(4, 1),
    "buy": expert(4, 6, 1),
    "genre": expert(4, 6, 3),
    "click": expert(4, 4, 3, 1),
    "click's body": expert(4, 4, 3),
    "cart": expert(4, 1),
    "cart's body": 0,
    "like": expert(4, 6, 1),
    "click to cart": (3 + 1) * 4 + 4 * 12,
    "cart to buy": (4 + 1) * 6 + 6 * 18,
}

CASES = [
    ("esmm", None, 4, ["watch", "cvr", "ctr", "refund"]),
    ("esmm", ["cvr", "watch"], 2, ["cvr", "watch"]),
    ("esmm", ["ctcvr", "ctr"], 2, ["ctr", "cvr"]),
    ("esmm", ["all"], 3, ["ctr", "cvr", "refund"]),
    ("aitm", None, 5, [*AITM_TASKS, "click to cart", "cart to buy"]),
    ("aitm", ["genre", "click"], 2, ["genre", "click"]),
    ("aitm", ["cart"], 2, ["click's body", "cart", "click to cart"]),
    ("aitm", ["buy", "click"], 3, ["buy", "click", "cart's body", "click to cart", "cart to buy"]),
]


@pytest.mark.parametrize(("kind", "names", "inputs", "kept"), CASES)
def test_a_frozen_chain_keeps_what_its_tasks_need_and_nothing_else(models, rng, kind, names, inputs, kept):
    model = models[kind]
    x = rng.normal(size=(3, 6)).astype("float32")
    expected = numbers(model(x))
    frozen = mtl.freeze(model, names)
    again = mtl.freeze(mtl.freeze(model), names)
    for each in (frozen, again):
        found = numbers(each(x))
        assert list(found) == list(names or expected)
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)
        # Below: the dense layer, an expert for each task that is read and a shared one, a gate over both for each.
        body = expert(6, DIM) + (inputs + 1) * expert(DIM, 4) + inputs * DIM * 2
        assert each.count_params() - body == sum(SIZES[part] for part in kept)
    assert frozen.freeze_report.layers[1].inventory["towers"] == (len(model.layers[-1].tasks), inputs)


@pytest.mark.parametrize(("kind", "names"), [("esmm", ["ctcvr", "watch"]), ("aitm", ["buy", "like"])])
def test_views_share_all_variables_and_are_saved_and_loaded_to_the_bit(models, rng, tmp_path, kind, names):
    frozen = mtl.freeze(models[kind])
    view = mtl.freeze(frozen, names)
    assert {id(variable) for variable in view.variables} <= {id(variable) for variable in frozen.variables}
    view.save(tmp_path / "view.keras")
    loaded = keras.models.load_model(tmp_path / "view.keras")
    x = rng.normal(size=(4, 6)).astype("float32")
    before, after = numbers(view(x)), numbers(loaded(x))
    assert list(after) == names
    for name in names:
        np.testing.assert_array_equal(before[name], after[name])
    last = numbers(mtl.freeze(loaded, names[:1])(x))
    np.testing.assert_allclose(last[names[0]], before[names[0]], rtol=1e-5, atol=1e-6)


# Training


def test_a_frozen_chain_keeps_its_calibrator_between_those_who_are_left(models, rng):
    frozen = mtl.freeze(models["aitm"], ["buy", "click"])
    p = numbers(frozen(rng.normal(size=(8, 6)).astype("float32")))
    penalty = 0.6 * np.maximum(p["buy"] - p["click"], 0).mean()  # a buyer has clicked, whatever lies between
    assert penalty > 0.001
    np.testing.assert_allclose(sum(float(loss) for loss in frozen.losses), penalty, rtol=1e-5)


def shop(rows):
    """Clicks come from both ends, purchases from one of them: no straight line tells who clicks."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 1)).astype("float32")
    click = rng.random((rows, 1)) < np.where(np.abs(x) > 1, 0.6, 0.05)
    bought = click & (rng.random((rows, 1)) < np.where(x > 1.5, 0.3, 0.02))
    return x, click.astype("float32"), bought.astype("float32")


def test_the_entire_space_corrects_what_a_model_of_clicked_rows_gets_wrong():
    x, click, bought = shop(4000)
    labels = {"ctr": click, "cvr": np.where(click == 1, bought, NAN).astype("float32"), "ctcvr": bought}
    assert mtl.losses.check_labels(labels, labels, missing_value=NAN) == {
        "ctr": 4000, "cvr": click.sum(), "ctcvr": 4000
    }  # fmt: skip

    def train(towers, losses):
        inputs = keras.Input((1,))
        model = keras.Model(inputs, towers(keras.layers.RepeatVector(2)(inputs)))
        arguments = mtl.losses.per_task(losses, metrics={"cvr": ["mean_absolute_error"]}, missing_value=NAN)
        model.compile(keras.optimizers.Adam(0.2), **arguments)
        own = {name: labels[name] for name in losses}
        log = model.fit(x, own, batch_size=len(x), epochs=60, verbose=0).history
        p = numbers(model(x))
        errors = next(values for name, values in log.items() if name.endswith("mean_absolute_error"))
        clicked = np.abs(p["cvr"] - bought)[click == 1].mean()
        np.testing.assert_allclose(errors[-1], clicked, rtol=0.1)  # the log is of the step before
        return p

    loss = "binary_crossentropy"
    clicked_only = train(mtl.Towers({"ctr": (), "cvr": ()}), {"ctr": loss, "cvr": loss})
    towers = mtl.ESMM({"ctr": (), "cvr": ()}, {"ctcvr": ("ctr", "cvr")})
    chain = train(towers, {"ctr": loss, "cvr": None, "ctcvr": loss})

    biased, rate = clicked_only["ctr"] * clicked_only["cvr"], bought.mean()
    assert biased.mean() < 0.75 * rate
    assert abs(chain["ctcvr"].mean() - rate) < 0.15 * rate

    def log_loss(p):
        return -np.mean(np.where(bought == 1, np.log(p), np.log1p(-p)))

    assert log_loss(chain["ctcvr"]) < 0.98 * log_loss(biased)


# Export


@pytest.mark.needs_tensorflow
@pytest.mark.parametrize(("kind", "names"), [("esmm", ["all", "cvr", "ctcvr"]), ("aitm", ["buy", "click"])])
def test_every_probability_has_a_signature_of_its_own(models, rng, tmp_path, kind, names):
    from cpp_loader import CppModel

    import serving

    model = models[kind]
    x = rng.normal(size=(5, 6)).astype("float32")
    expected = numbers(model(x))
    path = serving.export(model, tmp_path, names, verbose=False)
    with CppModel(path) as cpp:
        feature = next(iter(cpp.signatures["serving_default"][0]))
        assert set(cpp.signatures) == {"serving_default", "examples", *names}
        for signature in ("serving_default", *names):
            found = cpp.run(signature, {feature: x})
            assert set(found) == (set(names) if signature == "serving_default" else {signature})
            for name, value in found.items():
                np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)
    signatures = json.loads((path / "manifest.json").read_text())["signatures"]
    assert signatures["serving_default"]["outputs"] == names
    if kind == "esmm":
        gates = 2 * (DIM * 2 + 3 * 4)  # each reads its task's own expert and the shared one: in its mixture stands a 0
        below = 6 * DIM + 3 * DIM * 4 + gates
        assert signatures["ctcvr"]["multiply_adds"] == below + 2 * (4 * 6 + 6)
