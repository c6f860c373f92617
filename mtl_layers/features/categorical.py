"""A feature with one category per row."""

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtl_layers._checks import check_positive
from mtl_layers._keras import keras
from mtl_layers.features.spec import Spec


@dataclass(frozen=True)
class Categorical(Spec):
    """A category, as a string or an integer, looked up in a vocabulary or hashed.

    Args:
        vocabulary: The known values: a sequence, or the path of a UTF-8 text file with one a line. The file is read
            once, here, and the attribute holds its values: saved and exported models need no file. Defaults to `None`:
            learned by `adapt`, most frequent first.
        hash_buckets: Number of buckets to hash values into, instead of a vocabulary. Defaults to `None`.
        dtype: `"string"` or `"int64"`, the type of the raw values. Defaults to `"string"`.
        oov_buckets: Rows for values outside the vocabulary, at least 1. Defaults to `1`.
        max_size: Largest vocabulary that `adapt` learns. Defaults to `None`, no limit.
        min_count: Values rarer than this in the data of `adapt` are left out. Defaults to `1`.
        width: Width of the embedding. Defaults to `None`, the width of the `FeatureEmbedding`.

    Raises:
        ValueError: If both `vocabulary` and `hash_buckets` are given, values of the vocabulary repeat or are not of the
            type, its file cannot be read or is empty, or an argument is out of range; by `adapt`, if values are not of
            the type, a string is not UTF-8 or no value is frequent enough.

    Example:
        >>> country = mtl.features.Categorical(vocabulary=("fr", "de"), width=4)
        >>> user = mtl.features.Categorical(hash_buckets=1_000_000, dtype="int64")
    """

    vocabulary: tuple | None = None
    hash_buckets: int | None = None
    dtype: str = "string"
    oov_buckets: int = 1
    max_size: int | None = None
    min_count: int = 1
    width: int | None = None

    def __post_init__(self):
        if self.dtype not in ("string", "int64"):
            raise ValueError(f'`dtype` must be "string" or "int64"; received: dtype={self.dtype!r}')
        if self.vocabulary is not None and self.hash_buckets is not None:
            raise ValueError(
                "`vocabulary` and `hash_buckets` must not both be given; "
                f"received: vocabulary={self.vocabulary!r}, hash_buckets={self.hash_buckets}"
            )
        for name in ("hash_buckets", "oov_buckets", "max_size", "min_count", "width"):
            optional = name in ("hash_buckets", "max_size", "width")
            if not (optional and getattr(self, name) is None):
                object.__setattr__(self, name, check_positive(name, getattr(self, name)))
        if isinstance(self.vocabulary, str | os.PathLike):
            object.__setattr__(self, "vocabulary", self._read(self.vocabulary))
        if self.vocabulary is not None:
            values = tuple(value.item() if isinstance(value, np.generic) else value for value in self.vocabulary)
            object.__setattr__(self, "vocabulary", values)
            self._check_types("vocabulary", values)
            if not self.vocabulary or len(set(self.vocabulary)) != len(self.vocabulary):
                raise ValueError(
                    f"`vocabulary` must hold distinct values, at least one; received: {len(self.vocabulary)} values "
                    f"of which {len(set(self.vocabulary))} are distinct"
                )

    @property
    def adapted(self):
        return self.vocabulary is not None or self.hash_buckets is not None

    def start(self):
        return Counter()

    def update(self, summary, values, name):
        values = np.asarray(values).ravel()
        if values.dtype.kind == "u":
            values = values.astype("int64")  # as a call reads them
        if values.dtype == object:  # as tf.data gives strings; and None or NaN among them cannot be sorted
            counted = Counter(values.tolist()).items()
        else:
            counted = zip(*(part.tolist() for part in np.unique(values, return_counts=True)), strict=True)
        for value, count in counted:
            value = value.item() if isinstance(value, np.generic) else value  # of object arrays
            try:
                summary[value.decode("utf-8") if isinstance(value, bytes) else value] += count
            except UnicodeDecodeError as error:
                raise ValueError(f"`{name}` must hold strings in UTF-8; received: {value!r}") from error
        return summary

    def finish(self, summary, name):
        if self.adapted:
            return self
        self._check_types(name, summary)
        # Ties in count are broken by value, so that the same data give the same table.
        ranked = sorted(summary.items(), key=lambda item: (-item[1], item[0]))
        kept = [value for value, count in ranked if count >= self.min_count][: self.max_size]
        if not kept:
            raise ValueError(f"`{name}` must have a value that occurs {self.min_count} times or more; received: none")
        return replace(self, vocabulary=tuple(kept))

    def _read(self, path):
        """The values in a file, one a line."""
        try:
            lines = Path(path).read_text("utf-8-sig").split("\n")  # splitlines would cut at more than ends of lines
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"`vocabulary` must be values or the path of a UTF-8 text file; received: vocabulary={path!r} ({error})"
            ) from error
        if not lines[-1]:
            lines.pop()  # the end of the last line begins no other
        if self.dtype == "string":
            return lines
        try:
            return [int(line) for line in lines]
        except ValueError as error:
            raise ValueError(
                f"`vocabulary` must hold one integer a line; received: vocabulary={path!r} ({error})"
            ) from error

    def _check_types(self, name, values):
        wanted = str if self.dtype == "string" else int
        strange = [value for value in values if not isinstance(value, wanted)]
        if strange:
            raise ValueError(
                f"`{name}` must hold values of type {self.dtype}, as its specification says; received: {strange[0]!r}"
            )
        large = [value for value in values if wanted is int and not -(2**63) <= value < 2**63]
        if large:
            raise ValueError(f"`{name}` must hold values that fit int64; received: {large[0]}")

    def preprocessor(self, name):
        """The Keras layer from raw values to row numbers."""
        if self.hash_buckets is not None:
            return keras.layers.Hashing(num_bins=self.hash_buckets, name=name)
        lookup = keras.layers.StringLookup if self.dtype == "string" else keras.layers.IntegerLookup
        # At the head of a vocabulary Keras takes its token for unknown values to be no value at all.
        token, more = ("[UNK]", "_") if self.dtype == "string" else (-1, -1)
        while token in self.vocabulary:
            token += more
        return lookup(
            vocabulary=list(self.vocabulary),
            num_oov_indices=self.oov_buckets,
            mask_token=None,
            oov_token=token,
            name=name,
        )

    def rows(self, preprocessor):
        """Number of rows in the table."""
        return self.hash_buckets or preprocessor.vocabulary_size()
