"""Student's interval of a mean."""

import numpy as np
from scipy import stats


def t_interval(values, confidence):
    """Mean and half the width of its t-interval, along the first axis; the half is 0 for a single value."""
    values = np.asarray(values, "float64")
    if len(values) < 2:
        return values.mean(axis=0), np.zeros(values.shape[1:])
    spread = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return values.mean(axis=0), stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * spread
