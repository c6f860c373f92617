"""How good a route is on a validation batch: one number per task."""

import numpy as np

from mtl_layers._checks import not_binary
from mtl_layers._keras import ops
from mtl_layers.losses import MaskedLoss, exact_auc
from mtl_layers.losses._sample_space import sample_space, weighed


def reward_function(model, reward):
    """Returns a function of labels, predictions and weights that gives the rewards, `[tasks]` or for a callable `[1]`.

    `reward` is `"auc"` (the exact AUC of each task), `"loss"` (minus each task's loss) or a callable of labels and
    predictions; the first two look at each task's own sample space, as the compiled `MaskedLoss` says. NaN says that
    a task has no reward on this batch.
    """

    def rewards(labels, predictions, weights):
        if callable(reward):
            found = ops.cast(reward(labels, predictions), "float32")
            if any(size != 1 for size in found.shape):
                raise ValueError(f"`reward` must give a scalar; received: shape={tuple(found.shape)}")
            return ops.reshape(found, (1,))
        losses = losses_by_task(model, labels, predictions)
        return ops.stack(
            [_one(reward, labels[task], predictions[task], losses[task], _of_task(weights, task)) for task in losses]
        )

    return rewards


def check_classes(model, batch, outputs):
    """Refuses labels without classes on a batch, since their AUC is a number that says nothing."""
    _, labels, *weights = batch
    for task, loss in losses_by_task(model, labels, outputs).items():
        own = np.asarray(labels[task])
        given = _of_task(weights[0], task) if weights else None
        given = None if given is None else np.asarray(given)
        inside, _ = _rows_of(sample_space, own, np.zeros((len(own), 1), "float32"), loss, given)
        if len(odd := not_binary(ops.convert_to_numpy(inside))):  # 0 outside
            raise ValueError(
                '`reward` must not be "auc" where labels are not 0 or 1: give "loss" or a callable; '
                f"received: {odd[0]} among the labels of {task!r}"
            )


def _one(reward, labels, predictions, loss, weights):
    """The reward of one task: NaN where this batch has none to give, infinite where the model has diverged."""
    if reward == "loss":
        labels, weights = _rows_of(sample_space, labels, predictions, loss, weights)
        # Not by calling the loss, which under a strategy is a replica's part of it.
        total = ops.sum(weights)
        found = ops.negative(ops.cast(ops.sum(weights * loss.call(labels, predictions)) / total, "float32"))
    else:
        labels, weights = _rows_of(weighed, labels, predictions, loss, weights)
        found = exact_auc(labels, predictions, weights)
    diverged = ops.logical_not(ops.all(ops.isfinite(predictions)))
    return ops.where(diverged, ops.full_like(found, float("inf")), found)


def _rows_of(function, labels, predictions, loss, weights):
    """What `sample_space` or `weighed` say of a task under the rule of its loss."""
    rule = {"missing_value": loss.missing_value, "require_weights": loss.require_weights}
    return function(labels, predictions, weights, name="the validation batch", **rule)


def losses_by_task(model, labels, predictions):
    """The `MaskedLoss` of each task that has a reward, which are those with a loss, in the order of the predictions."""
    if not isinstance(predictions, dict):
        raise ValueError(
            '`reward` must be a callable for a model whose outputs are not a dict of tasks; received: "auc" or "loss"'
        )
    if not isinstance(labels, dict):
        raise ValueError(f"`validation_data` must have labels as a dict of tasks; received: {type(labels).__name__}")
    given = getattr(model, "loss", None)  # Keras 2 has none before it is compiled
    losses = given if isinstance(given, dict) else dict.fromkeys(predictions, given)
    names = [name for name in predictions if losses.get(name) is not None]
    missing = [name for name in names if name not in labels]
    if missing:
        raise ValueError(f"`validation_data` must have labels of every task; missing: {missing}")
    return {name: losses[name] if isinstance(losses[name], MaskedLoss) else MaskedLoss(losses[name]) for name in names}


def _of_task(weights, task):
    if isinstance(weights, dict) and task not in weights:
        raise ValueError(
            f"`validation_data` must have weights of every task with a loss, if they are a dict; missing: {task!r}"
        )
    return weights[task] if isinstance(weights, dict) else weights
