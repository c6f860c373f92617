"""The search of MTNAS as a callback: sample a route, train it, score it, reinforce it."""

from contextlib import nullcontext

import numpy as np

from mtl_layers._checks import check_positive
from mtl_layers._keras import keras, ops
from mtl_layers.search.rewards import reward_function, update_function
from mtl_layers.sharing import RouteSupernet


class RouteSearch(keras.callbacks.Callback):
    """Searches the route of the model's `RouteSupernet` while `fit` trains its weights.

    ```
    before a batch:  u_b ~ softmax(alpha_b)                    one route per block, put in force
    after it:        R   = reward of u on the next validation batch
                     alpha_b <- alpha_b + Adam((R - baseline) (onehot(u_b) - softmax(alpha_b)))
                     baseline <- decay * baseline + (1 - decay) * R
    ```

    Paper-exact by default. The search's state (`alpha`, the optimizer's, the baseline, the step) lives in the supernet
    and is saved with the model; sampling depends on `seed` and the step alone, so a search that was killed and resumed
    gives the same route. Validation and `predict` use the most likely route at all times.

    Args:
        validation_data: A `tf.data.Dataset` of batches `(features, labels)` or `(features, labels, weights)`, in an
            order of its own; the search cycles through it.
        reward: `"auc"`, the exact AUC summed over tasks; `"loss"`, minus the loss summed over tasks; or a callable of
            labels and predictions that gives a scalar. Defaults to `"auc"`.
        optimizer: A Keras optimizer for `alpha`. Defaults to `None`, Adam with a learning rate of 0.01. A supernet
            that has been searched keeps the optimizer of its first search, with its state.
        baseline_decay: Decay of the moving average of rewards, in [0, 1). Defaults to `0.9`.
        seed: Seed of the sampling. Defaults to `0`.
        uniform_training: Whether the routes that train the weights are drawn uniformly and not from `alpha`; routes to
            score are then drawn from `alpha` beside them. Defaults to `False`.
        routes_per_step: Routes scored on each validation batch. From 2 on, the baseline of each is the mean reward of
            the others. Defaults to `1`.
        start_step: Training step from which on `alpha` moves. Defaults to `0`.
        subnetwork_cost: Reward taken off for each value that a block selects. Defaults to `0.0`.

    Logs: `search_reward` and `search_baseline` (sums over tasks), `search_entropy` (mean over blocks, in nats) in every
    batch; at the end of an epoch also `search_entropy_<b>` and `search_route_<b>`, entropy and most likely route number
    of block b, and `search_skipped`, how often a task had no reward since the search began (one class is missing in the
    validation batch, or for `"loss"` every label): such a task is left out of that step, and its baseline stays.

    Raises:
        ValueError: If the model has no `RouteSupernet` or several, the validation data are empty, a reward is not
            finite, `steps_per_execution` is above 1, or an argument is out of range.

    Example:
        >>> search = mtl.RouteSearch(validation_data=[], reward="loss", routes_per_step=4, uniform_training=True)

    Source: Chen et al., "Boosting Share Routing for Multi-task Learning", WWW 2021 Companion, Algorithm 1.
    """

    def __init__(
        self,
        validation_data,
        reward="auc",
        optimizer=None,
        baseline_decay=0.9,
        seed=0,
        *,
        uniform_training=False,
        routes_per_step=1,
        start_step=0,
        subnetwork_cost=0.0,
    ):
        super().__init__()
        if reward not in ("auc", "loss") and not callable(reward):
            raise ValueError(f'`reward` must be "auc", "loss" or a callable; received: reward={reward!r}')
        if not 0 <= baseline_decay < 1:
            raise ValueError(f"`baseline_decay` must be in [0, 1); received: baseline_decay={baseline_decay!r}")
        if not subnetwork_cost >= 0:
            raise ValueError(f"`subnetwork_cost` must be at least 0; received: subnetwork_cost={subnetwork_cost!r}")
        if iter(validation_data) is validation_data:
            raise ValueError(
                "`validation_data` must be iterable again and again, such as a tf.data.Dataset or a list of batches; "
                f"received: {validation_data!r}"
            )
        self.validation_data = validation_data
        self.reward = reward
        self.optimizer = keras.optimizers.get(optimizer or keras.optimizers.Adam(0.01))
        self.baseline_decay = baseline_decay
        self.seed = seed
        self.uniform_training = uniform_training
        self.routes_per_step = check_positive("routes_per_step", routes_per_step)
        self.start_step = check_positive("start_step", start_step, minimum=0)
        self.subnetwork_cost = subnetwork_cost
        self.supernet = None
        self._reward = 0.0
        self._supports_tf_logs = True  # else Keras 2 hands out copies, and the progress bar does not see ours

    def set_model(self, model):
        super().set_model(model)
        found = [layer for layer in model.layers if isinstance(layer, RouteSupernet)]
        if len(found) != 1:
            raise ValueError(f"`model` must have one RouteSupernet layer; received: {len(found)}")
        self.supernet = found[0]
        # Before any `on_train_begin`, so that BackupAndRestore finds the optimizer's variables there to restore.
        # Made anew in the scope of the model's variables: an optimizer made elsewhere cannot move those of replicas.
        strategy = getattr(model, "distribute_strategy", None)
        with strategy.scope() if strategy else nullcontext():
            optimizer = type(self.optimizer).from_config(self.optimizer.get_config())
            self.optimizer = self.supernet.hold_search_optimizer(optimizer)

    def on_train_begin(self, logs=None):
        steps = getattr(self.model, "steps_per_execution", None) or getattr(self.model, "_steps_per_execution", 1)
        steps = steps.numpy() if hasattr(steps, "numpy") else steps  # a variable in Keras 2
        if int(steps) > 1:
            raise ValueError(
                "`steps_per_execution` must be 1 for a search, which acts between steps; "
                f"received: steps_per_execution={int(steps)}"
            )
        self._score = reward_function(self.model, self.supernet, self.reward)
        self._step_of_optimizer = update_function(self.model, self.optimizer, self.supernet.alpha)
        self._batches = None
        if next(iter(self.validation_data), None) is None:
            raise ValueError("`validation_data` must have at least one batch; received: none")

    def on_train_batch_begin(self, batch, logs=None):
        self._sync()
        self._random = np.random.default_rng([self.seed, self._step()])
        self._policy = _softmax(self.supernet.alpha.numpy())
        self._trained = self._draw(uniformly=self.uniform_training)
        self.supernet.route.assign(self._trained)

    def on_train_batch_end(self, batch, logs=None):
        self._sync()
        if self._step() >= self.start_step:
            self._reinforce()
        self.supernet.search_step.assign(self._step() + 1)
        if logs is not None:
            logs.update(self._summary())

    def on_epoch_end(self, epoch, logs=None):
        self._sync()
        if logs is None:
            return
        probabilities = _softmax(self.supernet.alpha.numpy())
        logs.update(self._summary())
        for block, (entropy, route) in enumerate(zip(_entropy(probabilities), probabilities.argmax(-1), strict=True)):
            logs[f"search_entropy_{block}"] = float(entropy)
            logs[f"search_route_{block}"] = int(route)
        logs["search_skipped"] = int(self.supernet.search_skipped.numpy())

    def on_train_end(self, logs=None):
        # Else a later `fit` without a search would go on with whatever route was sampled last.
        self._sync()
        self.supernet.route.assign(self.supernet.alpha.numpy().argmax(axis=-1).astype("int32"))

    # ---------------------------------------------------------------------------------------------------- one step

    def _reinforce(self):
        """REINFORCE on one validation batch, with the closed form of the gradient of log softmax."""
        supernet = self.supernet
        fresh = self.uniform_training or self.routes_per_step > 1
        routes = [self._draw() for _ in range(self.routes_per_step)] if fresh else [self._trained]
        rewards, defined = self._rewards(routes)
        baseline, seen = supernet.search_baseline.numpy().copy(), supernet.search_seen.numpy().copy()
        mean = rewards.mean(axis=0)
        baseline = np.where(defined & (seen == 0), mean, baseline)  # the first reward is its own baseline
        if self.routes_per_step > 1:
            others = (rewards.sum(axis=0) - rewards) / (self.routes_per_step - 1)
            advantages = (rewards - others).sum(axis=-1)
        else:
            advantages = np.where(defined, rewards - baseline, 0.0).sum(axis=-1)
        gradient = np.zeros_like(self._policy)
        for route, advantage in zip(routes, advantages, strict=True):
            chosen = np.eye(supernet.num_routes, dtype="float32")[route]
            gradient += advantage * (self._policy - chosen) / len(routes)  # of minus the expected reward
        self._apply(gradient)
        decay = np.where(defined, self.baseline_decay, 1.0)
        supernet.search_baseline.assign((decay * baseline + (1 - decay) * mean).astype("float32"))
        supernet.search_seen.assign(seen + defined)
        supernet.search_skipped.assign(supernet.search_skipped.numpy() + (~defined).sum())
        self._reward = float(mean.sum())

    def _rewards(self, routes):
        """The rewards of routes on the next validation batch, `[routes, tasks]`, 0 for a task that has none here."""
        if self._batches is None:  # not before: a callback that comes after this one may restore the step
            self._batches = _cycle(self.validation_data, skip=self._step() - self.start_step)
        inputs, labels, weights = next(self._batches)
        found = np.zeros((len(routes), self.supernet.num_tasks))
        for number, route in enumerate(routes):
            self.supernet.route.assign(route)
            scored = self._score(inputs, labels, weights)
            found[number, : len(scored)] = scored
            found[number, : len(scored)] -= self.subnetwork_cost * self.supernet.space.num_values(route) / len(scored)
        self.supernet.route.assign(self._trained)
        defined = ~np.isnan(found).any(axis=0)
        if np.isinf(found).any() or (callable(self.reward) and not defined.all()):
            raise ValueError(f"`reward` must be finite; received: {found.tolist()} at step {self._step()}")
        return np.where(defined, found, 0.0), defined

    def _apply(self, gradient):
        alpha = self.supernet.alpha
        self._step_of_optimizer(ops.convert_to_tensor(gradient.astype("float32")))
        if not np.isfinite(alpha.numpy()).all():
            raise ValueError("`optimizer` must keep alpha finite; lower its learning rate or the scale of the reward")

    def _draw(self, uniformly=False):
        """A route number for each block, from the policy at the beginning of the step."""
        blocks, routes = self._policy.shape
        if uniformly:
            return self._random.integers(0, routes, blocks).astype("int32")
        below = self._policy.cumsum(axis=-1) / self._policy.sum(axis=-1, keepdims=True)
        return np.minimum((below <= self._random.random((blocks, 1))).sum(axis=-1), routes - 1).astype("int32")

    def _step(self):
        return int(self.supernet.search_step.numpy())

    def _summary(self):
        return {
            "search_reward": self._reward,
            "search_baseline": float(self.supernet.search_baseline.numpy().sum()),
            "search_entropy": float(_entropy(_softmax(self.supernet.alpha.numpy())).mean()),
        }

    def _sync(self):
        # JAX keeps the state of `fit` outside the variables until it is asked for.
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()


def _cycle(data, skip):
    """Batches `(features, labels, weights)`, again and again, from where an earlier search stopped."""
    while True:
        count = 0
        for batch in data:
            count += 1
            if skip > 0:
                skip -= 1
                continue
            inputs, labels, *weights = batch
            yield inputs, labels, weights[0] if weights else None
        if not count:
            raise ValueError("`validation_data` must have batches each time it is iterated over; received: none")
        skip %= count  # whole passes need not be walked


def _softmax(alpha):
    powers = np.exp(alpha - alpha.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _entropy(probabilities):
    return -(probabilities * np.log(np.maximum(probabilities, 1e-30))).sum(axis=-1)
