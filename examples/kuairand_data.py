"""Views of short videos with seven signals of feedback: KuaiRand, the views that were liked or hated.

Two files, in one folder: processed_standard_kcore_15.csv (from processed_data/ of
https://github.com/alessandrosocc/predict_explicit_negative_feedback_kuairand) and user_features_pure.csv (of
KuaiRand-Pure, https://kuairand.com), both packed by xz. The log is a selection from KuaiRand-27K, the views with an
explicit like or hate of users who gave both, so its rates are not those of traffic.
"""

import itertools
import lzma
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.csv
import tensorflow as tf

import mtl_layers as mtl

LOG, USERS = "processed_standard_kcore_15.csv.xz", "user_features_pure.csv.xz"
SIGNALS = {
    "click": "is_click",
    "long_view": "long_view",
    "like": "label",  # against hate
    "comment": "is_comment",
    "forward": "is_forward",
    "follow": "is_follow",
    "profile_entry": "is_profile_enter",
}
COUNTS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
BATCH = 256


def load(directory):
    """Features and signals, dicts of arrays with one entry per view, in the order of time; and their specifications."""
    try:
        features, log = views(directory)
    except FileNotFoundError as error:
        raise SystemExit(f"The data are missing: {error}\n{__doc__}") from error
    # Without the ids of user and video: with so few views of each, they are known by heart after two passes.
    features = {name: values for name, values in features.items() if name not in ("user_id", "video_id")}
    return features, {signal: log[name].astype("float32") for signal, name in SIGNALS.items()}, specs_of(features)


def views(directory):
    """What is known when a video is shown, and the log of what then was done; in the order of time, each view once."""
    log, users = _read(directory, LOG, "\t"), _read(directory, USERS, ",")
    order = np.argsort(log["time_ms"], kind="stable")
    events = np.stack([log[name][order] for name in ("user_id", "video_id", "time_ms")], axis=1)
    first = order[np.sort(np.unique(events, axis=0, return_index=True)[1])]
    log = {name: column[first] for name, column in log.items()}
    place = np.searchsorted(users["user_id"], log["user_id"])
    features = {
        "user_id": log["user_id"],
        "video_id": log["video_id"],
        "duration": log["duration_ms"].astype("float32"),
        "hour": log["hourmin"] // 100,
        "weekday": np.array([date.fromisoformat(str(day)).weekday() for day in log["date"]]),
    }
    for name, column in users.items():
        if name != "user_id" and not name.endswith("_range"):  # the ranges say again what the counts do
            features[name] = column[place].astype("float32") if name in COUNTS else _category(column[place])
    return features, log


def specs_of(features):
    return {
        name: mtl.features.Bucketized(20)
        if values.dtype == np.float32
        else mtl.features.Categorical(dtype="int64" if values.dtype == np.int64 else "string")
        for name, values in features.items()
    }


def parts(features, signals, shares=(0.7, 0.15)):
    """Training, validation and test in the order of time, each features and signals."""
    count = len(signals["click"])
    cuts = [0, *(np.cumsum(shares) * count).astype(int), count]
    return [
        tuple({name: values[start:end] for name, values in columns.items()} for columns in (features, signals))
        for start, end in itertools.pairwise(cuts)
    ]


def batches(features, signals, shuffle=False):
    """Batches of raw rows. Indices are shuffled and whole batches gathered: row by row is as slow as training."""
    sides = (features, signals)
    columns = tuple({name: tf.constant(values[:, None]) for name, values in side.items()} for side in sides)
    count = len(signals["click"])
    index = tf.data.Dataset.range(count)
    if shuffle:
        index = index.shuffle(count, seed=0)
    gather = lambda rows: tf.nest.map_structure(lambda values: tf.gather(values, rows), columns)  # noqa: E731
    return index.batch(BATCH).map(gather, num_parallel_calls=1).prefetch(2)


def _read(directory, name, delimiter):
    if directory is None:
        raise FileNotFoundError(f"--data must name the folder that holds {name}")
    with lzma.open(Path(directory) / name) as file:
        table = pyarrow.csv.read_csv(file, parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter))
    return {name: table[name].to_numpy() for name in table.column_names}


def _category(values):
    """Whole numbers stay numbers; where some are missing, or for words, strings."""
    return values if values.dtype == np.int64 else np.array([str(value) for value in values], object)
