"""Algorithm 1 of MTNAS, step by step: what is sampled, how `alpha` moves, and that the best route is found."""

import itertools

import numpy as np
import pytest
from reference import array
from route_models import (
    constant_data,
    constant_model,
    mean_square,
    prediction_of,
    real_data,
    real_model,
    search,
    softmax,
)
from scipy.stats import chisquare
from sklearn.metrics import log_loss, roc_auc_score

import mtl_layers as mtl
from mtl_layers._keras import keras, ops

RATE = 0.5
NUMBERS = (1.0, 10.0)  # a constant model of two sub-networks: routes {0, 1}, {0} and {1} predict 5.5, 1 and 10
NEVER = 10**6


def sgd(rate=RATE):
    return keras.optimizers.SGD(rate)


def one_hot(route, size):
    return np.eye(size)[route]


def batches(count, rows=16):
    """Validation batches; in the second one task "a" has one class only."""
    found = [real_data(rows, seed=100 + number) for number in range(count)]
    found[1][1]["a"][:] = 1.0
    return found


def rewards_of(reward, labels, predictions):
    """The reward of each task, NaN where it is undefined, by scikit-learn."""
    if reward == "auc":
        return [
            roc_auc_score(labels[t], predictions[t]) if len(np.unique(labels[t])) == 2 else np.nan for t in ("b", "a")
        ]
    if reward == "loss":
        return [-log_loss(labels[t].ravel(), predictions[t].ravel(), labels=[0, 1]) for t in ("b", "a")]
    return [predictions["a"].mean() + labels["b"].mean()]


def a_callable(labels, predictions):
    return ops.mean(predictions["a"]) + ops.mean(labels["b"])


@pytest.mark.parametrize(
    ("reward", "decay", "cost", "credit"),
    [
        ("auc", 0.9, 0.0, False),
        ("loss", 0.9, 0.01, False),
        ("loss", 0.0, 0.0, False),
        (a_callable, 0.5, 0.02, False),
        ("loss", 0.9, 0.01, True),
        ("auc", 0.9, 0.0, True),
    ],
)
def test_alpha_moves_by_reward_minus_moving_average_times_the_gradient_of_log_p(reward, decay, cost, credit):
    steps, validation = 7, batches(3)
    model, supernet = real_model(sgd(0.0), (2, 2, 2))  # weights stand still
    data = real_data(4 * steps)
    options = {"reward": reward, "optimizer": sgd(), "baseline_decay": decay, "subnetwork_cost": cost}
    options["per_task_credit"] = credit
    record, history = search(model, data, 4, validation, **options)

    twin, at_route = real_model(sgd(0.0), (2, 2, 2))
    twin.set_weights(model.get_weights())
    alpha = np.zeros(supernet.alpha.shape)
    baseline, skipped = {}, 0
    for step, route in enumerate(record.routes):
        x, labels = validation[step % 3]
        named = supernet.route_of(route)
        at_route.set_route(named)
        rewards = np.array(rewards_of(reward, labels, twin.predict(x, verbose=0)))
        answers = supernet.space.answers_for(route)
        values = sum(len(block.values) for block, of in zip(named.blocks, answers, strict=True) if of.any())
        advantage = np.zeros((supernet.num_blocks, 1))
        for task, value in enumerate([*rewards, -cost * values]):
            if np.isnan(value):
                skipped += 1
                continue
            past = baseline.get(task, value)  # the first reward has no past
            answer = answers[:, [task]] if credit and task < len(rewards) else 1.0
            advantage += answer * (value - past)
            baseline[task] = decay * past + (1 - decay) * value
        alpha += RATE * advantage * (one_hot(route, alpha.shape[1]) - softmax(alpha))
        np.testing.assert_allclose(record.alphas[step], alpha, atol=1e-5)
        assert record.logs[step]["search_reward"] == pytest.approx(np.nansum(rewards) - cost * values, abs=1e-5)
        assert record.logs[step]["search_baseline"] == pytest.approx(sum(baseline.values()), abs=1e-5)
    assert np.abs(alpha).max() > 1e-3
    assert history["search_skipped"] == [skipped] and skipped == (2 if reward == "auc" else 0)


def possible(supernet, logged, count):
    """Every `count` routes of one block whose rewards have the logged mean."""
    rewards = [prediction_of(supernet, number, NUMBERS) ** 2 for number in range(3)]
    found = [
        routes
        for routes in itertools.combinations_with_replacement(range(3), count)
        if abs(np.mean([rewards[r] for r in routes]) - logged) < 1e-3
    ]
    assert len(found) == 1, "the numbers are chosen so that the mean tells the routes"
    return found[0], [rewards[r] for r in found[0]]


@pytest.mark.parametrize("uniform", [False, True])
def test_of_several_routes_the_others_are_the_baseline(uniform):
    model, supernet = constant_model(NUMBERS)
    options = {"reward": mean_square, "optimizer": sgd(0.01), "routes_per_step": 3, "uniform_training": uniform}
    record, _ = search(model, constant_data(8), 1, [constant_data(2)], **options)
    alpha, moved = np.zeros((1, 3)), 0
    for step, logs in enumerate(record.logs):
        routes, rewards = possible(supernet, logs["search_reward"], 3)
        change = 0.0
        for route, reward in zip(routes, rewards, strict=True):
            others = (sum(rewards) - reward) / 2
            change = change + (reward - others) * (one_hot([route], 3) - softmax(alpha)) / 3
        alpha = alpha + 0.01 * change
        moved += len(set(routes)) > 1
        np.testing.assert_allclose(record.alphas[step], alpha, atol=1e-5)
    assert moved >= 3


def test_with_uniform_training_another_route_is_scored_than_trained():
    model, supernet = constant_model(NUMBERS)
    alpha = np.log([[0.01, 0.01, 0.98]]).astype("float32")
    supernet.alpha.assign(alpha)
    options = {"reward": mean_square, "optimizer": sgd(0.0), "uniform_training": True}
    record, _ = search(model, constant_data(60), 1, [constant_data(2)], **options)
    trained = np.concatenate(record.routes)
    scored = np.array([possible(supernet, logs["search_reward"], 1)[0][0] for logs in record.logs])
    assert np.bincount(trained, minlength=3).min() > 10
    assert (scored == 2).mean() > 0.9


@pytest.mark.parametrize("start", [0, 3])
def test_alpha_moves_from_start_step_on_and_validation_batches_come_in_turn(start):
    model, _ = constant_model(NUMBERS)
    validation = [constant_data(2, label=label) for label in (1.0, 3.0, 2.0)]
    reward = lambda labels, predictions: ops.mean(labels["a"])  # noqa: E731
    options = {"reward": reward, "optimizer": sgd(), "start_step": start}
    record, _ = search(model, constant_data(8), 1, validation, **options)
    assert ["search_reward" in logs for logs in record.logs] == [step >= start for step in range(8)]
    assert [logs["search_reward"] for logs in record.logs[start:]] == [
        [1.0, 3.0, 2.0][step % 3] for step in range(8 - start)
    ]
    changed = [bool(np.abs(alpha).max() > 0) for alpha in record.alphas]
    assert changed == [step > start for step in range(8)]  # the first reward is its own baseline


@pytest.mark.parametrize("uniform", [False, True])
def test_routes_are_sampled_with_their_probabilities(uniform):
    model, supernet = constant_model((1.0, 2.0, 3.0), ("a", "b"))
    alpha = np.random.default_rng(5).normal(size=(2, 7)).astype("float32")
    supernet.alpha.assign(alpha)
    tasks, steps = ("a", "b"), 400
    options = {"reward": "loss", "start_step": NEVER, "uniform_training": uniform}
    record, _ = search(model, constant_data(steps, tasks), 1, [constant_data(2, tasks)], **options)
    np.testing.assert_array_equal(array(supernet.alpha), alpha)
    routes = np.array(record.routes)
    for block in range(2):
        expected = np.full(7, 1 / 7) if uniform else softmax(alpha)[block]
        found = np.bincount(routes[:, block], minlength=7)
        assert chisquare(found, steps * expected).pvalue > 0.001
    together = np.bincount(routes[:, 0] * 7 + routes[:, 1], minlength=49)
    independent = np.outer(*(np.full((2, 7), 1 / 7) if uniform else softmax(alpha))).ravel()
    assert chisquare(together, steps * independent).pvalue > 0.001


def test_the_seed_decides_the_routes():
    found = []
    for seed in (0, 0, 1):
        model, _ = constant_model(NUMBERS)
        record, _ = search(model, constant_data(20), 1, [constant_data(2)], reward=mean_square, seed=seed)
        found.append(np.concatenate(record.routes).tolist())
    assert found[0] == found[1] != found[2]


@pytest.mark.once
@pytest.mark.parametrize(
    ("tasks", "options", "steps"),
    [
        (("a",), {"optimizer": sgd(0.05)}, 60),  # the paper's search, but for its optimizer
        (("a", "b"), {"optimizer": sgd(0.2), "routes_per_step": 4, "uniform_training": True}, 30),
    ],
)
def test_the_known_best_route_is_found_in_20_of_20_seeds(tasks, options, steps):
    # Task a has to give 3 and task b 1, which sub-networks 1 and 0 do. At the start the mean of both is in force.
    model, supernet = constant_model((1.0, 3.0), tasks)
    start, wanted = model.get_weights(), {"a": 3.0, "b": 1.0}

    def reward(labels, predictions):
        return -sum(ops.mean(ops.square(predictions[task] - wanted[task])) for task in tasks)

    rows = constant_data(steps, tasks)
    searching = mtl.RouteSearch([constant_data(1, tasks)], reward, **options)
    found = []

    class EachSeed(keras.callbacks.Callback):
        """One search from the start in each epoch: a `fit` for each would compile the scoring 20 times."""

        def on_epoch_begin(self, epoch, logs=None):
            self.model.set_weights(start)
            assert {block.values for block in supernet.derive().blocks} == {(0, 1)}
            searching.seed = epoch

        def on_epoch_end(self, epoch, logs=None):
            assert array(supernet.search_step) == steps
            found.append([block.values for block in supernet.derive().blocks])

    model.fit(*rows, batch_size=1, epochs=20, verbose=0, callbacks=[EachSeed(), searching])
    assert found == [[(1,), (0,)][: len(tasks)]] * 20


# ------------------------------------------------------------------------------------------------------ chains of tasks


def chained_model(losses):
    inputs = keras.Input((4,), name="x")
    supernet = mtl.RouteSupernet(2, 1, 2, 3)
    towers = mtl.ESMM({"ctr": (), "cvr": ()}, chains={"ctcvr": ("ctr", "cvr")})
    model = keras.Model(inputs, towers(supernet(inputs)))
    model.compile(sgd(), **mtl.losses.per_task(losses))
    return model, supernet


def test_a_prediction_without_a_loss_has_no_reward_and_a_product_credits_all_its_factors():
    model, supernet = chained_model({"ctr": "binary_crossentropy", "cvr": None, "ctcvr": "binary_crossentropy"})
    x, labels = real_data(8)
    labels = {"ctr": labels["b"], "cvr": labels["a"], "ctcvr": labels["b"] * labels["a"]}
    callback = mtl.RouteSearch([(x, labels)], "loss", optimizer=sgd(), per_task_credit=True)
    model.fit(x, labels, batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    assert np.isfinite(array(supernet.alpha)).all() and np.abs(array(supernet.alpha)).max() > 0
    _, _, credit = callback._weighed(np.zeros((1, 2), "int32"))
    # Rewards of ctr and ctcvr; the block before the tower of cvr answers for the product alone.
    np.testing.assert_array_equal(credit, [[[1, 1], [0, 1]]])


def test_more_rewards_than_tasks_are_refused():
    model, _ = chained_model(dict.fromkeys(("ctr", "cvr", "ctcvr"), "binary_crossentropy"))
    x, labels = real_data(8)
    labels = dict.fromkeys(("ctr", "cvr", "ctcvr"), labels["a"])
    with pytest.raises(ValueError, match=r"1 to 2 outputs with a loss.*received: \['ctr', 'cvr', 'ctcvr'\]"):
        model.fit(x, labels, verbose=0, callbacks=[mtl.RouteSearch([(x, labels)], "loss")])


# ----------------------------------------------------------------------------------------------------- without training


def test_without_training_the_known_best_route_is_found_and_no_weight_moves():
    model, supernet = constant_model((1.0, 10.0, -4.0))
    weights = [array(weight) for weight in supernet.trainable_weights]
    options = {"reward": mean_square, "optimizer": keras.optimizers.Adam(0.1), "routes_per_step": 4}
    history = mtl.RouteSearch([constant_data(2)], **options).run(model, 100, verbose=0)
    assert str(supernet.derive()) == "task 0 <- 1"  # 10 squared is the most
    assert list(history) == ["search_reward", "search_baseline", "search_entropy"]
    assert all(len(values) == 100 for values in history.values())
    assert history["search_reward"][-1] == pytest.approx(100.0)
    assert history["search_entropy"][0] == pytest.approx(np.log(7), abs=0.01) and history["search_entropy"][-1] < 0.1
    for weight, before in zip(supernet.trainable_weights, weights, strict=True):
        np.testing.assert_array_equal(array(weight), before)
    np.testing.assert_array_equal(array(supernet.route), array(supernet.alpha).argmax(axis=-1))  # for training, too


def test_it_moves_alpha_as_a_fit_whose_weights_stand_still():
    found = []
    for way in ("fit", "run"):
        model, supernet = real_model(sgd(0.0), (2, 2, 2))
        searching = mtl.RouteSearch(batches(3), "auc", optimizer=sgd())
        if way == "fit":
            model.fit(*real_data(20), batch_size=4, shuffle=False, verbose=0, callbacks=[searching])
        else:
            searching.run(model, 5, verbose=0)
        found.append([array(supernet.alpha), array(supernet.search_baseline), array(supernet.search_step)])
    assert np.abs(found[0][0]).max() > 1e-3
    for in_fit, alone in zip(*found, strict=True):
        np.testing.assert_allclose(in_fit, alone, atol=1e-6)


def test_with_no_start_step_a_fit_trains_and_only_a_run_searches():
    model, supernet = real_model(keras.optimizers.Adam(0.01), (2, 2, 2))
    before = [array(weight) for weight in supernet.trainable_weights]
    searching = mtl.RouteSearch(batches(3), "loss", uniform_training=True, routes_per_step=2, start_step=None)
    logs = model.fit(*real_data(32), batch_size=8, epochs=2, verbose=0, callbacks=[searching]).history
    assert not array(supernet.alpha).any() and "search_reward" not in logs
    assert int(array(supernet.search_step)) == 8
    moved = [np.abs(array(w) - b).max() for w, b in zip(supernet.trainable_weights, before, strict=True)]
    assert min(moved) > 0
    searching.run(model, 4, verbose=0)
    assert array(supernet.alpha).any() and int(array(supernet.search_step)) == 12


def test_two_runs_are_one_in_two_parts():
    found = []
    for parts in ((7,), (4, 3)):
        model, supernet = real_model(keras.optimizers.Adam(0.01), (2, 2, 2))
        for steps in parts:
            mtl.RouteSearch(batches(3), "loss").run(model, steps, verbose=0)
        found.append(array(supernet.alpha))
    np.testing.assert_array_equal(*found)


def test_a_run_is_seeded_and_says_its_progress(capsys):
    found = []
    for seed in (0, 0, 1):
        model, supernet = real_model(sgd(0.0), (2, 2, 2))
        mtl.RouteSearch(batches(3), "loss", seed=seed, optimizer=sgd()).run(model, 3)
        found.append(array(supernet.alpha))
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 0
    assert "3/3" in capsys.readouterr().out
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 1; received: steps=0"):
        mtl.RouteSearch(batches(3)).run(model, 0)
