"""Batch scoring on real files: what comes out, what is refused, and what a kill or a full disk leaves behind."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from conftest import UNMEASURED
from tiny_model import write_tiny_model

import mtl_layers as mtl
import serving
from mtl_layers._keras import keras
from serving.batch_scoring import ScoringSummary, main, score
from serving.scoring.column_tensors import column_array
from serving.scoring.part_files import PartFiles
from serving.scoring.row_readers import open_rows
from serving.scoring.score_files import write_parquet, write_tfrecord

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]  # serving never touches Keras

ROOT = Path(__file__).parents[1]
ROWS = pa.table(
    {
        "id": pa.array([70, 80, 90], pa.int32()),
        "country": ["fr", "de", "NA"],
        "price": pa.array([1.0, 2.0, 4.0], pa.float32()),
    }
)
CLICK = [1.0, 3.0, 3.0]  # price + code: 1 + 0, 2 + 1, 4 - 1


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model with the versions 2 (scale 10) and 10 (scale 1)."""
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_model(directory, version=2, scale=10.0)
    write_tiny_model(directory, version=10, scale=1.0)
    return directory


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model of multi-valued inputs that says what it was fed, with outputs of several classes and a failing task."""
    module = tf.Module()
    inputs = {
        "tags": tf.TensorSpec([None, None], tf.string, name="tags"),
        "counts": tf.TensorSpec([None, None], tf.int64, name="counts"),
        "weights": tf.TensorSpec([None, None], tf.float32, name="weights"),
        "pair": tf.TensorSpec([None, 2], tf.float32, name="pair"),
        "flag": tf.TensorSpec([None], tf.bool, name="flag"),
    }

    def told(tags, counts, weights, pair, flag):
        return {
            "tags_seen": tf.strings.reduce_join(tags, axis=1, separator="|"),
            "counts_seen": tf.strings.reduce_join(tf.strings.as_string(counts), axis=1, separator="|"),
            "weights_seen": weights,
            "classes": tf.concat([pair, tf.cast(flag, tf.float32)[:, None]], axis=1),  # [batch, 3]
            "half": tf.cast(pair[:, :1], tf.bfloat16),
        }

    def checked(price):
        return {"checked": tf.debugging.check_numerics(price, "price is not finite")}

    def is_nan(price):
        return {"is_nan": tf.cast(tf.math.is_nan(price), tf.float32)}

    def total(price):
        return {"total": tf.reduce_sum(price, keepdims=True)}

    def cube(price):
        return {"cube": price[:, :, None]}

    price = tf.TensorSpec([None, 1], tf.float32, name="price")
    fixed = tf.TensorSpec([2, 1], tf.float32, name="price")
    signatures = {
        "told": tf.function(told).get_concrete_function(**inputs),
        "fixed": tf.function(checked).get_concrete_function(price=fixed),
        **{f.__name__: tf.function(f).get_concrete_function(price=price) for f in (checked, is_nan, total, cube)},
    }
    path = tmp_path_factory.mktemp("wide") / "model"
    tf.saved_model.save(module, str(path), signatures=signatures)
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """50,000 rows in row groups of 7,000, and their scores in order."""
    draw = np.random.default_rng(0)
    table = pa.table(
        {
            "id": np.arange(50_000),
            "country": draw.choice(["fr", "de", "es"], 50_000),
            "price": draw.random(50_000, dtype=np.float32),
        }
    )
    path = tmp_path_factory.mktemp("many") / "many.parquet"
    pq.write_table(table, path, row_group_size=7_000)
    code = np.select([table["country"].to_numpy() == "fr", table["country"].to_numpy() == "de"], [0, 1], -1)
    return path, table["price"].to_numpy() + code.astype(np.float32)


def run(model, rows, tmp_path, name="rows.parquet", output="scores.parquet", **arguments):
    """Writes the rows (a table, or text or bytes for a file of that name), scores them and reads the scores."""
    path = tmp_path / name
    if isinstance(rows, pa.Table):
        pq.write_table(rows, path)
    elif rows is not None:
        path.write_bytes(rows.encode() if isinstance(rows, str) else rows)
    score(model, path, tmp_path / output, progress=False, **arguments)
    return pq.read_table(tmp_path / output) if output.endswith(".parquet") else None


def refused(error, model, rows, tmp_path, **arguments):
    """The text of the error; whatever it is, no output and no partial directory may be left."""
    with pytest.raises(error) as caught:
        run(model, rows, tmp_path, **arguments)
    assert not (tmp_path / "scores.parquet").exists()
    assert not (tmp_path / "scores.parquet.partial").exists()
    return str(caught.value)


def example(**features):
    def feature(values):
        if isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if isinstance(values[0], int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    features = {name: feature(values) for name, values in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_examples(path, examples):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for serialized in examples:
            writer.write(serialized)
    return path


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


# What comes out


def test_scores_keys_and_types(tiny, tmp_path):
    found = run(tiny, ROWS, tmp_path, keys=["country", "id"], batch_size=2)
    assert found.schema == pa.schema(
        {"country": pa.string(), "id": pa.int32(), "click": pa.float32(), "purchase": pa.float32()}
    )
    assert found.to_pydict() == {
        "country": ["fr", "de", "NA"],
        "id": [70, 80, 90],
        "click": CLICK,
        "purchase": [0.5, 1.5, 1.5],
    }
    assert sorted(os.listdir(tmp_path)) == ["rows.parquet", "scores.parquet"]


def test_summary_and_version(tiny, tmp_path):
    pq.write_table(ROWS, tmp_path / "rows.parquet")
    newest = score(tiny, tmp_path / "rows.parquet", tmp_path / "a.parquet", progress=False)
    assert newest == ScoringSummary(rows=3, resumed_rows=0, seconds=newest.seconds, version=10)
    chosen = score(tiny / "2", tmp_path / "rows.parquet", tmp_path / "b.parquet", "purchase", progress=False)
    assert chosen.version == 2
    assert pq.read_table(tmp_path / "b.parquet").to_pydict() == {"purchase": [5.0, 15.0, 15.0]}


def test_tasks_are_in_the_order_of_the_manifest(tiny, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny / "10", model)
    (model / "manifest.json").write_text(json.dumps({"format": 1, "tasks": ["purchase", "like", "click"]}))
    assert run(model, ROWS, tmp_path).column_names == ["purchase", "click"]
    (model / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json' must be a manifest with `tasks`: JSONDecodeError"):
        run(model, ROWS, tmp_path, overwrite=True)


def test_lossless_types_are_cast(tiny, tmp_path):
    table = pa.table(
        {
            "country": ROWS["country"].dictionary_encode(),
            "price": pa.array([1, 2, 4], pa.int8()),
            "key": pa.array(["x", None, "x"]).dictionary_encode(),
        }
    )
    assert run(tiny, table, tmp_path, keys=["key"]).to_pydict()["click"] == CLICK
    table = table.set_column(0, "country", ROWS["country"].cast(pa.large_binary()))
    table = table.set_column(1, "price", pa.array([1.0, 2.0, 4.0], pa.float64()))
    found = run(tiny, table, tmp_path, keys=["key"], overwrite=True)
    assert found.to_pydict()["click"] == CLICK
    assert found["key"].to_pylist() == ["x", None, "x"]


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.uint64()])
def test_integers_are_rounded_as_numpy_rounds(wide, tmp_path, kind):
    values = np.array([2**24 + 1, 2**31 - 1, 123_456_789])
    found = run(wide, pa.table({"price": pa.array(values, kind)}), tmp_path, signature="checked")
    assert found["checked"].to_pylist() == values.astype("float32").tolist()
    assert found["checked"][0].as_py() == 2**24
    csv = "price\n" + "".join(f"{value}\n" for value in values)
    assert run(wide, csv, tmp_path, name="rows.csv", signature="checked", overwrite=True).equals(found)


@pytest.mark.parametrize(
    "prices",
    [
        pa.array([1.0, None, float("nan"), 3.0], pa.float64()),
        pa.array([1.0, None, float("nan"), 3.0], pa.float32()).dictionary_encode(),
        pa.array([1, None, None, 3], pa.int64()),
        pa.array([True, None, None, False]),
        pa.array([[1.0], [None], [float("nan")], [3.0]]),
    ],
    ids=["float", "dictionary", "integer", "boolean", "list"],
)
def test_a_null_for_a_float_input_is_nan(wide, tmp_path, prices):
    found = run(wide, pa.table({"price": prices}), tmp_path, signature="is_nan")
    assert found["is_nan"].to_pylist() == [0.0, 1.0, 1.0, 0.0]


def test_a_null_is_what_training_saw(tmp_path):
    rows = pa.table({"price": [0.5, None, 2.5], "age": [20.0, 30.0, None]})
    features = mtl.FeatureEmbedding(
        {"price": mtl.features.Bucketized(boundaries=(1.0,)), "age": mtl.features.Numeric(25.0, 4.0, nan_value=25.0)}
    )
    inputs = features.inputs()
    model = keras.Model(inputs, mtl.Towers({"a": ()})(mtl.SharedBottom(1, (3,))(features(inputs))))
    serving.export(model, tmp_path / "model", verbose=False)
    trained_on = {name: rows[name].to_numpy().astype("float32")[:, None] for name in rows.column_names}
    assert [int(np.isnan(values).sum()) for values in trained_on.values()] == [1, 1]
    expected = model.predict(trained_on, verbose=0)["a"][:, 0]
    np.testing.assert_allclose(run(tmp_path / "model", rows, tmp_path)["a"], expected, rtol=1e-5)


def test_a_null_that_the_model_refuses_is_refused_by_name(wide, tmp_path):
    text = refused(RuntimeError, wide, pa.table({"price": [1.0, None]}), tmp_path, signature="checked")
    assert text.startswith("Signature 'checked' failed on rows 0 to 1: price is not finite : Tensor had NaN values")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"counts": pa.array([None], pa.int64())}, "Column 'counts' must not hold nulls; received: null in row 0"),
        (
            {"counts": pa.array([[1, None]], pa.list_(pa.int64()))},
            "Column 'counts' must not hold nulls; received: null in the list of row 0",
        ),
        ({"flag": pa.array([None], pa.bool_())}, "Column 'flag' must not hold nulls; received: null in row 0"),
    ],
)
def test_nulls_for_integers_and_booleans_are_refused(wide, tmp_path, change, text):
    told = {"tags": ["a"], "counts": [[1]], "weights": [[1.0]], "pair": [[1.0, 2.0]], "flag": [True]}
    assert refused(ValueError, wide, pa.table({**told, **change}), tmp_path, signature="told") == text


def test_lists_are_padded_to_the_longest_of_the_batch(wide, tmp_path):
    table = pa.table(
        {
            "tags": [["a", "b"], [], ["c"]],
            "counts": pa.array([[1], [2, 3, 4], []], pa.list_(pa.int16())),
            "weights": pa.array([[], [], [0.5]], pa.large_list(pa.float64())),
            "pair": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2)),
            "flag": [True, False, True],
        }
    )
    found = run(wide, table, tmp_path, signature="told", batch_size=2)
    assert found["tags_seen"].to_pylist() == [b"a|b", b"|", b"c"]
    assert found["counts_seen"].to_pylist() == [b"1|-1|-1", b"2|3|4", b"-1"]
    assert found["weights_seen"].to_pylist() == [[0.0], [0.0], [0.5]]
    assert found["classes"].type == pa.list_(pa.float32(), 3)
    assert found["classes"].to_pylist() == [[1, 2, 1], [3, 4, 0], [5, 6, 1]]
    assert found["half"].to_pylist() == [1.0, 3.0, 5.0]
    assert found.schema.field("half").type == pa.float32()

    words = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], pa.int8()), pa.array(["x", "y"]))
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 3, 3], pa.int32()), words)
    found = run(wide, table.set_column(0, "tags", lists), tmp_path, signature="told", overwrite=True)
    assert found["tags_seen"].to_pylist() == [b"y|x", b"y|", b"|"]

    table = table.set_column(0, "tags", pa.array(["a", "b", "c"])).set_column(3, "pair", pa.array([[1.0, 2.0]] * 3))
    found = run(wide, table, tmp_path, signature="told", overwrite=True)
    assert found["tags_seen"].to_pylist() == [b"a", b"b", b"c"]


def test_keys_of_any_type_and_name(tiny, tmp_path):
    nested = pa.array([{"a": 1, "b": [1]}, None, {"a": None, "b": []}])
    when = pa.array([1, 2, None], pa.timestamp("us", "UTC"))
    table = ROWS.append_column("user.id", when).append_column("user", nested)
    found = run(tiny, table, tmp_path, keys=["user.id", "user"], batch_size=2)
    assert found.select(["user.id", "user"]).equals(table.select(["user.id", "user"]))
    assert found["click"].to_pylist() == CLICK


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows(tiny, tmp_path, rows):
    found = run(tiny, ROWS.slice(0, rows), tmp_path, keys=["id"])
    assert found.schema == pa.schema({"id": pa.int32(), "click": pa.float32(), "purchase": pa.float32()})
    assert found.to_pydict() == {"id": [70][:rows], "click": [1.0][:rows], "purchase": [0.5][:rows]}


def test_row_groups_batches_and_parts_of_other_sizes(tiny, many, tmp_path):
    path, click = many
    summary = score(tiny, path, tmp_path / "a.parquet", batch_size=999, rows_per_part=5_000, progress=False)
    found = pq.read_table(tmp_path / "a.parquet")
    assert summary.rows == found.num_rows == 50_000
    np.testing.assert_allclose(found["click"], click, rtol=1e-6)
    # Parts end with a batch: 6 batches of 999 rows, and the rest.
    groups = pq.read_metadata(tmp_path / "a.parquet")
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [5_994] * 8 + [2_048]


def test_directory_of_parquet_parts(tiny, tmp_path):
    source = tmp_path / "rows"
    source.mkdir()
    pq.write_table(ROWS.slice(2), source / "part-1.parquet")
    pq.write_table(ROWS.slice(0, 2), source / "part-0.parquet")
    pq.write_table(ROWS.slice(0, 0), source / "part-2.parquet")
    (source / "_SUCCESS").touch()
    (source / "_temporary").mkdir()
    (source / ".part-0.parquet.crc").touch()
    assert run(tiny, None, tmp_path, name="rows", keys=["id"], batch_size=2)["id"].to_pylist() == [70, 80, 90]
    pq.write_table(ROWS.set_column(0, "id", pa.array(["1", "2", "3"])), source / "part-3.parquet")
    with pytest.raises(TypeError, match=r"part-3.parquet' must have the column id: int32, as '.*part-0.parquet' has"):
        run(tiny, None, tmp_path, name="rows", keys=["id"], overwrite=True)
    with pytest.raises(ValueError, match=r"`output` must not be the input, or in it"):
        score(tiny, source, source / "scores.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"`input` must hold .parquet files if it is a directory"):
        run(tiny, None, tmp_path, name="empty", overwrite=True)


def test_a_directory_with_rows_that_would_be_passed_over_is_refused(tiny, tmp_path):
    source = tmp_path / "rows"
    (source / "day=2").mkdir(parents=True)
    for name in ("a.parquet", "day=2/b.parquet", "c.PARQUET"):
        pq.write_table(ROWS, source / name)
    assert refused(ValueError, tiny, None, tmp_path, name="rows") == (
        "`input` must hold .parquet files and nothing else if it is a directory; "
        f"received: input='{source}', which also holds: c.PARQUET, day=2"
    )


def test_parts_of_a_directory_may_differ_in_whether_nulls_are_possible(tiny, tmp_path):
    source = tmp_path / "rows"
    source.mkdir()
    strict = pa.schema([field.with_nullable(False) for field in ROWS.schema])
    for number, table in enumerate([ROWS.cast(strict), ROWS, ROWS.cast(strict)]):
        pq.write_table(table, source / f"part-{number}.parquet")
    found = run(tiny, None, tmp_path, name="rows", keys=["id"], batch_size=2, rows_per_part=2)
    assert found.to_pydict() == {"id": [70, 80, 90] * 3, "click": CLICK * 3, "purchase": [c / 2 for c in CLICK] * 3}


def category(values, index):
    """A column as pandas writes a `category`: indexes as narrow as its own values allow."""
    words = sorted(set(values))
    return pa.DictionaryArray.from_arrays(pa.array([words.index(value) for value in values], index), pa.array(words))


@pytest.mark.parametrize("batch_size", [100, 64, 1000])
def test_dictionaries_may_differ_from_file_to_file(tiny, tmp_path, batch_size):
    """Together the files have more cities than one of them can count."""
    source = tmp_path / "rows"
    source.mkdir()
    cities = [f"city {number:03}" for number in range(300)]
    for part, index in enumerate((pa.int8(), pa.int16(), pa.int8())):
        some = cities[part * 100 : part * 100 + 100]
        lists = pa.ListArray.from_arrays(pa.array(range(0, 101), pa.int32()), category(some, index))
        country = category(["fr", "de"] * 50, index)
        columns = {"city": category(some, index), "cities": lists, "country": country, "price": [1.0] * 100}
        pq.write_table(pa.table(columns), source / f"{part}.parquet")
    arguments = {"keys": ["city", "cities"], "batch_size": batch_size, "rows_per_part": 100}
    found = run(tiny, None, tmp_path, name="rows", **arguments)
    assert found["city"].to_pylist() == cities
    assert found["cities"].to_pylist() == [[city] for city in cities]
    assert found["click"].to_pylist() == [1.0, 2.0] * 150


def test_lists_of_dictionaries_run_over_row_groups(tmp_path):
    """Of which each has a dictionary of its own."""
    cities = [f"city {number % 7}" for number in range(50)]
    lists = pa.ListArray.from_arrays(pa.array(range(0, 51, 2), pa.int32()), category(cities, pa.int8()))
    pq.write_table(pa.table({"cities": lists}), tmp_path / "rows.parquet", row_group_size=10)
    spec = tf.TensorSpec([None, None], tf.string, name="cities")
    for start in (0, 7, 10, 24, 25):
        batches = open_rows(tmp_path / "rows.parquet", {"cities": spec}, []).batches(start, 8)
        found = [cities for batch in batches for cities in batch["cities"].to_pylist()]
        assert found == lists.to_pylist()[start:]


def test_an_empty_line_of_a_single_column_is_a_row(tmp_path):
    (tmp_path / "rows.csv").write_text("g\na\n\nb\n")
    rows = open_rows(tmp_path / "rows.csv", {"g": tf.TensorSpec([None], tf.string, name="g")}, [])
    assert [batch.to_pydict() for batch in rows.batches(0, 2)] == [{"g": ["a", ""]}, {"g": ["b"]}]
    (tmp_path / "two.csv").write_text("g,h\na,1\n\nb,2\n")  # of two columns it is none
    rows = open_rows(tmp_path / "two.csv", {"g": tf.TensorSpec([None], tf.string, name="g")}, ["h"])
    assert [batch.num_rows for batch in rows.batches(0, 9)] == [2]


def test_csv(tiny, tmp_path):
    text = '\ufeffid,country,note,price\n007,fr,"two\nlines",1\n8,,,2.5\n9,NA,"a ""b""",4\n'
    found = run(tiny, text, tmp_path, name="rows.csv", keys=["id", "country", "note"], batch_size=2)
    assert found.to_pydict() == {
        "id": ["007", "8", "9"],
        "country": ["fr", "", "NA"],
        "note": ["two\nlines", "", 'a "b"'],
        "click": [1.0, 1.5, 3.0],
        "purchase": [0.5, 0.75, 1.5],
    }
    for empty in ("price,country\n", "price,country"):
        assert run(tiny, empty, tmp_path, name="rows.csv", overwrite=True).num_rows == 0


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('fr,1,ok\nde,2,"5 inch\nus,3,ok\n', 3),  # all that follows would be one value
        ('fr,1,ok\nde,2,"5 inch\nus,3,ok\nde,4,"6 inch\n', 3),  # and here all down to the next such mistake
        ('fr,1,"two\nlines"\nde,2,"cut', 4),
        ('fr,1,"6"" x"9\n', 2),
        ('"fr,1,ok\n', 2),
    ],
)
def test_a_quote_that_is_not_closed_loses_no_row(tiny, tmp_path, rows, line):
    text = refused(ValueError, tiny, "country,price,note\n" + rows, tmp_path, name="rows.csv")
    assert text == (
        f"`input` must close each quote at the end of its value; '{tmp_path / 'rows.csv'}' "
        f"has one in line {line} that is not"
    )


def test_quotes_within_values_are_taken_as_they_are(tiny, tmp_path):
    text = 'country,price,note\r\nfr,1,5" and 6"\r\n"de",2," ""a"", \r\n"\r\nNA,"4",""\r\n,2,"x"'
    found = run(tiny, text, tmp_path, name="rows.csv", keys=["note"])
    assert found["note"].to_pylist() == ['5" and 6"', ' "a", \r\n', "", "x"]


def test_a_key_of_a_csv_stays_text_where_it_is_a_feature_too(tiny, tmp_path):
    text = "country,price\nfr,007\nde, 0.50 \n"
    assert run(tiny, text, tmp_path, name="rows.csv", keys=["price", "country"]).to_pydict() == {
        "price": ["007", " 0.50 "],
        "country": ["fr", "de"],
        "click": [7.0, 1.5],
        "purchase": [3.5, 0.75],
    }
    path = tmp_path / "whole.csv"
    path.write_text("whole,other\n007,1\n-1,2\n")
    spec = tf.TensorSpec([None, 1], tf.int8, name="whole")
    (batch,) = open_rows(path, {"whole": spec}, ["whole"]).batches(0, 9)
    assert column_array("whole", batch["whole"], spec, 0).tolist() == [[7], [-1]]
    with pytest.raises(ValueError, match=r"Column 'price' must fit float32; received: type=string in the batch from r"):
        run(tiny, "country,price\nfr,dear\n", tmp_path, name="rows.csv", keys=["price"], overwrite=True)


@pytest.mark.parametrize("keys", [[], ["price"]])
def test_a_number_of_a_csv_that_float32_cannot_hold_is_refused(tiny, tmp_path, keys):
    text = refused(ValueError, tiny, "country,price\nfr,1\nfr,1e39\n", tmp_path, name="rows.csv", keys=keys)
    assert text == (
        "Column 'price' must fit float32; received: type=double in the batch from row 0: overflow encountered in cast"
    )
    found = run(tiny, "country,price\nfr,inf\nfr,3e38\n", tmp_path, name="rows.csv", keys=keys)
    assert found["click"].to_pylist() == [float("inf"), np.float32(3e38)]


def test_large_csv_equals_parquet_and_resumes(tiny, many, tmp_path):
    path, click = many
    pa_csv.write_csv(pq.read_table(path), tmp_path / "many.csv")
    arguments = {"batch_size": 512, "rows_per_part": 4_096, "progress": False}
    stop_after_parts(3, tiny, tmp_path / "many.csv", tmp_path / "scores.parquet", **arguments)
    summary = score(tiny, tmp_path / "many.csv", tmp_path / "scores.parquet", **arguments)
    assert (summary.rows, summary.resumed_rows) == (50_000, 3 * 4_096)
    np.testing.assert_allclose(pq.read_table(tmp_path / "scores.parquet")["click"], click, rtol=1e-6)


def test_tfrecord(tiny, tmp_path):
    examples = [
        example(id=[70], user=[b"u\xff"], share=[0.25], country=[b"fr"], price=[1.0]),
        example(id=[80], user=[b"v"], share=[0.5], country=[b"de"], price=[2.0]),
        example(id=[90], user=[b""], share=[1.0], country=[b"NA"], price=[4.0]),
    ]
    write_examples(tmp_path / "rows.tfrecord", examples)
    arguments = {"name": "rows.tfrecord", "keys": ["id", "user", "share"], "batch_size": 2}
    found = run(tiny, None, tmp_path, **arguments)
    keys = {"id": [70, 80, 90], "user": [b"u\xff", b"v", b""], "share": [0.25, 0.5, 1.0]}
    assert found.to_pydict() == {**keys, "click": CLICK, "purchase": [0.5, 1.5, 1.5]}
    # A signature of raw rows: the examples are parsed by its inputs.
    found = run(tiny, None, tmp_path, signature="click", output="one.parquet", **arguments)
    assert found.to_pydict() == {**keys, "click": CLICK}
    # Without keys there is nothing to parse for `examples`, and a key may be a feature too.
    assert run(tiny, None, tmp_path, name="rows.tfrecord", output="b.parquet").column_names == ["click", "purchase"]
    found = run(tiny, None, tmp_path, name="rows.tfrecord", output="c.parquet", signature="click", keys=["price"])
    assert found.to_pydict() == {"price": [1.0, 2.0, 4.0], "click": CLICK}
    # And serialized examples in a column of a table.
    table = pa.table({"examples": pa.array(examples, pa.binary())})
    assert run(tiny, table, tmp_path, signature="examples", output="d.parquet")["click"].to_pylist() == CLICK


def test_tfrecord_of_lists(wide, tmp_path):
    one = {"pair": [1.0, 2.0], "weights": [0.5]}
    first, second = example(tags=[b"a", b"b"], counts=[1], **one), example(counts=[2, 3], **one)
    write_examples(tmp_path / "rows.tfrecord", [first, second])
    text = refused(TypeError, wide, None, tmp_path, name="rows.tfrecord", signature="told")
    assert text == (
        "Input 'flag' must be text, an integer or float32 to be read from tf.train.Example; received: dtype=bool"
    )

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.string, name="tags"),
            tf.TensorSpec([None, None], tf.int32, name="counts"),
            tf.TensorSpec([None, 2], tf.float32, name="pair"),
        ]
    )
    def told(tags, counts, pair):
        joined = tf.strings.reduce_join(tf.strings.as_string(counts), axis=1, separator="|")
        return {"tags": tf.strings.reduce_join(tags, axis=1, separator="|"), "counts": joined, "sum": pair}

    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"serving_default": told})
    found = run(tmp_path / "model", None, tmp_path, name="rows.tfrecord")
    assert found.to_pydict() == {
        "counts": [b"1|-1", b"2|3"],
        "sum": [[1.0, 2.0], [1.0, 2.0]],
        "tags": [b"a|b", b"|"],
    }


def test_empty_tfrecord(tiny, tmp_path):
    found = run(tiny, b"", tmp_path, name="rows.tfrecords", keys=["id"])
    assert found.schema == pa.schema({"id": pa.binary(), "click": pa.float32(), "purchase": pa.float32()})
    assert found.num_rows == 0


def test_tfrecord_as_output(tiny, tmp_path):
    table = ROWS.append_column("name", pa.array(["x", None, "é"])).append_column("tags", pa.array([["a"], [], ["b"]]))
    run(tiny, table, tmp_path, output="scores.tfrecord", keys=["id", "name", "tags"], batch_size=2)
    records = list(tf.data.TFRecordDataset(str(tmp_path / "scores.tfrecord")).as_numpy_iterator())
    assert records[0] == example(id=[70], name=[b"x"], tags=[b"a"], click=[1.0], purchase=[0.5])
    last = tf.train.Example.FromString(records[2]).features.feature
    assert (last["name"].bytes_list.value[:], last["click"].float_list.value[:]) == (["é".encode()], [3.0])
    missing = tf.train.Example.FromString(records[1]).features.feature
    assert sorted(missing) == ["click", "id", "purchase", "tags"]
    assert len(records) == 3

    table = ROWS.append_column("share", pa.array([0.1, 0.2, 0.3], pa.float64()))
    with pytest.raises(TypeError) as caught:
        run(tiny, table, tmp_path, output="other.tfrecord", keys=["share"])
    assert str(caught.value) == (
        "Column 'share' must be text, bytes, integers of int64, booleans or float32 to be written as tf.train.Example; "
        "received: type=double; write Parquet instead"
    )


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"x", b"y", b"z"], pa.large_binary()),
        pa.array([b"x", b"y", b"z"], pa.binary(1)),
        pa.array(["x", "y", "z"]).dictionary_encode(),
        pa.array([["x"], ["y"], ["z"]], pa.large_list(pa.large_string())),
    ],
    ids=lambda column: str(column.type),
)
def test_keys_of_every_kind_of_text_are_written_as_tfrecord(tiny, tmp_path, column):
    run(tiny, ROWS.append_column("key", column), tmp_path, output="scores.tfrecord", keys=["key"])
    records = list(tf.data.TFRecordDataset(str(tmp_path / "scores.tfrecord")).as_numpy_iterator())
    assert records == [
        example(key=[key], click=[click], purchase=[click / 2])
        for key, click in zip((b"x", b"y", b"z"), CLICK, strict=True)
    ]


@pytest.mark.parametrize(
    ("column", "error", "text"),
    [
        (pa.array([1, 2, 2**63], pa.uint64()), TypeError, "Column 'key' must be .*; received: type=uint64; write Parq"),
        (
            pa.array([["a"], ["b"], ["c", None]]),
            ValueError,
            "Column 'key' must have no nulls .*; received: one in row 2",
        ),
        (pa.array([["a"], None, []], pa.list_(pa.string())), None, ""),
    ],
)
def test_keys_without_a_place_in_an_example_are_refused_before_their_rows_are_kept(tiny, tmp_path, column, error, text):
    table = ROWS.append_column("key", column)
    arguments = {"output": "scores.tfrecord", "keys": ["key"], "batch_size": 1, "rows_per_part": 1}
    if error is None:
        run(tiny, table, tmp_path, **arguments)
        return
    with pytest.raises(error, match=text):
        run(tiny, table, tmp_path, **arguments)
    assert len(list(tmp_path.glob("scores.tfrecord.partial/rows-*"))) == (2 if error is ValueError else 0)


def test_tfrecord_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError, match="No such file or directory"):
        write_tfrecord(tmp_path / "none" / "x.tfrecord", ROWS.schema, iter([ROWS]))


# The command


def test_command(tiny, tmp_path, capsys):
    pq.write_table(ROWS, tmp_path / "rows.parquet")
    command = ["--model", str(tiny), "--input", str(tmp_path / "rows.parquet"), "--output", str(tmp_path / "y.parquet")]
    assert main([*command, "--signature", "click", "--keys", "id,country", "--batch-size", "2"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("scored 3 rows in ")
    assert printed.out.endswith(f" s with version 10: {tmp_path / 'y.parquet'}\n")
    assert f"model: {tiny / '10'} (version 10), signature: click\n" in printed.err
    assert "100%" in printed.err
    assert "3.00/3.00" in printed.err
    assert pq.read_table(tmp_path / "y.parquet").column_names == ["id", "country", "click"]

    assert main([*command, "--quiet"]) == 1
    assert capsys.readouterr().err == (
        f"mtl-score: error: `output` must not exist yet; received: output='{tmp_path / 'y.parquet'}'; "
        "pass --overwrite (overwrite=True) to replace it\n"
    )
    assert main([*command, "--quiet", "--overwrite"]) == 0
    assert capsys.readouterr().err == ""
    assert pq.read_table(tmp_path / "y.parquet").column_names == ["click", "purchase"]


def test_an_interrupted_command_says_how_to_go_on(tiny, many, tmp_path, capsys):
    command = ["--model", tiny, "--input", many[0], "--output", tmp_path / "y.parquet", "--quiet"]
    command = [*map(str, command), "--batch-size=1000", "--rows-per-part=1000"]
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3, KeyboardInterrupt)
        assert main(command) == 1
    assert (
        capsys.readouterr().err == "mtl-score: interrupted; run the same command again (without --restart) to go on\n"
    )
    assert len(list((tmp_path / "y.parquet.partial").glob("*.arrow"))) == 3
    assert main(command) == 0
    np.testing.assert_allclose(pq.read_table(tmp_path / "y.parquet")["click"], many[1], rtol=1e-6)


def test_help_imports_nothing_heavy():
    code = """
        import sys
        from serving.batch_scoring import main
        try:
            main(["--help"])
        finally:
            heavy = {"tensorflow", "keras", "pyarrow", "mtl_layers"} & set(sys.modules)
            print("heavy:", sorted(heavy))
    """
    result = python(code, check=True)
    assert result.stdout.startswith("usage: mtl-score")
    assert result.stdout.endswith("heavy: []\n")


# What is refused


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            {"price": None},
            ValueError,
            "`input` must have a column for each input of the signature; missing: ['price']; "
            "'{rows}' has: ['id', 'country']",
        ),
        (
            {"price": ["a", "b", "c"]},
            TypeError,
            "Column 'price' must be float32 (input of shape (None, 1)); received: type=string",
        ),
        (
            {"price": [[1.0], [2.0, 3.0], []]},
            ValueError,
            "Column 'price' must hold lists of 1 values; received: 2 values in row 1",
        ),
        (
            {"country": [1, 2, 3]},
            TypeError,
            "Column 'country' must be string (input of shape (None, 1)); received: type=int64",
        ),
        ({"country": ["fr", "de", None]}, ValueError, "Column 'country' must not hold nulls; received: null in row 2"),
        (
            {"country": pa.array([["fr"], [None], ["de"]])},
            ValueError,
            "Column 'country' must not hold nulls; received: null in the list of row 1",
        ),
        (
            {"country": pa.array(["fr", "de", None]).dictionary_encode()},
            ValueError,
            "Column 'country' must not hold nulls; received: null in row 2",
        ),
        (
            {"price": pa.array([[1.0], None, [2.0]])},
            ValueError,
            "Column 'price' must not hold nulls; received: null in row 1",
        ),
        (
            {"price": [1.0, None, 2.0]},
            RuntimeError,
            "Output 'click' is NaN in row 1; look for NaN in that row's features",
        ),
        (
            {"price": [1.0, 2.0, 1e300]},
            ValueError,
            "Column 'price' must fit float32; received: type=double in the batch from row 2: "
            "overflow encountered in cast",
        ),
        (
            {"price": [1.0, 2.0, float("nan")]},
            RuntimeError,
            "Output 'click' is NaN in row 2; look for NaN in that row's features",
        ),
    ],
)
def test_bad_columns(tiny, tmp_path, change, error, text):
    table = ROWS
    for name, values in change.items():
        table = table.drop_columns([name])
        table = table if values is None else table.append_column(name, pa.array(values))
    assert refused(error, tiny, table, tmp_path, batch_size=2) == text.format(rows=tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (
            {"signature": "buy"},
            ValueError,
            "`signature` must be one of ['click', 'examples', 'purchase', 'serving_default']; "
            "received: signature='buy'",
        ),
        (
            {"keys": ["user"]},
            ValueError,
            "`input` must have a column for each key; missing: ['user']; '{rows}' has: ['id', 'country', 'price']",
        ),
        ({"keys": ["id", "id"]}, ValueError, "`keys` must differ from each other; received: keys=['id', 'id']"),
        ({"keys": "price"}, ValueError, "`keys` must be a list of names, such as ['price']; received: keys='price'"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an integer of at least 1; received: batch_size=0"),
        ({"batch_size": "8"}, ValueError, "`batch_size` must be an integer of at least 1; received: batch_size='8'"),
        ({"batch_size": 8.0}, ValueError, "`batch_size` must be an integer of at least 1; received: batch_size=8.0"),
        ({"batch_size": None}, ValueError, "`batch_size` must be an integer of at least 1; received: batch_size=None"),
        (
            {"rows_per_part": -1},
            ValueError,
            "`rows_per_part` must be an integer of at least 1; received: rows_per_part=-1",
        ),
        (
            {"output": "x.csv"},
            ValueError,
            "`output` must end in .parquet, .tfrecord or .tfrecords; received: output='{folder}/x.csv'",
        ),
        (
            {"output": "a/x.parquet"},
            FileNotFoundError,
            "`output` must be in an existing directory; received: output='{folder}/a/x.parquet'",
        ),
        (
            {"output": "rows.parquet"},
            ValueError,
            "`output` must not be the input, or in it; received: output='{rows}', input='{rows}'",
        ),
    ],
)
def test_bad_arguments(tiny, tmp_path, arguments, error, text):
    text = text.format(rows=tmp_path / "rows.parquet", folder=tmp_path)
    assert refused(error, tiny, ROWS, tmp_path, **arguments) == text


def test_an_output_that_is_a_directory_is_refused_before_the_first_row(tiny, tmp_path):
    (tmp_path / "scores.parquet").mkdir()
    with pytest.raises(ValueError) as caught:
        run(tiny, ROWS, tmp_path, overwrite=True)
    assert str(caught.value) == (
        f"`output` must be a file; received: output='{tmp_path / 'scores.parquet'}', which is a directory"
    )
    assert sorted(os.listdir(tmp_path)) == ["rows.parquet", "scores.parquet"]


def test_a_key_with_the_name_of_a_task(tiny, tmp_path):
    table = ROWS.append_column("click", ROWS["price"])
    text = refused(ValueError, tiny, table, tmp_path, keys=["id", "click"])
    assert text == "`keys` must not have the name of a task; received: ['click'], tasks=['click', 'purchase']"


def test_a_column_twice(tiny, tmp_path):
    table = pa.Table.from_arrays([*ROWS.columns, ROWS["price"]], names=[*ROWS.column_names, "price"])
    text = refused(ValueError, tiny, table, tmp_path)
    assert text == f"`input` must have each column once; '{tmp_path / 'rows.parquet'}' has more than one of: ['price']"


def test_bad_models(tiny, tmp_path):
    (tmp_path / "rows").mkdir()
    assert refused(ValueError, tmp_path / "rows", ROWS, tmp_path) == (
        "`model` must be a SavedModel (a directory with saved_model.pb) or a directory of numeric versions of one; "
        f"received: model='{tmp_path / 'rows'}'"
    )
    broken = tmp_path / "broken"
    shutil.copytree(tiny / "2", broken)
    (weights,) = (broken / "variables").glob("*.data-*")
    weights.write_bytes(weights.read_bytes()[:3])
    assert refused(ValueError, broken, ROWS, tmp_path) == (
        f"`model` must be a SavedModel that TensorFlow can load; received: model='{broken}': "
        "Read less bytes than requested"
    )


def test_a_graph_that_fails_says_where(wide, tmp_path):
    table = ROWS.set_column(2, "price", pa.array([1.0, 2.0, float("nan")]))
    text = refused(RuntimeError, wide, table, tmp_path, signature="checked", batch_size=2)
    assert text.startswith("Signature 'checked' failed on rows 2 to 2: price is not finite : Tensor had NaN values")
    assert "\n" not in text


def test_signatures_that_are_no_function_of_rows(wide, tmp_path):
    assert refused(RuntimeError, wide, ROWS, tmp_path, signature="total") == (
        "Output 'total' must have one row for each row of the input; received: 1 for the 3 rows from row 0"
    )
    assert refused(ValueError, wide, ROWS, tmp_path, signature="cube") == (
        "Output 'cube' must be [batch] or [batch, classes]; received: shape=(None, 1, 1)"
    )
    assert refused(TypeError, wide, ROWS, tmp_path, signature="fixed") == (
        "Input 'price' of the signature must be [batch] or [batch, values] to be fed from a column; "
        "received: shape=(2, 1)"
    )


def test_damaged_parquet(tiny, tmp_path):
    pq.write_table(ROWS, tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    text = refused(ValueError, tiny, whole[: len(whole) // 2], tmp_path)
    path = tmp_path / "rows.parquet"
    assert text.startswith(
        f"`input` must be a whole Parquet file; '{path}' cannot be read: Parquet magic bytes not found"
    )
    with pytest.raises(FileNotFoundError, match=r"`input` must exist; received: input='.*none.parquet'"):
        run(tiny, None, tmp_path, name="none.parquet")
    text = refused(ValueError, tiny, b"", tmp_path, name="rows.json")
    assert text.startswith("`input` must end in one of .parquet, .csv, .tfrecord, .tfrecords; received: input=")


def test_damaged_pages_are_met_while_reading(tiny, many, tmp_path):
    path, _ = many
    whole = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(5).column(2)
    start = column.dictionary_page_offset or column.data_page_offset
    whole[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    (tmp_path / "rows.parquet").write_bytes(whole)
    with pytest.raises(ValueError, match=r"`input` must be a whole Parquet file; '.*' cannot be read: "):
        run(tiny, None, tmp_path, batch_size=1_000, rows_per_part=1_000)
    assert len(list((tmp_path / "scores.parquet.partial").glob("*.arrow"))) > 30  # what was read before is kept


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "`input` must have a header row; received: input='{rows}', which is empty"),
        (
            "country,price\nfr,1\nde,\n",
            "{unreadable} In CSV column #1: CSV conversion error to double: invalid value ''",
        ),
        ("country,price\nfr,1\nde\n", "{unreadable} CSV parse error: Expected 2 columns, got 1: de"),
        (
            "country;price\nfr;1\n",
            "`input` must have a column for each input of the signature; missing: ['country', 'price']; "
            "'{rows}' has: ['country;price']",
        ),
    ],
)
def test_bad_csv(tiny, tmp_path, text, error):
    rows = tmp_path / "rows.csv"
    unreadable = (
        f"`input` must be a whole CSV file with values of the inputs' types; '{rows}' cannot be read from row 0 on:"
    )
    assert refused(ValueError, tiny, text, tmp_path, name="rows.csv") == error.format(rows=rows, unreadable=unreadable)


def test_csv_must_be_utf8(tiny, tmp_path):
    text = refused(ValueError, tiny, b"country,price\n\xe9,1\n", tmp_path, name="rows.csv")
    assert text == (
        f"`input` must be a whole CSV file with values of the inputs' types; '{tmp_path / 'rows.csv'}' cannot be read: "
        "'utf-8' codec can't decode byte 0xe9 in position 14: invalid continuation byte"
    )


def test_bad_csv_far_down_says_where(tiny, tmp_path):
    text = "country,price\n" + "fr,1.25\n" * 200_000 + "fr,dear\n"
    found = refused(ValueError, tiny, text, tmp_path, name="rows.csv", batch_size=50_000, rows_per_part=1_000_000)
    first = int(re.search(r"cannot be read from row (\d+) on: ", found).group(1))
    assert 100_000 < first <= 200_000
    assert found.endswith("invalid value 'dear'")


def test_bad_tfrecord(tiny, tmp_path):
    good, bad = example(id=[1], country=[b"fr"], price=[1.0]), example(id=[2], country=[b"de"], price=[1])
    path = write_examples(tmp_path / "rows.tfrecord", [good, bad])
    whole = path.read_bytes()
    arguments = {"name": "rows.tfrecord", "batch_size": 2}
    mismatch = "Key: price, Index: 1. Data types don't match. Data type: int64 but expected type: float"
    text = refused(RuntimeError, tiny, None, tmp_path, **arguments)
    assert text.startswith(f"Signature 'examples' failed on rows 0 to 1: Name: <unknown>, {mismatch}")
    text = refused(ValueError, tiny, None, tmp_path, signature="click", **arguments)
    assert text == f"'{path}' cannot be parsed in rows 0 to 1: Name: <unknown>, {mismatch}"
    assert refused(ValueError, tiny, None, tmp_path, keys=["user"], **arguments) == (
        f"`input` must have a column for each key; missing: ['user']; '{path}' has: ['country', 'id', 'price']"
    )
    unreadable = f"`input` must be a whole TFRecord file; '{path}' cannot be read: "
    assert refused(ValueError, tiny, whole[:-3], tmp_path, **arguments).startswith(f"{unreadable}truncated record")
    write_examples(path, [good, b"\xff\xfe\x01"])  # TensorFlow repeats it, and Python would not have it
    text = refused(RuntimeError, tiny, None, tmp_path, **arguments)
    assert text.startswith("Signature 'examples' failed on rows 0 to 1: Could not parse example input")
    text = refused(ValueError, tiny, None, tmp_path, signature="click", **arguments)
    assert text.startswith(f"'{path}' cannot be parsed in rows 0 to 1: Could not parse example input")
    write_examples(path, [b"junk!"])
    assert refused(ValueError, tiny, None, tmp_path, **arguments).startswith(f"{unreadable}Error parsing message")


# Kills, full disks, two at once


def python(code, *arguments, check=False, **options):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=check,
        **options,
    )


class Stopped(Exception):
    pass


def stop_at(patch, count, error):
    """Has the scorer stop with that error when so many parts are on the disk."""
    add = PartFiles.add

    def add_some(self, table):
        add(self, table)
        if len(list(self.directory.glob("*.arrow"))) == count:
            raise error

    patch.setattr(PartFiles, "add", add_some)


def stop_after_parts(count, *arguments, **options):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, count, Stopped)
        with pytest.raises(Stopped):
            score(*arguments, **options)


def test_a_second_scorer_is_refused_and_a_killed_one_is_resumed(tiny, many, tmp_path):
    path, _ = many
    arguments = {"batch_size": 64, "rows_per_part": 64, "keys": ["id"], "progress": False}
    score(tiny, path, tmp_path / "whole.parquet", **arguments)
    output = tmp_path / "scores.parquet"
    partial = tmp_path / "scores.parquet.partial"
    command = ["--model", tiny, "--input", path, "--output", output]
    command += ["--batch-size", "64", "--rows-per-part", "64", "--keys", "id", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.batch_scoring", *map(str, command)], cwd=ROOT, stderr=subprocess.PIPE
    )
    try:
        wait_for(lambda: len(list(partial.glob("*.arrow"))) >= 5, process)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(RuntimeError) as caught:
            score(tiny, path, output, **arguments)
    finally:
        process.kill()
        process.communicate()
    assert str(caught.value) == (f"Another process is scoring into '{output}'; wait for it or choose another output")
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    kept = 64 * len(list(partial.glob("*.arrow")))
    assert 5 * 64 <= kept < 50_000

    summary = score(tiny, path, output, **arguments)
    assert (summary.rows, summary.resumed_rows) == (50_000, kept)
    assert pq.read_table(output).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert not partial.exists()


def test_resume_computes_the_rest_only_and_the_same(tiny, many, tmp_path, capsys):
    path, _ = many
    arguments = {"batch_size": 300, "rows_per_part": 3_000, "keys": ["id"]}
    score(tiny, path, tmp_path / "whole.parquet", progress=False, **arguments)
    output = tmp_path / "scores.parquet"
    stop_after_parts(4, tiny, path, output, progress=False, **arguments)
    assert not output.exists()
    (tmp_path / "scores.parquet.partial" / "rows-000000012000-000000015000.arrow.tmp").write_bytes(b"half a pa")
    capsys.readouterr()
    assert score(tiny, path, output, **arguments).resumed_rows == 12_000
    assert "12.0k/50.0k" in capsys.readouterr().err  # the bar starts where the work does
    assert pq.read_table(output).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert sorted(os.listdir(tmp_path)) == ["scores.parquet", "whole.parquet"]


def test_resume_of_a_directory_and_of_tfrecord(tiny, many, tmp_path):
    path, click = many
    table = pq.read_table(path)
    source = tmp_path / "rows"
    source.mkdir()
    for part in range(5):
        pq.write_table(table.slice(part * 10_000, 10_000), source / f"{part}.parquet", row_group_size=3_000)
    write_tfrecord(tmp_path / "rows.tfrecord", table.schema, iter([table.slice(0, 15_000)]))
    for name, rows in (("rows", 50_000), ("rows.tfrecord", 15_000)):
        arguments = {"batch_size": 300, "rows_per_part": 600, "keys": ["id"], "progress": False}
        output = tmp_path / f"{name}.scores.parquet"
        stop_after_parts(20, tiny, tmp_path / name, output, **arguments)
        assert score(tiny, tmp_path / name, output, **arguments).resumed_rows == 12_000  # batches span the files
        found = pq.read_table(output)
        assert found["id"].to_pylist() == list(range(rows))
        np.testing.assert_allclose(found["click"], click[:rows], rtol=1e-6)


def test_another_identity_is_refused(tiny, many, tmp_path):
    path, _ = many
    shutil.copy(path, tmp_path / "rows.parquet")
    shutil.copytree(tiny, tmp_path / "model")
    output = tmp_path / "scores.parquet"
    arguments = {"batch_size": 1_000, "rows_per_part": 1_000, "progress": False}
    stop_after_parts(2, tmp_path / "model", tmp_path / "rows.parquet", output, **arguments)

    def text(**changes):
        with pytest.raises(ValueError) as caught:
            score(tmp_path / "model", tmp_path / "rows.parquet", output, **{**arguments, **changes})
        return str(caught.value)

    start = f"'{output}.partial' was begun with something else: "
    over = "throw away what was scored and start over: pass --restart (restart=True)"
    end = f". Go on with what it was begun with, or {over}"
    assert text(batch_size=500) == f"{start}batch_size was 1000 and is 500{end}"
    assert text(keys=["id"]).startswith(f"{start}columns was ['country: string', 'price: float'] and is ['country")
    assert "signature was 'serving_default' and is 'click'" in text(signature="click")
    newer = write_tiny_model(tmp_path / "model", version=11, scale=2.0)
    assert text().endswith(f"; version was 10 and is 11{end}")
    shutil.rmtree(newer)
    (tmp_path / "model" / "10" / "assets" / "words.txt").write_text("another vocabulary")
    assert text().startswith(f"{start}model was '")
    (tmp_path / "model" / "10" / "assets" / "words.txt").unlink()
    os.utime(tmp_path / "rows.parquet", ns=(0, 12345))
    assert "12345]]" in text()
    (tmp_path / "scores.parquet.partial" / "state.json").unlink()
    assert text() == f"'{output}.partial' holds parts without state.json; {over}"
    assert not output.exists()


def test_a_restart_throws_away_what_was_scored(tiny, many, tmp_path, capsys):
    output = tmp_path / "scores.parquet"
    arguments = {"batch_size": 1_000, "rows_per_part": 1_000, "progress": False}
    stop_after_parts(3, tiny / "2", many[0], output, **arguments)  # ten times the scores
    summary = score(tiny / "10", many[0], output, restart=True, **arguments)
    assert (summary.rows, summary.resumed_rows) == (50_000, 0)
    np.testing.assert_allclose(pq.read_table(output)["click"], many[1], rtol=1e-6)
    assert os.listdir(tmp_path) == ["scores.parquet"]

    output.unlink()
    stop_after_parts(3, tiny / "2", many[0], output, **arguments)
    command = ["--model", tiny / "10", "--input", many[0], "--output", output, "--batch-size=1000", "--quiet"]
    assert main([*map(str, command)]) == 1
    assert capsys.readouterr().err.endswith(": pass --restart (restart=True)\n")
    assert main([*map(str, command), "--restart"]) == 0
    np.testing.assert_allclose(pq.read_table(output)["click"], many[1], rtol=1e-6)


def test_a_run_goes_on_with_parts_of_another_size(tiny, many, tmp_path):
    output = tmp_path / "scores.parquet"
    stop_after_parts(3, tiny, many[0], output, batch_size=1_000, rows_per_part=1_000, progress=False)
    summary = score(tiny, many[0], output, batch_size=1_000, rows_per_part=20_000, progress=False)
    assert (summary.rows, summary.resumed_rows) == (50_000, 3_000)
    np.testing.assert_allclose(pq.read_table(output)["click"], many[1], rtol=1e-6)


def test_a_kill_before_the_first_part_binds_nobody(tmp_path):
    code = """
        import os, signal, sys
        import pyarrow as pa
        from serving.scoring.part_files import PartFiles
        from serving.scoring.score_files import write_parquet
        with PartFiles(sys.argv[1], pa.schema([]), {"version": 1}, write_parquet):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    output = tmp_path / "scores.parquet"
    assert python(code, output).returncode == -signal.SIGKILL
    assert sorted(os.listdir(tmp_path / "scores.parquet.partial")) == ["lock", "state.json"]
    with PartFiles(output, ROWS.schema, {"version": 2}, write_parquet) as parts:
        parts.add(ROWS)
        parts.publish()
    assert pq.read_table(output).equals(ROWS)
    assert os.listdir(tmp_path) == ["scores.parquet"]


def test_a_part_that_was_taken_away_is_missed(tiny, many, tmp_path):
    path, _ = many
    output = tmp_path / "scores.parquet"
    arguments = {"batch_size": 1_000, "rows_per_part": 1_000, "progress": False}
    stop_after_parts(3, tiny, path, output, **arguments)
    (tmp_path / "scores.parquet.partial" / "rows-000000001000-000000002000.arrow").unlink()
    with pytest.raises(ValueError, match=r"scores.parquet.partial' lacks the part from row 1000; throw away w"):
        score(tiny, path, output, **arguments)


def test_an_input_that_changes_under_way_is_refused(tiny, many, tmp_path):
    shutil.copy(many[0], tmp_path / "rows.parquet")
    add = PartFiles.add

    def add_and_touch(self, table):
        add(self, table)
        os.utime(tmp_path / "rows.parquet", ns=(0, 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartFiles, "add", add_and_touch)
        with pytest.raises(ValueError, match=r"`input` must not change while it is scored; received: input="):
            run(tiny, None, tmp_path)
    assert not (tmp_path / "scores.parquet").exists()


def test_overwrite_keeps_the_old_output_until_the_new_one_is_whole(tiny, many, tmp_path):
    path, _ = many
    output = tmp_path / "scores.parquet"
    pq.write_table(ROWS, output)
    arguments = {"batch_size": 1_000, "rows_per_part": 1_000, "progress": False, "overwrite": True}
    stop_after_parts(2, tiny, path, output, **arguments)
    assert pq.read_table(output).equals(ROWS)
    assert score(tiny, path, output, **arguments).resumed_rows == 2_000
    assert pq.read_table(output).column_names == ["click", "purchase"]


def test_an_output_that_appears_under_way_is_not_replaced(tmp_path):
    output = tmp_path / "scores.parquet"
    with PartFiles(output, ROWS.schema, {}, write_parquet) as parts:
        parts.add(ROWS)
        output.write_text("somebody else's")
        with pytest.raises(FileExistsError, match=r"`output` must not exist yet"):
            parts.publish()
    assert output.read_text() == "somebody else's"
    assert sorted(os.listdir(tmp_path / "scores.parquet.partial")) == [
        "lock",
        "rows-000000000000-000000000003.arrow",
        "state.json",
    ]


KILLED_EVERYWHERE = """
    # Forks a writer that kills itself at its n-th operation on the file system, for every n until it gets through.
    import json, os, pathlib, signal, sys
    import pyarrow as pa
    import pyarrow.parquet as pq
    from serving.scoring.part_files import PartFiles
    from serving.scoring.score_files import write_parquet

    output = pathlib.Path(sys.argv[1])
    table = pa.table({"row": list(range(10))})

    def write():
        with PartFiles(output, table.schema, {"input": "x"}, write_parquet, overwrite=True) as parts:
            while parts.rows < 10:
                parts.add(table.slice(parts.rows, 4))
            parts.publish()

    def fork(kill_at):
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1]
        count = 0
        def hook(event, arguments):
            nonlocal count
            if event == "open" or event.startswith(("os.", "fcntl.")):
                count += 1
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        write()
        os._exit(0)

    kills, seen = 0, set()
    while fork(kills + 1) == signal.SIGKILL:
        kills += 1
        if output.exists():
            assert pq.read_table(output).equals(table), kills
        seen.add((output.exists(), len(list(output.parent.glob("*.partial/*.arrow")))))
        assert fork(0) == 0, kills
        assert pq.read_table(output).equals(table), kills
        assert os.listdir(output.parent) == [output.name], kills
        output.unlink()
    assert pq.read_table(output).equals(table)
    assert os.listdir(output.parent) == [output.name]
    print(json.dumps(sorted(seen)))
"""


def test_a_kill_at_any_operation_loses_and_repeats_nothing(tmp_path):
    result = python(KILLED_EVERYWHERE, tmp_path / "scores.parquet")
    assert result.returncode == 0, result.stderr
    # Kills fell before the output was there, after each part, and after it was there, while the parts were removed.
    assert json.loads(result.stdout) == [[there, parts] for there in (False, True) for parts in range(4)]


def test_a_disk_that_is_full_at_once_leaves_nothing(tmp_path):
    code = """
        import resource, sys
        import pyarrow as pa
        from serving.scoring.part_files import PartFiles
        from serving.scoring.score_files import write_parquet
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        table = pa.table({"row": list(range(1000))})
        try:
            with PartFiles(sys.argv[1], table.schema, {}, write_parquet) as parts:
                parts.add(table)
        except OSError as error:
            print(error)
    """
    output = tmp_path / "scores.parquet"
    result = python(code, output, env=UNMEASURED)
    assert result.stderr == ""
    assert result.stdout.startswith(f"Cannot write '{output}': ")
    assert "File too large" in result.stdout
    assert result.stdout.endswith(
        "; nothing was kept. Free some space or mend the cause, and run the same command again (without --restart)\n"
    )
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_keeps_what_was_scored(tiny, many, tmp_path):
    # The limit is on one file: each part fits, the joined file does not.
    output = tmp_path / "scores.parquet"
    command = ["--model", tiny, "--input", many[0], "--output", output, "--keys", "id", "--quiet"]
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "serving.batch_scoring",
            *map(str, command),
            "--batch-size=1000",
            "--rows-per-part=1000",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        env=UNMEASURED,
    )
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if "mtl-score" in line]
    assert lines == [result.stderr.splitlines()[-1]]
    assert lines[0].startswith(f"mtl-score: error: Cannot write '{output}': ")
    assert "File too large" in lines[0]
    assert lines[0].endswith(
        "; the 50000 rows finished so far are kept. Free some space or mend the cause, and run the same command again "
        "(without --restart)"
    )
    assert "Traceback" not in result.stderr
    assert not output.exists()
    assert not list((tmp_path / "scores.parquet.partial").glob("*.tmp"))

    summary = score(tiny, many[0], output, keys=["id"], batch_size=1_000, rows_per_part=1_000, progress=False)
    assert (summary.rows, summary.resumed_rows) == (50_000, 50_000)
    found = pq.read_table(output)
    assert found["id"].to_pylist() == list(range(50_000))
    np.testing.assert_allclose(found["click"], many[1], rtol=1e-6)


def test_memory_does_not_grow_with_the_file(tiny, tmp_path):
    code = """
        import resource, sys
        sys.modules["mtl_layers"] = None  # an import of it would fail: a SavedModel stands alone
        import pyarrow as pa
        import pyarrow.parquet as pq
        from serving.batch_scoring import score
        words = pa.array([str(i).rjust(400) for i in range(64)])
        for rows in (50_000, 800_000):
            # Dictionary-encoded: a small file, 400 bytes a row once it is decoded.
            schema = pa.schema({"country": pa.string(), "price": pa.float32()})
            with pq.ParquetWriter("rows.parquet", schema) as writer:
                block = pa.DictionaryArray.from_arrays(pa.array([i % 64 for i in range(50_000)], pa.int32()), words)
                price = pa.nulls(50_000, pa.float32()).fill_null(1)
                table = pa.table({"country": block.cast(pa.string()), "price": price})
                for _ in range(rows // 50_000):
                    writer.write_table(table)
            del table, block
            print(score(sys.argv[1], "rows.parquet", f"{rows}.parquet", progress=False).rows)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # kilobytes
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tiny)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    small, peak, large, later_peak = map(int, result.stdout.split())
    assert (small, large) == (50_000, 800_000)
    assert later_peak - peak < 60_000  # the decoded table would take 300 MB more
