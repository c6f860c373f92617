"""What an unrelated task does to two tasks: what hard sharing loses, and sparse sharing keeps.

    python -m benchmarks.allocation.sparse_sharing [--seeds 10] [--quick]

The two tasks of Census-Income, and two synthetic ones at p = 1 (the same but for noise) and p = 0 (unrelated); the
third task, the stranger, is whether two random functions of the features have one sign. All share one base network of
one layer. Data and procedures are those of benchmarks.quality, with a small network and, of Census-Income, a part of
the rows, so that tasks compete. The last panel of the figure sets the overlap of two tasks' masks against what sparse
sharing gains. TensorFlow only.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import functools
from dataclasses import replace

import numpy as np
from scipy import stats

from benchmarks.allocation import trials
from benchmarks.quality import datasets, procedures
from benchmarks.quality.encoding import encode
from benchmarks.quality.methods import METHODS
from benchmarks.quality.training import Problem, Settings

STRANGER = "stranger"
PROBLEMS = {
    "synthetic, p = 1": "synthetic:p=1,d=10",
    "synthetic, p = 0": "synthetic:p=0,d=10",
    "Census-Income": "census",
}
ROWS, EPOCHS = {"synthetic": 8_000, "census": 20_000}, {"synthetic": 20, "census": 16}
VARIANTS = {
    "hard": "hard sharing",
    "hard_with": "hard sharing, with the stranger",
    "sparse": "sparse sharing",
    "sparse_with": "sparse sharing, with the stranger",
}
ROW = {"hard": "shared_bottom", "sparse": "sparse_sharing"}  # of benchmarks.quality
PRUNING = {"prune_rate": 0.3, "final_kept": 0.2}
QUICK_PRUNING = {"prune_rate": 0.5, "final_kept": 0.5}
SETTINGS = Settings(2e-3, 0.0, 0.0)
WIDTH = {"synthetic": 16, "census": 8}


@functools.lru_cache(maxsize=1)
def problem_of(name, seed, quick):
    """The data of a seed with its two tasks, and with the third as well."""
    dataset = datasets.load(PROBLEMS[name], None, seed)
    kind = PROBLEMS[name].partition(":")[0]
    dataset = replace(dataset, layers=1).thinned(*((500, 1) if quick else (ROWS[kind], EPOCHS[kind])))
    problem = Problem(dataset, encode(dataset))
    return problem, with_stranger(problem, seed), WIDTH[kind]


def with_stranger(problem, seed):
    """The same rows with a third task, which has the same features and nothing else in common with the others."""
    random = np.random.default_rng([seed, 5])
    encoded = problem.encoded
    tables = random.normal(size=(2, encoded.table_rows))
    numbers = encoded.inputs["train"].get("numbers")
    directions = random.normal(size=(2, 0 if numbers is None else numbers.shape[1]))
    labels = {}
    for part, inputs in encoded.inputs.items():
        values = np.zeros((2, len(next(iter(inputs.values())))))
        if "ids" in inputs:
            values += tables[:, inputs["ids"]].sum(axis=-1)
        if "numbers" in inputs:
            values += directions @ inputs["numbers"].T
        middle = np.median(values, axis=1, keepdims=True)
        labels[part] = {**encoded.labels[part], STRANGER: (np.prod(values - middle, axis=0) > 0).astype("float32")}
    dataset = problem.dataset
    dataset = replace(dataset, labels={**dataset.labels, STRANGER: None}, kinds={**dataset.kinds, STRANGER: "binary"})
    return Problem(dataset, replace(encoded, labels=labels))


def measure(quick, name, variant, seed):
    """Test scores of the two tasks, and what the masks are like."""
    two, three, width = problem_of(name, seed, quick)
    problem = three if variant.endswith("_with") else two
    method = METHODS[ROW[variant.removesuffix("_with")]]
    if method.train is procedures.pruned:
        options = QUICK_PRUNING if quick else PRUNING
    else:  # as many epochs on all tasks as sparse sharing has with its warm-up
        options = {}
        epochs = round((1 + procedures.SHORT) * problem.dataset.epochs)
        problem = Problem(replace(problem.dataset, epochs=epochs), problem.encoded)
    trained = method.train(problem, method, width, SETTINGS, seed, **options)
    scores = problem.scores(trained.predictions["test"], "test")
    return {
        "metric": {task: scores["metric"][task] for task in two.tasks},
        "loss": sum(scores["loss"][task] for task in two.tasks),
        "stranger": scores["metric"].get(STRANGER),
        "work": trained.work,
        **trained.extra,
    }


def main(arguments=None):
    options = trials.parser("sparse_sharing", __doc__, seeds=10).parse_args(arguments)
    settings = {"learning_rate": SETTINGS.learning_rate, "width": WIDTH, "rows": ROWS, "epochs": EPOCHS, **PRUNING}
    problems = list(PROBLEMS)[: 1 if options.quick else None]
    rows = trials.run(options, problems, VARIANTS, settings, lambda *trial: measure(options.quick, *trial))

    lines, points, numbers = [], [], {"seeds": options.seeds, "settings": settings}
    figure, axes = trials.plt.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
    for place, problem in zip(axes, problems, strict=False):
        losses = {variant: np.array([row["loss"] for row in trials.of(rows, problem, variant)]) for variant in VARIANTS}
        differences = {
            "the stranger costs hard sharing": losses["hard_with"] - losses["hard"],
            "the stranger costs sparse sharing": losses["sparse_with"] - losses["sparse"],
            "sparse below hard": losses["hard"] - losses["sparse"],
            "sparse below hard, with the stranger": losses["hard_with"] - losses["sparse_with"],
        }
        numbers[problem] = {
            "loss": {variant: [float(x) for x in trials.interval(each)] for variant, each in losses.items()},
            "difference": {name: [float(x) for x in trials.interval(each)] for name, each in differences.items()},
        }
        for variant, title in VARIANTS.items():
            metrics = [list(row["metric"].values()) for row in trials.of(rows, problem, variant)]
            cells = [trials.number(each, 4) for each in np.transpose(metrics)]
            lines.append([f"{problem}: {title}", *cells, trials.number(losses[variant], 4)])
        lines += [[f"{problem}: {name}", "", "", trials.number(each, 4)] for name, each in differences.items()]
        for height, variant in enumerate(VARIANTS):
            mean, half = trials.interval(losses[variant])
            place.plot(losses[variant], [height] * options.seeds, ".", color="0.75")
            place.errorbar(mean, height, xerr=half, fmt="o", color="C0", capsize=3)
        place.set(title=problem, xlabel="summed loss of the two tasks")
        place.set_yticks(range(len(VARIANTS)), VARIANTS.values() if place is axes[0] else [])
        place.invert_yaxis()
        overlaps = [row["overlap"] for row in trials.of(rows, problem, "sparse")]
        numbers[problem]["overlap"] = overlaps
        gains = 100 * differences["sparse below hard"] / losses["hard"]
        points += zip(overlaps, gains, strict=True)
        axes[-1].plot(overlaps, gains, "o", alpha=0.6, label=problem)
    axes[-1].set(xlabel="mask overlap ratio of the two tasks", ylabel="loss below hard sharing's, %")
    axes[-1].axhline(0, color="0.4", linewidth=0.8)
    axes[-1].legend(fontsize=8)
    rank = float(stats.spearmanr(points)[0]) if len(points) > 2 else None
    numbers["rank_correlation_of_overlap_and_gain"] = rank
    trials.report(
        options,
        rows,
        "Sparse sharing and an unrelated task",
        ["", "first task", "second task", "summed loss"],
        lines,
        f"{options.seeds} seeds; test rows; ± half of the 90 % t-interval; differences paired by seed. The tasks' "
        "columns are the squared error (synthetic) or the AUC (income, never married), the last the sum of squared "
        "errors or of log losses, of the two tasks alone. Rank correlation of the overlap of masks and the gain over "
        f"hard sharing, over all trials: {'unknown' if rank is None else f'{rank:+.2f}'}.",
        numbers,
        figure,
    )


if __name__ == "__main__":
    main()
