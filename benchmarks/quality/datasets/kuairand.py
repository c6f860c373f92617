"""KuaiRand, short videos: is the video clicked, watched long, and its author followed or the video forwarded.

A sample of KuaiRand-27K: the interactions with an explicit like or hate of users who gave both, so its rates are not
those of traffic.

Split: by time. The first 70 % of the rows train, the next 15 % validate, the last 15 % test; about three quarters of
the videos in the test rows are new, as they would be in production. Repeated rows are dropped. Features are what is
known when the video is shown: user, video, its duration, hour and day of the week, and the user's profile. Everything
that the view itself brings is out: play time, time in the comments, profile entry, comment, like or hate.
"""

import lzma
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.csv

import mtl_layers as mtl
from benchmarks.quality.datasets import PARTS, Dataset

SOURCE = """Give --data the folder with processed_standard_kcore_15.csv.xz (from
https://github.com/alessandrosocc/predict_explicit_negative_feedback_kuairand, processed_data/, packed by xz) and
user_features_pure.csv.xz (from KuaiRand-Pure, https://kuairand.com, packed by xz)."""
LOG, USERS = "processed_standard_kcore_15.csv.xz", "user_features_pure.csv.xz"
COUNTS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")


def load(directory, seed):
    """Reads the two files in `directory`."""
    log = _read(directory, LOG, "\t")
    users = _read(directory, USERS, ",")
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
        if name == "user_id" or name.endswith("_range"):  # the ranges say again what the counts do
            continue
        features[name] = column[place].astype("float32") if name in COUNTS else _category(column[place])
    specs = {
        name: mtl.features.Bucketized(20)
        if values.dtype == np.float32
        else mtl.features.Categorical(dtype="int64" if values.dtype == np.int64 else "string")
        for name, values in features.items()
    }
    labels = {
        "click": log["is_click"],
        "long_view": log["long_view"],
        "follow_or_forward": log["is_follow"] | log["is_forward"],
    }
    times = log["time_ms"]  # ascending
    cuts = np.searchsorted(times, times[[int(0.7 * len(times)), int(0.85 * len(times))]])  # no moment on both sides
    return Dataset(
        features=features,
        specs=specs,
        labels={task: values.astype("float32") for task, values in labels.items()},
        kinds=dict.fromkeys(labels, "binary"),
        split=dict(zip(PARTS, np.split(np.arange(len(times)), cuts), strict=True)),
    )


def _read(directory, name, delimiter):
    if directory is None:
        raise FileNotFoundError(f"--data must name the folder that holds {name}")
    with lzma.open(Path(directory) / name) as file:
        options = pyarrow.csv.ParseOptions(delimiter=delimiter)
        table = pyarrow.csv.read_csv(file, parse_options=options)
    return {name: table[name].to_numpy() for name in table.column_names}


def _category(values):
    """Whole numbers stay numbers; where some are missing, or for words, strings."""
    return values if values.dtype == np.int64 else np.array([str(value) for value in values], object)
