"""Raw features to row numbers and numbers, once per data set instead of once per batch."""

from dataclasses import dataclass

import numpy as np

import mtl_layers as mtl
from mtl_layers._keras import keras
from mtl_layers.features import Numeric


@dataclass(frozen=True)
class Encoded:
    """What a model reads, by part of the split.

    Args:
        inputs: Dict from part to a dict with `ids` `[rows, fields]`, rows of one embedding table, and `numbers`
            `[rows, fields]`; what a data set does not have is left out.
        labels: Dict from part to a dict from task to float32 labels, NaN outside the task's sample space.
        table_rows: Rows of the embedding table; 0 if there is none.
        dim: Width of the features after embedding.
    """

    inputs: dict
    labels: dict
    table_rows: int
    dim: int


def encode(dataset):
    """Runs the package's own `FeatureEmbedding` over all rows, with row numbers in the place of its table.

    It has width 1 and row i holds i: so the lookups, vocabularies and quantiles, learned on the training rows alone,
    are those of the layer that a user would put into the model.
    """
    embedding = mtl.FeatureEmbedding(dataset.specs, width=1)
    embedding.adapt({name: values[dataset.split["train"]] for name, values in dataset.features.items()})
    embedding.build(dict.fromkeys(dataset.specs, (None, 1)))
    table_rows = embedding.tables[0].input_dim if embedding.tables else 0
    for table in embedding.tables:
        table.set_weights([np.arange(table_rows, dtype="float32")[:, None]])
    model = keras.Model(inputs := embedding.inputs(), embedding(inputs))
    numeric = sum(isinstance(spec, Numeric) for spec in dataset.specs.values())
    fields = len(dataset.specs) - numeric
    encoded = {}
    for part, rows in dataset.split.items():
        columns = {name: dataset.features[name][rows] for name in dataset.specs}
        values = _run(model, columns, len(rows))
        parts = {"ids": values[:, :fields].round().astype("int32"), "numbers": values[:, fields:]}
        encoded[part] = {name: array for name, array in parts.items() if array.shape[1]}
    mtl.losses.check_labels(list(dataset.tasks), dataset.labels, missing_value=float("nan"))
    labels = {part: {task: y[rows] for task, y in dataset.labels.items()} for part, rows in dataset.split.items()}
    return Encoded(encoded, labels, table_rows, fields * dataset.width + numeric)


def _run(model, columns, rows, batch=16_384):
    made = []
    for start in range(0, rows, batch):
        chunk = {
            name: np.asarray(values[start : start + batch], str if values.dtype == object else None)[:, None]
            for name, values in columns.items()
        }
        made.append(np.asarray(model(chunk)))
    return np.concatenate(made)
