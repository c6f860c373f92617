"""What all methods share: the model around a sharing layer, its fit with the epoch chosen on validation, its scores."""

from dataclasses import dataclass, field

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

import mtl_layers as mtl
from benchmarks.quality.datasets import Dataset
from benchmarks.quality.encoding import Encoded
from mtl_layers._keras import keras

PATIENCE = 3  # epochs without a better validation loss before a fit ends


@dataclass(frozen=True)
class Settings:
    """What is tuned: learning rate, dropout (of embeddings and of the sharing part's layers), L2 of the embeddings."""

    learning_rate: float
    dropout: float
    l2: float


@dataclass
class Fitted:
    """What a fit cost and reached; `work` counts row passes, three for a row trained on and one for a row scored.

    `losses` are those of validation, epoch by epoch, and `weights` those of the epochs if they were to be kept.
    """

    validation_loss: float
    epochs: int
    work: int
    logs: dict = field(default_factory=dict)
    losses: list = field(default_factory=list)
    weights: list = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Problem:
    """An encoded data set, and how to build, fit and judge a model on it."""

    dataset: Dataset
    encoded: Encoded

    @property
    def tasks(self):
        return self.dataset.tasks

    def towers(self, tasks):
        kinds = {"binary": mtl.towers.Binary, "regression": mtl.towers.Regression}
        return mtl.Towers({task: kinds[self.dataset.kinds[task]](self.dataset.tower) for task in tasks})

    def network(self, sharing, settings, tasks=None):
        """A model from encoded rows to predictions. Its table and dropout are the same whatever the sharing layer."""
        inputs, parts = {}, []
        for name, values in self.encoded.inputs["train"].items():
            inputs[name] = keras.Input(values.shape[1:], dtype=values.dtype.name, name=name)
            parts.append(inputs[name])
            if name == "ids":
                regularizer = keras.regularizers.L2(settings.l2) if settings.l2 else None
                table = keras.layers.Embedding(
                    self.encoded.table_rows, self.dataset.width, embeddings_regularizer=regularizer, name="table"
                )
                embedded = keras.layers.Reshape((values.shape[1] * self.dataset.width,))(table(inputs[name]))
                parts[-1] = keras.layers.Dropout(settings.dropout)(embedded)
        x = parts[0] if len(parts) == 1 else keras.layers.Concatenate()(parts)
        return keras.Model(inputs, self.towers(tasks or self.tasks)(sharing(x)))

    def steps(self, epochs):
        """Training steps of so many epochs."""
        return epochs * -(-len(self.dataset.split["train"]) // self.dataset.batch)

    def fit(
        self, model, settings, *, epochs=None, patience=PATIENCE, callbacks=(), rate=None, from_start=False, keep=False
    ):
        """Trains, and leaves the weights of the epoch with the least validation loss.

        `rate` stands in for the learning rate; with `from_start` the weights before the first epoch are a choice, too;
        with `keep` the result has the weights of all epochs.
        """
        tasks = list(model.output)
        losses = {"binary": "binary_crossentropy", "regression": "mse"}
        model.compile(
            keras.optimizers.Adam(rate or settings.learning_rate),
            **mtl.losses.per_task({t: losses[self.dataset.kinds[t]] for t in tasks}, missing_value=float("nan")),
            # Keras 3 would choose XLA, which on CPU is ten times slower here: the scatter into the table.
            jit_compile=False,
        )
        model.optimizer.build(model.trainable_variables)  # or the first step makes them, and is traced again
        best = BestEpoch(self, patience, from_start, keep)
        history = model.fit(
            self.encoded.inputs["train"],
            {task: self.encoded.labels["train"][task] for task in tasks},
            batch_size=self.dataset.batch,
            epochs=epochs or self.dataset.epochs,
            callbacks=[*callbacks, best],
            verbose=0,
        )
        logs = {name: values[-1] for name, values in history.history.items()}
        trained = len(history.epoch)
        work = 3 * trained * len(self.dataset.split["train"])
        return Fitted(best.loss, best.epoch, work, logs, best.losses, best.kept)

    def predict(self, model, part):
        """Dict from task to predictions, one per row of the part."""
        return {
            task: np.ravel(values).astype("float64")
            for task, values in model.predict(self.encoded.inputs[part], batch_size=8192, verbose=0).items()
        }

    def scores(self, predictions, part):
        """Metric and loss per task over its own rows: exact AUC and log loss, or the squared error for both."""
        metric, loss = {}, {}
        for task, values in predictions.items():
            labels = self.encoded.labels[part][task]
            rows = ~np.isnan(labels)
            if self.dataset.kinds[task] == "binary":
                metric[task] = float(roc_auc_score(labels[rows], values[rows]))
                loss[task] = float(log_loss(labels[rows], np.clip(values[rows], 1e-7, 1 - 1e-7), labels=[0, 1]))
            else:
                metric[task] = loss[task] = float(np.mean((labels[rows] - values[rows]) ** 2))
        return {"metric": metric, "loss": loss, "summed_loss": sum(loss.values())}


class BestEpoch(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the least validation loss, and ends the fit when none came for a while.

    Keras' EarlyStopping looks at means over batches; a task with few rows needs the mean over its rows.
    """

    def __init__(self, problem, patience, from_start, keep):
        super().__init__()
        self.problem, self.patience, self.from_start, self.keep = problem, patience, from_start, keep
        self.loss, self.epoch, self.weights = float("inf"), None, None
        self.losses, self.kept = [], []

    def on_train_begin(self, logs=None):
        if self.from_start:
            self._judge(0)

    def on_epoch_end(self, epoch, logs=None):
        self._judge(epoch + 1)
        if self.patience is not None and epoch + 1 - self.epoch >= self.patience:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self.model.set_weights(self.weights)

    def _judge(self, epoch):
        predictions = self.problem.predict(self.model, "validation")
        loss = self.problem.scores(predictions, "validation")["summed_loss"]
        self.losses.append(loss)
        if self.keep:
            self.kept.append(self.model.get_weights())
        if self.epoch is None or loss < self.loss:
            self.loss, self.epoch, self.weights = loss, epoch, self.model.get_weights()
