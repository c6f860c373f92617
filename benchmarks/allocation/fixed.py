"""Allocations that are not learned, for what learned ones are compared with."""

import numpy as np

NEVER = 1e-9  # beyond what noise in float32 turns over


def fix(layer, matrices):
    """Makes a built `mtl.GumbelMatrix` use these matrices, in training as well, and learn no others."""
    layer.set_probabilities([np.where(matrix, 1 - NEVER, NEVER) for matrix in matrices])
    layer.matrices.trainable = False
