"""The methods, a row each. A row says which sharing layer it has for a width, and how it is trained.

Every row meets the data set's parameter budget for what is above the embeddings, sharing layer and towers together, by
its width; that of the learned routes is matched at the full route, the largest that a search can find.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import mtl_layers as mtl
from benchmarks.quality import procedures
from mtl_layers.sharing import Route, RouteSupernet, StaticRoute
from mtl_layers.sharing.route import Block, num_blocks


@dataclass(frozen=True, eq=False)
class Method:
    """A row of the table.

    Args:
        title: Its name in tables and figures.
        layer: Function of (dataset, number of tasks, width, dropout) that gives the sharing layer.
        train: Function of (problem, method, width, settings, seed) that gives `procedures.Trained`.
        separate: Whether every task has a network of its own; they share the budget.
        tuned_as: The method whose tuning it takes over, being its ablation or training its network several times.
        options: Arguments for `train`.
    """

    title: str
    layer: Callable
    train: Callable = procedures.joint
    separate: bool = False
    tuned_as: str | None = None
    options: dict = field(default_factory=dict)

    def width(self, problem):
        """The width at which the parameters come closest to the budget."""
        budget, low, high = problem.dataset.budget, 1, 2
        while self.parameters(problem, high) <= budget:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.parameters(problem, middle) <= budget else (low, middle)
        return min((low, high), key=lambda width: abs(self.parameters(problem, width) - budget))

    def parameters(self, problem, width):
        """Parameters above the embeddings of all networks of the method at a width."""
        groups = [(task,) for task in problem.tasks] if self.separate else [problem.tasks]
        return sum(
            _count(self.layer(problem.dataset, len(tasks), width, 0.0), problem.towers(tasks), problem.encoded.dim)
            for tasks in groups
        )


def _count(layer, towers, dim):
    layer.build((None, dim))
    towers.build(layer.compute_output_shape((None, dim)))
    # Of what is trained: masks and counters are no parameters.
    return sum(math.prod(weight.shape) for part in (layer, towers) for weight in part.trainable_weights)


# ------------------------------------------------------------------------------------------------- the sharing layers


def _hidden(dataset, width):
    """Layers of an expert: `width` and then half as much, or one layer where the data set asks for one."""
    return (width,) if dataset.layers == 1 else (width, -(-width // 2))


def shared_bottom(dataset, tasks, width, dropout):
    return mtl.SharedBottom(tasks, _hidden(dataset, width), dropout=dropout)


def omoe(dataset, tasks, width, dropout):
    return mtl.OMoE(tasks, dataset.subnetworks, _hidden(dataset, width), dropout=dropout)


def mmoe(dataset, tasks, width, dropout):
    return mtl.MMoE(tasks, dataset.subnetworks, _hidden(dataset, width), dropout=dropout)


def _levels(dataset, width):
    return tuple((units,) for units in _hidden(dataset, width))


def multi_layer_mmoe(dataset, tasks, width, dropout):
    levels = _levels(dataset, width)
    return mtl.MultiLayerMMoE(tasks, len(levels), dataset.subnetworks, levels, dropout=dropout)


def ple(dataset, tasks, width, dropout):
    """As many experts a level as the others where that is possible: one per task, at least one shared."""
    levels = _levels(dataset, width)
    shared = max(1, dataset.subnetworks - tasks)
    return mtl.PLE(tasks, len(levels), 1, shared, levels, dropout=dropout)


def ada_tt(dataset, tasks, width, dropout):
    """As many experts a level as PLE has."""
    levels = _levels(dataset, width)
    return mtl.AdaTT(tasks, len(levels), 1, max(1, dataset.subnetworks - tasks), levels, dropout=dropout)


def d_select_k(dataset, tasks, width, dropout):
    gate = mtl.DSelectKGate(k=2, entropy=1e-3)
    return mtl.MMoE(tasks, dataset.subnetworks, _hidden(dataset, width), gate=gate, dropout=dropout)


def cross_stitch(dataset, tasks, width, dropout):
    return mtl.CrossStitch(tasks, _hidden(dataset, width), dropout=dropout)


def l2_constrained(dataset, tasks, width, dropout):
    return mtl.L2Constrained(tasks, _hidden(dataset, width), dropout=dropout)


def tensor_factorization(dataset, tasks, width, dropout):
    """Ranks as large as the layers are wide, so that only the inputs' dimension is compressed."""
    hidden = _hidden(dataset, width)
    return mtl.TensorFactorization(tasks, [(units, units, tasks) for units in hidden], hidden, dropout=dropout)


def gumbel_matrix(dataset, tasks, width, dropout, **options):
    """The experts of multi-layer MMoE as components. A task may end without any, on the bias of its tower.

    The published temperature falls over ten times as many steps as there are here: hence 1 from the start.
    """
    levels = _levels(dataset, width)
    counts = (dataset.subnetworks,) * len(levels)
    return mtl.GumbelMatrix(tasks, counts, levels, temperature=1.0, dropout=dropout, allow_empty=True, **options)


def sparse_sharing(dataset, tasks, width, dropout):
    return mtl.SparseSharing(tasks, _hidden(dataset, width), dropout=dropout)


def full_route(dataset, tasks, width, dropout, query="previous", pooling="gate", input_layer=False):
    """Everybody mixes everything: the route that the supernet has before any search."""
    block = Block(tuple(range(dataset.subnetworks)), 0 if (query, pooling) == ("previous", "gate") else None)
    count = num_blocks(tasks, dataset.layers, dataset.subnetworks)
    route = Route(tasks, dataset.layers, dataset.subnetworks, (block,) * count)
    return StaticRoute(route, width, pooling, input_layer, dropout=dropout)


full_route_of_means = functools.partial(full_route, pooling="mean")


def supernet(dataset, tasks, width, dropout, **space):
    return RouteSupernet(tasks, dataset.layers, dataset.subnetworks, width, **space, dropout=dropout)


def _recipe(title, tuned_as="mtnas_recipe", **changed):
    """The recommended search, or its ablation. No input layer: what all routes share, no route can part."""
    return _searched(title, tuned_as, **{"input_layer": False, **RECIPE, **changed})


def _inherited(changed, **options):
    """The recipe with means and nothing retrained, where only the search decides; or its ablation."""
    title = "MTNAS (recipe), mean pooling, inherited and trained on"
    title = f"The same, {changed}" if changed else title
    return _recipe(title, **{"pooling": "mean", "candidates": 0, "polish": True, **options})


def _calibrated(method, tuned_as):
    """The row with its logits scaled on validation."""
    options = {"train": method.train, **method.options}
    return replace(
        method, title=f"{method.title}; calibrated", train=procedures.calibrated, tuned_as=tuned_as, options=options
    )


def _searched(title, tuned_as=None, query="previous", pooling="gate", input_layer=True, **options):
    space = {"query": query, "pooling": pooling, "input_layer": input_layer}
    options["supernet"] = functools.partial(supernet, **space)
    layer = functools.partial(full_route, **space)
    return Method(title, layer, procedures.searched, tuned_as=tuned_as, options=options)


# ----------------------------------------------------------------------------------------------------------- the table

RECIPE = {
    "afterwards": 600,
    "uniform_training": True,
    "routes_per_step": 4,
    "per_task_credit": True,
    "reward": "loss",
    "alpha_rate": 0.05,
    "candidates": 6,
}
IN_FIT = {"afterwards": None, "delay": 1 / 3}
AT_ITS_COST = {"cost_of": "mtnas_recipe"}  # and so after it
AT_THE_COST_OF_MEANS = {"cost_of": "mtnas_recipe_mean"}

BUDGET = {"budget": 0.5, "budget_weight": 0.1, "p_init": 0.8}  # a larger weight decides before the losses do

METHODS = {
    "single_task": Method("Single-task", shared_bottom, procedures.single_task, separate=True),
    "single_task_together": Method(
        "Single-task, stopped together",
        shared_bottom,
        procedures.single_task,
        separate=True,
        tuned_as="single_task",
        options={"together": True},
    ),
    "shared_bottom": Method("Shared-Bottom", shared_bottom),
    "omoe": Method("OMoE", omoe),
    "mmoe": Method("MMoE", mmoe),
    "multi_layer_mmoe": Method("ML-MMoE", multi_layer_mmoe),
    "ple": Method("PLE", ple),
    "ada_tt": Method("AdaTT", ada_tt),
    "d_select_k": Method("MMoE, DSelect-2 gates", d_select_k),
    "cross_stitch": Method("Cross-Stitch", cross_stitch),
    "l2_constrained": Method("L2-Constrained", l2_constrained),
    "tensor_factorization": Method("Tensor-Factorization", tensor_factorization),
    "gumbel_matrix": Method("Gumbel-Matrix", gumbel_matrix, procedures.allocated),
    "gumbel_matrix_budget": Method(
        "Gumbel-Matrix, budget 0.5", functools.partial(gumbel_matrix, **BUDGET), procedures.allocated
    ),
    # Its base network is that of Shared-Bottom; it spends the work of several of its trainings on the masks.
    "sparse_sharing": Method("Sparse Sharing", sparse_sharing, procedures.pruned, tuned_as="shared_bottom"),
    "mtnas": _searched("MTNAS (paper)"),
    "mtnas_root_query": _searched("MTNAS without query search", "mtnas", query="root"),
    "mtnas_mean": _searched("MTNAS, mean pooling", "mtnas", pooling="mean"),
    "full_route": Method("Full route", full_route),
    "mtnas_recipe": _recipe("MTNAS (recipe)", tuned_as=None),
    "mtnas_recipe_mean": _recipe("MTNAS (recipe), mean pooling", pooling="mean"),
    "mtnas_recipe_inherited": _inherited(None),
    # Each of these leaves or changes one thing of the row above, whose supernet and search come from the same seeds.
    "inherited_full": _inherited("the full route in its place", takes="full"),
    "inherited_random": _inherited("a random route in its place", takes="random"),
    "inherited_untrained_on": _inherited("not trained on", polish=False),
    "inherited_gates": _inherited("with gates", pooling="gate"),
    "inherited_input_layer": _inherited("with the input layer", input_layer=True),
    "inherited_one_route": _inherited("one route a step", routes_per_step=1),
    "inherited_shared_credit": _inherited("blocks answer for all tasks", per_task_credit=False),
    "inherited_auc": _inherited("AUC as reward", reward="auc"),
    "inherited_in_fit": _inherited("searched while it trains", **IN_FIT),
    "inherited_sampled": _inherited("searched while it trains on the routes sampled", **IN_FIT, uniform_training=False),
    "full_route_polished": Method(
        "Full route with means, trained on in the same way",
        full_route_of_means,
        tuned_as="full_route",
        options={"polish": True},
    ),
    "random_routes": Method(
        "Random routes with means, best at the cost of the recipe with means",
        full_route_of_means,
        procedures.random_routes,
        tuned_as="mtnas_recipe",
        options=AT_THE_COST_OF_MEANS,
    ),
    "restarts": Method(
        "Full route, best restart at that cost",
        full_route,
        procedures.restarts,
        tuned_as="full_route",
        options=AT_ITS_COST,
    ),
    "restarts_mean": Method(
        "Full route with means, best restart at the cost of the recipe with means",
        full_route_of_means,
        procedures.restarts,
        tuned_as="full_route",
        options=AT_THE_COST_OF_MEANS,
    ),
}
CALIBRATED = (
    "single_task",
    "shared_bottom",
    "mmoe",
    "mtnas_recipe_mean",
    "mtnas_recipe_inherited",
    "inherited_full",
    "inherited_random",
)
METHODS |= {f"{name}_calibrated": _calibrated(METHODS[name], METHODS[name].tuned_as or name) for name in CALIBRATED}
