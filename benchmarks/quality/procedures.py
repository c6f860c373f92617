"""How the methods are trained: each function takes (problem, method, width, settings, seed) and gives a `Trained`."""

from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

import mtl_layers as mtl
from mtl_layers._keras import keras
from mtl_layers.search import RouteSearch, SparseSharingPruner
from mtl_layers.sharing import StaticRoute
from mtl_layers.sharing._route_space import RouteSpace

SEARCH_BATCH = 1024  # validation rows of a search step, as in the MTNAS paper
POLISH = 0.25  # share of the epochs for which inherited weights train on
SHORT = 0.2  # share of the epochs of a training for a mask, and of the warm-up on all tasks before


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


def joint(problem, method, width, settings, seed, *, polish=False):
    """One model for all tasks; with `polish` it trains on as an inherited route does."""
    make = lambda: method.layer(problem.dataset, len(problem.tasks), width, settings.dropout)  # noqa: E731
    return _fitted(problem, make, settings, seed, polish)


def single_task(problem, method, width, settings, seed, *, together=False):
    """A model for each task, nothing shared: its embeddings are its own, and the epoch that it is left at.

    Stopped `together` they are left at one epoch, as the parts of a model that share nothing would be.
    """
    models, fits = [], []
    for task in problem.tasks:
        set_seed(seed)
        models.append(problem.network(method.layer(problem.dataset, 1, width, settings.dropout), settings, [task]))
        fits.append(problem.fit(models[-1], settings, keep=together))
    losses, epochs = [fit.validation_loss for fit in fits], [fit.epochs for fit in fits]
    if together:
        sums = [sum(losses) for losses in zip(*(fit.losses for fit in fits), strict=False)]  # of the epochs all have
        best = int(np.argmin(sums))
        losses, epochs = [sums[best]], best + 1
        for model, fit in zip(models, fits, strict=True):
            model.set_weights(fit.weights[best])
    parts = [_trained(problem, model, None, None, None) for model in models]
    return Trained(
        sum(losses),
        {name: _union(part.predictions[name] for part in parts) for name in parts[0].predictions},
        sum(part.parameters for part in parts),
        sum(part.embedding for part in parts),
        epochs,
        sum(fit.work for fit in fits),
    )


def allocated(problem, method, width, settings, seed):
    """A GumbelMatrix, trained as any other layer and then frozen to its most likely allocation."""
    set_seed(seed)
    layer = method.layer(problem.dataset, len(problem.tasks), width, settings.dropout)
    model = problem.network(layer, settings)
    fitted = problem.fit(model, settings)
    trained = _trained(problem, mtl.freeze(model), fitted.validation_loss, fitted.epochs, fitted.work)
    uses = np.concatenate(layer.allocation(), axis=1).astype(int)  # [tasks, components of all levels]
    either = np.maximum(1, uses.sum(axis=1)[:, None] + uses.sum(axis=1) - uses @ uses.T)
    trained.extra = {"allocation": uses.tolist(), "active": float(uses.mean())}
    trained.extra["overlap"] = _mean_of_pairs(uses @ uses.T / either)
    return trained


def pruned(problem, method, width, settings, seed, *, prune_rate=0.3, final_kept=0.2):
    """A SparseSharing: warm-up, a mask for each task by pruning it alone, then joint training from the warm weights.

    A task's mask is the one with the least validation loss of that task, of six by default; all trainings are work.
    """
    set_seed(seed)
    layer = method.layer(problem.dataset, len(problem.tasks), width, settings.dropout)
    model = problem.network(layer, settings)
    short = max(1, round(SHORT * problem.dataset.epochs))
    work = [problem.fit(model, settings, epochs=short, patience=None).work]

    def train(alone, task):
        fitted = problem.fit(alone, settings, epochs=short, patience=None)
        work.append(fitted.work)
        return -fitted.validation_loss

    report = SparseSharingPruner(train, prune_rate, final_kept, verbose=False).prune(model)
    fitted = problem.fit(model, settings)
    trained = _trained(problem, model, fitted.validation_loss, fitted.epochs, fitted.work + sum(work))
    unused = sum(int((~mask.any(axis=0)).sum()) for mask in layer.get_masks())
    trained.parameters = method.parameters(problem, width) - unused
    trained.extra = {
        "kept": layer.kept_fractions().tolist(),
        "rounds": [each["round"] for each in report if each["chosen"]],
        "overlap": _mean_of_pairs(mtl.analysis.mask_overlap(layer)),
    }
    return trained


def restarts(problem, method, width, settings, seed, cost, cost_of):
    """The best of several models on validation, as many as the work of a search pays for."""
    return _best_of(cost, lambda number: joint(problem, method, width, settings, [seed, number]))


def random_routes(problem, method, width, settings, seed, cost, cost_of):
    """Of routes with means, drawn at random, the best on validation; as many as the work of a search pays for."""
    dataset = problem.dataset
    space = RouteSpace(len(problem.tasks), dataset.layers, dataset.subnetworks, searches_queries=False, has_gates=False)
    random = np.random.default_rng([seed, 2])

    def train(number):
        route = space.route_of(random.integers(0, space.num_routes, space.num_blocks))
        return retrained(problem, route, width, settings, [seed, number], input_layer=False, pooling="mean")

    return _best_of(cost, train)


def _best_of(cost, train):
    found = []
    while sum(trained.work for trained in found) < cost:
        found.append(train(len(found)))
    best = min(found, key=lambda trained: trained.validation_loss)
    best.work = sum(trained.work for trained in found)
    best.extra = {**best.extra, "trained": len(found), "spread": float(np.std([t.validation_loss for t in found]))}
    return best


def searched(
    problem,
    method,
    width,
    settings,
    seed,
    *,
    supernet,
    delay=0.0,
    afterwards=None,
    candidates=0,
    polish=False,
    takes="derived",
    alpha_rate=0.01,
    reward=None,
    **options,
):
    """A route searched while a supernet trains on it, or after; then inherited, or the best of several trained anew.

    The search begins after the share `delay` of the steps; or it takes `afterwards` steps when training has ended, by
    the weights of the epoch with the least validation loss.
    Inherited as in the paper: route and weights of the epoch with the least validation loss; with `polish` the route
    then trains on for a while. To see what the route found is worth, the supernet `takes` another in its place, the
    "full" one or a "random" one. With `candidates` the search gives so many routes: its most likely one, the full one,
    the one without sharing and draws from its policy. Each is trained from scratch, and the best on validation stays.
    The reward is the AUC, or of regressions the loss.
    """
    dataset, tasks = problem.dataset, len(problem.tasks)
    set_seed(seed)
    layer = supernet(dataset, tasks, width, settings.dropout)
    model = problem.network(layer, settings)
    batches = validation_batches(problem, seed)
    reward = reward or ("auc" if set(dataset.kinds.values()) == {"binary"} else "loss")
    optimizer = keras.optimizers.Adam(alpha_rate)
    if afterwards:
        search = RouteSearch(batches, reward, optimizer, seed=seed, start_step=None, **options)
        fitted = problem.fit(model, settings, callbacks=[search])
        entropy = search.run(model, afterwards, verbose=0)["search_entropy"][-1]
        steps = afterwards
    else:
        start = int(delay * problem.steps(dataset.epochs))
        search = RouteSearch(batches, reward, optimizer, seed=seed, start_step=start, **options)
        fitted = problem.fit(model, settings, patience=None, callbacks=[search])
        entropy = fitted.logs["search_entropy"]
        steps = problem.steps(dataset.epochs) - start
    work = fitted.work + steps * search.routes_per_step * len(next(iter(batches[0][1].values())))
    extra = {"entropy": entropy, "supernet_parameters": layer.count_params()}
    if not candidates:
        if takes != "derived":
            layer.set_route(_other_route(layer, takes, [seed, 2]))
        frozen = mtl.freeze(model)
        if polish:
            trained = _polished(problem, frozen, settings, work)
        else:
            trained = _trained(problem, frozen, fitted.validation_loss, fitted.epochs, work)
        return _with_route(trained, layer.derive(), extra)

    routes = layer.candidates(candidates, [seed, 2])
    found = {"inherited": _polished(problem, mtl.freeze(model), settings)}
    for number, (name, route) in enumerate(routes.items(), 1):
        found[name] = retrained(problem, route, width, settings, [seed, number], layer.input_layer, layer.pooling)
    chosen = min(found, key=lambda name: found[name].validation_loss)
    extra |= {"chosen": chosen, "losses": {name: trained.validation_loss for name, trained in found.items()}}
    trained = found[chosen]
    trained.work = work + sum(candidate.work for candidate in found.values())
    return _with_route(trained, routes["derived" if chosen == "inherited" else chosen], extra)


def calibrated(problem, method, width, settings, seed, *, train, **options):
    """A run of `train` whose logits are then scaled and shifted to fit the validation rows, task by task.

    Such scaling leaves the order of rows, and so the AUC, as it is: it shows what of a loss is calibration.
    """
    trained = train(problem, method, width, settings, seed, **options)
    for task, kind in problem.dataset.kinds.items():
        if kind != "binary":
            raise ValueError(f"calibration is for binary tasks; received: {task} is a {kind}")
        labels = problem.encoded.labels["validation"][task]
        known = ~np.isnan(labels)
        columns = {name: logit(np.clip(of[task], 1e-7, 1 - 1e-7))[:, None] for name, of in trained.predictions.items()}
        scaling = LogisticRegression(C=np.inf).fit(columns["validation"][known], labels[known])
        for name, of in trained.predictions.items():
            of[task] = scaling.predict_proba(columns[name])[:, 1]
    trained.validation_loss = problem.scores(trained.predictions["validation"], "validation")["summed_loss"]
    return trained


def _other_route(supernet, kind, seed):
    """A route that no search found: the full one, or one drawn at random."""
    if kind == "full":
        return supernet.route_of([0] * supernet.num_blocks)
    return supernet.route_of(np.random.default_rng(seed).integers(0, supernet.num_routes, supernet.num_blocks))


def retrained(problem, route, width, settings, seed, input_layer, pooling="gate"):
    make = lambda: StaticRoute(route, width, pooling, input_layer, dropout=settings.dropout)  # noqa: E731
    trained = _fitted(problem, make, settings, seed)
    return _with_route(trained, route, trained.extra)


def _polished(problem, model, settings, work=0):
    """After so much work, trains on from the weights that are there, with a learning rate that falls to nothing."""
    epochs = max(1, round(POLISH * problem.dataset.epochs))
    schedule = keras.optimizers.schedules.CosineDecay(settings.learning_rate / 2, problem.steps(epochs))
    fitted = problem.fit(model, settings, epochs=epochs, patience=None, rate=schedule, from_start=True)
    return _trained(problem, model, fitted.validation_loss, fitted.epochs, work + fitted.work)


def _with_route(trained, route, extra):
    """Adds the route, and which share of their sub-networks two tasks have in common, on average over pairs."""
    overlap = _mean_of_pairs(mtl.analysis.sharing_overlap(route))
    trained.extra = {**extra, "route": route.to_json(), "overlap": overlap}
    return trained


def _mean_of_pairs(matrix):
    """The mean of `[tasks, tasks]` over pairs of two tasks; 0 for a task alone."""
    pairs = np.asarray(matrix)[np.triu_indices(len(matrix), 1)]
    return float(pairs.mean()) if len(pairs) else 0.0


def _fitted(problem, make_layer, settings, seed, polish=False):
    set_seed(seed)
    # Only now the layer: an initializer draws its seed when it is made.
    model = problem.network(make_layer(), settings)
    fitted = problem.fit(model, settings)
    if polish:
        return _polished(problem, model, settings, fitted.work)
    return _trained(problem, model, fitted.validation_loss, fitted.epochs, fitted.work)


def _trained(problem, model, validation_loss, epochs, work):
    embedding = sum(layer.count_params() for layer in model.layers if isinstance(layer, keras.layers.Embedding))
    predictions = {part: problem.predict(model, part) for part in ("validation", "test")}
    return Trained(validation_loss, predictions, model.count_params() - embedding, embedding, epochs, work)


def validation_batches(problem, seed):
    """The validation rows in an order of their own, as whole batches: tensors, so that nothing is copied per step."""
    inputs, labels = problem.encoded.inputs["validation"], problem.encoded.labels["validation"]
    rows = len(next(iter(labels.values())))
    size = min(SEARCH_BATCH, rows)
    order = np.random.default_rng([seed, 1]).permutation(rows)
    return [
        tuple({name: tf.constant(values[rows]) for name, values in columns.items()} for columns in (inputs, labels))
        for rows in np.split(order[: rows - rows % size], rows // size)
    ]


def set_seed(seed):
    """A seed for everything Keras draws; a list is a seed and the number of the model within the run."""
    keras.utils.set_random_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]) % 2**31)


def _union(dicts):
    return {key: value for part in dicts for key, value in part.items()}
