"""Does a supernet order routes as training them from scratch does? Without that, no search through it can pay.

    python -m benchmarks.quality.route_ranking --dataset kuairand --data FOLDER

Routes drawn at random, and the three ready-made ones, are each trained from scratch with several seeds; and each is
judged in several supernets, trained on uniformly drawn routes, after every epoch. All on the validation rows. Writes
route_ranking-DATASET.jsonl (started again, it goes on), .json, .md and .png beside this program's results.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np
from scipy import stats
from tqdm import tqdm

from benchmarks.quality import datasets, procedures
from benchmarks.quality.encoding import encode
from benchmarks.quality.methods import METHODS, supernet
from benchmarks.quality.records import Records
from benchmarks.quality.run import QUICK, RESULTS
from benchmarks.quality.training import Problem, Settings
from mtl_layers._keras import keras
from mtl_layers.search import RouteSearch
from mtl_layers.sharing import Route

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SETTINGS = Settings(5e-4, 0.1, 1e-3)  # what most methods choose on KuaiRand; the same for all routes


def routes_to_rank(space, count):
    """Dict from name to route: the ready-made ones and `count` that are drawn uniformly."""
    random = np.random.default_rng(0)
    routes = {"full": space.route_of([0] * space.num_blocks), "shared bottom": Route.shared_bottom(*space.shape)}
    if space.shape[2] >= space.shape[0]:
        routes["no sharing"] = Route.no_sharing(*space.shape)
    draws = random.integers(0, space.num_routes, (count, space.num_blocks))
    return routes | {f"drawn {number}": space.route_of(draw) for number, draw in enumerate(draws)}


class JudgeRoutes(keras.callbacks.Callback):
    """After every epoch the summed validation loss of each route, as the supernet has it."""

    def __init__(self, problem, layer, routes):
        super().__init__()
        self.problem, self.layer, self.routes, self.losses = problem, layer, routes, []

    def on_epoch_end(self, epoch, logs=None):
        alpha = self.layer.alpha.numpy()
        found = {}
        for name, route in self.routes.items():
            self.layer.set_route(route)
            predictions = self.problem.predict(self.model, "validation")
            found[name] = self.problem.scores(predictions, "validation")["summed_loss"]
        self.layer.alpha.assign(alpha)
        self.losses.append(found)


def measure(problem, arguments, records):
    """Runs what the records do not have."""
    shape = {"input_layer": not arguments.no_input_layer}
    width = METHODS["mtnas" if shape["input_layer"] else "full_route"].width(problem)
    layer = lambda: supernet(problem.dataset, len(problem.tasks), width, SETTINGS.dropout, **shape)  # noqa: E731
    routes = routes_to_rank(layer().space, arguments.routes)
    key = {"dataset": arguments.dataset, "settings": asdict(SETTINGS), "quick": arguments.quick}
    with tqdm(total=arguments.supernets + arguments.seeds * len(routes), unit="run") as done:
        for seed in range(arguments.supernets):
            where = {**key, "method": "supernet", "phase": "shared", "seed": seed}
            if not records.find(**where):
                procedures.set_seed(seed)
                model = problem.network(shared := layer(), SETTINGS)
                judge = JudgeRoutes(problem, shared, routes)
                batches = procedures.validation_batches(problem, seed)
                search = RouteSearch(batches, "loss", seed=seed, uniform_training=True, start_step=None)
                problem.fit(model, SETTINGS, epochs=arguments.epochs, patience=None, callbacks=[search, judge])
                records.add({**where, "losses": judge.losses})
            done.update()
        for seed in range(arguments.seeds):
            for name, route in routes.items():
                where = {**key, "method": name, "phase": "alone", "seed": seed}
                if not records.find(**where):
                    keras.backend.clear_session()
                    trained = procedures.retrained(problem, route, width, SETTINGS, [seed, 7], **shape)
                    records.add({**where, "loss": trained.validation_loss, "parameters": trained.parameters})
                done.update()
    return list(routes)


def summary(names, rows):
    """Losses alone, with how much routes and seeds matter, and each supernet's rank correlation with them by epoch."""
    seeds = sorted({row["seed"] for row in rows if row["phase"] == "alone"})
    alone = {(row["method"], row["seed"]): row["loss"] for row in rows if row["phase"] == "alone"}
    losses = np.array([[alone[name, seed] for seed in seeds] for name in names])
    losses = losses - losses.mean(axis=0)  # what a seed does to all routes says nothing of routes
    within = losses.var(axis=1, ddof=1).mean() if len(seeds) > 1 else float("nan")
    between = losses.mean(axis=1).var(ddof=1) - within / len(seeds)
    halves = losses[:, ::2].mean(axis=1), losses[:, 1::2].mean(axis=1)
    supernets = []
    for row in (row for row in rows if row["phase"] == "shared"):
        judged = np.array([[epoch[name] for name in names] for epoch in row["losses"]])
        rank = [float(stats.spearmanr(epoch, losses.mean(axis=1))[0]) for epoch in judged]
        best = int(judged.mean(axis=1).argmin())
        supernets.append({"seed": row["seed"], "rank_correlation": rank, "best_epoch": best, "losses": judged.tolist()})
    return {
        "names": names,
        "seeds": len(seeds),
        "alone_minus_seed_mean": losses.mean(axis=1).tolist(),
        "sd_between_routes": float(np.sqrt(max(between, 0.0))),
        "sd_between_seeds": float(np.sqrt(within)),
        "rank_correlation_of_half_the_seeds_with_the_other": float(stats.spearmanr(*halves)[0]),
        "supernets": supernets,
    }


def markdown(title, found, picture, command):
    """What was found, as text with the picture."""
    orders = [["supernet", "best epoch", "rank correlation with training from scratch, epoch by epoch"]]
    for each in found["supernets"]:
        ranks = ", ".join(f"{rank:+.2f}" for rank in each["rank_correlation"])
        orders.append([str(each["seed"]), str(each["best_epoch"] + 1), ranks])
    table = "\n".join(f"| {' | '.join(line)} |" for line in [orders[0], ["---"] * 3, *orders[1:]])
    halves = found["rank_correlation_of_half_the_seeds_with_the_other"]
    return f"""## Routes of {title}, from scratch and in a supernet

Summed validation loss of {len(found["names"])} routes, each trained from scratch with {found["seeds"]} seeds. Standard
deviation between routes {found["sd_between_routes"]:.4f}, between the seeds of a route {found["sd_between_seeds"]:.4f};
half of the seeds order the routes as the other half does with a rank correlation of {halves:.2f}.

{table}

![{title}]({picture})

`{command}`
"""


def draw(title, found, path):
    """Each route: its loss from scratch, and its loss in each supernet at that supernet's best epoch."""
    figure, axes = plt.subplots(figsize=(5.5, 4), layout="constrained")
    for supernet_found in found["supernets"]:
        judged = np.array(supernet_found["losses"][supernet_found["best_epoch"]])
        rank = supernet_found["rank_correlation"][supernet_found["best_epoch"]]
        label = f"supernet {supernet_found['seed']}: rank correlation {rank:+.2f}"
        axes.plot(found["alone_minus_seed_mean"], judged - judged.mean(), "o", markersize=4, label=label)
    axes.set_xlabel("summed validation loss, trained from scratch (less the mean)")
    axes.set_ylabel("in the supernet (less the mean)")
    axes.set_title(f"{title}: {len(found['names'])} routes", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data", help="folder with the data set's files")
    parser.add_argument("--routes", type=int, default=16, help="drawn at random, beside the ready-made ones")
    parser.add_argument("--seeds", type=int, default=4, help="models from scratch for each route")
    parser.add_argument("--supernets", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8, help="of a supernet")
    parser.add_argument("--no-input-layer", action="store_true", help="sub-networks of the first layer read the input")
    parser.add_argument("--quick", action="store_true", help="few rows: to see that it runs")
    parser.add_argument("--out", type=Path, help="file of records; default: results/route_ranking-DATASET.jsonl")
    arguments = parser.parse_args(arguments)
    dataset = datasets.load(arguments.dataset, arguments.data, 0)
    dataset = dataset.thinned(**QUICK) if arguments.quick else dataset
    name = datasets.parse(arguments.dataset)[0] + ("-no_input_layer" if arguments.no_input_layer else "")
    out = arguments.out or RESULTS / f"route_ranking-{name}.jsonl"
    records = Records(out)
    names = measure(Problem(dataset, encode(dataset)), arguments, records)
    found = summary(names, records.rows)
    out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    picture = out.with_suffix(".png")
    draw(arguments.dataset, found, picture)
    sizes = f"--routes {arguments.routes} --seeds {arguments.seeds} --supernets {arguments.supernets}"
    more = f"{sizes} --epochs {arguments.epochs}{' --no-input-layer' if arguments.no_input_layer else ''}"
    command = f"python -m benchmarks.quality.route_ranking {datasets.arguments(arguments.dataset)} {more}"
    out.with_suffix(".md").write_text(markdown(arguments.dataset, found, picture.name, command), encoding="utf-8")
    print(json.dumps({name: value for name, value in found.items() if name.startswith(("sd", "rank"))}, indent=1))


if __name__ == "__main__":
    main()
