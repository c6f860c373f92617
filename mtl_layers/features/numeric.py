"""A feature with one number per row, standardised."""

from dataclasses import dataclass, replace

import numpy as np

from mtl_layers._checks import check_finite
from mtl_layers._keras import keras
from mtl_layers.features.spec import Spec

SMALLEST = 1e-7  # standard deviation: `Normalization` divides by no less


@dataclass(frozen=True)
class Numeric(Spec):
    """A number, standardised to mean 0 and variance 1: one column of the output.

    ```
    (x - mean) / sqrt(variance)
    ```

    Args:
        mean: Defaults to `None`, learned by `adapt`.
        variance: Defaults to `None`, learned by `adapt`. A constant feature has variance 0 and is only centred.
        nan_value: The raw number that stands in for NaN. Defaults to `None`: NaN is refused, in `adapt` and at every
            call, since one NaN would turn every prediction of its row into NaN.

    Raises:
        ValueError: If only one of `mean` and `variance` is given, one of the three is not finite in float32, or
            `variance` is negative, or so small that the standard deviation is below 1e-7; by `adapt`, also if values
            are no numbers (dates and strings are none), a number is not finite, or the model's float32 cannot resolve
            them: its steps near the mean are above 0.001 standard deviations, as for Unix seconds within a day.

    Example:
        >>> learned = mtl.features.Numeric()
        >>> known = mtl.features.Numeric(mean=40.0, variance=100.0, nan_value=40.0)
    """

    mean: float | None = None
    variance: float | None = None
    nan_value: float | None = None

    dtype = "float32"

    def __post_init__(self):
        for name in ("mean", "variance", "nan_value"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_finite(name, getattr(self, name)))
        if (self.mean is None) != (self.variance is None):
            raise ValueError(
                f"`mean` and `variance` must be given together; received: mean={self.mean}, variance={self.variance}"
            )
        if self.variance is not None and self.variance < 0:
            raise ValueError(f"`variance` must be at least 0; received: variance={self.variance}")
        if self.variance and np.sqrt(self.variance) < SMALLEST:
            raise ValueError(
                f"`variance` must be 0 or that of a standard deviation of at least {SMALLEST}: multiply the feature "
                f"before; received: variance={self.variance}"
            )

    @property
    def adapted(self):
        return self.mean is not None

    def start(self):
        return 0, 0.0, 0.0  # count, mean, sum of squared deviations

    def update(self, summary, values, name):
        values = finite_values(values, name, self.nan_value, "nan_value")
        if not values.size:
            return summary
        # Chan et al.'s pairwise update: sums of squares would cancel for large means.
        count, mean, deviations = summary
        delta, total = values.mean() - mean, count + values.size
        deviations += ((values - values.mean()) ** 2).sum() + delta**2 * count * values.size / total
        return total, mean + delta * values.size / total, deviations

    def finish(self, summary, name):
        count, mean, deviations = summary
        if self.adapted:
            return self
        if not count:
            raise ValueError(f"`{name}` must have at least one value to adapt to; received: none")
        variance = deviations / count
        # What rounding leaves of a constant is no spread to divide by.
        rounding = (abs(mean) * np.finfo("float64").eps) ** 2 * count
        if variance <= rounding:
            return replace(self, mean=float(mean), variance=0.0)
        deviation = np.sqrt(variance)
        if deviation < SMALLEST:
            raise ValueError(
                f"`{name}` must have a standard deviation of at least {SMALLEST}: multiply it before; "
                f"received: {deviation:.3g}"
            )
        with np.errstate(all="ignore"):  # beyond float32 the step is NaN
            step = np.spacing(np.float32(abs(mean)))
        if not step <= 1e-3 * deviation:
            raise ValueError(
                f"`{name}` must vary by more than float32 rounds it; received: mean={mean:.7g}, "
                f"standard deviation={deviation:.3g}, where float32 has steps of {step:.3g}. "
                "Subtract an origin in float64 before, such as the first day where these are times"
            )
        return replace(self, mean=float(mean), variance=float(variance))

    def preprocessor(self, name):
        """The Keras layer that standardises."""
        return keras.layers.Normalization(
            mean=self.mean, variance=self.variance or 1.0, axis=None, name=name, dtype="float32"
        )


def numbers(values, name, dtype):
    """Values as a vector of numbers."""
    values = np.asarray(values).ravel()
    # NumPy would make numbers of dates (even of NaT) and of strings of digits; the model takes neither.
    if values.dtype == object:
        strange = [value for value in values if isinstance(value, str | bytes | np.datetime64 | np.timedelta64)]
    else:
        strange = values if values.dtype.kind in "MmSU" else ()
    if not len(strange):
        try:
            return values.astype(dtype)
        except (TypeError, ValueError):
            strange = [value for value in values.tolist() if not _is_number(value)]
    value = strange[0]
    raise ValueError(f"`{name}` must hold numbers; received: {str(value)!r} of type {type(value).__name__}")


def _is_number(value):
    """Whether NumPy makes a number of an object, as it does of None."""
    try:
        return np.ndim(np.float64(value)) == 0
    except (TypeError, ValueError):
        return False


def finite_values(values, name, nan_value, remedy):
    """Numbers as a float64 vector with NaN replaced; what is then not finite is refused."""
    values = numbers(values, name, "float64")
    if nan_value is not None:
        values = np.where(np.isnan(values), nan_value, values)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(
            f"`{name}` must be finite; received: {values[bad[0]]} in row {bad[0]} of a batch. "
            f"To accept NaN, give its specification a {remedy}"
        )
    return values
