"""Specifications of features: what they learn from data, and which row of a table a raw value gets."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mtl_layers as mtl
from mtl_layers._keras import ops
from mtl_layers.features import Bucketized, Categorical, MultiValued, Numeric, deserialize, serialize

pytestmark = pytest.mark.needs_tensorflow

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def adapt(spec, *batches):
    summary = spec.start()
    for batch in batches:
        summary = spec.update(summary, batch, "x")
    return spec.finish(summary, "x")


def rows_of(spec, values):
    """The table row that each value gets, from a layer whose table holds its own row numbers."""
    layer = mtl.FeatureEmbedding({"x": spec}, width=1)
    layer.build({"x": (None, 1)})
    size = layer.tables[0].weights[0].shape[0]
    layer.tables[0].set_weights([np.arange(size, dtype="float32")[:, None]])
    rows = ops.convert_to_numpy(layer({"x": np.asarray(values).reshape(-1, 1)}))[:, 0]
    assert (rows < size).all() and (rows >= 0).all()
    return rows.astype(int).tolist()


# Categorical


def test_a_vocabulary_is_learned_most_frequent_first_and_ties_by_value():
    spec = adapt(Categorical(), np.array(["b", "c", "a", "c"]), np.array([b"b", b"d", b"c"], dtype=object))
    assert spec.vocabulary == ("c", "b", "a", "d")
    assert rows_of(spec, ["c", "b", "a", "d", "never seen"]) == [1, 2, 3, 4, 0]


@pytest.mark.parametrize(
    ("arguments", "vocabulary"),
    [
        ({"max_size": 2}, (7, 3)),
        ({"min_count": 2}, (7, 3)),
        ({"min_count": 3}, (7,)),
        ({"max_size": 9}, (7, 3, -1, 5)),
    ],
)
def test_max_size_and_min_count_bound_a_learned_vocabulary(arguments, vocabulary):
    values = np.array([[7], [7], [7], [3], [3], [5], [-1]])
    assert adapt(Categorical(dtype="int64", **arguments), values).vocabulary == vocabulary


@pytest.mark.parametrize(
    ("dtype", "known", "strange"),
    [("string", ("[UNK]", "", "ü"), ["x", "y", "z"]), ("int64", (-1, 0, 2**40), [1, 2, 3])],
)
def test_reserved_looking_values_are_values_like_any_other(dtype, known, strange):
    spec = Categorical(vocabulary=known, dtype=dtype)
    assert rows_of(spec, np.array(known)) == [1, 2, 3]
    assert rows_of(spec, np.array(strange)) == [0, 0, 0]


def test_out_of_vocabulary_values_spread_over_their_buckets_only():
    spec = Categorical(vocabulary=("a", "b"), oov_buckets=3)
    rows = rows_of(spec, [f"new {n}" for n in range(40)])
    assert set(rows) == {0, 1, 2}
    assert rows_of(spec, ["a", "b"]) == [3, 4]


@pytest.mark.parametrize(
    ("dtype", "text", "known"),
    [
        ("string", "fr\nde\n", ("fr", "de")),
        ("string", "fr\r\nde", ("fr", "de")),
        ("string", "\n ü \n\u2028\n", ("", " ü ", "\u2028")),
        ("int64", "30\n-4\n", (30, -4)),
        ("string", "\ufefffr\nde\n", ("fr", "de")),
        ("int64", "\ufeff30\n-4\n", (30, -4)),
    ],
)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_vocabulary_file_is_read_once_and_equals_the_vocabulary_it_holds(tmp_path, kind, dtype, text, known):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(text.encode())
    spec = Categorical(vocabulary=kind(path), dtype=dtype)
    path.unlink()
    assert spec == Categorical(vocabulary=known, dtype=dtype)
    assert deserialize(json.loads(json.dumps(serialize(spec)))) == spec
    assert rows_of(spec, np.array(known)) == list(range(1, len(known) + 1))


@pytest.mark.parametrize(
    ("dtype", "content", "message"),
    [
        (
            "string",
            None,
            "`vocabulary` must be values or the path of a UTF-8 text file; received: vocabulary='.*No such",
        ),
        (
            "string",
            b"fr\n\xff\n",
            "`vocabulary` must be values or the path of a UTF-8 text file; rec.*0xff in position 3",
        ),
        ("string", b"", "`vocabulary` must hold distinct values, at least one; received: 0 values"),
        (
            "string",
            b"fr\nde\nfr\n",
            "`vocabulary` must hold distinct values.*; received: 3 values of which 2 are distinct",
        ),
        ("int64", b"1\nde\n", "`vocabulary` must hold one integer a line; received: vocabulary='.*'de'"),
        ("int64", b"1\n\n2\n", "`vocabulary` must hold one integer a line; received: vocabulary='.*''"),
    ],
)
def test_a_bad_vocabulary_file_is_refused(tmp_path, dtype, content, message):
    if content is not None:
        (tmp_path / "vocabulary.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Categorical(vocabulary=str(tmp_path / "vocabulary.txt"), dtype=dtype)


@pytest.mark.parametrize(("dtype", "values"), [("string", [str(n) for n in range(60)]), ("int64", list(range(60)))])
def test_hashing_is_stable_and_stays_within_its_buckets(dtype, values):
    spec = Categorical(hash_buckets=5, dtype=dtype)
    rows = rows_of(spec, np.array(values))
    assert set(rows) == set(range(5))
    assert rows_of(spec, np.array(values)) == rows
    assert adapt(spec, np.array(values)) is spec


def test_numpy_values_make_a_vocabulary_that_json_can_hold():
    spec = Categorical(vocabulary=np.array([5, 2]), dtype="int64")
    assert deserialize(json.loads(json.dumps(serialize(spec)))) == spec


def test_numpys_integers_make_specifications_that_json_can_hold():
    eight = np.int64(8)
    for spec in (
        Categorical(hash_buckets=eight, width=eight),
        Categorical(oov_buckets=eight, max_size=eight, min_count=eight),
        Bucketized(num_buckets=eight, width=eight),
    ):
        assert deserialize(json.loads(json.dumps(serialize(spec)))) == spec


def test_ids_beyond_int64_are_learned_as_a_call_reads_them():
    ids = np.array([2**63 + 5, 7, 2**53 + 1, 2**60 + 1], "uint64")
    spec = adapt(Categorical(dtype="int64"), ids)
    assert set(spec.vocabulary) == {5 - 2**63, 7, 2**53 + 1, 2**60 + 1}
    found = spec.preprocessor("ids")(ids.astype("int64"))
    assert sorted(np.asarray(found).ravel().tolist()) == [1, 2, 3, 4]


# Numeric


def test_mean_and_variance_survive_large_means_over_uneven_batches(rng):
    values = 1e6 + 100 * rng.normal(size=1000)
    spec = adapt(Numeric(), values[:1], values[1:1], values[1:13], values[13:])
    assert spec.mean == pytest.approx(values.mean(), rel=1e-14)
    assert spec.variance == pytest.approx(values.var(), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=5),
)
def test_any_split_into_batches_gives_numpys_mean_and_variance(values, cuts):
    summary = Numeric().start()
    for batch in np.split(np.array(values), sorted(cuts)):
        summary = Numeric().update(summary, batch, "x")
    count, mean, deviations = summary
    scale = max(1.0, *map(abs, values))
    assert mean == pytest.approx(np.mean(values), abs=1e-12 * scale)
    assert deviations / count == pytest.approx(np.var(values), abs=1e-12 * scale**2)


@pytest.mark.parametrize("constant", [0.0, 5.0, 0.1, 1e6 + 0.1])
def test_a_constant_feature_is_centred_and_never_blown_up(constant):
    spec = adapt(Numeric(), np.full(7, constant), np.full(11, constant))
    assert spec.variance == 0.0
    layer = mtl.FeatureEmbedding({"x": spec})
    given = np.array([constant, constant + 2.0], "float32")
    np.testing.assert_allclose(ops.convert_to_numpy(layer({"x": given}))[:, 0], [0.0, 2.0], atol=0.1)


def test_what_float32_cannot_resolve_is_refused_and_an_origin_helps():
    """Ten minutes of Unix seconds, one a minute, are five numbers in float32."""
    seconds = 1.7e9 + 60 * np.arange(10.0)
    message = (
        r"`x` must vary by more than float32 rounds it; received: mean=1\.7e\+09, standard deviation=172, "
        r"where float32 has steps of 128\. Subtract an origin"
    )
    with pytest.raises(ValueError, match=message):
        adapt(Numeric(), seconds)
    spec = adapt(Numeric(), seconds - seconds[0])
    found = ops.convert_to_numpy(mtl.FeatureEmbedding({"x": spec})({"x": seconds - seconds[0]}))[:, 0]
    np.testing.assert_allclose(found, (np.arange(10) - 4.5) / np.sqrt(8.25), rtol=1e-6)


@pytest.mark.parametrize(("mean", "deviation", "resolved"), [(1e6, 63, True), (-1e6, 62, False), (1e39, 1e38, False)])
def test_float32_must_have_a_thousand_steps_to_a_standard_deviation(mean, deviation, resolved):
    values = mean + deviation * np.array([-1.0, 1.0])  # float32 has steps of 0.0625 at a million
    if resolved:
        assert adapt(Numeric(), values).variance == deviation**2
    else:
        with pytest.raises(ValueError, match="`x` must vary by more than float32 rounds it"):
            adapt(Numeric(), values)


def test_a_deviation_too_small_to_divide_by_is_refused():
    values = 1.1e-7 * np.array([-1.0, 1.0])
    layer = mtl.FeatureEmbedding({"x": adapt(Numeric(), values)})
    np.testing.assert_allclose(ops.convert_to_numpy(layer({"x": values}))[:, 0], [-1.0, 1.0], rtol=1e-5)
    message = "`x` must have a standard deviation of at least 1e-07: multiply it before; received: 9e-08"
    with pytest.raises(ValueError, match=message):
        adapt(Numeric(), 0.9e-7 * np.array([-1.0, 1.0]))


@pytest.mark.parametrize("spec", [Numeric(nan_value=0.0), Bucketized()])
@pytest.mark.parametrize("kind", ["given", object])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array(["2024-01-01", "NaT"], "datetime64[ns]"), "received: '2024-01-01T00.*' of type datetime64"),
        (np.array(["NaT"], "datetime64[s]"), "received: 'NaT' of type datetime64"),
        (np.array([5], "timedelta64[s]"), "received: '5 seconds' of type timedelta64"),
        (np.array(["12"]), "received: '12' of type str"),
        (np.array([b"12"]), "received: .*12.* of type bytes"),
    ],
)
def test_dates_and_strings_are_no_numbers(spec, kind, values, message):
    with pytest.raises(ValueError, match="`x` must hold numbers; " + message):
        adapt(spec, values if kind == "given" else np.array([1.0, *values], object))


def test_nan_value_stands_in_for_nan_in_adapt_and_in_calls():
    spec = adapt(Numeric(nan_value=1.0), np.array([np.nan, 3.0]))
    assert (spec.mean, spec.variance) == (2.0, 1.0)
    layer = mtl.FeatureEmbedding({"x": spec})
    np.testing.assert_allclose(ops.convert_to_numpy(layer({"x": np.array([np.nan, 5.0])}))[:, 0], [-1.0, 3.0])


# Bucketized


def test_given_boundaries_put_equal_values_above_and_nan_last():
    spec = Bucketized(boundaries=(0.0, 18.0, 65.0))
    values = np.array([-np.inf, -0.5, 0.0, 17.9, 18.0, 64.0, 65.0, np.inf, np.nan], "float32")
    assert rows_of(spec, values) == [0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_boundaries_are_quantiles_where_no_value_is_heavy(rng):
    values = rng.permutation(1000).astype("float32")
    spec = adapt(Bucketized(num_buckets=10), values[:300], values[300:])
    np.testing.assert_allclose(spec.boundaries, np.quantile(values, np.arange(1, 10) / 10), atol=1)
    assert np.bincount(rows_of(spec, values), minlength=11).tolist() == pytest.approx([100] * 10 + [0], abs=2)


def test_heavy_values_get_buckets_of_their_own_and_leave_the_quantiles_to_the_rest(rng):
    gains = np.where(rng.random(1000) < 0.8, 0.0, rng.permutation(1000) + 1.0)
    gains[:150] = 99999.0
    values = gains.astype("float32")
    spec = adapt(Bucketized(num_buckets=8), values)
    rows = np.array(rows_of(spec, values))
    for heavy in (0.0, 99999.0):
        assert len(set(rows[values == heavy])) == 1
        assert set(values[rows == rows[values == heavy][0]]) == {np.float32(heavy)}
    rest = np.bincount(rows[(values > 0) & (values < 99999)])
    assert rest.max() < 1.5 * rest.sum() / 8


@pytest.mark.parametrize("start", [1.0, 1.0000001, 1e-30, -3e38])
def test_heavy_neighbours_in_float32_are_still_told_apart(start):
    low = np.float32(start)
    values = np.array([low, np.nextafter(low, np.float32(np.inf))] * 10)
    rows = rows_of(adapt(Bucketized(num_buckets=4), values), values)
    assert rows[:2] * 10 == rows
    assert rows[0] != rows[1]


def test_extreme_values_do_not_overflow_the_middle_between_them():
    spec = adapt(Bucketized(num_buckets=2), np.array([-3e38, 3e38, 3e38, np.nan, np.inf], "float32"))
    assert spec.boundaries == (float(np.float32(-3e38)), 0.0)


def test_a_single_distinct_value_still_gives_a_table():
    assert rows_of(adapt(Bucketized(), np.full(5, 7.0)), [6.0, 7.0, 8.0, np.nan]) == [0, 1, 1, 2]


@settings(max_examples=80, deadline=None)
@given(values=st.lists(finite, min_size=1, max_size=60), num_buckets=st.integers(2, 12))
def test_any_floats_give_ascending_boundaries_and_a_bucket_for_every_value(values, num_buckets):
    spec = adapt(Bucketized(num_buckets=num_buckets), np.array(values, "float32"))
    boundaries = np.array(spec.boundaries, "float32")
    assert np.isfinite(boundaries).all() and (np.diff(boundaries) > 0).all()
    bucket = np.searchsorted(boundaries, np.array(values, "float32"), side="right")
    assert bucket.max() < spec.rows(None) - 1  # the last row is NaN's
    distinct, counts = np.unique(np.array(values, "float32"), return_counts=True)
    for heavy in distinct[counts > len(values) / num_buckets] if distinct.size > 1 else []:
        own = bucket[np.array(values, "float32") == heavy][0]
        assert set(np.array(values, "float32")[bucket == own]) == {heavy}


# MultiValued


@pytest.mark.parametrize("kind", [str, bytes, object])
def test_padding_is_never_learned_as_a_string(kind):
    values = np.array([["a", ""], ["", ""], ["b", "a"]])
    values = np.char.encode(values) if kind is bytes else values.astype(kind)
    assert adapt(MultiValued(), values).of.vocabulary == ("a", "b")


def test_padding_is_never_learned_as_an_integer():
    assert adapt(MultiValued(Categorical(dtype="int64")), np.array([[3, -1], [-1, -1]])).of.vocabulary == (3,)


def column(*rows):
    """As a DataFrame holds rows of any kind."""
    return np.fromiter(rows, object, len(rows))


@pytest.mark.parametrize("kind", [list, tuple, np.array])
@pytest.mark.parametrize("by", [column, lambda *rows: list(rows)])
@pytest.mark.parametrize(
    ("dtype", "rows", "known"),
    [("string", [["a", "b"], [], ["b", ""]], ("b", "a")), ("int64", [[7, -1], [5, 7]], (7, 5))],
)
def test_rows_may_be_lists_of_any_length(kind, by, dtype, rows, known):
    assert adapt(MultiValued(Categorical(dtype=dtype)), by(*map(kind, rows))).of.vocabulary == known


def test_integers_of_numpy_among_objects_are_integers():
    rows = column(list(np.array([7, 5])), [7])
    assert adapt(MultiValued(Categorical(dtype="int64")), rows).of.vocabulary == (7, 5)
    assert adapt(Categorical(dtype="int64"), column(*np.array([5, 7, 7]))).vocabulary == (7, 5)


# All


@pytest.mark.parametrize(
    "spec",
    [
        Categorical(),
        Categorical(vocabulary=("b", "a"), oov_buckets=2, width=3),
        Categorical(hash_buckets=7, dtype="int64"),
        Numeric(),
        Numeric(mean=1.0, variance=2.0, nan_value=0.0),
        Bucketized(5),
        Bucketized(boundaries=(0.0, 1.5), width=2),
        MultiValued(Categorical(vocabulary=(3, 1), dtype="int64"), "sum"),
    ],
)
def test_a_specification_survives_json(spec):
    assert deserialize(json.loads(json.dumps(serialize(spec)))) == spec


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Categorical(dtype="float32"), r'`dtype` must be "string" or "int64"; received: dtype=\'float32\''),
        (lambda: Categorical(vocabulary=("a",), hash_buckets=3), "`vocabulary` and `hash_buckets` must not both be"),
        (lambda: Categorical(vocabulary=()), "`vocabulary` must hold distinct values, at least one; received: 0"),
        (lambda: Categorical(vocabulary=("a", "a")), "received: 2 values of which 1 are distinct"),
        (lambda: Categorical(vocabulary=(1,)), "`vocabulary` must hold values of type string.*received: 1"),
        (lambda: Categorical(vocabulary=("1",), dtype="int64"), "`vocabulary` must hold values of type int64"),
        (lambda: Categorical(hash_buckets=0), "`hash_buckets` must be an integer of at least 1; received: hash_b"),
        (lambda: Categorical(oov_buckets=0), "`oov_buckets` must be an integer of at least 1"),
        (lambda: Categorical(max_size=0), "`max_size` must be an integer of at least 1"),
        (lambda: Categorical(min_count=0), "`min_count` must be an integer of at least 1"),
        (lambda: Categorical(width=0), "`width` must be an integer of at least 1; received: width=0"),
        (lambda: Bucketized(width=0), "`width` must be an integer of at least 1; received: width=0"),
        (lambda: Numeric(mean=1.0), "`mean` and `variance` must be given together; received: mean=1.0"),
        (lambda: Numeric(mean=1.0, variance=-1.0), "`variance` must be at least 0; received: variance=-1.0"),
        *(
            (
                lambda name=name, bad=bad: Numeric(**{"mean": 0.0, "variance": 1.0, name: bad}),
                f"`{name}` must be a number that is finite in float32; received: {name}={bad!r}",
            )
            for name in ("mean", "variance", "nan_value")
            for bad in (np.nan, np.inf, 10**39, "0")
        ),
        (
            lambda: Numeric(mean=0.0, variance=1e-15),
            "deviation of at least 1e-07: multiply .* received: variance=1e-15",
        ),
        (lambda: Bucketized(1), "`num_buckets` must be an integer of at least 2; received: num_buckets=1"),
        *(
            (
                lambda cuts=cuts: Bucketized(boundaries=cuts),
                "`boundaries` must be ascending numbers, at least one; " + text,
            )
            for cuts, text in (
                ((), r"received: boundaries=\(\)"),
                ((2, 1), r"received: boundaries=\(2, 1\)"),
                ((1, 1), r"received: boundaries=\(1, 1\)"),
                (3.0, "received: boundaries=3.0"),
            )
        ),
        (
            lambda: Bucketized(boundaries=(1, np.nan)),
            r"`boundaries\[1\]` must be a number that is finite in float32; .*=nan",
        ),
        (lambda: Bucketized(boundaries="12"), r"`boundaries\[0\]` must be a number .*; received: boundaries\[0\]='1'"),
        (lambda: MultiValued(pooling="max"), "`pooling` must be .*; received: pooling='max'"),
        (lambda: MultiValued(Numeric()), "`of` must be a mtl.features.Categorical; received: of=Numeric"),
        (lambda: adapt(Numeric(), [1.0, np.nan]), "`x` must be finite; received: nan in row 1 .* nan_value"),
        (lambda: adapt(Numeric(nan_value=0.0), [np.inf]), "`x` must be finite; received: inf in row 0"),
        (lambda: adapt(Numeric(), ["a"]), "`x` must hold numbers; received: 'a'"),
        (
            lambda: adapt(Numeric(), np.array([1.0, [2.0]], object)),
            r"`x` must hold numbers; received: '\[2.0\]' of type list",
        ),
        (
            lambda: adapt(Bucketized(), np.array([1.0, {}], object)),
            "`x` must hold numbers; received: '{}' of type dict",
        ),
        (lambda: adapt(MultiValued(), column(["a"], None)), "`x` must hold values of type string.*received: None"),
        (lambda: adapt(MultiValued(), [["a"], [1]]), "`x` must hold values of type string.*received: 1"),
        (lambda: adapt(Numeric()), "`x` must have at least one value to adapt to; received: none"),
        (lambda: adapt(Bucketized(), ["a"]), "`x` must hold numbers; received: 'a'"),
        (lambda: adapt(Bucketized(), [np.nan]), "`x` must have at least one finite value to adapt to; received: none"),
        (
            lambda: Categorical(vocabulary=(1, 2**63), dtype="int64"),
            f"`vocabulary` must hold values that fit int64; received: {2**63}",
        ),
        (lambda: adapt(Categorical(), [1]), "`x` must hold values of type string.*received: 1"),
        (lambda: adapt(Categorical(dtype="int64"), [1.0]), "`x` must hold values of type int64.*received: 1.0"),
        (lambda: adapt(Categorical(), np.array(["a", None])), "`x` must hold values of type string.*received: None"),
        (lambda: adapt(Categorical(), [b"a", b"\xff"]), r"`x` must hold strings in UTF-8; received: b'\\xff'"),
        (lambda: adapt(MultiValued(), [[b"\xff", b""]]), r"`x` must hold strings in UTF-8; received: b'\\xff'"),
        (
            lambda: deserialize({"kind": "Categorical", "vocabulary": "v.txt"}),
            "values themselves in a stored .*'v.txt'",
        ),
        (lambda: adapt(Categorical(min_count=2), ["a"]), "`x` must have a value that occurs 2 times or more"),
        (lambda: adapt(MultiValued(), [[""]]), "`x` must have a value that occurs 1 times or more; received: none"),
    ],
)
def test_a_bad_specification_or_bad_data_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
