"""Search a sharing route on Census-Income, look at it, train it and other routes anew or inherit it, freeze and export.

    python examples/route_search.py [--output build/route_search] [--quick]

A `fit` trains the supernet on routes drawn uniformly; then the search moves to the better ones, by weights that stand
still. Rewards come from the validation half, and so does the choice between the searched weights and several routes
trained anew; the test half is looked at once, at the end. Numbers to expect (seed 0): test AUC of about .956 for income
and .995 for never married, as from the architectures in census_income.py: one seed on this data set cannot tell them
apart. benchmarks/quality compares methods over many seeds.
"""

import argparse
import json
import time
from pathlib import Path

import census_data
import census_model
import matplotlib

import mtl_layers as mtl
import serving
from mtl_layers._keras import keras

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TASKS = census_data.TASKS


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("build/route_search"))
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rows, one epoch: to see that it runs")
    arguments = parser.parse_args()
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    epochs = 1 if arguments.quick else 6

    started = time.perf_counter()
    training, validation, test = census_data.load_parts(arguments.quick)
    data = census_data.batches(*training, shuffle=True)
    steps = -(-len(training[1]["income"]) // census_data.BATCH)
    embedding = mtl.FeatureEmbedding(census_data.SPECS)
    embedding.adapt(training[0])

    print("\n== supernet")
    keras.utils.set_random_seed(0)
    # Means in the place of the paper's gates, and without its input layer, which all routes share.
    layers = {"units": 64, "dropout": 0.1, "pooling": "mean", "input_layer": False}
    supernet = mtl.RouteSupernet(2, num_layers=2, num_subnetworks=4, **layers)
    searched = census_model.build(embedding.features, supernet, TASKS)
    search = mtl.RouteSearch(
        census_data.batches(*validation),
        reward="loss",
        optimizer=keras.optimizers.Adam(0.05),  # so that it decides
        uniform_training=True,  # the sub-networks of every route get their share of training
        routes_per_step=4,  # compared on one validation batch, they need no baseline from others
        per_task_credit=True,  # a block answers for the tasks that depend on it
        start_step=None,  # not while the weights still change
    )
    census_model.fit(searched, data, steps, epochs, callbacks=[search])
    print("\n== search")
    history = search.run(searched, 20 if arguments.quick else 600, verbose=census_model.verbosity())
    route = supernet.derive()
    print(f"\n{route}\n")
    (output / "route.json").write_text(route.to_json() + "\n", encoding="utf-8")
    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    mtl.analysis.draw_route(route, axes, TASKS, "most likely route", queries=False)
    figure.savefig(output / "route.png", dpi=120)

    print("\n== the route found, its weights trained on")
    candidates = {"inherited": mtl.freeze(searched)}
    census_model.fit(candidates["inherited"], data, steps, max(1, epochs // 4), rate=1e-3)
    for name, candidate in supernet.candidates(1 if arguments.quick else 4).items():
        print(f"\n== {name} route, trained anew")
        keras.utils.set_random_seed(0)
        retrained = census_model.build(embedding.features, mtl.StaticRoute(candidate, **layers), TASKS)
        census_model.fit(retrained, data, steps, epochs)
        candidates[name] = mtl.freeze(retrained)

    print("\n== MMoE, to see its gates beside the route")
    keras.utils.set_random_seed(0)
    mmoe = census_model.build(embedding.features, mtl.MMoE(2, num_experts=4, hidden_units=(64,), dropout=0.1), TASKS)
    census_model.fit(mmoe, data, steps, 1 if arguments.quick else 2)
    gates = mtl.analysis.gate_utilisation(mmoe, census_data.batches(validation[0]))
    figure, axes = plt.subplots(1, 4, figsize=(13, 3), layout="constrained")
    mtl.analysis.plot_task_relations(training[1], route, axes[:2])
    mtl.analysis.plot_gates_beside_route(gates[-1], route, axes[2:], TASKS)
    figure.savefig(output / "sharing.png", dpi=120)

    scores = {
        name: census_data.aucs(model.predict(census_data.batches(validation[0]), verbose=0), validation[1])
        for name, model in candidates.items()
    }
    chosen = max(scores, key=lambda name: sum(scores[name].values()))
    result = census_data.aucs(candidates[chosen].predict(census_data.batches(test[0]), verbose=0), test[1])
    print(f"\nwhat freezing the searched model removed:\n{candidates['inherited'].freeze_report}")
    print("\nvalidation AUC     " + "".join(f"{task:>14}" for task in TASKS))
    for name, each in scores.items():
        print(f"{name:<19}" + "".join(f"{each[task]:14.4f}" for task in TASKS))
    print(f"\nchosen on validation: {chosen}\ntest AUC           " + "".join(f"{result[task]:14.4f}" for task in TASKS))
    print()

    version = serving.export(candidates[chosen], output / "model")
    report = {
        "route": json.loads(route.to_json()),
        "search": history,
        "parameters": {"searched": searched.count_params(), "frozen": candidates[chosen].count_params()},
        "validation": scores,
        "chosen": chosen,
        "test": result,
        "signatures": json.loads((version / "manifest.json").read_text())["signatures"],
        "seconds": time.perf_counter() - started,
    }
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    files = "route.json, route.png, sharing.png, report.json, model"
    print(f"everything is in {output} after {report['seconds']:.0f} seconds: {files}")


if __name__ == "__main__":
    main()
