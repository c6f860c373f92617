"""Positive and negative transfer: sharing helps two tasks that are one (p = 1) and hurts two strangers (p = 0).

    python -m benchmarks.allocation.transfer [--seeds 30] [--quick]

Four parallel components, two of one layer and two of two layers with 4 units; "shared bottom" gives all four to both
tasks, "no sharing" one of each kind to either, and a GumbelMatrix learns which. All that is compared is the allocation.
Every batch is new data; a curve shows its loss, the table that on rows put aside.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import mtl_layers as mtl
from benchmarks import synthetic_tasks
from benchmarks.allocation import trials
from benchmarks.allocation.fixed import fix
from mtl_layers._keras import BACKEND, keras

TASKS, DIM, UNITS = ("first", "second"), 128, 4
SETTINGS = {"steps": 4_000, "batch": 64, "learning_rate": 0.005, "window": 100, "test_rows": 10_000}
QUICK = {**SETTINGS, "steps": 4, "window": 2, "test_rows": 100}
FIXED = {"shared_bottom": np.ones((2, 4), bool), "no_sharing": np.array([[1, 0, 1, 0], [0, 1, 0, 1]], bool)}
VARIANTS = {
    "shared_bottom": "shared bottom",
    "no_sharing": "no sharing",
    "gumbel_matrix": "Gumbel-Matrix",
    "gumbel_matrix_budget": "Gumbel-Matrix, budget 0.5",
}
PROBLEMS = {"p=1": 1.0, "p=0": 0.0}


def build(variant, seed):
    """The compiled model and its layer."""
    dense = lambda: keras.layers.Dense(UNITS, "relu")  # noqa: E731
    components = [dense(), dense(), *(keras.Sequential([dense(), dense()]) for _ in range(2))]
    budget = 0.5 if variant == "gumbel_matrix_budget" else None
    layer = mtl.GumbelMatrix(2, components=components, budget=budget, seed=seed, allow_empty=True)
    inputs = keras.Input((DIM,))
    model = keras.Model(inputs, mtl.Towers(dict.fromkeys(TASKS, mtl.towers.Regression(())))(layer(inputs)))
    if variant in FIXED:
        fix(layer, [FIXED[variant]])
    return model, layer


def measure(settings, problem, variant, seed):
    """Trains on a stream of new rows; every variant sees the same ones."""
    random = np.random.default_rng(seed)
    directions = synthetic_tasks.directions(random, PROBLEMS[problem], DIM)

    def rows(count):
        x = random.normal(size=(count, DIM)).astype("float32")
        return x, {
            task: synthetic_tasks.labels(random, x, way[:, None]) for task, way in zip(TASKS, directions, strict=True)
        }

    model, layer = build(variant, seed)
    model.compile(
        keras.optimizers.Adam(settings["learning_rate"]),
        **mtl.losses.per_task(dict.fromkeys(TASKS, "mse")),
        steps_per_execution=settings["window"],
        jit_compile=BACKEND == "jax",
    )
    curve = []
    for _ in range(settings["steps"] // settings["window"]):
        x, y = rows(settings["window"] * settings["batch"])
        history = model.fit(x, y, batch_size=settings["batch"], shuffle=False, verbose=0).history
        curve.append(history["loss"][0] / len(TASKS))
    x, y = rows(settings["test_rows"])
    predicted = model.predict(x, batch_size=len(x), verbose=0)
    test = float(np.mean([np.mean((predicted[task] - y[task]) ** 2) for task in TASKS]))
    return {"test": test, "curve": curve, "allocation": [each.astype(int).tolist() for each in layer.allocation()]}


def main(arguments=None):
    options = trials.parser("transfer", __doc__, seeds=30).parse_args(arguments)
    settings = QUICK if options.quick else SETTINGS
    problems = list(PROBLEMS)[: 1 if options.quick else None]
    rows = trials.run(options, problems, VARIANTS, settings, lambda *trial: measure(settings, *trial))

    figure, axes = trials.plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    steps = np.arange(1, settings["steps"] // settings["window"] + 1) * settings["window"]
    lines, numbers = [], {"seeds": options.seeds, "settings": settings, "test": {}, "less_than_no_sharing": {}}
    for place, problem in zip(axes, problems, strict=False):
        tests = {variant: [row["test"] for row in trials.of(rows, problem, variant)] for variant in VARIANTS}
        gains = {variant: np.subtract(tests["no_sharing"], tests[variant]) for variant in VARIANTS}
        numbers["test"][problem] = {variant: [float(x) for x in trials.interval(v)] for variant, v in tests.items()}
        numbers["less_than_no_sharing"][problem] = {v: [float(x) for x in trials.interval(g)] for v, g in gains.items()}
        for color, variant in enumerate(VARIANTS):
            curves = [row["curve"] for row in trials.of(rows, problem, variant)]
            trials.draw_curve(place, steps, curves, VARIANTS[variant], f"C{color}")
            gain = "" if variant == "no_sharing" else trials.number(gains[variant])
            lines.append([f"{problem}, {VARIANTS[variant]}", trials.number(tests[variant]), gain])
        place.set(title=problem, xlabel="training step")
        place.grid(alpha=0.3)
    axes[0].set_ylabel("mean squared error")
    axes[0].legend()
    trials.report(
        options,
        rows,
        "Positive and negative transfer",
        ["", "mean squared error", "less than with no sharing"],
        lines,
        f"{options.seeds} trials; ± half of the 90 % t-interval; the second column paired by trial.",
        numbers,
        figure,
    )


if __name__ == "__main__":
    main()
