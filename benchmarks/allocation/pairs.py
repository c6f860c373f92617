"""Two pairs of tasks: do the tasks of a pair end on the same components, and the pairs on distinct ones?

    python -m benchmarks.allocation.pairs [--seeds 20] [--quick]

The tasks of a pair are the same but for their noise; the pairs have nothing in common. Four components of three hidden
layers, whose average is the prediction; a batch has the samples of one task. "No sharing" gives each task a component.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import mtl_layers as mtl
from benchmarks import synthetic_tasks
from benchmarks.allocation import trials
from benchmarks.allocation.fixed import fix
from mtl_layers._keras import BACKEND, keras

PAIR = np.array([0, 0, 1, 1])  # of each task
TASKS, DIM = len(PAIR), 128
SETTINGS = {"batches_per_task": 3_000, "batch": 64, "learning_rate": 0.01, "window": 100, "test_rows": 10_000}
QUICK = {**SETTINGS, "batches_per_task": 2, "window": 1, "test_rows": 100}
TITLES = {
    "no_sharing": "no sharing",
    "gumbel_matrix": "Gumbel-Matrix",
    "gumbel_matrix_budget": "Gumbel-Matrix, budget 0.5",
}


def build(variant, seed):
    """The model and its layer."""
    components = [
        keras.Sequential([*(keras.layers.Dense(16, "relu") for _ in range(3)), keras.layers.Dense(1)])
        for _ in range(TASKS)
    ]
    budget = 0.5 if variant == "gumbel_matrix_budget" else None
    layer = mtl.GumbelMatrix(TASKS, components=components, budget=budget, seed=seed, allow_empty=True)
    x, task = keras.Input((DIM,), name="x"), keras.Input((), dtype="int32", name="task")
    model = keras.Model({"x": x, "task": task}, layer(x, task=task))
    if variant == "no_sharing":
        fix(layer, [np.eye(TASKS, dtype=bool)])
    return model, layer


def measure(settings, problem, variant, seed):
    """Trains on a stream of new rows, batches of one task after another's; all variants see the same ones."""
    random = np.random.default_rng(seed)
    directions = synthetic_tasks.directions(random, 0.0, DIM)

    def batches(rounds, size):
        task = np.tile(np.repeat(np.arange(TASKS), size), rounds).astype("int32")
        x = random.normal(size=(len(task), DIM)).astype("float32")
        each = [synthetic_tasks.labels(random, x, direction[:, None]) for direction in directions]
        return {"x": x, "task": task}, np.where(PAIR[task, None] == 0, *each)

    model, layer = build(variant, seed)
    model.compile(
        keras.optimizers.Adam(settings["learning_rate"], global_clipnorm=1.0),
        "mse",
        steps_per_execution=settings["window"],
        jit_compile=BACKEND == "jax",
    )
    curve = []
    for _ in range(settings["batches_per_task"] // settings["window"]):
        x, y = batches(settings["window"], settings["batch"])
        history = model.fit(x, y, batch_size=settings["batch"], shuffle=False, verbose=0).history
        curve.append(history["loss"][0])
    x, y = batches(1, settings["test_rows"] // TASKS)
    test = float(np.mean((model.predict(x, batch_size=len(y), verbose=0) - y) ** 2))
    (allocation,) = layer.allocation()
    return {"test": test, "curve": curve, "allocation": allocation.astype(int).tolist(), **found(allocation)}


def found(allocation):
    """Whether the tasks of each pair have the same components, and whether those of the pairs differ, or all do."""
    first, second = (allocation[pair == PAIR] for pair in (0, 1))
    return {
        "together": bool((first == first[0]).all() and (second == second[0]).all()),
        "distinct": not (first[:, None] == second).all(axis=-1).any(),
        "disjoint": not (first.any(axis=0) & second.any(axis=0)).any(),
    }


def main(arguments=None):
    options = trials.parser("pairs", __doc__, seeds=20).parse_args(arguments)
    settings = QUICK if options.quick else SETTINGS
    rows = trials.run(options, ["pairs"], TITLES, settings, lambda *trial: measure(settings, *trial))

    figure, axes = trials.plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained", width_ratios=(2, 1, 1))
    steps = np.arange(1, settings["batches_per_task"] // settings["window"] + 1) * settings["window"]
    lines, numbers = [], {"seeds": options.seeds, "settings": settings}
    for color, variant in enumerate(TITLES):
        mine = trials.of(rows, "pairs", variant)
        tests = [row["test"] for row in mine]
        counts = {
            "together": sum(row["together"] for row in mine),
            "distinct": sum(row["distinct"] for row in mine),
            "disjoint": sum(row["disjoint"] for row in mine),
            "together_and_disjoint": sum(row["together"] and row["disjoint"] for row in mine),
        }
        numbers[variant] = {"test": [float(x) for x in trials.interval(tests)], **counts}
        lines.append([TITLES[variant], trials.number(tests), *(f"{n} of {len(mine)}" for n in counts.values())])
        trials.draw_curve(axes[0], steps, [row["curve"] for row in mine], TITLES[variant], f"C{color}")
    axes[0].set(xlabel="batches of each task", ylabel="mean squared error")
    axes[0].grid(alpha=0.3)
    axes[0].legend()
    names = ["A, first", "A, second", "B, first", "B, second"]
    for place, variant in zip(axes[1:], list(TITLES)[1:], strict=True):
        learned = [row["allocation"] for row in trials.of(rows, "pairs", variant)]
        cosine = np.mean([mtl.analysis.cosine_similarity(allocation) for allocation in learned], axis=0)
        numbers[variant]["mean_cosine"] = cosine.tolist()
        place.imshow(cosine, cmap="Blues", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(cosine):
            color = "white" if value > 0.6 else "black"
            place.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
        place.set_xticks(range(TASKS), names, rotation=90)
        place.set_yticks(range(TASKS), names)
        place.set_title(f"{TITLES[variant]}:\nmean cosine of allocations", fontsize=9)
    trials.report(
        options,
        rows,
        "Two pairs of tasks",
        ["", "mean squared error", "pairs together", "pairs distinct", "pairs disjoint", "together and disjoint"],
        lines,
        f"{options.seeds} trials; ± half of the 90 % t-interval. Pairs are together where the two tasks of "
        "each have the same components, distinct where no task has those of a task of the other pair, disjoint where "
        "no component serves both pairs.",
        numbers,
        figure,
    )


if __name__ == "__main__":
    main()
