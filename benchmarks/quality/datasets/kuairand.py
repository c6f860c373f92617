"""KuaiRand, short videos: is the video clicked, watched long, and its author followed or the video forwarded.

A sample of KuaiRand-27K: the interactions with an explicit like or hate of users who gave both, so its rates are not
those of traffic.

Split: by time. The first 70 % of the rows train, the next 15 % validate, the last 15 % test; about three quarters
of the test rows show a video that is new, as they would in production. Repeated rows are dropped. Features are what is
known when the video is shown: user, video, its duration, hour and day of the week, and the user's profile. Everything
that the view itself brings is out: play time, time in the comments, profile entry, comment, like or hate.
"""

import sys
from pathlib import Path

import numpy as np

from benchmarks.quality.datasets import PARTS, Dataset

sys.path.append(str(Path(__file__).resolve().parents[3] / "examples"))
import kuairand_data

SOURCE = f"Give --data the folder with the files: {kuairand_data.__doc__}"


def load(directory, seed):
    """Reads the two files in `directory`."""
    features, log = kuairand_data.views(directory)
    labels = {
        "click": log["is_click"],
        "long_view": log["long_view"],
        "follow_or_forward": log["is_follow"] | log["is_forward"],
    }
    times = log["time_ms"]  # ascending
    cuts = np.searchsorted(times, times[[int(0.7 * len(times)), int(0.85 * len(times))]])  # no moment on both sides
    return Dataset(
        features=features,
        specs=kuairand_data.specs_of(features),
        labels={task: values.astype("float32") for task, values in labels.items()},
        kinds=dict.fromkeys(labels, "binary"),
        split=dict(zip(PARTS, np.split(np.arange(len(times)), cuts), strict=True)),
    )
