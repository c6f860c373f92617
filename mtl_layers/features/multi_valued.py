"""A feature with any number of categories per row, pooled."""

from dataclasses import dataclass, field, replace

import numpy as np

from mtl_layers.features.categorical import Categorical
from mtl_layers.features.spec import Spec


@dataclass(frozen=True)
class MultiValued(Spec):
    """Any number of categories in a row, such as genres or the last items seen: their embeddings pooled.

    Rows come padded to one length, `[batch, longest]`, with `""` for strings and `-1` for integers; or as a
    `tf.RaggedTensor`. Padding takes no part; a row of padding alone gives zeros. A `tf.SparseTensor`, as
    `VarLenFeature` gives it, must be made dense before, by `tf.sparse.to_dense(x, default_value=-1)`: Keras would fill
    it up with 0.

    Args:
        of: The `Categorical` that its values are. Defaults to `Categorical()`.
        pooling: `"mean"` or `"sum"` of the embeddings. Defaults to `"mean"`.

    Raises:
        ValueError: If `pooling` is neither, or `of` is no `Categorical`.

    Example:
        >>> items = mtl.features.MultiValued(mtl.features.Categorical(hash_buckets=1000, dtype="int64"), pooling="sum")
    """

    of: Categorical = field(default_factory=Categorical)
    pooling: str = "mean"

    def __post_init__(self):
        if self.pooling not in ("mean", "sum"):
            raise ValueError(f'`pooling` must be "mean" or "sum"; received: pooling={self.pooling!r}')
        if not isinstance(self.of, Categorical):
            raise ValueError(f"`of` must be a mtl.features.Categorical; received: of={self.of!r}")

    @property
    def padding(self):
        """The value that fills up short rows."""
        return "" if self.dtype == "string" else -1

    @property
    def dtype(self):
        return self.of.dtype

    @property
    def width(self):
        return self.of.width

    @property
    def adapted(self):
        return self.of.adapted

    def check_type(self, values, name):
        if hasattr(values, "__array__"):  # in rows that are lists each value has a type of its own
            self.of.check_type(values, name)

    def start(self):
        return self.of.start()

    def update(self, summary, values, name):
        values = _flat(values)
        padding = self.padding.encode() if values.dtype.kind in "SO" and self.dtype == "string" else self.padding
        return self.of.update(summary, values[(values != padding) & (values != self.padding)], name)

    def finish(self, summary, name):
        return replace(self, of=self.of.finish(summary, name))

    def preprocessor(self, name):
        """The Keras layer from raw values to row numbers."""
        return self.of.preprocessor(name)

    def rows(self, preprocessor):
        """Number of rows in the table."""
        return self.of.rows(preprocessor)


def _flat(values):
    """All values as a vector: of an array, or of rows of any length, such as the lists in a column of a table."""
    values = np.asarray(values) if hasattr(values, "__array__") else np.fromiter(values, object, len(values))
    is_column = values.ndim == 1 and values.dtype == object
    if not is_column or not any(isinstance(row, list | tuple | np.ndarray) for row in values):
        return values.ravel()
    return np.concatenate([np.ravel(np.asarray(row, object)) for row in values])
