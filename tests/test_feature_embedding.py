"""The layer from raw features to a vector: against NumPy, one gather, adapting, saving, mixed precision, errors."""

import json

import numpy as np
import pytest
from conftest import LEGACY

import mtl_layers as mtl
from mtl_layers._keras import keras, ops
from mtl_layers.features import Bucketized, Categorical, MultiValued, Numeric

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.needs_tensorflow


def rows_of_data(rng, n=40):
    return {
        "country": rng.choice(["fr", "de", "us"], n),
        "age": rng.normal(40, 10, n).astype("float32"),
        "item": rng.integers(0, 6, n),
        "gain": np.where(rng.random(n) < 0.5, 0, rng.random(n) * 100).astype("float32"),
        "genres": rng.choice(["", "rock", "pop"], (n, 3)),
        "recent": rng.integers(-1, 4, (n, 2)),
        "ignored": np.arange(n),
    }


def every_kind(**kwargs):
    """Features of two widths, in an order in which widths and kinds alternate."""
    return mtl.FeatureEmbedding(
        {
            "country": Categorical(),
            "age": Numeric(),
            "item": Categorical(dtype="int64", width=2),
            "gain": Bucketized(4),
            "genres": MultiValued(),
            "recent": MultiValued(Categorical(dtype="int64", width=2), "sum"),
        },
        width=3,
        **kwargs,
    )


def reference(layer, rows):
    """NumPy: ids + offsets into a table per width; single-valued by width, multi-valued, then numbers."""
    specs, tables = dict(layer.specs), {}
    for table in layer.tables:
        (weights,) = table.get_weights()
        tables[weights.shape[1]] = weights
    offset = dict.fromkeys(tables, 0)
    single, pooled, numbers = {width: [] for width in tables}, [], []
    for name, spec in specs.items():
        values = rows[name]
        if isinstance(spec, Numeric):
            numbers.append(((values - spec.mean) / np.sqrt(spec.variance))[:, None])
            continue
        width = spec.width or 3
        table = tables[width][offset[width] :]
        if isinstance(spec, Bucketized):
            single[width].append(table[np.searchsorted(np.float32(spec.boundaries), values, side="right")])
            offset[width] += len(spec.boundaries) + 2
            continue
        known = (spec.of if isinstance(spec, MultiValued) else spec).vocabulary
        ids = np.vectorize(lambda value, known=known: known.index(value) + 1 if value in known else 0)(values)
        offset[width] += len(known) + 1
        if not isinstance(spec, MultiValued):
            single[width].append(table[ids])
            continue
        here = (values != spec.padding)[:, :, None]
        total = (table[ids] * here).sum(axis=1)
        pooled.append(total if spec.pooling == "sum" else total / np.maximum(here.sum(axis=1), 1))
    assert all(offset[width] == len(tables[width]) for width in tables)  # no row belongs to nobody
    return np.concatenate([*(part for width in single for part in single[width]), *pooled, *numbers], axis=1)


def test_the_output_is_the_numpy_reference_with_unknown_categories_in_their_own_row(rng):
    layer = every_kind()
    layer.adapt(rows_of_data(rng))
    served = rows_of_data(rng, 9)
    served["country"][:2], served["item"][3], served["genres"][4] = "xx", 77, ["?", "", ""]
    output = ops.convert_to_numpy(layer(served))
    assert output.shape == layer.compute_output_shape({"country": (9, 1)}) == (9, 3 + 3 + 2 + 3 + 2 + 1)
    np.testing.assert_allclose(output, reference(layer, served), atol=1e-5)


def test_all_single_valued_fields_of_a_width_are_one_gather():
    specs = {f"f{n}": Categorical(hash_buckets=9, width=4 + n % 2) for n in range(8)}
    specs["b"] = Bucketized(boundaries=(0.0,), width=4)
    layer = mtl.FeatureEmbedding(specs)
    rows = {f"f{n}": tf.constant([["a"], ["b"]]) for n in range(8)} | {"b": tf.constant([[0.5], [1.0]])}
    layer(rows)
    graph = tf.function(layer).get_concrete_function(rows).graph
    assert sum(op.type in ("Gather", "GatherV2", "ResourceGather") for op in graph.get_operations()) == 2


@pytest.mark.parametrize("form", ["dict", "dicts", "tuples"])
def test_adapt_reads_dicts_and_datasets_alike(rng, form):
    rows, expected, layer = rows_of_data(rng), every_kind(), every_kind()
    expected.adapt(rows)
    data = tf.data.Dataset.from_tensor_slices(rows).batch(7)
    if form == "tuples":
        data = data.map(lambda row: (row, tf.zeros(())))
    layer.adapt(rows if form == "dict" else data)
    for (name, spec), (_, same) in zip(layer.specs, expected.specs, strict=True):
        if name == "age":
            assert spec.mean == pytest.approx(same.mean) and spec.variance == pytest.approx(same.variance)
        else:
            assert spec == same


def test_adapt_takes_one_pass(rng):
    rows, passes = rows_of_data(rng), []

    def generate():
        passes.append(1)
        yield from ({name: values[n] for name, values in rows.items()} for n in range(40))

    signature = {n: tf.TensorSpec(v.shape[1:], tf.string if v.dtype.kind == "U" else v.dtype) for n, v in rows.items()}
    every_kind().adapt(tf.data.Dataset.from_generator(generate, output_signature=signature).batch(8))
    assert len(passes) == 1


def test_adapt_spends_nothing_on_features_that_have_nothing_to_learn(monkeypatch):
    hashed, cut, known = Categorical(hash_buckets=5), Bucketized(boundaries=(1.0,)), Numeric(1.0, 4.0)
    layer = mtl.FeatureEmbedding({"h": hashed, "m": MultiValued(hashed), "b": cut, "n": known, "a": Categorical()})
    for kind in (Bucketized, Numeric):
        monkeypatch.setattr(kind, "update", None)
    # The hash takes any bytes, and so must `adapt`.
    rows = {"h": [b"\xff"], "m": [[b"\xff"]], "b": [3.0], "n": [np.nan], "a": [b"x"]}
    layer.adapt({name: np.array(values, object) for name, values in rows.items()})
    expected = {"h": hashed, "m": MultiValued(hashed), "b": cut, "n": known, "a": Categorical(vocabulary=("x",))}
    assert layer.features == expected


@pytest.mark.parametrize(
    ("spec", "values", "text"),
    [
        (
            Categorical(hash_buckets=5, dtype="int64"),
            [1.0, np.nan],
            r"int64; received: float64\. Where values are missing",
        ),
        (
            Categorical(vocabulary=(1, 2), dtype="int64"),
            [1.0, 2.0],
            r"int64; received: float64\. Where values are missing",
        ),
        (Categorical(dtype="int64"), np.array(["2024-01-01"], "datetime64[ns]"), r"int64; received: datetime64\[ns\]$"),
        (Categorical(dtype="int64"), [True], "int64; received: bool$"),
        (MultiValued(Categorical(hash_buckets=5, dtype="int64")), [[1.0], [2.0]], "int64; received: float64"),
        (Categorical(hash_buckets=5), [1], "string; received: int64$"),
        (Numeric(0.0, 1.0), ["1"], "float32; received: str"),
        (Bucketized(boundaries=(1.0,)), ["1"], "float32; received: str"),
    ],
)
def test_adapt_checks_types_also_where_nothing_is_to_learn(spec, values, text):
    """Of what Keras casts, as it does with a float column of ids, a model would take some for others."""
    layer = mtl.FeatureEmbedding({"x": spec, "learned": Categorical()})
    with pytest.raises(ValueError, match=f"`x` must be of type {text}"):
        layer.adapt({"x": np.array(values), "learned": ["a"]})


def test_adapt_takes_a_batch_without_rows():
    layer = mtl.FeatureEmbedding({"x": Categorical(hash_buckets=5, dtype="int64"), "learned": Categorical()})
    layer.adapt([{"x": [], "learned": []}, {"x": [1], "learned": ["a"]}])
    assert layer.features["learned"].vocabulary == ("a",)


def test_adapt_reads_nothing_where_all_is_known():
    layer = mtl.FeatureEmbedding({"h": Categorical(hash_buckets=5)})
    tables = layer.tables
    layer.adapt(pytest.fail("read") for _ in range(1))
    layer.adapt({"h": np.array(["a"])})
    assert layer.tables is tables


def test_adapt_may_be_tried_again_after_it_was_refused():
    layer = mtl.FeatureEmbedding({"x": Numeric()})
    with pytest.raises(ValueError, match="`x` must be finite"):
        layer.adapt({"x": [1.0, np.nan]})
    layer.adapt({"x": [1.0, 3.0]})
    assert layer.features == {"x": Numeric(2.0, 1.0)}


def ragged(pooling="mean", dtype="string"):
    known = ("a", "b") if dtype == "string" else (1, 2)
    layer = mtl.FeatureEmbedding({"x": MultiValued(Categorical(vocabulary=known, dtype=dtype), pooling)}, width=1)
    layer.build({"x": (None, None)})
    layer.tables[0].set_weights([np.array([[100.0], [1.0], [3.0]], "float32")])
    return layer


@pytest.mark.parametrize(("pooling", "expected"), [("mean", [2.0, 0.0, 1.0, 35.0]), ("sum", [4.0, 0.0, 1.0, 105.0])])
@pytest.mark.parametrize("dtype", ["string", "int64"])
def test_ragged_and_padded_rows_pool_alike_and_padding_takes_no_part(pooling, expected, dtype):
    lists = {"string": [["a", "b"], [], ["a"], ["a", "b", "?", "a"]], "int64": [[1, 2], [], [1], [1, 2, 9, 1]]}[dtype]
    if pooling == "mean":
        expected = [*expected[:3], 105.0 / 4]
    layer, padding = ragged(pooling, dtype), "" if dtype == "string" else -1
    padded = np.array([row + [padding] * (5 - len(row)) for row in lists])
    for values in (padded, tf.ragged.constant(lists)):
        np.testing.assert_allclose(ops.convert_to_numpy(layer({"x": values}))[:, 0], expected)


def test_ragged_rows_come_through_tf_data_and_adapt():
    rows = tf.data.Dataset.from_tensor_slices({"x": tf.ragged.constant([["a", "b"], [], ["a"]])}).batch(2)
    learned = mtl.FeatureEmbedding({"x": MultiValued()})
    learned.adapt(rows)
    assert learned.specs[0][1].of.vocabulary == ("a", "b")
    layer = ragged()
    inputs = layer.inputs()
    model = keras.Model(inputs, layer(inputs))
    np.testing.assert_allclose(model.predict(rows, verbose=0)[:, 0], [2.0, 0.0, 1.0])


@pytest.mark.parametrize("size", [0, 1, 3])
def test_any_batch_size_goes_through_a_functional_model(rng, size):
    layer = every_kind()
    layer.adapt(rows_of_data(rng))
    inputs = layer.inputs()
    model = keras.Model(inputs, layer(inputs))
    rows = {name: values for name, values in rows_of_data(rng, size).items() if name != "ignored"}
    columns = {name: tf.constant(values if values.ndim == 2 else values[:, None]) for name, values in rows.items()}
    output = ops.convert_to_numpy(model(columns))
    assert output.shape == (size, 14)
    np.testing.assert_array_equal(output, ops.convert_to_numpy(layer(rows)))


def test_int32_is_as_good_as_int64_and_integers_are_numbers():
    layer = mtl.FeatureEmbedding({"i": Categorical(vocabulary=(5, 7), dtype="int64"), "n": Numeric(1.0, 4.0)})
    wide = layer({"i": np.array([5, 7, 8], "int64"), "n": np.array([1.0, 3.0, 5.0])})
    narrow = layer({"i": np.array([5, 7, 8], "int32"), "n": np.array([1, 3, 5], "int16")})
    np.testing.assert_array_equal(ops.convert_to_numpy(wide), ops.convert_to_numpy(narrow))
    np.testing.assert_allclose(ops.convert_to_numpy(wide)[:, -1], [0, 1, 2])


def test_truths_are_numbers():
    layer = mtl.FeatureEmbedding({"x": Numeric()})
    layer.adapt({"x": np.array([True, False])})
    np.testing.assert_allclose(ops.convert_to_numpy(layer({"x": np.array([True, False])}))[:, 0], [1.0, -1.0])


@pytest.mark.skipif(LEGACY, reason="tf_keras compiles by XLA where it is told to, and does not ask the layers")
@pytest.mark.parametrize("numeric", [Numeric(0.0, 1.0), Numeric(0.0, 1.0, nan_value=0.0)])
def test_xla_does_not_leave_out_the_check_that_numbers_are_finite(numeric):
    layer = mtl.FeatureEmbedding({"x": numeric})
    inputs = layer.inputs()
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)))
    with pytest.warns(UserWarning, match="Model doesn't support `jit_compile=True`"):
        model.compile("sgd", "mse", jit_compile=True)
    with pytest.raises(INVALID, match="`x` must be finite"):
        model.fit({"x": np.array([1.0, np.inf], "float32")}, np.ones(2, "float32"), verbose=0)
    assert mtl.FeatureEmbedding({"x": Bucketized(boundaries=(0.0,))}).supports_jit


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("by", ["argument", "global"])
def test_raw_values_keep_their_precision_under_a_mixed_policy(policy, by):
    """1000.25 and 1000.75 are one number in bfloat16, 2049 and 2048 are one in float16."""
    before = keras.mixed_precision.dtype_policy() if hasattr(keras.mixed_precision, "dtype_policy") else "float32"
    if by == "global":
        keras.mixed_precision.set_global_policy(policy)
    try:
        layer = mtl.FeatureEmbedding(
            {
                "bucket": Bucketized(boundaries=(1000.0, 1000.5, 2049.0)),
                "number": Numeric(mean=1000.0, variance=1.0),
                "many": MultiValued(Categorical(vocabulary=(2048, 2049), dtype="int64")),
            },
            width=1,
            **({"dtype": policy} if by == "argument" else {}),
        )
        inputs = layer.inputs()
        model = keras.Model(inputs, layer(inputs))
    finally:
        keras.mixed_precision.set_global_policy(before)
    layer.tables[0].set_weights([np.arange(8, dtype="float32")[:, None]])
    rows = {
        "bucket": tf.constant([[1000.25], [1000.75], [2048.0], [2049.0], [np.nan]]),
        "number": tf.constant([[1000.25], [1000.75], [1000.0], [999.5], [1001.0]]),
        "many": tf.constant([[2048, -1], [2049, -1], [-1, -1], [2048, 2049], [1, -1]], "int64"),
    }
    for output in (layer(rows), model(rows), tf.constant(model.predict(rows, verbose=0))):
        assert output.dtype == policy.removeprefix("mixed_")
        output = ops.convert_to_numpy(ops.cast(output, "float32"))
        np.testing.assert_array_equal(output[:, 0], [1, 2, 2, 3, 4])
        np.testing.assert_array_equal(output[:, 1], [6, 7, 0, 6.5, 5])
        np.testing.assert_array_equal(output[:, 2], [0.25, 0.75, 0, -0.5, 1])
    assert all(weight.dtype == "float32" for weight in layer.weights)


def test_a_saved_model_answers_to_the_bit(rng, tmp_path):
    layer = every_kind(embeddings_regularizer="l2")
    layer.adapt(rows_of_data(rng))
    inputs = layer.inputs()
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)))
    rows = tf.data.Dataset.from_tensor_slices({n: v for n, v in rows_of_data(rng).items() if n != "ignored"}).batch(9)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(rows, verbose=0), model.predict(rows, verbose=0))


@pytest.mark.parametrize(("dtype", "values"), [("string", ["fr", "de", "us"]), ("int64", [30, -4, 7])])
def test_a_saved_model_keeps_its_vocabulary_whatever_becomes_of_the_file(tmp_path, dtype, values):
    path, rows = tmp_path / "vocabulary.txt", {"x": tf.constant(values)[:, None]}
    path.write_text("".join(f"{value}\n" for value in values))
    layer = mtl.FeatureEmbedding({"x": Categorical(vocabulary=str(path), dtype=dtype)})
    inputs = layer.inputs()
    model = keras.Model(inputs, layer(inputs))
    expected = ops.convert_to_numpy(model(rows))
    assert len(np.unique(expected, axis=0)) == 3
    model.save(tmp_path / "model.keras")
    path.write_text("".join(f"{value}\n" for value in reversed(values)))
    for _ in range(2):
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(ops.convert_to_numpy(loaded(rows)), expected)
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("adapted", [True, False])
def test_a_json_config_holds_all_that_was_learned(rng, adapted):
    layer, rows = every_kind(embeddings_initializer=keras.initializers.RandomNormal(seed=4)), rows_of_data(rng)
    if adapted:
        layer.adapt(rows)
    copy = mtl.FeatureEmbedding.from_config(json.loads(json.dumps(layer.get_config())))
    assert copy.specs == layer.specs
    assert copy.get_config() == layer.get_config()
    if not adapted:
        layer.adapt(rows)
        copy.adapt(rows)
    copy(rows), layer(rows)
    np.testing.assert_array_equal(ops.convert_to_numpy(copy(rows)), ops.convert_to_numpy(layer(rows)))


def test_tables_learn_from_rows_in_use_only():
    layer = mtl.FeatureEmbedding({"x": Categorical(vocabulary=("a", "b"))}, width=2)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer({"x": tf.constant(["b", "b"])}))
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.tables[0].trainable_variables[0])).numpy()
    np.testing.assert_array_equal(gradient, [[0, 0], [0, 0], [2, 2]])


def call(spec, values, name="x"):
    return mtl.FeatureEmbedding({"x": spec})({name: np.asarray(values)})


def adapt_twice():
    layer = mtl.FeatureEmbedding({"x": Numeric()})
    layer.adapt({"x": np.arange(3.0)})
    layer.adapt({"x": np.arange(9.0)})


def adapt_after_a_call():
    layer = mtl.FeatureEmbedding({"x": Numeric()})
    layer.adapt({"x": np.arange(3.0)})
    layer({"x": np.arange(3.0)})
    layer.adapt({"x": np.arange(3.0)})


NUMBER, STRING, INTEGER = Numeric(0.0, 1.0), Categorical(hash_buckets=3), Categorical(hash_buckets=3, dtype="int64")
INVALID = tf.errors.InvalidArgumentError


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: mtl.FeatureEmbedding({}), ValueError, "`features` must be a dict of specifications; received: fe"),
        (lambda: mtl.FeatureEmbedding([STRING]), ValueError, "`features` must be a dict of specifications"),
        (lambda: mtl.FeatureEmbedding({"x": "string"}), ValueError, "must hold specifications.*received: x='string'"),
        (lambda: mtl.FeatureEmbedding({"x": STRING}, width=0), ValueError, "`width` must be an integer of at least 1"),
        (lambda: call(STRING, ["a"], "y"), ValueError, r"missing: \['x'\]; received: \['y'\]"),
        (lambda: call(NUMBER, ["a"]), ValueError, "`x` must be of type float32; received: string"),
        (lambda: call(INTEGER, [1.0]), ValueError, "`x` must be of type int64; received: float"),
        (lambda: call(STRING, [1]), ValueError, "`x` must be of type string; received: int"),
        (lambda: call(STRING, [["a", "b"]]), ValueError, r"`x` must be \[batch, 1\]; received: shape=\(1, 2\)"),
        (lambda: call(NUMBER, [0.0, np.nan]), INVALID, "`x` must be finite; to accept NaN, give its specification a n"),
        (lambda: call(NUMBER, [np.inf]), INVALID, "`x` must be finite"),
        (lambda: call(Numeric(), [0.0]), ValueError, r"`adapt` must be called before .* known yet of: \['x'\]"),
        (adapt_after_a_call, ValueError, "`adapt` must come before the layer is built"),
        (adapt_twice, ValueError, "`adapt` must be called once: to learn from .*; received: a second call"),
        (
            lambda: mtl.FeatureEmbedding({"x": Numeric()}).adapt({"y": 1}),
            ValueError,
            r"`data` must have every feature; missing: \['x'\]; received: \['y'\]",
        ),
        (
            # What a DataFrame gives to who iterates over it.
            lambda: mtl.FeatureEmbedding({"x": Numeric()}).adapt(["x"]),
            ValueError,
            r"`data` must be a dict of arrays, such as dict\(df\) of a DataFrame, or .*; received: list of str",
        ),
        (lambda: mtl.FeatureEmbedding({"x": Numeric()}).adapt({"x": [np.nan]}), ValueError, "`x` must be finite; rec"),
        (
            lambda: mtl.FeatureEmbedding({"x": Categorical()}).adapt({"x": tf.sparse.from_dense([["a"]])}),
            ValueError,
            r"`x` must not be sparse: give tf.sparse.to_dense\(.*; received: SparseTensor",
        ),
        (
            lambda: mtl.FeatureEmbedding({"x": STRING})({"x": tf.sparse.from_dense([["a"]])}),
            ValueError,
            r"`x` must not be sparse: give tf.sparse.to_dense\(.*; received: SparseTensor",
        ),
        (lambda: mtl.FeatureEmbedding({"x": STRING})(np.ones((2, 1))), ValueError, "`inputs` must be a dict of featu"),
    ],
)
def test_bad_input_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_feature_may_have_a_name_that_no_layer_can(tmp_path):
    names = ("user id", "größe", "a:b")
    layer = mtl.FeatureEmbedding({name: Bucketized(boundaries=(0.0,)) for name in names}, width=2)
    inputs = layer.inputs()
    model = keras.Model(inputs, layer(inputs))
    rows = {name: tf.constant([[1.0], [-1.0]]) for name in names}
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(rows), model(rows))


def test_two_columns_of_unknown_number_do_not_pass_as_twice_the_rows():
    layer = mtl.FeatureEmbedding({"x": STRING})
    serve = tf.function(lambda x: layer({"x": x}), input_signature=[tf.TensorSpec((None, None), tf.string)])
    assert serve(tf.constant([["a"], ["b"]])).shape == (2, 8)
    with pytest.raises(INVALID, match=r"Shape of tensor x \[1,2\] is not compatible with expected shape \[\?,1\]"):
        serve(tf.constant([["a", "b"]]))
