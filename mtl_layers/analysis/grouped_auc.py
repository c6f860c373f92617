"""The GAUC of held-out rows in the logs of `fit`."""

import numpy as np

from mtl_layers._checks import check_positive, check_repeatable, not_binary
from mtl_layers._keras import keras, ops
from mtl_layers._leaves import native
from mtl_layers.analysis.gauc import gauc
from mtl_layers.losses import MaskedLoss


class GroupedAUC(keras.callbacks.Callback):
    """Writes the GAUC of each task on held-out data into the logs of every epoch, exact over all of its rows.

    Put it before callbacks that read the logs, such as EarlyStopping and TensorBoard.

    Args:
        data: Held-out rows: a `tf.data.Dataset` of batches `(features, labels)` or `(features, labels, weights)`, or
            one such tuple of arrays. Labels are a dict of tasks; so are weights, or one array for all tasks.
        group: Name of the feature that says to which group a row belongs, such as the user; or an array with the group
            of each row in the order of `data`, where the model does not read it.
        tasks: Names of the tasks to judge. Defaults to `None`, all outputs of one column.
        batch_size: Rows of a batch, where `data` is a tuple of arrays. Defaults to `1024`.

    Logs: `val_<task>_gauc`, by `mtl.analysis.gauc`. Rows whose label is missing, as the compiled
    `mtl.losses.MaskedLoss` says, do not count. For a task without a loss, such as a conditional probability of
    `mtl.ESMM`, the rule of the other tasks holds, if all of them have the same.

    Raises:
        ValueError: If `data` can be iterated over only once, the features have no column `group`, an array of groups
            is not as long as `data`, labels or a dict of weights lack a task, `tasks` names one that the model does not
            have or whose labels are not 0 or 1, `batch_size` is not positive, or as `gauc`.

    Example:
        >>> held_out = rows, {"click": np.array([0.0, 1.0, 0.0, 1.0, 0.0])}
        >>> per_user = mtl.analysis.GroupedAUC(held_out, np.array([7, 7, 7, 8, 8]), tasks=["click"])
        >>> # model.fit(..., callbacks=[per_user, keras.callbacks.EarlyStopping("val_click_gauc", mode="max")])
    """

    def __init__(self, data, group, tasks=None, batch_size=1024):
        super().__init__()
        self.data = check_repeatable("data", data)
        self.group = group
        self.tasks = tasks
        self.batch_size = check_positive("batch_size", batch_size)
        self._supports_tf_logs = True  # else Keras 2 hands out copies, and EarlyStopping does not see ours
        # Of a data set the number of rows shows at its end: `gauc` refuses other groups then.
        if isinstance(data, tuple) and not isinstance(group, str) and np.size(group) != (rows := _num_rows(data[1])):
            raise ValueError(
                f"`group` must have one entry for each row of `data`; received: {np.size(group)} for {rows} rows"
            )

    def on_train_begin(self, logs=None):
        first = next(iter(self._batches()), None)
        if first is None:
            raise ValueError("`data` must have at least one batch; received: none")
        self._labels(first, self._tasks())  # to say what is wrong before an epoch, and not after

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs.update({f"val_{task}_gauc": value for task, value in self.scores().items()})

    def scores(self):
        """Dict from task to the GAUC of the model as it is."""
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()  # JAX keeps the state of `fit` outside the variables until it is asked for
        tasks = self._tasks()
        groups, columns = [], {task: [] for task in tasks}
        for batch in self._batches():
            known = self._labels(batch, tasks)
            features = native(batch[0])
            predicted = self._predict(self._read_by_the_model(features))
            if isinstance(self.group, str):
                groups.append(np.ravel(np.asarray(features[self.group])))
            for task, (labels, weights) in known.items():
                columns[task].append((labels, np.ravel(ops.convert_to_numpy(predicted[task])), weights))
        groups = np.concatenate(groups) if groups else self.group
        found = {}
        for task, parts in columns.items():
            labels, scores, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
            found[task] = gauc(labels, scores, groups, weights)
        return found

    def _read_by_the_model(self, features):
        """All features but a group that the model has no input for: it may be text, which not every Keras takes."""
        inputs = getattr(self.model, "input", None)
        if not isinstance(self.group, str) or not isinstance(inputs, dict) or self.group in inputs:
            return features
        return {name: values for name, values in features.items() if name != self.group}

    def _predict(self, features):
        # `predict_on_batch` is compiled, but in Keras 3 it gives the whole batch to each replica of a strategy.
        strategy = getattr(self.model, "distribute_strategy", None)
        several = getattr(strategy, "num_replicas_in_sync", 1) > 1
        return self.model(features, training=False) if several else self.model.predict_on_batch(features)

    def _batches(self):
        """Batches `(features, labels, weights)`."""
        if not isinstance(self.data, tuple):
            for features, labels, *weights in self.data:
                yield features, labels, weights[0] if weights else None
            return
        features, labels, *weights = self.data
        weights = weights[0] if weights else None
        for start in range(0, _num_rows(labels), self.batch_size):
            yield tuple(_rows(part, slice(start, start + self.batch_size)) for part in (features, labels, weights))

    def _labels(self, batch, tasks):
        """For each task the labels and the weights of its rows; a batch without them is refused."""
        features, labels, weights = batch
        if isinstance(self.group, str) and (not isinstance(features, dict) or self.group not in features):
            known = sorted(features) if isinstance(features, dict) else type(features).__name__
            raise ValueError(
                f"`group` must be the name of a feature of `data`, or an array; received: group={self.group!r}, "
                f"features={known}"
            )
        missing = [task for task in tasks if not isinstance(labels, dict) or task not in labels]
        if missing:
            raise ValueError(f"`data` must have labels of every task in a dict; missing: {missing}")
        unweighed = [task for task in tasks if isinstance(weights, dict) and task not in weights]
        if unweighed:
            raise ValueError(f"`data` must have weights of every task if they are a dict; missing: {unweighed}")
        found = {task: self._labels_of(task, labels, weights) for task in tasks}
        for task, (own, of_rows) in found.items():
            if len(odd := not_binary(own[of_rows != 0])):
                raise ValueError(
                    "`tasks` must name tasks whose labels are 0 or 1; by default they are all outputs of one column; "
                    f"received: {odd[0]} among the labels of {task!r}"
                )
        return found

    def _tasks(self):
        outputs = self.model.output
        if not isinstance(outputs, dict):
            raise ValueError(f"`model` must have a dict of tasks as its output; received: {type(outputs).__name__}")
        tasks = [task for task in outputs if outputs[task].shape[-1] == 1] if self.tasks is None else list(self.tasks)
        unknown = [task for task in tasks if task not in outputs]
        if unknown:
            raise ValueError(f"`tasks` must be among the outputs {list(outputs)}; received: unknown {unknown}")
        return tasks

    def _labels_of(self, task, labels, weights):
        """The labels of a task and the weights of its rows, 0 where the label is missing."""
        labels = np.ravel(np.asarray(labels[task]))
        weights = weights[task] if isinstance(weights, dict) else weights
        weights = np.ones(len(labels)) if weights is None else np.ravel(np.asarray(weights))
        value = self._missing_value(task)
        if value is None:
            return labels, weights
        missing = np.isnan(labels) if np.isnan(value) else labels == value
        return labels, np.where(missing, 0.0, weights)

    def _missing_value(self, task):
        """The label of a task that stands for "no label"; None where every label is one."""
        losses = self.model.loss
        loss = losses.get(task) if isinstance(losses, dict) else losses
        judged = losses.values() if isinstance(losses, dict) and loss is None else [loss]
        found = {str(each.missing_value): each.missing_value for each in judged if isinstance(each, MaskedLoss)}
        return found.popitem()[1] if len(found) == 1 else None  # by `str`, since NaN is not equal to itself


def _num_rows(labels):
    return len(next(iter(labels.values())) if isinstance(labels, dict) else labels)


def _rows(part, rows):
    if isinstance(part, dict):
        return {name: values[rows] for name, values in part.items()}
    if isinstance(part, list | tuple) and np.ndim(part[0]):  # several inputs, and not a list of numbers
        return type(part)(values[rows] for values in part)
    return None if part is None else part[rows]
