"""From raw Census-Income rows to a trained, exported, served and scored multi-task model.

    python examples/census_income.py [--output build/demo] [--quick]

Two tasks: does a person earn more than 50,000 dollars, and was the person never married. Numbers to expect (seed 0):
test AUC of at least .955 for income and .9945 for never married, whichever architecture wins on validation; the
differences between architectures are smaller than those between seeds, so this table proves nothing about them.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import census_data
import census_model
import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

import mtl_layers as mtl
import serving
from mtl_layers._keras import keras

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TASKS = census_data.TASKS


# -------------------------------------------------------------------------------------------------------- the models

# Sharing layers of about one size: 190,000 weights in the experts.
ARCHITECTURES = {
    "Shared-Bottom": lambda: mtl.SharedBottom(2, hidden_units=(512, 64), dropout=0.1),
    "MMoE": lambda: mtl.MMoE(2, num_experts=4, hidden_units=(128, 64), dropout=0.1),
    "PLE": lambda: mtl.PLE(2, 2, num_task_experts=1, num_shared_experts=2, hidden_units=((128,), (64,)), dropout=0.1),
}


def train(model, data, steps, epochs):
    """Returns the seconds that training took."""
    start = time.perf_counter()
    census_model.fit(model, data, steps, epochs, metrics=["AUC"])
    return time.perf_counter() - start


def run_architectures(specs, training, validation, test, epochs):
    """Trains every architecture; rows of the table, and the models by name."""
    steps = -(-len(training[1]["income"]) // census_data.BATCH)
    data = census_data.batches(*training, shuffle=True)
    held_out = {
        "validation": (census_data.batches(validation[0]), validation[1]),
        "test": (census_data.batches(test[0]), test[1]),
    }
    rows, models = {}, {}

    def evaluated(*parts):
        row = {
            "parameters": sum(model.count_params() for model in parts),
            "seconds": sum(train(model, _only(data, list(model.output)), steps, epochs) for model in parts),
        }
        for name, (inputs, labels) in held_out.items():
            predictions = {}
            for model in parts:
                predictions |= model.predict(inputs, verbose=0)
            row[name] = census_data.aucs(predictions, labels)
        return row

    print("\n== Single-task pair: a model of half the size for each task, nothing shared")
    keras.utils.set_random_seed(0)
    rows["Single-task pair"] = evaluated(
        *(census_model.build(specs, mtl.SharedBottom(1, hidden_units=(256, 64), dropout=0.1), [task]) for task in TASKS)
    )
    for name, sharing in ARCHITECTURES.items():
        print(f"\n== {name}")
        keras.utils.set_random_seed(0)
        models[name] = census_model.build(specs, sharing(), TASKS)
        rows[name] = evaluated(models[name])
    return rows, models


def _only(data, tasks):
    return data.map(lambda batch, labels: (batch, {task: labels[task] for task in tasks}))


def table(rows):
    """The table of results as text."""
    lines = [f"{'':18}{'parameters':>11}{'validation AUC':>22}{'test AUC':>22}{'seconds':>9}"]
    lines.append(f"{'':18}{'':11}" + 2 * f"{'income':>11}{'never m.':>11}")
    for name, row in rows.items():
        cells = "".join(f"{row[part][task]:>11.4f}" for part in ("validation", "test") for task in TASKS)
        lines.append(f"{name:18}{row['parameters']:>11,}{cells}{row['seconds']:>9.0f}")
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------------- serving and scoring


def ask(directory, features, expected):
    """Serves the newest version on free ports and asks for five rows through both protocols."""
    rows = {name: column[:5] for name, column in features.items()}
    answers = {}
    with serving.LocalServer(directory, model_name="census") as server:
        for protocol, port in (("grpc", server.port), ("rest", server.rest_api_port)):
            with serving.Client(f"127.0.0.1:{port}", "census", protocol=protocol, timeout=30) as client:
                answers[protocol] = client.predict(rows)
                only_income = client.predict(rows, signature="income")
            gap = max(float(np.abs(answers[protocol][task] - expected[task][:5]).max()) for task in TASKS)
            shown = " ".join(f"{value:.4f}" for value in np.ravel(only_income["income"]))
            print(f"{protocol}: income {shown}; largest difference from predict {gap:.1e}")
            if gap > 1e-6 or list(only_income) != ["income"]:
                raise SystemExit(f"the {protocol} answer differs from the model's by {gap}")
    return {protocol: {task: np.ravel(a[task]).tolist() for task in TASKS} for protocol, a in answers.items()}


def score(version, features, labels, output):
    """Scores the test half from Parquet to Parquet with the command, and judges what it wrote."""
    source, scored = output / "test.parquet", output / "scored.parquet"
    rows = pa.table({"row": np.arange(len(labels["income"])), **features})
    pq.write_table(rows, source, row_group_size=10_000)
    scored.unlink(missing_ok=True)
    start = time.perf_counter()
    command = [sys.executable, "-m", "serving.batch_scoring", "--model", str(version)]
    subprocess.run([*command, "--input", str(source), "--output", str(scored), "--keys", "row"], check=True)
    seconds = time.perf_counter() - start
    result = pq.read_table(scored)
    if result["row"].to_pylist() != list(range(len(rows))):
        raise SystemExit("scoring lost, repeated or reordered rows")
    return census_data.aucs({task: result[task].to_numpy() for task in TASKS}, labels), seconds


def draw_gates(models, data, path):
    """Mean and standard deviation of each gate weight, per task."""
    drawn = {name: model for name, model in models.items() if name in ("MMoE", "PLE")}
    figure, axes = plt.subplots(1, len(drawn), figsize=(5 * len(drawn), 3.6), layout="constrained")
    numbers = {}
    for place, (name, model) in zip(axes, drawn.items(), strict=True):
        last = mtl.analysis.gate_utilisation(model, data)[-1]
        experts = ["own, income", "own, never married", "shared 1", "shared 2"] if name == "PLE" else None
        mtl.analysis.plot_gate_utilisation(last, TASKS, place, f"{name}, last level", experts)
        numbers[name] = {"mean": last.mean.tolist(), "std": last.std.tolist()}
    figure.savefig(path, dpi=120)
    return numbers


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("build/demo"))
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rows, one epoch: to see that it runs")
    arguments = parser.parse_args()
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    started = time.perf_counter()
    training, validation, test = census_data.load_parts(arguments.quick)
    for labels in (training[1], validation[1], test[1]):
        mtl.losses.check_labels(TASKS, labels)
    print(
        f"training {len(training[1]['income']):,} rows, validation {len(validation[1]['income']):,}, "
        f"test {len(test[1]['income']):,}; " + ", ".join(f"{t} {training[1][t].mean():.1%}" for t in TASKS)
    )

    embedding = mtl.FeatureEmbedding(census_data.SPECS)
    embedding.adapt(training[0])  # once, for all models
    rows, models = run_architectures(embedding.features, training, validation, test, epochs=1 if arguments.quick else 6)
    chosen = max(models, key=lambda name: sum(rows[name]["validation"].values()))
    print(f"\n{table(rows)}\n\nchosen on validation: {chosen}\n")

    version = serving.export(
        models[chosen],
        output / "model",
        warmup={name: column[:64] for name, column in training[0].items()},
        batch_sizes=(1, 64),
    )
    expected = models[chosen].predict(census_data.batches(test[0]), verbose=0)
    answers = ask(output / "model", test[0], expected)
    scored, seconds = score(version, test[0], test[1], output)
    for task in TASKS:
        if abs(scored[task] - rows[chosen]["test"][task]) > 1e-6:
            raise SystemExit(f"scored AUC {scored[task]} of {task} differs from {rows[chosen]['test'][task]}")
    print(
        f"scored AUC equals the evaluated one: {scored}, {len(test[1]['income']) / seconds:,.0f} rows a second "
        "with start-up"
    )
    gates = draw_gates(models, census_data.batches(validation[0]), output / "gates.png")

    report = {
        "rows": {
            name: len(part[1]["income"])
            for name, part in (("training", training), ("validation", validation), ("test", test))
        },
        "results": rows,
        "chosen": chosen,
        "signatures": json.loads((version / "manifest.json").read_text())["signatures"],
        "answers": answers,
        "scored_auc": scored,
        "scoring_seconds": seconds,
        "gates": gates,
        "seconds": time.perf_counter() - started,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "mtl_layers": mtl.__version__},
    }
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"everything is in {output} after {report['seconds']:.0f} seconds: report.json, gates.png, scored.parquet")


if __name__ == "__main__":
    main()
