"""How good a route is on a validation batch, per task, as one traced function."""

from mtl_layers._keras import BACKEND, ops
from mtl_layers.losses import MaskedLoss, exact_auc
from mtl_layers.losses._sample_space import sample_space


def reward_function(model, supernet, reward):
    """Returns a function from a validation batch to the rewards of the sampled route, `[rewards]` as NumPy.

    `reward` is `"auc"` (the exact AUC of each task), `"loss"` (minus each task's loss) or a callable of labels and
    predictions; the first two look at each task's own sample space, as the compiled `MaskedLoss` says.
    """
    if reward not in ("auc", "loss") and not callable(reward):
        raise ValueError(f'`reward` must be "auc", "loss" or a callable; received: reward={reward!r}')

    def rewards(labels, predictions, weights):
        if callable(reward):
            return ops.reshape(ops.cast(reward(labels, predictions), "float32"), (1,))
        labels, predictions, losses = _by_task(model, labels, predictions)
        return ops.stack(
            [
                _one(reward, labels[task], predictions[task], losses[task], _of_task(weights, task))
                for task in predictions
            ]
        )

    return _traced(model, supernet, rewards)


def _one(reward, labels, predictions, loss, weights):
    """The reward of one task: NaN where this batch has none to give, infinite where the model has diverged."""
    rule = {"missing_value": loss.missing_value, "require_weights": loss.require_weights}
    labels, weights = sample_space(labels, predictions, weights, name="the validation batch", **rule)
    if reward == "loss":
        found = ops.negative(ops.cast(MaskedLoss(loss.loss)(labels, predictions, weights), "float32"))
        found = ops.where(ops.sum(weights) > 0, found, ops.full_like(found, float("nan")))
    elif predictions.shape[-1] != 1:
        raise ValueError(
            '`reward` must not be "auc" where a task has several classes: give "loss" or a callable; '
            f"received: predictions of shape {tuple(predictions.shape)}"
        )
    else:
        found = exact_auc(labels, predictions, weights)
    diverged = ops.logical_not(ops.all(ops.isfinite(predictions)))
    return ops.where(diverged, ops.full_like(found, float("inf")), found)


def _by_task(model, labels, predictions):
    if not isinstance(predictions, dict):
        raise ValueError(
            '`reward` must be a callable for a model whose outputs are not a dict of tasks; received: "auc" or "loss"'
        )
    if not isinstance(labels, dict):
        raise ValueError(f"`validation_data` must have labels as a dict of tasks; received: {type(labels).__name__}")
    missing = [task for task in predictions if task not in labels]
    if missing:
        raise ValueError(f"`validation_data` must have labels of every task; missing: {missing}")
    losses = model.loss if isinstance(model.loss, dict) else dict.fromkeys(predictions, model.loss)
    losses = {task: loss if isinstance(loss, MaskedLoss) else MaskedLoss(loss) for task, loss in losses.items()}
    return labels, predictions, losses


def _of_task(weights, task):
    return weights[task] if isinstance(weights, dict) else weights


def _traced(model, supernet, rewards):
    """Compiles the scoring once: with `tf.function`, or with `jax.jit` over the model's variables."""
    if BACKEND == "jax":
        import jax

        def scored(trainable, others, inputs, labels, weights):
            with supernet.sampled():
                predictions, _ = model.stateless_call(trainable, others, inputs, training=False)
            return rewards(labels, predictions, weights)

        compiled = jax.jit(scored)

        def run(inputs, labels, weights):
            trainable = [variable.value for variable in model.trainable_variables]
            others = [variable.value for variable in model.non_trainable_variables]
            return ops.convert_to_numpy(compiled(trainable, others, inputs, labels, weights))

        return run

    import tensorflow as tf

    @tf.function
    def scored(inputs, labels, weights):
        with supernet.sampled():
            predictions = model(inputs, training=False)
        return rewards(labels, predictions, weights)

    return lambda inputs, labels, weights: scored(inputs, labels, weights).numpy()


def update_function(model, optimizer, variable):
    """Returns a function from a gradient to one step of the optimizer, compiled where that is TensorFlow's."""
    if BACKEND != "tensorflow":
        return lambda gradient: optimizer.apply_gradients([(gradient, variable)])
    import tensorflow as tf

    strategy = model.distribute_strategy

    def on_replica(gradient):
        # An optimizer sums the gradients of the replicas, and this one is the same on all.
        optimizer.apply_gradients([(gradient / strategy.num_replicas_in_sync, variable)])

    @tf.function  # eagerly, Adam on a few hundred numbers takes as long as the scoring
    def step(gradient):
        strategy.run(on_replica, args=(gradient,))

    return step
