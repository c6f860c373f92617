"""Omniglot: twenty alphabets as tasks, eight levels of seven components.

    KERAS_BACKEND=jax python -m benchmarks.allocation.omniglot --data FOLDER        whole, on a GPU
    ... --reduced                                                                   four alphabets, small, on a CPU

FOLDER holds Omniglot's evaluation set, see omniglot_data.py: 20 alphabets at 105 x 105 pixels, 50 / 20 / 30 % of each
character's drawings to train, validate and test. They are not the paper's 20 alphabets, so its error rates are not to
be compared with these. The weights with the least validation error, of ten looks, are tested.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

import mtl_layers as mtl
from benchmarks.allocation import omniglot_data, trials
from benchmarks.allocation.fixed import fix
from benchmarks.allocation.task_heads import TaskHeads, compile_classifier
from benchmarks.allocation.task_stream import TaskStream, accuracies
from mtl_layers._keras import keras

PARTS, SHARES = ("train", "validation", "test"), (0.5, 0.2, 0.3)
VARIANTS = {"shared_bottom": "shared bottom", "gumbel_matrix": "Gumbel-Matrix"}
PAPER = {"shared_bottom": "6.75 ± 0.33", "gumbel_matrix": "6.48 ± 0.28"}


@dataclass(frozen=True)
class Setting:
    """The paper's, as far as it is stated; `rounds` are batches of each task."""

    alphabets: int = 20
    size: int = 105
    strides: tuple = (2, 1, 2, 1, 2, 1, 2, 2)
    filters: int = 48
    groups: int = 8
    rounds: int = 10_000
    batch: int = 16
    window: int = 25
    learning_rate: float = 1e-4
    dropout: float = 0.5
    l2: float = 3e-4
    p_init: float = 0.97
    looks: int = 10  # at the validation error


REDUCED = Setting(4, 28, (2, 2, 2), filters=8, groups=2, rounds=400, learning_rate=1e-3)
QUICK = replace(REDUCED, alphabets=2, strides=(2, 2), filters=2, groups=1, rounds=2, window=1, looks=2)


def components(setting, stride):
    """The seven components of a level."""
    layers = keras.layers

    def twice(first, second):
        parts = []
        for size, step in ((first, stride), (second, 1)):
            regularizer = keras.regularizers.L2(setting.l2)
            parts += [
                layers.Conv2D(setting.filters, size, step, "same", kernel_regularizer=regularizer),
                layers.GroupNormalization(setting.groups),
                layers.ReLU(),
            ]
        return keras.Sequential(parts)

    return [
        twice(3, 3),
        twice(5, 5),
        twice(7, 7),
        twice((1, 7), (7, 1)),
        layers.MaxPooling2D(3, stride, "same"),
        layers.AveragePooling2D(3, stride, "same"),
        layers.MaxPooling2D(1, stride, "same"),  # identity, which leaves rows and columns out where there is a stride
    ]


def build(setting, classes, variant, seed):
    """The compiled model and its GumbelMatrix."""
    layers, levels = keras.layers, len(setting.strides)
    norms = [keras.Sequential([layers.GroupNormalization(setting.groups), layers.ReLU()]) for _ in range(levels)]
    norms[-1].add(layers.Flatten())
    layer = mtl.GumbelMatrix(
        len(classes),
        components=[components(setting, stride) for stride in setting.strides],
        after=norms,
        p_init=setting.p_init,
        allow_empty=True,
        seed=seed,
    )
    images = keras.Input((setting.size, setting.size, 1), dtype="uint8", name="images")
    task = keras.Input((), dtype="int32", name="task")
    shared = layers.Conv2D(setting.filters, 1)(layers.Rescaling(1 / 255)(images))
    hidden = layers.Dropout(setting.dropout)(layer(shared, task=task))
    model = keras.Model({"images": images, "task": task}, TaskHeads(classes)(hidden, task=task))
    if variant == "shared_bottom":
        fix(layer, [np.ones((len(classes), 7), bool)] * levels)
    compile_classifier(model, setting.learning_rate, setting.window)
    return model, layer


def measure(setting, alphabets, variant, seed):
    tasks = {part: [] for part in PARTS}
    for images, labels in alphabets.values():
        for part, rows in zip(PARTS, omniglot_data.split(labels, SHARES), strict=True):
            tasks[part].append((images[rows][..., None], labels[rows]))
    model, layer = build(setting, [int(labels.max()) + 1 for _, labels in alphabets.values()], variant, seed)
    stream, losses, best = TaskStream(tasks["train"], setting.batch, seed), [], (0.0, None)
    for _ in range(setting.looks):
        losses += stream.fit(model, setting.rounds // setting.looks, setting.window)
        accuracy = float(np.mean(accuracies(model, tasks["validation"], 100)))
        if accuracy > best[0] or best[1] is None:
            best = (accuracy, model.get_weights())
    model.set_weights(best[1])
    matrices = layer.allocation()
    embeddings = mtl.analysis.task_embeddings(layer)
    return {
        "tasks": list(alphabets),
        "validation": best[0],
        "accuracies": accuracies(model, tasks["test"], 100),
        "active": float(np.mean([each.mean() for each in matrices])),
        "allocation": [each.astype(int).tolist() for each in matrices],
        "embeddings": len(set(mtl.analysis.task_clusters(embeddings))),
        "losses": losses,
    }


def main(arguments=None):
    parser = trials.parser("omniglot", __doc__, seeds=10)
    parser.add_argument("--data", type=Path, required=True, help="folder with Omniglot's evaluation set")
    parser.add_argument("--reduced", action="store_true", help="four alphabets and a small network: for a CPU")
    options = parser.parse_args(arguments)
    setting = QUICK if options.quick else REDUCED if options.reduced else Setting()
    alphabets = omniglot_data.load(options.data, setting.size, setting.alphabets)
    kind = "quick" if options.quick else "reduced" if options.reduced else "whole"
    measured = lambda problem, variant, seed: measure(setting, alphabets, variant, seed)  # noqa: E731
    settings = {**asdict(setting), "strides": list(setting.strides)}
    rows = trials.run(options, [kind], VARIANTS, settings, measured)

    lines, numbers = [], {"setting": settings, "seeds": options.seeds}
    for variant, title in VARIANTS.items():
        mine = trials.of(rows, kind, variant)
        errors = [100 * (1 - np.mean(row["accuracies"])) for row in mine]
        numbers[variant] = {name: [row[name] for row in mine] for name in ("validation", "active", "embeddings")}
        numbers[variant]["error"] = errors
        means = [np.mean(numbers[variant][name]) for name in ("active", "embeddings")]
        spread = f"{np.mean(errors):.2f} ± {np.std(errors, ddof=len(errors) > 1):.2f}"
        lines.append([title, spread, f"{100 * means[0]:.0f}", f"{means[1]:.1f}", PAPER[variant]])
    learned = trials.of(rows, kind, "gumbel_matrix")[0]
    figure, axes = trials.plt.subplots(1, 2, figsize=(16, 6), layout="constrained")
    embeddings = np.concatenate(learned["allocation"], axis=1)
    mtl.analysis.plot_task_clusters(embeddings, learned["tasks"], axes[0], "cosine of task embeddings: seed 0")
    mtl.analysis.plot_allocation(learned["allocation"], learned["tasks"], axes[1], "allocation: seed 0")
    trials.report(
        options,
        rows,
        f"Omniglot, {len(alphabets)} alphabets ({kind} setting)",
        ["", "test error, %", "active, %", "distinct embeddings", "paper, other alphabets: test error, %"],
        lines,
        f"Mean of the tasks; ± standard deviation over {options.seeds} seeds.",
        numbers,
        figure,
    )


if __name__ == "__main__":
    main()
