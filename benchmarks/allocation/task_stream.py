"""Batches of one task each, the tasks in turn, and the training of a model on them."""

import numpy as np


class TaskStream:
    """Draws from the rows of each task without end; a task's rows come in a new order each time they are through.

    Args:
        tasks: For each task its images and labels.
        batch: Rows of a batch.
        seed: Of the orders.
    """

    def __init__(self, tasks, batch, seed):
        self.tasks, self.batch = tasks, batch
        self.random = np.random.default_rng(seed)
        self._waiting = [np.zeros(0, int) for _ in tasks]

    def take(self, rounds):
        """Inputs and labels of so many batches of each task, one task's after another's."""
        found = []
        for task, (images, labels) in enumerate(self.tasks):
            while len(self._waiting[task]) < rounds * self.batch:
                self._waiting[task] = np.append(self._waiting[task], self.random.permutation(len(labels)))
            rows, self._waiting[task] = np.split(self._waiting[task], [rounds * self.batch])
            found.append((images[rows], labels[rows], np.full(len(rows), task, "int32")))
        images, labels, task = (self._in_turn(values, rounds) for values in zip(*found, strict=True))
        return {"images": images, "task": task}, labels

    def _in_turn(self, values, rounds):
        stacked = np.stack([each.reshape(rounds, self.batch, *each.shape[1:]) for each in values], axis=1)
        return stacked.reshape(-1, *stacked.shape[3:])  # [rounds * tasks * batch, ...]

    def fit(self, model, rounds, window):
        """Trains on so many batches of each task, `window` at a time; returns the mean loss of each window."""
        losses = []
        for start in range(0, rounds, window):
            inputs, labels = self.take(min(window, rounds - start))
            history = model.fit(inputs, labels, batch_size=self.batch, shuffle=False, verbose=0).history
            losses.append(history["loss"][0])
        return losses


def accuracies(model, tasks, batch=1000):
    """The share of rows that the model gets right, for each task."""
    found = []
    for task, (images, labels) in enumerate(tasks):
        number = np.full(len(labels), task, "int32")
        logits = model.predict({"images": images, "task": number}, batch_size=batch, verbose=0)
        found.append(float((logits.argmax(axis=1) == labels).mean()))
    return found
