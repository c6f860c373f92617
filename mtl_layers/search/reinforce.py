"""One step of REINFORCE on the routes of a supernet, compiled: score routes on a validation batch, move `alpha`."""

from mtl_layers._keras import BACKEND, ops
from mtl_layers._leaves import native


def reinforce_function(model, supernet, optimizer, reward, baseline_decay):
    """Returns a function of `(inputs, labels, weights, routes, costs, credit)` that takes one step and tells of it.

    `routes` `[routes, blocks]` are scored on the batch, each less its entry of `costs` `[routes]`; `credit`
    `[routes, blocks, tasks]` says which tasks' rewards a block answers for. `reward` is a `reward_function`. The
    function returns the rewards `[routes, tasks + 1]` (minus the costs come last, NaN is a task without a reward),
    `alpha` and the baseline after the step, as NumPy arrays. An infinite reward gives no gradient and leaves the
    baseline as it is.
    """
    scores = _jax_scores(model, supernet, reward) if BACKEND == "jax" else _scores(model, supernet, reward)
    apply = _apply_function(model, optimizer, supernet.alpha)

    def step(inputs, labels, weights, routes, costs, credit):
        rewards = scores(inputs, labels, weights, routes)
        missing = supernet.num_tasks - rewards.shape[1]  # a callable gives one number for all tasks
        rewards = ops.concatenate([ops.pad(rewards, ((0, 0), (0, missing))), -ops.expand_dims(costs, 1)], axis=1)
        defined = ops.logical_not(ops.any(ops.isnan(rewards), axis=0))  # [tasks + 1]
        known = ops.where(defined, rewards, ops.zeros_like(rewards))
        diverged = ops.any(ops.isinf(rewards))

        mean = ops.mean(known, axis=0)
        past, seen = _value(supernet.search_baseline), _value(supernet.search_seen)
        past = ops.where(ops.logical_and(defined, seen == 0), mean, past)  # the first reward is its own baseline
        count = routes.shape[0]
        others = past if count == 1 else (ops.sum(known, axis=0) - known) / (count - 1)
        advantages = ops.where(defined, known - others, ops.zeros_like(known))
        # The costs are every block's, the rewards of the tasks those blocks' that answer for them.
        credited = ops.sum(credit * ops.expand_dims(advantages[:, :-1], 1), axis=-1) + advantages[:, -1:]
        policy = ops.softmax(_value(supernet.alpha), axis=-1)
        chosen = ops.one_hot(routes, supernet.num_routes, dtype="float32")
        # The closed form of the gradient of minus the expected reward.
        gradient = ops.mean(ops.expand_dims(credited, -1) * (policy - chosen), axis=0)
        apply(ops.where(diverged, ops.zeros_like(gradient), gradient))

        decay = ops.cast(ops.where(defined, baseline_decay, 1.0), "float32")
        supernet.search_baseline.assign(ops.where(diverged, past, decay * past + (1.0 - decay) * mean))
        supernet.search_seen.assign(seen + ops.cast(defined, "float32"))
        undefined = ops.sum(ops.cast(ops.logical_not(defined), "float32"))
        supernet.search_skipped.assign(_value(supernet.search_skipped) + undefined)
        supernet.search_step.assign(_value(supernet.search_step) + 1)
        return rewards, _value(supernet.alpha), _value(supernet.search_baseline)

    if BACKEND == "tensorflow":
        import tensorflow as tf

        step = tf.function(step)
    return lambda *batch_and_routes: [ops.convert_to_numpy(found) for found in step(*batch_and_routes)]


def _value(variable):
    return ops.convert_to_tensor(variable)


def _scores(model, supernet, reward):
    def predict(inputs, route):
        with supernet._at_route(route):
            return model(inputs, training=False)

    if BACKEND == "tensorflow":
        import tensorflow as tf

        # With XLA where the model's own steps are; the reward without, since it may be a callable of any operations.
        predict = tf.function(predict, jit_compile=model.jit_compile or None)

    def scores(inputs, labels, weights, routes):
        found = [reward(labels, predict(inputs, routes[number]), weights) for number in range(routes.shape[0])]
        return ops.stack(found)

    return scores


def _jax_scores(model, supernet, reward):
    """The same as a compiled function of the model's variables."""
    import jax

    def stateless(trainable, others, inputs, labels, weights, routes):
        found = []
        for route in routes:
            with supernet._at_route(route):
                predictions, _ = model.stateless_call(trainable, others, inputs, training=False)
            found.append(reward(labels, predictions, weights))
        return ops.stack(found)

    compiled = jax.jit(stateless)

    def scores(inputs, labels, weights, routes):
        trainable = [variable.value for variable in model.trainable_variables]
        others = [variable.value for variable in model.non_trainable_variables]
        return compiled(trainable, others, *native((inputs, labels, weights)), routes)

    return scores


def _apply_function(model, optimizer, variable):
    """Returns a function from a gradient to one step of the optimizer."""
    if BACKEND != "tensorflow":
        return lambda gradient: optimizer.apply_gradients([(gradient, variable)])
    strategy = model.distribute_strategy

    def on_replica(gradient):
        # An optimizer sums the gradients of the replicas, and this one is the same on all.
        optimizer.apply_gradients([(gradient / strategy.num_replicas_in_sync, variable)])

    return lambda gradient: strategy.run(on_replica, args=(gradient,))
