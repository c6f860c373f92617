"""Regression tasks of known relation, as in the papers of MMoE, MTNAS and Gumbel-Matrix.

    w1 = u1,  w2 = p u1 + sqrt(1 - p^2) u2          u1, u2 orthonormal
    y_k = w_k.x + sum_{i=1..m} sin(i w_k.x + (i - 1)^2) + eps,   x ~ N(0, I),  eps ~ N(0, 0.01)

So a model of the best fit is left with an error of 0.01.
"""

import numpy as np

NOISE = 0.1


def directions(random, p, dim):
    """Two directions, each `[dim]`, whose cosine is p."""
    first, second = np.linalg.qr(random.normal(size=(dim, 2)))[0].T
    return first, p * first + np.sqrt(1 - p**2) * second


def labels(random, x, direction, sines=6):
    """Labels `[rows]` for a direction `[dim]`, `[rows, 1]` for one `[dim, 1]`, each with noise of its own."""
    along = x @ direction.astype(x.dtype)
    y = along + sum(np.sin(i * along + (i - 1) ** 2) for i in range(1, sines + 1))
    return (y + random.normal(scale=NOISE, size=y.shape)).astype(x.dtype)
