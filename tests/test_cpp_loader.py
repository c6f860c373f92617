import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from cpp_loader import CppModel
from tensorflow.core.protobuf import saved_model_pb2
from tiny_model import write_tiny_model

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]  # serving never touches Keras


def rows(batch):
    generator = np.random.default_rng(batch)
    countries = np.array([b"fr", b"de", b"xx", b""], object)
    return {
        "country": generator.choice(countries, (batch, 1)),
        "price": generator.normal(size=(batch, 1)).astype(np.float32),
    }


def examples(features):
    def serialized(country, price):
        feature = {
            "country": tf.train.Feature(bytes_list=tf.train.BytesList(value=[country])),
            "price": tf.train.Feature(float_list=tf.train.FloatList(value=[price])),
        }
        return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    pairs = zip(features["country"][:, 0], features["price"][:, 0], strict=True)
    return {"examples": np.array([serialized(*pair) for pair in pairs], object)}


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny"), scale=0.3)


@pytest.fixture(scope="module")
def tiny(tiny_path):
    with CppModel(tiny_path) as model:
        yield model


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    """A model that hands back what it is given, for every dtype and for ranks 0 to 3."""
    specs = {
        "float32": tf.TensorSpec([None, 2, None], tf.float32),
        "float64": tf.TensorSpec([None], tf.float64),
        "int32": tf.TensorSpec([], tf.int32),
        "int64": tf.TensorSpec([None, None], tf.int64),
        "bool": tf.TensorSpec([None, 1], tf.bool),
        "string": tf.TensorSpec([None, None], tf.string),
        "scalar": tf.TensorSpec([], tf.string),
    }
    module = tf.Module()
    module.same = tf.function(lambda **inputs: {f"{name}_out": tf.identity(x) for name, x in inputs.items()})
    path = str(tmp_path_factory.mktemp("echo"))
    named = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}
    tf.saved_model.save(module, path, signatures=module.same.get_concrete_function(**named))
    with CppModel(path) as model:
        yield model


def test_signatures_name_their_inputs_and_outputs_and_hide_the_initialisation_op(tiny):
    names = {name: (set(inputs), set(outputs)) for name, (inputs, outputs) in tiny.signatures.items()}
    assert names == {
        "serving_default": ({"country", "price"}, {"click", "purchase"}),
        "click": ({"country", "price"}, {"click"}),
        "purchase": ({"country", "price"}, {"purchase"}),
        "examples": ({"examples"}, {"click", "purchase"}),
    }
    assert tiny.signatures["click"][0]["country"] == "click_country:0"


def test_numbers_worked_by_hand(tiny):
    country, price = np.array([["fr"], ["de"], ["nowhere"]]), np.array([[1], [2], [3]], np.float32)
    outputs = tiny.run("serving_default", {"country": country, "price": price})
    np.testing.assert_allclose(outputs["click"], [[0.3], [0.9], [0.6]], rtol=1e-6)
    np.testing.assert_allclose(outputs["purchase"], [[0.15], [0.45], [0.3]], rtol=1e-6)


@pytest.mark.parametrize("batch", [0, 1, 7, 1024])
def test_every_signature_equals_the_python_loader_to_the_bit(tiny, tiny_path, batch):
    python = tf.saved_model.load(str(tiny_path))
    assert set(tiny.signatures) == set(python.signatures)
    for name, signature in python.signatures.items():
        features = examples(rows(batch)) if name == "examples" else rows(batch)
        dtypes = {key: spec.dtype for key, spec in signature.structured_input_signature[1].items()}
        expected = signature(**{key: tf.constant(x, dtypes[key]) for key, x in features.items()})
        outputs = tiny.run(name, features)
        assert set(outputs) == set(expected)
        for key, output in outputs.items():
            assert output.dtype == np.float32 and output.shape == (batch, 1)
            assert output.tobytes() == expected[key].numpy().tobytes()


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_every_dtype_and_rank_comes_back_as_it_went(echo, batch):
    generator = np.random.default_rng(0)
    strings = [b"", b"\0\xff\0", "é".encode(), b"x" * 22, b"x" * 23, b"long" * 1000]  # 22 bytes lie inside a TF_TString
    features = {
        "float32": generator.normal(size=(batch, 2, 5)).astype(np.float32),
        "float64": generator.normal(size=batch),
        "int32": np.array(-7, np.int32),
        "int64": generator.integers(-(2**62), 2**62, (batch, 4)),
        "bool": generator.normal(size=(batch, 1)) > 0,
        "string": np.array([strings] * batch, object).reshape(batch, len(strings)),
        "scalar": np.array(b"one", object),
    }
    outputs = echo.run("serving_default", features)
    assert set(outputs) == {f"{name}_out" for name in features}
    for name, array in features.items():
        output = outputs[f"{name}_out"]
        assert (output.dtype, output.shape) == (array.dtype, array.shape)
        assert output.tolist() == array.tolist()


def test_strings_may_be_bytes_or_text_and_arrays_may_be_strided(tiny):
    price = np.arange(6, dtype=np.float32).reshape(3, 2)[::-1, 1:]  # 5, 3, 1 by a negative stride
    for country in (np.array([["fr"], ["de"], ["x"]]), np.array([[b"fr"], [b"de"], [b"x"]]), [["fr"], ["de"], ["x"]]):
        outputs = tiny.run("click", {"country": country, "price": price})
        np.testing.assert_allclose(outputs["click"], [[1.5], [1.2], [0.0]], rtol=1e-6)


def damaged(path, target, damage):
    shutil.copytree(path, target)
    file = target / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    damage(saved_model.meta_graphs[0])
    file.write_bytes(saved_model.SerializeToString())
    return target


def test_tables_are_filled_by_the_initialisation_op(tiny_path, tmp_path):
    def without_init_op(meta_graph):
        del meta_graph.signature_def["__saved_model_init_op"]
        del meta_graph.collection_def["saved_model_main_op"]

    # The whole model fills its table (the tests above); the same model without the operation does not.
    with (
        CppModel(damaged(tiny_path, tmp_path / "1", without_init_op)) as model,
        pytest.raises(RuntimeError, match="Table not initialized"),
    ):
        model.run("click", rows(1))


def test_a_vocabulary_file_is_read_from_the_assets(tmp_path):
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("fr\nde\n")
    initializer = tf.lookup.TextFileInitializer(
        str(vocabulary), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(initializer, default_value=-1)
    specs = [tf.TensorSpec([None], tf.string, name="word")]
    module.index = tf.function(lambda word: {"index": module.table.lookup(word)}, input_signature=specs)
    tf.saved_model.save(module, str(tmp_path / "made"), signatures=module.index)
    vocabulary.unlink()
    (tmp_path / "made").rename(tmp_path / "served")
    with CppModel(tmp_path / "served") as model:
        outputs = model.run("serving_default", {"word": np.array(["de", "xx", "fr"])})
    assert outputs["index"].tolist() == [1, -1, 0]


def test_a_module_that_holds_a_keras_3_model_only_fails_in_the_cpp_loader(tmp_path):
    if os.environ.get("TF_USE_LEGACY_KERAS") == "1":
        pytest.skip("tf_keras variables are tf.Variables, which a tf.Module tracks: nothing fails here")
    if tf.keras.config.backend() != "tensorflow":
        pytest.skip("a model of another Keras backend cannot be held in a tf.Module")
    module = tf.Module()
    module.model = tf.keras.Sequential([tf.keras.Input([3]), tf.keras.layers.Dense(2)])
    specs = [tf.TensorSpec([None, 3], tf.float32, name="x")]
    module.serve = tf.function(lambda x: {"y": module.model(x)}, input_signature=specs)
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    x = np.ones([4, 3], np.float32)

    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"](x=x)
    np.testing.assert_allclose(loaded["y"], module.model(x), rtol=1e-6)
    with CppModel(tmp_path) as model, pytest.raises(RuntimeError, match="Could not find variable"):
        model.run("serving_default", {"x": x})


def test_what_the_loader_refuses(tmp_path, tiny_path):
    with pytest.raises(RuntimeError, match="Could not find SavedModel"):
        CppModel(tmp_path)
    with pytest.raises(RuntimeError, match="Could not find meta graph def matching supplied tags"):
        CppModel(tiny_path, tags=("train",))
    shutil.copytree(tiny_path, tmp_path / "cut")
    for file in (tmp_path / "cut" / "variables").glob("*.data-*"):
        file.write_bytes(b"")
    with pytest.raises(RuntimeError, match="Read less bytes than requested"):
        CppModel(tmp_path / "cut")


def test_a_signature_of_a_missing_tensor_is_an_error_and_no_crash(tiny_path, tmp_path):
    def rename(meta_graph):
        meta_graph.signature_def["click"].inputs["price"].name = "nowhere:0"

    with CppModel(damaged(tiny_path, tmp_path / "1", rename)) as model:
        assert model.run("purchase", rows(1))["purchase"].shape == (1, 1)
        with pytest.raises(RuntimeError, match="A signature names the tensor 'nowhere:0', which is not in the graph"):
            model.run("click", rows(1))


def test_what_run_refuses(tiny):
    good = rows(2)
    with pytest.raises(ValueError, match=r"must be one of .*'click'.*; received: signature='ctr'"):
        tiny.run("ctr", good)
    with pytest.raises(ValueError, match=r"keys \['country', 'price'\]; received: features=\['country'\]"):
        tiny.run("click", {"country": good["country"]})
    with pytest.raises(TypeError, match="Expected binary or unicode string, got 1"):
        tiny.run("click", {**good, "country": np.array([[1], [None]], object)})
    with pytest.raises(RuntimeError, match="double"):
        tiny.run("click", {**good, "price": good["price"].astype(np.float64)})
    with pytest.raises(RuntimeError, match="Incompatible shapes"):
        tiny.run("click", {**good, "price": np.zeros([3, 1], np.float32)})
    with pytest.raises(RuntimeError, match="Could not parse example input"):
        tiny.run("examples", {"examples": np.array([b"no example"], object)})
    assert tiny.run("click", good)["click"].shape == (2, 1)


def test_a_closed_model_does_not_run(tiny_path):
    with CppModel(tiny_path) as model:
        assert model.run("click", rows(1))["click"].shape == (1, 1)
    model.close()
    with pytest.raises(RuntimeError, match=r"The model is closed\."):
        model.run("click", rows(1))


def test_the_process_holds_one_copy_of_tensorflow(tiny):
    files = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libtensorflow_" in line}
    assert sorted(Path(file).name for file in files) == ["libtensorflow_cc.so.2", "libtensorflow_framework.so.2"]


def resident_bytes():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_two_thousand_runs_leak_nothing(echo):
    # One run feeds and fetches 1 MB of heap strings and 1 MB of floats: leaks would weigh gigabytes.
    features = {
        "float32": np.zeros([128, 2, 1024], np.float32),
        "float64": np.zeros(1),
        "int32": np.array(0, np.int32),
        "int64": np.zeros([1, 1], np.int64),
        "bool": np.ones([1, 1], bool),
        "string": np.full([1, 64], b"x" * 16384, object),
        "scalar": np.array("", object),
    }

    def work(runs):
        for _ in range(runs):
            echo.run("serving_default", features)

    work(200)
    before = resident_bytes()
    work(2000)
    assert resident_bytes() - before < 64e6


def test_sixteen_reloads_leak_nothing(tmp_path):
    # The session holds 16 MB in a variable, the graph 8 MB in a constant.
    constant = np.arange(2_000_000, dtype=np.float32)
    module = tf.Module()
    module.variable = tf.Variable(np.zeros(4_000_000, np.float32))
    specs = [tf.TensorSpec([], tf.int32, name="i")]
    module.at = tf.function(lambda i: {"y": module.variable[i] + tf.constant(constant)[i]}, input_signature=specs)
    tf.saved_model.save(module, str(tmp_path), signatures=module.at)

    def work(reloads):
        for _ in range(reloads):
            with CppModel(tmp_path) as model:
                assert model.run("serving_default", {"i": np.array(7, np.int32)})["y"] == 7

    work(4)
    before = resident_bytes()
    work(16)
    assert resident_bytes() - before < 64e6
