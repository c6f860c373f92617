"""What holds for every public layer, whatever it computes; the layers are the rows of `layer_table.py`."""

import inspect
import json
import re

import numpy as np
import pytest
import reference
from conftest import BACKEND, LEGACY
from layer_table import NAMES, ROWS, with_batch

import mtl_layers as mtl
from mtl_layers._keras import keras, ops
from mtl_layers.gates import Gate

EAGER = 5  # one batch size for all eager calls: JAX compiles each operation for each new shape
FILES = ["model.keras", "model.h5"] if LEGACY else ["model.keras"]  # Keras 3 finds no class of others in HDF5
HOLD_LAYERS_OF_KERAS = ("GumbelMatrix of any layers", "GumbelMatrix on images", "ScoreFusion")
every_row = pytest.mark.parametrize("name", NAMES)


def as_dict(outputs):
    """One tensor or a dict of tensors, as a dict of arrays."""
    outputs = outputs if isinstance(outputs, dict) else {"": outputs}
    return {name: ops.convert_to_numpy(tensor) for name, tensor in outputs.items()}


def map_shapes(outputs):
    return {k: tuple(v.shape) for k, v in outputs.items()} if isinstance(outputs, dict) else tuple(outputs.shape)


def dtype_name(tensor):
    return getattr(tensor.dtype, "name", str(tensor.dtype))


def functional(name, **kwargs):
    """A functional model of nothing but the layer."""
    row = ROWS[name]
    layer = row.make(**kwargs)
    inputs = row.inputs(layer)
    return keras.Model(inputs, layer(inputs)), layer


def tensors(batch):
    """A batch that `fit` and `predict` take: strings must come as tensors."""
    if not isinstance(batch, dict):
        return batch
    import tensorflow as tf

    return {name: tf.constant(values) for name, values in batch.items()}


def parameters(weights):
    return sum(int(np.prod(weight.shape)) for weight in weights)


@pytest.fixture(scope="module", params=NAMES)
def trained(request):
    """A model after one step of `fit`: the row, the model, its layer, and the weights before the step."""
    keras.utils.set_random_seed(0)
    row = ROWS[request.param]
    model, layer = functional(request.param)
    before = [reference.array(weight) for weight in layer.trainable_weights]
    x = tensors(row.batch(64))
    rng = np.random.default_rng(1)
    shapes = with_batch(64, row.output_shape)
    if isinstance(shapes, dict):
        y = {task: rng.normal(size=shape).astype("float32") for task, shape in shapes.items()}
        loss = dict.fromkeys(shapes, "mse")
    else:
        y, loss = rng.normal(size=shapes).astype("float32"), "mse"
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=BACKEND == "jax")
    history = model.fit(x, y, batch_size=64, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    return row, model, layer, before


def test_every_public_layer_has_a_row():
    public = {
        name
        for name in mtl.__all__
        if inspect.isclass(getattr(mtl, name)) and issubclass(getattr(mtl, name), keras.layers.Layer)
    }
    assert public == {type(row.make()).__name__ for name, row in ROWS.items() if name in NAMES} | {"FeatureEmbedding"}
    assert "FeatureEmbedding" in ROWS


@pytest.mark.skipif(BACKEND == "tensorflow", reason="of other backends")
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.needs_tensorflow])
def test_a_layer_that_needs_tensorflow_says_so(name):
    with pytest.raises(ValueError, match=f"{name} must run on the TensorFlow backend; received: backend='{BACKEND}'"):
        ROWS[name].make()


@every_row
def test_config_survives_json_and_makes_an_equal_layer(name):
    layer = ROWS[name].make(name="mine")
    config = json.loads(json.dumps(layer.get_config()))
    again = type(layer).from_config(config)
    assert json.loads(json.dumps(again.get_config())) == config
    assert config["name"] == "mine"
    again.build(with_batch(None, ROWS[name].input_shape))
    assert parameters(again.trainable_weights) == ROWS[name].parameters


@every_row
def test_arguments_are_attributes_and_stand_in_the_config_in_their_order(name):
    layer = ROWS[name].make()
    config = list(layer.get_config())
    for kind in type(layer).__mro__:
        if not kind.__module__.startswith("mtl_layers") or "__init__" not in vars(kind):
            continue
        own = [
            argument.name
            for argument in inspect.signature(kind.__init__).parameters.values()
            if argument.name not in ("self", *getattr(layer, "derived", ()))
            and argument.kind is not argument.VAR_KEYWORD
        ]
        missing = [argument for argument in own if not hasattr(layer, argument)]
        assert missing == [], f"{kind.__name__} has arguments that are no attributes"
        assert [key for key in config if key in own] == own


@every_row
def test_a_shape_alone_builds_all_weights(name):
    row = ROWS[name]
    layer = row.make()
    layer.build(with_batch(None, row.input_shape))
    assert layer.built
    built = [id(weight) for weight in layer.weights]
    assert parameters(layer.trainable_weights) == row.parameters
    layer(row.batch(EAGER))
    assert [id(weight) for weight in layer.weights] == built  # the call adds none


@every_row
def test_made_not_trainable_nothing_in_it_is(name):
    """So a layer that was frozen by Keras' flag does not train on when its model is loaded or cloned."""
    model, layer = functional(name, trainable=False)
    assert model.trainable_weights == [] and len(layer.weights) > 0


@every_row
def test_symbolic_eager_and_computed_shapes_agree(name):
    row = ROWS[name]
    model, layer = functional(name)
    assert map_shapes(model.output) == with_batch(None, row.output_shape)
    assert map_shapes(layer(row.batch(EAGER))) == with_batch(EAGER, row.output_shape)
    computed = layer.compute_output_shape(with_batch(EAGER, row.input_shape))
    computed = {k: tuple(v) for k, v in computed.items()} if isinstance(computed, dict) else tuple(computed)
    assert computed == with_batch(EAGER, row.output_shape)


@every_row
def test_another_width_than_it_was_built_with_is_refused(name):
    row = ROWS[name]
    layer = row.make()
    if isinstance(row.input_shape, dict) or getattr(layer, "static", False):  # by name; a static gate reads nothing
        return
    *rest, width = row.input_shape
    layer.build((None, *rest, width))
    shape = (2, *rest, width + 1)
    expected = f"expected axis -1 of input shape to have value {width}, but received input with shape {shape}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        layer(np.zeros(shape, "float32"))


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has no float64 unless it is told")
@every_row
def test_in_float64_all_is_float64(name):
    layer = ROWS[name].make(dtype="float64")
    if isinstance(layer, mtl.ScoreFusion | mtl.Towers):  # predictions and scores are float32 at all times
        return
    outputs = layer(ROWS[name].batch(EAGER))
    outputs = outputs.values() if isinstance(outputs, dict) else [outputs]
    assert {dtype_name(each) for each in outputs} == {"float64"}


@every_row
def test_mixed_precision_computes_in_bfloat16_and_keeps_weights_in_float32(name):
    row = ROWS[name]
    layer = row.make(dtype="mixed_bfloat16")
    outputs = layer(row.batch(EAGER))
    assert {dtype_name(weight) for weight in layer.trainable_weights} == {"float32"}
    # Towers end in float32 by design: a sigmoid in bfloat16 has three digits.
    expected = "float32" if isinstance(layer, mtl.Towers | mtl.ScoreFusion) else "bfloat16"
    values = outputs.values() if isinstance(outputs, dict) else [outputs]
    assert {dtype_name(value) for value in values} == {expected}
    plain = row.make()
    plain.build(with_batch(None, row.input_shape))
    for mine, theirs in zip(layer.trainable_weights, plain.trainable_weights, strict=True):
        theirs.assign(mine)
    exact = as_dict(plain(row.batch(EAGER)))
    if not isinstance(layer, mtl.TopKGate) and not isinstance(getattr(layer, "gate", None), mtl.TopKGate):
        for task, value in as_dict({k: ops.cast(v, "float32") for k, v in _named(outputs).items()}).items():
            # 8 bits at each of some ten roundings. Which experts are the top k may change altogether.
            np.testing.assert_allclose(value, exact[task], atol=0.05 * max(1.0, np.abs(exact[task]).max()))


def _named(outputs):
    return outputs if isinstance(outputs, dict) else {"": outputs}


def test_one_step_of_fit_moves_every_weight(trained):
    row, _, layer, before = trained
    for weight, old in zip(layer.trainable_weights, before, strict=True):
        moved = (reference.array(weight) != old).any()
        assert moved != (weight.name.split("/")[-1].split(":")[0] in row.unmoved), weight.name
        if moved and isinstance(layer, mtl.Experts):
            parts = (reference.array(weight) != old).reshape(len(old), -1).any(axis=1)
            assert parts.all(), "an expert did not move"


def test_its_weights_have_different_names(trained):
    """Or Keras 2 refuses to write them to HDF5, and TensorBoard shows one in the other's place."""
    names = [getattr(weight, "path", weight.name) for weight in trained[2].weights]
    assert len(set(names)) == len(names), sorted(names)


# Keras 3.15's own `save` reads variables in a way that NumPy 2.4 deprecates.
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")
@pytest.mark.parametrize("file", FILES)
def test_a_saved_model_gives_the_same_numbers_to_the_bit(trained, tmp_path, file):
    row, model, layer, _ = trained
    if file == "model.h5" and any(ROWS[name] is row for name in HOLD_LAYERS_OF_KERAS):
        pytest.skip("Keras 2 finds its own layers inside of others in no HDF5 file")
    model.save(tmp_path / file)
    loaded = keras.models.load_model(tmp_path / file)
    kept = next(each for each in loaded.layers if isinstance(each, type(layer)))
    assert kept is not layer
    for mine, theirs in zip(layer.weights, kept.weights, strict=True):
        np.testing.assert_array_equal(reference.array(mine), reference.array(theirs))
    expected, found = as_dict(model(row.batch(EAGER))), as_dict(loaded(row.batch(EAGER)))
    assert list(found) == list(expected)
    for task, values in expected.items():
        np.testing.assert_array_equal(found[task], values)


def test_any_batch_size_gives_the_same_rows_and_one_row_keeps_its_batch(trained):
    row, model, _, _ = trained
    x = tensors(row.batch(33, seed=3))
    together = as_dict(model.predict(x, batch_size=33, verbose=0))
    first = {k: v[:1] for k, v in x.items()} if isinstance(x, dict) else x[:1]
    alone = as_dict(model.predict(first, batch_size=33, verbose=0))
    shapes = with_batch(1, row.output_shape)
    for task, shape in (shapes if isinstance(shapes, dict) else {"": shapes}).items():
        assert together[task].shape == (33, *shape[1:])
        assert alone[task].shape == shape
        np.testing.assert_allclose(alone[task], together[task][:1], rtol=1e-4, atol=1e-6)


def test_there_is_no_lambda_inside(trained):
    _, model, layer, _ = trained
    inside = list(model._flatten_layers())
    assert layer in inside
    assert not [each for each in inside if isinstance(each, keras.layers.Lambda)]


def test_frozen_it_gives_the_same_numbers(trained):
    row, _, layer, _ = trained
    if isinstance(layer, mtl.Experts | Gate | mtl.FeatureEmbedding | mtl.ScoreFusion):
        assert not hasattr(layer, "freeze")  # nothing in these depends on the task
        return
    x = row.batch(EAGER, seed=4)
    names = list(row.output_shape) if isinstance(row.output_shape, dict) else range(row.output_shape[0])
    y = _named(layer(x))
    expected = {task: ops.convert_to_numpy(y[task] if task in y else y[""][:, task]) for task in names}
    for tasks in (None, [len(names) - 1], list(reversed(range(len(names))))):
        wanted = [names[task] for task in (range(len(names)) if tasks is None else tasks)]
        frozen = layer.freeze(tasks)
        if isinstance(layer, mtl.Towers):
            found = frozen([x[:, task] for task in layer.reads(range(len(names)) if tasks is None else tasks)])
            assert list(found) == wanted
        else:
            found = dict(zip(wanted, frozen(x), strict=True))
            frozen.trainable = False
            again = type(frozen).from_config(frozen.get_config())
            inputs = keras.Input(x.shape[1:])
            assert keras.Model(inputs, again(inputs)).trainable_weights == []
        for task in wanted:
            np.testing.assert_allclose(ops.convert_to_numpy(found[task]), expected[task], rtol=1e-6, atol=1e-6)
