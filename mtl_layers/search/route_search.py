"""The search of MTNAS as a callback: sample a route, train it, score it, reinforce it."""

from contextlib import nullcontext
from numbers import Real

import numpy as np

from mtl_layers._checks import check_number, check_positive, check_rate, check_repeatable
from mtl_layers._keras import keras, ops
from mtl_layers._walk import layers_of
from mtl_layers.search.reinforce import reinforce_function
from mtl_layers.search.rewards import check_classes, losses_by_task, reward_function
from mtl_layers.sharing import RouteSupernet
from mtl_layers.sharing._route_policy import probabilities_of
from mtl_layers.towers import Regression, Towers


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
    gives the same route. Validation and `predict` use the most likely route at all times. At the end of each epoch it
    is put in force for training, too: list the search before ModelCheckpoint and EarlyStopping, or the weights that
    they keep have the route sampled last, which a later `fit` without a search would train; so has a model whose `fit`
    was interrupted. Where `load_weights` is to bring back a search, call `set_model` before it.

    On TensorFlow routes are scored with XLA where the model is compiled with it (`jit_compile` of `compile`).

    A reward compares routes by the weights of that step. Where a model over-fits before the search has ended, those are
    the wrong ones: train with `start_step=None` to the best epoch, and search then with `run`.

    Args:
        validation_data: A `tf.data.Dataset` or a list of batches `(features, labels)` or `(features, labels, weights)`,
            in an order of its own; the search cycles through it.
        reward: `"auc"`, the exact AUC summed over tasks, which must all be binary; `"loss"`, minus the loss summed over
            tasks; or a callable of labels and predictions that gives a scalar by `keras.ops`. Defaults to `"auc"`.
        optimizer: A Keras optimizer for `alpha`. Defaults to `None`, Adam with a learning rate of 0.01. A supernet
            that has been searched keeps the optimizer of its first search, with its state, and refuses another.
        baseline_decay: Decay of the moving average of rewards, in [0, 1). Defaults to `0.9`.
        seed: Seed of the sampling. Defaults to `0`.
        uniform_training: Whether the routes that train the weights are drawn uniformly and not from `alpha`; routes to
            score are then drawn from `alpha` beside them. Defaults to `False`.
        routes_per_step: Routes scored on each validation batch. From 2 on, the baseline of each is the mean reward of
            the others. Defaults to `1`.
        start_step: Training step from which on `alpha` moves; `None`: not in `fit`, only in `run`. Defaults to `0`.
        subnetwork_cost: Reward taken off for each value of a block that some task reaches. Defaults to `0.0`.
        per_task_credit: Whether a block is moved by the rewards of those tasks alone whose predictions depend on it.
            The expected step is the same and its noise less. Not for a callable reward. Defaults to `False`.

    Attributes:
        policy: Probabilities of the routes, `[blocks, routes]`, as the search left them; None before it begins.

    Logs: `search_reward` and `search_baseline` (sums over tasks), `search_entropy` (mean over blocks, in nats) in every
    batch; at the end of an epoch also `search_entropy_<b>` and `search_route_<b>`, entropy and most likely route number
    of block b, and `search_skipped`, how often a task had no reward since the search began (one class is missing in the
    validation batch, or for `"loss"` every label): such a task is left out of that step, and its baseline stays. At the
    end of an epoch `search_reward` is the sum of the tasks' means over the batches that gave them a reward. It and the
    baseline are not in the logs before there is a reward, so that nothing takes NaN for the best.

    Raises:
        ValueError: If the model has no `RouteSupernet` or several, or is not built, the validation data are empty or no
            batches, no task has a loss, a task has no AUC for a reward, a reward is not finite, `steps_per_execution`
            is above 1, the supernet has another optimizer, or an argument is out of range.

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
        per_task_credit=False,
    ):
        super().__init__()
        if reward not in ("auc", "loss") and not callable(reward):
            raise ValueError(f'`reward` must be "auc", "loss" or a callable; received: reward={reward!r}')
        if per_task_credit and callable(reward):
            raise ValueError('`per_task_credit` needs a reward per task, "auc" or "loss"; received: a callable')
        if isinstance(validation_data, tuple) and validation_data and _is_features(validation_data[0]):
            raise ValueError(
                "`validation_data` must be batches, such as a tf.data.Dataset, or [(features, labels)] for one batch; "
                f"received: a tuple that begins with {type(validation_data[0]).__name__}"
            )
        self.validation_data = check_repeatable("validation_data", validation_data)
        self.reward = reward
        self.optimizer = None if optimizer is None else keras.optimizers.get(optimizer)
        self.baseline_decay = check_rate("baseline_decay", baseline_decay)
        self.seed = check_positive("seed", seed, minimum=0)
        self.uniform_training = uniform_training
        self.routes_per_step = check_positive("routes_per_step", routes_per_step)
        self.start_step = None if start_step is None else check_positive("start_step", start_step, minimum=0)
        self.subnetwork_cost = check_number("subnetwork_cost", subnetwork_cost)
        self.per_task_credit = per_task_credit
        self.supernet = None
        self.policy = None
        self._supports_tf_logs = True  # else Keras 2 hands out copies, and the progress bar does not see ours

    def set_model(self, model):
        super().set_model(model)
        self.supernet = _only(RouteSupernet, model)
        if not self.supernet.built:
            raise ValueError("`model` must be built before its route is searched: call it on a batch first")
        # Before any `on_train_begin`, so that BackupAndRestore finds the optimizer's variables there to restore.
        # Made anew in the scope of the model's variables: an optimizer made elsewhere cannot move those of replicas.
        strategy = getattr(model, "distribute_strategy", None)
        with strategy.scope() if strategy else nullcontext():
            given = self.optimizer or self.supernet.search_optimizer or keras.optimizers.Adam(0.01)
            own = self.supernet.hold_search_optimizer(type(given).from_config(given.get_config()))
            if not _same(own, given):
                raise ValueError(
                    "`optimizer` must be left out, or be that of the first search, which the supernet keeps with its "
                    f"state; received: {given.get_config()}, and the supernet has {own.get_config()}"
                )

    def run(self, model, steps, verbose=1):
        """Searches with the weights as they are: each step scores routes and moves `alpha`, and trains nothing.

        Args:
            model: A compiled model that is built, with one `RouteSupernet`.
            steps: Number of steps, at least 1.
            verbose: 1 for Keras' progress bar, 2 for one line at the end, 0 for silence. Defaults to `1`.

        Returns:
            Dict from `search_reward`, `search_baseline` and `search_entropy` to a list with a number for each step (the
            first two have none for steps without any reward).

        Raises:
            ValueError: As in a `fit` with this callback, or if `steps` is below 1.
        """
        check_positive("steps", steps)
        self.set_model(model)
        self.on_train_begin()
        self.on_epoch_begin(0)
        self._batches = self._cycled()
        history = {}
        bar = keras.utils.Progbar(steps, verbose=verbose, stateful_metrics=["search_baseline", "search_entropy"])
        for done in range(1, steps + 1):
            self._random = np.random.default_rng([self.seed, self._step])
            self._learn(self._drawn())
            self._step += 1
            logs = self._summary(self._rewards[-1:])
            for name, value in logs.items():
                history.setdefault(name, []).append(value)
            bar.update(done, list(logs.items()))
        self.on_train_end()
        return history

    def on_train_begin(self, logs=None):
        self._check_steps_per_execution()
        first = next(iter(self.validation_data), None)
        if first is None:
            raise ValueError("`validation_data` must have at least one batch; received: none")
        if not isinstance(first, tuple | list) or len(first) not in (2, 3):
            raise ValueError(
                "`validation_data` must give batches (features, labels) or (features, labels, weights); "
                f"received: {type(first).__name__}"
            )
        if any(
            np.ndim(array) == 0 for part in first[:2] for array in (part.values() if isinstance(part, dict) else [part])
        ):
            raise ValueError(
                "`validation_data` must give batches and not single rows: call its `batch`; received: shape=()"
            )
        if not callable(self.reward):
            self._check_tasks(first)
        reward = reward_function(self.model, self.reward)
        self._reinforce = reinforce_function(
            self.model, self.supernet, self.supernet.search_optimizer, reward, self.baseline_decay
        )
        self._batches = None

    def _check_tasks(self, batch):
        """Refuses what has no reward, and finds for each task with a loss the tasks that it depends on."""
        outputs = getattr(self.model, "output", None)  # a subclassed model has none
        outputs = self.model(batch[0], training=False) if outputs is None else outputs
        names = list(losses_by_task(self.model, batch[1], outputs))
        if not names:
            raise ValueError(
                "`model` must be compiled with a loss for one task at least, unless the reward is a callable; "
                "received: a model without"
            )
        if len(names) > self.supernet.num_tasks:
            raise ValueError(
                f"`model` must have 1 to {self.supernet.num_tasks} outputs with a loss, as many as the supernet has "
                f"tasks, unless the reward is a callable; received: {names}"
            )
        regressions = _regressions(self.model)
        numbers = [name for name in names if name in regressions]
        if self.reward == "auc" and numbers:
            raise ValueError(
                '`reward` must not be "auc" where a task is a regression: give "loss" or a callable; '
                f"received: {numbers}"
            )
        if self.reward == "auc" and (several := [name for name in names if outputs[name].shape[-1] != 1]):
            raise ValueError(
                '`reward` must not be "auc" where a task has several classes: give "loss" or a callable; '
                f"received: {several}"
            )
        if self.reward == "auc":
            check_classes(self.model, batch, outputs)
        if self.per_task_credit:
            towers = _only(Towers, self.model)
            own = towers.output_names
            if odd := [name for name in names if name not in own]:
                raise ValueError(
                    f"`per_task_credit` needs outputs with the names of the towers, {list(own)}; received: {odd}"
                )
            self._readers = [list(towers.reads([own.index(name)])) for name in names]

    def _check_steps_per_execution(self):
        steps = getattr(self.model, "steps_per_execution", None) or getattr(self.model, "_steps_per_execution", 1)
        steps = int(steps.numpy() if hasattr(steps, "numpy") else steps or 1)  # a variable in Keras 2, once compiled
        steps = "auto" if getattr(self.model, "autotune_steps_per_execution", False) else steps
        if steps != 1:
            raise ValueError(
                "`steps_per_execution` must be 1 for a search, which acts between steps; "
                f"received: steps_per_execution={steps}"
            )

    def on_epoch_begin(self, epoch, logs=None):
        # From here on the search alone moves its state, which is not read again in each step.
        self._sync()
        self._step = int(self.supernet.search_step.numpy())
        self.policy = probabilities_of(self.supernet.alpha.numpy())
        self._baseline = self.supernet.search_baseline.numpy()
        self._rewards = []  # of this epoch: a mean per task, and last minus the cost

    def on_train_batch_begin(self, batch, logs=None):
        self._sync()
        self._random = np.random.default_rng([self.seed, self._step])
        self._trained = self._draw(uniformly=self.uniform_training)
        self.supernet.route.assign(self._trained)

    def on_train_batch_end(self, batch, logs=None):
        self._sync()
        if self.start_step is not None and self._step >= self.start_step:
            if self._batches is None:  # not before: a callback that comes after this one may restore the step
                self._batches = self._cycled()
            fresh = self.uniform_training or self.routes_per_step > 1
            self._learn(self._drawn() if fresh else self._trained[None])
        else:
            self.supernet.search_step.assign(self._step + 1)
        self._step += 1
        if logs is not None:
            logs.update(self._summary(self._rewards[-1:]))

    def on_epoch_end(self, epoch, logs=None):
        self._sync()
        self._take_most_likely()
        if logs is None:
            return
        logs.update(self._summary(self._rewards))
        for block, (entropy, route) in enumerate(zip(_entropy(self.policy), self.policy.argmax(-1), strict=True)):
            logs[f"search_entropy_{block}"] = float(entropy)
            logs[f"search_route_{block}"] = int(route)
        logs["search_skipped"] = int(self.supernet.search_skipped.numpy())

    def on_train_end(self, logs=None):
        # Once more: an epoch may have ended early, and another callback may have restored weights.
        self._sync()
        self._take_most_likely()

    def _take_most_likely(self):
        # Else a later `fit` without a search, of these weights or of a file with them, would train a sampled route.
        self.supernet.route.assign(self.supernet.alpha.numpy().argmax(axis=-1).astype("int32"))

    # ---------------------------------------------------------------------------------------------------- one step

    def _learn(self, routes):
        """REINFORCE with these routes, `[routes, blocks]`, on the next validation batch."""
        rewards, alpha, baseline = self._reinforce(*next(self._batches), *self._weighed(routes))
        if np.isinf(rewards).any() or (callable(self.reward) and np.isnan(rewards).any()):
            raise ValueError(f"`reward` must be finite; received: {rewards.tolist()} at step {self._step}")
        if not np.isfinite(alpha).all():
            raise ValueError("`optimizer` must keep alpha finite; lower its learning rate or the scale of the reward")
        self.policy, self._baseline = probabilities_of(alpha), baseline
        self._rewards.append(rewards.mean(axis=0))

    def _weighed(self, routes):
        """Routes with what they cost, and for which tasks' rewards their blocks answer."""
        space = self.supernet.space
        costs = np.zeros(len(routes), "float32")
        if self.subnetwork_cost:
            costs += [self.subnetwork_cost * space.num_values(route) for route in routes]
        credit = np.ones((*routes.shape, self.supernet.num_tasks), "float32")
        if self.per_task_credit:
            answers = np.stack([space.answers_for(route) for route in routes])
            for place, tasks in enumerate(self._readers):
                credit[..., place] = answers[..., tasks].max(axis=-1)
        return routes, costs, credit

    def _drawn(self):
        """The routes to score in a step."""
        return np.stack([self._draw() for _ in range(self.routes_per_step)])

    def _draw(self, uniformly=False):
        """A route number for each block, from the policy at the beginning of the step."""
        blocks, routes = self.policy.shape
        if uniformly:
            return self._random.integers(0, routes, blocks).astype("int32")
        below = self.policy.cumsum(axis=-1)
        return (below[:, :-1] <= below[:, -1:] * self._random.random((blocks, 1))).sum(axis=-1).astype("int32")

    def _summary(self, rewards):
        """What the logs say of these steps: of each task those count that gave it a reward."""
        summary = {"search_entropy": float(_entropy(self.policy).mean())}
        rewards = np.array(rewards).reshape(-1, self.supernet.num_tasks + 1)
        some = ~np.isnan(rewards).all(axis=0)
        if some[:-1].any():
            reward = float(np.nanmean(rewards[:, some], axis=0).sum())
            summary = {"search_reward": reward, "search_baseline": float(self._baseline.sum()), **summary}
        return summary

    def _cycled(self):
        """The validation batches from where the search is: a step of it took one, in whichever `fit` or `run`."""
        # Plus 0: tf_keras' counter that is mirrored over devices gives no array itself.
        taken = int(ops.convert_to_numpy(self.supernet.search_optimizer.iterations + 0))
        return _cycle(self.validation_data, skip=taken)

    def _sync(self):
        # JAX keeps the state of `fit` outside the variables until it is asked for.
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()


def _only(kind, model):
    """The one layer of a kind, wherever in the model it is."""
    found = [layer for layer in layers_of(model) if isinstance(layer, kind)]
    if len(found) != 1:
        raise ValueError(f"`model` must have one {kind.__name__} layer; received: {len(found)}")
    return found[0]


def _regressions(model):
    """Names of the tasks that are a regression, as far as `Towers` know."""
    towers = [layer for layer in layers_of(model) if isinstance(layer, Towers)]
    return {name for layer in towers for name, task in layer.tasks if isinstance(task, Regression)}


def _same(one, other):
    """Whether two optimizers are alike; files keep their numbers as float32."""
    configs = [{name: value for name, value in each.get_config().items() if name != "name"} for each in (one, other)]
    return type(one) is type(other) and _alike(*configs)


def _alike(one, other):
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[name], other[name]) for name in one)
    if isinstance(one, float) or isinstance(other, float):
        return isinstance(one, Real) and isinstance(other, Real) and bool(np.isclose(one, other))
    return one == other


def _is_features(value):
    return isinstance(value, dict) or hasattr(value, "shape")


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


def _entropy(probabilities):
    return -(probabilities * np.log(np.maximum(probabilities, 1e-30))).sum(axis=-1)
