"""Regression tasks of known relation, as in the papers of MMoE and Gumbel-Matrix.

    w1 = u1,  w2 = p u1 + sqrt(1 - p^2) u2          u1, u2 orthonormal
    y_k = w_k.x + sum_{i=1..6} sin(i w_k.x + (i - 1)^2) + eps,   x ~ N(0, I_128),  eps ~ N(0, 0.01)

So a model of the best fit is left with an error of 0.01.
"""

import numpy as np

DIM, SINES, NOISE = 128, 6, 0.1


def directions(random, p):
    """Two directions, each `[128]`, whose cosine is p."""
    first, second = np.linalg.qr(random.normal(size=(DIM, 2)))[0].T
    return first, p * first + np.sqrt(1 - p**2) * second


def inputs(random, rows):
    return random.normal(size=(rows, DIM)).astype("float32")


def labels(random, x, direction):
    """Labels `[rows, 1]`, each with noise of its own."""
    along = x @ direction[:, None].astype("float32")
    y = along + sum(np.sin(i * along + (i - 1) ** 2) for i in range(1, SINES + 1))
    return (y + random.normal(scale=NOISE, size=y.shape)).astype("float32")
