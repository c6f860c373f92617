"""Freezing functional models: the same predictions, what each task needs and nothing else, shared parts, refusals."""

import itertools

import numpy as np
import pytest
from reference import array, randomise

import mtl_layers as mtl
from mtl_layers._keras import keras, ops
from mtl_layers.towers import MultiClass, Regression
from mtl_layers.towers.trace import refuse_changed_layer

# In an order that is not the alphabet's, and one name the prefix of another.
TASKS = {"like_comment": (3,), "like": MultiClass(3, (3,)), "also": Regression(())}
NAMES = tuple(TASKS)
DIM = 5

LAYERS = {
    "SharedBottom": lambda: mtl.SharedBottom(3, (4,)),
    "OMoE": lambda: mtl.OMoE(3, 2, (4,)),
    "MMoE": lambda: mtl.MMoE(3, 4, (4, 3), dropout=0.2),
    "MMoE top 2": lambda: mtl.MMoE(3, 4, (4,), gate=mtl.TopKGate(k=2, use_bias=True)),
    "MMoE DSelect-k": lambda: mtl.MMoE(3, 4, (4,), gate=mtl.DSelectKGate(k=2, use_bias=True)),
    "MMoE static DSelect-k": lambda: mtl.MMoE(3, 4, (4,), gate=mtl.DSelectKGate(k=2, static=True)),
    "PLE static DSelect-k": lambda: mtl.PLE(3, 2, 1, 1, (4,), gate=mtl.DSelectKGate(k=2, static=True)),
    "CGC": lambda: mtl.CGC(3, (2, 0, 1), 2, (4,)),
    "CGC alone": lambda: mtl.CGC(3, 1, 0, (4,)),
    "PLE": lambda: mtl.PLE(3, 2, ((2, 1, 1), (1, 2, 0)), (1, 2), ((4,), (3,))),
    "MultiLayerMMoE": lambda: mtl.MultiLayerMMoE(3, 2, (3, 2), (4,)),
    "CrossStitch": lambda: mtl.CrossStitch(3, (4, 3), dropout=0.2),
    "AdaTT": lambda: mtl.AdaTT(3, 2, ((2, 1, 0), 1), (1, 2), ((4,), (3,))),
    "TensorFactorization": lambda: mtl.TensorFactorization(3, ((3, 2, 2), (4, 3, 1)), (4, 3), dropout=0.2),
    "L2Constrained": lambda: mtl.L2Constrained(3, (4, 3), kernel_regularizer="l2"),
}


def functional(layer, tasks=TASKS):
    inputs = keras.Input((6,))
    body = keras.layers.Dense(DIM, name="below")(inputs)
    model = keras.Model(inputs, mtl.Towers(tasks, dropout=0.1)(layer(body)))
    randomise(model, np.random.default_rng(3))
    return model


def predict(model, x):
    return {name: ops.convert_to_numpy(value) for name, value in model(x).items()}


def agree(model, source, x, names):
    outputs, expected = predict(model, x), predict(source, x)
    assert list(outputs) == list(names)
    for name in names:
        np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-5, atol=1e-6)


def parameters(model):
    """Of the sharing layer and the towers; the Dense below is in every model."""
    return model.count_params() - (6 * DIM + DIM)


ORDERS = [(0,), (1,), (2,), (1, 0), (0, 2), (2, 1), (0, 1, 2), (2, 0, 1)]


@pytest.mark.parametrize("kind", LAYERS)
def test_a_frozen_model_predicts_as_its_source_for_any_tasks_in_any_order(rng, kind):
    model = functional(LAYERS[kind]())
    frozen = mtl.freeze(model)
    x = rng.normal(size=(3, 6)).astype("float32")
    agree(frozen, model, x, NAMES)
    for tasks in ORDERS:
        names = tuple(NAMES[task] for task in tasks)
        direct, again = mtl.freeze(model, names), mtl.freeze(frozen, names)
        agree(direct, model, x, names)
        agree(again, model, x[:1] if len(names) == 1 else x, names)
        assert parameters(direct) == parameters(again)


def with_layers_between(layer):
    inputs = keras.Input((6,))
    h = layer(keras.layers.Dense(DIM, name="below")(inputs))
    for between in (
        keras.layers.LayerNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(7, activation="tanh"),
        keras.layers.Activation("softmax"),
    ):
        h = between(h)
    model = keras.Model(inputs, mtl.Towers(TASKS)(h))
    randomise(model, np.random.default_rng(3))
    return model


@pytest.mark.parametrize("kind", ["MMoE", "PLE", "CrossStitch"])
def test_what_treats_all_tasks_alike_may_stand_between(rng, kind, tmp_path):
    model = with_layers_between(LAYERS[kind]())
    frozen = mtl.freeze(model)
    x = rng.normal(size=(3, 6)).astype("float32")
    agree(frozen, model, x, NAMES)
    for names in (["also"], ["like", "like_comment"]):
        direct, again = mtl.freeze(model, names), mtl.freeze(frozen, names)
        agree(direct, model, x, names)
        agree(again, model, x, names)
        assert {id(weight) for weight in again.weights} <= {id(weight) for weight in frozen.weights}
    below = 6 * DIM + DIM
    between = 2 * 3 + 4 * 3 + 3 * 7 + 7
    assert frozen.freeze_report.parameters_below == below + between
    frozen.save(tmp_path / "frozen.keras")
    agree(keras.models.load_model(tmp_path / "frozen.keras"), model, x, NAMES)


def test_outputs_may_be_some_of_the_towers(rng):
    inputs = keras.Input((6,))
    predictions = mtl.Towers(TASKS)(mtl.MMoE(3, 4, (4,))(inputs))
    model = keras.Model(inputs, {name: predictions[name] for name in ("also", "like")})
    x = rng.normal(size=(3, 6)).astype("float32")
    frozen = mtl.freeze(model)
    agree(frozen, model, x, ["like", "also"])  # in the order of the towers
    agree(mtl.freeze(frozen, ["also"]), model, x, ["also"])
    assert frozen.freeze_report.layers[1].inventory == {"towers": (3, 2)}
    with pytest.raises(
        ValueError, match=r"distinct names among \['like', 'also'\]; received: tasks=\['like_comment'\]"
    ):
        mtl.freeze(model, ["like_comment"])


def test_a_second_model_of_the_same_layers_is_frozen_by_what_it_reads(rng):
    sharing, towers, first, second = mtl.MMoE(3, 2, (4,)), mtl.Towers(TASKS), keras.Input((6,)), keras.Input((6,))
    between = keras.layers.LayerNormalization()
    keras.Model(first, towers(between(sharing(first))))
    model = keras.Model(second, towers(between(sharing(keras.layers.Rescaling(2.0)(second)))))
    x = rng.normal(size=(3, 6)).astype("float32")
    frozen = mtl.freeze(model)
    agree(frozen, model, x, NAMES)
    agree(mtl.freeze(model, ["also"]), model, x, ["also"])
    assert "mmoe" in str(frozen.freeze_report).lower()


def expert(dim, *units):
    return sum((a + 1) * b for a, b in itertools.pairwise((dim, *units)))


def towers(names, dim):
    each = {"like_comment": expert(dim, 3, 1), "like": expert(dim, 3, 3), "also": expert(dim, 1)}
    return sum(each[name] for name in names)


@pytest.mark.parametrize("names", [NAMES, ("like",), ("also", "like_comment")])
def test_mmoe_keeps_all_experts_and_the_gates_of_its_tasks(names):
    frozen = mtl.freeze(functional(LAYERS["MMoE"]()), names)
    assert parameters(frozen) == 4 * expert(DIM, 4, 3) + len(names) * DIM * 4 + towers(names, 3)


@pytest.mark.parametrize(
    ("names", "lower_experts", "lower_gates", "upper_experts", "upper_gates"),
    [
        # Level 1 has 2 + 1 + 1 task experts and 1 shared; level 2 has 1 + 2 + 0 and 2 shared, which read the shared
        # gate over all five below. A gate is as wide as the experts that it reads.
        (NAMES, 5, 3 + 2 + 2 + 5, 1 + 2 + 2, 3 + 4 + 2),
        (("like_comment",), 5, 3 + 5, 1 + 2, 3),
        (("like",), 5, 2 + 5, 2 + 2, 4),
        (("also",), 5, 2 + 5, 2, 2),
        (("also", "like"), 5, 2 + 2 + 5, 2 + 2, 4 + 2),
    ],
)
def test_ple_keeps_what_its_tasks_reach(names, lower_experts, lower_gates, upper_experts, upper_gates):
    frozen = mtl.freeze(functional(LAYERS["PLE"]()), names)
    mixture = lower_experts * expert(DIM, 4) + DIM * lower_gates + upper_experts * expert(4, 3) + 4 * upper_gates
    assert parameters(frozen) == mixture + towers(names, 3)


@pytest.mark.parametrize(
    ("layer", "names", "mixture"),
    [
        # Without shared experts above, nothing below but the task's own module is reached.
        (lambda: mtl.PLE(3, 2, 2, (1, 0), (4,)), ("like",), 3 * expert(DIM, 4) + DIM * 3 + 2 * expert(4, 4) + 4 * 2),
        (lambda: mtl.PLE(3, 2, 1, 0, (4,)), ("like",), expert(DIM, 4) + expert(4, 4)),
        # A gate over one expert has nothing to learn, and vanishes with all that only its query needed.
        (lambda: mtl.CGC(3, 1, 0, (4,)), NAMES, 3 * expert(DIM, 4)),
        (lambda: mtl.CGC(3, 1, 0, (4,)), ("also",), expert(DIM, 4)),
        (lambda: mtl.PLE(3, 2, (2, 0), 1, (4,)), ("also",), 7 * expert(DIM, 4) + DIM * 7 + expert(4, 4)),
        (lambda: mtl.CGC(3, (2, 0, 1), 2, (4,)), ("like",), 2 * expert(DIM, 4) + DIM * 2),
        (lambda: mtl.OMoE(3, 2, (4,)), ("also", "like"), 2 * expert(DIM, 4) + DIM * 2),
        (lambda: mtl.MultiLayerMMoE(3, 2, (3, 2), (4,)), ("like",), 5 * expert(4, 4) + 3 * 4 + DIM * (2 * 3 + 2)),
        (lambda: mtl.SharedBottom(3, (4,)), ("also",), expert(DIM, 4)),
    ],
)
def test_parameters_are_what_the_formula_needs(layer, names, mixture):
    assert parameters(mtl.freeze(functional(layer()), names)) == mixture + towers(names, 4)


def test_layers_below_are_the_models_own_and_the_frozen_parts_are_copies():
    model = functional(LAYERS["PLE"]())
    frozen = mtl.freeze(model)
    assert frozen.get_layer("below") is model.get_layer("below")
    shared = {id(weight) for weight in model.weights} & {id(weight) for weight in frozen.weights}
    assert shared == {id(weight) for weight in model.get_layer("below").weights}


@pytest.mark.parametrize("kind", LAYERS)
def test_freezing_a_frozen_model_shares_every_variable(kind):
    frozen = mtl.freeze(functional(LAYERS[kind]()))
    known = {id(variable) for variable in frozen.variables}
    for names in (None, ("also",), ("like", "like_comment")):
        again = mtl.freeze(frozen, names)
        assert {id(variable) for variable in again.variables} <= known
        assert len({id(w) for w in again.weights}) == len(again.weights)
        assert mtl.freeze(again, names).count_params() == again.count_params()


@pytest.mark.parametrize("kind", LAYERS)
def test_the_weights_of_a_frozen_model_have_different_names(kind):
    names = [getattr(weight, "path", weight.name) for weight in mtl.freeze(functional(LAYERS[kind]())).weights]
    assert len(set(names)) == len(names), sorted(names)


@pytest.mark.parametrize("kind", ["MMoE", "MMoE top 2", "PLE", "CGC alone", "TensorFactorization"])
@pytest.mark.parametrize("names", [None, ("like",), ("also", "like_comment")])
@pytest.mark.parametrize("times", [1, 2])
def test_a_frozen_model_is_saved_and_loaded_to_the_bit(rng, tmp_path, kind, names, times):
    frozen = functional(LAYERS[kind]())
    for _ in range(times):
        frozen = mtl.freeze(frozen, names)
    frozen.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    x = rng.normal(size=(4, 6)).astype("float32")
    before, after = predict(frozen, x), predict(loaded, x)
    assert list(before) == list(after) == list(names or NAMES)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    for old, new in zip(frozen.weights, loaded.weights, strict=True):  # in one order, which an optimizer goes by
        np.testing.assert_array_equal(array(new), array(old))
    last = list(after)[-1:]
    agree(mtl.freeze(loaded, last), frozen, x, last)


@pytest.mark.parametrize("kind", ["MMoE", "TensorFactorization"])
def test_a_layer_that_is_not_trained_stays_so(kind):
    model = functional(LAYERS[kind]())
    sharing = model.layers[2]
    sharing.trainable = False
    frozen = mtl.freeze(model)
    for found in (frozen, mtl.freeze(frozen, ["like"])):
        assert not found.layers[2].trainable_weights and found.layers[2].non_trainable_weights
        assert found.layers[-1].trainable_weights


@pytest.mark.parametrize("part", ["expert_levels", "gate_levels"])
def test_a_part_that_is_not_trained_stays_so(part):
    model = functional(LAYERS["MultiLayerMMoE"]())
    getattr(model.layers[2], part)[1].trainable = False
    frozen = mtl.freeze(model).layers[2]
    parts = frozen.experts if part == "expert_levels" else frozen.gates
    assert {each.trainable for each in parts} == {True, False}
    assert sum(not each.trainable for each in parts) == (1 if part == "expert_levels" else len(TASKS))


@pytest.mark.parametrize(
    ("layer", "towers"),
    [
        (lambda: mtl.TensorFactorization(1, (3, 3, 1), (4,)), lambda: mtl.Towers({"a": ()})),
        (lambda: mtl.MMoE(2, 2, (4,)), lambda: mtl.AITM({"a": (4,), "b": (4,)}, chain=["a", "b"])),
    ],
)
def test_a_source_can_be_trained_after_its_frozen_form_was(rng, layer, towers):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, towers()(layer()(inputs)))
    frozen = mtl.freeze(model)
    x = rng.normal(size=(8, 6)).astype("float32")
    expected = predict(model, x)
    labels = {name: (rng.random(8) < 0.5).astype("float32") for name in expected}
    for each in (frozen, model):  # on JAX `fit` gives away the arrays it trains
        each.compile("sgd", **mtl.losses.per_task(dict.fromkeys(labels, "binary_crossentropy")))
        each.fit(x, labels, verbose=0)
    found = predict(model, x)
    assert all((np.abs(found[name] - expected[name]) > 1e-6).any() for name in expected)


@pytest.mark.parametrize("kind", ["MMoE", "PLE"])
def test_a_frozen_model_can_be_trained_and_leaves_its_source_alone(rng, kind):
    model = functional(LAYERS[kind]())
    frozen = mtl.freeze(model, ("also", "like"))
    source = [array(weight) for weight in model.layers[2].weights]
    before = [array(weight) for weight in frozen.weights]
    losses = {"also": "mse", "like": "sparse_categorical_crossentropy"}
    frozen.compile(keras.optimizers.SGD(0.01), **mtl.losses.per_task(losses))
    labels = {"also": rng.normal(size=8), "like": rng.integers(0, 3, 8)}
    history = frozen.fit(rng.normal(size=(8, 6)).astype("float32"), labels, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert sum((array(new) != old).any() for new, old in zip(frozen.weights, before, strict=True)) > len(before) / 2
    for new, old in zip(model.layers[2].weights, source, strict=True):
        np.testing.assert_array_equal(array(new), old)


@pytest.mark.parametrize("layer", [lambda: mtl.PLE(1, 2, 2, 1, (4,)), lambda: mtl.SharedBottom(1, (4,))])
def test_a_model_of_one_task_freezes_too(rng, layer):
    model = functional(layer(), {"only": (3,)})
    x = rng.normal(size=(1, 6)).astype("float32")
    for frozen in (mtl.freeze(model), mtl.freeze(mtl.freeze(model), ["only"])):
        agree(frozen, model, x, ["only"])
        assert predict(frozen, x)["only"].shape == (1, 1)


# Refusals


def body(layer=None):
    inputs = keras.Input((6,))
    return inputs, (layer or mtl.MMoE(2, 2, (4,)))(inputs)


def after_towers():
    inputs, hidden = body()
    outputs = mtl.Towers({"b": (), "a": ()}, name="towers")(hidden)
    return keras.Model(inputs, {**outputs, "both": keras.layers.Multiply()([outputs["a"], outputs["b"]])})


def replaced():
    inputs, hidden = body()
    outputs = mtl.Towers({"b": (), "a": ()}, name="towers")(hidden)
    return keras.Model(inputs, {"b": outputs["b"], "a": keras.layers.Multiply()([outputs["a"], outputs["b"]])})


def swapped():
    inputs, hidden = body()
    outputs = mtl.Towers({"b": (), "a": ()}, name="towers")(hidden)
    return keras.Model(inputs, {"b": outputs["a"], "a": outputs["b"]})


def two_towers():
    inputs, hidden = body()
    return keras.Model(inputs, {**mtl.Towers({"b": (), "a": ()})(hidden), **mtl.Towers({"c": (), "d": ()})(hidden)})


def no_towers():
    inputs, hidden = body()
    return keras.Model(inputs, {"a": hidden})


def between():
    inputs, hidden = body()
    mixing = keras.layers.Reshape((2, 4), name="mixing")(hidden)
    return keras.Model(inputs, mtl.Towers({"b": (), "a": ()}, name="towers")(mixing))


def other_axis():
    inputs, hidden = body()
    mixing = keras.layers.LayerNormalization(axis=1, name="mixing")(hidden)
    return keras.Model(inputs, mtl.Towers({"b": (), "a": ()}, name="towers")(mixing))


def one_number_for_each_task():
    inputs, hidden = body()
    mixing = keras.layers.Rescaling([[1.0], [10.0]], name="mixing")(hidden)
    return keras.Model(inputs, mtl.Towers({"b": (), "a": ()}, name="towers")(mixing))


def own_function():
    inputs, hidden = body()
    mixing = keras.layers.Activation(lambda values: values[:, ::-1], name="mixing")(hidden)
    return keras.Model(inputs, mtl.Towers({"b": (), "a": ()}, name="towers")(mixing))


def unshared():
    inputs, hidden = body(keras.layers.Reshape((2, 3)))
    return keras.Model(inputs, mtl.Towers({"b": (), "a": ()}, name="towers")(hidden))


def listed():
    inputs, hidden = body()
    return keras.Model(inputs, list(mtl.Towers({"b": (), "a": ()})(hidden).values()))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.sharing, self.towers = mtl.MMoE(2, 2, (4,)), mtl.Towers({"b": (), "a": ()})

    def call(self, inputs):
        return self.towers(self.sharing(inputs))


@keras.saving.register_keras_serializable(package="tests")
class Halved(keras.Model):
    """A functional model that computes more than its graph."""

    def call(self, inputs, training=None):
        return {name: value / 2 for name, value in super().call(inputs, training=training).items()}


class Named(keras.Model):
    """One that adds nothing to what it computes."""


def own_call():
    inputs, hidden = body()
    return Halved(inputs, mtl.Towers({"b": (), "a": ()})(hidden), name="halved")


def test_a_class_of_ones_own_without_a_call_is_frozen(rng):
    inputs, hidden = body()
    model = Named(inputs, mtl.Towers({"b": (), "a": ()})(hidden))
    agree(mtl.freeze(model), model, rng.normal(size=(3, 6)).astype("float32"), ["b", "a"])


class Doubled(mtl.Towers):
    """Towers that compute more than those of the package."""

    def call(self, inputs, training=None):
        return {name: 2.0 * value for name, value in super().call(inputs, training=training).items()}


class Shifted(mtl.MMoE):
    """A sharing layer that does."""

    def call(self, inputs, training=None):
        return 1.0 + super().call(inputs, training=training)


class Frozen(Shifted):
    """And one that knows how it is frozen."""

    def freeze(self, tasks=None):
        return super().freeze(tasks)


def test_a_subclass_that_has_a_freeze_of_its_own_is_taken_at_its_word():
    assert refuse_changed_layer(Frozen(2, 3, (4,))) is None


def changed_towers():
    inputs, hidden = body()
    return keras.Model(inputs, Doubled({"b": (), "a": ()}, name="towers")(hidden))


def changed_sharing():
    inputs, hidden = body(Shifted(2, 3, (4,)))
    return keras.Model(inputs, mtl.Towers({"b": (), "a": ()})(hidden))


NAMED = r"`tasks` must be distinct names among \['like_comment', 'like', 'also'\]; received: tasks="


@pytest.mark.parametrize(
    ("make", "tasks", "message"),
    [
        (after_towers, None, r"outputs \['b', 'a', 'both'\] that are not exactly those of 'towers'. What comes after"),
        (
            replaced,
            None,
            "not exactly those of 'towers'. What comes after the towers would .* when it is called, `frozen",
        ),
        (
            swapped,
            None,
            r"outputs \['b', 'a'\] that are not exactly those of 'towers', which has other names for them: "
            r"\{'b': 'a', 'a': 'b'\}. Give mtl.Towers the names",
        ),
        (two_towers, None, "a functional model whose outputs are those of one .* a model with 2 Towers layers"),
        (no_towers, None, "received: a model with 0 Towers layers"),
        (
            between,
            None,
            "received: 'mixing', a Reshape, under 'towers'. Between the two may stand what treats all task",
        ),
        (
            one_number_for_each_task,
            None,
            "received: 'mixing', a Rescaling, under 'towers'. Between the two may stand .* without a number for each",
        ),
        (other_axis, None, "received: 'mixing', a LayerNormalization, under 'towers'. Between the two may stand"),
        (
            own_function,
            None,
            "received: 'mixing', a Activation, under 'towers'. .* Activation, BatchNormalization, Dense,",
        ),
        (unshared, None, "received: 'reshape.*', a Reshape, under 'towers'"),
        (
            own_call,
            None,
            "`model` must be computed by its layers alone, or what its class adds would vanish; "
            "received: 'halved', a Halved with a `call` of its own. Put what that does into a layer",
        ),
        (listed, None, "whose outputs are not a dict"),
        (Subclassed, None, "`model` must be a functional model .* whose outputs are not a dict"),
        (lambda: keras.Sequential([keras.layers.Dense(1)]), None, "outputs are not a dict. One that is .* Sequential"),
        (
            changed_towers,
            None,
            "received: 'towers', a Doubled with a `call` of its own and the `freeze` of Towers. Give it a `freeze`",
        ),
        (changed_sharing, None, "a Shifted with a `call` of its own and the `freeze` of Mixture. Give it a `freeze`"),
        (lambda: "model", None, "received: 'model', whose outputs are not a dict"),
        (lambda: functional(LAYERS["MMoE"]()), ["lik"], NAMED + r"\['lik'\]"),
        (lambda: functional(LAYERS["MMoE"]()), ["like", "like"], NAMED + r"\['like', 'like'\]"),
        (lambda: functional(LAYERS["MMoE"]()), [], NAMED + r"\[\]"),
        (lambda: functional(LAYERS["MMoE"]()), 3, NAMED + "3"),
        (
            lambda: functional(LAYERS["MMoE"]()),
            "like",
            r"`tasks` must be a list of names, such as \['like'\]",
        ),
    ],
)
def test_what_cannot_be_traced_is_refused_with_the_reason(make, tasks, message):
    with pytest.raises(ValueError, match=message):
        mtl.freeze(make(), tasks)


@keras.saving.register_keras_serializable(package="tests")
class NormedGate(mtl.SoftmaxGate):
    """Its `call` is its own: queries have length 1."""

    def call(self, inputs):
        return super().call(inputs / ops.norm(inputs, axis=-1, keepdims=True))


@keras.saving.register_keras_serializable(package="tests")
class TemperedGate(mtl.SoftmaxGate):
    """It has a weight of its own."""

    def build(self, input_shape):
        super().build(input_shape)
        self.temperature = self.add_weight(name="temperature", shape=(), initializer="ones")

    def normalize(self, scores, read):
        return super().normalize(scores / self.temperature, read)


@pytest.mark.parametrize("gate", [NormedGate, TemperedGate])
def test_gates_that_freezing_does_not_know_work_and_are_refused(gate, rng):
    layer = mtl.PLE(2, 2, 2, 1, (4,), gate=gate())
    x = rng.normal(size=(7, DIM)).astype("float32")
    plain = mtl.PLE(2, 2, 2, 1, (4,))
    plain.build((None, DIM))
    layer.build((None, DIM))
    for one in (plain, layer):
        for weight in one.weights:
            if len(weight.shape):
                weight.assign(np.linspace(-1.0, 1.0, int(np.prod(weight.shape))).reshape(tuple(weight.shape)))
    ours, theirs = (ops.convert_to_numpy(one(x)) for one in (layer, plain))
    same = np.allclose(ours, theirs, atol=1e-6)
    assert same == (gate is TemperedGate)  # at temperature 1 it is the softmax
    with pytest.raises(ValueError) as caught:
        layer.freeze()
    assert str(caught.value) == (
        "a gate must have no `call` and no weights of its own, only a `normalize`, to be frozen; "
        f"received: gate={gate.__name__}"
    )
