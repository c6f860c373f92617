"""What searched routes share, over all seeds: beside how alike the tasks are, beside chance, and beside MMoE's gates.

    python -m benchmarks.quality.sharing census kuairand=FOLDER bookcrossing=FOLDER synthetic

The routes are those in the records of `benchmarks.quality.run`, with the folders of data that it was given; MMoE is
trained again as it was there, for the weights of its gates. Writes sharing.md, .json and .png beside the records, and
routes.png: the route of the run with the least validation loss.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import itertools
import json
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import mtl_layers as mtl
from benchmarks.intervals import t_interval
from benchmarks.quality import datasets, procedures
from benchmarks.quality.encoding import encode
from benchmarks.quality.methods import METHODS
from benchmarks.quality.records import Records
from benchmarks.quality.report import final_runs
from benchmarks.quality.run import QUICK, RESULTS
from benchmarks.quality.training import Problem, Settings
from mtl_layers._keras import keras
from mtl_layers.sharing import Route
from mtl_layers.sharing._route_space import RouteSpace

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SEARCHES = ("mtnas", "mtnas_recipe", "mtnas_recipe_mean")
DRAWS = 2000  # of random routes, for what chance shares


def searched_routes(runs):
    """Dict from the title of a search to its routes by seed, and to the one with the least validation loss."""
    routes, best = {}, {}
    for method in (method for method in SEARCHES if method in runs):
        title, found = METHODS[method].title, runs[method]
        routes[title] = {seed: Route.from_json(row["extra"]["route"]) for seed, row in sorted(found.items())}
        best[title] = routes[title][min(found, key=lambda seed: found[seed]["validation"]["summed_loss"])]
    return routes, best


def chance(tasks, layers, subnetworks):
    """What two tasks share of the sub-networks that they reach, in routes drawn uniformly: the mean over draws."""
    space = RouteSpace(tasks, layers, subnetworks, searches_queries=False, has_gates=True)
    draws = np.random.default_rng(0).integers(0, space.num_routes, (DRAWS, space.num_blocks))
    return np.mean([mtl.analysis.sharing_overlap(space.route_of(draw))[0, 1] for draw in draws])


def pairs(labels, routes, shape):
    """A dict per pair of tasks: the correlation of labels, and what the routes of each search share, and chance."""
    tasks, correlation, found = list(labels), mtl.analysis.label_correlation(labels), []
    overlap = {title: [mtl.analysis.sharing_overlap(route) for route in of.values()] for title, of in routes.items()}
    random = float(chance(*shape))
    for one, other in itertools.combinations(range(len(tasks)), 2):
        shared = {title: t_interval([each[one, other] for each in of], 0.95) for title, of in overlap.items()}
        found.append(
            {
                "tasks": [tasks[one], tasks[other]],
                "correlation": None if np.isnan(correlation[one, other]) else float(correlation[one, other]),
                "chance": random,
                "shared": {title: [float(mean), float(half)] for title, (mean, half) in shared.items()},
            }
        )
    return found


def left_out(routes):
    """How many sub-networks of the last layer a task leaves out, per search: mean over tasks, interval over seeds."""
    found = {}
    for title, of in routes.items():
        counts = [
            np.mean([route.num_subnetworks - len(block.values) for block in route.blocks[-route.num_tasks :]])
            for route in of.values()
        ]
        found[title] = [float(value) for value in t_interval(counts, 0.95)]
    return found


def gate_weights(problem, row, seed):
    """The mean weights of MMoE's gates on the validation rows, largest first: `[experts]`, the mean over tasks."""
    procedures.set_seed(seed)
    settings, tasks = Settings(**row["settings"]), problem.tasks
    layer = METHODS["mmoe"].layer(problem.dataset, len(tasks), row["width"], settings.dropout)
    model = problem.network(layer, settings)
    problem.fit(model, settings)
    (level,) = mtl.analysis.gate_utilisation(model, problem.encoded.inputs["validation"])
    return np.sort(level.mean, axis=1)[:, ::-1].mean(axis=0)


def study(name, rows, directory, quick):
    """The numbers of a data set, and the route of each search's best run."""
    runs, first = final_runs(rows), datasets.load(name, directory, 0)
    routes, best = searched_routes(runs)
    problem, weights = None, []
    for seed, row in tqdm(sorted(runs["mmoe"].items()), desc=f"MMoE on {name}", unit="seed"):
        if problem is None or first.redrawn:
            dataset = datasets.load(name, directory, seed) if first.redrawn else first
            dataset = dataset.thinned(**QUICK) if quick else dataset
            problem = Problem(dataset, encode(dataset))
        keras.backend.clear_session()
        weights.append(gate_weights(problem, row, seed))
    mean, half = t_interval(weights, 0.95)
    labels = {task: values[first.split["train"]] for task, values in first.labels.items()}
    shape = (len(labels), first.layers, first.subnetworks)
    found = {
        "seeds": len(weights),
        "pairs": pairs(labels, routes, shape),
        "subnetworks": first.subnetworks,
        "gate_weights": [[float(m), float(h)] for m, h in zip(mean, half, strict=True)],
        "left_out": left_out(routes),
    }
    return found, best


def markdown(found, command):
    """Two tables: what pairs of tasks share, and what gates and routes give the least used expert."""
    titles = [METHODS[method].title for method in SEARCHES]
    lines = [["tasks", "label correlation", "shared by chance", *(f"shared, {title}" for title in titles)]]
    for name, of in found.items():
        for pair in of["pairs"]:
            correlation = "" if pair["correlation"] is None else f"{pair['correlation']:.2f}"
            shared = [_interval(pair["shared"].get(title)) for title in titles]
            lines.append([f"{name}: {', '.join(pair['tasks'])}", correlation, f"{pair['chance']:.2f}", *shared])
    heads = ["data", "weights of MMoE's gates, largest first", *(f"left out, {title}" for title in titles)]
    more = [heads]
    for name, of in found.items():
        weights = ", ".join(_interval(weight) for weight in of["gate_weights"])
        outs = [_interval(of["left_out"].get(title)) for title in titles]
        more.append([name, weights, *(f"{out} of {of['subnetworks']}" if out else "" for out in outs)])
    return f"""## What routes share

{_table(lines)}

Of the sub-networks that two tasks reach, the part that both reach; over the seeds that each method has in the table of
the data set, ± half of the 95 % t-interval. By chance: routes drawn uniformly. Label correlation: over the training
rows where both have one.

![What routes share](sharing.png)

{_table(more)}

Gates: mean over validation rows and tasks. Left out: sub-networks of the last layer that a block of a task does not
select, whose weight is 0 and which need not be computed for it.

![The route of the run with the least validation loss](routes.png)

`{command}`
"""


def _interval(pair):
    return f"{pair[0]:.2f} ± {pair[1]:.2f}" if pair else ""


def _table(lines):
    lines = [lines[0], ["---"] + ["---:"] * (len(lines[0]) - 1), *lines[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(found, path):
    """A row for each pair of tasks: left the correlation of labels, right what routes share and what chance would."""
    rows = [(f"{name}: {', '.join(pair['tasks'])}", pair) for name, of in found.items() for pair in of["pairs"]]
    rows.sort(key=lambda row: -2 if row[1]["correlation"] is None else row[1]["correlation"])
    size = (9, 0.45 * len(rows) + 1.7)
    figure, (left, right) = plt.subplots(1, 2, sharey=True, figsize=size, layout="constrained")
    for height, (_, pair) in enumerate(rows):
        if pair["correlation"] is not None:
            left.barh(height, pair["correlation"], 0.6, color="0.6")
        right.plot(pair["chance"], height, "|", color="0.3", markersize=14, label="" if height else "chance")
        for number, (title, (mean, half)) in enumerate(pair["shared"].items()):
            place = height + 0.24 * ((len(pair["shared"]) - 1) / 2 - number)
            label = "" if height else title
            right.errorbar(mean, place, xerr=half, fmt="o", color=f"C{number}", capsize=3, markersize=5, label=label)
    left.set_yticks(range(len(rows)), [name for name, _ in rows])
    left.set_title("correlation of the labels", fontsize=10)
    right.set_title("sub-networks shared", fontsize=10)
    right.set_xlim(-0.02, 1.05)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_routes(best, tasks, path):
    """The best route of each search, a row for each data set."""
    size = (4 * len(SEARCHES), 2.9 * len(best))
    figure, axes = plt.subplots(len(best), len(SEARCHES), figsize=size, layout="constrained", squeeze=False)
    for places, (name, routes) in zip(axes, best.items(), strict=True):
        for place, method in zip(places, SEARCHES, strict=True):
            title = METHODS[method].title
            if title in routes:
                names = [textwrap.fill(task.replace("_", " "), 10) for task in tasks[name]]
                gates = METHODS[method].options["supernet"].keywords["pooling"] == "gate"
                mtl.analysis.draw_route(routes[title], place, names, f"{name}\n{title}", queries=gates)
            else:
                place.set_axis_off()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("datasets", nargs="+", metavar="NAME[=FOLDER]", help=f"of {', '.join(datasets.NAMES)}")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the records, and of what is written")
    parser.add_argument("--quick", action="store_true", help="MMoE on few rows: to see that it runs")
    arguments = parser.parse_args(arguments)
    tf.get_logger().setLevel("ERROR")
    found, best, tasks = {}, {}, {}
    for place in arguments.datasets:
        file, _, directory = place.partition("=")
        rows = Records(arguments.results / f"{file}.jsonl").rows
        for name in dict.fromkeys(row["dataset"] for row in rows):
            chosen = [row for row in rows if row["dataset"] == name]
            found[name], best[name] = study(name, chosen, directory or None, arguments.quick)
            tasks[name] = list(chosen[0]["kinds"])
    named = " ".join(f"{place.partition('=')[0]}{'=FOLDER' if '=' in place else ''}" for place in arguments.datasets)
    out = arguments.results / "sharing.md"
    draw(found, out.with_suffix(".png"))
    draw_routes(best, tasks, out.with_name("routes.png"))
    out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    out.write_text(markdown(found, f"python -m benchmarks.quality.sharing {named}"), encoding="utf-8")
    print(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
