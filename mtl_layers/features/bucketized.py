"""A feature with one number per row, cut into buckets that are embedded."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from mtl_layers._checks import check_finite, check_positive
from mtl_layers._keras import keras
from mtl_layers.features.numeric import numbers
from mtl_layers.features.spec import Spec


@dataclass(frozen=True)
class Bucketized(Spec):
    """A number cut into buckets, each with an embedding: for skewed numbers mostly better than a standardised one.

    `adapt` gives a value that fills more than a bucket's share of the rows (the 0 of a sparse count) a bucket of its
    own, and cuts the rest at equal quantiles. NaN has a bucket of its own, the last.

    Args:
        num_buckets: Number of quantiles to cut at. Defaults to `40`.
        boundaries: Ascending boundaries; a value equal to one belongs to the bucket above. Defaults to `None`, learned
            by `adapt`.
        width: Width of the embedding. Defaults to `None`, the width of the `FeatureEmbedding`.

    Raises:
        ValueError: If boundaries do not ascend or are not finite in float32, or `num_buckets` is below 2; by `adapt`,
            if values are no numbers (dates and strings are none) or none is finite.

    Example:
        >>> learned = mtl.features.Bucketized(num_buckets=20)
        >>> mtl.features.Bucketized(boundaries=(0.0, 18.0, 65.0)).rows(None)      # four buckets and one for NaN
        5
    """

    num_buckets: int = 40
    boundaries: tuple[float, ...] | None = None
    width: int | None = None

    dtype = "float32"

    def __post_init__(self):
        object.__setattr__(self, "num_buckets", check_positive("num_buckets", self.num_buckets, minimum=2))
        if self.width is not None:
            object.__setattr__(self, "width", check_positive("width", self.width))
        if self.boundaries is not None:
            given = enumerate(self.boundaries if isinstance(self.boundaries, Iterable) else ())
            boundaries = tuple(check_finite(f"boundaries[{place}]", value) for place, value in given)
            if not boundaries or (np.diff(boundaries) <= 0).any():
                raise ValueError(
                    f"`boundaries` must be ascending numbers, at least one; received: boundaries={self.boundaries!r}"
                )
            object.__setattr__(self, "boundaries", boundaries)

    @property
    def adapted(self):
        return self.boundaries is not None

    def start(self):
        return []

    def update(self, summary, values, name):
        return [*summary, numbers(values, name, "float32")]

    def finish(self, summary, name):
        if self.adapted:
            return self
        values = np.concatenate(summary) if summary else np.zeros(0, "float32")
        values = values[np.isfinite(values)]
        if not values.size:
            raise ValueError(f"`{name}` must have at least one finite value to adapt to; received: none")
        distinct, counts = np.unique(values, return_counts=True)
        heavy = distinct[counts > values.size / self.num_buckets]
        # A heavy value is fenced in half-way to its neighbours, so that rounding cannot push it over a boundary.
        lower, upper = distinct[:-1], distinct[1:]
        halves = (lower / 2 + upper / 2).astype("float32")
        halves = np.where((halves > lower) & (halves <= upper), halves, upper)  # neighbours have nothing between them
        is_heavy = np.isin(distinct, heavy)
        cuts = [halves[is_heavy[:-1] | is_heavy[1:]]]
        rest = values[~np.isin(values, heavy)]
        if rest.size:
            shares = np.linspace(0, 1, self.num_buckets + 1)[1:-1]
            cuts.append(np.quantile(rest, shares, method="nearest").astype("float32"))
        cuts = np.unique(np.concatenate(cuts)) if distinct.size > 1 else distinct
        return replace(self, boundaries=tuple(float(b) for b in cuts))

    def preprocessor(self, name):
        """The Keras layer from numbers to row numbers; NaN is for the caller to send to the last row."""
        return keras.layers.Discretization(bin_boundaries=list(self.boundaries), name=name)

    def rows(self, preprocessor):
        """Number of rows in the table."""
        return len(self.boundaries) + 2
