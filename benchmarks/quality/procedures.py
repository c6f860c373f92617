"""How the methods are trained: each function takes (problem, method, width, settings, seed) and gives a `Trained`."""

from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

import mtl_layers as mtl
from mtl_layers._keras import keras
from mtl_layers.search import RouteSearch
from mtl_layers.sharing import StaticRoute

SEARCH_BATCH = 1024  # validation rows of a search step, as in the MTNAS paper
POLISH = 0.25  # share of the epochs for which inherited weights train on


@dataclass
class Trained:
    """A finished run.

    Args:
        validation_loss: Summed over tasks, of the chosen epoch.
        predictions: Dict from part to a dict from task to predictions.
        parameters: Above the embeddings, of what is left at the end.
        embedding: Parameters of the embedding tables.
        epochs: Number of the chosen epoch, or one per network.
        work: Row passes, see `training.Fitted`.
        extra: What only this method has to say, as JSON.
    """

    validation_loss: float
    predictions: dict
    parameters: int
    embedding: int
    epochs: int | list
    work: int
    extra: dict = field(default_factory=dict)


def joint(problem, method, width, settings, seed):
    """One model for all tasks."""
    return _fitted(
        problem, lambda: method.layer(problem.dataset, len(problem.tasks), width, settings.dropout), settings, seed
    )


def single_task(problem, method, width, settings, seed):
    """A model for each task, nothing shared: embeddings, epoch and all are its own."""
    parts = [
        _fitted(problem, lambda: method.layer(problem.dataset, 1, width, settings.dropout), settings, seed, [task])
        for task in problem.tasks
    ]
    return Trained(
        sum(part.validation_loss for part in parts),
        {name: _union(part.predictions[name] for part in parts) for name in parts[0].predictions},
        sum(part.parameters for part in parts),
        sum(part.embedding for part in parts),
        [part.epochs for part in parts],
        sum(part.work for part in parts),
    )


def restarts(problem, method, width, settings, seed, cost=None, cost_of=None):
    """The best of several models on validation, as many as the work of a search pays for; one while tuning."""
    found = []
    while not found or (cost and sum(trained.work for trained in found) < cost):
        found.append(joint(problem, method, width, settings, [seed, len(found)]))
    best = min(found, key=lambda trained: trained.validation_loss)
    best.work = sum(trained.work for trained in found)
    best.extra = {"restarts": len(found)}
    return best


def searched(
    problem,
    method,
    width,
    settings,
    seed,
    *,
    supernet,
    finish="inherit",
    delay=0.0,
    uniform_training=False,
    routes_per_step=1,
):
    """A route searched while a supernet trains on it, and then inherited, or the better of inherited and retrained.

    Inherited as in the paper: route and weights of the epoch with the least validation loss. In the recipe the last
    route gets the weights of that epoch and trains on for a while, and competes with the same route trained anew.
    """
    dataset, tasks = problem.dataset, len(problem.tasks)
    _seed(seed)
    layer = supernet(dataset, tasks, width, settings.dropout)
    model = problem.network(layer, settings)
    start = int(delay * problem.steps(dataset.epochs))
    batches = _validation_batches(problem, seed)
    search = RouteSearch(
        batches,
        reward="auc" if set(dataset.kinds.values()) == {"binary"} else "loss",
        seed=seed,
        uniform_training=uniform_training,
        routes_per_step=routes_per_step,
        start_step=start,
    )
    fitted = problem.fit(model, settings, patience=None, callbacks=[search])
    scored = (problem.steps(dataset.epochs) - start) * routes_per_step * len(next(iter(batches[0][1].values())))
    work = fitted.work + scored
    extra = {"entropy": fitted.logs["search_entropy"], "supernet_parameters": layer.count_params()}
    if finish == "inherit":
        frozen = mtl.freeze(model)
        trained = _trained(problem, frozen, fitted.validation_loss, fitted.epochs, work)
        return _with_route(trained, layer.derive(), extra)

    route = layer.route_of([fitted.logs[f"search_route_{block}"] for block in range(layer.num_blocks)])
    layer.set_route(route)
    candidates = {
        "inherited": _polished(problem, mtl.freeze(model), settings),
        "retrained": _fitted(problem, lambda: StaticRoute(route, width, dropout=settings.dropout), settings, [seed, 1]),
    }
    chosen = min(candidates, key=lambda name: candidates[name].validation_loss)
    trained = candidates[chosen]
    extra |= {"chosen": chosen} | {f"{name}_loss": c.validation_loss for name, c in candidates.items()}
    trained.work = work + sum(candidate.work for candidate in candidates.values())
    return _with_route(trained, route, extra)


def _polished(problem, model, settings):
    """Trains on from the weights that are there, with a learning rate that falls to nothing."""
    epochs = max(1, round(POLISH * problem.dataset.epochs))
    schedule = keras.optimizers.schedules.CosineDecay(settings.learning_rate / 2, problem.steps(epochs))
    fitted = problem.fit(model, settings, epochs=epochs, patience=None, rate=schedule, from_start=True)
    return _trained(problem, model, fitted.validation_loss, fitted.epochs, fitted.work)


def _with_route(trained, route, extra):
    """Adds the route, and whether each pair of tasks reaches no sub-network in common."""
    reached = [
        {(layer, subnetwork) for layer, found in enumerate(route.reached([task])) for subnetwork in found}
        for task in range(route.num_tasks)
    ]
    pairs = [(a, b) for a in range(route.num_tasks) for b in range(a)]
    overlap = [len(reached[a] & reached[b]) / len(reached[a] | reached[b]) for a, b in pairs]
    trained.extra = {**extra, "route": route.to_json(), "overlap": float(np.mean(overlap)) if overlap else 0.0}
    return trained


def _fitted(problem, make_layer, settings, seed, tasks=None):
    _seed(seed)
    # Only now the layer: an initializer draws its seed when it is made.
    model = problem.network(make_layer(), settings, tasks)
    fitted = problem.fit(model, settings)
    return _trained(problem, model, fitted.validation_loss, fitted.epochs, fitted.work)


def _trained(problem, model, validation_loss, epochs, work):
    embedding = sum(layer.count_params() for layer in model.layers if isinstance(layer, keras.layers.Embedding))
    predictions = {part: problem.predict(model, part) for part in ("validation", "test")}
    return Trained(validation_loss, predictions, model.count_params() - embedding, embedding, epochs, work)


def _validation_batches(problem, seed):
    """The validation rows in an order of their own, as whole batches: tensors, so that nothing is copied per step."""
    inputs, labels = problem.encoded.inputs["validation"], problem.encoded.labels["validation"]
    rows = len(next(iter(labels.values())))
    size = min(SEARCH_BATCH, rows)
    order = np.random.default_rng([seed, 1]).permutation(rows)
    return [
        tuple({name: tf.constant(values[rows]) for name, values in columns.items()} for columns in (inputs, labels))
        for rows in np.split(order[: rows - rows % size], rows // size)
    ]


def _seed(seed):
    """A seed for everything Keras draws; a list is a seed and the number of the model within the run."""
    keras.utils.set_random_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]) % 2**31)


def _union(dicts):
    return {key: value for part in dicts for key, value in part.items()}
